"""How events become rows, in a transaction that is open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, insert, select, text

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store.schema import EVENTS

MOST_IDS = 5_000
"""Values that one statement names; SQLite has room for 32,766, PostgreSQL for 65,535."""

FIELDS = tuple(EVENTS.c[field] for field in Event.__struct_fields__)
"""The columns that make an ``Event``, in its order."""

T = TypeVar("T")
Row = dict[str, Any]

_OPEN = text(
    "INSERT INTO runs (name, length) VALUES (:name, 0) "
    "ON CONFLICT (name) DO UPDATE SET length = runs.length "
    "RETURNING run, length, received"
)
_CLOSE = text("UPDATE runs SET length = :length, received = :received WHERE run = :run")


def scope_of(event: Event, scopes: Mapping[str, str]) -> str | None:
    """Return the slice or service that ``event`` belongs to.

    Args:
        event: says so itself in ``data["scope"]``, or belongs where its agent does.
        scopes: of agents, as they registered.

    """
    own = event.data.get("scope")
    return own if isinstance(own, str) and own else scopes.get(event.agent)


class OpenRun:
    """A run that this transaction writes: other writers of it wait until it ends."""

    def __init__(self, connection: Connection, name: str, now: float) -> None:
        """Lock the run, and make it if need be.

        Args:
            connection: in a transaction, which this statement begins.
            name: of the run.
            now: the time, in seconds since 1970.

        """
        self.connection = connection
        opened = connection.execute(_OPEN, {"name": name}).one()
        self.key, self.length, last = opened
        self.received = max(now, last)
        """When what comes now is received: never before what came earlier."""

    def known(self, ids: Sequence[str]) -> dict[str, Event]:
        """Return the events of these ids that the run has."""
        found = {}
        for some in in_parts(ids, MOST_IDS):
            query = select(*FIELDS).where(EVENTS.c.run == self.key, EVENTS.c.id.in_(some))
            found.update({row.id: Event(*row) for row in self.connection.execute(query)})
        return found

    def add(self, rows: list[Row]) -> None:
        """Add the rows of events that the run does not have."""
        if not rows:
            return
        for seq, row in enumerate(rows, self.length):
            row.update(run=self.key, seq=seq, received=self.received)
        self.connection.execute(insert(EVENTS), rows)
        self.length += len(rows)
        done = {"run": self.key, "length": self.length, "received": self.received}
        self.connection.execute(_CLOSE, done)


def row_of(event: Event, scope: str | None) -> Row:
    """Return ``event`` as a row, without its place.

    Raises:
        StoreError: if it holds what JSON or the databases have no form for.

    """
    if not math.isfinite(event.time):
        raise StoreError(f"event {event.id!r}: its time is {event.time}")
    row = msgspec.structs.asdict(event)
    row |= {"scope": scope, "cause_retired": False}
    words = f"{event.id}{event.agent}{event.kind}{event.cause}{scope}"
    if storable(words) != words:
        raise StoreError(
            f"event {event.id!r}: U+0000 or half a character is in its id, agent, kind, cause "
            "or scope"
        )
    try:
        row["data"] = msgspec.json.encode(event.data).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"event {event.id!r}: cannot be written as JSON: {error}") from error
    return row


def storable(words: str) -> str:
    """Return ``words`` with U+FFFD for what not every database has a form for."""
    return words.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def in_parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield ``items`` in lists of at most ``size``."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
