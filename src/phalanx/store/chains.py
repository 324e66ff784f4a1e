"""Chains of causes in a store: what led to an event, and what followed from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, literal, select

from phalanx.store.causes import LONGEST, CauseChain, climb, unfold
from phalanx.store.engine import Database
from phalanx.store.entries import COLUMNS, Entry, entry_of
from phalanx.store.rows import MOST_IDS, in_parts
from phalanx.store.schema import EVENTS, RUNS

_CLIMB = 500


class Effect(Struct, frozen=True):
    """An event that followed from another."""

    depth: int
    """Steps from it: 1 for what it caused directly."""
    entry: Entry


class Effects(Struct, frozen=True):
    """What followed from an event, each below its cause, in the order of receipt."""

    effects: tuple[Effect, ...]
    more: bool
    """There are others, further from the event."""


def causes(
    database: Database, run: str, event_id: str, longest: int = LONGEST
) -> CauseChain[Entry]:
    """Return what led to an event, the event itself at the end.

    Args:
        database: the store.
        run: name of the run.
        event_id: of the event.
        longest: entries to return at most.

    Raises:
        StoreError: if it could not be read.

    """
    with database.errors(), database.engine.connect() as connection:
        chain = climb(event_id, partial(_climb, connection, run), longest)
    broken = chain.broken
    if broken is not None and broken.why == "missing" and chain.entries[0].cause_retired:
        chain = replace(chain, broken=replace(broken, why="retired"))
    return chain


def effects(database: Database, run: str, event_id: str, limit: int) -> Effects:
    """Return what followed from an event, the nearest ``limit`` of it.

    Raises:
        StoreError: if it could not be read.

    """
    below: dict[str, list[Entry]] = {}
    seen = {event_id}
    with database.errors(), database.engine.connect() as connection:
        level, left = [event_id], limit
        while level and left >= 0:
            # One more than wanted, to know whether there is more.
            found = _caused_by(connection, run, level, left + 1)
            found = [entry for entry in found if entry.event.id not in seen]
            for entry in found[:left]:
                seen.add(entry.event.id)
                below.setdefault(entry.event.cause or "", []).append(entry)
            left -= len(found)
            level = [entry.event.id for entry in found]
    found_below = unfold(event_id, lambda cause: below.get(cause, []))
    return Effects(tuple(Effect(depth, entry) for depth, entry in found_below), left < 0)


def _climb(connection: Connection, run: str, event_id: str) -> list[Entry]:
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


def _caused_by(connection: Connection, run: str, ids: Sequence[str], limit: int) -> list[Entry]:
    found: list[Entry] = []
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
