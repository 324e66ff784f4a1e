"""The MLFO's two calls: a pipeline for a service, and for a service that runs and has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from phalanx.orchestration.mlfo.errors import PlacementError
from phalanx.orchestration.mlfo.infeasible import why_none
from phalanx.orchestration.mlfo.latency import Latencies
from phalanx.orchestration.mlfo.model import Places, build
from phalanx.orchestration.mlfo.need import NO_CHANGE, Change, Need, changed
from phalanx.orchestration.mlfo.pipeline import (
    Connection,
    PipelineAgent,
    PipelineDescriptor,
    Placement,
)
from phalanx.orchestration.mlfo.search import USUAL_EFFORT, Effort, Found, solve


def compute(need: Need, effort: Effort = USUAL_EFFORT) -> PipelineDescriptor:
    """Return the cheapest pipeline of agents for ``need`` (see ``model`` for the objective).

    It is the optimum unless ``effort`` ends first; ``placement`` says so, with a proven bound.

    Raises:
        PlacementError: if no placement keeps the needs (which one, and what would do), or none
            was found in time.

    """
    return _compute(need, effort, None)


def recompute(
    previous: PipelineDescriptor,
    need: Need,
    change: Change = NO_CHANGE,
    effort: Effort = USUAL_EFFORT,
) -> PipelineDescriptor:
    """Return the cheapest pipeline for ``need`` after ``change``, moves included.

    Agents stay where they are unless that breaks a limit, or moving saves more than the weights
    ``start`` and ``handover`` cost. VNFs that ``need`` has and ``previous`` has not are added,
    those that it has no more are left out.

    Raises:
        PlacementError: as ``compute``.
        ScenarioError: if ``change`` names what there is not.

    """
    return _compute(changed(need, change), effort, previous.served_from())


def _compute(need: Need, effort: Effort, previous: Mapping[str, str] | None) -> PipelineDescriptor:
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
    found: Found,
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
    connections: dict[tuple[str, str], Connection] = {}
    neighbours, joins = need.connections(latencies)
    apart = 0.0
    for pairs, joining in ((neighbours, False), (joins, True)):
        for a, b in pairs:
            ms = latencies.between(at[a].name, at[b].name)
            apart += ms
            first, second = sorted((at[a].pop, at[b].pop))
            if first != second and (first, second) not in connections:
                why: Literal["neighbours", "joins"] = "joins" if joining else "neighbours"
                connections[first, second] = Connection((first, second), round(ms, 6), why)
    return PipelineDescriptor(
        need.service,
        tuple(agents),
        tuple(connections.values()),
        _figures(need, latencies, found, places, apart, previous),
    )


def _figures(
    need: Need,
    latencies: Latencies,
    found: Found,
    places: Places,
    apart_ms: float,
    previous: Mapping[str, str] | None,
) -> Placement:
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
    return Placement(
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
