"""How events, and what they say beside themselves, become rows, in a transaction that is open.

What they say beside themselves (``samples``, ``revision``) are figures over time and what an
agent believes: an event goes in, rows of the tables ``metrics`` and ``knowledge`` come out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, insert, select, text

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store.schema import EVENTS, SERIES

MOST_IDS = 5_000
"""Values that one statement names; SQLite has room for 32,766, PostgreSQL for 65,535."""

FIELDS = tuple(EVENTS.c[field] for field in Event.__struct_fields__)
"""The columns that make an ``Event``, in its order."""

T = TypeVar("T")
Row = dict[str, Any]

_OPEN = text(
    "INSERT INTO runs (name, length) VALUES (:name, 0) "
    "ON CONFLICT (name) DO UPDATE SET length = runs.length "
    "RETURNING run, length, received, retired"
)
_CLOSE = text("UPDATE runs SET length = :length, received = :received WHERE run = :run")
_SERIES = text(
    "INSERT INTO series (run, agent, name, labels, scope, unit) "
    "VALUES (:run, :agent, :name, :labels, :scope, :unit) ON CONFLICT DO NOTHING"
)
_METRIC = text(
    "INSERT INTO metrics (series, time, value, received) "
    "VALUES (:series, :time, :value, :received) ON CONFLICT DO NOTHING"
)
_REVISE = text(
    "INSERT INTO knowledge (run, agent, predicate, value, holder, scope, since, event, cause, "
    "incarnation, number, received) VALUES (:run, :agent, :predicate, :value, :holder, :scope, "
    ":since, :event, :cause, :incarnation, :number, :received) "
    "ON CONFLICT (run, agent, predicate) DO UPDATE SET value = excluded.value, "
    "holder = excluded.holder, scope = excluded.scope, since = excluded.since, "
    "event = excluded.event, cause = excluded.cause, incarnation = excluded.incarnation, "
    "number = excluded.number, received = excluded.received "
    "WHERE (excluded.incarnation, excluded.number) >= (knowledge.incarnation, knowledge.number)"
)


_UNITS = {"_mb_s": "MB/s", "_ms": "ms", "_s": "s", "_gb": "GB", "_cores": "cores"}
_ID = re.compile(r"(?:.*?\.(\d{1,9}))?-(\d{1,15})")


class Sample(Struct, frozen=True):
    """One figure of one series."""

    agent: str
    """Who measured it."""
    name: str
    """What it is a figure of, such as ``host.legitimate_mb_s``."""
    time: float
    """Seconds of that agent's clock."""
    value: float
    unit: str = "1"
    """``MB/s``, ``ms``, ``s``, ``GB``, ``cores``, or ``1`` for a bare number."""
    labels: dict[str, str] = {}
    """What else tells its series from others of that name, such as the host."""
    scope: str | None = None
    """The slice or service it belongs to."""


class Revision(Struct, frozen=True):
    """A belief as an event revised it."""

    predicate: str
    value: bool | None
    """None: the agent knows nothing of it any more."""
    holder: str | None
    incarnation: int
    number: int
    """Place of the event among those of its agent: ``(incarnation, number)`` grows."""


def scope_of(event: Event, scopes: Mapping[str, str]) -> str | None:
    """Return the slice or service that ``event`` belongs to.

    Args:
        event: says so itself in ``data["scope"]``, or belongs where its agent does.
        scopes: of agents, as they registered.

    """
    own = event.data.get("scope")
    return own if isinstance(own, str) and own else scopes.get(event.agent)


def samples(event: Event, scope: str | None = None) -> Iterator[Sample]:
    """Yield the figures that ``event`` tells of; what is no finite number is passed over."""
    data = event.data
    found: list[tuple[str, dict[str, str], Mapping[str, Any]]] = []
    match event.kind:
        case "network.sample":
            for label, group in (("host", data.get("hosts")), ("link", data.get("links"))):
                found += [(label, {label: at}, figures) for at, figures in _groups(group)]
            found.append(("network", {}, {"downloads": data.get("downloads")}))
        case "resources.changed":
            for at in ("free", "total"):
                found += [(f"pop.{at}", {"pop": str(data.get("pop"))}, f) for f in _one(data, at)]
        case "run.ended":
            for performative, count in _items(data.get("messages")):
                found.append(("run", {"performative": performative}, {"messages": count}))
            found.append(("run", {}, {n: data.get(n) for n in ("shed", "reserved_mb_s")}))
    for prefix, labels, figures in found:
        for name, value in _items(figures):
            if type(value) in (int, float) and abs(value) <= 1e300:
                yield Sample(
                    event.agent,
                    f"{prefix}.{name}",
                    event.time,
                    float(value),
                    _unit(f".{name}"),
                    labels,
                    scope,
                )


def revision(event: Event) -> Revision | None:
    """Return how ``event`` changed what its agent believes; None if it did not."""
    belief, value = event.data.get("belief"), event.data.get("value")
    if event.kind != "belief.changed" or not isinstance(belief, str):
        return None
    holder = event.data.get("holder")
    place = _ID.fullmatch(event.id)
    return Revision(
        belief,
        value if isinstance(value, bool) else None,
        holder if isinstance(holder, str) else None,
        int(place[1] or 0) if place else 0,
        int(place[2]) if place else 0,
    )


