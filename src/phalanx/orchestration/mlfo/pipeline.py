"""The pipeline descriptor: what the MLFO returns (figure 2, step 1).

It says where each agent stands, which image it boots, what it shall be able to do, which VNFs
it serves, and which agents speak with each other.

Why no placement keeps the needs of a service, and what would: one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.orchestration.descriptors.node import Amount, Digest, Id
from phalanx.orchestration.mlfo.model import Places, Problem, build
from phalanx.orchestration.mlfo.need import GuardedVnf, Latencies, Need, PlacementError
from phalanx.orchestration.mlfo.search import USUAL_EFFORT, Effort, SearchResult, solve

_SHOWN = 3
_PROBE_NODES = 200
_BOTH = (
    "the limits on latency between agents and the room at the sites cannot be kept together; "
    "no change of one alone would do"
)


def why_none(need: Need, latencies: Latencies, problem: Problem, effort: Effort) -> str:
    """Return which need cannot be met, and the least that would meet it.

    ``problem`` has been proven to have no solution.
    """
    for vnf, allowed in zip(need.vnfs, np.isfinite(problem.serving), strict=True):
        if not allowed.any():
            return f"{need.service}: {_no_site(need, latencies, vnf)}"
    probe = _Probe(need, latencies, effort)
    return f"{need.service}: {_peers(probe) or _room(probe) or _BOTH}"


def _no_site(need: Need, latencies: Latencies, vnf: GuardedVnf) -> str:
    """Say what would have to change for ``vnf`` alone."""
    ms = {site.name: latencies.between(vnf.site, site.name) for site in need.sites}
    keeps = {
        site.name: {
            "latency": ms[site.name] <= vnf.latency_ms,
            "trust": site.trust >= vnf.least_trust or site.name in need.outside,
            "image": need.agent.image in site.images,
            "room": _lacking(need, site.name) is None,
            "without": site.name not in need.without,
            "location": site.name not in need.outside,
        }
        for site in need.sites
    }

    def only(what: str) -> list[str]:
        """Return the sites that fail in this alone."""
        return [
            name for name, kept in keeps.items() if all(ok != (k == what) for k, ok in kept.items())
        ]

    trust = {site.name: site.trust for site in need.sites}
    cures = []
    if near := [name for name in only("latency") if np.isfinite(ms[name])]:
        nearest = min(near, key=ms.__getitem__)
        cures.append(f"latency-ms {_up(ms[nearest])} ({nearest})")
    if trusted := only("trust"):
        best = max(trusted, key=trust.__getitem__)
        cures.append(f"least-trust {trust[best]:g} ({best})")
    if image := only("image"):
        cures.append(f"the image at {_some(image, 'or')}")
    if room := only("room"):
        cures.append(f"room at {room[0]} ({_lacking(need, room[0])})")
    if closed := only("without"):
        cures.append(f"agents at {_some(closed, 'or')} again")
    law = [need.outside[name] for name in only("location")]
    why = (
        f"{vnf.name} at {vnf.site} can have no agent: no site within {vnf.latency_ms:g} ms with "
        f"a trust of at least {vnf.least_trust:g} has the image {need.agent.image!r} and room"
    )
    return "; ".join((why, *law[:1], _would_do(cures)))


def _lacking(need: Need, name: str) -> str | None:
    """Return what a site lacks for an agent that serves one VNF; None if nothing."""
    site = next(site for site in need.sites if site.name == name)
    one = need.agent.resources() + need.agent.each_vnf.resources()
    return one.lacking(need.free(site))


class _Probe:
    """Tells whether the needs could be met if some were other than they are."""

    def __init__(self, need: Need, latencies: Latencies, effort: Effort) -> None:
        self.need = need
        self.latencies = latencies
        # Many questions are asked, and an answer that takes long is one that is not given.
        seconds = None if effort.seconds is None else effort.seconds / 10
        self._effort = replace(effort, seconds=seconds, nodes=_PROBE_NODES)

    def meets(self, need: Need, room: dict[str, int] | None = None) -> bool:
        problem = build(need, self.latencies)
        rooms = problem.room.copy()
        for name, vnfs in (room or {}).items():
            rooms[self.latencies.place[name]] = vnfs
        free = Problem(
            opening=np.zeros_like(problem.opening),
            serving=np.where(np.isfinite(problem.serving), 0.0, np.inf),
            pairs=np.where(np.isfinite(problem.pairs), 0.0, np.inf),
            room=rooms,
            edges=problem.edges,
        )
        return solve(free, self._effort).places is not None

    def least(self, values: list[float], meets: Callable[[float], bool]) -> float | None:
        """Return the least of the ascending ``values`` that would do; None if none does."""
        if not values or not meets(values[-1]):
            return None
        low, high = 0, len(values) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if meets(values[middle]) else (middle + 1, high)
        return values[low]


def _peers(probe: _Probe) -> str | None:
    need = probe.need
    ms = np.unique(probe.latencies.ms)
    longer = [float(v) for v in ms[np.isfinite(ms)] if v > need.peer_latency_ms]
    found = probe.least(longer, lambda v: probe.meets(replace(need, peer_latency_ms=v)))
    if found is None:
        return None
    return (
        f"agents of neighbours cannot all be within {need.peer_latency_ms:g} ms of each other; "
        f"peer-latency-ms {_up(found)} would do"
    )


def _room(probe: _Probe) -> str | None:
    need = probe.need
    why = f"the sites have too little room for agents that serve all {len(need.vnfs)} VNFs"
    more = [float(n) for n in range(need.agent.most_vnfs + 1, len(need.vnfs) + 1)]
    served = probe.least(
        more, lambda n: probe.meets(replace(need, agent=replace(need.agent, most_vnfs=int(n))))
    )
    if served is not None:
        return f"{why}; most-vnfs {served:g} would do"
    roomy = [site.name for site in need.sites if probe.meets(need, {site.name: len(need.vnfs)})]
    if roomy:
        return f"{why}; more cores, memory or disk at {_some(roomy, 'or')} would do"
    if probe.meets(need, {site.name: len(need.vnfs) for site in need.sites}):
        return f"{why}; more cores, memory or disk at several sites would do"
    return None


def _would_do(cures: list[str]) -> str:
    if not cures:
        return "no change of one need alone would do"
    return f"{' or '.join(cures)} would do"


def _some(names: list[str], word: str) -> str:
    shown = names[:_SHOWN]
    rest = f" ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else ""
    return f" {word} ".join(shown) + rest


def _up(ms: float) -> str:
    """Return ``ms``, rounded up so that it still does."""
    return f"{np.ceil(ms * 1000 - 1e-9) / 1000:.10g}"


Cost = Annotated[float, Meta(ge=0, le=1e18)]


class PipelineAgent(Struct, frozen=True, forbid_unknown_fields=True):
    """An agent of the pipeline."""

    name: Id
    """Its identity, which is the name of its PoP: one agent stands at each."""
    site: Id
    image: Id
    digest: Digest
    capabilities: tuple[Id, ...]
    """Functions that it needs, in the order of their names."""
    scope: Id
    """The service instance that it guards."""
    serves: Annotated[tuple[Id, ...], Meta(min_length=1)]
    """VNF profiles."""


class AgentConnection(Struct, frozen=True, forbid_unknown_fields=True):
    """Two agents that speak with each other."""

    between: tuple[Id, Id]
    """Names of the agents."""
    latency_ms: Amount
    """One way, over the links between their sites."""
    why: Literal["neighbours", "joins"] = "neighbours"
    """``neighbours``: they serve VNFs next to each other. ``joins``: only to keep all connected."""


class PlacementCost(Struct, frozen=True, forbid_unknown_fields=True):
    """How good the placement is; costs in the unit of the weights."""

    objective: Cost
    bound: Cost
    """No placement costs less."""
    optimal: bool
    """Whether it is proven that there is nothing cheaper, up to rounding (1e-6)."""
    agents: Cost
    """Part of the objective: of the agents' number."""
    load: Cost
    distrust: Cost
    latency: Cost
    """Of the latencies between VNFs and agents."""
    peer_latency: Cost
    changes: Cost = 0.0
    """Of agents that start and VNFs that are handed over."""

    @property
    def gap(self) -> float:
        """Most that the objective is above the optimum, relative to the bound."""
        if self.objective <= self.bound:
            return 0.0
        return (self.objective - self.bound) / self.bound if self.bound > 0 else float("inf")


