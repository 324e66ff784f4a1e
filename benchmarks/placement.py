"""Random placement problems, and ways to solve them one request after the other.

A request wants one VNF, placed at any PoP that has room, and traffic from a tap to it over
one path with enough bandwidth. A placement costs what the bid of NFV-A would cost in the
empty network (dissertation, eq. 4.3 and 4.4, weights of algorithm 1, line 29): so prices are
fixed, and placements of different origin can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import combinations, pairwise, permutations

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.bidding import make_bids
from phalanx.auction.cost import Pricing, rsc_eval, rsc_eval_hop, smallest
from phalanx.auction.terms import rank
from phalanx.auction.view import NetworkView
from phalanx.domain.agents import AgentState
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.network import LinkState
from phalanx.domain.predicates import LinkRateLimited
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

VNFDS = (
    Vnfd("small", Resources(1, 1, 2)),
    Vnfd("middle", Resources(1, 2, 10)),
    Vnfd("large", Resources(2, 4, 10)),
)
NEEDS = smallest(VNFDS)
BY_COST = Preferences(time=0.0, cost=1.0, decentralisation=0.0)

LEFT_OUT = 1e5
"""Price of a request that is not placed: more than all that are."""
TIE = 1e-3
"""What a MB/s on a link counts beside the cost."""
VIEWS = 200
"""Views of one problem that are kept; past that all are forgotten."""
TOO_LITTLE = 1e-6
"""Gains up to this are arithmetic."""

Path = tuple[str, ...]
Edge = tuple[str, str]


class Request(Struct, frozen=True):
    """One goal to be placed."""

    vnfd: Vnfd
    tap: str
    mb_s: float
    hops: int
    """Most links on the path."""

    def goal(self) -> ConstrainedGoal:
        """Return it as it is auctioned."""
        wanted = want(LinkRateLimited(f"{self.tap}>any"))
        return ConstrainedGoal(wanted, Constraints(hops=self.hops), BY_COST, self.mb_s, self.tap)


class Problem(Struct, frozen=True):
    """A network and what is to be placed in it, in the order in which it is asked for."""

    states: tuple[AgentState, ...]
    requests: tuple[Request, ...]
    by_hops: bool = False
    """Whether a placement costs the MB/s that it puts on links instead."""

    @property
    def bandwidth(self) -> dict[Edge, float]:
        """MB/s of each link, once in each direction."""
        return {(s.agent, li.to): li.bandwidth_mb_s for s in self.states for li in s.links}

    def prices(self, request: Request) -> tuple[dict[Edge, float], dict[Edge, float]]:
        """Return the price of each link: as the first of a bidder's path, and as any other."""
        if self.by_hops:
            carried = dict.fromkeys(self.bandwidth, request.mb_s)
            return carried, carried
        hop = {s.agent: rsc_eval_hop(s.total, s.free, NEEDS) for s in self.states}
        own = {
            s.agent: rsc_eval(s.total, s.free, request.vnfd.requires, NEEDS) for s in self.states
        }
        first = {(a, b): mb_s * (own[a] + hop[b]) for (a, b), mb_s in self.bandwidth.items()}
        other = {(a, b): mb_s * (hop[a] + hop[b]) for (a, b), mb_s in self.bandwidth.items()}
        return first, other

    def cost(self, placed: dict[int, Path]) -> float:
        """Return what the paths of the requests in ``placed`` cost."""
        total = 0.0
        for number, path in placed.items():
            first, other = self.prices(self.requests[number])
            for place, edge in enumerate(pairwise(path)):
                total += other[edge] if place else first[edge]
        return total


