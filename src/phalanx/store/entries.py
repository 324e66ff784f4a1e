"""Events as a store keeps them, narrowed as asked, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from sqlalchemy import Column, ColumnElement, Row, select

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store.engine import Database
from phalanx.store.rows import FIELDS
from phalanx.store.schema import EVENTS, RUNS

PAGE = 1_000
"""Rows that are read at a time."""

COLUMNS = (*FIELDS, EVENTS.c.seq, EVENTS.c.scope, EVENTS.c.received, EVENTS.c.cause_retired)
"""The columns that make an ``Entry``."""


class Entry(Struct, frozen=True):
    """An event, and what the store knows of it."""

    event: Event
    seq: int
    """Its place in the run, from 0: the order of receipt."""
    scope: str | None
    """The slice or service it belongs to."""
    received: float
    """When the store got it, in seconds since 1970; never before what came earlier in the run."""
    cause_retired: bool = False
    """Its cause was here and has been retired since."""

    @property
    def id(self) -> str:
        """Id of the event."""
        return self.event.id

    @property
    def cause(self) -> str | None:
        """Id of its cause."""
        return self.event.cause


class Query(Struct, frozen=True):
    """What is asked for: all that is given must hold. None, or empty: no limit."""

    kinds: tuple[str, ...] = ()
    agent: str | None = None
    scope: str | None = None
    since: float | None = None
    """Earliest time, in seconds of the agent's clock."""
    until: float | None = None
    """Latest time, itself included, in seconds of the agent's clock."""
    received_since: float | None = None
    """Earliest receipt, in seconds since 1970."""
    received_until: float | None = None
    """Latest receipt, itself included, in seconds since 1970."""


def entries(database: Database, run: str, query: Query) -> Iterator[Entry]:
    """Yield the events of ``run`` in the order of their receipt; none if it is unknown.

    Memory is bounded: a page is read at a time, and between pages nothing is held open.

    Raises:
        StoreError: if they could not be read.

    """
    wanted = [RUNS.c.name == run, *_conditions(query)]
    if query.kinds:
        wanted.append(EVENTS.c.kind.in_(query.kinds))
    found = (
        select(*COLUMNS)
        .join(RUNS, RUNS.c.run == EVENTS.c.run)
        .where(*wanted)
        .order_by(EVENTS.c.seq)
        .limit(PAGE)
    )
    last = -1
    while True:
        with database.errors(), database.engine.connect() as connection:
            page = connection.execute(found.where(EVENTS.c.seq > last)).all()
        yield from map(entry_of, page)
        if len(page) < PAGE:
            return
        last = page[-1].seq


def entry_of(row: Row[Any]) -> Entry:
    """Return the entry whose ``COLUMNS`` begin ``row``."""
    fields = list(row)
    return Entry(Event(*fields[:6]), *fields[6:10])


def run_key(database: Database, run: str) -> int:
    """Return the key of a run.

    Raises:
        StoreError: if there is none of that name, or it could not be read.

    """
    with database.errors(), database.engine.connect() as connection:
        key: int | None = connection.execute(select(RUNS.c.run).where(RUNS.c.name == run)).scalar()
        if key is None:
            raise StoreError(f"holds no run named {run!r}")
        return key


def within(
    column: Column[float], since: float | None, until: float | None
) -> list[ColumnElement[bool]]:
    """Return the conditions that ``column`` lies between two moments; None: no limit."""
    limits = []
    if since is not None:
        limits.append(column >= since)
    if until is not None:
        limits.append(column <= until)
    return limits


def _conditions(query: Query) -> list[ColumnElement[bool]]:
    wanted = within(EVENTS.c.time, query.since, query.until)
    wanted += within(EVENTS.c.received, query.received_since, query.received_until)
    if query.agent is not None:
        wanted.append(EVENTS.c.agent == query.agent)
    if query.scope is not None:
        wanted.append(EVENTS.c.scope == query.scope)
    return wanted
