"""Events of one agent that nobody has acknowledged yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Self

import msgspec
from msgspec import Struct

from phalanx.domain.errors import LogError, StoreError
from phalanx.domain.events import Event
from phalanx.store.jsonl import encode_line
from phalanx.store.state import StateFile

SHED = "outbox.shed"
"""Kind of the event by which an agent says what its outbox shed; its data are those of ``Shed``."""

PAGE = 256
"""Events that are read at a time."""
_OVERHEAD = 64
"""Octets that SQLite needs for an event besides its line, about."""

_decoder = msgspec.json.Decoder(Event)


class Waiting(Struct, frozen=True):
    """An event that is still to be acknowledged."""

    seq: int
    """Its place: grows from event to event."""
    event: Event


class Shed(Struct, frozen=True):
    """Events that the outbox let go, the oldest of what waited."""

    count: int
    octets: int
    first: str
    """Id of the first of them."""
    last: str
    why: str
    """``full``: no room left on disk; ``memory``: none left in memory, while the disk did not
    take them; ``damaged``: what the disk gave back was no event."""


class _Item(Struct, frozen=True):
    """An event as a line, and its place among all."""

    seq: int
    id: str
    line: bytes

    @property
    def octets(self) -> int:
        """What it takes on disk, about."""
        return len(self.line) + _OVERHEAD


class Outbox:
    """Keeps events until they are acknowledged; call it with an event to add one (a ``Sink``).

    What is added waits in memory until ``flush``, which the shell calls once in a turn of its
    loop; then it survives a process that is killed. What the disk does not take goes on
    waiting in memory, and the next flush tries again. All is bounded: of what waits, the
    oldest is shed, since the newest says what is in force now. ``on_shed`` is told, so that
    the agent says so by an event (``SHED``), which takes the same way.
    """

    def __init__(
        self,
        state: StateFile,
        *,
        max_octets: int = 64 << 20,
        max_memory: int = 4 << 20,
        batch: int = 200,
        on_shed: Callable[[Shed], object] | None = None,
    ) -> None:
        """Open the outbox, with what an earlier life left in it.

        Args:
            state: of this process; stays the caller's to close.
            max_octets: of the events on disk.
            max_memory: octets of the events that wait in memory to be written.
            batch: events in memory that are flushed without being asked.
            on_shed: told of what was shed, after a flush.

        Raises:
            StoreError: if the file cannot be read.

        """
        self.failures = 0
        """Flushes and acknowledgements that the disk did not take."""
        self.last_failure: str | None = None
        """Why the disk does not take what waits in memory; None: it did, or nothing waits."""
        self.shed = 0
        """Events that were let go, in all."""
        self.on_shed = on_shed
        self._state = state
        self._max_octets = max_octets
        self._max_memory = max_memory
        self._batch = batch
        with state.errors():
            query = "SELECT count(*), coalesce(sum(octets), 0), coalesce(max(seq), 0) FROM outbox"
            rows, octets, last = state.connection.execute(query).fetchone()
        self._rows: int = rows
        self._octets: int = octets
        self._seq = count(last + 1)
        self._held: dict[str, _Item] = {}
        self._held_octets = 0
        self._acknowledged: set[str] = set()
        """Ids that the disk could not be told yet: at most as many as it holds events."""
        self._lost: dict[str, Shed] = {}
        """What was shed and not told yet, by its reason."""
        self._flushing = False

    @property
    def octets(self) -> int:
        """Octets of the events that wait, in memory and on disk."""
        return self._octets + self._held_octets

    def __len__(self) -> int:
        """How many events wait, in memory and on disk."""
        return self._rows - len(self._acknowledged) + len(self._held)

    def __call__(self, event: Event) -> None:
        """Add an event; it is on disk after the next flush.

        Raises:
            StoreError: if it is not JSON, or takes more than half of the room there is.

        """
        try:
            item = _Item(next(self._seq), event.id, encode_line(event))
        except LogError as error:
            raise StoreError(f"{self._state.path}: {error}") from error
        if item.octets > min(self._max_memory, self._max_octets) // 2:
            raise StoreError(
                f"{self._state.path}: event {event.id!r} is too large: {len(item.line)} octets"
            )
        if event.id not in self._held:
            self._held[event.id] = item
            self._held_octets += item.octets
        if len(self._held) >= self._batch or self._held_octets > self._max_memory // 2:
            self.flush()

    def flush(self) -> bool:
        """Write what waits in memory, in one transaction; return whether the disk took it."""
        if self._flushing:
            return False  # the event that ``on_shed`` records waits for the next time
        self._flushing = True
        try:
            if not self._held and not self._acknowledged:
                self.last_failure = None  # what the disk did not take is not needed any more
                done = True
            elif done := self._attempt(self._write):
                self._held.clear()
                self._held_octets = 0
            else:
                self._bound_memory()
            lost, self._lost = self._lost, {}
            if self.on_shed is not None:
                for shed in lost.values():
                    self.on_shed(shed)
        finally:
            self._flushing = False
        return done

    def pending(self, after: int = 0) -> Iterator[Waiting]:
        """Yield what is not acknowledged, in order, a page of the file at a time.

        Args:
            after: only what has a higher ``seq``, so that what was yielded before is left out.

        Raises:
            StoreError: if the file cannot be read.

        """
        while True:
            query = "SELECT seq, id, event FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?"
            with self._state.errors():
                page = self._state.connection.execute(query, (after, PAGE)).fetchall()
            for item in (_Item(*row) for row in page):
                after = item.seq
                if item.id not in self._acknowledged:
                    yield from self._read(item)
            if len(page) < PAGE:
                break
        for item in list(self._held.values()):
            if item.seq > after and item.id in self._held:
                yield from self._read(item)

    def acknowledge(self, ids: Iterable[str]) -> None:
        """Take out what has arrived where it should; ids that are not here are no error."""
        for event_id in ids:
            held = self._held.pop(event_id, None)
            if held is None:
                self._acknowledged.add(event_id)
            else:
                self._held_octets -= held.octets
        if self._acknowledged and not self._attempt(self._forget_acknowledged):
            with self._state.errors():
                self._acknowledged = set(filter(self._has, self._acknowledged))

    def close(self) -> None:
        """Flush; what waits on disk is found again by the next life."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempt(self, work: Callable[[], None]) -> bool:
        before = self.shed, self._rows, self._octets, dict(self._lost)
        try:
            with self._state.transaction():
                work()
        except StoreError as error:
            self.failures += 1
            self.last_failure = str(error)
            self.shed, self._rows, self._octets, self._lost = before
            return False
        self._acknowledged.clear()
        self.last_failure = None
        return True

    def _forget_acknowledged(self) -> None:
        delete = "DELETE FROM outbox WHERE id = ? RETURNING octets"
        for event_id in self._acknowledged:
            for (octets,) in self._state.connection.execute(delete, (event_id,)).fetchall():
                self._rows -= 1
                self._octets -= octets

    def _has(self, event_id: str) -> bool:
        query = "SELECT 1 FROM outbox WHERE id = ?"
        return self._state.connection.execute(query, (event_id,)).fetchone() is not None

    def _write(self) -> None:
        self._forget_acknowledged()
        held = list(self._held.values())
        excess = self.octets - self._max_octets
        if excess > 0:
            # A little more than needed, so that not each flush has to shed.
            excess -= self._shed_oldest(excess + self._max_octets // 16)
            while excess > 0:
                oldest = held.pop(0)
                self._note_shed(oldest.id, oldest.octets, "full")
                excess -= oldest.octets
        insert = "INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?)"
        for item in held:
            values = item.seq, item.id, item.octets, item.line
            if self._state.connection.execute(insert, values).rowcount == 1:
                self._rows += 1
                self._octets += item.octets

    def _shed_oldest(self, octets: int) -> int:
        """Take the oldest events off the disk, at least so many octets of them if there are."""
        freed = last = 0
        query = "SELECT seq, id, octets FROM outbox ORDER BY seq"
        oldest = self._state.connection.execute(query)
        while freed < octets and (row := oldest.fetchone()) is not None:
            last, event_id, size = row
            freed += size
            self._rows -= 1
            self._note_shed(event_id, size, "full")
        oldest.close()
        self._state.connection.execute("DELETE FROM outbox WHERE seq <= ?", (last,))
        self._octets -= freed
        return freed

    def _bound_memory(self) -> None:
        while self._held_octets > self._max_memory:
            oldest = self._held.pop(next(iter(self._held)))
            self._held_octets -= oldest.octets
            self._note_shed(oldest.id, oldest.octets, "memory")

    def _read(self, item: _Item) -> Iterator[Waiting]:
        try:
            event = _decoder.decode(item.line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._acknowledged.add(item.id)  # the next flush takes it out
            self._note_shed(item.id, item.octets, "damaged")
        else:
            yield Waiting(item.seq, event)

    def _note_shed(self, event_id: str, octets: int, why: str) -> None:
        self.shed += 1
        before = self._lost.get(why)
        so_far, all_octets, first = (
            (0, 0, event_id) if before is None else (before.count, before.octets, before.first)
        )
        self._lost[why] = Shed(so_far + 1, all_octets + octets, first, event_id, why)
