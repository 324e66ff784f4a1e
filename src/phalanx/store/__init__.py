"""The Store port: the log of causes, kept.

A store is named by a URL. Its scheme is an entry point of the group ``phalanx.stores``: a callable
that takes the URL and returns the store, so that one from outside the package needs one file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Condition, Thread
from typing import Protocol, Self

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.loading import installed
from phalanx.store.jsonl import decode_line, encode_line

STORES = "phalanx.stores"
"""Entry points: schemes of URLs, such as ``sqlite``."""

GAP = "history.gap"
"""Kind of the event that stands where events were shed, with their count and why."""
FLUSH_S = 0.25
"""How long an event waits for others, to be kept with them, in real seconds."""
AGAIN_S = 1.0
"""Before a disk that failed is tried again, in real seconds."""
BATCH = 100
"""Events that are kept without waiting."""
ROOM = 16 << 20
"""Octets of events that may wait in memory."""


class EventStore(Protocol):
    """Keeps events of runs in the order they happened."""

    def append(self, run: str, events: Iterable[Event]) -> None:
        """Keep ``events`` for ``run``, all or none.

        Raises:
            StoreError: if they could not be kept.

        """

    def events(self, run: str) -> Iterator[Event]:
        """Yield the events of ``run`` in order.

        Raises:
            StoreError: if they could not be read.

        """

    def runs(self) -> tuple[str, ...]:
        """Return the names of the runs that are kept, sorted."""

    def close(self) -> None:
        """Give back what the store holds open."""


def open_store(url: str) -> EventStore:
    """Open the store of ``url``, such as ``sqlite:///events.db`` or ``memory:``.

    Raises:
        StoreError: if nothing is installed for its scheme, or it cannot be opened. The text
            does not repeat the URL, which may hold a password.

    """
    scheme = url.partition(":")[0].partition("+")[0] if ":" in url else ""
    known = installed(STORES)
    if scheme not in known:
        raise StoreError(f"the store must be a URL of {', '.join(sorted(known))}")
    store: EventStore = known[scheme].load()(url)
    return store


class HistorySink:
    """A ``Sink`` that keeps events in a thread of its own, by time and by count.

    A process that is killed loses what it recorded in its last ``FLUSH_S`` seconds. A disk that
    is slow or full holds nothing up: events wait in memory, it is tried again, and once they
    take more than ``ROOM`` octets the oldest are shed. Where they stood comes a ``GAP`` event.
    """

    def __init__(
        self,
        keep: Callable[[list[bytes]], None],
        *,
        patient: bool = False,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Begin to keep.

        Args:
            keep: keeps events, each as a line of a log, all or none, or raises PhalanxError.
            patient: wait for the disk if the room is used up, as a run on virtual time can.
            say: takes a line when the disk fails, and when it is well again.

        """
        self.trouble: str | None = None
        """Why the latest events are not kept; None: they are, or wait to be."""
        self._keep = keep
        self._patient = patient
        self._say = say
        self._changed = Condition()
        self.gaps = 0
        """How many gaps there are."""
        self._taken = self._kept = 0
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._hand: list[bytes] = []
        """What is being written; the thread's own."""
        self._shed: list[Event] = []
        """The first and the last of the events that were shed, and no gap tells of them yet."""
        self._shed_count = 0
        self._why = ""
        self._root: str | None = None
        self._closing = False
        self._thread = Thread(target=self._work, name="history", daemon=True)
        self._thread.start()

    @property
    def missing(self) -> int:
        """How many events are not kept: shed, or still waiting, or gaps that could not be told."""
        return self._taken - self._kept

    def __call__(self, event: Event) -> None:
        """Take one event.

        Raises:
            LogError: if it is not JSON.

        """
        line = encode_line(event)
        with self._changed:
            if self._patient and len(self._waiting) >= 20 * BATCH:
                self._changed.wait_for(self._may_go_on)
            self._taken += 1
            self._waiting.append(line)
            self._octets += len(line)
            while self._octets > ROOM:
                self._shed[1:] = [decode_line(self._next())]
                self._shed_count += 1
                self._why = self.trouble or "the disk is too slow"
            if len(self._waiting) == BATCH:
                self._changed.notify_all()

    def close(self) -> None:
        """Keep what waits, and end; what the disk does not take is missing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> bytes:
        line = self._waiting.popleft()
        self._octets -= len(line)
        return line

    def _work(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(self._is_due, FLUSH_S if self.trouble is None else AGAIN_S)
                closing = self._closing
            while self._write():
                pass

    def _may_go_on(self) -> bool:
        return len(self._waiting) < 20 * BATCH or self.trouble is not None

    def _is_due(self) -> bool:
        return self._closing or (self.trouble is None and len(self._waiting) >= BATCH)

    def _write(self) -> bool:
        """Keep the next events; return whether there were any and the disk took them."""
        with self._changed:
            if self._shed and not self._hand:
                self._hand.append(self._gap())
            while self._waiting and len(self._hand) < BATCH:
                self._hand.append(self._next())
            self._changed.notify_all()
        if not self._hand:
            return False
        try:
            self._keep(self._hand)
        except Exception as error:  # a store from outside may raise anything
            if self.trouble is None:
                self._say(f"{error}: the run goes on, and what it records is not kept for now")
            self.trouble = f"{error}"
            return False
        if self.trouble is not None:
            self._say(f"the history is kept again, after: {self.trouble}")
            self.trouble = None
        if self._root is None:
            self._root = decode_line(self._hand[0]).id
        self._kept += len(self._hand)
        self._hand = []
        return True

    def _gap(self) -> bytes:
        """Return the event that stands where others were shed."""
        first, last = self._shed[0], self._shed[-1]
        said = {"count": self._shed_count, "first": first.id, "last": last.id}
        said |= {"until_s": last.time, "why": self._why}
        self._shed, self._shed_count = [], 0
        self.gaps += 1
        self._taken += 1
        gap = Event(f"history-{self.gaps}", first.time, "run", GAP, self._root, said)
        return encode_line(gap)
