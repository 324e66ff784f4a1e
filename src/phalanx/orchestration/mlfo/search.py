"""Branch and bound: the cheapest placement, or a good one with a proven bound.

A node of the tree forbids sites to VNFs and forces agents at sites. Its bound is that of
``bound``, begun from the prices of its parent; the nodes with the lowest bound come first. A
node branches on the site whose agent the parts agree on least, and where they agree on all
sites, on the VNF with the most sites left.

A lower bound on the cost of a placement, by Lagrangian decomposition.

Each VNF pays a price λ_vs ≥ 0 for the agent at s. With x ≤ y in the objective, weighted by λ,
the problem falls apart into parts that are easy alone:

- a site opens if what the VNFs pay for it is more than it costs; of them it takes the
  ``room_s`` that pay most;
- the VNFs choose sites by serving cost, price and the distance of their neighbours: exact
  dynamic programming if the pairs form a forest. Other graphs are cut into forests, which
  share a VNF's costs and agree on it by prices μ of their own (dual decomposition).

The sum of the parts' minima is a bound for any λ and μ; subgradient steps with Polyak's length
raise it. What a part adds when a VNF is held at a site (its min-marginal) shows most sites
to be too dear, and they are dropped: what is left is small.

Sources: M. L. Fisher, The Lagrangian relaxation method for solving integer programming
problems, Management Science 27(1), 1981; N. Komodakis, N. Paragios, G. Tziritas, MRF energy
minimization and beyond via dual decomposition, IEEE TPAMI 33(3), 2011.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from itertools import count

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.orchestration.mlfo.model import Floats, Places, Problem

Mask = NDArray[np.bool_]


class Forest(Struct, frozen=True):
    """Some of the pairs, without a cycle."""

    members: tuple[int, ...]
    """VNFs in it."""
    roots: tuple[int, ...]
    links: tuple[tuple[int, int], ...]
    """(child, parent), children of children first."""


def forests(vnfs: int, edges: tuple[tuple[int, int], ...]) -> tuple[Forest, ...]:
    """Return forests that have each of the ``edges`` once; the first has all VNFs."""
    found: list[Forest] = []
    left = list(edges)
    while left or not found:
        part = list(range(vnfs))
        beside: dict[int, list[int]] = {} if found else {v: [] for v in range(vnfs)}
        rest = []
        for a, b in left:
            if part[a] == part[b]:
                rest.append((a, b))
                continue
            part = [part[b] if p == part[a] else p for p in part]
            beside.setdefault(a, []).append(b)
            beside.setdefault(b, []).append(a)
        found.append(_rooted(beside))
        left = rest
    return tuple(found)


def _rooted(beside: dict[int, list[int]]) -> Forest:
    roots, links, seen = [], [], set[int]()
    for start in beside:
        if start in seen:
            continue
        roots.append(start)
        seen.add(start)
        open_ = [start]
        while open_:
            parent = open_.pop()
            for child in beside[parent]:
                if child not in seen:
                    seen.add(child)
                    links.append((child, parent))
                    open_.append(child)
    return Forest(tuple(beside), tuple(roots), tuple(reversed(links)))


class Prices(Struct, frozen=True):
    """The multipliers."""

    sites: Floats
    """λ, [V, S]."""
    agreement: Floats
    """μ, [forests, V, S]; sums to 0 over the forests."""


class Evaluation(Struct, frozen=True):
    """What some prices give."""

    value: float
    """The bound."""
    chosen: Floats
    """[V, S] share of the forests that choose the site for the VNF."""
    choices: tuple[Places, ...]
    """What each forest chooses; -1 where a VNF is not in it."""
    taken: Mask
    """[V, S] whether the site's part takes the VNF."""
    held: Floats
    """[V, S] how much the bound rises at least if the VNF is held at the site."""


