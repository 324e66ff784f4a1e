"""What a service asks of the MLFO: VNFs to be guarded, which are neighbours, limits, sites.

Two guarded VNFs are neighbours if they share a virtual link of the service, other than one for
management; a link whose traffic a forwarding graph orders makes neighbours along the paths of
the graph alone. VNFs that nobody guards are passed through: what they connect is neighbours.
Where the guarded VNFs fall into several parts, the parts are joined by a shortest spanning
tree over the latency between their VNFs, so that the agents are one connected pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise, product
from time import time

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.domain.resources import Resources
from phalanx.loading import one_line, unknown
from phalanx.orchestration.descriptors.nsd import AgentRequirements, NsDescriptor, NsFlavour
from phalanx.orchestration.descriptors.service import Service, Site, SiteLink, Weights
from phalanx.slices.agreements import Trusted, scores
from phalanx.trust.register import TrustRegister


class PlacementError(PhalanxError):
    """No pipeline keeps the needs of a service; says which cannot be met, and what would do."""


class Latencies(Struct, frozen=True):
    """Least latency between all pairs of sites."""

    place: dict[str, int]
    """Row and column of each site."""
    ms: NDArray[np.float64]
    """Sites x sites, one way; infinite where no path leads."""

    def between(self, a: str, b: str) -> float:
        """Return the latency between two sites in ms, one way."""
        return float(self.ms[self.place[a], self.place[b]])


def shortest(sites: Sequence[str], links: Iterable[SiteLink], bandwidth_mb_s: float) -> Latencies:
    """Return the latencies over links of at least ``bandwidth_mb_s`` (Floyd and Warshall)."""
    place = {site: number for number, site in enumerate(sites)}
    ms = np.full((len(sites), len(sites)), np.inf)
    np.fill_diagonal(ms, 0.0)
    for link in links:
        if link.bandwidth_mb_s >= bandwidth_mb_s:
            a, b = place[link.between[0]], place[link.between[1]]
            ms[a, b] = ms[b, a] = min(ms[a, b], link.latency_ms)
    for via in range(len(sites)):
        np.minimum(ms, ms[:, via, None] + ms[None, via, :], out=ms)
    return Latencies(place, ms)


Pair = tuple[str, str]


class GuardedVnf(Struct, frozen=True):
    """A VNF, where it stands, and what its agent must keep."""

    name: str
    site: str
    functions: tuple[str, ...]
    latency_ms: float
    least_trust: float


class Need(Struct, frozen=True):
    """A placement to be computed."""

    service: str
    agent: AgentRequirements
    vnfs: tuple[GuardedVnf, ...]
    neighbours: tuple[Pair, ...]
    sites: tuple[Site, ...]
    links: tuple[SiteLink, ...]
    peer_latency_ms: float = 1000.0
    bandwidth_mb_s: float = 0.0
    """Links with less are not used between agents."""
    taken: dict[str, Resources] = {}
    """What the service's own VNFs take of each site, beside the load."""
    weights: Weights = Weights()
    without: tuple[str, ...] = ()
    """Sites that may host no agent."""
    outside: dict[str, str] = {}
    """Sites that may not, as an agreement has it, and why."""

    def free(self, site: Site) -> Resources:
        """Return what agents can have of ``site``."""
        return site.free - self.taken.get(site.name, Resources())

    def latencies(self) -> Latencies:
        """Return the least latency between all sites, in ms, one way."""
        return shortest([s.name for s in self.sites], self.links, self.bandwidth_mb_s)

    def connections(self, latencies: Latencies) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """Return the pairs of VNFs whose agents speak: the neighbours, and what joins them."""
        return self.neighbours, _joins(self, latencies)


