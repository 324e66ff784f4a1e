"""The event log as the report reads it: by kind, by cause, and with a tolerant eye.

A log may come from an interrupted run, an older version or a function's own kinds. What is
missing or of another type reads as nothing; the report then shows less, but always shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phalanx.domain.events import Event

Data = Mapping[str, Any]
_MOST = 1e12


def number(data: Data, key: str, default: float = 0.0) -> float:
    """Return a finite number of ``data``, or ``default``."""
    return finite(data.get(key), default)


def finite(value: object, default: float = 0.0) -> float:
    """Return ``value`` if it is a number that can be drawn (up to 1e12), else ``default``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST:
        return float(value)
    return default


def text(data: Data, key: str, default: str = "") -> str:
    """Return a text of ``data``; numbers are written out, anything else is ``default``."""
    value = data.get(key)
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, int | float) else default


def table(data: Data, key: str) -> Data:
    """Return the mapping at ``key``, or an empty one."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def rows(data: Data, key: str) -> list[Data]:
    """Return the mappings in the list at ``key``."""
    value = data.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def names(data: Data, key: str) -> tuple[str, ...]:
    """Return the texts in the list at ``key``; a single text counts as a list of one."""
    value = data.get(key)
    if isinstance(value, str):
        return (value,)
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list | tuple) else ()


def predicate_of(effect: str) -> str:
    """Return the name before the bracket: ``ipRateLimited`` of ``ipRateLimited(10.0.6.10)``."""
    return effect.partition("(")[0].lstrip("¬?")


class Log:
    """All events of one run, with the ways through them that the sections need."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = tuple(events)
        self.index = {event.id: at for at, event in reversed(list(enumerate(self.events)))}
        self._kinds: dict[str, list[Event]] = {}
        self._effects: dict[str, list[Event]] = {}
        for event in self.events:
            self._kinds.setdefault(event.kind, []).append(event)
            cause = self.cause(event)
            if cause is not None:
                self._effects.setdefault(cause.id, []).append(event)
        started = self.of("run.started")
        self.setting: Data = started[0].data if started else {}
        """Data of ``run.started``; empty if the log begins later."""
        ended = self.of("run.ended")
        self.ending: Data | None = ended[-1].data if ended else None
        """Data of ``run.ended``; None if the run was broken off."""
        self.end_s = max((finite(event.time) for event in self.events), default=0.0)

    def of(self, *kinds: str) -> list[Event]:
        """Return the events of ``kinds``, in the order of the log."""
        found = [event for kind in kinds for event in self._kinds.get(kind, ())]
        return found if len(kinds) == 1 else sorted(found, key=lambda e: self.index[e.id])

    def cause(self, event: Event) -> Event | None:
        """Return what caused ``event``; an effect that stands before its cause has none."""
        at = self.index.get(event.cause) if event.cause is not None else None
        return self.events[at] if at is not None and at < self.index[event.id] else None

    def effects(self, event: Event) -> list[Event]:
        """Return what ``event`` caused directly, in the order of the log."""
        return self._effects.get(event.id, [])

    def causes(self, event: Event) -> Iterator[Event]:
        """Yield the chain of causes, from the nearest to the root."""
        cause = self.cause(event)
        while cause is not None:
            yield cause
            cause = self.cause(cause)

    def nearest(self, event: Event, *kinds: str) -> Event | None:
        """Return the nearest cause of one of ``kinds``."""
        return next((cause for cause in self.causes(event) if cause.kind in kinds), None)
