"""Questions to a store: events, decisions, metrics and knowledge by slice, agent, time and cause.

The data services of the security management framework (seed literature: Benzaid, Taleb and
Song, autonomic and cognitive security management, III.B.2): the historical data and knowledge
that agents generate are saved and provided to whoever may ask. All answers are read a page at
a time, and between pages nothing is held open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Row, Select, func, select, tuple_

from phalanx.store import chains
from phalanx.store.causes import LONGEST, CauseChain
from phalanx.store.chains import Effects
from phalanx.store.derived import Sample
from phalanx.store.engine import Database
from phalanx.store.entries import PAGE, Entry, Query, entries, run_key, within
from phalanx.store.schema import EVENTS, KNOWLEDGE, METRICS, RUNS, SERIES

DECISIONS = (
    "goal.adopted",
    "goal.taken_over",
    "plan.started",
    "auction.called",
    "auction.bid",
    "auction.refused",
    "auction.awarded",
    "contract.accepted",
)
"""Kinds of events in which an agent chose: what to want, how to go about it, who shall do it."""


ALL = Query()


class Decision(Struct, frozen=True):
    """Something an agent decided, and what led to it."""

    entry: Entry
    chain: CauseChain[Entry]
    """From the root cause to the decision itself."""


class Measurement(Struct, frozen=True):
    """A figure as the store keeps it."""

    sample: Sample
    received: float
    """When the store got it, in seconds since 1970."""


class Series(Struct, frozen=True):
    """The figures of one name, agent, scope and set of labels."""

    name: str
    agent: str
    unit: str
    labels: dict[str, str]
    scope: str | None


class Knowledge(Struct, frozen=True):
    """What an agent believes, as last heard of it."""

    agent: str
    predicate: str
    value: bool
    since: float
    """When it began to, in seconds of the agent's clock."""
    holder: str | None
    """Whose measure keeps it true; None: plain knowledge."""
    scope: str | None
    event: str
    """Id of the ``belief.changed`` that says so; it may have been retired."""
    cause: str | None
    """What that event named as its cause."""
    received: float
    """When the store heard of it, in seconds since 1970."""


class RunInfo(Struct, frozen=True):
    """A run that the store keeps."""

    name: str
    events: int
    """How many of its events are kept."""
    retired: int
    """How many there were besides."""
    agents: int
    began: float | None
    """When its oldest kept event was received, in seconds since 1970; None without events."""
    ended: float | None
    """When its latest kept event was received."""