class Relaxation:
    """The decomposed problem over some of its sites, with some sites forbidden or forced."""

    def __init__(self, problem: Problem, split: tuple[Forest, ...], too_much: float) -> None:
        self._room = problem.room
        self._opening = problem.opening
        self._serving = np.where(np.isfinite(problem.serving), problem.serving, too_much)
        self._pairs = np.where(np.isfinite(problem.pairs), problem.pairs, too_much)
        self._too_much = too_much
        self._split = split
        shares = np.zeros((len(split), len(problem.serving)))
        for number, forest in enumerate(split):
            shares[number, list(forest.members)] = 1.0
        self.member = shares > 0
        self._open: Places = np.arange(len(self._opening))
        self._open_pairs = self._pairs
        self._shares = shares / shares.sum(axis=0)

    def fresh(self) -> Prices:
        """Return prices to begin with: each VNF pays its share of a full agent."""
        fair = self._opening / np.maximum(1, np.minimum(self._room, len(self._serving)))
        sites = np.repeat(fair[None, :], len(self._serving), axis=0)
        return Prices(sites, np.zeros((len(self._split), *self._serving.shape)))

    def evaluate(self, prices: Prices, allowed: Mask, forced: Mask) -> Evaluation:
        """Return the bound of ``prices``.

        Args:
            prices: the multipliers.
            allowed: [V, S] the sites that VNFs may still choose; each at least one.
            forced: [S] the sites that have an agent whether it pays or not.

        """
        paid = np.where(allowed, prices.sites, 0.0)
        value, taken, held = self._sites(paid, forced)
        base = np.where(allowed, self._serving, self._too_much) + paid
        chosen = np.zeros_like(base)
        choices = []
        open_ = np.flatnonzero(allowed.any(axis=0))
        pairs = self._among(open_)
        for number, forest in enumerate(self._split):
            costs = base * self._shares[number][:, None] + prices.agreement[number]
            best, found, added = _choose(forest, costs[:, open_], pairs)
            value += best
            held[:, open_] += added
            members = np.array(forest.members)
            places = np.full(len(base), -1, dtype=np.int64)
            places[members] = open_[found[members]]
            choices.append(places)
            chosen[members, places[members]] += self._shares[number][members]
        return Evaluation(value, chosen, tuple(choices), taken, held)

    def _sites(self, paid: Floats, forced: Mask) -> tuple[float, Mask, Floats]:
        """Return the minimum of the sites' parts, who is taken, and what holding adds."""
        order = np.argsort(-paid, axis=0, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(len(paid))[:, None], axis=0)
        within = rank < self._room
        last = np.take_along_axis(
            np.take_along_axis(paid, order, axis=0),
            np.clip(self._room - 1, 0, len(paid) - 1)[None, :],
            axis=0,
        )
        opened = self._opening - np.where(within, paid, 0.0).sum(axis=0)
        values = np.where(forced, opened, np.minimum(0.0, opened))
        taken = within & (forced | (opened < 0.0)) & (paid > 0.0)
        held = opened - values + np.where(within, 0.0, last - paid)
        return float(values.sum()), taken, held

    def _among(self, sites: Places) -> Floats:
        """Return the costs of pairs among ``sites``; most calls ask for the same again."""
        if not np.array_equal(sites, self._open):
            self._open, self._open_pairs = sites, self._pairs[np.ix_(sites, sites)]
        return self._open_pairs


def _choose(forest: Forest, costs: Floats, pairs: Floats) -> tuple[float, Places, Floats]:
    """Return the minimum of a forest, its choice, and what holding each VNF at each site adds."""
    up = costs.copy()
    told: dict[int, Floats] = {}
    for child, parent in forest.links:
        told[child] = (pairs + up[child]).min(axis=1)
        up[parent] += told[child]
    places = np.full(len(costs), -1, dtype=np.int64)
    held = np.zeros_like(costs)
    marginal = up  # of the roots already; below, of all
    best = 0.0
    for root in forest.roots:
        places[root] = int(marginal[root].argmin())
        best += float(marginal[root, places[root]])
        held[root] = marginal[root] - marginal[root, places[root]]
    for child, parent in reversed(forest.links):
        places[child] = int((pairs[places[parent]] + up[child]).argmin())
        others = marginal[parent] - told[child]
        marginal[child] = up[child] + (pairs + others).min(axis=1)
        held[child] = marginal[child] - marginal[child].min()
    return best, places, held


