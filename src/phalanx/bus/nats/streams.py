"""Reading streams and tables in order, whatever becomes of the connection and of the servers.

A reader keeps where it stands. The consumer at the server is temporary: it is in memory, has a
name that cannot be guessed and acknowledges nothing; when it, its server or the connection is
lost, or something is missing, the next one begins behind the last message that came.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from phalanx.bus.client import CaughtUp, Stored, StoredHandler, Watcher
from phalanx.bus.nats.config import CURSORS, bucket, entry
from phalanx.bus.nats.connection import LivenessCheck
from phalanx.bus.nats.dispatcher import EPOCH, Dispatcher, JetStreamReply
from phalanx.bus.nats.protocol import Arrived, read_headers

BATCH = 500
"""Most messages that are asked for and have not come."""
_EXPIRES_S = 30.0
_BEATS = 3
"""Heartbeats while the server may be silent."""
_AGAIN_S = 0.25
_UNUSED_S = 60.0
_LONGEST_S = 1e10
_UNACKNOWLEDGED = 1_000
_REMEMBER_S = 0.1
_NEW, _TIME, _LAST = "new", "by_start_time", "last_per_subject"
_BEAT, _NONE, _OVER = "100", "404", "408"


class StreamPosition:
    """Where in a stream a message stands, read from the subject that would acknowledge it."""

    __slots__ = ("number", "pending", "received", "sequence")

    def __init__(self, reply: str) -> None:
        """Read ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<…>…``.

        Raises:
            ValueError: if it is none.

        """
        parts = reply.split(".")
        at = 7 if len(parts) > 9 else 5
        if parts[:2] != ["$JS", "ACK"] or len(parts) < at + 4:
            raise ValueError(f"{reply!r} says no place in a stream")
        self.sequence = int(parts[at])
        self.number = int(parts[at + 1])
        """Counts what its consumer delivered, from 1 on."""
        self.received = int(parts[at + 2]) / 1e9
        self.pending = int(parts[at + 3])
        """How many more are there already."""


class StreamReader:
    """Reads a stream, or those of its subjects that match."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        stream: str,
        only: str | None,
        take: Callable[[Arrived, StreamPosition], None],
        *,
        policy: str = "all",
        last: int = 0,
        since_s: float | None = None,
        ready: Callable[[bool, int], None],
        lost: Callable[[int], None] = lambda _: None,
        room: Callable[[], int] = lambda: BATCH,
    ) -> None:
        """Make a reader; ``begin`` starts it on each connection.

        Args:
            dispatcher: of the client.
            stream: its name.
            only: a pattern of subjects; None: all.
            take: is given each message.
            policy: where to begin if ``last`` is 0: ``all``, ``new`` or ``last_per_subject``.
            last: the sequence to begin behind.
            since_s: begin, if ``last`` is 0, with what was kept so many seconds ago, by the
                clock of the server; None: as ``policy`` says.
            ready: told each time that reading begins: whether the stream has begun anew since
                (what was read is of another one), and how much waits.
            lost: told how many of a whole stream it had discarded before they were read.
            room: how many more ``take`` can take now; call ``more`` when it grows.

        """
        self._dispatcher = dispatcher
        self._stream = stream
        self._only = only
        self._take = take
        self._policy = policy if since_s is None else _TIME
        self._last = last
        self._since_s = since_s
        self._start: datetime | None = None
        """Where that is; None: the server has to say first what time it is."""
        self._ready = ready
        self._lost = lost
        self._room = room
        self._sid = 0
        self._inbox = ""
        self._consumer = ""
        self._count = 0
        self._asked = 0
        self._heard = False
        self._liveness = LivenessCheck(dispatcher.deaf_s)
        self._live = False
        """Whether the consumer is there."""
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Make a new consumer behind what was read; to be called on each new connection."""
        if self._closed:
            return
        self._end()
        self._count = self._asked = 0
        self._sid, self._inbox = self._dispatcher.listen(self._arrived)
        consumer = self._consumer = secrets.token_hex(12)
        config: dict[str, Any] = {
            "name": consumer,
            "deliver_policy": self._policy,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(_UNUSED_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self._last:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1}
        elif self._start is not None:
            config["opt_start_time"] = self._start
        elif self._since_s is not None:
            config["deliver_policy"] = _NEW
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}.{consumer}"
        if self._only is not None:
            config["filter_subject"] = self._only
            subject += f".{self._only}"
        question = {"stream_name": self._stream, "config": config, "action": "create"}
        self._dispatcher.ask(subject, question, partial(self._made, consumer))

    def more(self) -> None:
        """Ask for more if there is room."""
        room = min(self._room(), BATCH)
        if self._live and self._asked <= room // 2 and room > self._asked:
            batch = room - self._asked
            self._asked = room
            question = {
                "batch": batch,
                "expires": int(_EXPIRES_S * 1e9),
                "idle_heartbeat": int(self._dispatcher.deaf_s / _BEATS * 1e9),
            }
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            self._dispatcher.say(subject, msgspec.json.encode(question), self._inbox)

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sid:
            self._dispatcher.leave(self._sid)
            self._sid = 0
        self._consumer, self._live = "", False

    def _again(self) -> None:
        self._end()
        if not self._closed:
            self._timer = self._dispatcher.loop.call_later(_AGAIN_S, self.begin)

    def _made(self, consumer: str, reply: JetStreamReply) -> None:
        if consumer != self._consumer:
            return
        if reply.error is not None:
            self._dispatcher.complained(f"stream {self._stream}: {reply.error.description}")
            self._again()
            return
        if self._since_s is not None and self._start is None and not self._last:
            ago = timedelta(seconds=min(self._since_s, _LONGEST_S))
            self._start = max(EPOCH, reply.created - ago)
            self.begin()
            return
        before = int(reply.delivered.get("stream_seq", 0))
        if before < self._last:  # fewer are there than were read: another stream of that name
            self._last = 0
            self._dispatcher.complained(f"stream {self._stream} has begun anew")
            self._ready(True, 0)
            self._again()
            return
        whole = self._policy == "all" or self._last
        if self._only is None and whole and before > self._last:
            self._lost(before - self._last)
        if self._policy in (_NEW, _TIME):
            self._last = max(self._last, before)
        self._ready(False, reply.num_pending)
        if consumer != self._consumer:  # ``ready`` has closed this reader
            return
        self._live = True
        self._liveness = LivenessCheck(self._dispatcher.deaf_s)
        self._timer = self._dispatcher.loop.call_later(self._liveness.turn_s, self._turn)
        self.more()

    def _turn(self) -> None:
        """Begin again if the server is silent while it owes heartbeats."""
        self._liveness.turn(self._heard or not self._asked)
        self._heard = False
        if self._liveness.over:
            self.begin()
        else:
            self._timer = self._dispatcher.loop.call_later(self._liveness.turn_s, self._turn)

    def _arrived(self, message: Arrived) -> None:
        self._heard = True
        if message.subject == self._inbox:  # the server's own; what it kept has its own subject
            self._status(*read_headers(message.headers))
            return
        position = StreamPosition(message.reply or "")
        self._count += 1
        if position.number != self._count:
            self._again()
            return
        self._asked -= 1
        self._last = position.sequence
        self._take(message, position)
        self.more()

    def _status(self, status: str | None, fields: dict[str, str]) -> None:
        if status == _BEAT:
            return
        if status in (_NONE, _OVER):
            self._asked = max(0, self._asked - int(fields.get("Nats-Pending-Messages", 0)))
            self.more()
        else:  # 409: the consumer or its leader is gone; 503: no server knows it
            self._again()


class _Reading:
    """What a follower and a watcher have in common: the present is told once, and an end."""

    _reader: StreamReader | None

    def __init__(self, dispatcher: Dispatcher, caught_up: CaughtUp | None) -> None:
        self._dispatcher = dispatcher
        self._caught_up = caught_up
        self._left = 0
        """How many of those that were there have not come."""
        self._closed = False

    def begin(self) -> None:
        """Begin, or go on, over a new connection."""
        if self._reader is not None:
            self._reader.begin()

    def close(self) -> None:
        """End it; without effect the second time."""
        self._closed = True
        self._dispatcher.end(self)
        if self._reader is not None:
            self._reader.close()

    def _reached(self, left: int) -> None:
        self._left = left
        if left <= 0 and self._caught_up is not None:
            self._dispatcher.soon(self._tell_present, None)

    def _came(self, position: StreamPosition) -> None:
        """Count a message; those that were discarded meanwhile are not waited for."""
        if self._caught_up is not None:
            self._reached(min(self._left - 1, position.pending))

    def _tell_present(self, _: None) -> None:
        caught_up, self._caught_up = self._caught_up, None
        if caught_up is not None and not self._closed:
            caught_up()


class StreamFollower(_Reading):
    """Reads a stream for a handler; implements ``Subscription``.

    How far a durable one has come is kept in the table of cursors, a tenth of a second late:
    what was acknowledged in between comes again after a crash.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        stream: str,
        handler: StoredHandler,
        pattern: str | None,
        cursor: str | None,
        *,
        new_only: bool,
        since_s: float | None,
        caught_up: CaughtUp | None,
    ) -> None:
        """Follow ``stream``, with ``cursor`` as the subject that keeps the place."""
        super().__init__(dispatcher, caught_up)
        self._stream = stream
        self._handler = handler
        self._pattern = pattern
        self._cursor = cursor
        self._policy = _NEW if new_only else "all"
        self._since_s = since_s
        self._told: deque[int] = deque()
        """Sequences that are not acknowledged, or come after one that is not."""
        self._acknowledged: set[int] = set()
        self._waiting = 0
        """Messages on their way to the handler."""
        self._timer: asyncio.TimerHandle | None = None
        if cursor is None:
            self._reader = self._read_from(0)
        else:
            self._reader = StreamReader(
                dispatcher, bucket(CURSORS), cursor, self._found, policy=_LAST, ready=self._sought
            )

    def close(self) -> None:
        """End it; without effect the second time."""
        if not self._closed:
            self._remember()
            super().close()

    def _read_from(self, last: int) -> StreamReader:
        return StreamReader(
            self._dispatcher,
            self._stream,
            self._pattern,
            self._take,
            policy=self._policy,
            last=last,
            since_s=self._since_s,
            ready=lambda anew, waiting: None if anew else self._reached(waiting),
            lost=partial(self._dispatcher.counters.drop, self._stream),
            room=lambda: min(BATCH - self._waiting, _UNACKNOWLEDGED - len(self._told)),
        )

    def _sought(self, _: bool, waiting: int) -> None:
        """Begin at the beginning where no cursor is kept."""
        if not waiting:
            self._start(0)

    def _found(self, message: Arrived, _: StreamPosition) -> None:
        self._start(int(message.payload) if message.payload.isdigit() else 0)

    def _start(self, last: int) -> None:
        assert self._reader is not None
        self._reader.close()
        self._reader = self._read_from(last)
        self._reader.begin()

    def _take(self, message: Arrived, position: StreamPosition) -> None:
        self._waiting += 1
        if self._cursor is not None:
            self._told.append(position.sequence)
        self._dispatcher.soon(self._hand, (message, position))
        self._came(position)

    def _hand(self, item: tuple[Arrived, StreamPosition]) -> None:
        message, position = item
        self._waiting -= 1
        if self._closed:
            return
        if self._reader is not None:
            self._reader.more()
        self._handler(
            Stored(
                position.sequence,
                message.subject,
                message.payload,
                read_headers(message.headers)[1] if message.headers else {},
                position.received,
                partial(self._acknowledge, position.sequence),
            )
        )

    def _acknowledge(self, sequence: int) -> None:
        if self._cursor is None or self._closed:
            return
        self._acknowledged.add(sequence)
        if len(self._acknowledged) >= BATCH:
            self._remember()
        elif self._timer is None:
            self._timer = self._dispatcher.loop.call_later(_REMEMBER_S, self._remember)

    def _remember(self) -> None:
        """Keep the sequence up to which everything is acknowledged."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        last = None
        while self._told and self._told[0] in self._acknowledged:
            last = self._told.popleft()
            self._acknowledged.remove(last)
        if last is not None and self._cursor is not None:
            self._dispatcher.write(self._cursor, b"%d" % last)
            if self._reader is not None:
                self._reader.more()


class TableWatcher(_Reading):
    """Tells of the keys of a table; implements ``Subscription``."""

    def __init__(
        self, dispatcher: Dispatcher, table: str, handler: Watcher, caught_up: CaughtUp | None
    ) -> None:
        """Watch ``table``."""
        super().__init__(dispatcher, caught_up)
        self._handler = handler
        self._prefix = len(entry(table, ""))
        self._known: set[str] = set()
        keys = entry(table, ">")
        self._reader = StreamReader(
            dispatcher, bucket(table), keys, self._take, policy=_LAST, ready=self._began
        )

    def _began(self, anew: bool, waiting: int) -> None:
        if not anew:
            self._reached(waiting)
            return
        for key in sorted(self._known):
            self._tell(key, None)

    def _take(self, message: Arrived, position: StreamPosition) -> None:
        dropped = bool(message.headers) and "KV-Operation" in read_headers(message.headers)[1]
        self._tell(message.subject[self._prefix :], None if dropped else message.payload)
        self._came(position)

    def _tell(self, key: str, value: bytes | None) -> None:
        if value is not None:
            self._known.add(key)
        elif key in self._known:
            self._known.remove(key)
        else:  # dropped before this watcher came
            return
        self._dispatcher.soon(self._hand, (key, value))

    def _hand(self, item: tuple[str, bytes | None]) -> None:
        if not self._closed:
            self._handler(*item)
