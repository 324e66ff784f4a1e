"""Who has what: resources and bandwidth that are held or allocated. Pure bookkeeping.

Free amounts are always worked out from the claims that exist, never carried along, so that
they are exactly what they were at the start once every claim is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from phalanx.domain.network import Link, PopId
from phalanx.domain.resources import NOTHING, Resources
from phalanx.infrastructure.books.topology import Edge, Path, Topology

_ROUNDING = 1e-9
"""Most by which sums of floats may exceed a limit that they meet."""


class InvariantError(AssertionError):
    """The books are wrong: something is over-committed."""


def _sum(amounts: Iterable[Resources]) -> Resources:
    return sum(amounts, NOTHING)


class ComputeBook:
    """Cores, memory and disk of the PoPs."""

    def __init__(self, totals: Mapping[PopId, Resources]) -> None:
        self.totals = dict(totals)
        self._allocated: dict[PopId, dict[str, Resources]] = {pop: {} for pop in totals}
        self._held: dict[PopId, dict[str, Resources]] = {pop: {} for pop in totals}

    def free(self, pop: PopId) -> Resources:
        """Return what is not allocated; holds are not subtracted."""
        allocated = self._allocated[pop]
        return self.totals[pop] - _sum(allocated.values()) if allocated else self.totals[pop]

    def unheld(self, pop: PopId) -> Resources:
        """Return what is neither allocated nor held."""
        held = self._held[pop]
        return self.free(pop) - _sum(held.values()) if held else self.free(pop)

    def hold(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Hold ``amount``; return why not if it does not fit."""
        lacking = amount.lacking(self._rounded(self.unheld(pop)))
        if lacking is None:
            self._held[pop][key] = amount
        return lacking

    def release(self, pop: PopId, key: str) -> None:
        """Give a hold back."""
        self._held[pop].pop(key, None)

    def allocate(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Allocate ``amount`` to ``key``, instead of what it has; return why not if too much."""
        lacking = self.lacking(pop, key, amount)
        if lacking is None:
            self._allocated[pop][key] = amount
        return lacking

    def lacking(self, pop: PopId, key: str, amount: Resources) -> str | None:
        """Return why ``key`` cannot have ``amount`` instead of what it has; None if it can."""
        own = self._allocated[pop].get(key, NOTHING)
        return amount.lacking(self._rounded(self.unheld(pop) + own))

    def free_up(self, pop: PopId, key: str) -> None:
        """Take back what ``key`` was allocated."""
        self._allocated[pop].pop(key, None)

    def check(self) -> None:
        """Raise ``InvariantError`` if a PoP has less than nothing left."""
        for pop in self.totals:
            lacking = NOTHING.lacking(self._rounded(self.unheld(pop)))
            if lacking is not None:
                raise InvariantError(f"{pop} is over-committed: {lacking}")

    @staticmethod
    def _rounded(amount: Resources) -> Resources:
        return Resources(
            amount.cores + _ROUNDING, amount.memory_gb + _ROUNDING, amount.disk_gb + _ROUNDING
        )


class _Group:
    """Claims of one auction on one link: of the held ones only one will come true."""

    __slots__ = ("committed", "held")

    def __init__(self) -> None:
        self.held: dict[float, int] = {}
        """How many hold how much, MB/s: mostly one figure, however many bidders there are."""
        self.committed: dict[str, float] = {}

    def need(self) -> float:
        held = max(self.held) if self.held else 0.0
        return max(held, sum(self.committed.values())) if self.committed else held


class LinkBook:
    """Bandwidth of the links in MB/s, admitted for both directions of a link together.

    Claims belong to a group. What a group needs of a link is the larger of its largest hold
    and the sum of its commitments, so that a winner's hold can turn into a commitment while
    the losers have not released theirs yet.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._claims: dict[Edge, dict[str, _Group]] = {}
        for link in topology.links:  # one entry for both directions
            self._claims[link.a, link.b] = self._claims[link.b, link.a] = {}
        self._directed: dict[Edge, dict[str, float]] = {}

    def free(self, link: Link) -> float:
        """Return the bandwidth that nobody holds or has."""
        taken = 0.0
        for claim in self._claims[link.a, link.b].values():
            taken += claim.need()
        return link.bandwidth_mb_s - taken

    def reserved(self, source: PopId, target: PopId) -> float:
        """Return what is committed in the direction from ``source`` to ``target``."""
        committed = self._directed.get((source, target))
        return sum(committed.values(), 0.0) if committed else 0.0

    def joins(self, path: Path) -> bool:
        """Whether links join each PoP of ``path`` to the next."""
        return all(map(self._claims.__contains__, pairwise(path)))

    def hold(self, group: str, path: Path, mb_s: float) -> str | None:
        """Hold ``mb_s`` on the links of ``path``; return why not if it does not fit."""
        if mb_s <= 0.0:
            return None
        claims, grown = self._claims, []
        for ends in pairwise(path):
            groups = claims[ends]
            claim = groups.get(group)
            if claim is None:
                claim = groups[group] = _Group()
            held = claim.held
            if mb_s in held:  # as much is held already: the group needs no more than before
                held[mb_s] += 1
            else:
                held[mb_s] = 1
                grown.append(ends)
        refusal = self._refusal(grown, mb_s)
        if refusal is not None:
            self.release(group, path, mb_s)
        return refusal

    def release(self, group: str, path: Path, mb_s: float) -> None:
        """Give a hold back."""
        if mb_s <= 0.0:
            return
        claims = self._claims
        for ends in pairwise(path):
            groups = claims[ends]
            held = groups[group].held
            left = held[mb_s] - 1
            if left:
                held[mb_s] = left
            else:
                del held[mb_s]
                self._tidy(groups, group)

    def commit(self, key: str, group: str, path: Path, mb_s: float) -> str | None:
        """Reserve ``mb_s`` for traffic from the end of ``path`` to its start.

        Replaces what ``key`` has committed for ``group`` on the same path. Returns why not
        if it does not fit; then nothing has changed.
        """
        before: list[float | None] = []
        for ends in pairwise(path):
            committed = self._claims[ends].setdefault(group, _Group()).committed
            before.append(committed.get(key))
            committed[key] = mb_s
        refusal = self._refusal(pairwise(path), mb_s)
        for (a, b), old in zip(pairwise(path), before, strict=True):
            groups = self._claims[a, b]
            if refusal is None:
                self._directed.setdefault((b, a), {})[key] = mb_s
            elif old is None:
                del groups[group].committed[key]
                self._tidy(groups, group)
            else:
                groups[group].committed[key] = old
        return refusal

    def give_back(self, key: str, group: str, path: Path) -> None:
        """Take back what ``key`` has committed on ``path``."""
        for a, b in pairwise(path):
            groups = self._claims[a, b]
            groups[group].committed.pop(key, None)
            self._directed.get((b, a), {}).pop(key, None)
            self._tidy(groups, group)

    def check(self) -> None:
        """Raise ``InvariantError`` if a link has less than nothing left."""
        for link in self._topology.links:
            if self.free(link) < -_ROUNDING:
                raise InvariantError(f"link {link.a}-{link.b} is over-committed: {self.free(link)}")

    def _refusal(self, hops: Iterable[Edge], mb_s: float) -> str | None:
        for a, b in hops:
            link = self._topology.neighbours[a][b]
            # The claim itself is booked already, so a link that can bear it is not below 0.
            free = self.free(link)
            if free < -_ROUNDING:
                return (
                    f"link {link.a}-{link.b} has {max(0.0, free + mb_s):g} MB/s free, "
                    f"needs {mb_s:g}"
                )
        return None

    @staticmethod
    def _tidy(groups: dict[str, _Group], group: str) -> None:
        claim = groups[group]
        if not claim.held and not claim.committed:
            del groups[group]
