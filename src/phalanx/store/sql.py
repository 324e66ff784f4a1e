"""The log of causes in a database: SQLite by default, PostgreSQL with the same code.

SQLite runs with a write-ahead log and ``synchronous=NORMAL``: a killed process loses no
batch that was kept; a power failure may lose the latest batches, and never part of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import msgspec
from sqlalchemy import ColumnElement, delete, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store import EventStore
from phalanx.store.engine import in_one_line, label, make_engine, parse_url
from phalanx.store.schema import EVENTS, RUNS, prepare

_PAGE = 1_000

# One statement that both databases understand: it makes the run if need be, makes room for
# the events and, until the transaction ends, keeps other writers of the run out.
_MAKE_ROOM = text(
    "INSERT INTO runs (name, length) VALUES (:name, :count) "
    "ON CONFLICT (name) DO UPDATE SET length = runs.length + excluded.length "
    "RETURNING run, length"
)
_FIELDS = tuple(EVENTS.c[field] for field in Event.__struct_fields__)


class SqlEventStore:
    """Keeps events of runs in a database; implements ``EventStore``.

    The database refuses an event whose id the run has, or whose cause it does not have.
    Several processes may use one store, also to append to the same run.
    """

    def __init__(self, url: str) -> None:
        """Open the store, and make its tables if the database is empty.

        Args:
            url: ``sqlite:///events.db`` (a relative path), ``sqlite:////var/lib/events.db``
                (an absolute one), ``sqlite://`` (in memory, gone at the end) or
                ``postgresql+psycopg://user:password@host:port/database``.

        Raises:
            StoreError: if that is no such URL, the database cannot be opened, or it belongs
                to another program or to another version of Phalanx.

        """
        parsed = parse_url(url)
        self._label = label(parsed)
        self._engine = make_engine(parsed)
        try:
            with self._errors():
                prepare(self._engine)
        except StoreError:
            self._engine.dispose()
            raise

    def append(self, run: str, events: Iterable[Event]) -> None:
        """Keep ``events`` for ``run`` in one transaction, all or none.

        Raises:
            StoreError: if they could not be kept: an id that is there already, a cause that
                is not, what JSON has no form for, a disk that is full.

        """
        kept = list(events)
        with self._errors():
            if not run:
                raise StoreError("the name of a run must not be empty")
            if not kept:
                return
            rows = [_row(event) for event in kept]
            with self._engine.begin() as connection:
                room = {"name": run, "count": len(rows)}
                key, length = connection.execute(_MAKE_ROOM, room).one()
                for seq, row in enumerate(rows, length - len(rows)):
                    row.update(run=key, seq=seq)
                connection.execute(insert(EVENTS), rows)

    def events(
        self,
        run: str,
        *,
        kinds: tuple[str, ...] = (),
        agent: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[Event]:
        """Yield the events of ``run`` in order, narrowed as asked; none if it is unknown.

        Memory is bounded: a page is read at a time, and between pages nothing is held open,
        so that the store can be written meanwhile.

        Args:
            run: its name.
            kinds: only these kinds; empty: all.
            agent: only what this agent recorded.
            since: only from this time on, in seconds.
            until: only up to this time, in seconds, itself included.

        Raises:
            StoreError: if they could not be read.

        """
        wanted: list[ColumnElement[bool]] = [RUNS.c.name == run]
        if kinds:
            wanted.append(EVENTS.c.kind.in_(kinds))
        if agent is not None:
            wanted.append(EVENTS.c.agent == agent)
        if since is not None:
            wanted.append(EVENTS.c.time >= since)
        if until is not None:
            wanted.append(EVENTS.c.time <= until)
        query = (
            select(EVENTS.c.seq, *_FIELDS)
            .join(RUNS, RUNS.c.run == EVENTS.c.run)
            .where(*wanted)
            .order_by(EVENTS.c.seq)
            .limit(_PAGE)
        )
        last = -1
        while True:
            with self._errors(), self._engine.connect() as connection:
                page = connection.execute(query.where(EVENTS.c.seq > last)).all()
            for row in page:
                yield Event(*row[1:])
            if len(page) < _PAGE:
                return
            last = page[-1].seq

    def causes(self, run: str, event_id: str) -> list[Event]:
        """Return the chain from the root cause to ``event_id``; empty if it is unknown.

        Raises:
            StoreError: if it could not be read.

        """
        key = select(RUNS.c.run).where(RUNS.c.name == run).scalar_subquery()
        chain = (
            select(EVENTS.c.seq, EVENTS.c.cause)
            .where(EVENTS.c.run == key, EVENTS.c.id == event_id)
            .cte("chain", recursive=True)
        )
        chain = chain.union(
            select(EVENTS.c.seq, EVENTS.c.cause).where(
                EVENTS.c.run == key, EVENTS.c.id == chain.c.cause
            )
        )
        query = (
            select(*_FIELDS)
            .join(chain, chain.c.seq == EVENTS.c.seq)
            .where(EVENTS.c.run == key)
            .order_by(EVENTS.c.seq)
        )
        with self._errors(), self._engine.connect() as connection:
            return [Event(*row) for row in connection.execute(query)]

    def runs(self) -> tuple[str, ...]:
        """Return the names of the runs that are kept, sorted.

        Raises:
            StoreError: if they could not be read.

        """
        with self._errors(), self._engine.connect() as connection:
            return tuple(sorted(connection.execute(select(RUNS.c.name)).scalars()))

    def forget(self, run: str) -> int:
        """Delete a run with all its events and return how many there were.

        SQLite uses their space again for later runs; the file does not shrink by itself.

        Raises:
            StoreError: if there is no such run, or it could not be deleted.

        """
        with self._errors(), self._engine.begin() as connection:
            question = delete(RUNS).where(RUNS.c.name == run).returning(RUNS.c.length)
            length = connection.execute(question).scalar()
            if length is None:
                raise StoreError(f"holds no run named {run!r}")
            return int(length)

    def close(self) -> None:
        """Give back what the store holds open; it must not be used afterwards."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the database raises into one line that names the store."""
        try:
            yield
        except (StoreError, SQLAlchemyError, ValueError, msgspec.DecodeError) as error:
            raise StoreError(f"{self._label}: {in_one_line(error)}") from error


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()


def _row(event: Event) -> dict[str, Any]:
    if not math.isfinite(event.time):
        raise StoreError(f"event {event.id!r}: its time is {event.time}")
    row = msgspec.structs.asdict(event)
    try:
        row["data"] = msgspec.json.encode(event.data).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"event {event.id!r}: cannot be written as JSON: {error}") from error
    return row
