"""Streams in memory: what was said under some subjects, kept in order, read at any pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from phalanx.bus.exchange import CaughtUp, Stored, StoredHandler
from phalanx.bus.subjects import matches
from phalanx.clock import Clock

WINDOW_S = 120.0
"""For how long a message id is kept once only, in seconds."""
AHEAD = 256
"""How many a follower is told of while it has acknowledged none of them."""


class Member(Protocol):
    """Whoever reads: what it is told waits while it is not connected."""

    @property
    def connected(self) -> bool:
        """Whether it can be told anything now."""


class _Kept:
    """An entry of a stream."""

    __slots__ = ("headers", "payload", "received", "sequence", "subject")

    def __init__(
        self,
        sequence: int,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        received: float,
    ) -> None:
        self.sequence = sequence
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.received = received


class Stream:
    """Keeps what it is given; the oldest goes when there is too much, and is counted."""

    def __init__(self, clock: Clock, capacity: int) -> None:
        self.discarded = 0
        """Entries that had to go."""
        self.cursors: dict[tuple[str, str], int] = {}
        """Up to where each durable follower has acknowledged, by (identity, name)."""
        self._clock = clock
        self._capacity = capacity
        self._entries: deque[_Kept] = deque()
        self._last = 0
        self._known: dict[str, float] = {}
        self._followers: list[Following] = []

    def keep(
        self, subject: str, payload: bytes, headers: Mapping[str, str], message_id: str | None
    ) -> None:
        """Keep an entry, unless the same message id was kept less than ``WINDOW_S`` ago."""
        now = self._clock.now()
        if message_id is not None:
            known = self._known
            while known and next(iter(known.values())) <= now - WINDOW_S:
                del known[next(iter(known))]
            if message_id in known:
                return
            known[message_id] = now
        self._last += 1
        self._entries.append(_Kept(self._last, subject, payload, headers, now))
        if len(self._entries) > self._capacity:
            self._entries.popleft()
            self.discarded += 1
        self.regained()

    def follow(
        self,
        member: Member,
        handler: StoredHandler,
        *,
        pattern: str | None,
        cursor: tuple[str, str] | None,
        new_only: bool,
        since_s: float | None,
        caught_up: CaughtUp | None,
    ) -> Following:
        """Tell ``handler`` of what is kept, from the cursor, the end or the beginning on."""
        start = self._last if new_only else self._before(since_s)
        if cursor is not None:
            start = self.cursors.setdefault(cursor, start)
        following = Following(
            self, self._clock, member, handler, pattern, cursor, start, self._last, caught_up
        )
        self._followers.append(following)
        following.go_on()
        return following

    def _before(self, since_s: float | None) -> int:
        """Return the sequence behind which everything was kept in the last ``since_s``."""
        if since_s is None:
            return 0
        begin = self._clock.now() - since_s
        return next((e.sequence - 1 for e in self._entries if e.received >= begin), self._last)

    def leave(self, following: Following) -> None:
        """Tell a follower nothing more."""
        if following in self._followers:
            self._followers.remove(following)

    def regained(self) -> None:
        """Go on with the followers that can be told something again."""
        for follower in self._followers:
            follower.go_on()

    def ended(self, member: Member) -> None:
        """Tell a member nothing more."""
        for follower in [one for one in self._followers if one.member is member]:
            follower.close()

    def after(self, sequence: int) -> _Kept | None:
        """Return the first entry behind ``sequence``, None if there is none."""
        if sequence >= self._last or not self._entries:
            return None
        return self._entries[max(0, sequence + 1 - self._entries[0].sequence)]


class Following:
    """One follower of a stream; implements ``Subscription``."""

    def __init__(
        self,
        stream: Stream,
        clock: Clock,
        member: Member,
        handler: StoredHandler,
        pattern: str | None,
        cursor: tuple[str, str] | None,
        start: int,
        present: int,
        caught_up: CaughtUp | None,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self.member = member
        self._handler = handler
        self._pattern = pattern
        self._cursor = cursor
        self._place = start
        self._present = present
        self._caught_up = caught_up
        self._open: deque[int] = deque()
        """Sequences told and not acknowledged in one piece from the front."""
        self._acknowledged: set[int] = set()
        self._armed = False
        self._closed = False

    def close(self) -> None:
        """Hear no more; without effect the second time."""
        self._closed = True
        self._stream.leave(self)

    def go_on(self) -> None:
        """Tell of the next entry soon, if there is one and it may be told of."""
        if self._armed:
            return
        if self._next() is not None:
            self._armed = True
            self._clock.call_soon(self._step)
        if self._caught_up is not None and self.member.connected and self._place >= self._present:
            self._clock.call_soon(partial(self._say, self._caught_up))
            self._caught_up = None

    def _next(self) -> _Kept | None:
        """Return what is to be told next; pass over what the pattern does not cover."""
        if self._closed or not self.member.connected or len(self._open) >= AHEAD:
            return None
        while (entry := self._stream.after(self._place)) is not None:
            if self._pattern is None or matches(self._pattern, entry.subject):
                return entry
            self._place = entry.sequence
        return None

    def _say(self, caught_up: CaughtUp) -> None:
        if not self._closed:
            caught_up()

    def _step(self) -> None:
        self._armed = False
        entry = self._next()
        if entry is None:
            return
        self._place = entry.sequence
        self._open.append(entry.sequence)
        self.go_on()
        acknowledge: Callable[[], None] = partial(self._acknowledge, entry.sequence)
        self._handler(
            Stored(
                entry.sequence,
                entry.subject,
                entry.payload,
                entry.headers,
                entry.received,
                acknowledge,
            )
        )

    def _acknowledge(self, sequence: int) -> None:
        if self._closed or not self._open or sequence < self._open[0]:
            return
        self._acknowledged.add(sequence)
        while self._open and self._open[0] in self._acknowledged:
            done = self._open.popleft()
            self._acknowledged.discard(done)
            if self._cursor is not None:
                self._stream.cursors[self._cursor] = done
        self.go_on()
