"""A node: the thin shell that runs one agent on the ports, and what it asks for itself.

Whether an agent reaches another is asked as agents ask each other, over their own bus: by the
question that every agent answers in any state, which VNFs run at it (``Query``). So an answer
shows all that a negotiation needs: the brokers let both through, each has the other's keys, and
the other's reasoning is awake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from phalanx.bdi.agent import Agent, Instruction, Perform
from phalanx.bdi.memory import Memory, restore
from phalanx.bus import Bus, Handler
from phalanx.clock import Clock, Timer
from phalanx.domain.actions import Failed, Invoke, Outcome, Percept
from phalanx.domain.messages import Inventory, Message, Performative, Query
from phalanx.domain.trust import TrustAction
from phalanx.fabric.operations import AgentCounters
from phalanx.infrastructure import Infrastructure

Service = Callable[[Any, str, Callable[[Outcome], None]], None]
"""Carries out an action that an agent takes for a cause, and calls with its outcome."""


class Node:
    """One agent, its timers, its messages and its actions."""

    __slots__ = (
        "_bus",
        "_clock",
        "_disk_free_at",
        "_due",
        "_infrastructure",
        "_keep",
        "_kept",
        "_on_left",
        "_services",
        "_timer",
        "agent",
        "alive",
        "disk_delay_s",
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
        services: Mapping[type, Service] | None = None,
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
            services: what carries out actions that need no PoP, by the type of the action.

        """
        self.agent = agent
        self.alive = True
        self.disk_delay_s = 0.0
        """How long the disk takes to keep what is to be said or done."""
        self._disk_free_at = -1.0
        self._keep = keep
        self._on_left = on_left
        self._kept = -1
        self._clock = clock
        self._bus = bus
        self._infrastructure = infrastructure
        self._services = services or {}
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
        if self._lives():
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
        if self._lives():
            self._carry_out(self.agent.perceive(percept, self._clock.now(), cause))

    def _lives(self) -> bool:
        """Whether anything reaches the agent; what it said as it left may wait for the disk."""
        return self.alive and not self.agent.drained

    def carry_out(self, instructions: list[Instruction]) -> None:
        """Carry out what the agent decided outside the shell (as it was composed)."""
        self._carry_out(instructions)

    def _receive(self, message: Message) -> None:
        if self._lives():
            self._carry_out(self.agent.receive(message, self._clock.now()))

    def _perceive(self, percept: Percept) -> None:
        if self._lives():
            self._carry_out(self.agent.perceive(percept, self._clock.now()))

    def _answer(self, token: int, outcome: Outcome) -> None:
        if self._lives():
            self._carry_out(self.agent.answer(token, outcome, self._clock.now()))

    def _tick(self) -> None:
        self._timer = self._due = None
        if self._lives():
            self._carry_out(self.agent.tick(self._clock.now()))

    def _carry_out(self, instructions: list[Instruction]) -> None:
        if self._keep is not None and self.agent.changes != self._kept:
            self._kept = self.agent.changes
            self._keep(self.agent)
        now = self._clock.now()
        if self.disk_delay_s or now <= self._disk_free_at:
            self._disk_free_at = max(now + self.disk_delay_s, self._disk_free_at)
            self._clock.call_at(self._disk_free_at, partial(self._kept_late, instructions))
            self._set_timer()
        else:
            self._execute(instructions)

    def _kept_late(self, instructions: list[Instruction]) -> None:
        if self.alive:
            self._execute(instructions)

    def _execute(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Perform):
                answer = partial(self._answer, instruction.token)
                pop, action, cause = self.agent.pop, instruction.action, instruction.cause
                service = self._services.get(type(action))
                if service is not None:
                    service(action, cause, answer)
                elif isinstance(action, TrustAction | Invoke) or pop is None:
                    nowhere = Failed(f"{self.agent.name} stands at no PoP, so it cannot act on one")
                    self._clock.call_soon(partial(answer, nowhere))
                else:
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


AGAIN_S = 0.5
"""Pause before a question is said again: messages arrive at most once."""

Reached = Callable[[float | None], None]
"""Told how long question and answer took, in seconds of the clock; None: nobody answered."""


class Probes:
    """The bus of one agent, with questions of its shell beside the agent's own; a ``Bus``.

    Answers to those questions do not reach the agent.

    Args:
        bus: the agent's.
        name: the agent's.
        clock: makes the calls.
        life: tells this life of the agent from earlier ones.
        cause: the event that questions follow from.

    """

    def __init__(self, bus: Bus, name: str, clock: Clock, life: int, cause: str) -> None:
        self._bus = bus
        self._name = name
        self._clock = clock
        self._prefix = f"{name}.{life}/probe"
        self._cause = cause
        self._count = 0
        self._sent = self._delivered = 0
        self._open: dict[str, _Probe] = {}
        """By conversation; the caller bounds how many there are."""

    def attach(self, address: str, handler: Handler) -> None:
        """Deliver messages for ``address`` from now on; see ``Bus``."""
        self._bus.attach(address, partial(self._hear, handler))

    def detach(self, address: str) -> None:
        """Stop delivering; see ``Bus``."""
        self._bus.detach(address)

    def send(self, message: Message) -> None:
        """Send a message of the agent; see ``Bus``."""
        self._sent += 1
        self._bus.send(message)

    def counters(self) -> AgentCounters:
        """Return how many messages the agent has sent, and got."""
        return AgentCounters(self._sent, self._delivered)

    def peers(self) -> tuple[str, ...]:
        """Return the peers that the bus was configured with; see ``Bus``."""
        return self._bus.peers()

    def probe(self, peer: str, within_s: float, reached: Reached) -> None:
        """Ask ``peer`` now, and again until it answers; ``reached`` is called once."""
        self._count += 1
        conversation = f"{self._prefix}{self._count}"
        probe = self._open[conversation] = _Probe(peer, self._clock.now(), within_s, reached)
        self._ask(conversation, probe)

    def _ask(self, conversation: str, probe: _Probe) -> None:
        now = self._clock.now()
        if now >= probe.until:
            del self._open[conversation]
            probe.reached(None)
            return
        probe.asked += 1
        self._bus.send(
            Message(
                f"{conversation}-{probe.asked}",
                Performative.QUERY,
                self._name,
                probe.peer,
                conversation,
                Query(),
                self._cause,
            )
        )
        again = min(now + AGAIN_S, probe.until)
        probe.timer = self._clock.call_at(again, partial(self._ask, conversation, probe))

    def _hear(self, handler: Handler, message: Message) -> None:
        self._delivered += 1
        probe = self._open.get(message.conversation)
        if probe is None or message.sender != probe.peer:
            # An answer that came twice, or too late, is about nothing that the agent knows.
            if not (
                message.conversation.startswith(self._prefix)
                and isinstance(message.content, Inventory)
            ):
                handler(message)
            return
        del self._open[message.conversation]
        if probe.timer is not None:
            probe.timer.cancel()
        probe.reached(self._clock.now() - probe.since)


class _Probe:
    """A question that is not answered yet."""

    __slots__ = ("asked", "peer", "reached", "since", "timer", "until")

    def __init__(self, peer: str, now: float, within_s: float, reached: Reached) -> None:
        self.peer = peer
        self.since = now
        self.until = now + within_s
        self.reached = reached
        self.asked = 0
        self.timer: Timer | None = None
