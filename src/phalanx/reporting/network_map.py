"""The map: PoPs, links, instances, chains, hosts and sources (the dissertation's figure 5.3)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from phalanx.reporting.auctions import Placed, PlacedChain, PlacedInstance
from phalanx.reporting.log import Log, Span, finite, names, number, rows, table, text
from phalanx.reporting.map_layout import Box, Room, positions
from phalanx.reporting.svg import LinearScale, Point, counted, figure

_WIDTH, _HEIGHT = 1120.0, 620.0
_FEW = 16
"""Up to so many PoPs each is drawn as a card; above, as dots with cards where there is news."""
_SQUARE = 24.0
_ROW = 4
_MOST_SQUARES = 12
_LINE = 14.0
_FRAMES = 120
_APART = 6.5
"""Pixels between chains along one link; less where more than a few would spread too far."""
_COVERED = 2.0
"""A capacity is left out where more of it than a fifth would cover something."""
_WIDEST = 20.0
"""Pixels that the chains of one link take on each side of it."""


class NetworkMap(Struct, frozen=True):
    """What the map shows, and where, in pixels."""

    height: float
    frames: tuple[float, ...]
    """Times at which links have a load, in seconds."""
    colours: dict[str, int]
    """Number of the colour of each VNF."""
    links: list[DrawnLink]
    chains: list[DrawnChain]
    capacities: list[tuple[str, Box]]
    cards: list[tuple[Card, Box]]
    dots: list[tuple[Card, Point, Box | None]]
    """PoPs without a card, or with one beside them, and the place of their name, if any."""
    leaders: list[tuple[Point, Box]]
    unlabelled: int
    """PoPs whose name has no room (it shows when pointed at)."""


def map_of(log: Log, placed: Placed) -> NetworkMap | None:
    """Return the map; None if the log does not tell of any PoP."""
    pops = [text(row, "name") for row in rows(log.setting, "pops")]
    pops = list(dict.fromkeys(pop for pop in pops if pop))
    if not pops:
        return None
    vnfs = [text(row, "name") for row in rows(log.setting, "functions")]
    vnfs = list(dict.fromkeys([*vnfs, *(instance.vnf for instance in placed.instances)]))
    known = {
        text(row, "name"): (number(row, "x"), number(row, "y"))
        for row in rows(log.setting, "pops")
        if isinstance(row.get("x"), int | float) and isinstance(row.get("y"), int | float)
    }
    ends = [(text(row, "a"), text(row, "b")) for row in rows(log.setting, "links")]
    ends = [(a, b) for a, b in ends if a in pops and b in pops]
    tall = _HEIGHT * (1.25 if len(pops) > 60 else 1.0)
    small = len(pops) <= _FEW
    side, end, apart = (78.0, 62.0, 150.0) if small else (30.0, 24.0, 30.0)
    box = (side, end, _WIDTH - side, tall - end)
    places = positions(pops, ends, known, box, apart)
    frames, links = _links(log, places)
    room = Room(_WIDTH, tall, () if small else places.values())
    cards = _cards(log, pops, placed)
    capacities: list[tuple[str, Box]] = []
    dots: list[tuple[Card, Point, Box | None]] = []
    if small:
        boxes = [(c, room.take(Box(*places[c.pop], c.width, c.height))) for c in cards]
        capacities = _capacities(links, places, placed.chains, room)
    else:
        news = sorted((card for card in cards if card.news), key=lambda card: -card.height)
        boxes = [(c, room.near(places[c.pop], c.width, c.height)) for c in news]
        degree = Counter(pop for pair in ends for pop in pair)
        for card in sorted(cards, key=lambda card: -degree[card.pop]):
            width = 5.8 * len(card.pop) + 4.0
            label = None if card.news else room.label(places[card.pop], width, 11.0)
            dots.append((card, places[card.pop], label))
    return NetworkMap(
        height=tall,
        frames=frames,
        colours={vnf: at % 8 for at, vnf in enumerate(vnfs)},
        links=links,
        chains=_chains(placed.chains, places),
        capacities=capacities,
        cards=boxes,
        dots=dots,
        leaders=[] if small else [(places[card.pop], box) for card, box in boxes],
        unlabelled=sum(not card.news and label is None for card, _, label in dots),
    )


class CardLine(Struct, frozen=True):
    """A line of a card; ``steps`` are the times at which its number changes."""

    words: str
    kind: str = ""
    steps: tuple[tuple[float, int], ...] = ()


class Card(Struct, frozen=True):
    """What is to be said of one PoP."""

    pop: str
    lines: tuple[CardLine, ...]
    squares: tuple[PlacedInstance, ...]

    @property
    def news(self) -> bool:
        """Whether it stays a card where others are dots."""
        return bool(self.squares or any(line.kind != "user" for line in self.lines))

    @property
    def width(self) -> float:
        """Width in pixels."""
        across = min(_ROW, len(self.squares)) * (_SQUARE + 4) + 12
        longest = max(8.0 * len(self.pop), *(6.7 * len(line.words) for line in self.lines), 0.0)
        return max(80.0, across, 18.0 + longest)

    @property
    def height(self) -> float:
        """Height in pixels."""
        high = -(-min(len(self.squares), _MOST_SQUARES) // _ROW)
        return 25.0 + _LINE * len(self.lines) + (_SQUARE + 4) * high + (4 if high else 0)


def _cards(log: Log, pops: Sequence[str], placed: Placed) -> list[Card]:
    """Return a card for every PoP."""
    sources = _sources(log)
    hosts: dict[str, list[str]] = {}
    for row in rows(log.setting, "hosts"):
        words = f"{text(row, 'name')} · {figure(number(row, 'bandwidth_mb_s'))} MB/s"
        hosts.setdefault(text(row, "at"), []).append(words)
    repository = text(log.setting, "repository")
    cards = []
    for pop in pops:
        lines = [CardLine(words, "host") for words in hosts.get(pop, ())]
        if pop == repository:
            lines.append(CardLine("VNF repository", "repository"))
        for malicious, word in ((False, "user"), (True, "attacker")):
            lines += _counted(sources.get((pop, malicious), []), word)
        measures = [measure for measure in placed.measures if measure.pop == pop]
        changes = [(m.span[0], 1) for m in measures]
        changes += [(m.span[1], -1) for m in measures if m.span[1] is not None]
        lines += _counted(changes, "measure")
        squares = tuple(instance for instance in placed.instances if instance.pop == pop)
        cards.append(Card(pop, tuple(lines), squares))
    return cards


def _sources(log: Log) -> dict[tuple[str, bool], list[tuple[float, int]]]:
    """Return, per PoP and whether malicious, how the number of active sources changes."""
    changes: dict[tuple[str, bool], list[tuple[float, int]]] = {}
    for row in rows(log.setting, "sources"):
        pops = names(row, "at")
        count, malicious = int(number(row, "count", 1)), row.get("malicious") is True
        for place, pop in enumerate(pops):
            here = count // len(pops) + (place < count % len(pops))
            events = changes.setdefault((pop, malicious), [])
            events.append((number(row, "start_s"), here))
            if row.get("end_s") is not None:
                events.append((number(row, "end_s"), -here))
    return changes


def _counted(changes: Iterable[tuple[float, int]], word: str) -> list[CardLine]:
    """Return a line with the most that there were at a time; none if there never were any."""
    steps: dict[float, int] = {}
    total = 0
    for time, change in sorted(changes):
        total += change
        steps[time] = total
    most = max(steps.values(), default=0)
    return [CardLine(counted(most, word), word, tuple(steps.items()))] if most else []


def on_at(spans: Iterable[Span]) -> str:
    """Return spans as the page's script reads them: ``45:490 500:``."""
    return " ".join(f"{a:g}:{'' if b is None else f'{b:g}'}" for a, b in spans)


