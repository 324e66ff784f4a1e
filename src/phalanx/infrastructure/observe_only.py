"""A network on which nothing is enforced: the log tells what would have been.

Everything else is that of the network behind it: observations, reservations, VNFs, leases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from phalanx.clock import Clock
from phalanx.domain.actions import (
    Action,
    Done,
    Enforce,
    Failed,
    Lift,
    MeasureSample,
    Outcome,
    Percept,
    ReadMeasure,
    ReadRules,
    RuleInForce,
    RulesInForce,
    Stop,
)
from phalanx.domain.agents import AgentId
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.infrastructure import Answer, Infrastructure


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
        self._withheld: dict[str, tuple[PopId, Enforce, float]] = {}

    def attach(self, agent: AgentId, pop: PopId, perceive: Callable[[Percept], None]) -> None:
        """See ``Infrastructure``."""
        self._network.attach(agent, pop, perceive)

    def detach(self, agent: AgentId, pop: PopId) -> None:
        """See ``Infrastructure``."""
        self._network.detach(agent, pop)

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Carry out what changes no traffic; note what would."""
        match action:
            case Enforce() if action.measure in self._withheld:
                answer(Failed(f"measure {action.measure} exists already"))
            case Enforce():
                self._withheld[action.measure] = pop, action, self._clock.now()
                answer(Done(self._record("withheld", pop, action, cause)))
            case Lift():
                answer(Done(self._end(action.measure, "lifted", cause)))
            case ReadMeasure():
                answer(MeasureSample(0.0, 0.0))
            case ReadRules():
                self._network.perform(pop, action, cause, self._with_withheld(action.pop, answer))
            case Stop():
                for measure, (_, asked, _) in list(self._withheld.items()):
                    if asked.instance == action.instance:
                        self._end(measure, f"its instance ended: {action.reason}", cause)
                self._network.perform(pop, action, cause, answer)
            case _:
                self._network.perform(pop, action, cause, answer)

    def _end(self, measure: str, reason: str, cause: str) -> str | None:
        if measure not in self._withheld:
            return None
        pop, action, since = self._withheld.pop(measure)
        lasted = round(self._clock.now() - since, 3)
        return self._record("unneeded", pop, action, cause, lasted_s=lasted, reason=reason)

    def _record(self, kind: str, pop: PopId, action: Enforce, cause: str, **more: Any) -> str:
        match = action.rule.match
        named = {"target": match.target, "link": match.link, "protocol": match.protocol}
        sources = match.sources or ((match.source,) if match.source else ())
        about = {key: value for key, value in named.items() if value is not None}
        if sources:
            about["sources"] = list(sources)  # type: ignore[assignment]
        if action.reason:
            more.setdefault("reason", action.reason)
        return self._recorder.record(
            f"measure.{kind}",
            cause,
            measure=action.measure,
            instance=action.instance,
            pop=pop,
            effect=action.effect,
            verdict=action.rule.verdict.value,
            **about,
            **action.rule.parameters,
            **more,
        )

    def _with_withheld(self, pop: PopId, answer: Answer) -> Answer:
        def answered(outcome: Outcome) -> None:
            if isinstance(outcome, RulesInForce):
                now = self._clock.now()
                added = (
                    RuleInForce(e.instance, e.effect, e.rule, name, e.reason, now - since)
                    for name, (at, e, since) in self._withheld.items()
                    if at == pop
                )
                outcome = replace(outcome, rules=(*outcome.rules, *added), observed_only=True)
            answer(outcome)

        return answered
