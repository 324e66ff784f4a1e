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
from phalanx.store.history import EventQuery, entries
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

    Several processes may use one store, also to append to the same run.
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
        over, so that a batch may be tried again. One whose cause is not there, because the disk
        did not take it, is kept: ``History.causes`` says where the chain is broken.

        Args:
            run: its name.
            events: in this order.
            scopes: slice or service of agents, for events that do not say it themselves.

        Raises:
            StoreError: if they could not be kept: another event of the same id, what JSON has
                no form for, a disk that is full.

        """
        self._keep(run, events, scopes, whole=True)

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
        return self._keep(run, events, scopes, whole=False)

    def _keep(
        self, run: str, events: Iterable[Event], scopes: Mapping[str, str], *, whole: bool
    ) -> Receipt:
        """Keep events; if one is refused and all or none are wanted, raise."""
        with self.database.errors():
            if not run:
                raise StoreError("the name of a run must not be empty")
            rows: dict[str, Row] = {}
            refused: list[tuple[str, str]] = []
            doubled = 0

            def again(event_id: str, *, same: bool) -> None:
                nonlocal doubled
                doubled += same
                if not same:
                    refused.append((event_id, "its id is that of another event"))

            for event in events:
                try:
                    row = row_of(event, scope_of(event, scopes))
                except StoreError as error:
                    if whole:
                        raise
                    refused.append((event.id, str(error)))
                    continue
                if event.id in rows:
                    again(event.id, same=row == rows[event.id])
                else:
                    rows[event.id] = row
            if not rows:
                return Receipt(0, doubled, tuple(refused))
            with self.database.engine.begin() as connection:
                opened = OpenRun(connection, run, self._now())
                for event_id, known in opened.known(list(rows)).items():
                    row = rows.pop(event_id)
                    again(event_id, same=row == row_of(known, row["scope"]))
                for event_id, why in refused if whole else ():
                    raise StoreError(f"event {event_id!r}: {why}")
                opened.add(list(rows.values()))
            return Receipt(len(rows), doubled, tuple(refused))

    def events(self, run: str) -> Iterator[Event]:
        """Yield the events of ``run`` as they were kept; none if it is unknown.

        Memory is bounded: a page is read at a time, and between pages nothing is held open,
        so that the store can be written meanwhile. ``History.entries`` narrows them.

        Raises:
            StoreError: if they could not be read.

        """
        for entry in entries(self.database, run, EventQuery()):
            yield entry.event

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
