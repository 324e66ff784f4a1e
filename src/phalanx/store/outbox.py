"""Events of one agent that nobody has acknowledged yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from phalanx.domain.errors import LogError, StoreError
from phalanx.domain.events import Event
from phalanx.store.jsonl import encode_line
from phalanx.store.spool import PAGE, Item, Spool

SHED = "outbox.shed"
"""Kind of the event by which an agent says what its outbox shed; its data are those of ``Shed``."""

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
        path: Path,
        *,
        max_octets: int = 64 << 20,
        max_memory: int = 4 << 20,
        batch: int = 200,
        on_shed: Callable[[Shed], object] | None = None,
    ) -> None:
        """Open the outbox, with what an earlier life left in it.

        Args:
            path: of its file; made if it is not there.
            max_octets: of the events on disk.
            max_memory: octets of the events that wait in memory to be written.
            batch: events in memory that are flushed without being asked.
            on_shed: told of what was shed, after a flush.

        Raises:
            StoreError: if the file cannot be used, or another process uses it.

        """
        self.failures = 0
        """Flushes and acknowledgements that the disk did not take."""
        self.last_failure: str | None = None
        """Why the disk does not take what waits in memory; None: it did, or nothing waits."""
        self.shed = 0
        """Events that were let go, in all."""
        self.on_shed = on_shed
        self._path = path
        self._max_octets = max_octets
        self._max_memory = max_memory
        self._batch = batch
        self._spool = Spool(path)
        self._seq = count(self._spool.last + 1)
        self._held: dict[str, Item] = {}
        self._held_octets = 0
        self._acknowledged: set[str] = set()
        """Ids that the disk could not be told yet: at most as many as it holds events."""
        self._lost: dict[str, Shed] = {}
        """What was shed and not told yet, by its reason."""
        self._flushing = False

    @property
    def set_aside(self) -> Path | None:
        """Where a file that was found damaged was moved to; None: it was whole."""
        return self._spool.set_aside

    @property
    def octets(self) -> int:
        """Octets of the events that wait, in memory and on disk."""
        return self._spool.octets + self._held_octets

    def __len__(self) -> int:
        """How many events wait, in memory and on disk."""
        return self._spool.rows - len(self._acknowledged) + len(self._held)

    def __call__(self, event: Event) -> None:
        """Add an event; it is on disk after the next flush.

        Raises:
            StoreError: if it is not JSON, or takes more than half of the room there is.

        """
        try:
            item = Item(next(self._seq), event.id, encode_line(event))
        except LogError as error:
            raise StoreError(f"{self._path}: {error}") from error
        if item.octets > min(self._max_memory, self._max_octets) // 2:
            raise StoreError(
                f"{self._path}: event {event.id!r} is too large: {len(item.line)} octets"
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
            with self._spool.errors():
                page = self._spool.page(after)
            for item in page:
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
            with self._spool.errors():
                self._acknowledged = set(filter(self._spool.has, self._acknowledged))

    def close(self) -> None:
        """Flush and close; what waits on disk is found again by the next life."""
        self.flush()
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempt(self, work: Callable[[], None]) -> bool:
        before = self.shed, dict(self._lost)
        try:
            with self._spool.transaction():
                work()
        except StoreError as error:
            self.failures += 1
            self.last_failure = str(error)
            self.shed, self._lost = before
            return False
        self._acknowledged.clear()
        self.last_failure = None
        return True

    def _forget_acknowledged(self) -> None:
        self._spool.delete(self._acknowledged)

    def _write(self) -> None:
        self._forget_acknowledged()
        held = list(self._held.values())
        excess = self.octets - self._max_octets
        if excess > 0:
            # A little more than needed, so that not each flush has to shed.
            for event_id, octets in self._spool.delete_oldest(excess + self._max_octets // 16):
                self._note_shed(event_id, octets, "full")
                excess -= octets
            while excess > 0:
                oldest = held.pop(0)
                self._note_shed(oldest.id, oldest.octets, "full")
                excess -= oldest.octets
        self._spool.add(held)

    def _bound_memory(self) -> None:
        while self._held_octets > self._max_memory:
            oldest = self._held.pop(next(iter(self._held)))
            self._held_octets -= oldest.octets
            self._note_shed(oldest.id, oldest.octets, "memory")

    def _read(self, item: Item) -> Iterator[Waiting]:
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
