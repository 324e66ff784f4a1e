"""A network on which nothing is enforced: the log tells what would have been.

Everything else is that of the network behind it: observations, reservations, VNFs, leases.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from phalanx.clock import Clock
from phalanx.domain import actions as does
from phalanx.domain.actions import Enforce, RuleInForce
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.infrastructure import Answer, Infrastructure
from phalanx.infrastructure.reservations.instances import applied


class ObserveOnly:
    """Implements ``Infrastructure``: answers ``Enforce`` as done and hands it to no driver.

    To its agent such a measure holds nothing back, so it is lifted after its hold-down, and decided
    on anew while the attack goes on.

    Args:
        network: observes, and keeps the reservations.
        clock: tells how long a measure would have been in force.
        recorder: records ``measure.withheld`` and ``measure.unneeded``.

    """

    def __init__(self, network: Infrastructure, clock: Clock, recorder: Recorder) -> None:
        self._network, self._clock, self._recorder = network, clock, recorder
        self.attach, self.detach = network.attach, network.detach
        self._withheld: dict[str, tuple[PopId, Enforce, float]] = {}

    def perform(self, pop: PopId, action: does.Action, cause: str, answer: Answer) -> None:
        """Carry out what changes no traffic; note what would."""
        match action:
            case Enforce():
                self._withheld[action.measure] = pop, action, self._clock.now()
                answer(does.Done(self._record("withheld", pop, action, cause)))
                return
            case does.Lift():
                answer(does.Done(self._end(action.measure, "lifted", cause)))
                return
            case does.ReadMeasure():
                answer(does.MeasureSample(0.0, 0.0))
                return
            case does.Stop():
                for measure, (_, asked, _) in list(self._withheld.items()):
                    if asked.instance == action.instance:
                        self._end(measure, f"its instance ended: {action.reason}", cause)
            case does.Transfer():
                for measure, (at, asked, since) in self._withheld.items():
                    if asked.instance == action.instance:
                        moved = replace(asked, instance=action.to)
                        self._withheld[measure] = at, moved, since
            case does.ReadRules():
                answer = self._with_withheld(action.pop, answer)
        self._network.perform(pop, action, cause, answer)

    def _end(self, measure: str, reason: str, cause: str) -> str | None:
        if measure not in self._withheld:
            return None
        pop, action, since = self._withheld.pop(measure)
        lasted = round(self._clock.now() - since, 3)
        return self._record("unneeded", pop, action, cause, lasted_s=lasted, reason=reason)

    def _record(self, kind: str, pop: PopId, action: Enforce, cause: str, **more: Any) -> str:
        match = action.rule.match
        sources = match.sources or ((match.source,) if match.source else ())
        about = {"verdict": action.rule.verdict.value, "target": match.target or match.link}
        more = {**applied(action, pop), **about, "sources": list(sources), **more}
        return self._recorder.record(f"measure.{kind}", cause, **more)

    def _with_withheld(self, pop: PopId, answer: Answer) -> Answer:
        def answered(outcome: does.Outcome) -> None:
            if isinstance(outcome, does.RulesInForce):
                now = self._clock.now()
                added = (
                    RuleInForce(e.instance, e.effect, e.rule, name, e.reason, now - since)
                    for name, (at, e, since) in self._withheld.items()
                    if at == pop
                )
                outcome = replace(outcome, rules=(*outcome.rules, *added), observed_only=True)
            answer(outcome)

        return answered