def stepped(prices: Prices, found: Evaluation, target: float, scale: float, member: Mask) -> Prices:
    """Return the prices after one step towards a bound of ``target`` (Polyak)."""
    slope = found.chosen - found.taken
    disagree = np.zeros_like(prices.agreement)
    if len(found.choices) > 1:
        for number, places in enumerate(found.choices):
            inside = np.flatnonzero(member[number])
            disagree[number, inside, places[inside]] += 1.0
            disagree[number, inside] -= found.chosen[inside]
    norm = float((slope * slope).sum() + (disagree * disagree).sum())
    if norm == 0.0:
        return prices
    step = scale * max(target - found.value, 1e-9) / norm
    return Prices(np.maximum(0.0, prices.sites + step * slope), prices.agreement + step * disagree)


class LocalSearch:
    """Moves one VNF, or all VNFs of an agent, as long as that makes a placement cheaper.

    A broken limit costs ``too_much``, so that a start that breaks some is mended where moves
    can mend it.
    """

    def __init__(self, problem: Problem, too_much: float) -> None:
        self._opening = problem.opening
        self._room = problem.room
        self._too_much = too_much
        self._serving = np.where(np.isfinite(problem.serving), problem.serving, too_much)
        self._pairs = np.where(np.isfinite(problem.pairs), problem.pairs, too_much)
        self._beside: list[list[int]] = [[] for _ in problem.serving]
        for a, b in problem.edges:
            self._beside[a].append(b)
            self._beside[b].append(a)

    def improved(self, start: Places) -> Places:
        """Return a placement that no move makes cheaper."""
        places = start.copy()
        counts = np.bincount(places, minlength=len(self._opening))
        # Every round makes the placement cheaper, so this ends.
        while self._single(places, counts) or self._together(places, counts):
            pass
        return places

    def greedy(self) -> Places:
        """Return a placement to begin with: VNF by VNF, each where it is cheapest then."""
        places = np.full(len(self._serving), -1, dtype=np.int64)
        counts = np.zeros(len(self._opening), dtype=np.int64)
        for vnf in range(len(places)):
            costs = self._serving[vnf] + self._agents(counts, 1)
            for other in self._beside[vnf]:
                if places[other] >= 0:
                    costs = costs + self._pairs[places[other]]
            places[vnf] = int(costs.argmin())
            counts[places[vnf]] += 1
        return places

    def _agents(self, counts: Places, more: int) -> Floats:
        """Return what the sites cost with ``more`` VNFs above what they cost now."""
        after = counts + more
        before = np.maximum(0, counts - self._room)
        over = np.maximum(0, after - self._room) - before
        opened = np.where((counts == 0) & (after > 0), self._opening, 0.0)
        return np.asarray(opened + self._too_much * over)

    def _single(self, places: Places, counts: Places) -> bool:
        moved = False
        for vnf in range(len(places)):
            here = int(places[vnf])
            counts[here] -= 1
            costs = self._serving[vnf] + self._agents(counts, 1)
            for other in self._beside[vnf]:
                costs = costs + self._pairs[places[other]]
            there = int(costs.argmin())
            if costs[there] < costs[here] - 1e-9 * (1.0 + abs(costs[here])):
                places[vnf] = here = there
                moved = True
            counts[here] += 1
        return moved

    def _together(self, places: Places, counts: Places) -> bool:
        moved = False
        for here in np.unique(places):
            group = np.flatnonzero(places == here)
            inside = set(group.tolist())
            counts[here] -= len(group)
            costs = self._serving[group].sum(axis=0) + self._agents(counts, len(group))
            for vnf in group:
                for other in self._beside[vnf]:
                    if other not in inside:
                        costs = costs + self._pairs[places[other]]
            there = int(costs.argmin())
            if costs[there] >= costs[here] - 1e-9 * (1.0 + abs(costs[here])):
                there = int(here)
            places[group] = there
            counts[there] += len(group)
            moved = moved or there != here
        return moved


