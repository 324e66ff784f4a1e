"""Followers of streams and watchers of tables, over readers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from phalanx.bus.client import CaughtUp, Stored, StoredHandler, Watcher
from phalanx.bus.nats.mapping import CURSORS, bucket, entry
from phalanx.bus.nats.protocol import Arrived, read_headers
from phalanx.bus.nats.reading import BATCH, Broker, StreamPosition, StreamReader

_UNACKNOWLEDGED = 1_000
_REMEMBER_S = 0.1


class Dispatcher(Broker, Protocol):
    """What followers and watchers need of the exchange beside what readers do."""

    def soon(self, call: Callable[[Any], None], argument: Any) -> None:
        """Have a call made by the clock."""

    def end(self, reading: Any) -> None:
        """Begin a reading no more on new connections."""

    def write(self, subject: str, payload: bytes) -> None:
        """Keep a value of a table, sooner or later."""

    def lost(self, what: str, count: int) -> None:
        """Count what is gone before it could be read."""


class Present:
    """Tells, once, when all has been told that was there as a reading began."""

    def __init__(self, dispatcher: Dispatcher, caught_up: CaughtUp | None) -> None:
        """Have ``caught_up`` called by the clock, after what was taken before."""
        self._dispatcher = dispatcher
        self._caught_up = caught_up
        self._left = 0

    def began(self, anew: bool, waiting: int) -> None:
        """Begin, or begin again, to read ``waiting`` messages; ``anew``: not these yet."""
        if not anew:
            self._reached(waiting)

    def took(self, place: StreamPosition) -> None:
        """Take a message; what it did not find, since it was let go, is not waited for."""
        if self._caught_up is not None:
            self._reached(min(self._left - 1, place.pending))

    def forget(self) -> None:
        """Tell no more."""
        self._caught_up = None

    def _reached(self, left: int) -> None:
        self._left = left
        if left <= 0:
            self._dispatcher.soon(self._tell, None)

    def _tell(self, _: None) -> None:
        caught_up, self._caught_up = self._caught_up, None
        if caught_up is not None:
            caught_up()


class StreamFollower:
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
        self._dispatcher = dispatcher
        self._stream = stream
        self._handler = handler
        self._pattern = pattern
        self._cursor = cursor
        self._policy = "new" if new_only else "all"
        self._since_s = since_s
        self._present = Present(dispatcher, caught_up)
        self._told: deque[int] = deque()
        """Sequences that are not acknowledged, or come after one that is not."""
        self._acknowledged: set[int] = set()
        self._waiting = 0
        """Messages on their way to the handler."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._finding: StreamReader | None = None
        self._reader: StreamReader | None = None
        if cursor is None:
            self._reader = self._read_from(0)
        else:
            self._finding = StreamReader(
                dispatcher,
                bucket(CURSORS),
                cursor,
                self._found,
                policy="last_per_subject",
                ready=self._sought,
            )

    def begin(self) -> None:
        """Begin, or go on, over a new connection."""
        reader = self._reader or self._finding
        if reader is not None:
            reader.begin()

    def close(self) -> None:
        """Hear no more; without effect the second time."""
        if not self._closed:
            self._remember()
            self._closed = True
            self._present.forget()
            self._dispatcher.end(self)
            for reader in (self._finding, self._reader):
                if reader is not None:
                    reader.close()

    def _read_from(self, last: int) -> StreamReader:
        return StreamReader(
            self._dispatcher,
            self._stream,
            self._pattern,
            self._take,
            policy=self._policy,
            last=last,
            since_s=self._since_s,
            ready=self._present.began,
            lost=partial(self._dispatcher.lost, self._stream),
            room=self._room,
        )

    def _sought(self, _: bool, waiting: int) -> None:
        if not waiting:
            self._start(0)

    def _found(self, message: Arrived, _: StreamPosition) -> None:
        self._start(int(message.payload) if message.payload.isdigit() else 0)

    def _start(self, last: int) -> None:
        if self._finding is not None:
            self._finding.close()
            self._finding = None
            self._reader = self._read_from(last)
            self._reader.begin()

    def _room(self) -> int:
        return min(BATCH - self._waiting, _UNACKNOWLEDGED - len(self._told))

    def _take(self, message: Arrived, place: StreamPosition) -> None:
        self._waiting += 1
        if self._cursor is not None:
            self._told.append(place.sequence)
        self._dispatcher.soon(self._hand, (message, place))
        self._present.took(place)

    def _hand(self, item: tuple[Arrived, StreamPosition]) -> None:
        message, place = item
        self._waiting -= 1
        if self._closed:
            return
        if self._reader is not None:
            self._reader.more()
        headers = read_headers(message.headers)[1] if message.headers else {}
        acknowledge = partial(self._acknowledge, place.sequence)
        self._handler(
            Stored(
                place.sequence,
                message.subject,
                message.payload,
                headers,
                place.received,
                acknowledge,
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
        if self._cursor is None:
            return
        last = None
        while self._told and self._told[0] in self._acknowledged:
            last = self._told.popleft()
            self._acknowledged.remove(last)
        if last is not None:
            self._dispatcher.write(self._cursor, b"%d" % last)
            if self._reader is not None:
                self._reader.more()


class TableWatcher:
    """Tells of the keys of a table; implements ``Subscription``."""

    def __init__(
        self, dispatcher: Dispatcher, table: str, handler: Watcher, caught_up: CaughtUp | None
    ) -> None:
        """Watch ``table``."""
        self._dispatcher = dispatcher
        self._handler = handler
        self._prefix = len(entry(table, ""))
        self._known: set[str] = set()
        self._present = Present(dispatcher, caught_up)
        self._closed = False
        self._reader = StreamReader(
            dispatcher,
            bucket(table),
            entry(table, ">"),
            self._take,
            policy="last_per_subject",
            ready=self._began,
        )

    def begin(self) -> None:
        """Begin, or go on, over a new connection."""
        self._reader.begin()

    def close(self) -> None:
        """Hear no more; without effect the second time."""
        self._closed = True
        self._present.forget()
        self._dispatcher.end(self)
        self._reader.close()

    def _began(self, anew: bool, waiting: int) -> None:
        if anew:
            for key in sorted(self._known):
                self._tell(key, None)
        self._present.began(anew, waiting)

    def _take(self, message: Arrived, place: StreamPosition) -> None:
        dropped = bool(message.headers) and "KV-Operation" in read_headers(message.headers)[1]
        self._tell(message.subject[self._prefix :], None if dropped else message.payload)
        self._present.took(place)

    def _tell(self, key: str, value: bytes | None) -> None:
        if value is not None:
            self._known.add(key)
        elif key in self._known:
            self._known.remove(key)
        else:  # dropped before we came
            return
        self._dispatcher.soon(self._hand, (key, value))

    def _hand(self, item: tuple[str, bytes | None]) -> None:
        if not self._closed:
            self._handler(*item)
