"""The broker client over NATS, for one identity."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace
from nats import errors

from phalanx.bus.client import (
    Answer,
    BrokerError,
    CaughtUp,
    CheckedClient,
    Delivery,
    Handler,
    Silence,
    StoredHandler,
    Subscription,
    Unanswered,
    Watcher,
)
from phalanx.bus.nats.config import CURSORS, INFO, STREAMS, cursor_key, entry
from phalanx.bus.nats.connection import (
    DEAF_S,
    DEFAULT_BOUNDS,
    Address,
    NatsConnection,
    NatsListener,
    SendBounds,
    why,
)
from phalanx.bus.nats.delivery import Headers, NewestValues, ReliablePublisher
from phalanx.bus.nats.streams import StreamFollower, StreamReader, TableWatcher, fault_of
from phalanx.bus.subjects import answers
from phalanx.bus.transports import Access
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

_ASK_S = 2.0
_OURS = re.compile(r"[A-Za-z0-9_=$-]+(\.[A-Za-z0-9_=$-]+)*")
"""What our subjects consist of; the server takes any octets."""
_ANSWER = "Phx-Answer"
"""Header with the last part of the subject that a request is answered under."""
_NO_RESPONDERS = "503"
"""Status of a message in place of an answer: the subject has no subscriber."""

CLOSED = "the client was closed"


class NatsSubscription(NatsListener):
    """A pattern that a handler hears; implements ``Subscription``."""

    def __init__(self, connection: NatsConnection, pattern: str, handler: Handler) -> None:
        """Hear ``pattern`` from now on."""
        super().__init__(connection, f"{connection.heard}.{pattern}", self._check)
        self._handler = handler

    def _check(self, delivery: Delivery) -> None:
        if "Status" in delivery.headers or not _OURS.fullmatch(delivery.subject):
            self._connection.counters.refuse("garbage")
            return
        if delivery.reply is not None:  # the server's own name for the way back
            pattern, called = answers(delivery.subject), delivery.headers.get(_ANSWER)
            reply = f"{pattern[:-1]}{called}" if pattern and called else None
            delivery = replace(delivery, reply=reply)
        self._connection.clock.call_now(partial(self._hand, delivery))

    def _hand(self, delivery: Delivery) -> None:
        if not self._closed:
            self._connection.counters.delivered += 1
            self._handler(delivery)


class NatsClient(CheckedClient):
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
        deaf_s: float = DEAF_S,
    ) -> None:
        """Make a client that connects as soon as the clock runs.

        Args:
            identity: who speaks; its certificate is in ``tls``.
            clock: calls every handler; its loop carries the traffic.
            servers: (host, port) of the servers of the domain, in any order.
            tls: of a client, with the identity's certificate and key.
            secret: known to the identity alone and the same after a restart, such as octets of
                its private key. From it follow the ids by which a stream knows a message
                again, so that no other client can use them first. None: a new one.
            bounds: what may wait to be sent.
            deaf_s: seconds for which a server may say nothing though it was asked, before
                another one is tried; what is less than a lease lets leases be renewed. Time for
                which this process was stopped or busy does not count.

        Raises:
            BrokerError: if no server is named, or ``deaf_s`` is not positive.

        """
        self._servers = tuple(servers)
        self._connection = NatsConnection(identity, clock, self._servers, tls, bounds, deaf_s)
        super().__init__(identity, self._connection.counters)
        self._clock = clock
        self._secret = hashlib.sha256(secret or secrets.token_bytes(32)).digest()
        self._readings: list[StreamReader] = []
        self._run = secrets.token_hex(8)
        self._count = 0
        self._requests: dict[str, tuple[Answer, Callable[[], None]]] = {}
        """Requests that wait for an answer, and what stops their timers."""
        self._publisher = ReliablePublisher(self._connection)
        self._values = NewestValues(self._keep)
        for pattern in sorted({*filter(None, map(answers, self._grants.publish))}):
            NatsListener(self._connection, f"{self._connection.heard}.{pattern}", self._answered)

    @property
    def connected(self) -> bool:
        """Whether what is sent now goes out now; if not, it waits, up to a bound."""
        return self._connection.up

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent, or to be acknowledged by a stream."""
        return self._connection.waiting + self._publisher.open

    def on_change(self, handler: Callable[[bool], None]) -> None:
        """Tell ``handler`` whether it is connected whenever that changes."""
        self._connection.on_change.append(handler)

    def on_error(self, handler: Callable[[str], None]) -> None:
        """Tell ``handler`` what a server refused, what was shed, and why there is no connection."""
        self._connection.on_error.append(handler)

    # -- see ``BrokerClient`` ----------------------------------------------------------------

    def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send to all that subscribe, at most once."""
        self._check_publish(subject, payload)
        self._connection.publish(subject, payload, headers)

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Hear what is published under ``pattern`` from now on."""
        self._check_subscribe(pattern)
        return NatsSubscription(self._connection, pattern, handler)

    def request(
        self,
        subject: str,
        payload: bytes,
        answer: Answer,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send, and call ``answer`` once."""
        pattern = self._check_request(subject, payload)
        self._count += 1
        called = f"{self._run}{self._count:x}"
        reply, headers = f"{pattern[:-1]}{called}", {**(headers or {}), _ANSWER: called}
        late = partial(self._unanswered, reply, Silence.LATE, f"no answer within {timeout_s:g} s")
        self._requests[reply] = answer, self._clock.call_later(timeout_s, late).cancel
        aim = f"{self._connection.heard}.{reply}"
        if not self._connection.publish(subject, payload, headers, aim):
            self._unanswered(reply, Silence.CUT, "too much waits to be sent")

    def respond(
        self, delivery: Delivery, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer a request.

        The answer goes where the subject of the request says: a requester that names another
        place is not answered, and counted.
        """
        reply = self._check_respond(delivery, payload)
        if reply is not None:
            self._connection.publish(reply, payload, headers)

    def append(
        self, subject: str, payload: bytes, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        """Send to the stream that keeps ``subject``."""
        self._check_publish(subject, payload)
        known = hmac.digest(self._secret, message_id.encode(), "sha256").hex()[:32]
        self._keep(subject, payload, {"Nats-Msg-Id": known}, done)

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

        What the stream had discarded before it was read is counted as shed, under its name.
        """
        self._check_follow(stream)
        cursor = None
        if durable is not None:
            cursor = entry(CURSORS, cursor_key(self._identity, stream, durable))
        follower = StreamFollower(
            self._connection,
            stream,
            handler,
            pattern,
            cursor,
            new_only=new_only,
            since_s=since_s,
            caught_up=caught_up,
            remember=self._put,
        )
        self._readings.append(follower)
        return follower

    def put(self, table: str, key: str, value: bytes) -> None:
        """Write a key of a table."""
        self._write(table, key, value)

    def drop(self, table: str, key: str) -> None:
        """Remove a key from a table."""
        self._write(table, key, b"", {"KV-Operation": "DEL"})

    def watch(
        self, table: str, handler: Watcher, *, caught_up: CaughtUp | None = None
    ) -> Subscription:
        """Tell ``handler`` of all keys of a table."""
        self._check_watch(table)
        watcher = TableWatcher(self._connection, table, handler, caught_up)
        self._readings.append(watcher)
        return watcher

    def administer(
        self, operation: str, question: Any, answer: Callable[[dict[str, Any]], None]
    ) -> None:
        """Ask JetStream to do something, such as ``STREAM.CREATE.EVENTS``; for a broker.

        Args:
            operation: the end of a subject of its interface.
            question: encoded as JSON.
            answer: called once, with an ``error`` if the connection or the right is missing.

        """
        self._inquire(f"$JS.API.{operation}", question, answer)

    def _inquire(
        self, subject: str, question: Any, answer: Callable[[dict[str, Any]], None]
    ) -> None:
        async def ask() -> None:
            octets = msgspec.json.encode(question)
            try:
                reply = await self._connection.nats.request(subject, octets, _ASK_S)
                said = msgspec.json.decode(reply.data)
            except (TimeoutError, errors.Error, msgspec.MsgspecError) as error:
                said = {"error": {"description": why(error)}}
            self._clock.call_soon(partial(answer, said))

        self._connection.spawn(ask())

    def storage(self, tell: Callable[[tuple[str, ...]], None]) -> None:
        """Tell once, in words, what is wrong with the streams and tables."""
        found: dict[str, str | None] = {}

        def take(stream: str, said: dict[str, Any]) -> None:
            found[stream] = fault_of(stream, said)
            if len(found) == len(STREAMS):
                tell(tuple(filter(None, (found[stream] for stream in STREAMS))))

        for stream in STREAMS:
            self._inquire(f"{INFO}.{stream}", {}, partial(take, stream))

    # -- the life of the client ------------------------------------------------------------

    def ready(self, within_s: float = 10.0) -> None:
        """Run the clock until there is a connection; for the start of a process.

        Raises:
            BrokerError: if there is none in time; it goes on trying all the same.

        """
        self._run_until(lambda: self.connected, within_s)
        if not self.connected:
            where = ", ".join(f"{host}:{port}" for host, port in self._servers)
            raise BrokerError(f"no connection to NATS at {where}: {self._connection.trouble}")

    def finish(self, within_s: float = 5.0) -> None:
        """Run the clock until what waits is out, close, and see it closed; for a process's end."""
        end = self._clock.now() + within_s
        self._run_until(lambda: not self.waiting or not self.connected, within_s)
        self.close()
        self._run_until(lambda: self._connection.finished, max(0.5, end - self._clock.now()))
        if not self._connection.finished:
            self._connection.nats.tls.abort()
            self._run_until(lambda: self._connection.finished, 0.5)

    def close(self) -> None:
        """Send what waits, then end.

        The clock's loop must run on for that: ``finish`` sees to it.
        """
        reason = CLOSED
        for reading in self._readings:
            reading.close()
        for reply in list(self._requests):
            self._unanswered(reply, Silence.CUT, reason)
        self._publisher.close(reason)
        self._connection.close()

    # -- what is kept ------------------------------------------------------------------------

    def _write(self, table: str, key: str, value: bytes, headers: Headers = None) -> None:
        self._check_put(table, key, value)
        self._put(entry(table, key), value, headers)

    def _put(self, subject: str, value: bytes, headers: Headers = None) -> None:
        self._values.write(subject, value, headers, self._written)

    def _written(self, reason: str | None) -> None:
        if reason is not None:
            self._counters.refuse("put")
        if reason not in (None, CLOSED):  # the caller that closes it needs no complaint
            self._connection.complained(f"a value was not kept: {reason}")

    def _keep(
        self, subject: str, payload: bytes, headers: Headers, done: Callable[[str | None], object]
    ) -> None:
        def finished(reason: str | None) -> None:
            self._clock.call_soon(partial(done, reason))  # type: ignore[arg-type]

        if self._publisher.put(subject, payload, headers, finished):
            self._counters.published += 1
        else:
            self._counters.drop(f"out.{subject.split('.')[2]}")
            finished("too much waits to be kept")

    # -- what comes in -----------------------------------------------------------------------

    def _answered(self, delivery: Delivery) -> None:
        """Take the answer to a request; one that is not expected is counted."""
        reply, status = delivery.subject, delivery.headers.get("Status")
        if reply not in self._requests:
            self._counters.refuse("answer")
        elif status is None:
            self._end(reply, replace(delivery, reply=None))
        elif status == _NO_RESPONDERS:
            self._unanswered(reply, Silence.UNSERVED, "no process serves it")
        else:
            self._unanswered(reply, Silence.CUT, f"the server says {status}")

    def _unanswered(self, reply: str, silence: Silence, reason: str) -> None:
        self._end(reply, Unanswered(silence, reason))

    def _end(self, reply: str, outcome: Delivery | Unanswered) -> None:
        answer, cancel = self._requests.pop(reply)
        cancel()
        self._clock.call_soon(partial(answer, outcome))

    def _run_until(self, true: Callable[[], bool], within_s: float) -> None:
        end = self._clock.now() + within_s
        while not true() and self._clock.now() < end:
            self._clock.run(until=min(end, self._clock.now() + 0.02), stop=true)


class NatsServers:
    """The NATS servers of a domain; implements ``transports.Broker``."""

    def __init__(self, servers: Sequence[Address], clock: WallClock) -> None:
        self._servers = servers
        self._clock = clock

    def join(self, identity: Identity, access: Access | None = None) -> NatsClient:
        """Return a client that connects as soon as the clock runs.

        Raises:
            BrokerError: if there is no ``access``: the servers take certificates alone.

        """
        if access is None:
            raise BrokerError("NATS takes certificates alone; there are no credentials here")
        return NatsClient(
            identity,
            self._clock,
            self._servers,
            access.tls,
            secret=access.secret,
            deaf_s=DEAF_S if access.deaf_s is None else min(DEAF_S, access.deaf_s),
        )


def open_nats(url: str, clock: Clock) -> NatsServers:
    """Return the servers at ``nats://HOST:PORT[,HOST:PORT…]``: the transport ``nats:``.

    Raises:
        BrokerError: if that is not the URL, or the clock is not the wall clock.

    """
    if not isinstance(clock, WallClock):
        raise BrokerError("NATS keeps real time; on virtual time there is 'memory:'")
    servers = []
    for address in url.removeprefix("nats://").split(","):
        host, colon, port = address.rpartition(":")
        if not (url.startswith("nats://") and host and colon and port.isdigit()):
            raise BrokerError(f"{url!r} is no address; expected nats://HOST:PORT[,HOST:PORT…]")
        servers.append((host.strip("[]"), int(port)))
    return NatsServers(servers, clock)
