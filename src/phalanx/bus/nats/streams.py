"""Reading streams and tables in order, whatever becomes of the connection and of the servers.

A reader keeps where it stands. The consumer at the server is temporary: it is in memory, has a
name that cannot be guessed and acknowledges nothing; when it, its server or the connection is
lost, or something is missing, the next one begins behind the last message that came.

nats-py makes the consumers. It does not pull for them: its ``fetch`` returns when a batch is full
or its time is over, and makes a task for each message. Its ordered consumers are pushed to, so
that what is too much is dropped and read again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy

from phalanx.bus.client import CaughtUp, Stored, StoredHandler, Watcher
from phalanx.bus.nats.config import CURSORS, bucket, entry
from phalanx.bus.nats.connection import TURNS, NatsConnection, why

BATCH = 500
"""Most messages that are asked for and have not come."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEXT = "$JS.API.CONSUMER.MSG.NEXT"
_EXPIRES_S = 30.0
_AGAIN_S = 0.25
_ASK_S = 2.0
_UNUSED_S = 60.0
_LONGEST_S = 1e10
_UNACKNOWLEDGED = 1_000
_REMEMBER_S = 0.1
_BEAT, _NONE, _EXPIRED = "100", "404", "408"


class StreamReader:
    """Reads a stream, or those of its subjects that match; implements ``Subscription``."""

    def __init__(
        self,
        connection: NatsConnection,
        stream: str,
        only: str | None,
        policy: DeliverPolicy,
        caught_up: CaughtUp | None,
    ) -> None:
        """Read from the connection that there is, and from each that follows.

        Args:
            connection: of the client.
            stream: its name.
            only: a pattern of subjects; None: all.
            policy: where to begin: all, new or the last of each subject.
            caught_up: called once all that was there is told; None: not of interest.

        """
        self._connection = connection
        self._clock = connection.clock
        self._stream = stream
        self._only = only
        self._policy = policy
        self._caught_up = caught_up
        self._left = 0
        """How many of those that were there have not come."""
        self._last = 0
        """The sequence behind which to begin; 0: as ``policy`` says."""
        self._start: datetime | None = None
        self._inbox = ""
        self._consumer = ""
        """Of the consumer that is there; empty: there is none."""
        self._count = self._asked = 0
        self._heard = self._closed = False
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        connection.changed.append(self._begin)
        self._begin(connection.up)

    def close(self) -> None:
        """Read no more; without effect the second time."""
        if not self._closed:
            self._closed = True
            self._connection.changed.remove(self._begin)
            self._begin(False)

    # -- what is read, and where it begins ---------------------------------------------------

    async def _locate(self) -> None:
        """Find out where to begin."""

    def _anew(self) -> None:
        """Take note that the stream is another one than that which was read."""

    def _missed(self, count: int) -> None:
        """Take note of what was discarded before it was read."""

    def _room(self) -> int:
        """Return how many more can be taken now."""
        return BATCH

    def _take(self, message: Msg) -> None:
        """Take a message."""
        raise NotImplementedError

    # -- reading -----------------------------------------------------------------------------

    def _begin(self, up: bool) -> None:
        self._consumer = ""
        if self._task is not None:
            self._task.cancel()
        self._task = self._connection.spawn(self._run()) if up else None

    async def _run(self) -> None:
        """Read by one consumer after the other."""
        while True:
            nats = self._connection.nats
            self._inbox = inbox = nats.new_inbox()
            self._count = self._asked = 0
            self._over.clear()
            try:
                listening = await nats.subscribe(inbox, cb=partial(self._arrived, inbox))
                try:
                    await self._locate()
                    await self._read()
                finally:
                    await listening.unsubscribe()
            except (TimeoutError, errors.Error) as error:
                self._connection.complained(f"stream {self._stream}: {why(error)}")
            self._consumer = ""
            await asyncio.sleep(_AGAIN_S)

    async def _read(self) -> None:
        """Make a consumer behind what was read, and read until something is lost."""
        consumer = await self._create(self._stream, self._only, self._policy)
        before = consumer.delivered.stream_seq if consumer.delivered is not None else 0
        if before < self._last:  # fewer are there than were read: another stream of that name
            self._last = 0
            self._connection.complained(f"stream {self._stream} has begun anew")
            self._anew()
            return
        whole = self._policy is DeliverPolicy.ALL or self._last
        if self._only is None and whole and before > self._last:
            self._missed(before - self._last)
        if self._policy in (DeliverPolicy.NEW, DeliverPolicy.BY_START_TIME):
            self._last = before
        self._consumer = consumer.name
        self._reached(consumer.num_pending or 0)
        self._more()
        quiet = 0
        while quiet < TURNS and not self._over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._connection.turn_s)
            quiet = 0 if self._heard or not self._asked else quiet + 1
            self._heard = False

    async def _create(self, stream: str, only: str | None, policy: DeliverPolicy) -> ConsumerInfo:
        config = ConsumerConfig(
            name=secrets.token_hex(12),
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE if self._last else policy,
            opt_start_seq=self._last + 1 if self._last else None,
            opt_start_time=None if self._last else self._start,
            ack_policy=AckPolicy.NONE,
            filter_subject=only,
            inactive_threshold=_UNUSED_S,
            mem_storage=True,
            num_replicas=1,
        )
        return await self._connection.jetstream.add_consumer(stream, config, _ASK_S)

    def _more(self) -> None:
        """Ask for more if there is room."""
        room = min(self._room(), BATCH)
        if self._consumer and self._asked <= room // 2 and room > self._asked:
            question = {
                "batch": room - self._asked,
                "expires": int(_EXPIRES_S * 1e9),
                "idle_heartbeat": int(2e9 * self._connection.turn_s),
            }
            self._asked = room
            subject, octets = (
                f"{_NEXT}.{self._stream}.{self._consumer}",
                msgspec.json.encode(question),
            )
            call = partial(self._connection.nats.publish, subject, octets, self._inbox)
            self._connection.send(call, bounded=False)

    async def _arrived(self, inbox: str, message: Msg) -> None:
        if inbox == self._inbox and self._consumer and not self._over.is_set():
            self._heard = True
            await self._connection.hand(self._read_one, message)

    def _read_one(self, message: Msg) -> None:
        if message.subject == self._inbox:  # the server's own; what it kept has its own subject
            self._status(message.headers or {})
            return
        position = message.metadata
        self._count += 1
        if position.sequence.consumer != self._count:
            self._over.set()
            return
        self._asked -= 1
        self._last = position.sequence.stream
        self._take(message)
        if self._caught_up is not None:  # what was discarded meanwhile is not waited for
            self._reached(min(self._left - 1, position.num_pending))
        self._more()

    def _status(self, fields: dict[str, str]) -> None:
        status = fields.get("Status")
        if status in (_NONE, _EXPIRED):
            self._asked = max(0, self._asked - int(fields.get("Nats-Pending-Messages", 0)))
            self._more()
        elif status != _BEAT:  # 409: the consumer or its leader is gone; 503: no server knows it
            self._over.set()

    def _reached(self, left: int) -> None:
        self._left = left
        if left <= 0 and self._caught_up is not None:
            self._clock.call_soon(self._tell_present)

    def _tell_present(self) -> None:
        caught_up, self._caught_up = self._caught_up, None
        if caught_up is not None and not self._closed:
            caught_up()


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
        self._located = cursor is None
        self._since_s = since_s
        self._remember_at = remember
        self._told: deque[int] = deque()
        """Sequences that are not acknowledged, or come after one that is not."""
        self._acknowledged: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        policy = DeliverPolicy.NEW if new_only else DeliverPolicy.ALL
        super().__init__(connection, stream, pattern, policy, caught_up)

    def close(self) -> None:
        """Follow no more; without effect the second time."""
        if not self._closed:
            self._remember()
            super().close()

    async def _locate(self) -> None:
        if not self._located and self._cursor is not None:
            table = bucket(CURSORS)
            found = await self._create(table, self._cursor, DeliverPolicy.LAST_PER_SUBJECT)
            if found.num_pending:
                subject = f"{_NEXT}.{table}.{found.name}"
                kept = await self._connection.nats.request(subject, b"1", _ASK_S, old_style=True)
                if "Status" in (kept.headers or ()):
                    raise errors.TimeoutError
                self._last = int(kept.data) if kept.data.isdigit() else 0
            self._located = True
        if self._since_s is not None and self._start is None and not self._last:
            now = await self._create(self._stream, self._only, DeliverPolicy.NEW)
            ago = timedelta(seconds=min(self._since_s, _LONGEST_S))
            self._start = max(_EPOCH, now.created - ago)
            self._policy = DeliverPolicy.BY_START_TIME

    def _missed(self, count: int) -> None:
        self._connection.counters.drop(self._stream, count)

    def _room(self) -> int:
        return _UNACKNOWLEDGED - len(self._told)

    def _take(self, message: Msg) -> None:
        if self._cursor is not None:
            self._told.append(message.metadata.sequence.stream)
        self._clock.call_now(partial(self._hand, message))

    def _hand(self, message: Msg) -> None:
        if not self._closed:
            position = message.metadata
            sequence, received = position.sequence.stream, position.timestamp.timestamp()
            acknowledge = partial(self._acknowledge, sequence)
            headers = message.headers or {}
            self._handler(
                Stored(sequence, message.subject, message.data, headers, received, acknowledge)
            )

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
            self._more()


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
        policy = DeliverPolicy.LAST_PER_SUBJECT
        super().__init__(connection, bucket(table), entry(table, ">"), policy, caught_up)

    def _anew(self) -> None:
        for key in sorted(self._known):
            self._tell(key, None)

    def _take(self, message: Msg) -> None:
        dropped = "KV-Operation" in (message.headers or ())
        self._tell(message.subject[self._prefix :], None if dropped else message.data)

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
