"""Random placement problems, and ways to solve them one request after the other.

A request wants one VNF, placed at any PoP that has room, and traffic from a tap to it over
one path with enough bandwidth. A placement costs what the bid of NFV-A would cost in the
empty network (dissertation, eq. 4.3 and 4.4, weights of algorithm 1, line 29): so prices are
fixed, and placements of different origin can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.bidding import make_bids
from phalanx.auction.cost import rsc_eval, rsc_eval_hop, smallest
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

    @property
    def bandwidth(self) -> dict[Edge, float]:
        """MB/s of each link, once in each direction."""
        return {(s.agent, li.to): li.bandwidth_mb_s for s in self.states for li in s.links}

    def prices(self, request: Request) -> tuple[dict[Edge, float], dict[Edge, float]]:
        """Return the price of each link: as the first of a bidder's path, and as any other."""
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


def cheapest(bids: list[tuple[str, Bid]]) -> Bid:
    """Return the winner of the auction."""
    return rank(bids, BY_COST)[0].bid


def in_sequence(problem: Problem, choose: Choose, *, fixed_prices: bool = False) -> dict[int, Path]:
    """Place the requests one after the other; leave out those that no PoP can take.

    Args:
        problem: what to place where.
        choose: picks one of the bids.
        fixed_prices: choose by the prices of the empty network instead of those in the bids,
            which change with what is placed.

    """
    states = {state.agent: state for state in problem.states}
    view = NetworkView.EMPTY.apply_all(states.values())
    placed: dict[int, Path] = {}
    for number, request in enumerate(problem.requests):
        bids: list[tuple[str, Bid]] = []
        for pop, state in states.items():
            answer = make_bids(
                view, pop, request.goal(), VNFDS, [request.vnfd], state.free, {}, pop
            )
            if not isinstance(answer, str):
                bid = answer[0]
                if fixed_prices:
                    bid = replace(bid, terms={**bid.terms, "C": problem.cost({number: bid.path})})
                bids.append((pop, bid))
        if bids:
            path = placed[number] = choose(bids).path
            view = view.apply_all(_allocated(states, request, path))
    return placed


def _allocated(states: dict[str, AgentState], request: Request, path: Path) -> list[AgentState]:
    """Take what a request needs; return the states that changed."""
    here = path[0]
    states[here] = replace(states[here], free=states[here].free - request.vnfd.requires)
    for to, sender in pairwise(path):  # traffic goes from the tap to the VNF
        links = tuple(
            replace(li, reserved_mb_s=li.reserved_mb_s + request.mb_s) if li.to == to else li
            for li in states[sender].links
        )
        states[sender] = replace(states[sender], links=links)
    for pop in path:
        states[pop] = replace(states[pop], version=states[pop].version + 1)
    return [states[pop] for pop in path]
