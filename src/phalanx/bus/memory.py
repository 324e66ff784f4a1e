"""The bus in one process: messages are handed over through the clock, never in the call."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from math import inf

from phalanx.bus import Bus, Handler
from phalanx.clock import Clock
from phalanx.domain.messages import Message, Performative, rebased

Latency = Callable[[str, str], float]
"""Seconds that a message needs from a sender to a receiver; 0 or less: at once; inf: it is lost."""


class _Mailbox:
    """One attachment of an address. It ends with ``detach``, and with it what it waits for."""

    __slots__ = ("handler", "waiting")

    def __init__(self, handler: Handler) -> None:
        self.handler: Handler | None = handler
        self.waiting = 0


class MemoryBus:
    """Carries messages between agents of one process.

    Messages without latency are delivered in the order they were sent, over all agents.
    With latency, they are delivered in the order they are due, and those due together in
    the order sent: a constant latency keeps the order of each pair of agents.

    Every message that was sent is counted: ``sent`` in sum equals ``delivered`` +
    ``lost_detached`` + ``lost_on_path`` + ``shed`` in sum + ``queued``. An exception of a
    handler goes up to the clock; the messages behind it are delivered nevertheless.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        latency: Latency | None = None,
        capacity: int = 10_000,
        on_shed: Callable[[Message], None] | None = None,
        peers: Iterable[str] = (),
    ) -> None:
        """Make a bus.

        Args:
            clock: makes the deliveries.
            latency: seconds from a sender to a receiver; None: all messages arrive at once.
            capacity: messages that may wait or be on their way for one receiver.
            on_shed: is told of each message that was shed because of ``capacity``.
            peers: addresses known before they attach.

        Raises:
            ValueError: if ``capacity`` is below 1.

        """
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, at least 1 is needed")
        self.delivered = 0
        """Messages handed to a handler."""
        self.lost_detached = 0
        """Messages whose receiver was not attached, or left before they arrived."""
        self.lost_on_path = 0
        """Messages for which the latency is infinite."""
        self.shed: dict[str, int] = {}
        """Messages that a full queue dropped, by receiver."""
        self._clock = clock
        self._latency = latency
        self._capacity = capacity
        self._on_shed = on_shed
        self._peers = set(peers)
        self._sent: dict[str, int] = {}
        self.contents: dict[str, int] = {}
        """Messages sent, by what they hold."""
        self._boxes: dict[str, _Mailbox] = {}
        self._due: deque[tuple[_Mailbox, Message]] = deque()
        self._draining = False

    @property
    def sent(self) -> dict[Performative, int]:
        """Messages sent, by performative; whatever became of them."""
        return {Performative(value): count for value, count in sorted(self._sent.items())}

    @property
    def lost(self) -> int:
        """Messages that found no receiver, or no way to it."""
        return self.lost_detached + self.lost_on_path

    @property
    def queued(self) -> int:
        """Messages that wait or are on their way."""
        return sum(box.waiting for box in self._boxes.values())

    def attach(self, address: str, handler: Handler) -> None:
        """Deliver messages for ``address`` to ``handler`` from now on.

        Raises:
            ValueError: if the address is attached already.

        """
        if address in self._boxes:
            raise ValueError(f"{address!r} is attached already; detach it first")
        self._boxes[address] = _Mailbox(handler)
        self._peers.add(address)

    def detach(self, address: str) -> None:
        """Stop delivering; what waits or is on its way is lost and counted."""
        box = self._boxes.pop(address, None)
        if box is not None:
            self.lost_detached += box.waiting
            box.handler = None

    def send(self, message: Message) -> None:
        """Send to the message's receiver: deliver it later, or shed, lose and count it."""
        # The plain attribute, since hashing an Enum costs as much as the rest of this call.
        performative = message.performative._value_
        sent = self._sent
        sent[performative] = sent.get(performative, 0) + 1
        content = type(message.content).__name__
        self.contents[content] = self.contents.get(content, 0) + 1
        receiver = message.receiver
        box = self._boxes.get(receiver)
        if box is None:
            self.lost_detached += 1
            return
        if box.waiting >= self._capacity:
            self.shed[receiver] = self.shed.get(receiver, 0) + 1
            if self._on_shed is not None:
                self._on_shed(message)
            return
        delay = 0.0 if self._latency is None else self._latency(message.sender, receiver)
        if delay == inf:
            self.lost_on_path += 1
            return
        if delay > 0.0:
            self._clock.call_at(self._clock.now() + delay, partial(self._hand, box, message))
            box.waiting += 1
            return
        box.waiting += 1
        self._due.append((box, message))
        if not self._draining:
            self._draining = True
            self._clock.call_soon(self._drain)

    def peers(self) -> tuple[str, ...]:
        """Return the addresses configured or ever attached, sorted; a dead agent stays one."""
        return tuple(sorted(self._peers))

    def _drain(self) -> None:
        """Deliver what waits now; what that brings about waits for the next turn of the clock."""
        due = self._due
        try:
            for _ in range(len(due)):
                box, message = due.popleft()
                handler = box.handler
                if handler is not None:  # else counted by detach
                    box.waiting -= 1
                    self.delivered += 1
                    handler(message)
        finally:
            if due:
                self._clock.call_soon(self._drain)
            else:
                self._draining = False

    def _hand(self, box: _Mailbox, message: Message) -> None:
        handler = box.handler
        if handler is not None:
            box.waiting -= 1
            self.delivered += 1
            handler(message)


class PerAgentBus:
    """A bus for one agent, that speaks and hears in its own name only; implements ``Bus``.

    It holds in memory what the broker holds between processes (``bus.permissions``): what is
    sent in another's name is refused and counted, and goes nowhere.
    """

    __slots__ = ("_bus", "_fast_s", "_name", "_on_refused", "refused")

    def __init__(
        self,
        bus: Bus,
        name: str,
        on_refused: Callable[[Message], None] | None = None,
        fast_s: Callable[[], float] | None = None,
    ) -> None:
        """Open a door.

        Args:
            bus: what all agents share.
            name: the agent that stands behind the door.
            on_refused: told of each message that it may not send.
            fast_s: how far the agent's clock is ahead now, in seconds; None: it never is.

        """
        self.refused = 0
        """Messages in another's name."""
        self._bus = bus
        self._name = name
        self._on_refused = on_refused
        self._fast_s = fast_s

    def attach(self, address: str, handler: Handler) -> None:
        """Deliver messages for ``address``, which is the agent's name, from now on.

        Raises:
            ValueError: if it is another's name, or attached already.

        """
        self._check(address)
        fast_s = self._fast_s
        if fast_s is None:
            self._bus.attach(address, handler)
        else:
            self._bus.attach(address, lambda message: handler(rebased(message, fast_s())))

    def detach(self, address: str) -> None:
        """Stop delivering, as the bus does.

        Raises:
            ValueError: if it is another's name.

        """
        self._check(address)
        self._bus.detach(address)

    def send(self, message: Message) -> None:
        """Send to the message's receiver, if the sender is the agent; else refuse and count it."""
        if message.sender == self._name:
            fast_s = self._fast_s
            self._bus.send(message if fast_s is None else rebased(message, -fast_s()))
        else:
            self.refused += 1
            if self._on_refused is not None:
                self._on_refused(message)

    def peers(self) -> tuple[str, ...]:
        """Return the addresses of the bus."""
        return self._bus.peers()

    def _check(self, address: str) -> None:
        if address != self._name:
            raise ValueError(f"{self._name!r} cannot hear or leave as {address!r}")
