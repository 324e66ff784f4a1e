"""The Store port: the log of causes, kept.

A store is named by a URL. Its scheme is an entry point of the group ``phalanx.stores``: a callable
that takes the URL and returns the store, so that one from outside the package needs one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from typing import Protocol, Self

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event

STORES = "phalanx.stores"
"""Entry points: schemes of URLs, such as ``sqlite``."""


class EventStore(Protocol):
    """Keeps events of runs in the order they happened."""

    def append(self, run: str, events: Iterable[Event]) -> None:
        """Keep ``events`` for ``run``, all or none.

        Raises:
            StoreError: if they could not be kept.

        """

    def events(
        self,
        run: str,
        *,
        kinds: tuple[str, ...] = (),
        agent: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[Event]:
        """Yield the events of ``run`` in order, narrowed as asked.

        Raises:
            StoreError: if they could not be read.

        """

    def causes(self, run: str, event_id: str) -> list[Event]:
        """Return the chain from the root cause to ``event_id``; empty if it is unknown."""

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
    known = {entry.name: entry for entry in entry_points(group=STORES)}
    if scheme not in known:
        raise StoreError(f"the store must be a URL of {', '.join(sorted(known))}")
    store: EventStore = known[scheme].load()(url)
    return store


class StoreSink:
    """A ``Sink`` that keeps the events of one run in batches.

    A process that is killed leaves the batches before. As a context manager it flushes at
    the end, also after an exception: what happened is kept.
    """

    def __init__(self, store: EventStore, run: str, batch: int = 500) -> None:
        """Make a sink.

        Args:
            store: keeps the events.
            run: the name of the run.
            batch: events that are kept in one transaction, at least 1.

        """
        self._store = store
        self._run = run
        self._batch = batch
        self._waiting: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Take one event; keep the batch if it is full.

        Raises:
            StoreError: if the batch could not be kept; it is tried again with the next.

        """
        self._waiting.append(event)
        if len(self._waiting) >= self._batch:
            self.flush()

    def flush(self) -> None:
        """Keep what waits.

        Raises:
            StoreError: if it could not be kept; it still waits.

        """
        self._store.append(self._run, self._waiting)
        self._waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
