"""How beliefs become goals, and goals plans (dissertation, 2.2.2 and definitions 2 and 4).

Changed beliefs and goals generate options; the filter picks the goals to commit to; plan
selection gives each a plan, and judges its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from phalanx.bdi.beliefs import Belief, BeliefBase
from phalanx.bdi.capability import Capability, PlanSpec
from phalanx.bdi.core import Core
from phalanx.bdi.filtering import already, may_start, own_work
from phalanx.bdi.goals import GoalEnd, GoalInstance, Outcome
from phalanx.bdi.intention import Intention
from phalanx.bdi.library import Library
from phalanx.bdi.steps import Adopt, Believe, Drop, Forget, Note, Perceive, Steps
from phalanx.domain.agents import AgentId, Scope
from phalanx.domain.events import Sink
from phalanx.domain.goals import Goal, Predicate
from phalanx.domain.network import PopId

if TYPE_CHECKING:
    from phalanx.bdi.agent import Agent

C = TypeVar("C", bound=Capability)

RETRY_S = 10.0
"""Pause before a standing goal that ran out of plans is tried again."""


class Deliberation(Core):
    """Revises beliefs, takes goals on, and pursues them with the plans of a library."""

    __slots__ = ("_goals", "_scopes", "active", "beliefs", "capabilities", "library", "parameters")

    def __init__(
        self,
        name: AgentId,
        pop: PopId | None,
        scope: Scope,
        library: Library,
        sink: Sink,
        incarnation: str,
        parameters: Mapping[str, float] | None,
    ) -> None:
        super().__init__(name, pop, scope, sink, incarnation)
        self.library = library
        self.parameters = parameters or {}
        self.beliefs = BeliefBase()
        self.capabilities = {n: c() for n, c in library.capabilities.items()}
        self.active = {n for n, c in self.capabilities.items() if c.vnfd is None}
        self._goals: dict[tuple[Goal, str | None], GoalInstance] = {}
        self._scopes: dict[str, list[GoalInstance]] = {}

    @property
    def _me(self) -> Agent:
        """Itself, as plans and rules know it."""
        return cast("Agent", self)

    def capability(self, kind: type[C]) -> C:
        """Return this agent's capability of class ``kind``."""
        return cast(C, self.capabilities[kind.name])

    def parameter(self, owner: Capability, name: str) -> float:
        """Return the operator's value of a capability's parameter, or its default."""
        return self.parameters.get(name, owner.parameters[name])

    def do(self, steps: Steps | None) -> None:
        """Run the steps of a rule, with ``self.cause`` as their cause."""
        if steps is None:
            return
        for step in steps:
            self.do_step(step)

    def do_step(self, step: object) -> Any:
        """Run one step that takes no time, and return its result."""
        match step:
            case Believe():
                self._believe(step)
            case Adopt():
                return self.adopt(step)
            case Forget():
                self._forget(step.predicate)
            case Drop():
                self._drop(step.goal, step.reason)
            case Perceive():
                self.revise(step.percept)
            case Note():
                self.cause = self.record(step.kind, **step.data)
                return self.cause
            case _:
                raise TypeError(f"a rule cannot wait: {step!r}")
        return None

    def revise(self, percept: object) -> None:
        """Run the belief revision rules for ``percept`` (function B)."""
        cause = self.cause
        for name, method in self.library.percepts(percept):
            if name in self.active:
                self.cause = cause
                self.do(getattr(self.capabilities[name], method)(self, percept))

    def call_all(self, moment: str) -> None:
        """Call every capability that has a method of the name ``moment``."""
        cause = self.cause
        for capability in self.capabilities.values():
            call = getattr(capability, moment, None)
            if call is not None:
                self.cause = cause
                self.do(call(self))

    # -- goals ------------------------------------------------------------------------

    def adopt(self, adopt: Adopt) -> GoalInstance:
        """Take on a goal, or join the same goal if it is open; return it."""
        key = (adopt.goal, adopt.contract)
        open_goal = self._goals.get(key)
        if open_goal is not None:
            return open_goal
        if adopt.afresh:
            self._forget(adopt.goal.predicate)
        goal_id = self.new_id("goal")
        data: dict[str, Any] = {
            "goal": str(adopt.goal),
            "instance_id": goal_id,
            "priority": adopt.priority,
        }
        if adopt.contract:
            data["contract"] = adopt.contract
        goal = GoalInstance(
            goal_id,
            adopt.goal,
            self.record("goal.adopted", **data),
            priority=adopt.priority,
            scope=adopt.scope,
            traffic_mb_s=adopt.traffic_mb_s,
            tap=adopt.tap or self.pop or "",
            instance=adopt.instance,
            contract=adopt.contract,
            standing=adopt.standing,
        )
        self.note(goal)
        self._agenda.append((self._consider, (goal,)))
        return goal

    def note(self, goal: GoalInstance) -> None:
        """Count ``goal`` among the open ones, without considering it yet."""
        self._goals[(goal.goal, goal.contract)] = goal
        if goal.scope is not None:
            self._scopes.setdefault(goal.scope, []).append(goal)

    def stand_in(self, goal: GoalInstance, instead: GoalInstance) -> None:
        """Let the end of ``instead`` be the end of ``goal``."""

        def ended(end: GoalEnd) -> None:
            self.cause = end.event
            if end.achieved and not self.beliefs.satisfies(goal.goal):
                self._believe(Believe(goal.goal.predicate))
            outcome = Outcome.ACHIEVED if end.achieved else Outcome.FAILED
            self.end_goal(goal, outcome, f"by {end.goal}: {end.reason or end.outcome.value}")

        goal.running = True
        goal.stand_in = instead
        instead.waiters.append(ended)

    def suspend(self, goal: GoalInstance) -> None:
        """Pursue a goal no further, and keep it open."""
        goal.suspended = True
        if goal.pursuit is not None and goal.end is None:
            self._stop_intention(goal)
            goal.pursuit, goal.running = None, False

    def go_on_with(self, goal: GoalInstance) -> None:
        """Pursue a suspended goal."""
        goal.suspended = False
        self._agenda.append((self._consider, (goal,)))

    def open_goals(self) -> list[GoalInstance]:
        """Return the goals that have not ended, in the order of their adoption."""
        return list(self._goals.values())

    def open_goal(self, goal: Goal) -> GoalInstance | None:
        """Return this agent's own pursuit of ``goal``; None if there is none."""
        return self._goals.get((goal, None))

    def end_goal(self, goal: GoalInstance, outcome: Outcome, reason: str = "") -> None:
        """End a goal from outside its plan (contract cancelled, taken over)."""
        if goal.end is None:
            self._stop_intention(goal)
            self._finish(goal, outcome, reason)

    def intention_ended(self, intention: Intention, failure: str | None) -> None:
        """Judge a plan that ended: done, or on to the next candidate, the fallback, the end."""
        goal = intention.goal
        goal.running = False
        if goal.end is not None:
            return
        if failure is None and not goal.standing:
            if self.beliefs.satisfies(goal.goal):
                self._finish(goal, Outcome.ACHIEVED, "", tuple(intention.facts))
                return
            failure = "the plan ended without achieving it"
        self.cause = intention.cause
        goal.cause = intention.cause
        if self._select(goal) is not None:
            self._agenda.append((self._consider, (goal,)))
            return
        if not self._fall_back(goal):
            self._exhausted(goal, failure or "the plan ended")

    # -- the cycle --------------------------------------------------------------------

    def _believe(self, step: Believe) -> None:
        old = self.beliefs.get(step.predicate)
        if old is not None and old.value == step.value and old.holder in (step.holder, self.name):
            return  # no news, or hearsay about what this agent keeps true itself
        data: dict[str, Any] = {"belief": str(step.predicate), "value": step.value}
        if step.holder is not None:
            data["holder"] = step.holder
        event = self.record("belief.changed", **data)
        self.beliefs.put(step.predicate, Belief(step.value, step.holder, event, self.now))
        self._agenda.append((self._generate, (step.predicate, step.value, event)))

    def _forget(self, predicate: Predicate) -> None:
        belief = self.beliefs.get(predicate)
        if belief is None or (belief.value and belief.holder == self.name):
            return  # what this agent keeps true itself is so until it undoes it
        self.beliefs.remove(predicate)
        event = self.record("belief.changed", belief=str(predicate), value=None)
        self._agenda.append((self._generate, (predicate, None, event)))

    def _generate(self, predicate: Predicate, value: bool | None, event: str) -> None:
        """Option generation O: run the rules that this change of belief triggers."""
        for rule in self.library.rules(predicate):
            if rule.value is value and (rule.always or rule.capability in self.active):
                self.cause = event
                self.do(getattr(self.capabilities[rule.capability], rule.method)(self, predicate))

    def _consider(self, goal: GoalInstance) -> None:
        """Filter F and plan selection P: commit to ``goal`` if its turn has come."""
        if goal.end is not None or goal.running or goal.suspended:
            return
        if goal.scope is not None and not may_start(goal, self._scopes[goal.scope]):
            return  # considered again when a goal of its scope ends
        self.cause = goal.cause
        if already(goal, self.beliefs, self.name):
            self._finish(goal, Outcome.ACHIEVED, "already so")
            return
        chosen = self._select(goal)
        if chosen is None:
            self._exhausted(goal)
            return
        name, spec = chosen
        goal.running = True
        goal.tried.append(f"{name}.{spec.body}")
        Intention(self._me, goal, name, spec).begin()

    def _select(self, goal: GoalInstance) -> tuple[str, PlanSpec] | None:
        for name, spec in self.library.plans(goal.goal):
            if f"{name}.{spec.body}" in goal.tried:
                continue
            if self.capabilities[name].vnfd is not None:
                runs = name in self.active
                if not own_work(goal, name, spec, self.beliefs, self.name, runs=runs):
                    continue
            if spec.applies is None or spec.applies(self._me, goal):
                return name, spec
        return None

    def _exhausted(self, goal: GoalInstance, reason: str = "no plan applies") -> None:
        """No plan is left: a standing goal is tried again later, any other has failed."""
        if not goal.standing:
            self._finish(goal, Outcome.FAILED, reason)
            return

        def again() -> None:
            goal.tried.clear()
            self._agenda.append((self._consider, (goal,)))

        self.call_at(self.now + RETRY_S, again)

    def _fall_back(self, goal: GoalInstance) -> bool:
        """Adopt the goal that stands in for a failed one; its end is the end of ``goal``."""
        if goal.contract is not None:
            return False
        for name, method in self.library.fallbacks(goal.goal):
            mark = f"{name}.{method}"
            if mark in goal.tried:
                continue
            goal.tried.append(mark)
            adopt = getattr(self.capabilities[name], method)(self, goal)
            if adopt is None:
                continue
            self.stand_in(goal, self.adopt(adopt))
            return True
        return False

    def _drop(self, goal: Goal, reason: str) -> None:
        for instance in [g for (wanted, _), g in self._goals.items() if wanted == goal]:
            self.end_goal(instance, Outcome.DROPPED, reason)

    def _stop_intention(self, goal: GoalInstance) -> None:
        if goal.pursuit is not None:
            goal.pursuit.close()

    def _finish(
        self, goal: GoalInstance, outcome: Outcome, reason: str, facts: tuple[Any, ...] = ()
    ) -> None:
        data = {"goal": str(goal.goal), "instance_id": goal.id, "outcome": outcome.value}
        if reason:
            data["reason"] = reason
        event = self.record("goal.ended", **data)
        goal.end = GoalEnd(goal.goal, outcome, reason, event, facts, goal.final)
        self._goals.pop((goal.goal, goal.contract), None)
        if goal.scope is not None:
            rest = self._scopes[goal.scope]
            rest.remove(goal)
            for other in rest:
                self._agenda.append((self._consider, (other,)))
            if not rest:
                del self._scopes[goal.scope]
        for waiter in goal.waiters:
            waiter(goal.end)
