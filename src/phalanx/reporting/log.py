"""The event log as the report reads it: by kind, by cause, and with a tolerant eye.

A log may come from an interrupted run, an older version or a function's own kinds. What is
missing or of another type reads as nothing; the report then shows less, but always shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.store.causes import CauseIndex

Data = Mapping[str, Any]
Span = tuple[float, float | None]
"""From when to when something was in place, in seconds; None: to the end of the log."""
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


def whole_word(what: str) -> re.Pattern[str]:
    """Return what finds ``what`` as a name of its own: ``10.2.0.1`` is not in ``10.2.0.12``."""
    dotted = re.fullmatch(r"[\d.]+", what) is not None
    before, after = (r"(?<![\w.])", r"(?!\w|\.\d)") if dotted else (r"(?<!\w)", r"(?!\w)")
    return re.compile(before + re.escape(what) + after, re.IGNORECASE)


class Log(CauseIndex):
    """The events of one run as they come, by kind and by cause."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._kinds: dict[str, list[Event]] = {}
        self.setting: Data = {}
        """Data of the first ``run.started``; empty if the log begins later."""
        self.ending: Data | None = None
        """Data of the last ``run.ended``; None if the run goes on or was broken off."""
        self.end_s = 0.0
        """The latest time in the log, in seconds."""
        super().__init__(events)

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        super().add(event)
        self._kinds.setdefault(event.kind, []).append(event)
        self.end_s = max(self.end_s, finite(event.time))
        if event.kind == "run.started" and len(self._kinds[event.kind]) == 1:
            self.setting = event.data
        elif event.kind == "run.ended":
            self.ending = event.data

    def of(self, *kinds: str) -> list[Event]:
        """Return the events of ``kinds``, in the order of the log."""
        found = [event for kind in kinds for event in self._kinds.get(kind, ())]
        return found if len(kinds) == 1 else sorted(found, key=self.place)

    def nearest(self, event: Event, *kinds: str) -> Event | None:
        """Return the nearest cause of one of ``kinds``."""
        return next((cause for cause in self.causes(event) if cause.kind in kinds), None)


class Lifetime(Struct):
    """Something that one event began and another ended."""

    begun: Event
    ended: Event | None = None
    """None while it lasts."""

    @property
    def span(self) -> Span:
        """From when to when it lasted."""
        return self.begun.time, None if self.ended is None else self.ended.time


class Lifetimes:
    """Everything that begins with one kind of event and ends with another, as events come in.

    Args:
        begin: kind of event that begins it, such as ``measure.applied``.
        end: kind of event that ends it.
        name: field in which both name it.

    """

    def __init__(self, begin: str, end: str, name: str) -> None:
        self._kinds = begin, end
        self._name = name
        self._lasting: dict[str, list[Lifetime]] = {}
        self.all: list[Lifetime] = []
        """In the order in which they began."""

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        if event.kind not in self._kinds:
            return
        name = text(event.data, self._name)
        if event.kind == self._kinds[0]:
            self.all.append(Lifetime(event))
            self._lasting.setdefault(name, []).append(self.all[-1])
        else:
            for lifetime in self._lasting.pop(name, ()):
                lifetime.ended = event
