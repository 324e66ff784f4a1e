"""An intention: a goal that the agent is committed to, and the plan that it follows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from phalanx.bdi.goals import Outcome
from phalanx.bdi.steps import (
    Achieve,
    AchieveAll,
    Act,
    Adopt,
    Await,
    Believe,
    Note,
    Pause,
    PlanFailed,
    Step,
)
from phalanx.domain.actions import Failed
from phalanx.domain.messages import Fact

if TYPE_CHECKING:
    from phalanx.bdi.agent import Agent
    from phalanx.bdi.capability import PlanSpec
    from phalanx.bdi.goals import GoalEnd, GoalInstance
    from phalanx.domain.actions import Outcome as ActionOutcome


class Intention:
    """Runs the body of a plan step by step; each waiting step has one way to go on."""

    __slots__ = (
        "_agent",
        "_awaited",
        "_body",
        "_children",
        "_name",
        "_spec",
        "_turn",
        "cause",
        "facts",
        "goal",
    )

    def __init__(self, agent: Agent, goal: GoalInstance, name: str, spec: PlanSpec) -> None:
        self._agent = agent
        self._name = name
        self._spec = spec
        self._turn = 0
        self._children: list[GoalInstance] = []
        self.goal = goal
        self.cause = goal.cause
        self.facts: list[Fact] = []
        self._awaited: str | None = None
        self._body: Any = None

    def begin(self) -> None:
        """Start the plan."""
        agent, goal = self._agent, self.goal
        data: dict[str, Any] = {
            "plan": self._spec.name,
            "capability": self._name,
            "goal": str(goal.goal),
            "goal_id": goal.id,
        }
        if goal.instance is not None:
            data["instance"] = goal.instance
        agent.cause = goal.cause
        self.cause = agent.record("plan.started", **data)
        agent.cause = self.cause
        self._body = getattr(agent.capabilities[self._name], self._spec.body)(agent, goal)
        goal.pursuit = self
        self._run(None)

    def go_on(self, value: object, cause: str) -> None:
        """Resume after ``Await`` with a value and the event that brought it."""
        if self._body is not None:
            self.cause = cause
            self._run(value)

    def close(self) -> None:
        """Give the plan up, and the goals that only it waits for; late answers are ignored."""
        body, self._body = self._body, None
        self._turn += 1
        if self._awaited is not None:
            self._agent.expect_no_more(self._awaited)
        if body is not None:
            body.close()
        for child in self._children:
            if len(child.waiters) == 1:
                self._agent.end_goal(child, Outcome.DROPPED, "nobody waits for it any more")

    def _run(self, value: object, error: PlanFailed | None = None) -> None:
        agent = self._agent
        while self._body is not None:
            agent.cause = self.cause
            try:
                step = self._body.throw(error) if error is not None else self._body.send(value)
            except StopIteration:
                self._end(None)
                return
            except PlanFailed as failed:
                self.goal.final = failed.final
                self._end(str(failed))
                return
            except Exception as fault:  # a function's fault must not end the agent
                self._end(f"fault in the plan: {type(fault).__name__}: {fault}")
                return
            error = None
            if self._waits(step):
                return
            value = agent.do_step(step)
            if type(step) is Believe:
                self.facts.append(Fact(step.predicate, step.value, step.holder))
            elif type(step) is Note:
                self.cause = agent.cause

    def _waits(self, step: Step) -> bool:
        """Begin a step that takes time; False if ``step`` takes none."""
        agent = self._agent
        self._turn += 1
        turn = self._turn
        if type(step) is Act:

            def answered(outcome: ActionOutcome) -> None:
                if turn != self._turn:
                    return
                self.cause = agent.cause
                if isinstance(outcome, Failed):
                    name = type(step.action).__name__
                    self.cause = agent.record("action.failed", action=name, reason=outcome.reason)
                    self._run(None, PlanFailed(outcome.reason, final=outcome.final))
                else:
                    self._run(outcome)

            agent.perform(step.action, answered, self.cause)
        elif type(step) is Pause:

            def woken() -> None:
                if turn == self._turn:
                    self._run(None)

            agent.call_at(agent.now + step.seconds, woken)
        elif type(step) is Await:
            self._awaited = step.key
            agent.expect(step.key, self)
        elif type(step) is Achieve:
            self._achieve((step.adopt,), turn, single=True)
        elif type(step) is AchieveAll:
            self._achieve(step.adopts, turn, single=False)
        else:
            return False
        return True

    def _achieve(self, adopts: tuple[Adopt, ...], turn: int, *, single: bool) -> None:
        ends: list[GoalEnd | None] = [None] * len(adopts)
        left = len(adopts)

        def ended(index: int, end: GoalEnd) -> None:
            nonlocal left
            ends[index] = end
            left -= 1
            if left == 0 and turn == self._turn:
                self.cause = end.event
                self._run(ends[0] if single else ends)

        if not adopts:
            self._agent.later(self._run, [])
        for index, adopt in enumerate(adopts):
            goal = self._agent.adopt(adopt)
            goal.child = True
            goal.waiters.append(partial(ended, index))
            self._children.append(goal)

    def _end(self, failure: str | None) -> None:
        agent, goal = self._agent, self.goal
        self._body = None
        self._turn += 1
        data: dict[str, Any] = {
            "plan": self._spec.name,
            "goal": str(goal.goal),
            "goal_id": goal.id,
            "succeeded": failure is None,
        }
        if failure is not None:
            data["reason"] = failure
        agent.cause = self.cause
        self.cause = agent.record("plan.ended", **data)
        agent.intention_ended(self, failure)
