"""The broker client: what lies below the bus where agents are processes of their own.

It carries octets under subjects (``bus.subjects``) for one identity (``bus.permissions``):
publish and subscribe, requests with answers, streams that survive a restart, and small
tables that every agent reads. ``MemoryClient`` does it in memory, ``NatsClient`` over NATS;
``transports`` names them, and those of other packages, by URL.

All calls return at once; handlers are called by the clock, one after the other. What is not
allowed is refused here, before anything is sent, and refused again by the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NoReturn, Protocol

from msgspec import Struct, field

from phalanx.bus.permissions import grants
from phalanx.bus.subjects import answers, matches
from phalanx.bus.wire import MAX_OCTETS
from phalanx.domain.errors import PhalanxError
from phalanx.identity.names import Identity

_REMEMBERED = 4096
"""Subjects whose permission need not be looked up again."""


class BrokerError(PhalanxError):
    """The broker cannot be reached, or refuses; the text is one line."""


class NotPermittedError(BrokerError):
    """The identity may not do this."""


class Delivery(Struct, frozen=True):
    """Something that came in."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] = {}
    reply: str | None = None
    """Where an answer goes; None: no answer is expected. Used by ``respond`` alone."""


class Stored(Struct, frozen=True):
    """Something that a stream keeps."""

    sequence: int
    """Its place in the stream, from 1 on."""
    subject: str
    payload: bytes
    headers: Mapping[str, str]
    received: float
    """When the stream took it, in seconds since 1970 by the broker's clock."""
    acknowledge: Callable[[], None]
    """To be called once it is safe: a durable follower gets it again otherwise."""


class Silence(Enum):
    """Why no answer came."""

    UNSERVED = "unserved"
    """The subject has no subscriber: the request reached no process."""
    LATE = "late"
    """The time ran out; it may have been carried out."""
    CUT = "cut"
    """This side could not send it, or ended while it waited."""


class Unanswered(Struct, frozen=True):
    """No answer came."""

    why: Silence
    reason: str
    """The same in words."""