def need_of(service: Service, without: tuple[str, ...] = (), now_s: float | None = None) -> Need:
    """Return what ``service`` asks of the MLFO.

    Args:
        service: what is to be deployed.
        without: sites that may host no agent, such as one that is drained or lost.
        now_s: seconds since 1970, at which certificates have to be valid; None: now.

    Raises:
        ScenarioError: in one line, if no agents are asked for, or a site is unknown.

    """
    flavour = service.flavour
    security = flavour.phalanx
    if security is None:
        raise ScenarioError(f"{service.nsd.id}: flavour {flavour.id} asks for no agents")
    sites = [site.name for site in service.sites.sites]
    for name in without:
        if name not in sites:
            raise ScenarioError(one_line(f"without: {unknown('site', name, sites)}"))
    guarded = tuple(
        GuardedVnf(
            guard.vnf_profile_id,
            service.request.vnfs[guard.vnf_profile_id],
            guard.functions,
            security.latency_ms if guard.latency_ms is None else guard.latency_ms,
            security.least_trust if guard.least_trust is None else guard.least_trust,
        )
        for guard in security.guards
    )
    agreement, where = service.sites.agreement, service.sites.sites
    outside: dict[str, str] = {}
    if agreement is not None:
        register = TrustRegister(now_s=time() if now_s is None else now_s)
        found = scores(agreement, Trusted({s.name: s.pop for s in where}), register)
        trusted = {name: s.value for (kind, name), s in found.items() if kind == "pop" and s.parts}
        outside = {s.name: why for s in where if (why := agreement.outside(s.pop))}
        where = tuple(replace(s, trust=min(s.trust, trusted.get(s.pop, s.trust))) for s in where)
    return Need(
        service=service.request.name,
        agent=security.agent,
        vnfs=guarded,
        neighbours=_through(adjacent(service.nsd, flavour), [vnf.name for vnf in guarded]),
        sites=where,
        links=service.sites.links,
        peer_latency_ms=security.peer_latency_ms,
        bandwidth_mb_s=security.bandwidth_mb_s,
        taken=service.taken(),
        weights=service.request.weights,
        without=without,
        outside=outside,
    )


def adjacent(nsd: NsDescriptor, flavour: NsFlavour) -> tuple[Pair, ...]:
    """Return the pairs of VNF profiles between which traffic of the service flows."""
    mgmt = {link.id for link in nsd.virtual_link_desc if link.mgmt_network}
    mgmt |= {p.id for p in flavour.virtual_link_profile if p.virtual_link_desc_id in mgmt}
    ordered = {graph.virtual_link_profile_id for graph in nsd.vnffgd}
    on_link: dict[str, list[str]] = {}
    for profile in flavour.vnf_profile:
        for connectivity in profile.virtual_link_connectivity:
            on_link.setdefault(connectivity.virtual_link_profile_id, []).append(profile.id)
    pairs = dict.fromkeys(_along_paths(nsd, {profile.id for profile in flavour.vnf_profile}))
    for link, profiles in on_link.items():
        if link not in mgmt and link not in ordered:
            pairs.update(dict.fromkeys(combinations(profiles, 2)))
    return tuple({tuple(sorted(pair)): pair for pair in pairs}.values())


def _along_paths(nsd: NsDescriptor, profiles: set[str]) -> Iterator[Pair]:
    for graph in nsd.vnffgd:
        at_element = {e.id: e.desc.vnf_profile.vnf_profile_id for e in graph.nfp_position_element}
        for path in graph.nfpd:
            stops = [
                [p for e in position.nfp_position_element_id if (p := at_element[e]) in profiles]
                for position in path.position_desc
            ]
            for before, after in pairwise(stop for stop in stops if stop):
                yield from ((a, b) for a, b in product(before, after) if a != b)


def _through(pairs: tuple[Pair, ...], guarded: list[str]) -> tuple[Pair, ...]:
    """Return the pairs of ``guarded`` VNFs that are linked directly or through unguarded ones."""
    beside: dict[str, list[str]] = {}
    for a, b in pairs:
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    found: dict[Pair, None] = {}
    place = {name: number for number, name in enumerate(guarded)}
    for start in guarded:
        seen, open_ = {start}, [start]
        while open_:
            for name in beside.get(open_.pop(), []):
                if name in seen:
                    continue
                seen.add(name)
                if name not in place:
                    open_.append(name)
                elif place[start] < place[name]:
                    found[start, name] = None
    return tuple(found)


def _joins(need: Need, latencies: Latencies) -> tuple[Pair, ...]:
    """Return the pairs that join the parts of the service, by Kruskal's algorithm."""
    part = {vnf.name: vnf.name for vnf in need.vnfs}

    def root(name: str) -> str:
        while part[name] != name:
            name = part[name]
        return name

    for a, b in need.neighbours:
        part[root(a)] = root(b)
    ways = sorted(
        (latencies.between(a.site, b.site), a.name, b.name) for a, b in combinations(need.vnfs, 2)
    )
    found = []
    for _, a, b in ways:
        if root(a) != root(b):
            part[root(a)] = root(b)
            found.append((a, b))
    return tuple(found)
