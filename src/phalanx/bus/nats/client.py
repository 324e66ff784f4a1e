"""The broker client over NATS, for one identity."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phalanx.bus.client import (
    Answer,
    BrokerError,
    CaughtUp,
    CheckedClient,
    Delivery,
    Handler,
    StoredHandler,
    Subscription,
    Watcher,
)
from phalanx.bus.nats import protocol
from phalanx.bus.nats.config import CURSORS, cursor_key, entry
from phalanx.bus.nats.connection import DEAF_S, DEFAULT_BOUNDS, SendBounds, Server
from phalanx.bus.nats.dispatcher import Dispatcher, JetStreamReply, NatsSubscription
from phalanx.bus.nats.streams import StreamFollower, TableWatcher
from phalanx.bus.subjects import answers
from phalanx.bus.transports import Access
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity


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
        capacity: int = 10_000,
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
            capacity: deliveries that may wait for one handler; more are shed.
            deaf_s: seconds for which a server may say nothing though it was asked, before
                another one is tried; what is less than a lease lets leases be renewed. Time for
                which this process was stopped or busy does not count.

        Raises:
            BrokerError: if no server is named, or ``deaf_s`` is not positive.

        """
        self._clock = clock
        self._servers = tuple(servers)
        self._secret = hashlib.sha256(secret or secrets.token_bytes(32)).digest()
        self._capacity = capacity
        self._closed = False
        self._dispatcher = Dispatcher(identity, clock, self._servers, tls, bounds, deaf_s)
        super().__init__(identity, self._dispatcher.counters)
        for pattern in sorted({*filter(None, map(answers, self._grants.publish))}):
            self._dispatcher.hear(pattern, self._dispatcher.answered)
        self._dispatcher.connection.open()

    @property
    def connected(self) -> bool:
        """Whether what is sent now goes out now; if not, it waits, up to a bound."""
        return self._dispatcher.connection.up

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent, or to be acknowledged by a stream."""
        return self._dispatcher.connection.waiting + self._dispatcher.publisher.open

    def on_change(self, handler: Callable[[bool], None]) -> None:
        """Tell ``handler`` whether it is connected whenever that changes."""
        self._dispatcher.on_change.append(handler)

    def on_error(self, handler: Callable[[str], None]) -> None:
        """Tell ``handler`` what a server refused, what was shed, and why there is no connection."""
        self._dispatcher.on_error.append(handler)

    # -- see ``BrokerClient`` ----------------------------------------------------------------

    def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send to all that subscribe, at most once."""
        self._check_publish(subject, payload)
        self._dispatcher.publish(subject, protocol.publish(subject, payload, None, headers))

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Hear what is published under ``pattern`` from now on."""
        self._check_subscribe(pattern)
        return NatsSubscription(self._dispatcher, pattern, handler, self._capacity)

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
        self._dispatcher.request(subject, pattern, payload, answer, timeout_s, headers)

    def respond(
        self, delivery: Delivery, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer a request.

        The answer goes where the subject of the request says: a requester that names another
        place is not answered, and counted.
        """
        reply = self._check_respond(delivery, payload)
        if reply is not None:
            self._dispatcher.publish(reply, protocol.publish(reply, payload, None, headers))

    def append(
        self, subject: str, payload: bytes, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        """Send to the stream that keeps ``subject``."""
        self._check_publish(subject, payload)
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
        """Read a stream in order and go on with what comes.

        What the stream had discarded before it was read is counted as shed, under its name.
        """
        self._check_follow(stream)
        cursor = None
        if durable is not None:
            cursor = entry(CURSORS, cursor_key(self._identity, stream, durable))
        follower = StreamFollower(
            self._dispatcher,
            stream,
            handler,
            pattern,
            cursor,
            new_only=new_only,
            since_s=since_s,
            caught_up=caught_up,
        )
        self._dispatcher.begin(follower)
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
        watcher = TableWatcher(self._dispatcher, table, handler, caught_up)
        self._dispatcher.begin(watcher)
        return watcher

    def administer(
        self, operation: str, question: Any, answer: Callable[[JetStreamReply], None]
    ) -> None:
        """Ask JetStream to do something, such as ``STREAM.CREATE.EVENTS``; for a broker.

        Args:
            operation: the end of a subject of its interface.
            question: encoded as JSON.
            answer: called once, with a fault if the connection or the right is missing.

        """
        self._dispatcher.ask(
            f"$JS.API.{operation}", question, lambda reply: self._dispatcher.soon(answer, reply)
        )

    # -- the life of the client ------------------------------------------------------------

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
        self._run_until(
            lambda: self._dispatcher.connection.finished, max(0.5, end - self._clock.now())
        )

    def close(self) -> None:
        """Send what waits, then end.

        The clock's loop must run on for that: ``finish`` sees to it.
        """
        if not self._closed:
            self._closed = True
            self._dispatcher.close("the client was closed")

    def _run_until(self, true: Callable[[], bool], within_s: float) -> None:
        end = self._clock.now() + within_s
        while not true() and self._clock.now() < end:
            self._clock.run(until=min(end, self._clock.now() + 0.02), stop=true)

    def _check_publish(self, subject: str, payload: bytes) -> None:
        if subject not in self._may:
            protocol.check_subject(subject)
        super()._check_publish(subject, payload)

    def _write(
        self, table: str, key: str, value: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self._check_put(table, key, value)
        protocol.check_subject(entry(table, key))
        self._dispatcher.write(entry(table, key), value, headers)


class NatsServers:
    """The NATS servers of a domain; implements ``transports.Broker``."""

    def __init__(self, servers: Sequence[Server], clock: WallClock) -> None:
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