class DrawnLink(Struct, frozen=True):
    """A link of the network and how full it was, in percent of its capacity, per frame."""

    a: str
    b: str
    bandwidth_mb_s: float
    latency_ms: float
    loss: float
    load: tuple[int, ...]
    ends: tuple[Point, Point]
    thick: float


def _links(log: Log, places: Mapping[str, Point]) -> tuple[tuple[float, ...], list[DrawnLink]]:
    """Return the times of the frames, and the links between PoPs with their load in each."""
    samples = log.of("network.sample")
    stretch = max(1, -(-len(samples) // _FRAMES))
    chosen = [samples[at : at + stretch] for at in range(0, len(samples), stretch)]
    loads: dict[frozenset[str], list[float]] = {}
    for frame, events in enumerate(chosen):
        for event in events:
            for name, figures in table(event.data, "links").items():
                if not isinstance(figures, dict) or number(figures, "bandwidth_mb_s") <= 0:
                    continue
                load = loads.setdefault(frozenset(name.split(">")), [0.0] * len(chosen))
                share = number(figures, "mb_s") / number(figures, "bandwidth_mb_s")
                load[frame] = max(load[frame], min(max(share, 0.0), 9.0))
    drawn = [
        row
        for row in rows(log.setting, "links")
        if {text(row, "a"), text(row, "b")} <= places.keys()
    ]
    most = max((number(row, "bandwidth_mb_s") for row in drawn), default=1.0)
    thick = LinearScale(
        0.0, math.sqrt(max(most, 0.0)) or 1.0, 1.2, 7.0 if len(places) <= _FEW else 3.5
    )
    links = []
    for row in drawn:
        a, b, bandwidth = text(row, "a"), text(row, "b"), number(row, "bandwidth_mb_s")
        load = loads.get(frozenset((a, b)), [])
        links.append(
            DrawnLink(
                a,
                b,
                bandwidth,
                number(row, "latency_ms"),
                number(row, "loss"),
                tuple(round(100 * share) for share in load),
                (places[a], places[b]),
                thick(math.sqrt(max(bandwidth, 0.0))),
            )
        )
    return tuple(finite(events[0].time) for events in chosen), links


def _capacities(
    links: Sequence[DrawnLink],
    places: Mapping[str, Point],
    chains: Sequence[PlacedChain],
    room: Room,
) -> list[tuple[str, Box]]:
    """Return the capacity of each link as a text beside it, clear of chains and cards.

    Where there is no room there is none: pointing at the link shows it.
    """
    crowd = _crowd(chains, places)
    found = []
    for link in links:
        a, b = places[link.a], places[link.b]
        words = f"{figure(link.bandwidth_mb_s)} MB/s · {figure(link.latency_ms)} ms"
        width, length = 5.9 * len(words), math.dist(a, b) or 1.0
        across = (abs(b[1] - a[1]) * width + abs(b[0] - a[0]) * 12.0) / (2 * length)
        aside = (crowd[frozenset((link.a, link.b))] + 1) // 2
        shift = across + 6.0 + min(_APART * aside, _WIDEST)
        spots = [_beside(a, b, f, s) for f in (0.5, 0.4, 0.6, 0.3, 0.7) for s in (shift, -shift)]
        box = min((Box(x, y, width, 13.0) for x, y in spots), key=room.covered)
        if room.covered(box) <= _COVERED * width * 13.0:
            found.append((words, room.take(box)))
    return found


class DrawnChain(Struct, frozen=True):
    """A chain as a curve along its links, with the numbers of its auctions on it."""

    placed: PlacedChain
    curve: str
    label: str
    bubble: Point


def _chains(chains: Sequence[PlacedChain], places: Mapping[str, Point]) -> list[DrawnChain]:
    drawn = []
    used: dict[tuple[str, str], int] = {}
    crowd = _crowd(chains, places)
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
        label = _ranges(chain.auctions)
        drawn.append(DrawnChain(chain, _curve(points), label, bubble or points[0]))
    return drawn


def _crowd(chains: Sequence[PlacedChain], places: Mapping[str, Point]) -> Counter[frozenset[str]]:
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
