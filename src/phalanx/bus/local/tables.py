"""Tables in memory: keys with a last value each, and who watches them."""

from __future__ import annotations

from collections import deque
from functools import partial

from phalanx.bus.exchange import CaughtUp, Watcher
from phalanx.bus.local.streams import Member
from phalanx.clock import Clock


class Table:
    """Keys and their last values, each with the number of the change that wrote it."""

    def __init__(self, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self.revision = 0
        """How many changes there were."""
        self._entries: dict[str, tuple[int, bytes | None]] = {}
        self._watchers: list[Watching] = []

    def write(self, key: str, value: bytes | None) -> None:
        """Write a key; None drops it."""
        if value is None and self._entries.get(key, (0, None))[1] is None:
            return
        self.revision += 1
        self._entries[key] = self.revision, value
        for watcher in self._watchers:
            watcher.changed(self.revision, key, value)

    def watch(self, member: Member, handler: Watcher, caught_up: CaughtUp | None) -> Watching:
        """Tell ``handler`` of all keys now, and of what changes from then on."""
        watching = Watching(self, self._clock, member, handler, self._capacity, caught_up)
        self._watchers.append(watching)
        watching.go_on()
        return watching

    def leave(self, watching: Watching) -> None:
        """Tell a watcher nothing more."""
        if watching in self._watchers:
            self._watchers.remove(watching)

    def regained(self) -> None:
        """Go on with the watchers that can be told something again."""
        for watcher in self._watchers:
            watcher.go_on()

    def ended(self, member: Member) -> None:
        """Tell a member nothing more."""
        for watcher in [one for one in self._watchers if one.member is member]:
            watcher.close()

    def since(self, revision: int) -> list[tuple[int, str, bytes | None]]:
        """Return what was written last after ``revision``, in order."""
        return sorted(
            (changed, key, value)
            for key, (changed, value) in self._entries.items()
            if changed > revision
        )


class Watching:
    """One watcher of a table; implements ``Subscription``.

    It is told of each change while it keeps up, else of the last one of each key.
    """

    def __init__(
        self,
        table: Table,
        clock: Clock,
        member: Member,
        handler: Watcher,
        capacity: int,
        caught_up: CaughtUp | None,
    ) -> None:
        self._table = table
        self._clock = clock
        self.member = member
        self._handler = handler
        self._capacity = capacity
        self._seen = table.revision
        self._queue: deque[tuple[str, bytes | None]] = deque(
            (key, value) for _, key, value in table.since(0) if value is not None
        )
        self._left = len(self._queue)
        """How many of the keys that were there have not been told."""
        self._caught_up = caught_up
        self._armed = False
        self._closed = False

    def close(self) -> None:
        """Hear no more; without effect the second time."""
        self._closed = True
        self._table.leave(self)

    def changed(self, revision: int, key: str, value: bytes | None) -> None:
        """Take note of a change, at once if it is the next one and there is room."""
        if self._seen == revision - 1 and len(self._queue) < self._capacity:
            self._seen = revision
            self._queue.append((key, value))
        self.go_on()

    def go_on(self) -> None:
        """Tell of the next change soon, if there is one and it may be told of."""
        if not self._queue:
            for revision, key, value in self._table.since(self._seen):
                self._seen = revision
                self._queue.append((key, value))
        if self._queue and not self._armed and self.member.connected and not self._closed:
            self._armed = True
            self._clock.call_soon(self._step)
        if self._caught_up is not None and not self._left and self.member.connected:
            self._clock.call_soon(partial(self._say, self._caught_up))
            self._caught_up = None

    def _say(self, caught_up: CaughtUp) -> None:
        if not self._closed:
            caught_up()

    def _step(self) -> None:
        self._armed = False
        if self._closed or not self.member.connected:
            return
        key, value = self._queue.popleft()
        self._left = max(0, self._left - 1)
        self.go_on()
        self._handler(key, value)