PROVEN = 1e-6
"""A relative gap up to this is an optimum: the rest is rounding."""
_ROOT_STEPS = 400
_NODE_STEPS = 60
_PATIENCE = 12
_UNDECIDED = 0.02
_REMEMBERED = 50_000


class Effort(Struct, frozen=True):
    """When the search gives up proving."""

    seconds: float | None = 10.0
    """By ``now``; None: no limit, and the result does not depend on the machine's speed."""
    nodes: int = 5_000
    now: Callable[[], float] = time.perf_counter


USUAL_EFFORT = Effort()


class SearchResult(Struct, frozen=True):
    """What the search found."""

    places: Places | None
    """For each VNF the number of its agent's site; None: none that keeps all limits."""
    objective: float
    """Its cost; infinite without one."""
    bound: float
    """No placement costs less; infinite if it is proven that there is none."""
    nodes: int

    @property
    def optimal(self) -> bool:
        """Whether nothing cheaper exists, up to rounding."""
        return self.places is not None and self.gap <= PROVEN

    @property
    def gap(self) -> float:
        """Proven most that the cost is above the optimum, relative to it."""
        if self.objective <= self.bound:
            return 0.0
        return (self.objective - self.bound) / self.bound if self.bound > 0 else math.inf


class _Node(Struct):
    bound: float
    allowed: Mask
    forced: Mask
    prices: Prices


def solve(
    problem: Problem, effort: Effort = USUAL_EFFORT, start: Places | None = None
) -> SearchResult:
    """Return the cheapest placement that was found, and the bound that was proven.

    Args:
        problem: what is to be placed.
        effort: when to give up proving.
        start: a placement to begin with, such as the one that runs.

    """
    return _Search(problem, effort).run(start)


