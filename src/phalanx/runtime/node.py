"""A node: the thin shell that runs one agent on the ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from phalanx.bdi import Agent, Instruction, Perform
from phalanx.bdi.memory import Memory, restore
from phalanx.bus import Bus
from phalanx.clock import Clock, Timer
from phalanx.domain.actions import Failed, Outcome, Percept
from phalanx.domain.messages import Message
from phalanx.infrastructure import Infrastructure


class Node:
    """One agent, its timers, its messages and its actions."""

    __slots__ = (
        "_bus",
        "_clock",
        "_due",
        "_infrastructure",
        "_keep",
        "_kept",
        "_on_left",
        "_timer",
        "agent",
        "alive",
    )

    def __init__(
        self,
        agent: Agent,
        clock: Clock,
        bus: Bus,
        infrastructure: Infrastructure,
        *,
        keep: Callable[[Agent], None] | None = None,
        on_left: Callable[[], None] | None = None,
    ) -> None:
        """Make a node that does nothing before ``start`` or ``restore``.

        Args:
            agent: the agent to run.
            clock: its time.
            bus: its messages.
            infrastructure: its PoP.
            keep: called when the agent's memory may have changed, before anything is said or
                done that follows from it: then what others know of it, its memory knows.
            on_left: called once the agent has left in order.

        """
        self.agent = agent
        self.alive = True
        self._keep = keep
        self._on_left = on_left
        self._kept = -1
        self._clock = clock
        self._bus = bus
        self._infrastructure = infrastructure
        self._timer: Timer | None = None
        self._due: float | None = None

    def start(self, cause: str, capabilities: Mapping[str, Any] | None = None) -> None:
        """Let the agent live: it hears, perceives and acts from now on."""
        self._live(self.agent.start(self._clock.now(), cause, capabilities))

    def restore(self, memory: Memory, cause: str) -> None:
        """Let the agent live, going on with what it remembers of its earlier life.

        Raises:
            ValueError: if it is the memory of another agent, or of a later life.

        """
        self._live(restore(self.agent, memory, self._clock.now(), cause))

    def drain(self, cause: str) -> None:
        """Let the agent hand over what it does, and leave."""
        if self.alive:
            self._carry_out(self.agent.drain(self._clock.now(), cause))

    def _live(self, instructions: list[Instruction]) -> None:
        self._carry_out(instructions)
        self._bus.attach(self.agent.name, self._receive)
        if self.agent.pop is not None:
            self._infrastructure.attach(self.agent.name, self.agent.pop, self._perceive)

    def crash(self) -> None:
        """End the agent as kill -9 does: nothing is said, nothing is given back.

        An agent that is to be restored soon ends like this as well: its leases bridge the gap.
        """
        self.alive = False
        self._bus.detach(self.agent.name)
        if self.agent.pop is not None:
            self._infrastructure.detach(self.agent.name, self.agent.pop)
        if self._timer is not None:
            self._timer.cancel()

    def tell(self, percept: object, cause: str) -> None:
        """Let the agent perceive something that does not come from the infrastructure."""
        if self.alive:
            self._carry_out(self.agent.perceive(percept, self._clock.now(), cause))

    def carry_out(self, instructions: list[Instruction]) -> None:
        """Carry out what the agent decided outside the shell (as it was composed)."""
        self._carry_out(instructions)

    def _receive(self, message: Message) -> None:
        if self.alive:
            self._carry_out(self.agent.receive(message, self._clock.now()))

    def _perceive(self, percept: Percept) -> None:
        if self.alive:
            self._carry_out(self.agent.perceive(percept, self._clock.now()))

    def _answer(self, token: int, outcome: Outcome) -> None:
        if self.alive:
            self._carry_out(self.agent.answer(token, outcome, self._clock.now()))

    def _tick(self) -> None:
        self._timer = self._due = None
        if self.alive:
            self._carry_out(self.agent.tick(self._clock.now()))

    def _carry_out(self, instructions: list[Instruction]) -> None:
        if self._keep is not None and self.agent.changes != self._kept:
            self._kept = self.agent.changes
            self._keep(self.agent)
        for instruction in instructions:
            if isinstance(instruction, Perform):
                answer = partial(self._answer, instruction.token)
                pop = self.agent.pop
                if pop is None:
                    nowhere = Failed(f"{self.agent.name} stands at no PoP, so it cannot act on one")
                    self._clock.call_soon(partial(answer, nowhere))
                else:
                    action, cause = instruction.action, instruction.cause
                    self._infrastructure.perform(pop, action, cause, answer)
            else:
                self._bus.send(instruction)
        if self.agent.drained and self.alive:
            self.crash()  # all is said
            if self._on_left is not None:
                self._on_left()
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.agent.next_timer()
        if due is None or due == self._due or not self.alive:
            return
        if self._due is not None and self._due < due:
            return  # it wakes earlier, finds nothing due and sets the timer anew
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._clock.call_at(due, self._tick)