class History:
    """Asks a store. A run that it does not have is refused; what nothing matches is empty."""

    def __init__(self, database: Database) -> None:
        """Ask ``database``, which stays the caller's to close."""
        self._database = database

    def runs(self) -> tuple[RunInfo, ...]:
        """Return what runs there are, the one that was written last at the end.

        It reads all events; ``names`` does not.

        Raises:
            StoreError: if they could not be read.

        """
        query = (
            select(
                RUNS.c.name,
                func.count(EVENTS.c.seq),
                RUNS.c.length - func.count(EVENTS.c.seq),
                func.count(EVENTS.c.agent.distinct()),
                func.min(EVENTS.c.received),
                func.max(EVENTS.c.received),
            )
            .join_from(RUNS, EVENTS, RUNS.c.run == EVENTS.c.run, isouter=True)
            .group_by(RUNS.c.run)
            .order_by(RUNS.c.received, RUNS.c.run)
        )
        with self._database.errors(), self._database.engine.connect() as connection:
            return tuple(RunInfo(*row) for row in connection.execute(query))

    def names(self) -> tuple[str, ...]:
        """Return the names of the runs, the one that was written last at the end.

        Raises:
            StoreError: if they could not be read.

        """
        query = select(RUNS.c.name).order_by(RUNS.c.received, RUNS.c.run)
        with self._database.errors(), self._database.engine.connect() as connection:
            return tuple(connection.execute(query).scalars())

    def entries(self, run: str, query: Query = ALL) -> Iterator[Entry]:
        """Yield the events of ``run`` that match, in the order of their receipt.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        run_key(self._database, run)
        yield from entries(self._database, run, query)

    def decisions(self, run: str, query: Query = ALL) -> Iterator[Decision]:
        """Yield what agents decided, each decision with what caused it.

        Args:
            run: its name.
            query: narrows them; its ``kinds``, where given, take the place of ``DECISIONS``.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        kinds = query.kinds or DECISIONS
        for entry in self.entries(run, msgspec.structs.replace(query, kinds=kinds)):
            yield Decision(entry, self.causes(run, entry.event.id))

    def causes(self, run: str, event_id: str, longest: int = LONGEST) -> CauseChain[Entry]:
        """Return the chain from the root cause to an event, and where it is broken.

        Args:
            run: its name.
            event_id: of the event; if it is unknown, the chain is empty.
            longest: entries to follow back at most.

        Raises:
            StoreError: if it could not be read.

        """
        return chains.causes(self._database, run, event_id, longest)

    def effects(self, run: str, event_id: str, limit: int = PAGE) -> Effects:
        """Return what followed from an event, the nearest first ``limit`` of it, as a tree.

        An event that was retired, or has not come yet, has effects as well.

        Raises:
            StoreError: if they could not be read.

        """
        return chains.effects(self._database, run, event_id, limit)

    def metrics(
        self, run: str, name: str, query: Query = ALL, **labels: str
    ) -> Iterator[Measurement]:
        """Yield the figures of one name by time, whoever measured them.

        Args:
            run: its name.
            name: of the figures, such as ``host.legitimate_mb_s``.
            query: narrows them; figures have no ``kinds``.
            labels: only series with these labels, among others.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        wanted = {
            key: series
            for key, series in self._series(run, name, query.agent, query.scope)
            if labels.items() <= series.labels.items()
        }
        found = (
            select(METRICS.c.time, METRICS.c.series, METRICS.c.value, METRICS.c.received)
            .where(METRICS.c.series.in_(list(wanted)))
            .where(*within(METRICS.c.time, query.since, query.until))
            .where(*within(METRICS.c.received, query.received_since, query.received_until))
        )
        for at, key, value, received in self._pages(found):
            of = wanted[key]
            sample = Sample(of.agent, of.name, at, value, of.unit, of.labels, of.scope)
            yield Measurement(sample, received)

    def series(self, run: str, name: str | None = None) -> tuple[Series, ...]:
        """Return what figures there are of ``run``, by name, agent and labels.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        return tuple(series for _, series in self._series(run, name, None, None))

    def knowledge(
        self, run: str, agent: str | None = None, scope: str | None = None
    ) -> Iterator[Knowledge]:
        """Yield what agents believe, as last heard of them, by agent and predicate.

        What an agent has said to know no longer is left out. Of an agent that died it is what
        it believed then.

        Raises:
            StoreError: if there is no such run, or it could not be read.

        """
        columns = KNOWLEDGE.c
        found = select(
            columns.agent,
            columns.predicate,
            columns.value,
            columns.since,
            columns.holder,
            columns.scope,
            columns.event,
            columns.cause,
            columns.received,
        ).where(columns.run == run_key(self._database, run), columns.value.is_not(None))
        if agent is not None:
            found = found.where(columns.agent == agent)
        if scope is not None:
            found = found.where(columns.scope == scope)
        yield from (Knowledge(*row) for row in self._pages(found))

    def _pages(self, query: Select[*tuple[Any, ...]]) -> Iterator[Row[*tuple[Any, ...]]]:
        """Yield the rows of ``query``, whose first two columns are its key and its order."""
        key = tuple_(*list(query.selected_columns)[:2])
        query = query.order_by(*list(query.selected_columns)[:2]).limit(PAGE)
        rest = query
        while True:
            with self._database.errors(), self._database.engine.connect() as connection:
                page = connection.execute(rest).all()
            yield from page
            if len(page) < PAGE:
                return
            rest = query.where(key > tuple_(*page[-1][:2]))

    def _series(
        self, run: str, name: str | None, agent: str | None, scope: str | None
    ) -> list[tuple[int, Series]]:
        columns = SERIES.c
        query = (
            select(
                columns.series,
                columns.name,
                columns.agent,
                columns.unit,
                columns.labels,
                columns.scope,
            )
            .where(columns.run == run_key(self._database, run))
            .order_by(columns.name, columns.agent, columns.labels, columns.scope)
        )
        for column, value in ((columns.name, name), (columns.agent, agent), (columns.scope, scope)):
            if value is not None:
                query = query.where(column == value)
        with self._database.errors(), self._database.engine.connect() as connection:
            return [
                (key, Series(of, by, unit, msgspec.json.decode(labels), at or None))
                for key, of, by, unit, labels, at in connection.execute(query)
            ]
