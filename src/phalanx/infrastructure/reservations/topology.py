"""The graph of the PoPs: routes of least latency and download paths of most bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import pairwise
from math import inf

from phalanx.domain.network import Link, Network, PopId

Path = tuple[PopId, ...]
Edge = tuple[PopId, PopId]
"""The ends of a link in the order of its declaration; stands for both directions."""
COPIED = 0.2
"""Share of a link that copies of traffic take where none of it is reserved for them: users and
floods share the rest."""


class Topology:
    """PoPs and links, which of the links are up, and the paths over those."""

    def __init__(self, network: Network) -> None:
        self.pops = {pop.name: pop for pop in network.pops}
        if len(self.pops) != len(network.pops):
            raise ValueError("two PoPs have the same name")
        self.neighbours: dict[PopId, dict[PopId, Link]] = {name: {} for name in self.pops}
        for link in network.links:
            if link.a not in self.pops or link.b not in self.pops or link.a == link.b:
                raise ValueError(f"link {link.a}-{link.b} does not join two PoPs of the network")
            if link.b in self.neighbours[link.a]:
                raise ValueError(f"two links join {link.a} and {link.b}")
            self.neighbours[link.a][link.b] = link
            self.neighbours[link.b][link.a] = link
        self.links = network.links
        self._down: dict[Edge, bool] = {}
        self._trees: dict[PopId, dict[PopId, PopId]] = {}

    def link(self, a: PopId, b: PopId) -> Link | None:
        """Return the link that joins ``a`` and ``b``, in whichever order."""
        return self.neighbours.get(a, {}).get(b)

    def is_up(self, link: Link) -> bool:
        """Whether ``link`` carries traffic."""
        return (link.a, link.b) not in self._down

    @property
    def all_up(self) -> bool:
        """Whether every link carries traffic."""
        return not self._down

    def switch(self, link: Link, *, up: bool) -> None:
        """Take ``link`` down or bring it back."""
        if up:
            self._down.pop((link.a, link.b), None)
        else:
            self._down[link.a, link.b] = True
        self._trees.clear()

    def route(self, source: PopId, target: PopId) -> Path | None:
        """Return the path of least latency; ties go to fewer hops, then to names.

        Returns:
            The PoPs from ``source`` to ``target``; None if no links that are up join them.

        """
        if target not in self.neighbours:
            return None
        tree = self._trees.get(target)
        if tree is None:
            tree = self._trees[target] = self._towards(target)
        path = [source]
        while path[-1] != target:
            following = tree.get(path[-1])
            if following is None:
                return None
            path.append(following)
        return tuple(path)

    def unreserved(self, path: Path) -> float:
        """Return what copies take of a path that nothing is reserved on, MB/s; inf at one PoP."""
        hops = (self.neighbours[a][b].bandwidth_mb_s for a, b in pairwise(path))
        return COPIED * min(hops, default=inf)

    def widest(
        self, source: PopId, target: PopId, width: Callable[[PopId, PopId], float]
    ) -> Path | None:
        """Return the path whose narrowest link is widest, the one of least latency of those.

        Args:
            source: where the path begins.
            target: where it ends.
            width: bandwidth of the directed link from its first to its second argument, MB/s.

        Returns:
            The PoPs of the path; None if there is none of a bandwidth above 0.

        """
        narrowest = self.widths(target, width).get(source, 0.0)
        if narrowest <= 0:
            return None
        # Two passes, as bandwidth and latency in one label would not be exact: a narrower
        # but faster beginning may belong to the better of two equally wide paths.
        tree = self._towards(target, lambda a, b: width(a, b) >= narrowest)
        path = [source]
        while path[-1] != target:
            path.append(tree[path[-1]])
        return tuple(path)

    def _towards(
        self, target: PopId, usable: Callable[[PopId, PopId], bool] | None = None
    ) -> dict[PopId, PopId]:
        """Return for each PoP the next one on its best path to ``target`` (Dijkstra)."""
        best: dict[PopId, tuple[float, int]] = {target: (0.0, 0)}
        following: dict[PopId, PopId] = {}
        heap: list[tuple[float, int, PopId]] = [(0.0, 0, target)]
        while heap:
            latency, hops, pop = heappop(heap)
            if (latency, hops) > best[pop]:
                continue
            for neighbour, link in self.neighbours[pop].items():
                if not self.is_up(link) or (usable is not None and not usable(neighbour, pop)):
                    continue
                label = (latency + link.latency_ms, hops + 1)
                known = best.get(neighbour)
                if known is None or label < known:
                    best[neighbour] = label
                    following[neighbour] = pop
                    heappush(heap, (*label, neighbour))
                elif label == known and pop < following[neighbour]:
                    following[neighbour] = pop
        return following

    def widths(self, target: PopId, width: Callable[[PopId, PopId], float]) -> dict[PopId, float]:
        """Return from each PoP the bandwidth of the widest path to ``target``, in MB/s.

        It is ``inf`` from ``target`` itself; PoPs without a path are left out.
        """
        best = {target: inf}
        heap = [(-inf, target)]
        while heap:
            negative, pop = heappop(heap)
            if -negative < best[pop]:
                continue
            for neighbour, link in self.neighbours[pop].items():
                if not self.is_up(link):
                    continue
                through = min(-negative, width(neighbour, pop))
                if through > best.get(neighbour, 0.0):
                    best[neighbour] = through
                    heappush(heap, (-through, neighbour))
        return best
