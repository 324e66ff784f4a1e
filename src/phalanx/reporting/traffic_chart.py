"""Traffic over time with what the agents did about it (the dissertation's figure 5.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup
from msgspec import Struct

from phalanx.reporting.log import Log
from phalanx.reporting.markers import LANES, Marker, markers_of, spans_of
from phalanx.reporting.outcome import HostTraffic, Sample
from phalanx.reporting.svg import (
    Scale,
    axis_clock,
    clock,
    element,
    figure,
    group,
    line_path,
    ticks,
    time_ticks,
)

_MOST_POINTS = 600
_LANE = 22.0
_PLOT = 260.0
_MARK = 8.5


class View(Struct, frozen=True):
    """A drawing for one width of page; its legend numbers the markers that it has room for."""

    size: str
    """``wide`` or ``narrow``."""
    drawing: Markup
    markers: tuple[Marker, ...]


class Chart(Struct, frozen=True):
    """One host's chart in both widths."""

    host: HostTraffic
    views: tuple[View, ...]


def charts(log: Log, hosts: Sequence[HostTraffic]) -> list[Chart]:
    """Draw one chart for each host."""
    end, spans = max(log.end_s, 1e-3), spans_of(log)
    sizes = []
    for size, width, left in (("wide", 1120.0, 112.0), ("narrow", 440.0, 44.0)):
        x = Scale(0.0, end, left, width - 18.0)
        sizes.append((size, x, markers_of(log, (x.stop - x.start) / end)))
    return [
        Chart(
            host,
            tuple(
                View(size, _draw(host, markers, spans, x, narrow=size == "narrow"), markers)
                for size, x, markers in sizes
            ),
        )
        for host in hosts
    ]


def _thin(samples: Sequence[Sample]) -> list[Sample]:
    """Keep at most ``_MOST_POINTS`` samples: of each stretch the one with the most traffic."""
    stretch = -(-len(samples) // _MOST_POINTS)
    return [
        max(samples[at : at + stretch], key=lambda s: (s.legitimate + s.malicious, -s.time))
        for at in range(0, len(samples), stretch or 1)
    ]


def _draw(
    host: HostTraffic,
    markers: Sequence[Marker],
    spans: dict[str, list[tuple[float, float]]],
    x: Scale,
    *,
    narrow: bool,
) -> Markup:
    samples = _thin(host.samples)
    lanes = [lane for lane in LANES if any(m.lane == lane for m in markers)]
    lane_height = _LANE + (14.0 if narrow else 0.0)
    top = 20.0 + lane_height * len(lanes)
    bottom = top + _PLOT
    most = max((max(s.legitimate + s.malicious, s.wanted) for s in samples), default=0.0)
    most = max(most, host.access_mb_s if host.access_mb_s < 1.6 * most else 0.0, 1e-3) * 1.06
    y = Scale(0.0, most, bottom, top + 14)
    body = [
        *_axes(x, y, narrow=narrow, top=top, bottom=bottom),
        *_areas(samples, x, y),
    ]
    if host.access_mb_s and host.access_mb_s <= most:
        body += _capacity(host.access_mb_s, x, y)
    for row, lane in enumerate(lanes):
        middle = 10.0 + lane_height * row + lane_height - _LANE / 2
        body += _lane(lane, middle, x, spans.get(lane, ()), narrow=narrow)
        for marker in (m for m in markers if m.lane == lane):
            body.append(_mark(marker, x(marker.time), middle, bottom))
    body.append(element("line", class_="cross", x1=x.start, x2=x.start, y1=10.0, y2=bottom))
    return element(
        "svg",
        *body,
        viewBox=f"0 0 {x.stop + 18:g} {bottom + 40:g}",
        class_="chart " + ("narrow" if narrow else "wide"),
        role="img",
        aria_label=f"Traffic arriving at {host.host} over time, in MB/s",
        data_t=" ".join(f"{s.time:g}" for s in samples),
        data_v=" ".join(
            f"{figure(s.legitimate)},{figure(s.malicious)},{figure(s.wanted)}".replace("\u2009", "")
            for s in samples
        ),
        data_x=f"{x.start:g} {x.stop:g} {x.high:g}",
    )


def _axes(x: Scale, y: Scale, *, narrow: bool, top: float, bottom: float) -> Iterable[Markup]:
    for value in ticks(0.0, y.high, 5):
        yield element("line", class_="grid", x1=x.start, x2=x.stop, y1=y(value), y2=y(value))
        yield element("text", figure(value), class_="tick end", x=x.start - 8, y=y(value) + 4)
    yield element("text", "MB/s", class_="tick unit end", x=x.start - 8, y=top + 6)
    for value in time_ticks(x.high, 5 if narrow else 12):
        yield element("line", class_="tickmark", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 5)
        yield element(
            "text", axis_clock(value, x.high), class_="tick mid", x=x(value), y=bottom + 19
        )
    yield element("line", class_="axis", x1=x.start, x2=x.stop, y1=bottom, y2=bottom)
    if not narrow:
        yield element("text", "time in the run", class_="tick unit end", x=x.stop, y=bottom + 36)


def _areas(samples: Sequence[Sample], x: Scale, y: Scale) -> Iterable[Markup]:
    if not samples:
        return

    def edge(height: Callable[[Sample], float]) -> list[tuple[float, float]]:
        return [(x(s.time), y(height(s))) for s in samples]

    zero = [(x(samples[-1].time), y(0)), (x(samples[0].time), y(0))]
    legitimate = edge(lambda s: s.legitimate)
    total = edge(lambda s: s.legitimate + s.malicious)
    yield element("path", class_="area malicious", d=line_path(total + legitimate[::-1]) + "Z")
    yield element("path", class_="area legitimate", d=line_path(legitimate + zero) + "Z")
    yield element("path", class_="edge malicious", d=line_path(total))
    yield element("path", class_="edge legitimate", d=line_path(legitimate))
    yield element("path", class_="edge wanted", d=line_path(edge(lambda s: s.wanted)))


def _capacity(access: float, x: Scale, y: Scale) -> Iterable[Markup]:
    yield element("line", class_="capacity", x1=x.start, x2=x.stop, y1=y(access), y2=y(access))
    label = f"access link {figure(access)} MB/s"
    yield element("text", label, class_="tick end halo", x=x.stop - 4, y=y(access) - 5)


def _lane(
    lane: str,
    middle: float,
    x: Scale,
    spans: Iterable[tuple[float, float]],
    *,
    narrow: bool,
) -> Iterable[Markup]:
    left = x.start
    yield element("line", class_="lane", x1=left, x2=x.stop, y1=middle, y2=middle)
    label = {"x": left, "y": middle - 12} if narrow else {"x": left - 14, "y": middle + 4}
    kind = "lanename" if narrow else "lanename end"
    yield element("text", LANES[lane], class_=kind, **label)
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
