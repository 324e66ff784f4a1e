"""Answers to why something happened, from the log of causes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.reporting.event_text import IMPORTANT, describe, is_alarm

_TELLING = (
    "measure.applied",
    "auction.awarded",
    "auction.failed",
    "instance.started",
    "measure.lifted",
    "goal.ended",
)
"""Of several events that match a fragment, one of these kinds is explained, if there is one."""
_NOT_LAST = {"network.sample", "resources.changed", "run.ended"}


class Line(Struct, frozen=True):
    """One event of an explanation; where it has branches, ``depth`` of them down."""

    depth: int
    event: Event


class Explanation(Struct, frozen=True):
    """The answer: causes before effects."""

    title: str
    lines: tuple[Line, ...]
    others: tuple[str, ...] = ()
    """Ids of events that match as well, latest first."""


def explain(events: Sequence[Event], what: str) -> Explanation:
    """Explain ``what``: an event's id, ``last``, ``attack``, or a fragment of an event's words.

    ``attack`` gives what the first malicious traffic, or else the first alarm, led to; all
    others give the chain of causes from the root to the event.

    Raises:
        LogError: if nothing in the log matches.

    """
    by_id = {event.id: event for event in events}
    if what in by_id:
        return _chain(by_id, by_id[what], ())
    if what == "attack":
        return _attack(events)
    if what == "last":
        chosen = [event for event in events if event.kind not in _NOT_LAST][-1:]
        if not chosen:
            raise LogError("the log has no event to explain")
        return _chain(by_id, chosen[0], ())
    matches = [event for event in events if _matches(event, what.casefold())]
    if not matches:
        raise LogError(
            f"no event matches {what!r}; give an event's id, 'last', 'attack', or a part of a "
            "goal, measure, instance, agent or auction"
        )
    for kind in _TELLING:
        telling = [event for event in matches if event.kind == kind]
        if telling:
            break
    else:
        telling = matches
    chosen_one = telling[-1]
    others = tuple(event.id for event in reversed(matches) if event is not chosen_one)
    return _chain(by_id, chosen_one, others)


def _matches(event: Event, fragment: str) -> bool:
    if event.kind in _NOT_LAST:
        return False
    return fragment in event.agent.casefold() or _holds(event.data, fragment)


def _holds(value: Any, fragment: str) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, fragment) for item in value.values())
    if isinstance(value, list):
        return any(_holds(item, fragment) for item in value)
    return isinstance(value, str) and fragment in value.casefold()


def _chain(by_id: dict[str, Event], last: Event, others: tuple[str, ...]) -> Explanation:
    chain = {last.id: last}
    event = last
    while event.cause is not None and event.cause in by_id and event.cause not in chain:
        event = by_id[event.cause]
        chain[event.id] = event
    lines = tuple(Line(0, event) for event in reversed(chain.values()))
    return Explanation(f"Why {last.id}: {describe(last)}", lines, others)


def _attack(events: Sequence[Event]) -> Explanation:
    effects: dict[str, list[Event]] = {}
    for event in events:
        if event.cause is not None:
            effects.setdefault(event.cause, []).append(event)
    starts = [e for e in events if e.kind == "traffic.changed" and e.data.get("malicious")]
    alarms = [event for event in events if is_alarm(event)]
    roots = [event for event in (*starts, *alarms) if event.id in effects] or starts or alarms
    if not roots:
        raise LogError("the log tells of no attack and no alarm")
    lines: list[Line] = []
    waiting = [Line(0, roots[0])]
    while waiting:
        line = waiting.pop()
        shown = line.depth == 0 or line.event.kind in IMPORTANT or line.event.kind == "goal.adopted"
        if shown:
            lines.append(line)
        below = line.depth + shown
        waiting += [Line(below, event) for event in reversed(effects.get(line.event.id, []))]
    return Explanation(f"What came of {roots[0].id}: {describe(roots[0])}", tuple(lines))
