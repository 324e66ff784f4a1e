"""Scaling of analysers with the traffic that they look at (dissertation, 5.4.1 and 7.2)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from msgspec.structs import replace

from phalanx.auction.contracts import VnfInstance
from phalanx.auction.outlook import Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, PlanFailed, Step
from phalanx.coordination.measures import inventory_of
from phalanx.domain.actions import FlowRecords, FlowStats, Observe, Scale

TURNS = 4
"""A long observation is made in so many turns, between which the instance may be scaled."""
SHORT_S = 4.0
"""A shorter one has a brief turn, to fit the instance alone, and one for all the rest: what is
held open for long shows little in each part of a divided window."""
BRIEF = 0.2
"""Share of the brief turn."""
WHOLE = 0.98
"""Coverage from which records are no sample."""
FULL = 0.9
"""Coverage below which an analyser is too small for its traffic."""
LEAST = 1e-9
"""Coverage that is taken for granted, so that traffic can be worked out from what was seen."""
AMPLE = 4.0
"""One unit that can take so many times the traffic needs no turn to find out whether it fits."""
SLACK = 0.8
"""Load, relative to one unit less, below which an analyser is too large."""


def fit_to_traffic(
    me: Agent, goal: GoalInstance, observe: Observe
) -> Generator[Step, Any, FlowRecords]:
    """Observe in turns, scaling the goal's instance up or down as the traffic asks for.

    An analyser that cannot grow goes on with the share of the traffic that it can take.
    """
    if observe.seconds < SHORT_S:
        rest = observe
        if not _ample(me, goal):
            brief = yield from _look(goal, replace(observe, seconds=observe.seconds * BRIEF))
            yield from _fit(me, goal, brief, observe.sampling)
            rest = replace(observe, seconds=observe.seconds * (1 - BRIEF))
        return _certain((yield from _look(goal, rest)))
    flows: list[FlowStats] = []
    seconds, coverage, unlisted = 0.0, 0.0, 0
    for turn in range(1, TURNS + 1):
        records = yield from _look(goal, replace(observe, seconds=observe.seconds / TURNS))
        flows += _certain(records).flows
        seconds += records.seconds
        coverage += records.coverage / TURNS
        unlisted += records.unlisted
        yield from _fit(me, goal, records, observe.sampling, last=turn == TURNS)
    return FlowRecords(tuple(flows), seconds, coverage, unlisted)


def _ample(me: Agent, goal: GoalInstance) -> bool:
    """Whether there is nothing to fit: much room, as far as is known, and no path in between."""
    instance, traffic_mb_s = inventory_of(me).get(goal.instance), goal.traffic_now()
    if instance is None or instance.vnfd.handles_mb_s is None or goal.tap != me.pop:
        return False
    return instance.units == 1 and 0 < AMPLE * traffic_mb_s < instance.vnfd.handles_mb_s


def _fit(
    me: Agent, goal: GoalInstance, records: FlowRecords, sampling: float, *, last: bool = False
) -> Generator[Step, Any, None]:
    traffic = _mb_s(records) / max(records.coverage, LEAST) / sampling
    narrow = records.coverage < FULL
    yield from _rescale(me, goal, traffic, narrow=narrow, last=last)


def _certain(records: FlowRecords) -> FlowRecords:
    """Return what records certainly say: a sample does not show which connections have ended."""
    if records.coverage >= WHOLE:
        return records
    return replace(records, flows=tuple(replace(flow, open=0) for flow in records.flows))


def _mb_s(records: FlowRecords) -> float:
    """Return the traffic that was seen; what is not listed is taken to be like what is."""
    octets = sum(flow.octets for flow in records.flows)
    packets = sum(flow.packets for flow in records.flows)
    unlisted = octets * records.unlisted / packets if packets else 0.0
    return (octets + unlisted) / records.seconds / 1e6


def effective_s(records: FlowRecords, sampling: float = 1.0) -> float:
    """Return in how many seconds all of the traffic would have given these counts."""
    return records.seconds * max(records.coverage, LEAST) * sampling


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
    me: Agent, goal: GoalInstance, traffic_mb_s: float, *, narrow: bool, last: bool
) -> Generator[Step, Any, None]:
    """Change the units to what the traffic needs, or reserve more of a path that is too narrow."""
    instance = inventory_of(me).get(goal.instance)
    if instance is None or instance.vnfd.handles_mb_s is None:
        return
    unit, units = instance.vnfd.handles_mb_s, instance.units
    wanted = instance.vnfd.units_for(traffic_mb_s)
    if traffic_mb_s * FULL > unit * units and not last:
        units = _room(me, instance, wanted)
    elif units > 1 and traffic_mb_s < unit * (units - 1) * SLACK:
        units = wanted
    if units == instance.units and (last or not narrow):
        return
    try:
        yield Act(Scale(instance.id, units, units * unit))
    except PlanFailed:
        return  # no room to grow: it works with a sample
    instance.units = units
    me.changes += 1


def _room(me: Agent, instance: VnfInstance, wanted: int) -> int:
    """Return the units to ask for: as many as fit, one more at least (the log says why not)."""
    free = me.capability(Outlook).free
    units = instance.units + 1
    while units < wanted and instance.vnfd.scaled(units + 1 - instance.units).within(free):
        units += 1
    return units
