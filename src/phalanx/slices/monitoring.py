"""Monitoring as a service of its own (MS), which loops of several slices share over the fabric.

Source: seed 002, II.A and IV: a monitoring service collects figures of managed entities, and tells
those of the last time steps. It keeps them by slice and entity, so that a loop that was started
anew, or found another service, goes on with what is usual instead of learning it again. A loop
reports all that it has each time: a report that is lost, comes twice, or finds a service that
remembers nothing, leaves no gap. A loop that gets no answer in time has its own figures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability
from phalanx.bdi.steps import Steps
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.series import TimeSeries
from phalanx.fabric.operations import Operation
from phalanx.identity.names import Role
from phalanx.slices.services import LoopService, SliceRequest

MOST_SERIES, MOST_SAMPLES, LONGEST = 16, 120, 64
"""Figures of one entity in one slice, the latest values of each, and signs of their names."""
SAME_S = 1.0
"""Older values that are so near to the first of a report are those of the report."""

Series = Annotated[tuple[TimeSeries, ...], Meta(max_length=MOST_SERIES)]


class SamplesRequest(SliceRequest, frozen=True):
    """Reports figures of an entity in a slice, and asks for those that are kept."""

    entity: str
    at_s: float
    """When it was made, by the clock of ``series``."""
    series: Series = ()
    """All that the reporter has; empty: it only asks."""


class SamplesAnswer(Struct, frozen=True):
    """The figures of an entity that are kept, with those that were just reported."""

    at_s: float
    """When it was made, by the clock of ``series``."""
    series: tuple[TimeSeries, ...]


SAMPLES = Operation(
    "samples",
    SamplesRequest,
    SamplesAnswer,
    True,
    "keep figures of an entity of a slice, and tell them",
    (Role.AGENT,),
)


class MonitoringSystem(LoopService):
    """Keeps what loops report of what they look after, by slice."""

    name = "monitoring-system"
    operation = SAMPLES

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[str, TimeSeries]] = {}
        """By slice and entity, then by name."""

    def objection(self, me: Agent, caller: AgentId, request: SamplesRequest) -> str:  # type: ignore[override]
        """Return why a caller is refused: it reports of its own entity, and reads its slice's."""
        loops = me.capability(LoopContacts).settings.loops
        reason = super().objection(me, caller, request)
        if reason:
            return reason
        if request.series and loops[caller].entity != request.entity:
            return f"{caller} does not look after {request.entity}"
        known = any(
            loop.entity == request.entity and request.slice in loop.slices
            for loop in loops.values()
        )
        return "" if known else f"slice {request.slice} has no entity {request.entity}"

    def serve(self, request: SamplesRequest, now: float) -> SamplesAnswer:
        """Keep what is reported, and return all that is known of the entity in the slice.

        Raises:
            PhalanxError: with one line, if the request cannot be used.

        """
        for number, one in enumerate(request.series):
            path = f"series[{number}]"
            if not 0 < len(one.times) == len(one.values) <= MOST_SAMPLES:
                raise PhalanxError(f"{path}: as many times as values, 1 to {MOST_SAMPLES}")
            if max(map(len, (one.name, one.subject, one.unit))) > LONGEST:
                raise PhalanxError(f"{path}: a name has more than {LONGEST} signs")
            if any(b <= a for a, b in pairwise((*one.times, request.at_s + SAME_S))):
                raise PhalanxError(f"{path}.times: not ascending, or later than at_s")
        kept = self._kept.setdefault((request.slice, request.entity), {})
        names = kept.keys() | {one.name for one in request.series}
        if len(names) > MOST_SERIES:
            raise PhalanxError(f"series: more than {MOST_SERIES} figures of {request.entity}")
        for one in moved(request.series, now - request.at_s):
            kept[one.name] = joined(kept.get(one.name), one)
        return SamplesAnswer(now, tuple(kept.values()))


class SharedMonitoring(Capability):
    """Has what its loop has seen kept by a service, and hears what was seen before."""

    name = "shared-monitoring"

    def share(
        self,
        me: Agent,
        slice_name: str,
        series: Sequence[TimeSeries],
        told: Callable[[tuple[TimeSeries, ...]], Steps | None],
    ) -> None:
        """Report all that this loop has seen of its entity; ``told`` gets what is known of it.

        Nothing is known where no service answers in time, or none that is trusted.
        """

        def answered(answer: Any, _: AgentId) -> Steps | None:
            return told(moved(answer.series, me.now - answer.at_s) if answer else ())

        entity = me.capability(LoopContacts).own(me).entity
        request = SamplesRequest(slice_name, entity, me.now, tuple(series))
        MonitoringSystem.ask(me, request, answered)


def moved(series: Sequence[TimeSeries], by_s: float) -> tuple[TimeSeries, ...]:
    """Return series by another clock."""
    return tuple(replace(one, times=tuple(t + by_s for t in one.times)) for one in series)


def joined(before: TimeSeries | None, after: TimeSeries) -> TimeSeries:
    """Return a series with what was seen before its first value put in front."""
    if before is None:
        return after
    number = sum(time < after.times[0] - SAME_S for time in before.times)
    times = (*before.times[:number], *after.times)[-MOST_SAMPLES:]
    values = (*before.values[:number], *after.values)[-MOST_SAMPLES:]
    return replace(after, times=times, values=values)
