"""Who has what: resources and bandwidth that are held or allocated. Pure bookkeeping.

Free amounts are always worked out from the claims that exist, never carried along, so that
they are exactly what they were at the start once every claim is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from phalanx.domain.network import Link, PopId
from phalanx.domain.resources import NOTHING, Resources
from phalanx.infrastructure.simulated.topology import Edge, Path, Topology

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
        return self.totals[pop] - _sum(self._allocated[pop].values())

    def unheld(self, pop: PopId) -> Resources:
        """Return what is neither allocated nor held."""
        return self.free(pop) - _sum(self._held[pop].values())

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
        self.held: dict[str, float] = {}
        self.committed: dict[str, float] = {}

    def need(self) -> float:
        return max(max(self.held.values(), default=0.0), sum(self.committed.values()))


class LinkBook:
    """Bandwidth of the links in MB/s, admitted for both directions of a link together.

    Claims belong to a group. What a group needs of a link is the larger of its largest hold
    and the sum of its commitments, so that a winner's hold can turn into a commitment while
    the losers have not released theirs yet.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._claims: dict[Edge, dict[str, _Group]] = {(li.a, li.b): {} for li in topology.links}
        self._directed: dict[tuple[PopId, PopId], dict[str, float]] = {}

    def free(self, link: Link) -> float:
        """Return the bandwidth that nobody holds or has."""
        groups = self._claims[link.a, link.b].values()
        return link.bandwidth_mb_s - sum((group.need() for group in groups), 0.0)

    def reserved(self, source: PopId, target: PopId) -> float:
        """Return what is committed in the direction from ``source`` to ``target``."""
        return sum(self._directed.get((source, target), {}).values(), 0.0)

    def hold(self, key: str, group: str, path: Path, mb_s: float) -> str | None:
        """Hold ``mb_s`` on the links of ``path``; return why not if it does not fit."""
        for link in self._links(path):
            self._group(link, group).held[key] = mb_s
        refusal = self._refusal(path, mb_s)
        if refusal is not None:
            self.release(key, group, path)
        return refusal

    def release(self, key: str, group: str, path: Path) -> None:
        """Give a hold back."""
        for link in self._links(path):
            self._group(link, group).held.pop(key, None)
            self._tidy(link, group)

    def commit(self, key: str, group: str, path: Path, mb_s: float) -> str | None:
        """Reserve ``mb_s`` for traffic from the end of ``path`` to its start.

        Replaces what ``key`` has committed for ``group`` on the same path. Returns why not
        if it does not fit; then nothing has changed.
        """
        before: list[float | None] = []
        for link in self._links(path):
            committed = self._group(link, group).committed
            before.append(committed.get(key))
            committed[key] = mb_s
        refusal = self._refusal(path, mb_s)
        for (link, ends), old in zip(self._directed_links(path), before, strict=True):
            if refusal is None:
                self._directed.setdefault(ends, {})[key] = mb_s
            elif old is None:
                del self._group(link, group).committed[key]
                self._tidy(link, group)
            else:
                self._group(link, group).committed[key] = old
        return refusal

    def give_back(self, key: str, group: str, path: Path) -> None:
        """Take back what ``key`` has committed on ``path``."""
        for link, ends in self._directed_links(path):
            self._group(link, group).committed.pop(key, None)
            self._directed.get(ends, {}).pop(key, None)
            self._tidy(link, group)

    def check(self) -> None:
        """Raise ``InvariantError`` if a link has less than nothing left."""
        for link in self._topology.links:
            if self.free(link) < -_ROUNDING:
                raise InvariantError(f"link {link.a}-{link.b} is over-committed: {self.free(link)}")

    def _refusal(self, path: Path, mb_s: float) -> str | None:
        for link in self._links(path):
            # The claim itself is booked already, so a link that can bear it is not below 0.
            free = self.free(link)
            if free < -_ROUNDING:
                return (
                    f"link {link.a}-{link.b} has {max(0.0, free + mb_s):g} MB/s free, "
                    f"needs {mb_s:g}"
                )
        return None

    def _group(self, link: Link, group: str) -> _Group:
        return self._claims[link.a, link.b].setdefault(group, _Group())

    def _tidy(self, link: Link, group: str) -> None:
        claims = self._claims[link.a, link.b]
        if not claims[group].held and not claims[group].committed:
            del claims[group]

    def _links(self, path: Path) -> list[Link]:
        return [self._topology.neighbours[a][b] for a, b in pairwise(path)]

    def _directed_links(self, path: Path) -> list[tuple[Link, tuple[PopId, PopId]]]:
        ends = [(b, a) for a, b in pairwise(path)]
        return list(zip(self._links(path), ends, strict=True))
