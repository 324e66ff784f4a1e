"""The agent: one reasoning cycle (dissertation, 2.2.2 and definitions 2 and 4).

Percepts and messages revise beliefs; changed beliefs and goals generate options; the filter
picks the goals to commit to; plan selection gives each a plan, whose steps are run until all
of them wait for something. The agent does no I/O and reads no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from phalanx.bdi.core import Instruction
from phalanx.bdi.deliberation import Deliberation
from phalanx.bdi.goals import Outcome
from phalanx.bdi.library import Library
from phalanx.bdi.memory import Memory
from phalanx.bdi.remembering import recall, remember
from phalanx.bdi.steps import Adopt
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.agents import POP, AgentId, Scope
from phalanx.domain.events import Sink
from phalanx.domain.messages import Message
from phalanx.domain.network import PopId


class Agent(Deliberation):
    """An autonomous agent, as its shell drives it. It may stand at a PoP; several may share one.

    Feed it with ``perceive``, ``receive``, ``answer`` and ``tick``; each returns messages to
    send and actions to perform. ``next_timer`` says when it wants its next ``tick``.
    """

    __slots__ = ("draining", "incarnation", "remembers")

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
        super().__init__(name, pop, scope, library, sink, f"{name}.{incarnation}", parameters)
        self.incarnation = incarnation
        self.remembers = incarnation
        """The earliest incarnation whose doings this one knows."""
        self.draining = False
        """Whether the agent is about to leave, and takes nothing on any more."""

    def start(
        self, now: float, cause: str, capabilities: Mapping[str, Any] | None = None
    ) -> list[Instruction]:
        """Begin to live at ``now``; every capability that has a ``begin`` is called."""
        self.now = now
        self.cause = self._recorder.record(
            "agent.started",
            cause,
            scope=self.scope.name,
            pop=self.pop,
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