class PipelineDescriptor(Struct, frozen=True, forbid_unknown_fields=True):
    """The agents of a service, and their connections."""

    service: Id
    agents: Annotated[tuple[PipelineAgent, ...], Meta(min_length=1)]
    connections: tuple[AgentConnection, ...]
    placement: PlacementCost

    def served_from(self) -> dict[str, str]:
        """Return the site of the agent of each VNF."""
        return {vnf: agent.site for agent in self.agents for vnf in agent.serves}


def compute(
    need: Need, effort: Effort = USUAL_EFFORT, running: PipelineDescriptor | None = None
) -> PipelineDescriptor:
    """Return the cheapest pipeline of agents for ``need`` (see ``model`` for the objective).

    It is the optimum unless ``effort`` ends first; ``placement`` says so, with a proven bound.

    Args:
        need: what the service asks.
        effort: when the search ends.
        running: the pipeline that runs. Its agents stay where they are unless that breaks a
            limit, or moving saves more than the weights ``start`` and ``handover`` cost. VNFs
            that are new in ``need`` are added, those that it has no more are left out.

    Raises:
        PlacementError: if no placement keeps the needs (which one, and what would do), or none
            was found in time.

    """
    previous = None if running is None else running.served_from()
    latencies = need.latencies()
    problem = build(need, latencies, previous)
    found = solve(problem, effort, _running(need, latencies, previous))
    if found.places is None:
        if np.isfinite(found.bound):
            raise PlacementError(
                f"{need.service}: no placement found before the search ended; allow it more time"
            )
        raise PlacementError(why_none(need, latencies, problem, effort))
    return _descriptor(need, latencies, found, found.places, previous)


