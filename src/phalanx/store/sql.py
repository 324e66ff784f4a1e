"""The log of causes in a database: SQLite by default, PostgreSQL with the same code.

SQLite runs with a write-ahead log and ``synchronous=NORMAL``: a killed process loses no
batch that was kept; a power failure may lose the latest batches, and never part of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Self

from msgspec import Struct
from sqlalchemy import select

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store.database import Database
from phalanx.store.history import EventQuery, History, entries
from phalanx.store.rows import OpenRun, Row, row_of, scope_of
from phalanx.store.schema import RUNS

NO_SCOPES: Mapping[str, str] = MappingProxyType({})


class Receipt(Struct, frozen=True):
    """What became of events that were received."""

    kept: int
    doubled: int = 0
    """They had come before, just the same."""
    refused: tuple[tuple[str, str], ...] = ()
    """Ids of events that were not kept, and why: that of another event, or not storable."""


class SqlEventStore:
    """Keeps events of runs in a database; implements ``EventStore``.

    Several processes may use one store, also to append to the same run. What events tell of
    figures and beliefs is kept beside them, in the same transaction (``derived``).
    """

    def __init__(self, where: str | Database, now: Callable[[], float] = time.time) -> None:
        """Open the store, and make its tables if the database is empty.

        Args:
            where: ``sqlite:///events.db`` (a relative path), ``sqlite:////var/lib/events.db``
                (an absolute one), ``memory:`` (gone at the end) or
                ``postgresql+psycopg://user:password@host:port/database``; or a database that
                is open already.
            now: the time of receipt, in seconds since 1970.

        Raises:
            StoreError: if that is no such URL, the database cannot be opened, or it belongs
                to another program or to another version of Phalanx.

        """
        self.database = Database(where) if isinstance(where, str) else where
        self._now = now

    def append(
        self, run: str, events: Iterable[Event], *, scopes: Mapping[str, str] = NO_SCOPES
    ) -> None:
        """Keep ``events``, in the order they happened, for ``run``: all or none.

        For what one process records. An event that is there already, just the same, is passed
        over, so that a batch may be tried again.

        Args:
            run: its name.
            events: each after its cause.
            scopes: slice or service of agents, for events that do not say it themselves.

        Raises:
            StoreError: if they could not be kept: another event of the same id, a cause that
                is not there, what JSON has no form for, a disk that is full.

        """
        taken = list(events)
        with self.database.errors():
            _check_name(run)
            if not taken:
                return
            rows = {}
            for event in taken:
                row = row_of(event, scope_of(event, scopes))
                if event.id in rows:
                    raise StoreError(f"event {event.id!r}: its id is there already")
                rows[event.id] = row
            with self.database.engine.begin() as connection:
                opened = OpenRun(connection, run, self._now())
                known = opened.known(list(rows))
                for event in _without_cause(opened, taken, known):
                    if not opened.retired:
                        raise StoreError(
                            f"event {event.id!r}: its cause {event.cause!r} is not there"
                        )
                    rows[event.id]["cause_retired"] = True
                new = []
                for event in taken:
                    if event.id not in known:
                        new.append(event)
                    elif not _same(rows[event.id], known[event.id]):
                        raise StoreError(f"event {event.id!r}: its id is there already")
                opened.add(new, [rows[event.id] for event in new])

    def receive(
        self, run: str, events: Iterable[Event], *, scopes: Mapping[str, str] = NO_SCOPES
    ) -> Receipt:
        """Keep ``events`` of many processes for ``run``, in whatever order they come.

        A cause may come after its effect, or never. What comes again is passed over; what
        cannot be kept is refused by itself, so that it does not hold up the others.

        Args:
            run: its name.
            events: as they came.
            scopes: slice or service of agents, for events that do not say it themselves.

        Raises:
            StoreError: if the database failed; then none was kept, and all can be tried again.

        """
        with self.database.errors():
            _check_name(run)
            rows: dict[str, Row] = {}
            new: dict[str, Event] = {}
            refused: list[tuple[str, str]] = []
            doubled = 0
            for event in events:
                try:
                    row = row_of(event, scope_of(event, scopes))
                except StoreError as error:
                    refused.append((event.id, str(error)))
                    continue
                if event.id not in rows:
                    rows[event.id], new[event.id] = row, event
                elif _same(row, new[event.id]):
                    doubled += 1
                else:
                    refused.append((event.id, "its id is that of another event"))
            if not rows:
                return Receipt(0, doubled, tuple(refused))
            with self.database.engine.begin() as connection:
                opened = OpenRun(connection, run, self._now())
                for event_id, known in opened.known(list(rows)).items():
                    del new[event_id]
                    if _same(rows.pop(event_id), known):
                        doubled += 1
                    else:
                        refused.append((event_id, "its id is that of another event"))
                opened.add(list(new.values()), list(rows.values()))
            return Receipt(len(new), doubled, tuple(refused))

    def events(
        self,
        run: str,
        *,
        kinds: tuple[str, ...] = (),
        agent: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[Event]:
        """Yield the events of ``run`` as they were kept, narrowed as asked; none if unknown.

        Memory is bounded: a page is read at a time, and between pages nothing is held open,
        so that the store can be written meanwhile. ``History.entries`` narrows further.

        Args:
            run: its name.
            kinds: only these kinds; empty: all.
            agent: only what this agent recorded.
            since: only from this time on, in seconds.
            until: only up to this time, in seconds, itself included.

        Raises:
            StoreError: if they could not be read.

        """
        query = EventQuery(kinds=kinds, agent=agent, since=since, until=until)
        for entry in entries(self.database, run, query):
            yield entry.event

    def causes(self, run: str, event_id: str) -> list[Event]:
        """Return the chain from the root cause to ``event_id``; empty if it is unknown.

        ``History.causes`` says as well whether it is whole.

        Raises:
            StoreError: if it could not be read.

        """
        return [entry.event for entry in History(self.database).causes(run, event_id).entries]

    def runs(self) -> tuple[str, ...]:
        """Return the names of the runs that are kept, sorted.

        Raises:
            StoreError: if they could not be read.

        """
        with self.database.errors(), self.database.engine.connect() as connection:
            return tuple(sorted(connection.execute(select(RUNS.c.name)).scalars()))

    def close(self) -> None:
        """Give back what the store holds open; it must not be used afterwards."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_name(run: str) -> None:
    if not run:
        raise StoreError("the name of a run must not be empty")


def _without_cause(
    opened: OpenRun, events: list[Event], known: Mapping[str, Event]
) -> Iterator[Event]:
    """Yield the new events whose cause neither stands before them nor is kept already."""
    before: set[str] = set()
    doubtful = []
    for event in events:
        if event.cause is not None and event.cause not in before and event.id not in known:
            doubtful.append(event)
        before.add(event.id)
    there = opened.has(sorted({str(event.cause) for event in doubtful}))
    return (event for event in doubtful if event.cause not in there)


def _same(row: Row, event: Event) -> bool:
    """Whether ``row`` is that of ``event``, or says the same."""
    other = row_of(event, row["scope"])
    return all(row[name] == other[name] for name in Event.__struct_fields__)
