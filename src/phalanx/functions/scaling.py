"""Scaling of analysers with the traffic that they look at (dissertation, 5.4.1 and 7.2)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from msgspec.structs import replace

from phalanx.bdi import Act, Agent, GoalInstance, PlanFailed, Step
from phalanx.domain.actions import FlowRecords, Observe, Scale
from phalanx.functions.measures import estate_of

SLICES = 4
"""An observation is made in so many turns, between which the instance may be scaled."""
FULL = 0.9
"""Coverage below which an analyser is too small for its traffic."""
SLACK = 0.8
"""Load, relative to one unit less, below which an analyser is too large."""


def fit_to_traffic(
    me: Agent, goal: GoalInstance, observe: Observe
) -> Generator[Step, Any, FlowRecords]:
    """Observe in turns, scaling the instance up or down as the traffic asks for.

    An analyser that cannot grow goes on with the share of the traffic that it can take.
    """
    flows = []
    seconds, seen, cover = 0.0, 0.0, 0.0
    for _ in range(SLICES):
        records = yield Act(replace(observe, seconds=observe.seconds / SLICES))
        flows += records.flows
        seconds += records.seconds
        cover += records.coverage
        seen = sum(flow.octets for flow in records.flows) / records.seconds / 1e6
        yield from _rescale(me, goal, seen / max(records.coverage, 1e-9) / observe.sampling)
    return FlowRecords(tuple(flows), seconds, cover / SLICES)


def _rescale(me: Agent, goal: GoalInstance, traffic_mb_s: float) -> Generator[Step, Any, None]:
    instance = estate_of(me).get(goal.instance)
    if instance is None or instance.vnfd.handles_mb_s is None:
        return
    unit = instance.vnfd.handles_mb_s
    units = instance.units
    too_small = traffic_mb_s * FULL > unit * units
    too_large = units > 1 and traffic_mb_s < unit * (units - 1) * SLACK
    if too_small or too_large:
        units = instance.vnfd.units_for(traffic_mb_s)
    if units == instance.units:
        return
    try:
        yield Act(Scale(instance.id, units, units * unit))
    except PlanFailed:
        return  # no room to grow: it works with a sample
    instance.units = units
