"""Traffic over time with what the agents did about it (the dissertation's figure 5.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import is_alarm
from phalanx.reporting.explanation import summed_up
from phalanx.reporting.log import Lifetimes, Log, predicate_of, text
from phalanx.reporting.svg import LinearScale, Point, ticks
from phalanx.reporting.traffic import HostTraffic, TrafficSample

_MOST_POINTS = 600
_LANE = 22.0
_PLOT = 260.0
_LEFT, _RIGHT = 112.0, 1102.0
_CLUSTER = 15.0
"""Markers of one lane closer than this many pixels share a number."""

LANES = {
    "traffic": "Traffic",
    "alarm": "Alarms",
    "auction": "Auctions",
    "linkRateLimited": "Link limits",
    "ipRateLimited": "Address limits",
    "flowRateLimited": "Flow blocks",
    "attackFiltered": "Filters at entries",
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


class TrafficChart(Struct, frozen=True):
    """One host's chart, in pixels by its two scales."""

    host: HostTraffic
    samples: tuple[TrafficSample, ...]
    x: LinearScale
    y: LinearScale
    ticks: tuple[float, ...]
    lines: tuple[tuple[str, list[Point]], ...]
    """Areas and edges, by class."""
    lanes: tuple[tuple[str, Sequence[tuple[float, float]], list[Marker]], ...]
    """Name, spans of time and markers of each lane."""


def traffic_charts(
    log: Log, hosts: Sequence[HostTraffic], measures: Lifetimes
) -> tuple[list[TrafficChart], tuple[Marker, ...]]:
    """Return one chart for each host, and the markers that all of them have."""
    x = LinearScale(0.0, max(log.end_s, 1e-3), _LEFT, _RIGHT)
    markers = _markers(log, (_RIGHT - _LEFT) / x.high)
    spans = _spans(measures, log.end_s)
    used = [lane for lane in LANES if any(marker.lane == lane for marker in markers)]
    lanes = tuple(
        (LANES[lane], spans.get(lane, ()), [m for m in markers if m.lane == lane]) for lane in used
    )
    return [_chart(host, x, lanes) for host in hosts], markers


def _chart(
    host: HostTraffic,
    x: LinearScale,
    lanes: tuple[tuple[str, Sequence[tuple[float, float]], list[Marker]], ...],
) -> TrafficChart:
    samples = _thin(host.samples)
    # What users get may come over the link's other direction, so nothing is stacked.
    most = max((max(s.legitimate, s.malicious, s.wanted) for s in samples), default=0.0)
    most = max(most, host.access_mb_s if host.access_mb_s < 1.6 * most else 0.0, 1e-3) * 1.06
    top = 20.0 + _LANE * len(lanes)
    y = LinearScale(0.0, most, top + _PLOT, top + 14.0)

    def edge(height: Callable[[TrafficSample], float]) -> list[Point]:
        return [(x(s.time), y(height(s))) for s in samples]

    legitimate, wanted = edge(lambda s: s.legitimate), edge(lambda s: s.wanted)
    malicious = edge(lambda s: s.malicious)
    ground = [(x(s.time), y.start) for s in (samples[-1:] + samples[:1])]
    lines = (
        ("area malicious", malicious + ground),
        ("area legitimate", legitimate + ground),
        ("edge malicious", malicious),
        ("edge legitimate", legitimate),
        ("edge wanted", wanted),
    )
    shown = lines if samples else ()
    return TrafficChart(host, tuple(samples), x, y, tuple(ticks(0.0, most, 5)), shown, lanes)


def _spans(measures: Lifetimes, end_s: float) -> dict[str, list[tuple[float, float]]]:
    """Return for each lane of measures when at least one was in force."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for lifetime in measures.all:
        lane = _lane_of(lifetime.begun)
        begun, ended = lifetime.span
        ended = end_s if ended is None else ended
        held = spans.setdefault(lane[0], []) if lane else []
        if held and begun <= held[-1][1]:
            begun, before = held.pop()
            ended = max(before, ended)
        held.append((begun, ended))
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


def _markers(log: Log, pixels_per_second: float) -> tuple[Marker, ...]:
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
        Marker(at, lane, shape, events[0].time, events[-1].time, summed_up(events))
        for at, (lane, shape, events) in enumerate(clusters, 1)
    )


def _thin(samples: Sequence[TrafficSample]) -> list[TrafficSample]:
    """Keep at most ``_MOST_POINTS`` samples: of each stretch the one with the most traffic."""
    stretch = -(-len(samples) // _MOST_POINTS)
    return [
        max(samples[at : at + stretch], key=lambda s: (s.legitimate + s.malicious, -s.time))
        for at in range(0, len(samples), stretch or 1)
    ]
