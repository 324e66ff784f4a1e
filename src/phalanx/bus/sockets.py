"""The bus over TCP: each agent listens at its own address and is known by it.

A connection carries frames of a length (4 octets) and a payload. Both ends work on an event loop
by readers and writers alone, without tasks: what they do is done when their call returns, and
they can be closed at any time, also after the loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from phalanx.bus import Handler
from phalanx.bus.wire import MAX_OCTETS, WireError, decode, encode
from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError
from phalanx.domain.messages import Message, Performative

Address = tuple[str, int]
"""IPv4 address and port."""

_LENGTH_OCTETS = 4
_CHUNK = 1 << 16
_CONNECT_S = 3.0
_FIRST_PAUSE_S = 0.05
_LAST_PAUSE_S = 1.0
_STEADY_S = 5.0
_DEAF_MS = 10_000
_IDLE_S, _PROBE_S, _PROBES = 10, 5, 3


class OversizeError(Exception):
    """A peer announced a frame that is longer than allowed."""


def prepare(connection: socket.socket) -> None:
    """Set what every connection needs: no delay, and an end when the other side is gone."""
    connection.setblocking(False)
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connection.setsockopt(tcp, socket.TCP_USER_TIMEOUT, _DEAF_MS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(tcp, socket.TCP_KEEPIDLE, _IDLE_S)
    connection.setsockopt(tcp, socket.TCP_KEEPINTVL, _PROBE_S)
    connection.setsockopt(tcp, socket.TCP_KEEPCNT, _PROBES)


class Frames:
    """Cuts a stream of octets into frames."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._octets = bytearray()

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """Return the payloads that are complete with ``octets``, as they are asked for.

        Raises:
            OversizeError: on a frame of more octets than the limit, before it is kept.

        """
        kept = self._octets
        kept += octets
        start = 0
        try:
            while len(kept) - start >= _LENGTH_OCTETS:
                begin = start + _LENGTH_OCTETS
                length = int.from_bytes(kept[start:begin], "big")
                if length > self._limit:
                    raise OversizeError
                if len(kept) - begin < length:
                    return
                start = begin + length
                yield bytes(kept[begin:start])
        finally:
            del kept[:start]


