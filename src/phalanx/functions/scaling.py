"""Scaling of analysers with the traffic that they look at (dissertation, 5.4.1 and 7.2)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from msgspec.structs import replace

from phalanx.auction.estate import Instance
from phalanx.auction.outlook import Outlook
from phalanx.bdi import Act, Agent, GoalInstance, PlanFailed, Step
from phalanx.domain.actions import FlowRecords, FlowStats, Observe, Scale
from phalanx.functions.measures import estate_of

TURNS = 4
"""An observation is made in so many turns, between which the instance may be scaled."""
FULL = 0.9
"""Coverage below which an analyser is too small for its traffic."""
LEAST = 1e-9
"""Coverage that is taken for granted, so that traffic can be worked out from what was seen."""
SLACK = 0.8
"""Load, relative to one unit less, below which an analyser is too large."""


def fit_to_traffic(
    me: Agent, goal: GoalInstance, observe: Observe
) -> Generator[Step, Any, FlowRecords]:
    """Observe in turns, scaling the goal's instance up or down as the traffic asks for.

    An analyser that cannot grow goes on with the share of the traffic that it can take.
    """
    flows: list[FlowStats] = []
    seconds, coverage = 0.0, 0.0
    for turn in range(1, TURNS + 1):
        records = yield from _look(goal, replace(observe, seconds=observe.seconds / TURNS))
        flows += records.flows
        seconds += records.seconds
        coverage += records.coverage / TURNS
        seen = sum(flow.octets for flow in records.flows) / records.seconds / 1e6
        traffic = seen / max(records.coverage, LEAST) / observe.sampling
        yield from _rescale(me, goal, traffic, last=turn == TURNS)
    return FlowRecords(tuple(flows), seconds, coverage)


def _look(goal: GoalInstance, observe: Observe) -> Generator[Step, Any, FlowRecords]:
    """Observe for one turn, again where another version takes the instance's place."""
    while True:
        instance = goal.instance
        assert instance is not None
        try:
            records: FlowRecords = yield Act(replace(observe, instance=instance))
        except PlanFailed:
            if goal.instance == instance:
                raise
        else:
            return records


def _rescale(
    me: Agent, goal: GoalInstance, traffic_mb_s: float, *, last: bool
) -> Generator[Step, Any, None]:
    instance = estate_of(me).get(goal.instance)
    if instance is None or instance.vnfd.handles_mb_s is None:
        return
    unit, units = instance.vnfd.handles_mb_s, instance.units
    wanted = instance.vnfd.units_for(traffic_mb_s)
    if traffic_mb_s * FULL > unit * units and not last:
        units = _room(me, instance, wanted)
    elif units > 1 and traffic_mb_s < unit * (units - 1) * SLACK:
        units = wanted
    if units == instance.units:
        return
    try:
        yield Act(Scale(instance.id, units, units * unit))
    except PlanFailed:
        return  # no room to grow: it works with a sample
    instance.units = units


def _room(me: Agent, instance: Instance, wanted: int) -> int:
    """Return the units to ask for: as many as fit, one more at least (the log says why not)."""
    free = me.capability(Outlook).free
    units = instance.units + 1
    while units < wanted and instance.vnfd.scaled(units + 1 - instance.units).within(free):
        units += 1
    return units
