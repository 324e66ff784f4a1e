"""The agent: one reasoning cycle (dissertation, 2.2.2 and definitions 2 and 4).

Percepts and messages revise beliefs; changed beliefs and goals generate options; the filter
picks the goals to commit to; plan selection gives each a plan, whose steps are run until all
of them wait for something. The agent does no I/O and reads no clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from phalanx.bdi.beliefs import Belief, BeliefBase
from phalanx.bdi.capability import Capability, Library, PlanSpec
from phalanx.bdi.goals import (
    GoalEnd,
    GoalInstance,
    GoalOutcome,
    Intention,
    PlanEnded,
    already,
    may_start,
    own_work,
)
from phalanx.bdi.steps import (
    Achieve,
    AchieveAll,
    Act,
    Adopt,
    Await,
    Believe,
    Body,
    Drop,
    Forget,
    Note,
    Pause,
    Perceive,
    PlanFailed,
    Steps,
)
from phalanx.domain.actions import Action, Failed, Invoke
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.agents import POP, AgentId, Scope
from phalanx.domain.events import Recorder, Sink
from phalanx.domain.goals import Goal, Predicate
from phalanx.domain.messages import Content, Fact, Message, Performative
from phalanx.domain.network import PopId
from phalanx.domain.trust import EvidenceReply, TrustAction

C = TypeVar("C", bound=Capability)

RETRY_S = 10.0
"""Pause before a standing goal that ran out of plans is tried again."""
MOST_DENIED = 1000
"""Things that are known not to be so: of addresses there may be any number."""

FLEETING = frozenset(
    {
        "action.failed",
        "analysis.done",
        "auction.bid",
        "auction.refused",
        "plan.ended",
        "plan.started",
        "workload.forecast",
    }
)
"""Kinds of events after which an agent remembers nothing more than before."""

_INSTANT = (Believe, Adopt, Forget, Drop, Perceive, Note)


class Perform(Struct, frozen=True):
    """Instruction to the shell: ask the infrastructure, and answer with the token."""

    token: int
    action: Action | TrustAction | Invoke
    cause: str


Instruction = Message | Perform


class Agent:
    """An autonomous agent, as its shell drives it. It may stand at a PoP; several may share one.

    Feed it with ``perceive``, ``receive``, ``answer`` and ``tick``; each returns messages to
    send and actions to perform. ``next_timer`` says when it wants its next ``tick``. Its
    capabilities are called with the agent, and use all the rest.
    """

    __slots__ = (
        "_acts",
        "_agenda",
        "_counts",
        "_goals",
        "_out",
        "_queues",
        "_recorder",
        "_timers",
        "_waiting",
        "active",
        "beliefs",
        "capabilities",
        "cause",
        "changes",
        "drained",
        "draining",
        "heeds",
        "incarnation",
        "library",
        "name",
        "now",
        "parameters",
        "pop",
        "remembers",
        "scope",
    )

    def __init__(
        self,
        name: AgentId,
        library: Library,
        sink: Sink,
        *,
        pop: PopId | None = None,
        scope: Scope = POP,
        parameters: Mapping[str, float] | None = None,
        incarnation: int = 1,
    ) -> None:
        self.name = name
        self.pop = pop
        """Where it stands; None: at no PoP, so nothing can be deployed for it there."""
        self.scope = scope
        """What it looks after."""
        self.library = library
        self.parameters = parameters or {}
        self.incarnation = incarnation
        self.remembers = incarnation
        """The earliest incarnation whose doings this one knows."""
        self.draining = False
        """Whether the agent is about to leave, and takes nothing on any more."""
        self.drained = False
        """Whether the agent has left: its shell ends."""
        self.changes = 0
        """Counts what may have changed in its memory: while it stays, so does the memory."""
        self.now = 0.0
        self.cause = ""
        """The event that the present step follows from."""
        self.heeds: Callable[[AgentId], bool] = lambda _: True
        """Whether this agent listens to another: else all but evidence of itself is ignored."""
        self.beliefs = BeliefBase()
        self.capabilities = {n: c() for n, c in library.capabilities.items()}
        self.active = {n for n, c in self.capabilities.items() if c.vnfd is None}
        """Capabilities that run here: those built in, and those with an instance of their VNF."""
        self._recorder = Recorder(name, sink, self._read_now, f"{name}.{incarnation}")
        self._goals: dict[tuple[Goal, str | None], GoalInstance] = {}
        self._queues: dict[str, list[GoalInstance]] = {}
        self._out: list[Instruction] = []
        self._agenda: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._acts: dict[int, tuple[Callable[[ActionOutcome], Steps | None], str]] = {}
        self._waiting: dict[str, Callable[[object, str], None]] = {}
        self._timers: list[tuple[float, int, str, Callable[[], Steps | None]]] = []
        self._counts = [0, 0, 0]  # timers and actions, messages, goals

    # -- what its shell calls -----------------------------------------------------------

    def start(
        self, now: float, cause: str, capabilities: Mapping[str, Any] | None = None
    ) -> list[Instruction]:
        """Begin to live at ``now``; what capabilities declare with ``starts`` is done."""
        self.now = now
        self.cause = cause
        self.cause = self.record(
            "agent.started",
            scope=self.scope.name,
            pop=self.pop,
            incarnation=self.incarnation,
            capabilities=sorted(capabilities or ()),
        )
        self.call_all("starts")
        return self.settle()

    def drain(self, now: float, cause: str) -> list[Instruction]:
        """Begin to leave: take nothing on, hand over what is open; ``drained`` says when done."""
        self.now = now
        if not self.draining:
            self.draining = True
            self.cause = self._recorder.record("agent.draining", cause)
            self.call_all("drains")
        return self.settle()

    def perceive(self, percept: object, now: float, cause: str = "") -> list[Instruction]:
        """Revise beliefs after a percept (belief revision function B)."""
        self.now = now
        self.cause = getattr(percept, "event", None) or cause or self.cause
        self.revise(percept)
        return self.settle()

    def receive(self, message: Message, now: float) -> list[Instruction]:
        """Take a message in."""
        self.now = now
        if not self.heeds(message.sender) and type(message.content) is not EvidenceReply:
            return []
        for name, method in self.library.handlers(message.content):
            self.cause = message.cause
            try:
                self._call(name, method, message)
            except Exception as fault:  # nothing that another says may end an agent
                self._fault(name, method, repr(fault))
        return self.settle()

    def answer(self, token: int, outcome: ActionOutcome, now: float) -> list[Instruction]:
        """Take the outcome of an action in; late and doubled answers are ignored."""
        self.now = now
        known = self._acts.pop(token, None)
        if known is not None:
            then, cause = known
            self.cause = getattr(outcome, "event", None) or cause
            self.do(then(outcome))
        return self.settle()

    def tick(self, now: float) -> list[Instruction]:
        """Let due timers act."""
        self.now = now
        while self._timers and self._timers[0][0] <= now:
            _, _, self.cause, call = heapq.heappop(self._timers)
            self.do(call())
        return self.settle()

    def next_timer(self) -> float | None:
        """Return when ``tick`` is wanted next; None if nothing waits for the time."""
        return self._timers[0][0] if self._timers else None

    def take_on(self, adopt: Adopt, now: float) -> list[Instruction]:
        """Adopt a goal that comes from outside (an operator, the composition of a system)."""
        self.now = now
        self.adopt(adopt)
        return self.settle()

    def stop(self, now: float, cause: str) -> None:
        """End all goals in order; what the agent would still say is not said."""
        self.now = now
        while self._goals:
            self.cause = cause
            self.end_goal(next(iter(self._goals.values())), GoalOutcome.DROPPED, "the run ended")
        self._agenda.clear()
        self._timers.clear()
        self._acts.clear()
        self._out.clear()

    def settle(self) -> list[Instruction]:
        """Run the agenda to its end; return what is to be said and done."""
        agenda = self._agenda
        while agenda:
            call, arguments = agenda.popleft()
            call(*arguments)
            if self.drained:
                agenda.clear()
        out, self._out = self._out, []  # whoever keeps the list for later keeps no more than this
        return out

    # -- what plans and rules use ---------------------------------------------------------

    def capability(self, kind: type[C]) -> C:
        """Return this agent's capability of class ``kind``."""
        return cast(C, self.capabilities[kind.name])

    def parameter(self, owner: Capability, name: str) -> float:
        """Return the operator's value of a capability's parameter, or its default."""
        return self.parameters.get(name, owner.parameters[name])

    def record(self, kind: str, /, **data: Any) -> str:
        """Record an event caused by what is going on; return its id."""
        if kind not in FLEETING:
            self.changes += 1
        return self._recorder.record(kind, self.cause, **data)

    def tell(
        self, performative: Performative, receiver: AgentId, conversation: str, content: Content
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
        action: Action | TrustAction | Invoke,
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

    def resume(self, key: str, value: object = None) -> None:
        """Go on with the plan that yielded ``Await(key)``, if there is one."""
        go_on = self._waiting.pop(key, None)
        if go_on is not None:
            self._agenda.append((go_on, (value, self.cause)))

    def later(self, call: Callable[..., None], *arguments: object) -> None:
        """Run ``call`` in this cycle, after what is on the agenda."""
        self._agenda.append((call, arguments))

    def do(self, steps: Steps | None) -> None:
        """Run the steps of a rule, with ``self.cause`` as their cause."""
        if steps is None:
            return
        for step in steps:
            self.do_step(step)

    def do_step(self, step: object) -> Any:
        """Run one step that takes no time, and return its result.

        Raises:
            TypeError: if ``step`` is none, or takes time.

        """
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
                raise TypeError(f"{step!r} is no step that a rule can take")
        return None

    def revise(self, percept: object) -> None:
        """Run the belief revision rules for ``percept`` (function B)."""
        cause = self.cause
        for name, method in self.library.percepts(percept):
            if name in self.active:
                self.cause = cause
                self._call(name, method, percept)

    def call_all(self, hook: str) -> None:
        """Call what the capabilities declare for ``starts`` or ``drains``."""
        cause = self.cause
        for name, capability in self.capabilities.items():
            for method in capability.hooks.get(hook, ()):
                self.cause = cause
                self._call(name, method)

    def _call(self, name: str, method: str, *arguments: object) -> None:
        """Run a method of a capability and the steps that it returns.

        An error of a function's own must not end the agent: the log keeps it.
        """
        capability = self.capabilities[name]
        try:
            self.do(getattr(capability, method)(self, *arguments))
        except Exception as fault:
            if capability.vnfd is None:
                raise  # built into agents: ours
            self._fault(name, method, fault)

    def _fault(self, capability: str, method: str, fault: object) -> None:
        self.record("function.failed", capability=capability, method=method, error=str(fault))

    # -- goals ----------------------------------------------------------------------------

    def adopt(self, adopt: Adopt) -> GoalInstance:
        """Take on a goal, or join the same goal if it is open; return it."""
        key = (adopt.goal, adopt.contract)
        open_goal = self._goals.get(key)
        if open_goal is not None:
            open_goal.child = False
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
            queue=adopt.queue,
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
        if goal.queue is not None:
            self._queues.setdefault(goal.queue, []).append(goal)

    def stand_in(self, goal: GoalInstance, instead: GoalInstance) -> None:
        """Let the end of ``instead`` be the end of ``goal``."""

        def ended(end: GoalEnd) -> None:
            self.cause = end.event
            if end.achieved and not self.beliefs.satisfies(goal.goal):
                self._believe(Believe(goal.goal.predicate))
            outcome = GoalOutcome.ACHIEVED if end.achieved else GoalOutcome.FAILED
            self.end_goal(goal, outcome, f"by {end.goal}: {end.reason or end.outcome.value}")

        goal.running = True
        goal.stand_in = instead
        instead.waiters.append(ended)

    def suspend(self, goal: GoalInstance) -> None:
        """Pursue a goal no further, and keep it open."""
        goal.suspended = True
        if goal.intention is not None and goal.end is None:
            self._give_up(goal.intention, goal, "it is suspended")
            goal.intention, goal.running = None, False

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

    def end_goal(self, goal: GoalInstance, outcome: GoalOutcome, reason: str = "") -> None:
        """End a goal from outside its plan (contract cancelled, taken over)."""
        if goal.end is None:
            if goal.intention is not None:
                self._give_up(goal.intention, goal, reason)
            self._finish(goal, outcome, reason)

    # -- beliefs and options --------------------------------------------------------------

    def _believe(self, step: Believe) -> None:
        old = self.beliefs.get(step.predicate)
        if old is not None and old.value == step.value and old.holder in (step.holder, self.name):
            if step.mandate and old.holder == step.holder:
                self.beliefs.put(step.predicate, replace(old, mandate=step.mandate))
            return  # no news, or hearsay about what this agent keeps true itself
        data: dict[str, Any] = {"belief": str(step.predicate), "value": step.value}
        if step.holder is not None:
            data["holder"] = step.holder
        event = self.record("belief.changed", **data)
        belief = Belief(step.value, step.holder, event, self.now, step.mandate)
        self.beliefs.put(step.predicate, belief)
        self._agenda.append((self._generate, (step.predicate, step.value, event)))
        if len(self.beliefs.denied) > MOST_DENIED:
            self._forget(next(iter(self.beliefs.denied)))

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
                self._call(rule.capability, rule.method, predicate)

    # -- filter and plan selection --------------------------------------------------------

    def _consider(self, goal: GoalInstance) -> None:
        """Filter F and plan selection P: commit to ``goal`` if its turn has come."""
        if goal.end is not None or goal.running or goal.suspended:
            return
        if goal.queue is not None and not may_start(goal, self._queues[goal.queue]):
            return  # considered again when a goal of its queue ends
        self.cause = goal.cause
        if already(goal, self.beliefs, self.name):
            self._finish(goal, GoalOutcome.ACHIEVED, "already so")
            return
        chosen = self._select(goal)
        if chosen is None:
            self._exhausted(goal)
            return
        name, spec = chosen
        goal.running = True
        goal.tried.append(f"{name}.{spec.body}")
        self._begin(goal, name, spec)

    def _select(self, goal: GoalInstance) -> tuple[str, PlanSpec] | None:
        for name, spec in self.library.plans(goal.goal):
            if f"{name}.{spec.body}" in goal.tried:
                continue
            if self.capabilities[name].vnfd is not None:
                runs = name in self.active
                if not own_work(goal, name, self.beliefs, self.name, local=spec.local, runs=runs):
                    continue
            if spec.applies is None or spec.applies(self, goal):
                return name, spec
        return None

    def _exhausted(self, goal: GoalInstance, reason: str = "no plan applies") -> None:
        """No plan is left: a standing goal is tried again later, any other has failed."""
        if not goal.standing:
            self._finish(goal, GoalOutcome.FAILED, reason)
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
            self.end_goal(instance, GoalOutcome.DROPPED, reason)

    def _finish(
        self, goal: GoalInstance, outcome: GoalOutcome, reason: str, facts: tuple[Fact, ...] = ()
    ) -> None:
        data = {"goal": str(goal.goal), "instance_id": goal.id, "outcome": outcome.value}
        if reason:
            data["reason"] = reason
        event = self.record("goal.ended", **data)
        goal.end = GoalEnd(goal.goal, outcome, reason, event, facts, goal.final)
        self._goals.pop((goal.goal, goal.contract), None)
        if goal.queue is not None:
            rest = self._queues[goal.queue]
            rest.remove(goal)
            for other in rest:
                self._agenda.append((self._consider, (other,)))
            if not rest:
                del self._queues[goal.queue]
        for waiter in goal.waiters:
            waiter(goal.end)

    # -- intentions -----------------------------------------------------------------------

    def _begin(self, goal: GoalInstance, name: str, spec: PlanSpec) -> None:
        """Commit to ``goal``: follow the plan ``spec`` of the capability ``name``."""
        intention = goal.intention = Intention(name, spec.name, goal.cause)
        goal.children = []
        data: dict[str, Any] = {
            "plan": spec.name,
            "capability": name,
            "goal": str(goal.goal),
            "goal_id": goal.id,
        }
        if goal.instance is not None:
            data["instance"] = goal.instance
        self.cause = goal.cause
        self.cause = intention.cause = self.record("plan.started", **data)
        body: Body = getattr(self.capabilities[name], spec.body)(self, goal)
        intention.begin(body)
        self._run(intention, goal, None)

    def _run(
        self,
        intention: Intention,
        goal: GoalInstance,
        value: object,
        error: PlanFailed | None = None,
    ) -> None:
        """Run the steps of a plan until one takes time, or the plan ends."""
        while intention.open:
            self.cause = intention.cause
            try:
                step = intention.send(value, error)
            except PlanEnded as ended:
                if ended.failure is not None and not ended.fault:
                    goal.final = ended.final
                self._plan_ended(intention, goal, ended)
                return
            error = None
            if not isinstance(step, _INSTANT):
                self._wait(intention, goal, step)
                return
            value = self.do_step(step)
            if type(step) is Believe:
                intention.facts.pop(step.predicate, None)  # a plan may go on for months
                fact = Fact(step.predicate, step.value, step.holder, step.mandate)
                intention.facts[step.predicate] = fact
            elif type(step) is Note:
                intention.cause = self.cause

    def _wait(self, intention: Intention, goal: GoalInstance, step: object) -> None:
        """Begin a step that takes time, and go on with the plan when it is done."""
        intention.turn += 1
        turn = intention.turn

        def go_on(value: object = None, cause: str | None = None) -> None:
            if turn == intention.turn:
                intention.cause = cause or intention.cause
                self._run(intention, goal, value)

        match step:
            case Act(action):
                answered = partial(self._answered, intention, goal, turn, action)
                self.perform(action, answered, intention.cause)
            case Pause(seconds):
                self.call_at(self.now + seconds, go_on)
            case Await(key):
                intention.awaited = key
                self._waiting[key] = go_on
            case Achieve(adopt):
                self._achieve(goal, (adopt,), lambda ends, cause: go_on(ends[0], cause))
            case AchieveAll(adopts):
                self._achieve(goal, adopts, go_on)
            case _:
                text = f"fault in the plan: it yielded {step!r}, which is no step"
                intention.close()
                self._plan_ended(intention, goal, PlanEnded(text, fault=True))

    def _answered(
        self,
        intention: Intention,
        goal: GoalInstance,
        turn: int,
        action: Action | TrustAction | Invoke,
        outcome: ActionOutcome,
    ) -> None:
        if turn != intention.turn:
            return
        intention.cause = self.cause
        if isinstance(outcome, Failed):
            name = type(action).__name__
            intention.cause = self.record("action.failed", action=name, reason=outcome.reason)
            self._run(intention, goal, None, PlanFailed(outcome.reason, final=outcome.final))
        else:
            self._run(intention, goal, outcome)

    def _achieve(
        self,
        goal: GoalInstance,
        adopts: tuple[Adopt, ...],
        then: Callable[[list[GoalEnd | None], str | None], None],
    ) -> None:
        """Adopt the goals that a plan waits for; ``then`` gets their ends in their order."""
        ends: list[GoalEnd | None] = [None] * len(adopts)
        left = len(adopts)

        def ended(index: int, end: GoalEnd) -> None:
            nonlocal left
            ends[index] = end
            left -= 1
            if left == 0:
                then(ends, end.event)

        if not adopts:
            self.later(then, [], None)
        for index, adopt in enumerate(adopts):
            known = self._goals.get((adopt.goal, adopt.contract))
            only_here = known is None or known.child  # else this agent wants it all the same
            child = self.adopt(adopt)
            child.child = only_here
            waiter = partial(ended, index)
            child.waiters.append(waiter)
            goal.children.append((child, waiter))

    def _give_up(self, intention: Intention, goal: GoalInstance, reason: str) -> None:
        """End a plan from outside, and the goals that only it waits for."""
        if not intention.open:
            return
        cause = self.cause
        intention.close()
        self.cause = cause
        self._record_plan_end(intention, goal, reason)
        if intention.awaited is not None:
            self._waiting.pop(intention.awaited, None)
        children, goal.children = goal.children, []
        for child, waiter in children:
            child.waiters.remove(waiter)
            if child.child and not child.waiters:
                self.end_goal(child, GoalOutcome.DROPPED, "nobody waits for it any more")

    def _record_plan_end(
        self, intention: Intention, goal: GoalInstance, failure: str | None
    ) -> str:
        return self.record(
            "plan.ended",
            plan=intention.plan,
            goal=str(goal.goal),
            goal_id=goal.id,
            succeeded=failure is None,
            **({} if failure is None else {"reason": failure}),
        )

    def _plan_ended(self, intention: Intention, goal: GoalInstance, ended: PlanEnded) -> None:
        """Judge a plan that ended: done, or on to the next candidate, the fallback, the end."""
        intention.end()
        failure = ended.failure
        self.cause = intention.cause
        intention.cause = self._record_plan_end(intention, goal, failure)
        if ended.fault:
            self._fault(intention.capability, intention.plan, failure)
        goal.running = False
        if goal.end is not None:
            return
        if failure is None and not goal.standing:
            if self.beliefs.satisfies(goal.goal):
                self._finish(goal, GoalOutcome.ACHIEVED, "", tuple(intention.facts.values()))
                return
            failure = "the plan ended without achieving it"
        self.cause = goal.cause = intention.cause
        if self._select(goal) is not None:
            self._agenda.append((self._consider, (goal,)))
            return
        if not self._fall_back(goal):
            self._exhausted(goal, failure or "the plan ended")

    def _read_now(self) -> float:
        return self.now