def _items(found: object) -> list[tuple[str, Any]]:
    return list(found.items()) if isinstance(found, dict) else []


def _groups(found: object) -> list[tuple[str, dict[str, Any]]]:
    return [(name, item) for name, item in _items(found) if isinstance(item, dict)]


def _one(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = data.get(name)
    return [found] if isinstance(found, dict) else []


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.replace(".", "_").endswith(end)), "1")


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
        self.key, self.length, last, retired = opened
        self.retired = bool(retired)
        """Whether events of the run were retired, causes of what comes now maybe among them."""
        self.received = max(now, last)
        """When what comes now is received: never before what came earlier."""

    def known(self, ids: Sequence[str]) -> dict[str, Event]:
        """Return the events of these ids that the run has."""
        found = {}
        for some in in_parts(ids, MOST_IDS):
            query = select(*FIELDS).where(EVENTS.c.run == self.key, EVENTS.c.id.in_(some))
            found.update({row.id: Event(*row) for row in self.connection.execute(query)})
        return found

    def has(self, ids: Sequence[str]) -> set[str]:
        """Return which of these ids the run has."""
        found: set[str] = set()
        for some in in_parts(ids, MOST_IDS):
            query = select(EVENTS.c.id).where(EVENTS.c.run == self.key, EVENTS.c.id.in_(some))
            found.update(self.connection.execute(query).scalars())
        return found

    def add(self, events: Sequence[Event], rows: list[Row]) -> None:
        """Add events that the run does not have, with their rows, and what they tell."""
        if not rows:
            return
        for seq, row in enumerate(rows, self.length):
            row.update(run=self.key, seq=seq, received=self.received)
        self.connection.execute(insert(EVENTS), rows)
        self.length += len(rows)
        done = {"run": self.key, "length": self.length, "received": self.received}
        self.connection.execute(_CLOSE, done)
        figures: list[Sample] = []
        revised: dict[tuple[str, str], Row] = {}
        for event, row in zip(events, rows, strict=True):
            figures += samples(event, row["scope"])
            change = revision(event)
            if change is not None:
                known = self._known_by(event, row["scope"], change)
                key = event.agent, known["predicate"]
                if key not in revised or _place(revised[key]) <= _place(known):
                    revised[key] = known
        if revised:
            self.connection.execute(_REVISE, list(revised.values()))
        self.add_samples(figures)

    def add_samples(self, figures: Sequence[Sample]) -> None:
        """Add figures; one that its series has for that time already is passed over."""
        if not figures:
            return
        rows = [_series(self.key, sample) for sample in figures]
        keys = self._series_of(rows)
        values = [
            {"series": keys[_key(r)], "time": s.time, "value": s.value, "received": self.received}
            for s, r in zip(figures, rows, strict=True)
        ]
        self.connection.execute(_METRIC, values)

    def _series_of(self, rows: Sequence[Row]) -> dict[tuple[str, ...], int]:
        """Return the keys of these series; they are made if need be."""
        wanted = {_key(row): row for row in rows}
        found = self._find_series(rows)
        missing = [row for key, row in wanted.items() if key not in found]
        if missing:
            self.connection.execute(_SERIES, missing)
            found = self._find_series(rows)
        return found

    def _find_series(self, rows: Sequence[Row]) -> dict[tuple[str, ...], int]:
        columns = SERIES.c
        fields = columns.name, columns.agent, columns.labels, columns.scope, columns.series
        found = {}
        for names in in_parts(sorted({row["name"] for row in rows}), MOST_IDS):
            query = select(*fields).where(columns.run == self.key, columns.name.in_(names))
            found.update({tuple(row[:4]): row.series for row in self.connection.execute(query)})
        return found

    def _known_by(self, event: Event, scope: str | None, change: Revision) -> Row:
        return {
            "run": self.key,
            "agent": event.agent,
            "predicate": storable(change.predicate),
            "value": change.value,
            "holder": None if change.holder is None else storable(change.holder),
            "scope": scope,
            "since": event.time,
            "event": event.id,
            "cause": event.cause,
            "incarnation": change.incarnation,
            "number": change.number,
            "received": self.received,
        }


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


def _series(run: int, sample: Sample) -> Row:
    if not math.isfinite(sample.time) or not math.isfinite(sample.value):
        raise StoreError(f"metric {sample.name!r}: {sample.value} at {sample.time} is no figure")
    return {
        "run": run,
        "agent": storable(sample.agent),
        "name": storable(sample.name),
        "labels": msgspec.json.encode(sample.labels, order="sorted").decode(),
        "scope": storable(sample.scope or ""),
        "unit": storable(sample.unit),
    }


def _key(row: Row) -> tuple[str, ...]:
    return row["name"], row["agent"], row["labels"], row["scope"]


def _place(row: Row) -> tuple[int, int]:
    return row["incarnation"], row["number"]