class Incoming:
    """The receiving end: reads frames until its peer ends, errs or is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: socket.socket,
        limit: int,
        take: Callable[[bytes], bool],
        ended: Callable[[Incoming, str | None], None],
    ) -> None:
        """Read from now on.

        Args:
            loop: tells when there is something to read.
            connection: connected, not blocking.
            limit: octets of the largest payload.
            take: is given each payload; says whether the connection may go on.
            ended: is told when the connection is closed, with ``oversize`` if that was why.

        """
        self._loop = loop
        self._connection = connection
        self._frames = Frames(limit)
        self._take = take
        self._ended = ended
        loop.add_reader(connection, self._read)

    def close(self, reason: str | None = None) -> None:
        """Close the connection; what was not read is lost."""
        if self._connection.fileno() >= 0:
            self._loop.remove_reader(self._connection)
            self._connection.close()
            self._ended(self, reason)

    def _read(self) -> None:
        try:
            octets = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if not octets:
            self.close()
            return
        try:
            for payload in self._frames.feed(octets):
                if not self._take(payload):
                    self.close()
                    return
        except OversizeError:
            self.close("oversize")


class Outgoing:
    """The sending end: opened when there is something to send, and again after it broke."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], socket.socket],
        source: str,
        target: Address,
        lose: Callable[[int], None],
    ) -> None:
        """Make a sending end that is not yet connected.

        Args:
            loop: tells when there is room to write.
            make: makes a TCP socket that does not block; may raise what connecting may.
            source: IPv4 address to send from.
            target: where the receiver listens.
            lose: is told how many payloads were lost.

        """
        self._loop = loop
        self._make = make
        self._source = source
        self._target = target
        self._lose = lose
        self._waiting: deque[bytes] = deque()
        self._done = 0
        """Octets of the first waiting frame that the kernel has taken."""
        self._connection: socket.socket | None = None
        self._open_since: float | None = None
        self._writing = False
        self._pause = 0.0
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many payloads the kernel has not taken whole."""
        return len(self._waiting)

    def put(self, payload: bytes) -> None:
        """Send ``payload``, or keep it until the connection takes it or cannot be opened."""
        self._waiting.append(len(payload).to_bytes(_LENGTH_OCTETS, "big") + payload)
        if self._connection is None:
            self._reopen()
        elif self._open_since is not None and not self._writing:
            self._write()

    def close(self) -> None:
        """Close the connection for good; what waits is lost."""
        self._disconnect()
        self._give_up()

    # -- the life of the connection ---------------------------------------------------------

    def _reopen(self) -> None:
        """Connect once the pause is over, at the earliest when the loop runs."""
        if self._timer is None:
            self._timer = self._loop.call_at(self._not_before, self._connect)

    def _connect(self) -> None:
        self._timer = None
        try:
            self._connection = connection = self._make()
            prepare(connection)
            connection.bind((self._source, 0))
            code = connection.connect_ex(self._target)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except (OSError, PhalanxError):  # the latter: its network cannot be entered
            self._fail()
            return
        self._loop.add_writer(connection, self._connected)
        self._timer = self._loop.call_later(_CONNECT_S, self._fail)

    def _connected(self) -> None:
        connection = self._connection
        assert connection is not None
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail()
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_writer(connection)
        self._loop.add_reader(connection, self._hear)
        self._open_since = self._loop.time()
        self._write()

    def _write(self) -> None:
        """Give the kernel what it takes; go on when it has room again."""
        connection, waiting = self._connection, self._waiting
        assert connection is not None
        try:
            while waiting:
                frame = memoryview(waiting[0])
                self._done += connection.send(frame[self._done :])
                if self._done == len(frame):
                    waiting.popleft()
                    self._done = 0
        except BlockingIOError:
            pass
        except OSError:
            self._break()
            return
        if bool(waiting) != self._writing:
            self._writing = bool(waiting)
            if self._writing:
                self._loop.add_writer(connection, self._write)
            else:
                self._loop.remove_writer(connection)

    def _hear(self) -> None:
        """Receivers say nothing on this connection: there is news only when it ends."""
        self._break()

    def _break(self) -> None:
        """Take the end of an open connection: what waits goes over the next one."""
        self._disconnect()
        if self._waiting:
            self._reopen()

    def _fail(self) -> None:
        """Give up after a failed attempt: what waits would be stale before the peer is back."""
        self._disconnect()
        self._give_up()

    def _give_up(self) -> None:
        self._lose(len(self._waiting))
        self._waiting.clear()

    def _disconnect(self) -> None:
        now = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is not None:
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()
        steady = self._open_since is not None and now - self._open_since > _STEADY_S
        longer = max(2 * self._pause, _FIRST_PAUSE_S)
        self._pause = _FIRST_PAUSE_S if steady else min(longer, _LAST_PAUSE_S)
        self._not_before = now + self._pause
        self._connection, self._open_since = None, None
        self._writing, self._done = False, 0


Enter = Callable[[str], AbstractContextManager[None]]
"""A context in which sockets are made that belong to an agent: it enters its network.