def problem(rng: random.Random, pops: int, requests: int) -> Problem:
    """Draw a connected network with a mean degree of about three, and requests for it."""
    names = [f"pop{number:02d}" for number in range(pops)]
    ends = {(rng.randrange(i), i) for i in range(1, pops)}
    while len(ends) < 3 * pops // 2:
        a, b = sorted(rng.sample(range(pops), 2))
        ends.add((a, b))
    links: dict[str, list[LinkState]] = {name: [] for name in names}
    for a, b in sorted(ends):
        mb_s, latency_ms = rng.uniform(4, 12), rng.uniform(1, 20)
        links[names[a]].append(LinkState(names[b], mb_s, latency_ms, 0.0))
        links[names[b]].append(LinkState(names[a], mb_s, latency_ms, 0.0))
    room = [Resources(2, 4, 500), Resources(2, 6, 1000), Resources(4, 6, 400)]
    states = tuple(
        AgentState(name, name, 1, 1, total, total, tuple(links[name]))
        for name, total in ((name, rng.choice(room)) for name in names)
    )
    # Few taps: where an attack is, many functions are wanted at once.
    taps = rng.sample(names, max(2, pops // 6))
    wanted = tuple(
        Request(rng.choice(VNFDS), rng.choice(taps), rng.uniform(0.5, 2.0), rng.randint(2, 4))
        for _ in range(requests)
    )
    return Problem(states, wanted)


Choose = Callable[[list[tuple[str, Bid]]], Bid]
Placed = dict[int, Path]
Moves = list[tuple[int, Path]]


def cheapest(bids: list[tuple[str, Bid]]) -> Bid:
    """Return the winner of the auction."""
    return rank(bids, BY_COST)[0].bid


class Sequence:
    """Requests that are placed by one auction after the other, with the messages it takes."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.placed: Placed = {}
        self.messages = 0
        self.moves: Moves = []
        """What improvement has moved, in order."""
        self._views: dict[frozenset[tuple[int, Path]], NetworkView] = {}
        self._leasts: dict[tuple[int, frozenset[tuple[int, Path]]], tuple[float, Path | None]] = {}

    def run(self, choose: Choose = cheapest, pricing: Pricing = "published") -> Placed:
        """Place the requests one after the other; leave out those that no PoP can take."""
        for number in range(len(self.problem.requests)):
            bids = self.bids(number, self.placed, pricing)
            self.messages += _messages(len(self.problem.states), len(bids))
            if bids:
                self.placed[number] = choose(bids).path
        return self.placed

    def bids(self, number: int, placed: Placed, pricing: Pricing) -> list[tuple[str, Bid]]:
        """Return what agents bid for a request beside what is ``placed``."""
        view, request = self.view(placed), self.problem.requests[number]
        goal, found = request.goal(), []
        for state in view.states:
            answer = make_bids(
                view,
                state.agent,
                goal,
                VNFDS,
                [request.vnfd],
                state.free,
                {},
                state.agent,
                pricing=pricing,
            )
            if not isinstance(answer, str):
                found.append((state.agent, answer[0]))
        return found

    def view(self, placed: Placed) -> NetworkView:
        """Return the network that carries what is ``placed``."""
        key = frozenset(placed.items())
        known = self._views.get(key)
        if known is None:
            if len(self._views) > VIEWS:
                self._views.clear()
            states = {state.agent: state for state in self.problem.states}
            for number, path in placed.items():
                _allocate(states, self.problem.requests[number], path)
            known = self._views[key] = NetworkView.EMPTY.apply_all(states.values())
        return known

    # -- improvement after the award -------------------------------------------------------

    def improve(self, most: int, *, unbroken: bool) -> Placed:
        """Eject up to ``most`` requests at a time and auction them again, while that is cheaper.

        Bids are by total capacity, whatever is free, so that prices do not move with what they
        move. An agent asks the others once what they run for whom, then works out by its view
        what they would bid; only an exchange that pays is carried out, by auctions.

        Args:
            most: requests of one exchange.
            unbroken: every VNF that moves runs at its new place before the old one stops.

        """
        pops = len(self.problem.states)
        self.messages += 2 * pops
        alone = [self._least(n, {}) for n in range(len(self.problem.requests))]
        while (moves := self._exchange(alone, most, unbroken=unbroken)) is not None:
            for number, path in moves:
                bids = self.bids(number, self.placed, "capacity")
                self.messages += _messages(pops, len(bids)) + 2  # its auctioneer is asked, agrees
                self.placed[number] = path
            self.moves += moves
        return self.placed

    def _price(self, number: int, path: Path | None) -> float:
        """Return the cost; of two places that cost the same the one with less traffic counts."""
        if path is None:
            return LEFT_OUT
        carried = self.problem.requests[number].mb_s * (len(path) - 1)
        return self.problem.cost({number: path}) + TIE * carried

    def _least(self, number: int, placed: Placed) -> tuple[float, Path | None]:
        key = number, frozenset(placed.items())
        if key not in self._leasts:
            bids = self.bids(number, placed, "capacity")
            path = cheapest(bids).path if bids else None
            self._leasts[key] = self._price(number, path), path
        return self._leasts[key]

    def _exchange(
        self, alone: list[tuple[float, Path | None]], most: int, *, unbroken: bool
    ) -> Moves | None:
        """Return new places of some requests that cost less than the present ones, in order."""
        gains = {
            n: self._price(n, self.placed.get(n)) - alone[n][0]
            for n in range(len(alone))
            if self._price(n, self.placed.get(n)) - alone[n][0] > TOO_LITTLE
        }
        for size in range(1, most + 1):
            for first in sorted(gains, key=lambda n: -gains[n]):
                for others in combinations(self._in_the_way(first), size - 1):
                    found = self._auction_anew((first, *others), alone)
                    if found and (not unbroken or (found := self._in_order(found))):
                        return found
        return None

    def _in_the_way(self, number: int) -> list[int]:
        """Return the placed requests that use a PoP or a link of a cheaper bid for ``number``."""
        now = self._price(number, self.placed.get(number))
        bids = self.bids(number, {}, "capacity")
        cheaper = [bid.path for _, bid in bids if bid.terms["C"] < now - TOO_LITTLE]
        hosts = {path[0] for path in cheaper}
        links = {frozenset(edge) for path in cheaper for edge in pairwise(path)}
        return [
            other
            for other, path in self.placed.items()
            if other != number
            and (path[0] in hosts or any(frozenset(edge) in links for edge in pairwise(path)))
        ]

    def _auction_anew(
        self, ejected: tuple[int, ...], alone: list[tuple[float, Path | None]]
    ) -> Moves | None:
        before = sum(self._price(n, self.placed.get(n)) for n in ejected)
        if sum(alone[n][0] for n in ejected) >= before - TOO_LITTLE:
            return None
        rest = {n: path for n, path in self.placed.items() if n not in ejected}
        best = before - TOO_LITTLE
        found: Placed | None = None
        for order in permutations(ejected):
            placed, total = dict(rest), 0.0
            for number in order:
                cost, path = self._least(number, placed)
                total += cost
                if path is not None:
                    placed[number] = path
                if total >= best:
                    break
            else:
                best, found = total, {n: placed[n] for n in order if n in placed}
        if found is None or any(n in self.placed and n not in found for n in ejected):
            return None  # nothing that runs is given up
        return [(n, path) for n, path in found.items() if self.placed.get(n) != path]

    def _in_order(self, moves: Moves) -> Moves | None:
        """Return moves that each have room while the old place is kept, to the same end.

        Where two stand in each other's way one of them may be parked elsewhere first.
        """
        for order in permutations(moves):
            if self._is_open(order, self.placed):
                return list(order)
        for number, _ in moves:
            for _, bid in self.bids(number, self.placed, "capacity"):
                parked = {**self.placed, number: bid.path}
                for order in permutations(moves) if number in self.placed else ():
                    if self._is_open(order, parked):
                        return [(number, bid.path), *order]
        return None

    def _is_open(self, order: Iterable[tuple[int, Path]], placed: Placed) -> bool:
        placed = dict(placed)
        for number, path in order:
            if not self._fits(number, path, placed):
                return False
            placed[number] = path
        return True

    def _fits(self, number: int, path: Path, placed: Placed) -> bool:
        """Whether a request has room beside what is ``placed``, its own old place included."""
        view, request = self.view(placed), self.problem.requests[number]
        state = view.get(path[0])
        assert state is not None
        free = {(pop, arc[0]): arc[1] for pop in path for arc in view.outgoing[pop]}
        stays = number in placed and placed[number][0] == path[0]  # only its traffic moves
        return (stays or request.vnfd.requires.within(state.free)) and all(
            free[edge] >= request.mb_s - TOO_LITTLE for edge in pairwise(path)
        )


def _messages(bidders: int, proposals: int) -> int:
    """Return the messages of an auction: calls, answers, and award, rejections, result."""
    return 2 * bidders + (proposals + 1 if proposals else 0)


def _allocate(states: dict[str, AgentState], request: Request, path: Path) -> None:
    """Take what a request needs."""
    here = path[0]
    states[here] = replace(states[here], free=states[here].free - request.vnfd.requires)
    for to, sender in pairwise(path):  # traffic goes from the tap to the VNF
        links = tuple(
            replace(li, reserved_mb_s=li.reserved_mb_s + request.mb_s) if li.to == to else li
            for li in states[sender].links
        )
        states[sender] = replace(states[sender], links=links)