class ClientCounters(Struct):
    """What became of what was sent and what came in; nothing goes uncounted."""

    published: int = 0
    delivered: int = 0
    """Handed to a handler."""
    shed: dict[str, int] = field(default_factory=dict)
    """Dropped by a full queue, by ``out.<kind of subject>`` or the pattern subscribed to."""
    refused: dict[str, int] = field(default_factory=dict)
    """Not permitted or too large, by reason; what the broker refused too."""
    reconnects: int = 0

    def drop(self, queue: str, count: int = 1) -> None:
        """Count what a full queue dropped."""
        self.shed[queue] = self.shed.get(queue, 0) + count

    def refuse(self, reason: str) -> None:
        """Count what was refused."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


class Subscription(Protocol):
    """Something subscribed to, followed or watched."""

    def close(self) -> None:
        """End it: its handler is not called again; without effect the second time."""


Handler = Callable[[Delivery], None]
Answer = Callable[[Delivery | Unanswered], None]
StoredHandler = Callable[[Stored], None]
Watcher = Callable[[str, bytes | None], None]
"""Told of a key and its value; None: it was dropped."""
CaughtUp = Callable[[], None]
"""Called once, when all that was there as a reading began has been told."""


class BrokerClient(Protocol):
    """Octets under subjects, for one identity."""

    @property
    def identity(self) -> Identity:
        """Who speaks and hears through it."""

    @property
    def counters(self) -> ClientCounters:
        """What went through it."""

    @property
    def connected(self) -> bool:
        """Whether what is sent now goes out now; if not, it waits, up to a bound."""

    def on_error(self, handler: Callable[[str], None]) -> None:
        """Tell ``handler`` what a broker refused, and why there is no connection."""

    def on_change(self, handler: Callable[[bool], None]) -> None:
        """Tell ``handler`` whether it is connected whenever that changes."""

    def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send to all that subscribe, at most once.

        Raises:
            NotPermittedError: if the identity may not publish there.
            BrokerError: if the payload is longer than ``wire.MAX_OCTETS``.

        """

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Hear what is published under ``pattern`` from now on.

        Raises:
            NotPermittedError: if the identity may not hear all of that.

        """

    def request(
        self,
        subject: str,
        payload: bytes,
        answer: Answer,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send, and call ``answer`` once: with the first answer, or with why there is none.

        Raises:
            NotPermittedError: if the identity may not publish there, or what is sent there
                has no answer (``subjects.answers``).

        """

    def respond(
        self, delivery: Delivery, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer a request; without effect if no answer is expected. Once for each."""

    def append(
        self, subject: str, payload: bytes, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        """Send to the stream that keeps ``subject``; ``done`` gets None once it is kept.

        The same ``message_id`` is kept once within the stream's window (two minutes).
        Otherwise ``done`` gets the reason, and it may or may not be kept.

        Raises:
            NotPermittedError: if the identity may not publish there.

        """

    def follow(
        self,
        stream: str,
        handler: StoredHandler,
        *,
        pattern: str | None = None,
        durable: str | None = None,
        new_only: bool = False,
        since_s: float | None = None,
        caught_up: CaughtUp | None = None,
    ) -> Subscription:
        """Read a stream in order and go on with what comes.

        Args:
            stream: its name, such as ``subjects.EVENTS``.
            handler: told of each; the next ones come while earlier ones are not acknowledged,
                up to a bound.
            pattern: only subjects that match; None: all.
            durable: a name under which the broker remembers what was acknowledged; None: from
                the beginning, each time.
            new_only: leave out what is there already.
            since_s: leave out what the stream took longer ago, in seconds by the broker's
                clock, so that none other matters; None: nothing. Of no account to a durable
                follower that has a place already.
            caught_up: called when all that was there has been told; what comes in the
                meantime may have been told by then as well.

        Raises:
            NotPermittedError: if the identity may not read it.

        """

    def put(self, table: str, key: str, value: bytes) -> None:
        """Write a key of a table; the last value stays until it is dropped.

        Raises:
            NotPermittedError: if the identity may not write it.

        """

    def drop(self, table: str, key: str) -> None:
        """Remove a key from a table.

        Raises:
            NotPermittedError: as for ``put``.

        """

    def watch(
        self, table: str, handler: Watcher, *, caught_up: CaughtUp | None = None
    ) -> Subscription:
        """Tell ``handler`` of all keys of a table now, and of each change from then on.

        Args:
            table: its name, such as ``subjects.REGISTRY``.
            handler: told of each.
            caught_up: called when all keys that were there have been told.

        Raises:
            NotPermittedError: if the identity may not read it.

        """

    def storage(self, tell: Callable[[tuple[str, ...]], None]) -> None:
        """Tell once, in words, what is wrong with the streams and tables; nothing if all is well.

        For a role that follows streams.
        """

    def close(self) -> None:
        """Send what waits, then hear and say no more; without effect the second time."""

    def ready(self, within_s: float = 10.0) -> None:
        """Run the clock until there is a connection; for the start of a command.

        Raises:
            BrokerError: if there is none in time; it goes on trying all the same.

        """

    def finish(self, within_s: float = 5.0) -> None:
        """Run the clock until what waits is out, then close; for the end of a process."""


class CheckedClient:
    """What every client of this package refuses before anything is sent, and counts.

    A base for implementations of ``BrokerClient``; the broker refuses the same once more.
    """

    def __init__(self, identity: Identity, counters: ClientCounters) -> None:
        self._identity = identity
        self._counters = counters
        self._grants = grants(identity)
        self._may: dict[str, bool] = {}
        """Whether it may publish under a subject, as far as that was asked."""

    @property
    def identity(self) -> Identity:
        """Who speaks and hears through it."""
        return self._identity

    @property
    def counters(self) -> ClientCounters:
        """What went through it."""
        return self._counters

    def storage(self, tell: Callable[[tuple[str, ...]], None]) -> None:
        """See ``BrokerClient``; for one whose streams and tables are there as long as it is."""
        tell(())

    def _check_publish(self, subject: str, payload: bytes) -> None:
        may = self._may.get(subject)
        if may is None:
            if len(self._may) >= _REMEMBERED:
                self._may.clear()
            may = self._may[subject] = self._grants.may_publish(subject)
        if not may:
            self._refuse("publish", f"publish under {subject}")
        self._check_size(payload)

    def _check_subscribe(self, pattern: str) -> None:
        if not self._grants.may_subscribe(pattern):
            self._refuse("subscribe", f"subscribe to {pattern}")

    def _check_request(self, subject: str, payload: bytes) -> str:
        """Return the pattern under which a request is answered."""
        self._check_publish(subject, payload)
        pattern = answers(subject)
        if pattern is None:
            self._refuse("request", f"ask under {subject}, where no answer is given")
        return pattern

    def _check_respond(self, delivery: Delivery, payload: bytes) -> str | None:
        """Return where an answer goes; None: no answer is waited for, or not at such a place."""
        pattern, reply = answers(delivery.subject), delivery.reply
        if reply is None:
            return None
        if pattern is None or not matches(pattern, reply):
            self._counters.refuse("reply")
            return None
        self._check_size(payload)
        return reply

    def _check_follow(self, stream: str) -> None:
        if stream not in self._grants.follow:
            self._refuse("follow", f"follow {stream}")

    def _check_put(self, table: str, key: str, value: bytes) -> None:
        if not self._grants.may_put(table, key):
            self._refuse("put", f"write {key} of the table {table}")
        self._check_size(value)

    def _check_watch(self, table: str) -> None:
        if table not in self._grants.watch:
            self._refuse("watch", f"read the table {table}")

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > MAX_OCTETS:
            self._counters.refuse("oversize")
            raise BrokerError(f"{len(payload)} octets, at most {MAX_OCTETS} can travel")

    def _refuse(self, reason: str, what: str) -> NoReturn:
        self._counters.refuse(reason)
        who = f"{self._identity.role.value} {self._identity.name}"
        raise NotPermittedError(f"{who} may not {what}")
