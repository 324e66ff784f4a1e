"""The two ends of a TCP connection of the bus: frames of a length (4 octets) and a payload.

Both work on an event loop by readers and writers alone, without tasks: what they do is done
when their call returns, and they can be closed at any time, also after the loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator

from phalanx.domain.errors import PhalanxError

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
        """Meet the end of an open connection: what waits takes the next one."""
        self._disconnect()
        if self._waiting:
            self._reopen()

    def _fail(self) -> None:
        """Meet an attempt in vain: what waits would be stale before the peer is back."""
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
