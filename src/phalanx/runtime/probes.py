"""Whether an agent reaches another: asked as agents ask each other, over their own bus.

The question is the one that every agent answers in any state, which VNFs run at it
(``Query``). So an answer shows all that a negotiation needs: the brokers let both through,
each has the other's keys, and the other's reasoning is awake.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from phalanx.bus import Bus, Handler
from phalanx.clock import Clock, Timer
from phalanx.domain.messages import Inventory, Message, Performative, Query
from phalanx.fabric.operations import AgentCounters

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
