"""The lines of the map: links by capacity and load, capacities in figures, chains as curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup
from msgspec import Struct

from phalanx.reporting.log import Log, finite, number, rows, table, text
from phalanx.reporting.map_cards import on_at
from phalanx.reporting.map_room import Box, Room
from phalanx.reporting.placement import Chain
from phalanx.reporting.svg import Point, Scale, element, figure, group

_FRAMES = 120
_APART = 6.5
"""Pixels between chains along one link; less where more than a few would spread too far."""
_CROWDED = 2.0
"""A capacity is left out where more of it than a fifth would cover something."""
_WIDEST = 20.0
"""Pixels that the chains of one link take on each side of it."""


class LinkView(Struct, frozen=True):
    """A link of the network and how full it was, in percent of its capacity, per frame."""

    a: str
    b: str
    bandwidth_mb_s: float
    latency_ms: float
    loss: float
    load: tuple[int, ...]


def links_of(log: Log, pops: set[str]) -> tuple[tuple[float, ...], list[LinkView]]:
    """Return the times of the frames, and the links between ``pops`` with their load in each."""
    samples = log.of("network.sample")
    stretch = max(1, -(-len(samples) // _FRAMES))
    chosen = [samples[at : at + stretch] for at in range(0, len(samples), stretch)]
    loads: dict[tuple[str, str], list[float]] = {}
    for frame, events in enumerate(chosen):
        for event in events:
            for name, figures in table(event.data, "links").items():
                if not isinstance(figures, dict) or number(figures, "bandwidth_mb_s") <= 0:
                    continue
                source, _, target = name.partition(">")
                pair = (source, target) if source <= target else (target, source)
                load = loads.setdefault(pair, [0.0] * len(chosen))
                share = number(figures, "mb_s") / number(figures, "bandwidth_mb_s")
                load[frame] = max(load[frame], min(share, 9.0))
    links = []
    for row in rows(log.setting, "links"):
        a, b = text(row, "a"), text(row, "b")
        if a in pops and b in pops:
            load = loads.get((a, b) if a <= b else (b, a), [])
            links.append(
                LinkView(
                    a,
                    b,
                    number(row, "bandwidth_mb_s"),
                    number(row, "latency_ms"),
                    number(row, "loss"),
                    tuple(round(100 * share) for share in load),
                )
            )
    return tuple(finite(events[0].time) for events in chosen), links


def _load_class(percent: int) -> str:
    """Return the class that colours a link which is ``percent`` full."""
    return f"load{min(4, percent // 20) if percent > 0 else 0}"


def link_lines(links: Sequence[LinkView], places: Mapping[str, Point]) -> Iterable[Markup]:
    """Yield a line for each link, as thick as it is wide, coloured by its highest load."""
    most = max((link.bandwidth_mb_s for link in links), default=1.0)
    thick = Scale(0.0, math.sqrt(most) or 1.0, 1.2, 7.0 if len(places) <= 16 else 3.5)
    for link in links:
        peak = max(link.load, default=0)
        (x1, y1), (x2, y2) = places[link.a], places[link.b]
        title = (
            f"{link.a} – {link.b}: {figure(link.bandwidth_mb_s)} MB/s, "
            f"{figure(link.latency_ms)} ms, loss {figure(100 * link.loss)} %; "
            f"at most {peak} % full"
        )
        yield element(
            "line",
            element("title", title),
            class_=f"link {_load_class(peak)}",
            x1=x1,
            y1=y1,
            x2=x2,
            y2=y2,
            stroke_width=thick(math.sqrt(max(link.bandwidth_mb_s, 0.0))),
            data_load=" ".join(map(str, link.load)) if link.load else None,
        )


def capacities(
    links: Sequence[LinkView],
    places: Mapping[str, Point],
    chains: Sequence[Chain],
    room: Room,
) -> Iterable[Markup]:
    """Yield the capacity of each link as a text beside it, clear of chains and cards.

    Where there is no room there is none: pointing at the link shows it.
    """
    crowd = _crowd(chains, places)
    for link in links:
        a, b = places[link.a], places[link.b]
        words = f"{figure(link.bandwidth_mb_s)} MB/s · {figure(link.latency_ms)} ms"
        width, length = 5.9 * len(words), math.dist(a, b) or 1.0
        across = (abs(b[1] - a[1]) * width + abs(b[0] - a[0]) * 12.0) / (2 * length)
        aside = (crowd[frozenset((link.a, link.b))] + 1) // 2
        shift = across + 6.0 + min(_APART * aside, _WIDEST)
        spots = [_beside(a, b, f, s) for f in (0.5, 0.4, 0.6, 0.3, 0.7) for s in (shift, -shift)]
        box = min((Box(x, y, width, 13.0) for x, y in spots), key=room.covered)
        if room.covered(box) > _CROWDED * width * 13.0:
            continue
        room.take(box)
        yield element("text", words, class_="capacity halo", x=box.x, y=box.y + 4)


def chain_lines(
    chains: Sequence[Chain], places: Mapping[str, Point], colours: Mapping[str, int]
) -> Iterable[Markup]:
    """Yield a curve for each chain along its links, and the numbers of its auctions on it."""
    used: dict[tuple[str, str], int] = {}
    crowd = _crowd(chains, places)
    bubbles: list[Markup] = []
    for chain in chains:
        path = [pop for pop in chain.path if pop in places]
        if len(path) < 2:
            continue
        points: list[Point] = [places[path[0]]]
        bubble: Point | None = None
        for a, b in pairwise(path):
            pair = (a, b) if a <= b else (b, a)
            slot = used[pair] = used.get(pair, 0) + 1
            apart = min(_APART, _WIDEST / ((crowd[frozenset(pair)] + 1) // 2))
            shift = apart * (-(slot // 2) if slot % 2 == 0 else (slot + 1) // 2)
            inner = [_beside(places[pair[0]], places[pair[1]], f, shift) for f in (0.25, 0.5, 0.75)]
            points += [*(inner if pair == (a, b) else inner[::-1]), places[b]]
            along = (0.62, 0.38, 0.74, 0.26)[(slot - 1) % 4]
            bubble = bubble or _beside(places[pair[0]], places[pair[1]], along, shift)
        colour, spans = colours.get(chain.vnf, 0), on_at(chain.spans)
        label = _ranges(chain.auctions)
        title = (
            f"{chain.purpose} {' – '.join(chain.path)} for {chain.instance}, "
            f"{figure(chain.mb_s)} MB/s" + (f"; auction {label}" if label else "")
        )
        yield element(
            "path",
            element("title", title),
            class_=f"chain {chain.purpose} f{colour}",
            d=_curve(points),
            data_on=spans,
        )
        if label and bubble:
            reach = 3.2 * len(label) + 5.0
            bubbles.append(
                group(
                    [
                        element("rect", x=-reach, y=-8, width=2 * reach, height=16, rx=8),
                        element("text", label, y=3.5),
                    ],
                    class_=f"bubble f{colour}",
                    transform=f"translate({bubble[0]:.1f} {bubble[1]:.1f})",
                    data_on=spans,
                )
            )
    yield from bubbles


def _crowd(chains: Sequence[Chain], places: Mapping[str, Point]) -> Counter[frozenset[str]]:
    """Return how often chains run along each pair of PoPs."""
    paths = ([pop for pop in chain.path if pop in places] for chain in chains)
    return Counter(frozenset(hop) for path in paths for hop in pairwise(path))


def _beside(a: Point, b: Point, along: float, shift: float) -> Point:
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = math.hypot(dx, dy) or 1.0
    return a[0] + along * dx - shift * dy / length, a[1] + along * dy + shift * dx / length


def _curve(points: Sequence[Point]) -> str:
    """Return a smooth curve through ``points`` (Catmull and Rom, as cubic pieces)."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    padded = [points[0], *points, points[-1]]
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        c1 = (p1[0] + (p2[0] - p0[0]) / 6, p1[1] + (p2[1] - p0[1]) / 6)
        c2 = (p2[0] - (p3[0] - p1[0]) / 6, p2[1] - (p3[1] - p1[1]) / 6)
        path += "C" + " ".join(f"{x:.1f} {y:.1f}" for x, y in (c1, c2, p2))
    return path


def _ranges(numbers: Sequence[int]) -> str:
    """Return ``3, 7–14`` for sorted numbers."""
    runs: list[list[int]] = []
    for value in numbers:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
