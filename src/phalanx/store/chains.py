"""Chains of causes in a store: what led to an event, and what followed from it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, literal, select

from phalanx.store.engine import Database
from phalanx.store.entries import COLUMNS, Entry, entry_of
from phalanx.store.rows import MOST_IDS, in_parts
from phalanx.store.schema import EVENTS, RUNS

LONGEST = 10_000
"""Causes that a chain is followed back at most."""
_CLIMB = 500


class Break(Struct, frozen=True):
    """Where a chain of causes does not reach its root."""

    effect: str
    """Id of the first event of what there is."""
    cause: str
    """Id of the cause that it names."""
    why: str
    """``missing``: it has not come, or came and went before its effect; ``retired``: it was
    here; ``circle``: it is an effect of its own effect; ``length``: the chain is too long."""

    def __str__(self) -> str:
        words = {
            "missing": "is not in the store",
            "retired": "has been retired",
            "circle": "is an effect of its own effect",
            "length": "is further back than chains are followed",
        }
        return f"{self.cause}, the cause of {self.effect}, {words[self.why]}"


class Chain(Struct, frozen=True):
    """Causes before effects, each the cause of the next."""

    entries: tuple[Entry, ...]
    """Empty if the event is unknown."""
    broken: Break | None = None
    """None: it begins at a root, an event without a cause."""


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


def causes(database: Database, run: str, event_id: str, longest: int = LONGEST) -> Chain:
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
        return _chain(connection, run, event_id, longest)


def effects(database: Database, run: str, event_id: str, limit: int) -> Effects:
    """Return what followed from an event, the nearest ``limit`` of it.

    Raises:
        StoreError: if it could not be read.

    """
    below: dict[str | None, list[Entry]] = {}
    seen = {event_id}
    with database.errors(), database.engine.connect() as connection:
        level, left = [event_id], limit
        while level and left >= 0:
            # One more than wanted, to know whether there is more.
            found = _caused_by(connection, run, level, left + 1)
            found = [entry for entry in found if entry.event.id not in seen]
            for entry in found[:left]:
                seen.add(entry.event.id)
                below.setdefault(entry.event.cause, []).append(entry)
            left -= len(found)
            level = [entry.event.id for entry in found]
    return Effects(tuple(_unfold(below, event_id)), left < 0)


def _chain(connection: Connection, run: str, event_id: str, longest: int) -> Chain:
    chain: dict[str, Entry] = {}
    wanted: str | None = event_id
    why = "missing"
    while wanted is not None:
        found = _climb(connection, run, wanted)
        if not found:
            break
        for entry in found:
            if entry.event.id in chain or len(chain) == longest:
                why = "circle" if entry.event.id in chain else "length"
                found = []
                break
            chain[entry.event.id] = entry
            wanted = entry.event.cause
        if not found:
            break
    whole = tuple(reversed(chain.values()))
    if not whole or wanted is None:
        return Chain(whole)
    first = whole[0]
    if why == "missing" and first.cause_retired:
        why = "retired"
    return Chain(whole, Break(first.event.id, wanted, why))


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


def _unfold(below: dict[str | None, list[Entry]], root: str) -> list[Effect]:
    """Return the tree below ``root``, each event followed by what it led to."""
    unfolded: list[Effect] = []
    waiting = [Effect(1, entry) for entry in reversed(below.get(root, []))]
    while waiting:
        effect = waiting.pop()
        unfolded.append(effect)
        children = below.get(effect.entry.event.id, [])
        waiting += [Effect(effect.depth + 1, entry) for entry in reversed(children)]
    return unfolded
