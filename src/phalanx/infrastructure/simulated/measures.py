"""Limits, blocks and splits that instances enforce."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from phalanx.clock import Clock
from phalanx.domain.actions import Done, Enforce, Failed, MeasureSample, Outcome
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.domain.rules import TrafficRule, TrafficVerdict
from phalanx.infrastructure.reservations.instances import Instance, MeasureLedger, applied
from phalanx.infrastructure.simulated.engine import TrafficEngine
from phalanx.infrastructure.simulated.flows import OFFERED, Flows

_LATELY_S = 2.0
"""Seconds over which ``ReadMeasure`` averages at least."""


@dataclass(slots=True, eq=False)
class _Measure:
    instance: Instance
    rule: TrafficRule
    effect: str
    stage: int
    since: float
    read: float = inf
    """When it was read last; inf: never."""


class SimulatedMeasures(MeasureLedger[_Measure]):
    """The measures in force; each belongs to an instance and ends with it."""

    def __init__(
        self, clock: Clock, flows: Flows, engine: TrafficEngine, recorder: Recorder
    ) -> None:
        super().__init__(recorder, clock)
        self._flows = flows
        self._engine = engine

    def enforce(self, action: Enforce, instance: Instance, cause: str) -> Outcome:
        """Put a measure into force."""
        if action.measure in self._measures:
            return Failed(f"measure {action.measure} exists already")
        rule = action.rule
        problem = rule.problem(OFFERED)
        if problem is not None:
            return Failed(problem, final=True)
        if rule.match.link is not None and rule.match.link not in self._flows.stages:
            return Failed(f"no link {rule.match.link}", final=True)
        host = self._flows.hosts.get(rule.match.target or "")
        if rule.verdict is TrafficVerdict.ENLARGE and (host is None or host.at != instance.pop):
            return Failed(f"{rule.match.target} is no host at {instance.pop}")
        if self._flows.cut_off(rule, instance.pop):
            return Failed(f"{instance.pop} is cut off: no traffic can be led there")
        stage = self._flows.apply(action.measure, rule, instance.pop)
        if rule.parameters.get("encrypted"):
            rows = self._flows.towards(rule.match.target or "", 0, 1, rule.match.entry)
            if read := {link for way in self._flows.routes(rows) for link in way.refused}:
                self._flows.lift(action.measure)
                return Failed(f"it would pass {', '.join(sorted(read))} in the clear, and may not")
        self._measures[action.measure] = _Measure(
            instance, rule, action.effect, stage, self._clock.now()
        )
        instance.measures[action.measure] = None
        self._engine.wake()
        return Done(self._recorder.record("measure.applied", cause, **applied(action, instance)))

    def move(self, instance: Instance, to: Instance) -> None:
        """Hand the measures of one instance to another of the same PoP; traffic is not told."""
        for measure in instance.measures:
            self._measures[measure].instance = to
        to.measures.update(instance.measures)
        instance.measures.clear()

    def read(self, measure: str, pop: PopId) -> Outcome:
        """Return what a measure of ``pop`` passed and held back since it was last read.

        Or over the last 2 s, or its life: of two readings 5 s apart none misses a short burst.
        """
        found = self._at(measure, pop)
        if found is None:
            return Failed(f"no measure {measure} at {pop}")
        now = self._clock.now()
        span = min(now - found.since, max(now - found.read, _LATELY_S))
        found.read = now
        passed, held_back = self._engine.averages(found.stage, span)
        return MeasureSample(passed, held_back, self._flows.cut_off(found.rule, pop))

    def _undo(self, name: str, measure: _Measure, *, process_ends: bool = False) -> None:  # noqa: ARG002
        self._flows.lift(name)
        self._engine.wake()
