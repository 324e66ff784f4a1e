"""The agent: one reasoning cycle (dissertation, 2.2.2 and definitions 2 and 4).

Percepts and messages revise beliefs; changed beliefs and goals generate options; the filter
picks the goals to commit to; plan selection gives each a plan, whose steps are run until all
of them wait for something. The agent does no I/O and reads no clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from msgspec import Struct

from phalanx.bdi.beliefs import Belief, BeliefBase
from phalanx.bdi.capability import Capability, PlanSpec
from phalanx.bdi.filtering import already, may_start, own_work
from phalanx.bdi.goals import GoalEnd, GoalInstance, Outcome
from phalanx.bdi.intention import Intention
from phalanx.bdi.library import Library
from phalanx.bdi.memory import FLEETING, Memory
from phalanx.bdi.remembering import recall, remember
from phalanx.bdi.steps import Adopt, Believe, Drop, Forget, Note, Perceive, Steps
from phalanx.domain.actions import Action
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.events import Recorder, Sink
from phalanx.domain.goals import Goal, Predicate
from phalanx.domain.messages import Content, Message, Performative
from phalanx.domain.network import PopId

C = TypeVar("C", bound=Capability)

RETRY_S = 10.0
"""Pause before a standing goal that ran out of plans is tried again."""


class Perform(Struct, frozen=True):
    """Instruction to the shell: ask the infrastructure, and answer with the token."""

    token: int
    action: Action
    cause: str


Instruction = Message | Perform


class Agent:
    """An autonomous agent at one PoP.

    Feed it with ``perceive``, ``receive``, ``answer`` and ``tick``; each returns messages to
    send and actions to perform. ``next_timer`` says when it wants its next ``tick``.
    """

    __slots__ = (
        "_acts",
        "_agenda",
        "_counts",
        "_goals",
        "_out",
        "_recorder",
        "_resumes",
        "_scopes",
        "_timers",
        "active",
        "beliefs",
        "capabilities",
        "cause",
        "changes",
        "drained",
        "draining",
        "incarnation",
        "library",
        "name",
        "now",
        "parameters",
        "remembers",
    )

    def __init__(
        self,
        name: PopId,
        library: Library,
        sink: Sink,
        *,
        parameters: Mapping[str, float] | None = None,
        incarnation: int = 1,
    ) -> None:
        self.name = name
        self.library = library
        self.parameters = parameters or {}
        self.incarnation = incarnation
        self.remembers = incarnation
        """The earliest incarnation whose doings this one knows."""
        self.changes = 0
        """Counts what may have changed in ``memory()``: while it stays, so does the memory."""
        self.draining = False
        """Whether the agent is about to leave, and takes nothing on any more."""
        self.drained = False
        """Whether it has left: its shell ends."""
        self.now = 0.0
        self.cause = ""
        """The event that the present step follows from."""
        self.beliefs = BeliefBase()
        self.capabilities = {n: c() for n, c in library.capabilities.items()}
        self.active = {n for n, c in self.capabilities.items() if c.vnfd is None}
        self._recorder = Recorder(name, sink, self._read_now, f"{name}.{incarnation}")
        self._out: list[Instruction] = []
        self._agenda: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._goals: dict[tuple[Goal, str | None], GoalInstance] = {}
        self._scopes: dict[str, list[GoalInstance]] = {}
        self._acts: dict[int, tuple[Callable[[ActionOutcome], Steps | None], str]] = {}
        self._resumes: dict[str, Intention] = {}
        self._timers: list[tuple[float, int, str, Callable[[], Steps | None]]] = []
        self._counts = [0, 0, 0]  # timers and actions, messages, goals

    # -- what the shell calls ---------------------------------------------------------

    def start(
        self, now: float, cause: str, capabilities: Mapping[str, Any] | None = None
    ) -> list[Instruction]:
        """Begin to live at ``now``; every capability that has a ``begin`` is called."""
        self.now = now
        self.cause = self._recorder.record(
            "agent.started",
            cause,
            incarnation=self.incarnation,
            capabilities=sorted(capabilities or ()),
        )
        self.call_all("begin")
        return self._settle()

    def memory(self) -> Memory:
        """Return what this agent needs to go on after a crash; nothing changes by it."""
        return remember(self)

    def restore(self, memory: Memory, now: float, cause: str) -> list[Instruction]:
        """Begin to live at ``now`` as ``start`` does, with what an earlier life remembered.

        Raises:
            ValueError: if it is the memory of another agent, or of a later life.

        """
        self.now = now
        self.cause = cause
        recall(self, memory)
        return self._settle()

    def drain(self, now: float, cause: str) -> list[Instruction]:
        """Begin to leave: take nothing on, hand over what is open; ``drained`` says when done."""
        self.now = now
        if not self.draining:
            self.draining = True
            self.cause = self._recorder.record("agent.draining", cause)
            self.call_all("drain")
        return self._settle()

    def perceive(self, percept: object, now: float, cause: str = "") -> list[Instruction]:
        """Revise beliefs after a percept (belief revision function B)."""
        self.now = now
        self.cause = getattr(percept, "event", None) or cause or self.cause
        self.revise(percept)
        return self._settle()

    def receive(self, message: Message, now: float) -> list[Instruction]:
        """Take a message in."""
        self.now = now
        for name, method in self.library.handlers(message.content):
            self.cause = message.cause
            self.do(getattr(self.capabilities[name], method)(self, message))
        return self._settle()

    def answer(self, token: int, outcome: ActionOutcome, now: float) -> list[Instruction]:
        """Take the outcome of an action in; late and doubled answers are ignored."""
        self.now = now
        known = self._acts.pop(token, None)
        if known is not None:
            then, cause = known
            self.cause = getattr(outcome, "event", None) or cause
            self.do(then(outcome))
        return self._settle()

    def tick(self, now: float) -> list[Instruction]:
        """Let due timers act."""
        self.now = now
        while self._timers and self._timers[0][0] <= now:
            _, _, self.cause, call = heapq.heappop(self._timers)
            self.do(call())
        return self._settle()

    def next_timer(self) -> float | None:
        """Return when ``tick`` is wanted next; None if nothing waits for the time."""
        return self._timers[0][0] if self._timers else None

    def take_on(self, adopt: Adopt, now: float) -> list[Instruction]:
        """Adopt a goal that comes from outside (an operator, the composition of a system)."""
        self.now = now
        self.adopt(adopt)
        return self._settle()

    def stop(self, now: float, cause: str) -> None:
        """End all goals in order; what the agent would still say is not said."""
        self.now = now
        while self._goals:
            self.cause = cause
            self.end_goal(next(iter(self._goals.values())), Outcome.DROPPED, "the run ended")
        self._agenda.clear()
        self._timers.clear()
        self._acts.clear()
        self._out.clear()

    # -- what capabilities call -------------------------------------------------------

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

    def record(self, kind: str, /, **data: Any) -> str:
        """Record an event caused by what is going on; return its id."""
        if kind not in FLEETING:
            self.changes += 1
        return self._recorder.record(kind, self.cause, **data)

    def tell(
        self, performative: Performative, receiver: PopId, conversation: str, content: Content
    ) -> None:
        """Send a message."""
        self._counts[1] += 1
        self._out.append(
            Message(
                f"{self._recorder.prefix}:{self._counts[1]}",
                performative,
                self.name,
                receiver,
                conversation,
                content,
                self.cause,
            )
        )

    def perform(
        self,
        action: Action,
        then: Callable[[ActionOutcome], Steps | None],
        cause: str | None = None,
    ) -> None:
        """Ask the infrastructure; ``then`` gets the outcome and runs with the same cause."""
        self._counts[0] += 1
        token, cause = self._counts[0], cause or self.cause
        self._acts[token] = then, cause
        self._out.append(Perform(token, action, cause))

    def call_at(self, when: float, call: Callable[[], Steps | None]) -> None:
        """Run ``call`` at time ``when``, with the present cause."""
        self._counts[0] += 1
        heapq.heappush(self._timers, (when, self._counts[0], self.cause, call))

    def new_id(self, word: str) -> str:
        """Return a name unique to this agent in this run."""
        self._counts[2] += 1
        return f"{self._recorder.prefix}/{word}{self._counts[2]}"

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
            tap=adopt.tap or self.name,
            instance=adopt.instance,
            contract=adopt.contract,
            standing=adopt.standing,
        )
        self.note(goal)
        self._agenda.append((self._consider, (goal,)))
        return goal

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

    def call_all(self, moment: str) -> None:
        """Call every capability that has a method of the name ``moment``."""
        cause = self.cause
        for capability in self.capabilities.values():
            call = getattr(capability, moment, None)
            if call is not None:
                self.cause = cause
                self.do(call(self))

    def note(self, goal: GoalInstance) -> None:
        """Count ``goal`` among the open ones, without considering it yet."""
        self._goals[(goal.goal, goal.contract)] = goal
        if goal.scope is not None:
            self._scopes.setdefault(goal.scope, []).append(goal)

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

    def expect(self, key: str, intention: Intention) -> None:
        """Note that ``intention`` waits for ``resume(key)``."""
        self._resumes[key] = intention

    def expect_no_more(self, key: str) -> None:
        """Note that nobody waits for ``resume(key)`` any more."""
        self._resumes.pop(key, None)

    def resume(self, key: str, value: object = None) -> None:
        """Go on with the plan that yielded ``Await(key)``; nobody may be waiting."""
        intention = self._resumes.pop(key, None)
        if intention is not None:
            self._agenda.append((intention.go_on, (value, self.cause)))

    def later(self, call: Callable[..., None], *arguments: object) -> None:
        """Run ``call`` in this cycle, after what is on the agenda."""
        self._agenda.append((call, arguments))

    # -- the cycle --------------------------------------------------------------------

    def _read_now(self) -> float:
        return self.now

    def _settle(self) -> list[Instruction]:
        agenda = self._agenda
        while agenda:
            call, arguments = agenda.popleft()
            call(*arguments)
            if self.drained:
                agenda.clear()
        out = self._out
        if out:
            self._out = []
        return out

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
        Intention(self, goal, name, spec).begin()

    def _select(self, goal: GoalInstance) -> tuple[str, PlanSpec] | None:
        for name, spec in self.library.plans(goal.goal):
            if f"{name}.{spec.body}" in goal.tried:
                continue
            if self.capabilities[name].vnfd is not None:
                runs = name in self.active
                if not own_work(goal, name, spec, self.beliefs, self.name, runs=runs):
                    continue
            if spec.applies is None or spec.applies(self, goal):
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
