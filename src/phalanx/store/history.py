"""Questions to a store: events, decisions, metrics and knowledge by slice, agent, time and cause.

The data services of the security management framework (seed literature: Benzaid, Taleb and
Song, autonomic and cognitive security management, III.B.2): the historical data and knowledge
that agents generate are saved and provided on request. All answers are read a page at a time,
and between pages nothing is held open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Column, ColumnElement, Connection, Row, func, literal, select

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store.causes import LONGEST, CauseChain, climb, unfold
from phalanx.store.database import Database
from phalanx.store.derived import BELIEVED, MEASURED, Revision, Sample, revision, samples
from phalanx.store.rows import FIELDS, MOST_IDS, in_parts
from phalanx.store.schema import EVENTS, RUNS

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


PAGE = 1_000
"""Rows that are read at a time."""

COLUMNS = (*FIELDS, EVENTS.c.seq, EVENTS.c.scope, EVENTS.c.received, EVENTS.c.cause_retired)
"""The columns that make an ``StoredEvent``."""


class StoredEvent(Struct, frozen=True):
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


class EventQuery(Struct, frozen=True):
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


def entries(database: Database, run: str, query: EventQuery) -> Iterator[StoredEvent]:
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


def entry_of(row: Row[Any]) -> StoredEvent:
    """Return the entry whose ``COLUMNS`` begin ``row``."""
    fields = list(row)
    return StoredEvent(Event(*fields[:6]), *fields[6:10])


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


def _conditions(query: EventQuery) -> list[ColumnElement[bool]]:
    wanted = within(EVENTS.c.time, query.since, query.until)
    wanted += within(EVENTS.c.received, query.received_since, query.received_until)
    if query.agent is not None:
        wanted.append(EVENTS.c.agent == query.agent)
    if query.scope is not None:
        wanted.append(EVENTS.c.scope == query.scope)
    return wanted


ALL = EventQuery()


_CLIMB = 500


class Effect(Struct, frozen=True):
    """An event that followed from another."""

    depth: int
    """Steps from it: 1 for what it caused directly."""
    entry: StoredEvent


class Effects(Struct, frozen=True):
    """What followed from an event, each below its cause, in the order of receipt."""

    effects: tuple[Effect, ...]
    more: bool
    """There are others, further from the event."""


def _climb(connection: Connection, run: str, event_id: str) -> list[StoredEvent]:
    """Return an event, its cause, the cause of that, and so on, a part of a chain at a time."""
    key = select(RUNS.c.run).where(RUNS.c.name == run).scalar_subquery()
    chain = (
        select(EVENTS.c.run, EVENTS.c.seq, EVENTS.c.cause, literal(0).label("depth"))
        .where(EVENTS.c.run == key, EVENTS.c.id == event_id)
        .cte("chain", recursive=True)
    )
    chain = chain.union_all(
        select(EVENTS.c.run, EVENTS.c.seq, EVENTS.c.cause, chain.c.depth + 1).where(
            EVENTS.c.run == chain.c.run, EVENTS.c.id == chain.c.cause, chain.c.depth < _CLIMB - 1
        )
    )
    on = (EVENTS.c.run == chain.c.run) & (EVENTS.c.seq == chain.c.seq)
    query = select(*COLUMNS).join(chain, on).order_by(chain.c.depth)
    return [entry_of(row) for row in connection.execute(query)]


def _caused_by(
    connection: Connection, run: str, ids: Sequence[str], limit: int
) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    for some in in_parts(ids, MOST_IDS):
        query = (
            select(*COLUMNS)
            .join(RUNS, RUNS.c.run == EVENTS.c.run)
            .where(RUNS.c.name == run, EVENTS.c.cause.in_(some))
            .order_by(EVENTS.c.seq)
            .limit(limit - len(found))
        )
        found += [entry_of(row) for row in connection.execute(query)]
        if len(found) == limit:
            break
    return found


class RecordedDecision(Struct, frozen=True):
    """Something an agent decided, and what led to it."""

    entry: StoredEvent
    chain: CauseChain[StoredEvent]
    """From the root cause to the decision itself."""


class Measurement(Struct, frozen=True):
    """A figure as the store keeps it."""

    sample: Sample
    received: float
    """When the store got it, in seconds since 1970."""


class MetricSeries(Struct, frozen=True):
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
    """Id of the ``belief.changed`` that says so."""
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

    def entries(self, run: str, query: EventQuery = ALL) -> Iterator[StoredEvent]:
        """Yield the events of ``run`` that match, in the order of their receipt.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        run_key(self._database, run)
        yield from entries(self._database, run, query)

    def decisions(self, run: str, query: EventQuery = ALL) -> Iterator[RecordedDecision]:
        """Yield what agents decided, each decision with what caused it.

        Args:
            run: its name.
            query: narrows them; its ``kinds``, where given, take the place of ``DECISIONS``.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        kinds = query.kinds or DECISIONS
        for entry in self.entries(run, msgspec.structs.replace(query, kinds=kinds)):
            yield RecordedDecision(entry, self.causes(run, entry.event.id))

    def causes(self, run: str, event_id: str, longest: int = LONGEST) -> CauseChain[StoredEvent]:
        """Return the chain from the root cause to an event, and where it is broken.

        Args:
            run: its name.
            event_id: of the event; if it is unknown, the chain is empty.
            longest: entries to follow back at most.

        Raises:
            StoreError: if it could not be read.

        """
        with self._database.errors(), self._database.engine.connect() as connection:
            chain = climb(event_id, partial(_climb, connection, run), longest)
        broken = chain.broken
        if broken is not None and broken.why == "missing" and chain.entries[0].cause_retired:
            chain = replace(chain, broken=replace(broken, why="retired"))
        return chain

    def effects(self, run: str, event_id: str, limit: int = PAGE) -> Effects:
        """Return what followed from an event, the nearest first ``limit`` of it, as a tree.

        An event that was retired, or has not come yet, has effects as well.

        Raises:
            StoreError: if they could not be read.

        """
        below: dict[str, list[StoredEvent]] = {}
        seen = {event_id}
        with self._database.errors(), self._database.engine.connect() as connection:
            level, left = [event_id], limit
            while level and left >= 0:
                # One more than wanted, to know whether there is more.
                found = _caused_by(connection, run, level, left + 1)
                found = [entry for entry in found if entry.id not in seen]
                for entry in found[:left]:
                    seen.add(entry.id)
                    below.setdefault(entry.cause or "", []).append(entry)
                left -= len(found)
                level = [entry.id for entry in found]
        found_below = unfold(event_id, lambda cause: below.get(cause, []))
        return Effects(tuple(Effect(depth, entry) for depth, entry in found_below), left < 0)

    def metrics(
        self, run: str, name: str, query: EventQuery = ALL, **labels: str
    ) -> Iterator[Measurement]:
        """Yield the figures of one name, of all agents that measured them, as they came.

        Args:
            run: its name.
            name: of the figures, such as ``host.legitimate_mb_s``.
            query: narrows them; its ``kinds`` are those of the events that tell of figures.
            labels: only series with these labels, among others.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        for found in self._figures(run, query):
            sample = found.sample
            if sample.name == name and labels.items() <= sample.labels.items():
                yield found

    def series(self, run: str, name: str | None = None) -> tuple[MetricSeries, ...]:
        """Return what figures there are of ``run``, by name, agent and labels; it reads all.

        Raises:
            StoreError: if there is no such run, or they could not be read.

        """
        of = (found.sample for found in self._figures(run, ALL))
        series = {
            (s.name, s.agent, *s.labels.values(), s.scope or ""): MetricSeries(
                s.name, s.agent, s.unit, s.labels, s.scope
            )
            for s in of
            if name in (None, s.name)
        }
        return tuple(series[key] for key in sorted(series))

    def knowledge(
        self, run: str, agent: str | None = None, scope: str | None = None
    ) -> Iterator[Knowledge]:
        """Yield what agents believe, as last heard of them, by agent and predicate.

        What an agent has said to know no longer is left out. Of an agent that died it is what
        it believed then. An event that came late changes nothing that was said after it.

        Raises:
            StoreError: if there is no such run, or it could not be read.

        """
        last: dict[tuple[str, str], tuple[Revision, StoredEvent]] = {}
        for entry in self.entries(run, EventQuery(BELIEVED, agent, scope)):
            said = revision(entry.event)
            if said is not None:
                key = entry.event.agent, said.predicate
                if key not in last or last[key][0].place <= said.place:
                    last[key] = said, entry
        for (who, predicate), (said, entry) in sorted(last.items(), key=lambda item: item[0]):
            if said.value is not None:
                event = entry.event
                yield Knowledge(
                    who,
                    predicate,
                    said.value,
                    event.time,
                    said.holder,
                    entry.scope,
                    event.id,
                    event.cause,
                    entry.received,
                )

    def _figures(self, run: str, query: EventQuery) -> Iterator[Measurement]:
        for entry in self.entries(run, replace(query, kinds=MEASURED)):
            for sample in samples(entry.event, entry.scope):
                yield Measurement(sample, entry.received)
