"""What the agents did, as numbered markers and bars in lanes above the traffic."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe, is_alarm
from phalanx.reporting.log import Log, predicate_of, text

_ABOUT = ("effect", "goal", "group", "belief", "vnf", "pop", "winner", "reason")
_CLUSTER = 15.0
"""Markers of one lane closer than this many pixels share a number."""

LANES = {
    "traffic": "Traffic",
    "alarm": "Alarms",
    "auction": "Auctions",
    "linkRateLimited": "Link limits",
    "ipRateLimited": "Address limits",
    "flowRateLimited": "Flow blocks",
    "handshakesProxied": "Handshakes proxied",
    "splitTrafficLink": "Link splits",
    "splitTrafficTowardsIp": "Address splits",
    "measure": "Measures",
}


class Marker(Struct, frozen=True):
    """One number on the chart: one event, or several of one lane that stand too close."""

    number: int
    lane: str
    shape: str
    """``flag``, ``attack``, ``alarm``, ``award``, ``on`` or ``off``."""
    time: float
    until: float
    words: tuple[tuple[str, int], ...]
    """What happened, and how many more events were like it."""


def alike(event: Event) -> tuple[str, ...]:
    """Return what two events have in common that can be told as one."""
    return (event.kind, *(predicate_of(text(event.data, name)) for name in _ABOUT))


def told(events: Sequence[Event]) -> tuple[tuple[str, int], ...]:
    """Return ``events`` in words, those alike as one with the number of the others.

    Of a traffic group the last stands for all, since its figures include those before.
    """
    groups: dict[tuple[str, ...], list[Event]] = {}
    for event in events:
        groups.setdefault(alike(event), []).append(event)
    return tuple(
        (describe(group[-1]), 0)
        if group[0].kind == "traffic.changed"
        else (describe(group[0]), len(group) - 1)
        for group in groups.values()
    )


def spans_of(log: Log) -> dict[str, list[tuple[float, float]]]:
    """Return for each lane of measures when at least one was in force."""
    held: dict[str, set[str]] = {}
    spans: dict[str, list[tuple[float, float]]] = {}
    begun: dict[str, float] = {}
    for event in log.of("measure.applied", "measure.lifted"):
        place = _lane_of(event)
        if place is None:
            continue
        lane, measures = place[0], held.setdefault(place[0], set())
        if event.kind == "measure.applied":
            begun[lane] = begun[lane] if measures else event.time
            measures.add(text(event.data, "measure"))
        elif text(event.data, "measure") in measures:
            measures.discard(text(event.data, "measure"))
            if not measures:
                spans.setdefault(lane, []).append((begun[lane], event.time))
    for lane, measures in held.items():
        if measures:
            spans.setdefault(lane, []).append((begun[lane], log.end_s))
    return spans


def _lane_of(event: Event) -> tuple[str, str] | None:
    """Return the lane and the shape of an event's marker; None if it has none."""
    if event.kind == "traffic.changed":
        return "traffic", "attack" if event.data.get("malicious") is True else "flag"
    if event.kind == "auction.awarded":
        return "auction", "award"
    if event.kind == "belief.changed":
        return ("alarm", "alarm") if is_alarm(event) else None
    lane = predicate_of(text(event.data, "effect"))
    return lane if lane in LANES else "measure", "on" if event.kind == "measure.applied" else "off"


def markers_of(log: Log, pixels_per_second: float) -> tuple[Marker, ...]:
    """Return the numbered markers in order of time."""
    kinds = ("traffic.changed", "belief.changed", "auction.awarded")
    clusters: list[tuple[str, str, list[Event]]] = []
    open_: dict[str, tuple[str, str, list[Event]]] = {}
    for event in log.of(*kinds, "measure.applied", "measure.lifted"):
        place = _lane_of(event)
        if place is None:
            continue
        lane, shape = place
        near = open_.get(lane)
        since = near[2][-1 if lane == "traffic" else 0].time if near else 0.0
        close = (event.time - since) * pixels_per_second < _CLUSTER
        if near is not None and close and near[1] == shape:
            near[2].append(event)
        else:
            open_[lane] = (lane, shape, [event])
            clusters.append(open_[lane])
    return tuple(
        Marker(
            at,
            lane,
            shape,
            events[0].time,
            events[-1].time,
            told(events),
        )
        for at, (lane, shape, events) in enumerate(clusters, 1)
    )
