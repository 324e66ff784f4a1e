"""Traffic over time with what the agents did about it (the dissertation's figure 5.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup
from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import is_alarm
from phalanx.reporting.explanation import summed_up
from phalanx.reporting.log import Lifetimes, Log, predicate_of, text
from phalanx.reporting.svg import (
    LinearScale,
    axis_clock,
    clock,
    element,
    figure,
    group,
    line_path,
    ticks,
    time_ticks,
)
from phalanx.reporting.traffic import HostTraffic, TrafficSample

_MOST_POINTS = 600
_LANE = 22.0
_PLOT = 260.0
_MARK = 8.5
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
    """One host's chart."""

    host: HostTraffic
    drawing: Markup


def traffic_charts(
    log: Log, hosts: Sequence[HostTraffic], measures: Lifetimes
) -> tuple[list[TrafficChart], tuple[Marker, ...]]:
    """Draw one chart for each host, and return the markers that all of them have."""
    x = LinearScale(0.0, max(log.end_s, 1e-3), _LEFT, _RIGHT)
    markers = _markers(log, (_RIGHT - _LEFT) / x.high)
    spans = _spans(measures, log.end_s)
    return [TrafficChart(host, _draw(host, markers, spans, x)) for host in hosts], markers


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


def _draw(
    host: HostTraffic,
    markers: Sequence[Marker],
    spans: Mapping[str, Sequence[tuple[float, float]]],
    x: LinearScale,
) -> Markup:
    samples = _thin(host.samples)
    lanes = [lane for lane in LANES if any(m.lane == lane for m in markers)]
    top = 20.0 + _LANE * len(lanes)
    bottom = top + _PLOT
    most = max((max(s.legitimate + s.malicious, s.wanted) for s in samples), default=0.0)
    most = max(most, host.access_mb_s if host.access_mb_s < 1.6 * most else 0.0, 1e-3) * 1.06
    y = LinearScale(0.0, most, bottom, top + 14)
    body = [
        *_axes(x, y, top, bottom),
        *_areas(samples, x, y),
    ]
    if host.access_mb_s and host.access_mb_s <= most:
        body += _capacity(host.access_mb_s, x, y)
    for row, lane in enumerate(lanes):
        middle = 10.0 + _LANE * (row + 0.5)
        body += _lane(lane, middle, x, spans.get(lane, ()))
        for marker in (m for m in markers if m.lane == lane):
            body.append(_mark(marker, x(marker.time), middle, bottom))
    body.append(element("line", class_="cross", x1=x.start, x2=x.start, y1=10.0, y2=bottom))
    return element(
        "svg",
        *body,
        viewBox=f"0 0 {x.stop + 18:g} {bottom + 40:g}",
        class_="chart",
        role="img",
        aria_label=f"Traffic arriving at {host.host} over time, in MB/s",
        data_t=" ".join(f"{s.time:g}" for s in samples),
        data_v=" ".join(
            f"{figure(s.legitimate)},{figure(s.malicious)},{figure(s.wanted)}".replace("\u2009", "")
            for s in samples
        ),
        data_x=f"{x.start:g} {x.stop:g} {x.high:g}",
    )


def _axes(x: LinearScale, y: LinearScale, top: float, bottom: float) -> Iterable[Markup]:
    for value in ticks(0.0, y.high, 5):
        yield element("line", class_="grid", x1=x.start, x2=x.stop, y1=y(value), y2=y(value))
        yield element("text", figure(value), class_="tick end", x=x.start - 8, y=y(value) + 4)
    yield element("text", "MB/s", class_="tick unit end", x=x.start - 8, y=top + 6)
    for value in time_ticks(x.high, 12):
        yield element("line", class_="tickmark", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 5)
        yield element(
            "text", axis_clock(value, x.high), class_="tick mid", x=x(value), y=bottom + 19
        )
    yield element("line", class_="axis", x1=x.start, x2=x.stop, y1=bottom, y2=bottom)
    yield element("text", "time in the run", class_="tick unit end", x=x.stop, y=bottom + 36)


def _areas(samples: Sequence[TrafficSample], x: LinearScale, y: LinearScale) -> Iterable[Markup]:
    if not samples:
        return

    def edge(height: Callable[[TrafficSample], float]) -> list[tuple[float, float]]:
        return [(x(s.time), y(height(s))) for s in samples]

    zero = [(x(samples[-1].time), y(0)), (x(samples[0].time), y(0))]
    legitimate = edge(lambda s: s.legitimate)
    total = edge(lambda s: s.legitimate + s.malicious)
    yield element("path", class_="area malicious", d=line_path(total + legitimate[::-1]) + "Z")
    yield element("path", class_="area legitimate", d=line_path(legitimate + zero) + "Z")
    yield element("path", class_="edge malicious", d=line_path(total))
    yield element("path", class_="edge legitimate", d=line_path(legitimate))
    yield element("path", class_="edge wanted", d=line_path(edge(lambda s: s.wanted)))


def _capacity(access: float, x: LinearScale, y: LinearScale) -> Iterable[Markup]:
    yield element("line", class_="capacity", x1=x.start, x2=x.stop, y1=y(access), y2=y(access))
    label = f"access link {figure(access)} MB/s"
    yield element("text", label, class_="tick end halo", x=x.stop - 4, y=y(access) - 5)


def _lane(
    lane: str,
    middle: float,
    x: LinearScale,
    spans: Iterable[tuple[float, float]],
) -> Iterable[Markup]:
    yield element("line", class_="lane", x1=x.start, x2=x.stop, y1=middle, y2=middle)
    yield element("text", LANES[lane], class_="lanename end", x=x.start - 14, y=middle + 4)
    for begin, stop in spans:
        yield element(
            "rect",
            class_="span",
            x=x(begin),
            y=middle - 4,
            width=max(2.0, x(stop) - x(begin)),
            height=8,
            rx=4,
        )


def _mark(marker: Marker, x: float, y: float, bottom: float) -> Markup:
    r = _MARK
    flag = [(-r, -r + 1), (r - 2, -r + 1), (r + 3, 0), (r - 2, r - 1), (-r, r - 1)]
    outline = {
        "flag": flag,
        "attack": flag,
        "alarm": [(0, -r - 2.5), (r + 2.5, 0), (0, r + 2.5), (-r - 2.5, 0)],
        "on": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "off": [(-r, -r), (r, -r), (r, r), (-r, r)],
    }.get(marker.shape)
    shape = (
        element("circle", r=r)
        if outline is None
        else element("path", d=line_path([(float(a), float(b)) for a, b in outline]) + "Z")
    )
    words = "; ".join(f"{w} (and {more} more)" if more else w for w, more in marker.words)
    title = f"{marker.number} · {clock(marker.time, exact=True)}: {words}"
    return group(
        [
            element("title", title),
            element("line", class_="drop", x1=0, x2=0, y1=r, y2=bottom - y),
            shape,
            element("text", str(marker.number), y=3.5),
        ],
        class_=f"mark {marker.shape}",
        transform=f"translate({x:.1f} {y:g})",
        data_n=marker.number,
    )
