"""The log of causes of one run, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event, Sink
from phalanx.store.causes import climb


class EventLog:
    """An append-only log of events; call it with an event to append.

    It is a ``Sink``, iterates in the order of appending, and tells its listeners of each
    new event in the order they were added.
    """

    __slots__ = ("_by_id", "_keep", "_listeners")

    def __init__(self, events: Iterable[Event] = (), keep: int | None = None) -> None:
        """Make a log that begins with ``events``.

        Args:
            events: the first ones.
            keep: forget the oldest events beyond so many; None: forget nothing.

        Raises:
            LogError: if two of them have the same id.
            ValueError: if ``keep`` is no whole number from 1 on.

        """
        if keep is not None and (type(keep) is not int or keep < 1):
            raise ValueError(f"events to keep: {keep!r}; a whole number from 1 on, or None for all")
        # A dict keeps the order of insertion: one container is the log and its index.
        self._by_id: dict[str, Event] = {}
        self._listeners: tuple[Sink, ...] = ()
        self._keep = keep
        for event in events:
            self(event)

    def __call__(self, event: Event) -> None:
        """Append ``event`` and tell the listeners.

        Raises:
            LogError: if an event of the same id is in the log.

        """
        if event.id in self._by_id:
            raise LogError(f"event id {event.id!r} is in the log already")
        self._by_id[event.id] = event
        if self._keep is not None and len(self._by_id) > self._keep:
            del self._by_id[next(iter(self._by_id))]
        for listener in self._listeners:
            listener(event)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._by_id.values())

    @property
    def events(self) -> list[Event]:
        """A copy of the log as a list."""
        return list(self._by_id.values())

    def listen(self, listener: Sink) -> None:
        """Tell ``listener`` of every event from now on."""
        self._listeners = (*self._listeners, listener)

    def causes(self, event_id: str) -> list[Event]:
        """Return the chain from the root cause to ``event_id``; empty if it is unknown.

        A cause that is not in the log ends the chain, and so does one that is in it twice.
        """
        return list(climb(event_id, self._read).entries)

    def _read(self, event_id: str) -> tuple[Event, ...]:
        event = self._by_id.get(event_id)
        return () if event is None else (event,)
