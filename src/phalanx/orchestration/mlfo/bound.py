r"""A lower bound on the cost of a placement, by Lagrangian decomposition.

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
