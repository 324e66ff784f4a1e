"""The network as words: PoPs, directed links, hosts, and the state a PoP tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from msgspec import Struct

from phalanx.domain.resources import Resources

PopId = str
LinkId = str


def link_id(source: str, target: str) -> LinkId:
    """Return the name of the directed link from ``source`` to ``target``."""
    return f"{source}>{target}"


def link_ends(link: LinkId) -> tuple[str, str]:
    """Return ``(source, target)`` of a directed link.

    Raises:
        ValueError: if ``link`` is no link name.

    """
    source, arrow, target = link.partition(">")
    if not arrow or not source or not target:
        raise ValueError(f"{link!r} is no link name such as 'source>target'")
    return source, target


class Pop(Struct, frozen=True):
    """An NFVI point of presence: a switch and the computing attached to it."""

    name: PopId
    total: Resources
    x: float | None = None
    """Longitude in degrees, or a drawing position; None where unknown."""
    y: float | None = None
    """Latitude in degrees, or a drawing position; None where unknown."""


class Link(Struct, frozen=True):
    """A full-duplex link between two PoPs; both directions share these figures."""

    a: PopId
    b: PopId
    bandwidth_mb_s: float
    latency_ms: float
    loss: float = 0.0
    """Fraction of packets lost, 0 to below 1."""
    trusted: bool = True
    """Whether traffic may be led over it in the clear."""


class HostLimits(Struct, frozen=True):
    """What a server can take before a flood exhausts it."""

    backlog: int = 4096
    """Connections that may be half open at a time."""
    syn_cookies: bool = True
    """Whether connections are opened without the backlog once it is full (RFC 4987, 3.6)."""
    connections: int = 512
    """Connections served at a time."""
    packets_s: float = 300_000.0
    """Packets a second that its processor handles; the rest is dropped."""
    requests_s: float | None = None
    """Requests a second that its application serves; None: any, and it tells no metrics."""
    leak_share_s: float = 0.0
    """Share of its memory that its application loses in a second; without any left it stops."""
    leak_share_request: float = 0.0
    """Share of its memory that its application loses by each request that it answers."""


class Host(Struct, frozen=True):
    """A machine on a PoP's switch that is no PoP itself: a server or a group of clients."""

    name: str
    at: PopId
    address: str
    bandwidth_mb_s: float
    latency_ms: float = 0.1
    limits: HostLimits | None = None
    """None: only its link and its room for connections limit it."""
    calls: dict[str, float] | None = None
    """Names of other hosts, each with the share of the requests answered here for which it is asked
    as well."""


class Network(Struct, frozen=True):
    """What stands still: the PoPs, the links between them, the hosts, the VNF repository."""

    pops: tuple[Pop, ...]
    links: tuple[Link, ...]
    hosts: tuple[Host, ...]
    repository: PopId
    """The PoP whose switch the VNF repository hangs on."""

    def distances(
        self, length: Callable[[Link], float]
    ) -> Callable[[PopId], Iterator[tuple[PopId, float]]]:
        """Return a search that yields the PoPs reached from one, nearest first, with distances.

        Distances are least sums of the ``length`` of links (Dijkstra's algorithm); a search does
        no more than its caller asks for.
        """
        beside: dict[PopId, list[tuple[PopId, float]]] = {pop.name: [] for pop in self.pops}
        for link in self.links:
            beside[link.a].append((link.b, length(link)))
            beside[link.b].append((link.a, length(link)))

        def search(start: PopId) -> Iterator[tuple[PopId, float]]:
            reached: set[PopId] = set()
            queue = [(0.0, start)]
            while queue:
                distance, pop = heappop(queue)
                if pop in reached:
                    continue
                reached.add(pop)
                yield pop, distance
                for other, far in beside[pop]:
                    if other not in reached:
                        heappush(queue, (distance + far, other))

        return search


class LinkState(Struct, frozen=True):
    """One outgoing link as its owner tells it."""

    to: PopId
    bandwidth_mb_s: float
    latency_ms: float
    loss: float
    reserved_mb_s: float = 0.0
    """Bandwidth reserved by forwarding graphs in this direction."""
    up: bool = True
