"""The exchange over NATS, for one identity."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from phalanx.bus.client import (
    Answer,
    BrokerError,
    CaughtUp,
    ClientCounters,
    Delivery,
    Handler,
    NotPermittedError,
    StoredHandler,
    Subscription,
    Watcher,
)
from phalanx.bus.nats import protocol
from phalanx.bus.nats.dispatcher import Dispatcher, Subscribed
from phalanx.bus.nats.following import StreamFollower, TableWatcher
from phalanx.bus.nats.inbox import Reply
from phalanx.bus.nats.link import DEFAULT_BOUNDS, SendBounds
from phalanx.bus.nats.liveness import DEAF_S
from phalanx.bus.nats.mapping import CURSORS, cursor_key, entry
from phalanx.bus.nats.requests import Requests
from phalanx.bus.permissions import grants
from phalanx.bus.subjects import answers, matches
from phalanx.bus.wire import MAX_OCTETS
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

_REMEMBERED = 4096


class NatsClient:
    """Octets under subjects over NATS; implements ``BrokerClient``.

    It connects when the event loop of its clock runs, to one of its servers after the other,
    and again for ever when a connection ends. What is sent meanwhile waits, up to a bound.
    Servers must speak TLS at once (``handshake_first``) and know the identity by its certificate.
    """

    def __init__(
        self,
        identity: Identity,
        clock: WallClock,
        servers: Sequence[tuple[str, int]],
        tls: ssl.SSLContext,
        *,
        secret: bytes | None = None,
        bounds: SendBounds = DEFAULT_BOUNDS,
        capacity: int = 10_000,
        deaf_s: float = DEAF_S,
    ) -> None:
        """Make an exchange that connects as soon as the clock runs.

        Args:
            identity: who speaks; its certificate is in ``tls``.
            clock: calls every handler; its loop carries the traffic.
            servers: (host, port) of the servers of the domain, in any order.
            tls: of a client, with the identity's certificate and key.
            secret: known to the identity alone and the same after a restart, such as octets of
                its private key. From it follow the ids by which a stream knows a message
                again, so that nobody can use them first. None: a new one.
            bounds: what may wait to be sent.
            capacity: deliveries that may wait for one handler; more are shed.
            deaf_s: seconds for which a server may say nothing though it was asked, before
                another one is tried; what is less than a lease lets leases be renewed. Time for
                which this process was stopped or busy does not count.

        Raises:
            BrokerError: if no server is named, or ``deaf_s`` is not positive.

        """
        self._identity = identity
        self._clock = clock
        self._servers = tuple(servers)
        self._secret = hashlib.sha256(secret or secrets.token_bytes(32)).digest()
        self._capacity = capacity
        self._grants = grants(identity)
        self._may: dict[str, bool] = {}
        self._closed = False
        self._dispatcher = Dispatcher(identity, clock, self._servers, tls, bounds, deaf_s)
        self._requests = Requests(clock, self._dispatcher.publish, self._dispatcher.soon)
        for pattern in sorted({*filter(None, map(answers, self._grants.publish))}):
            self._dispatcher.hear(pattern, self._requests.arrived)
        self._dispatcher.link.open()

    @property
    def identity(self) -> Identity:
        """Who speaks and hears through it."""
        return self._identity

    @property
    def counters(self) -> ClientCounters:
        """What went through it."""
        return self._dispatcher.counters

    @property
    def connected(self) -> bool:
        """Whether what is sent now goes out now; if not, it waits, up to a bound."""
        return self._dispatcher.link.up

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent, or to be acknowledged by a stream."""
        return self._dispatcher.link.waiting + self._dispatcher.appends.open

    def on_change(self, handler: Callable[[bool], None]) -> None:
        """Tell ``handler`` whether it is connected whenever that changes."""
        self._dispatcher.on_change.append(handler)

    def on_error(self, handler: Callable[[str], None]) -> None:
        """Tell ``handler`` what a server refused, what was shed, and why there is no connection."""
        self._dispatcher.on_error.append(handler)

    # -- publish and subscribe ---------------------------------------------------------------

    def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send to whoever subscribes; see ``BrokerClient``."""
        self._check(subject, payload)
        self._dispatcher.publish(subject, protocol.publish(subject, payload, None, headers))

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Hear what is published under ``pattern``; see ``BrokerClient``."""
        if not self._grants.may_subscribe(pattern):
            self._refuse("subscribe", f"hear {pattern}")
        return Subscribed(self._dispatcher, pattern, handler, self._capacity)

    def request(
        self,
        subject: str,
        payload: bytes,
        answer: Answer,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send, and call ``answer`` once; see ``BrokerClient``."""
        self._check(subject, payload)
        pattern = answers(subject)
        if pattern is None:
            self._refuse("request", f"ask under {subject}, where nobody answers")
        self._requests.ask(subject, pattern, payload, answer, timeout_s, headers)

    def respond(
        self, delivery: Delivery, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer a request; see ``BrokerClient``.

        The answer goes where the subject of the request says: an asker who names another
        place is not answered, and counted.
        """
        reply = delivery.reply
        if reply is None:
            return
        pattern = answers(delivery.subject)
        if pattern is None or not matches(pattern, reply):
            self._dispatcher.refused("reply")
            return
        self._check_size(payload)
        self._dispatcher.publish(reply, protocol.publish(reply, payload, None, headers))

    # -- streams and tables ------------------------------------------------------------------

    def append(
        self, subject: str, payload: bytes, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        """Send to the stream that keeps ``subject``; see ``BrokerClient``."""
        self._check(subject, payload)
        known = hmac.digest(self._secret, message_id.encode(), "sha256").hex()[:32]
        self._dispatcher.keep(subject, payload, {"Nats-Msg-Id": known}, done)

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
        """Read a stream in order and go on with what comes; see ``BrokerClient``.

        What the stream had discarded before it was read is counted as shed, under its name.
        """
        if stream not in self._grants.follow:
            self._refuse("follow", f"follow {stream}")
        cursor = None
        if durable is not None:
            cursor = entry(CURSORS, cursor_key(self._identity, stream, durable))
        following = StreamFollower(
            self._dispatcher,
            stream,
            handler,
            pattern,
            cursor,
            new_only=new_only,
            since_s=since_s,
            caught_up=caught_up,
        )
        self._dispatcher.begin(following)
        return following

    def put(self, table: str, key: str, value: bytes) -> None:
        """Write a key of a table; see ``BrokerClient``."""
        self._check_entry(table, key, value)
        self._dispatcher.write(entry(table, key), value)

    def drop(self, table: str, key: str) -> None:
        """Remove a key from a table; see ``BrokerClient``."""
        self._check_entry(table, key, b"")
        self._dispatcher.write(entry(table, key), b"", {"KV-Operation": "DEL"})

    def watch(
        self, table: str, handler: Watcher, *, caught_up: CaughtUp | None = None
    ) -> Subscription:
        """Tell ``handler`` of all keys of a table; see ``BrokerClient``."""
        if table not in self._grants.watch:
            self._refuse("watch", f"read the table {table}")
        watching = TableWatcher(self._dispatcher, table, handler, caught_up)
        self._dispatcher.begin(watching)
        return watching

    def administer(self, operation: str, question: Any, answer: Callable[[Reply], None]) -> None:
        """Ask JetStream to do something, such as ``STREAM.CREATE.EVENTS``; for a broker.

        Args:
            operation: the end of a subject of its interface.
            question: encoded as JSON.
            answer: called once, with a fault if the connection or the right is missing.

        """
        self._dispatcher.ask(
            f"$JS.API.{operation}", question, lambda reply: self._dispatcher.soon(answer, reply)
        )

    # -- the life of the exchange ------------------------------------------------------------

    def ready(self, within_s: float = 10.0) -> None:
        """Run the clock until there is a connection; for the start of a process.

        Raises:
            BrokerError: if there is none in time; it goes on trying all the same.

        """
        self._run_until(lambda: self.connected, within_s)
        if not self.connected:
            where = ", ".join(f"{host}:{port}" for host, port in self._servers)
            raise BrokerError(f"no connection to NATS at {where}: {self._dispatcher.trouble}")

    def finish(self, within_s: float = 5.0) -> None:
        """Run the clock until what waits is out, close, and see it closed; for a process's end."""
        end = self._clock.now() + within_s
        self._run_until(lambda: not self.waiting or not self.connected, within_s)
        self.close()
        self._run_until(lambda: self._dispatcher.link.finished, max(0.5, end - self._clock.now()))

    def close(self) -> None:
        """Send what waits, then hear and say no more; see ``BrokerClient``.

        The clock's loop must run on for that: ``finish`` sees to it.
        """
        if not self._closed:
            self._closed = True
            for reading in tuple(self._dispatcher.readings):
                reading.close()
            self._requests.close("the client was closed")
            self._dispatcher.appends.close("the client was closed")
            self._dispatcher.link.close()

    def _run_until(self, true: Callable[[], bool], within_s: float) -> None:
        end = self._clock.now() + within_s
        while not true() and self._clock.now() < end:
            self._clock.run(until=min(end, self._clock.now() + 0.02), stop=true)

    # -- what is allowed ---------------------------------------------------------------------

    def _check(self, subject: str, payload: bytes) -> None:
        may = self._may.get(subject)
        if may is None:
            protocol.check_subject(subject)
            if len(self._may) >= _REMEMBERED:
                self._may.clear()
            may = self._may[subject] = self._grants.may_publish(subject)
        if not may:
            self._refuse("publish", f"publish under {subject}")
        self._check_size(payload)

    def _check_entry(self, table: str, key: str, value: bytes) -> None:
        if not self._grants.may_put(table, key):
            self._refuse("put", f"write {key} of the table {table}")
        protocol.check_subject(entry(table, key))
        self._check_size(value)

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > MAX_OCTETS:
            self._dispatcher.refused("oversize")
            raise BrokerError(f"{len(payload)} octets, at most {MAX_OCTETS} can travel")

    def _refuse(self, reason: str, what: str) -> NoReturn:
        self._dispatcher.refused(reason)
        raise NotPermittedError(f"{self._identity.role.value} {self._identity.name} may not {what}")
