"""The pipeline descriptor: what the MLFO returns (figure 2, step 1).

It says where each agent stands, which image it boots, what it shall be able to do, which VNFs
it serves, and which agents speak with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct

from phalanx.orchestration.descriptors.node import Amount, Digest, Id
from phalanx.orchestration.mlfo.infeasible import why_none
from phalanx.orchestration.mlfo.model import Places, build
from phalanx.orchestration.mlfo.need import Latencies, Need, PlacementError
from phalanx.orchestration.mlfo.search import USUAL_EFFORT, Effort, SearchResult, solve

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
