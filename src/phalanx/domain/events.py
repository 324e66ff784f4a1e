"""The log of causes: everything that happens is an event that names its cause."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from msgspec import Struct


class Event(Struct, frozen=True):
    """Something that happened."""

    id: str
    """Unique in the run: who recorded it, and a count."""
    time: float
    """Seconds since the start of the run."""
    agent: str
    """Who recorded it: a PoP's agent, or ``network`` or ``run`` for what agents cannot see."""
    kind: str
    """One of ``docs/reference/events.md``, or a function's own."""
    cause: str | None
    """Id of the event that caused it; None for ``run.started`` alone."""
    data: dict[str, Any]
    """What there is to say, in JSON types, quantities with their unit in the name."""


Sink = Callable[[Event], None]


class Recorder:
    """Gives events their ids and times, and hands them on."""

    __slots__ = ("_count", "_now", "_sink", "agent", "prefix")

    def __init__(self, agent: str, sink: Sink, now: Callable[[], float], prefix: str = "") -> None:
        self.agent = agent
        self.prefix = prefix or agent
        self._sink = sink
        self._now = now
        self._count = 0

    def record(self, kind: str, cause: str | None, /, **data: Any) -> str:
        """Record an event now and return its id."""
        self._count += 1
        event_id = f"{self.prefix}-{self._count}"
        self._sink(Event(event_id, self._now(), self.agent, kind, cause, data))
        return event_id

    def part(self, name: str) -> Recorder:
        """Return a recorder of the same agent that counts by itself."""
        return Recorder(self.agent, self._sink, self._now, f"{self.prefix}.{name}")


_LIFE = re.compile(r"(.+?)\.(\d+)(?:\.0)?")
"""Who recorded an event: an agent in one of its lives, or the process of that."""


def numbered(event_id: str) -> tuple[str, int]:
    """Return who recorded an event, and its number there; number 0 if the id has none."""
    prefix, _, number = event_id.rpartition("-")
    return (prefix, int(number)) if number.isdecimal() else (event_id, 0)


def in_causal_order(events: Iterable[Event]) -> list[Event]:
    """Return events as they stand, but each after its cause and what its recorder said before.

    A log that was merged from several processes has the events of each in the order in which they
    arrived, or by clocks that differ. What an agent says in one life comes after the life before.
    """
    known: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        known[event.id].append(event)
    before: dict[str, list[str]] = defaultdict(list)
    said: dict[str, list[str]] = defaultdict(list)
    for event_id in sorted(known, key=numbered):
        of = said[numbered(event_id)[0]]
        before[event_id] = of[-1:]
        of.append(event_id)
    lives: dict[str, dict[int, list[list[str]]]] = defaultdict(lambda: defaultdict(list))
    for recorder, of in said.items():
        if (life := _LIFE.fullmatch(recorder)) is not None:
            lives[life[1]][int(life[2])].append(of)
    for by_number in lives.values():
        for earlier, later in pairwise(sorted(by_number)):
            for of in by_number[later]:
                before[of[0]] += [each[-1] for each in by_number[earlier]]
    ordered: dict[str, None] = {}
    for event_id in known:
        line = {event_id: None}  # each waits for the next
        while line:
            at = next(reversed(line))
            for needed in (known[at][0].cause, *before[at]):
                if needed in known and needed not in ordered and needed not in line:
                    line[needed] = None
                    break
            else:
                del line[at]
                ordered[at] = None
    return [event for event_id in ordered for event in known[event_id]]