class _Search:
    def __init__(self, problem: Problem, effort: Effort) -> None:
        allowed = np.isfinite(problem.serving)
        self._sites = np.flatnonzero(allowed.any(axis=0))
        self._problem = _only(problem, self._sites)
        self._effort = effort
        self._too_much = self._problem.too_much
        self._split: tuple[Forest, ...] = forests(len(problem.serving), problem.edges)
        self._local = LocalSearch(self._problem, self._too_much)
        self._best: Places | None = None
        self._cost = math.inf
        self._tried: set[bytes] = set()
        self._nodes = 0
        self._begun = effort.now()

    def run(self, start: Places | None) -> SearchResult:
        allowed = np.isfinite(self._problem.serving)
        if not allowed.any(axis=1).all():
            return SearchResult(None, math.inf, math.inf, 0)
        relaxation = Relaxation(self._problem, self._split, self._too_much)
        self._try(self._local.greedy())
        if start is not None and np.isin(start, self._sites).all():
            self._try(np.searchsorted(self._sites, start))
        forced = np.zeros(len(self._sites), dtype=bool)
        root = _Node(0.0, allowed, forced, relaxation.fresh())
        order = count()
        open_: list[tuple[float, int, _Node]] = [(0.0, next(order), root)]
        while open_ and open_[0][0] < self._enough() and not self._spent():
            node = heapq.heappop(open_)[2]
            for child in self._branches(node, relaxation):
                heapq.heappush(open_, (child.bound, next(order), child))
        bound = min(self._enough(), open_[0][0]) if open_ else self._enough()
        best = None if self._best is None else self._sites[self._best]
        return SearchResult(best, self._cost, bound, self._nodes)

    def _spent(self) -> bool:
        late = self._effort.seconds is not None and (
            self._effort.now() - self._begun > self._effort.seconds
        )
        return self._nodes > 0 and (late or self._nodes >= self._effort.nodes)

    def _enough(self) -> float:
        """Return the bound from which a node cannot hold anything cheaper."""
        return self._cost - 0.5 * PROVEN * abs(self._cost) if self._best is not None else math.inf

    def _try(self, places: Places) -> None:
        key = places.tobytes()
        if key in self._tried:
            return
        if len(self._tried) > _REMEMBERED:
            self._tried.clear()
        self._tried.add(key)
        better = self._local.improved(places)
        self._tried.add(better.tobytes())
        cost = self._problem.cost(better)
        if cost < self._cost:
            self._cost, self._best = cost, better

    def _branches(self, node: _Node, whole: Relaxation) -> list[_Node]:
        """Raise the bound of ``node``; return what it falls apart into."""
        self._nodes += 1
        steps = _ROOT_STEPS if self._nodes == 1 else _NODE_STEPS
        found = self._ascend(node, whole, steps)
        if found is None:
            return []
        usage, last = found
        sites = node.allowed.sum(axis=1)
        if (sites == 1).all():
            self._try(node.allowed.argmax(axis=1))
            return []
        split = np.abs(usage - 0.5)
        split[node.forced | ~node.allowed.any(axis=0)] = 1.0
        site = int(split.argmin())
        without, with_ = node.allowed.copy(), node.allowed.copy()
        if split[site] < 0.5 - _UNDECIDED:
            without[:, site] = False
            forced = node.forced.copy()
            forced[site] = True
            return [
                _Node(node.bound, without, node.forced, node.prices),
                _Node(node.bound, with_, forced, node.prices),
            ]
        vnf = int(sites.argmax())
        place = int(last.choices[0][vnf])
        if not node.allowed[vnf, place]:  # dropped since
            place = int(node.allowed[vnf].argmax())
        without[vnf, place] = False
        with_[vnf] = False
        with_[vnf, place] = True
        return [
            _Node(node.bound, without, node.forced, node.prices),
            _Node(node.bound, with_, node.forced, node.prices),
        ]

    def _ascend(
        self, node: _Node, whole: Relaxation, steps: int
    ) -> tuple[Floats, Evaluation] | None:
        """Raise the bound of ``node`` by its prices and drop sites that are too dear.

        Returns how much each site is used on average, and the last evaluation; None if the
        node holds nothing cheaper than what is known.
        """
        prices, scale, stuck = node.prices, 1.0, 0
        usage = np.zeros(len(self._sites))
        if not node.allowed.any(axis=1).all():
            return None
        for step in range(steps):
            found = whole.evaluate(prices, node.allowed, node.forced)
            if found.value > node.bound:
                stuck = 0 if found.value > node.bound + 1e-4 * abs(node.bound) else stuck + 1
                node.bound, node.prices = found.value, prices
            else:
                stuck += 1
            self._try(found.choices[0])
            limit = self._enough() if self._best is not None else self._too_much
            node.allowed &= found.value + found.held < limit
            if node.bound >= limit or not node.allowed.any(axis=1).all():
                return None
            usage += 0.2 * (found.chosen.max(axis=0) - usage)
            if (node.allowed.sum(axis=1) == 1).all():
                break
            if stuck >= _PATIENCE:
                scale, stuck = scale / 2, 0
                if scale < 0.02:
                    break
            if step % 8 == 7 and self._spent():
                break
            target = self._cost if self._best is not None else found.value + 1 + abs(found.value)
            prices = stepped(prices, found, target, scale, whole.member)
        return usage, found


def _only(problem: Problem, sites: Places) -> Problem:
    """Return the problem with these sites alone."""
    return Problem(
        problem.opening[sites],
        problem.serving[:, sites],
        problem.pairs[np.ix_(sites, sites)],
        problem.room[sites],
        problem.edges,
    )
