"""Reading streams and tables in order, whatever becomes of the connection and of the servers.

A reader keeps where it stands; a server keeps nothing of it. What is there it gets in batches
(NATS, "Direct Get"), which any server that has the stream gives. What comes then the stream
tells to all at once (``republish``), with the sequence that it has: what is the next one is
taken, and what is not shows that something is missing, which is got. Both answers name the
subject, sequence and time behind the headers of who sent it, so that the last of a name counts.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace
from nats import errors

from phalanx.bus.client import CaughtUp, Delivery, Stored, StoredHandler, Watcher
from phalanx.bus.nats.config import CURSORS, DIRECT_GET, NOW, bucket, entry, kept
from phalanx.bus.nats.connection import TURNS, NatsConnection, NatsListener, why
from phalanx.bus.subjects import matches

BATCH = 500
"""Most messages that are got at once, and that may come meanwhile."""
_BATCH_OCTETS = 1 << 20
_LOOK_S = 2.0
"""How often a quiet stream is looked at, should it have told something that did not come."""
_AGAIN_S = 0.25
_SURE = 20
"""So many answers in a row must lack what was read before they were asked for, until a stream is
another one: servers may be behind, and this process may have stood still."""
_LONGEST_S = 1e10
_UNACKNOWLEDGED = 1_000
_REMEMBER_S = 0.1
_END, _NONE = "204", "404"


class StreamReader:
    """Reads a stream, or those of its subjects that match; implements ``Subscription``."""

    def __init__(
        self,
        connection: NatsConnection,
        stream: str,
        only: str | None,
        caught_up: CaughtUp | None,
    ) -> None:
        """Read from the connection that there is, and from each that follows.

        Args:
            connection: of the client.
            stream: its name.
            only: a pattern of subjects; None: all.
            caught_up: called once all that was there is told; None: not of interest.

        """
        self._connection = connection
        self._clock = connection.clock
        self._stream = stream
        self._only = only
        self._caught_up = caught_up
        self._last = 0
        """The sequence up to which it has read; 0: nothing."""
        self._placed = False
        """Whether it is known where to begin."""
        self._inbox = f"{connection.inbox}.{secrets.token_hex(8)}"
        self._get = f"{DIRECT_GET}.{stream}"
        self._asked = 0
        self._getting = self._heard = self._batch = self._closed = False
        self._word: Delivery | None = None
        self._ahead: deque[tuple[int, Delivery]] = deque(maxlen=BATCH)
        """What the stream told while it was read."""
        self._over = asyncio.Event()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listeners = [
            NatsListener(connection, f"{connection.heard}.{kept(stream)}", self._told_of),
            NatsListener(connection, f"{self._inbox}.*", self._arrived),
        ]
        connection.changed.append(self._begin)
        self._begin(connection.up)

    def close(self) -> None:
        """Read no more; without effect the second time."""
        if not self._closed:
            self._closed = True
            self._connection.changed.remove(self._begin)
            self._begin(False)
            for listener in self._listeners:
                listener.close()

    # -- what is read, and where it begins ---------------------------------------------------

    async def _locate(self) -> None:
        """Find out where to begin, the first time."""

    def _anew(self) -> None:
        """Take note that the stream is another one than that which was read."""

    def _missed(self, count: int) -> None:
        """Take note of what was discarded before it was read."""

    def _room(self) -> int:
        """Return how many more can be taken now."""
        return BATCH

    def _take(self, message: Stored) -> None:
        """Take a message."""
        raise NotImplementedError

    # -- reading -----------------------------------------------------------------------------

    def _begin(self, up: bool) -> None:
        self._getting = True  # until it is known what is missing
        if self._task is not None:
            self._task.cancel()
        self._task = self._connection.spawn(self._run()) if up else None

    async def _run(self) -> None:
        """Read what is there, and whatever is found to be missing then."""
        while True:
            try:
                if not self._placed:
                    await self._locate()
                    self._placed = True
                await self._whole()
                while True:
                    await self._read()
                    self._wake.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), _LOOK_S)
                    if not self._wake.is_set():
                        await self._whole()
            except (TimeoutError, errors.Error) as error:
                self._connection.complained(f"stream {self._stream}: {why(error)}")
            await asyncio.sleep(_AGAIN_S)

    async def _whole(self) -> None:
        """See to it that the stream is the one that was read, and not another of its name."""
        for _ in range(_SURE):
            last = self._last
            if await self._head() >= last:
                return
            await asyncio.sleep(_AGAIN_S)
        self._last = 0
        self._connection.complained(f"stream {self._stream} has begun anew")
        self._anew()

    async def _read(self) -> None:
        """Get what is behind the last message, as far as there is room."""
        self._getting = True
        head = await self._head() if self._only is not None else 0
        while (room := min(self._room(), BATCH)) > 0:
            question: dict[str, Any] = {
                "seq": self._last + 1,
                "batch": room,
                "max_bytes": _BATCH_OCTETS,
            }
            if self._only is not None:
                question["next_by_subj"] = self._only
            end = await self._ask(self._get, question)
            if int(end.headers.get("Nats-Num-Pending", 0)):
                continue
            self._last = max(self._last, head)
            self._getting = False
            ahead = sorted(self._ahead, key=lambda one: one[0])
            self._ahead.clear()
            for _, delivery in ahead:
                self._told_of(delivery)
            if self._caught_up is not None:
                self._clock.call_soon(self._tell_present)
            return

    async def _head(self) -> int:
        """Return the sequence of the last message that the stream took; 0: there is none."""
        last = await self._ask(self._get, {"last_by_subj": ">"})
        return int(last.headers.get("Nats-Sequence", 0))

    async def _ask(self, subject: str, question: dict[str, Any]) -> Delivery:
        """Ask, and return the last word of the answer; what comes of a batch is read.

        Raises:
            errors.Error: if the server says that it cannot.
            TimeoutError: if it says nothing.

        """
        self._asked += 1
        self._batch, self._word = "batch" in question, None
        octets = msgspec.json.encode(question) if question else b""
        self._connection.send((subject, octets, f"{self._inbox}.{self._asked}"), bounded=False)
        quiet = 0
        while self._word is None:
            self._over.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._connection.turn_s)
            quiet = 0 if self._heard else quiet + 1
            self._heard = False
            if quiet >= TURNS:
                raise TimeoutError
        status = self._word.headers.get("Status")
        if status not in (None, _END, _NONE):
            none = status == "503"
            raise errors.Error("no server has it" if none else f"the server says {status}")
        return self._word

    def _arrived(self, answer: Delivery) -> None:
        if self._closed or not answer.subject.endswith(f".{self._asked}"):
            return
        self._heard = True
        if self._batch and "Nats-Sequence" in answer.headers:
            self._next(int(answer.headers["Nats-Sequence"]), answer)
        else:
            self._word = answer
            self._over.set()

    def _told_of(self, told: Delivery) -> None:
        """Take what the stream has just taken, if it is the next, or look for what is missing."""
        sequence = int(told.headers.get("Nats-Sequence", 0))
        if self._getting:
            self._ahead.append((sequence, told))
        elif sequence == self._last + 1 and self._room() > 0:
            self._next(sequence, told)
        elif sequence > self._last:
            self._wake.set()

    def _next(self, sequence: int, message: Delivery) -> None:
        if sequence <= self._last:
            return
        whole = self._only is None and (self._last or self._placed)
        if whole and sequence > self._last + 1:
            self._missed(sequence - self._last - 1)
        self._last = sequence
        headers = message.headers
        subject = headers.get("Nats-Subject", "")
        if self._only is None or matches(self._only, subject):
            received = _seconds(headers["Nats-Time-Stamp"])
            self._take(Stored(sequence, subject, message.payload, headers, received, _nothing))

    def _tell_present(self) -> None:
        caught_up, self._caught_up = self._caught_up, None
        if caught_up is not None and not self._closed:
            caught_up()


def fault_of(stream: str, said: dict[str, Any]) -> str | None:
    """Return in words what is wrong with a stream, by the answer to STREAM.INFO; None: nothing."""
    if "error" in said:
        return f"the brokers do not keep {stream}: {said['error']['description']}"
    cluster, wanted = said.get("cluster", {}), said["config"]["num_replicas"]
    replicas = cluster.get("replicas", ())
    there = 1 + sum(replica["current"] and not replica.get("offline") for replica in replicas)
    if wanted > 1 and not cluster.get("leader"):
        return f"{stream} has no leader: nothing is kept"
    return f"{stream} is whole on {there} of {wanted} brokers" if there < wanted else None


def _seconds(text: str) -> float:
    """Return seconds since 1970 of a moment as a server writes it."""
    return datetime.fromisoformat(text).timestamp()


def _nothing() -> None:
    """Acknowledge nothing."""


class StreamFollower(StreamReader):
    """Reads a stream for a handler.

    How far a durable one has come is kept in the table of cursors, a tenth of a second late:
    what was acknowledged in between comes again after a crash.
    """

    def __init__(
        self,
        connection: NatsConnection,
        stream: str,
        handler: StoredHandler,
        pattern: str | None,
        cursor: str | None,
        *,
        new_only: bool,
        since_s: float | None,
        caught_up: CaughtUp | None,
        remember: Callable[[str, bytes], object],
    ) -> None:
        """Follow ``stream``; ``remember`` keeps the place under the subject ``cursor``."""
        self._handler = handler
        self._cursor = cursor
        self._new_only = new_only
        self._since_s = since_s
        self._remember_at = remember
        self._told: deque[int] = deque()
        """Sequences that are not acknowledged, or come after one that is not."""
        self._acknowledged: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(connection, stream, pattern, caught_up)

    def close(self) -> None:
        """Follow no more; without effect the second time."""
        if not self._closed:
            self._remember()
            super().close()

    async def _locate(self) -> None:
        if self._cursor is not None:
            found = await self._ask(f"{DIRECT_GET}.{bucket(CURSORS)}.{self._cursor}", {})
            self._last = int(found.payload) if found.payload.isdigit() else 0
        if self._last > 0:
            return
        if self._new_only:
            self._last = await self._head()
        elif self._since_s is not None:
            now = msgspec.json.decode((await self._ask(NOW, {})).payload)["server"]["time"]
            begin = max(0.0, _seconds(now) - min(self._since_s, _LONGEST_S))
            start = datetime.fromtimestamp(begin, UTC).isoformat()
            head = await self._head()
            await self._ask(self._get, {"start_time": start, "batch": 1})
            self._last = self._last or head

    def _missed(self, count: int) -> None:
        self._connection.counters.drop(self._stream, count)

    def _room(self) -> int:
        return _UNACKNOWLEDGED - len(self._told)

    def _take(self, message: Stored) -> None:
        if self._cursor is not None:
            self._told.append(message.sequence)
        acknowledge = partial(self._acknowledge, message.sequence)
        self._clock.call_now(partial(self._hand, replace(message, acknowledge=acknowledge)))

    def _hand(self, message: Stored) -> None:
        if not self._closed:
            self._handler(message)

    def _acknowledge(self, sequence: int) -> None:
        if self._cursor is None or self._closed:
            return
        self._acknowledged.add(sequence)
        if len(self._acknowledged) >= BATCH:
            self._remember()
        elif self._timer is None:
            self._timer = self._connection.loop.call_later(_REMEMBER_S, self._remember)

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
            self._remember_at(self._cursor, b"%d" % last)
            self._wake.set()


class TableWatcher(StreamReader):
    """Tells of the keys of a table."""

    def __init__(
        self,
        connection: NatsConnection,
        table: str,
        handler: Watcher,
        caught_up: CaughtUp | None,
    ) -> None:
        """Watch ``table``."""
        self._handler = handler
        self._prefix = len(entry(table, ""))
        self._known: set[str] = set()
        super().__init__(connection, bucket(table), None, caught_up)

    def _anew(self) -> None:
        for key in sorted(self._known):
            self._tell(key, None)

    def _take(self, message: Stored) -> None:
        dropped = "KV-Operation" in message.headers
        self._tell(message.subject[self._prefix :], None if dropped else message.payload)

    def _tell(self, key: str, value: bytes | None) -> None:
        if value is not None:
            self._known.add(key)
        elif key in self._known:
            self._known.remove(key)
        else:  # dropped before this watcher came
            return
        self._clock.call_now(partial(self._hand, key, value))

    def _hand(self, key: str, value: bytes | None) -> None:
        if not self._closed:
            self._handler(key, value)
