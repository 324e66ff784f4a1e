"""A node: the thin shell that runs one agent on the ports."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from phalanx.auction.settings import Settings
from phalanx.bdi import Agent, Perform
from phalanx.bdi.agent import Instruction
from phalanx.bdi.library import Library
from phalanx.bus import Bus
from phalanx.clock import Clock, Timer
from phalanx.domain.actions import Outcome, Percept
from phalanx.domain.events import Sink
from phalanx.domain.messages import Message
from phalanx.domain.network import PopId
from phalanx.infrastructure import Infrastructure


class Node:
    """One agent, its timers, its messages and its actions."""

    __slots__ = ("_bus", "_clock", "_due", "_infrastructure", "_timer", "agent", "alive")

    def __init__(
        self, agent: Agent, clock: Clock, bus: Bus, infrastructure: Infrastructure
    ) -> None:
        self.agent = agent
        self.alive = True
        self._clock = clock
        self._bus = bus
        self._infrastructure = infrastructure
        self._timer: Timer | None = None
        self._due: float | None = None

    def start(self, cause: str, capabilities: Mapping[str, Any] | None = None) -> None:
        """Let the agent live: it hears, perceives and acts from now on."""
        agent = self.agent
        self._carry_out(agent.start(self._clock.now(), cause, capabilities))
        self._bus.attach(agent.name, self._receive)
        self._infrastructure.attach(agent.name, self._perceive)

    def crash(self) -> None:
        """End the agent as kill -9 does: nothing is said, nothing is given back."""
        self.alive = False
        self._bus.detach(self.agent.name)
        self._infrastructure.detach(self.agent.name)
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
        for instruction in instructions:
            if isinstance(instruction, Perform):
                answer = partial(self._answer, instruction.token)
                self._infrastructure.perform(
                    self.agent.name, instruction.action, instruction.cause, answer
                )
            else:
                self._bus.send(instruction)
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


def make_agent(
    name: PopId,
    library: Library,
    settings: Settings,
    sink: Sink,
    *,
    parameters: Mapping[str, float],
    incarnation: int = 1,
) -> Agent:
    """Return an agent whose capabilities know the system's settings."""
    agent = Agent(name, library, sink, parameters=parameters, incarnation=incarnation)
    for capability in agent.capabilities.values():
        if "settings" in type(capability).__annotations__:
            capability.settings = settings  # type: ignore[attr-defined]  # declared by its class
    return agent
