"""The Store port: the log of causes, kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from phalanx.domain.events import Event


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
