"""Retention: what a store keeps by age and by size, and how it lets go of the rest.

What is retired goes in small transactions with pauses between them, so that writers are not
held up. Each of them also marks the events that stay and whose cause goes (``cause_retired``):
however it is interrupted, by kill -9 too, no chain of causes is broken without saying so, and
the next time it goes on where it was.

Age counts from the receipt by the store. Stamps of receipt never go back within a run, so a
clock that is put back makes nothing look old; one that is put forward and back makes what
came meanwhile stay longer, never shorter.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, delete, func, select, text, tuple_, update

from phalanx.domain.errors import StoreError
from phalanx.store.database import Database
from phalanx.store.derived import BELIEVED, MEASURED
from phalanx.store.history import DECISIONS
from phalanx.store.schema import EVENTS, RUNS

BATCH = 500
"""Rows that one transaction deletes at most."""

_USED = {
    "sqlite": "SELECT (SELECT page_count FROM pragma_page_count) "
    "- (SELECT freelist_count FROM pragma_freelist_count)",
    # What lives of each table, with its indices in proportion: deleting makes no file smaller.
    "postgresql": "SELECT coalesce(sum(pg_column_size(t.*)), 0) "
    "* (pg_total_relation_size('{0}')::float8 / greatest(pg_relation_size('{0}'), 1)) FROM {0} t",
}


class RetentionPolicy(Struct, frozen=True):
    """What a store keeps. None: no limit."""

    events_s: float | None = None
    """How long events are kept, in seconds since their receipt."""
    decisions_s: float | None = None
    """How long what agents decided and believe is kept instead; None: like all events."""
    metrics_s: float | None = None
    """How long what tells of figures is kept instead; None: like all events."""
    octets: int | None = None
    """Most that all may take; what was received first goes first, whatever it is."""


class Retired(Struct, frozen=True):
    """What was retired, or would be."""

    events: int
    marked: int
    """Events that say from now on that their cause was retired; 0 in a dry run."""
    octets_before: int
    """What the store took, indices included; in PostgreSQL about."""
    octets_after: int
    """In a dry run, an estimate."""


class Retention:
    """Applies a policy to a store, while others read and write it."""

    def __init__(
        self,
        database: Database,
        policy: RetentionPolicy,
        *,
        now: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to retire what ``policy`` does not keep.

        Args:
            database: the store, which stays the caller's to close.
            policy: what to keep.
            now: the time, in seconds since 1970.
            pause: lets so many seconds go by between two transactions.

        Raises:
            StoreError: if a limit is negative or not a number.

        """
        limits = policy.events_s, policy.decisions_s, policy.metrics_s, policy.octets
        if any(limit is not None and not limit >= 0 for limit in limits):
            raise StoreError("what is kept must be at least 0 seconds and 0 octets")
        self._database = database
        self._policy = policy
        self._now = now
        self._pause = pause
        self._events = self._marked = 0

    def run(self) -> Retired:
        """Retire what is too old, then what there is no room for.

        Raises:
            StoreError: if the database failed; what was retired before stays so.

        """
        self._events = self._marked = 0
        with self._database.errors():
            before = self._octets()
            for condition in self._too_old():
                self._retire_events(condition)
            if self._policy.octets is not None:
                self._make_room(self._policy.octets)
            self._give_back()
            return self._retired(before, self._octets())

    def dry_run(self) -> Retired:
        """Count what ``run`` would retire, and touch nothing.

        Raises:
            StoreError: if the database failed.

        """
        with self._database.errors(), self._database.engine.connect() as connection:
            before = self._octets()
            total = connection.execute(select(func.count()).select_from(EVENTS)).scalar_one()
            self._events = sum(
                connection.execute(select(func.count()).where(condition)).scalar_one()
                for condition in self._too_old()
            )
            after = before * (total - self._events) // max(total, 1)
            limit = self._policy.octets
            if limit is not None and after > limit:
                self._events += ceil((total - self._events) * (1 - limit / after))
                after = limit
            return self._retired(before, after)

    def _retired(self, before: int, after: int) -> Retired:
        return Retired(self._events, self._marked, before, after)

    # -- what goes --------------------------------------------------------------------

    def _too_old(self) -> Iterator[ColumnElement[bool]]:
        policy, kind = self._policy, EVENTS.c.kind
        decided, measured = kind.in_((*DECISIONS, *BELIEVED)), kind.in_(MEASURED)
        for of, own_s in (
            (decided, policy.decisions_s),
            (measured, policy.metrics_s),
            (~decided & ~measured, None),
        ):
            keep = policy.events_s if own_s is None else own_s
            if keep is not None:
                yield (EVENTS.c.received < self._now() - keep) & of

    def _make_room(self, limit: int) -> None:
        """Retire what was received first until at most ``limit`` octets are taken."""
        while (used := self._octets()) > limit:
            with self._database.engine.connect() as connection:
                total = connection.execute(select(func.count()).select_from(EVENTS)).scalar_one()
                # A twentieth at least: the last steps towards the limit would be tiny ones.
                excess = ceil(total * max((used - limit) / used, 0.05))
                oldest = select(*_PLACE).order_by(*_PLACE).offset(min(excess, total) - 1).limit(1)
                last = connection.execute(oldest).first() if total else None
            if last is None:
                return
            self._retire_events(tuple_(*_PLACE) <= tuple_(*last))

    # -- how it goes ------------------------------------------------------------------

    def _retire_events(self, condition: ColumnElement[bool]) -> None:
        """Retire events, the latest first: so most effects go before their causes."""
        query = select(*_PLACE, EVENTS.c.id).where(condition)
        query = query.order_by(*(column.desc() for column in _PLACE)).limit(BATCH)
        rest = query
        while True:
            with self._database.engine.connect() as connection:
                page = connection.execute(rest).all()
            if not page:
                return
            self._in_transaction(partial(self._delete, page))
            rest = query.where(tuple_(*_PLACE) < tuple_(*page[-1][:3]))

    def _delete(self, page: Sequence[Any], connection: Connection) -> None:
        by_run: dict[int, list[Any]] = defaultdict(list)
        for row in page:
            by_run[row.run].append(row)
        for run, rows in sorted(by_run.items()):
            in_run = EVENTS.c.run == run
            seqs, ids = [row.seq for row in rows], [row.id for row in rows]
            # First: writers of the run wait, so that none adds an effect unmarked.
            connection.execute(update(RUNS).where(RUNS.c.run == run).values(retired=True))
            gone = connection.execute(delete(EVENTS).where(in_run, EVENTS.c.seq.in_(seqs)))
            orphans = in_run & EVENTS.c.cause.in_(ids) & ~EVENTS.c.cause_retired
            marked = connection.execute(update(EVENTS).where(orphans).values(cause_retired=True))
            self._events += gone.rowcount
            self._marked += marked.rowcount

    def _in_transaction(self, work: Callable[[Connection], Any]) -> Any:
        """Do a part of the work, then leave writers as much time as it took."""
        began = time.perf_counter()
        with self._database.engine.begin() as connection:
            result = work(connection)
        self._pause(time.perf_counter() - began)
        return result

    # -- how much there is --------------------------------------------------------------

    def _octets(self) -> int:
        """Return what events take, in octets."""
        with self._database.engine.connect() as connection:
            if self._database.dialect == "sqlite":
                pages = connection.execute(text(_USED["sqlite"])).scalar_one()
                size = connection.execute(text("PRAGMA page_size")).scalar_one()
                return int(pages) * int(size)
            query = _USED["postgresql"].format(EVENTS.name)
            return int(connection.execute(text(query)).scalar_one())

    def _give_back(self) -> None:
        """Let SQLite shorten its file, a part at a time; PostgreSQL uses the space again."""
        if self._database.dialect != "sqlite":
            return
        with self._database.engine.connect() as connection:
            while connection.execute(text("PRAGMA freelist_count")).scalar_one() > 0:
                before = connection.execute(text("PRAGMA page_count")).scalar_one()
                cursor = connection.connection.cursor()  # it works a page for each step
                cursor.execute(f"PRAGMA incremental_vacuum({BATCH})")
                cursor.fetchall()
                cursor.close()
                connection.commit()
                if connection.execute(text("PRAGMA page_count")).scalar_one() == before:
                    return  # made by Phalanx 0.1.0, whose files do not shrink
                self._pause(0.001)


_PLACE = (EVENTS.c.received, EVENTS.c.run, EVENTS.c.seq)