def _running(need: Need, latencies: Latencies, previous: Mapping[str, str] | None) -> Places | None:
    """Return the placement that runs; None if there is none for each VNF and site."""
    sites = [(previous or {}).get(vnf.name) for vnf in need.vnfs]
    known = [latencies.place[site] for site in sites if site in latencies.place]
    return np.array(known, dtype=np.int64) if len(known) == len(sites) else None


def _descriptor(
    need: Need,
    latencies: Latencies,
    found: SearchResult,
    places: Places,
    previous: Mapping[str, str] | None,
) -> PipelineDescriptor:
    at = {vnf.name: need.sites[int(place)] for vnf, place in zip(need.vnfs, places, strict=True)}
    agents = []
    for number in sorted(set(places.tolist())):
        site = need.sites[number]
        served = [vnf for vnf in need.vnfs if at[vnf.name] is site]
        agents.append(
            PipelineAgent(
                name=site.pop,
                site=site.name,
                image=need.agent.image,
                digest=site.images[need.agent.image],
                capabilities=tuple(sorted({f for vnf in served for f in vnf.functions})),
                scope=need.service,
                serves=tuple(vnf.name for vnf in served),
            )
        )
    connections: dict[tuple[str, str], AgentConnection] = {}
    neighbours, joins = need.connections(latencies)
    apart = 0.0
    for pairs, joining in ((neighbours, False), (joins, True)):
        for a, b in pairs:
            ms = latencies.between(at[a].name, at[b].name)
            apart += ms
            first, second = sorted((at[a].pop, at[b].pop))
            if first != second and (first, second) not in connections:
                why: Literal["neighbours", "joins"] = "joins" if joining else "neighbours"
                connections[first, second] = AgentConnection((first, second), round(ms, 6), why)
    return PipelineDescriptor(
        need.service,
        tuple(agents),
        tuple(connections.values()),
        _figures(need, latencies, found, places, apart, previous),
    )


def _figures(
    need: Need,
    latencies: Latencies,
    found: SearchResult,
    places: Places,
    apart_ms: float,
    previous: Mapping[str, str] | None,
) -> PlacementCost:
    weights = need.weights
    hosts = [need.sites[number] for number in sorted(set(places.tolist()))]
    near_ms = sum(
        latencies.between(vnf.site, need.sites[int(place)].name)
        for vnf, place in zip(need.vnfs, places, strict=True)
    )
    changes = 0.0
    if previous is not None:
        started = {site.name for site in hosts} - set(previous.values())
        handed = sum(
            previous.get(vnf.name, need.sites[int(place)].name) != need.sites[int(place)].name
            for vnf, place in zip(need.vnfs, places, strict=True)
        )
        changes = weights.start * len(started) + weights.handover * handed
    return PlacementCost(
        objective=found.objective,
        bound=min(found.bound, found.objective),
        optimal=found.optimal,
        agents=weights.agent * len(hosts),
        load=round(weights.load * sum(site.load for site in hosts), 6),
        distrust=round(weights.distrust * sum(1.0 - site.trust for site in hosts), 6),
        latency=round(weights.latency * near_ms, 6),
        peer_latency=round(weights.peer_latency * apart_ms, 6),
        changes=changes,
    )
