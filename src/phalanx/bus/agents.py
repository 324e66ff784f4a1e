"""The bus of one agent over an exchange: the Bus port where agents are processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from phalanx.bus import Handler, subjects
from phalanx.bus.client import BrokerClient, BrokerError, Delivery, Subscription
from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import RefusedFrame
from phalanx.bus.wire import WireError, decode, encode
from phalanx.clock import Clock, Timer
from phalanx.domain.messages import ANY, Message, Performative, rebased

OnRefused = Callable[[str, str, str], None]
"""Told why something was refused, its subject, and who spoke."""

_TO_MANY = (Performative.CFP, Performative.REJECT)
_REMEMBERED = 4096
"""Subjects whose speaker need not be read again."""


class AgentBus:
    """Carries messages from and to one agent; implements ``Bus``.

    The exchange vouches for the speaker of a subject, the seal for the peer; a message whose
    sender is neither, or whose receiver is not this agent, is refused. Messages to oneself go
    through the clock alone. Moments travel as durations from now, since clocks may differ.
    """

    def __init__(
        self,
        exchange: BrokerClient,
        clock: Clock,
        seal: Seal,
        *,
        peers: Iterable[str] = (),
        on_refused: OnRefused | None = None,
    ) -> None:
        """Make a bus; nothing is heard before ``attach``.

        Args:
            exchange: of the agent.
            clock: makes the calls.
            seal: of the agent in its present life.
            peers: the agents to speak of, this one among them or not.
            on_refused: told of what is refused, for the audit.

        """
        self.delivered = 0
        """Messages handed to the handler."""
        self.lost = 0
        """Messages that could not be sent or came when no handler was attached."""
        self.refused: dict[str, int] = {}
        """What was not taken, by reason: ``forged`` (not its sender's, or not for this agent),
        ``garbage``, and the reasons of the seal, such as ``replayed`` and ``stale``."""
        self._exchange = exchange
        self._clock = clock
        self._seal = seal
        self._name = exchange.identity.name
        self._domain = exchange.identity.domain
        self._peers = tuple(sorted({*peers, self._name}))
        self._on_refused = on_refused
        self._sent: dict[str, int] = {}
        self._subjects: dict[str, str] = {}
        self._speakers: dict[str, str] = {}
        self._patterns = (
            subjects.pattern(self._domain, "msg", self._name, subjects.ONE),
            subjects.pattern(self._domain, "mcast", subjects.ONE),
        )
        self._multicast = subjects.multicast(self._domain, self._name)
        self._gathered: list[Message] = []
        """Messages to many that say the same, and are sent at the end of this turn."""
        self._handler: Handler | None = None
        self._subscriptions: list[Subscription] = []
        self._timer: Timer | None = None
        self._due: float | None = None

    @property
    def sent(self) -> dict[Performative, int]:
        """Messages sent, by performative; whatever became of them."""
        return {Performative(value): count for value, count in sorted(self._sent.items())}

    @property
    def shed(self) -> dict[str, int]:
        """What full queues dropped: by ``seal``, by ``out`` to others, ``in`` to this agent."""
        exchange = self._exchange.counters.shed
        counted = {
            "seal": self._seal.counters.shed,
            "out": exchange.get("out.msg", 0) + exchange.get("out.mcast", 0),
            "in": sum(exchange.get(pattern, 0) for pattern in self._patterns),
        }
        return {where: count for where, count in counted.items() if count}

    @property
    def lapsed(self) -> int:
        """Messages to agents that said nothing for too long."""
        return self._seal.counters.lapsed

    @property
    def queued(self) -> int:
        """Messages that wait for their receiver to be heard of."""
        return self._seal.counters.waiting

    def peers(self) -> tuple[str, ...]:
        """Return the agents that the bus was configured with, sorted."""
        return self._peers

    def attach(self, address: str, handler: Handler) -> None:
        """Deliver messages for ``address``, which is this agent's name, from now on.

        Raises:
            ValueError: if it is another's name, or attached already.
            NotPermittedError: if the client does not let the agent hear its messages.

        """
        if address != self._name:
            raise ValueError(f"{self._name!r} cannot hear what is said to {address!r}")
        if self._handler is not None:
            raise ValueError(f"{address!r} is attached already; detach it first")
        for pattern in self._patterns:
            self._subscriptions.append(self._exchange.subscribe(pattern, self._hear))
        self._handler = handler

    def detach(self, address: str) -> None:
        """Stop delivering; what is on its way is lost."""
        if address == self._name and self._handler is not None:
            while self._subscriptions:
                self._subscriptions.pop().close()
            self._handler = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._due = None

    def send(self, message: Message) -> None:
        """Send to the message's receiver; shed, lose, refuse and count it if that cannot be.

        Calls for proposals and rejections go to many: those that say the same in one turn of the
        clock are one publication.

        Raises:
            WireError: if the message cannot be written or is too long, a fault of its sender.

        """
        performative = message.performative.value
        self._sent[performative] = self._sent.get(performative, 0) + 1
        receiver = message.receiver
        if message.sender != self._name:
            self._refuse("forged", self._subject(receiver), message.sender)
        elif receiver == self._name:
            self._clock.call_soon(partial(self._deliver, message))
        elif message.performative in _TO_MANY:
            if not (self._gathered and _same(message, self._gathered[0])):
                self._send_gathered()
                self._clock.call_soon(self._send_gathered)
            self._gathered.append(message)
        else:
            self._send_gathered()
            now = self._clock.now()
            self._say(receiver, self._seal.wrap(receiver, encode(rebased(message, -now)), now))

    def _send_gathered(self) -> None:
        """Send what says the same to many, sealed and published once for those with keys."""
        if not self._gathered:
            return
        messages, self._gathered = self._gathered, []
        now, receivers = self._clock.now(), [message.receiver for message in messages]
        octets = encode(rebased(replace(messages[0], receiver=ANY), -now))
        frame, others = self._seal.share(receivers, octets, now)
        if frame is not None:
            self._publish(self._multicast, frame)
        for receiver, alone in others:
            self._publish(self._subject(receiver), alone)
        self._arm()

    # -- what comes in ----------------------------------------------------------------------

    def _hear(self, delivery: Delivery) -> None:
        subject = delivery.subject
        peer = self._speakers.get(subject) or self._speaker(subject)
        if peer is None:
            self._refuse("garbage", subject, "")
            return
        if peer == self._name:  # the broker shows a sender its own messages to many
            return
        now = self._clock.now()
        outcome = self._seal.open(peer, delivery.payload, now)
        self._say(peer, outcome.replies)
        if isinstance(outcome, RefusedFrame):
            self._refuse(outcome.reason.value, subject, peer)
        elif outcome.payload is not None:
            self._read(outcome.payload, subject, peer, now)

    def _speaker(self, subject: str) -> str | None:
        """Return the only agent that may speak under a subject; None: there is none."""
        try:
            peer = subjects.speaker(subject)
        except ValueError:
            peer = None
        if peer is not None and len(self._speakers) < _REMEMBERED:
            self._speakers[subject] = peer
        return peer

    def _read(self, payload: bytes, subject: str, peer: str, now: float) -> None:
        try:
            message = decode(payload)
        except WireError:
            self._refuse("garbage", subject, peer)
            return
        if message.sender != peer or message.receiver not in (self._name, ANY):
            self._refuse("forged", subject, peer)
        else:  # the seal was for this agent, whatever others it was for
            self._deliver(rebased(replace(message, receiver=self._name), now))

    def _deliver(self, message: Message) -> None:
        if self._handler is None:
            self.lost += 1
        else:
            self.delivered += 1
            self._handler(message)

    def _refuse(self, reason: str, subject: str, speaker: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if self._on_refused is not None:
            self._on_refused(reason, subject, speaker)

    # -- what goes out ----------------------------------------------------------------------

    def _subject(self, receiver: str) -> str:
        subject = self._subjects.get(receiver)
        if subject is None:
            subject = subjects.message(self._domain, receiver, self._name)
            self._subjects[receiver] = subject
        return subject

    def _say(self, receiver: str, frames: Sequence[bytes]) -> None:
        """Send what the seal has made."""
        for frame in frames:
            self._publish(self._subject(receiver), frame)
        self._arm()

    def _publish(self, subject: str, frame: bytes) -> None:
        try:
            self._exchange.publish(subject, frame)
        except BrokerError:  # counted there, with the reason
            self.lost += 1

    def _arm(self) -> None:
        """Set the timer by which the seal wants to be asked."""
        due = self._seal.due
        if due is None or (self._due is not None and self._due <= due):
            return  # if it wakes early, it finds nothing due and sets the timer anew
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._clock.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = self._due = None
        for peer, frame in self._seal.tick(self._clock.now()):
            self._say(peer, (frame,))
        self._arm()


def _same(message: Message, other: Message) -> bool:
    """Whether two messages of this agent differ in nothing but their receivers."""
    return (
        message.content is other.content
        and message.performative is other.performative
        and message.conversation == other.conversation
        and message.cause == other.cause
    )