It may raise ``OSError`` or ``PhalanxError``: then no peer is reached from there.
"""

_BACKLOG = 128
_REST_S = 0.5


def _here(_: str) -> AbstractContextManager[None]:
    return nullcontext()


class _Agent:
    """One attachment of an agent: where it listens, and who has reached it."""

    def __init__(
        self, bus: SocketBus, name: str, handler: Handler, listener: socket.socket
    ) -> None:
        self.name = name
        self.handler: Handler | None = handler
        self.incoming: dict[str, Incoming] = {}
        """The newest connection of each peer; where several share an address, all of them."""
        self._bus = bus
        self._listener = listener
        self._loop = bus.clock.loop
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        self.handler = None
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in list(self.incoming.values()):
            connection.close()

    def _accept(self) -> None:
        try:
            connection, (host, port) = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # out of descriptors: the caller stays ready, so look again later
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_REST_S, self._listen_again)
            return
        peers = self._bus.agents_at(host)
        if not peers:
            self._bus.refuse("stranger")
            connection.close()
            return
        prepare(connection)
        peer = peers[0] if len(peers) == 1 else f"{host}:{port}"
        older = self.incoming.get(peer)
        if older is not None:  # its sender has given it up, or it would not have opened another
            older.close()
        self.incoming[peer] = Incoming(
            self._loop,
            connection,
            self._bus.limit,
            lambda payload: self._read(peers, payload),
            lambda ended, reason: self._end(peer, ended, reason),
        )

    def _listen_again(self) -> None:
        if self.handler is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _read(self, peers: Sequence[str], payload: bytes) -> bool:
        """Take one frame; return whether the connection may go on."""
        try:
            message = decode(payload)
        except WireError:
            self._bus.refuse("garbage")
            return False
        if message.sender not in peers or message.receiver != self.name:
            self._bus.refuse("forged")
        else:
            self._bus.clock.call_soon(lambda: self._hand(message))
        return True

    def _hand(self, message: Message) -> None:
        if self.handler is None:
            self._bus.lost += 1
        else:
            self._bus.delivered += 1
            self.handler(message)

    def _end(self, peer: str, ended: Incoming, reason: str | None) -> None:
        if reason is not None:
            self._bus.refuse(reason)
        if self.incoming.get(peer) is ended:
            del self.incoming[peer]


class SocketBus:
    """Carries messages between agents over TCP, one connection for each ordered pair.

    An agent listens at its address and sends from it; a connection is its sender's by the
    address that it comes from, so what keeps agents from forging messages is what keeps
    them from forging addresses (the overlay). Agents that share an address, as those at one
    PoP do, are not kept from speaking in each other's names. Nothing waits for a peer: each has
    a queue of its own, and a connection is opened when there is something to send. When it
    cannot be opened, what waited is lost and the next attempt comes after a pause, at most a
    second.

    Handlers are called by the clock, so that what they raise goes up to it. What the kernel
    had taken when a connection broke is lost and not counted: there is no way to know it.
    """

    def __init__(
        self,
        clock: WallClock,
        addresses: Mapping[str, Address],
        *,
        peers: Iterable[str] | None = None,
        enter: Enter = _here,
        limit: int = MAX_OCTETS,
        capacity: int = 1_000,
        on_shed: Callable[[Message], None] | None = None,
    ) -> None:
        """Make a bus; no socket is opened before an agent attaches or sends.

        Args:
            clock: makes the deliveries; its loop carries the traffic.
            addresses: (IPv4 address, port) of each agent; no two share both.
            peers: the agents to speak of; None: all that have an address.
            enter: entered while sockets of the agent that it is given are made.
            limit: octets of the largest message, at most ``MAX_OCTETS``.
            capacity: messages that may wait for one receiver, for each sender.
            on_shed: is told of each message that was shed because of ``capacity``.

        Raises:
            ValueError: if two agents share address and port, or ``capacity`` is below 1.

        """
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, at least 1 is needed")
        self.clock = clock
        self.limit = limit
        self.delivered = 0
        """Messages handed to a handler."""
        self.lost = 0
        """Messages whose connection could not be had, or whose sender or receiver left."""
        self.shed: dict[str, int] = {}
        """Messages that a full queue dropped, by receiver."""
        self.refused: dict[str, int] = {}
        """What came in and was not taken: connections by ``stranger``; frames that are
        ``oversize``, ``garbage`` or ``forged`` (another sender or receiver than theirs)."""
        self._addresses = dict(addresses)
        self._names: dict[str, list[str]] = {}
        for name, (host, _) in addresses.items():
            self._names.setdefault(host, []).append(name)
        if len(set(addresses.values())) < len(addresses):
            raise ValueError("two agents share an address and a port")
        self._peers = tuple(sorted(addresses if peers is None else set(peers)))
        self._enter = enter
        self._capacity = capacity
        self._on_shed = on_shed
        self._sent: dict[str, int] = {}
        self._agents: dict[str, _Agent] = {}
        self._left: set[str] = set()
        self._outgoing: dict[tuple[str, str], Outgoing] = {}

    @property
    def sent(self) -> dict[Performative, int]:
        """Messages sent, by performative; whatever became of them."""
        return {Performative(value): count for value, count in sorted(self._sent.items())}

    @property
    def queued(self) -> int:
        """Messages that wait for the kernel to take them."""
        return sum(connection.waiting for connection in self._outgoing.values())

    def attach(self, address: str, handler: Handler) -> None:
        """Listen at the agent's address and deliver to ``handler`` from now on.

        Raises:
            ValueError: if the agent is attached already or has no address.
            OSError: if its address cannot be listened at; and what ``enter`` raises.

        """
        if address in self._agents:
            raise ValueError(f"{address!r} is attached already; detach it first")
        if address not in self._addresses:
            raise ValueError(f"{address!r} has no address on this bus")
        with self._enter(address):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._addresses[address])
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._left.discard(address)
        self._agents[address] = _Agent(self, address, handler, listener)

    def detach(self, address: str) -> None:
        """Close the agent's sockets; what is on its way from it and to it is lost."""
        agent = self._agents.pop(address, None)
        if agent is None:
            return
        self._left.add(address)
        agent.close()
        for pair in [pair for pair in self._outgoing if pair[0] == address]:
            self._outgoing.pop(pair).close()

    def close(self) -> None:
        """Detach all agents and close every socket, also while the loop stands still."""
        for address in list(self._agents):
            self.detach(address)
        for connection in self._outgoing.values():
            connection.close()
        self._outgoing.clear()

    def send(self, message: Message) -> None:
        """Send to the message's receiver; shed, lose and count it if that cannot be.

        Raises:
            WireError: if the message cannot be written or is too long, a fault of its sender.

        """
        payload = encode(message)
        if len(payload) > self.limit:
            raise WireError(f"message {message.id!r} has {len(payload)} octets of {self.limit}")
        performative = message.performative.value
        self._sent[performative] = self._sent.get(performative, 0) + 1
        sender, receiver = message.sender, message.receiver
        if sender in self._left or not {sender, receiver} <= self._addresses.keys():
            self.lost += 1
            return
        connection = self._outgoing.get((sender, receiver))
        if connection is None:
            connection = self._outgoing[sender, receiver] = self._connection(sender, receiver)
        if connection.waiting >= self._capacity:
            self.shed[receiver] = self.shed.get(receiver, 0) + 1
            if self._on_shed is not None:
                self._on_shed(message)
            return
        connection.put(payload)

    def peers(self) -> tuple[str, ...]:
        """Return the agents that the bus was configured with, sorted."""
        return self._peers

    # -- for the connections ----------------------------------------------------------------

    def agents_at(self, host: str) -> Sequence[str]:
        """Return the agents whose IPv4 address is ``host``."""
        return self._names.get(host, ())

    def refuse(self, reason: str) -> None:
        """Count something that came in and is not taken."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _connection(self, sender: str, receiver: str) -> Outgoing:
        def make() -> socket.socket:
            with self._enter(sender):
                return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

        source, target = self._addresses[sender][0], self._addresses[receiver]
        return Outgoing(self.clock.loop, make, source, target, self._lose)

    def _lose(self, count: int) -> None:
        self.lost += count
