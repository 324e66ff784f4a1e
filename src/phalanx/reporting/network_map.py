"""The map: PoPs, links, instances, chains, hosts and sources (the dissertation's figure 5.3)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup
from msgspec import Struct

from phalanx.reporting.auctions import Placed, PlacedChain, PlacedInstance
from phalanx.reporting.log import Log, Span, finite, names, number, rows, table, text
from phalanx.reporting.map_layout import Box, Room, positions
from phalanx.reporting.svg import LinearScale, Point, counted, element, figure, group

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
    """The map, the times of its frames, and the colour number of each VNF."""

    drawing: Markup
    frames: tuple[float, ...]
    colours: tuple[tuple[str, int], ...]
    unlabelled: int
    """PoPs whose name has no room (it shows when pointed at)."""


def map_of(log: Log, placed: Placed) -> NetworkMap | None:
    """Draw the map; None if the log does not tell of any PoP."""
    pops = [text(row, "name") for row in rows(log.setting, "pops")]
    pops = list(dict.fromkeys(pop for pop in pops if pop))
    if not pops:
        return None
    frames, links = _links(log, set(pops))
    vnfs = [text(row, "name") for row in rows(log.setting, "functions")]
    vnfs = list(dict.fromkeys([*vnfs, *(instance.vnf for instance in placed.instances)]))
    colours = {vnf: at % 8 for at, vnf in enumerate(vnfs)}
    known = {
        text(row, "name"): (number(row, "x"), number(row, "y"))
        for row in rows(log.setting, "pops")
        if isinstance(row.get("x"), int | float) and isinstance(row.get("y"), int | float)
    }
    tall = _HEIGHT * (1.25 if len(pops) > 60 else 1.0)
    small = len(pops) <= _FEW
    side, end, apart = (78.0, 62.0, 150.0) if small else (30.0, 24.0, 30.0)
    box = (side, end, _WIDTH - side, tall - end)
    places = positions(pops, [(link.a, link.b) for link in links], known, box, apart)
    room = Room(_WIDTH, tall, () if small else places.values())
    cards = _cards(log, pops, placed, colours)
    if small:
        boxes = {
            p: room.take(Box(*places[p], card.width, card.height)) for p, card in cards.items()
        }
        figures = group(_capacities(links, places, placed.chains, room), class_="capacities")
        body = [figures, *(_draw_card(card, boxes[pop]) for pop, card in cards.items())]
        unlabelled = 0
    else:
        body, unlabelled = _dots(cards, links, places, room)
    drawing = element(
        "svg",
        group(_link_lines(links, places), class_="links"),
        group(_chain_lines(placed.chains, places, colours), class_="chains"),
        *body,
        viewBox=f"0 0 {_WIDTH:g} {tall:g}",
        class_="map",
        role="img",
        aria_label="Map of the network with everything that was placed in it",
    )
    started = {instance.vnf for instance in placed.instances}
    used = tuple((vnf, colours[vnf]) for vnf in vnfs if vnf in started)
    return NetworkMap(drawing, frames, used, unlabelled)


def _dots(
    cards: Mapping[str, Card], links: Sequence[DrawnLink], places: Mapping[str, Point], room: Room
) -> tuple[list[Markup], int]:
    """Draw dots, cards beside those with news, names where room is left; count the others."""
    news = sorted((card for card in cards.values() if card.news), key=lambda card: -card.height)
    boxes = {card.pop: room.near(places[card.pop], card.width, card.height) for card in news}
    degree = Counter(end for link in links for end in (link.a, link.b))
    drawn, unlabelled = [], 0
    for pop in sorted(places, key=lambda pop: -degree[pop]):
        label = None
        if pop not in boxes:
            label = room.label(places[pop], 5.8 * len(pop) + 4.0, 11.0)
            unlabelled += label is None
        drawn.append(_draw_dot(cards[pop], places[pop], label))
    leaders = [
        element("line", class_="leader", x1=x, y1=y, x2=boxes[pop].x, y2=boxes[pop].y)
        for pop, (x, y) in places.items()
        if pop in boxes
    ]
    return [
        *leaders,
        *drawn,
        *(_draw_card(cards[pop], box) for pop, box in boxes.items()),
    ], unlabelled


class CardLine(Struct, frozen=True):
    """A line of a card; ``steps`` are the times at which its number changes."""

    words: str
    kind: str = ""
    word: str = ""
    steps: tuple[tuple[float, int], ...] = ()


class Card(Struct, frozen=True):
    """What is to be said of one PoP."""

    pop: str
    lines: tuple[CardLine, ...]
    squares: tuple[PlacedInstance, ...]
    colours: Mapping[str, int]

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


def _cards(
    log: Log, pops: Sequence[str], placed: Placed, colours: Mapping[str, int]
) -> dict[str, Card]:
    """Return a card for every PoP."""
    sources = _sources(log)
    hosts: dict[str, list[str]] = {}
    for row in rows(log.setting, "hosts"):
        words = f"{text(row, 'name')} · {figure(number(row, 'bandwidth_mb_s'))} MB/s"
        hosts.setdefault(text(row, "at"), []).append(words)
    repository = text(log.setting, "repository")
    cards = {}
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
        cards[pop] = Card(pop, tuple(lines), squares, colours)
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
    return [CardLine(counted(most, word), word, word, tuple(steps.items()))] if most else []


def on_at(spans: Iterable[Span]) -> str:
    """Return spans as the page's script reads them: ``45:490 500:``."""
    return " ".join(f"{a:g}:{'' if b is None else f'{b:g}'}" for a, b in spans)


def _short(vnf: str) -> str:
    """Return two letters for a VNF: ``RL`` for rate-limiter, ``Cl`` for classifier."""
    words = [word for word in vnf.replace("_", "-").split("-") if word]
    if len(words) > 1:
        return "".join(word[0] for word in words[:2]).upper()
    return vnf[:2].capitalize()


def _draw_card(card: Card, box: Box) -> Markup:
    """Draw a card so that it fills ``box``."""
    left, y = box.left, box.top + 17.0
    body = [
        element("rect", x=left, y=box.top, width=box.width, height=box.height, rx=7),
        element("text", card.pop, class_="name", x=left + 9, y=y),
    ]
    for line in card.lines:
        y += _LINE
        body.append(
            element(
                "text",
                line.words,
                class_=f"line {line.kind}",
                x=left + 9,
                y=y,
                data_steps=" ".join(f"{t:g}:{n}" for t, n in line.steps) or None,
                data_word=line.word or None,
            )
        )
    for at, placed in enumerate(card.squares[:_MOST_SQUARES]):
        corner = (left + 8 + (at % _ROW) * (_SQUARE + 4), y + 9 + at // _ROW * (_SQUARE + 4))
        more = len(card.squares) - _MOST_SQUARES if at == _MOST_SQUARES - 1 else 0
        body.append(_square(placed, corner, card.colours.get(placed.vnf, 0), more))
    return group(body, class_="card")


def _square(placed: PlacedInstance, corner: Point, colour: int, more: int) -> Markup:
    auction = f", auction {placed.auction}" if placed.auction else ""
    title = f"{placed.order} · {placed.instance} ({placed.vnf} × {placed.units}{auction})"
    x, y = corner
    words = f"+{more + 1}" if more > 0 else _short(placed.vnf)
    return group(
        [
            element("title", title),
            element("rect", x=x, y=y, width=_SQUARE, height=_SQUARE, rx=4),
            element("text", words, x=x + _SQUARE / 2, y=y + 13, class_="vnf"),
            element("text", str(placed.order), x=x + _SQUARE / 2, y=y + 21.5, class_="order"),
        ],
        class_=f"square f{colour}",
        data_on=on_at([placed.span]),
    )


def _draw_dot(card: Card, at: Point, label: Box | None) -> Markup:
    """Draw a PoP as a dot, with its name where there is room for it."""
    words = ", ".join([card.pop, *(line.words for line in card.lines)])
    body = [element("title", words), element("circle", cx=at[0], cy=at[1], r=4.5)]
    if label:
        body.append(element("text", card.pop, class_="halo", x=label.x, y=label.y + 3.5))
    return group(body, class_="dot")


class DrawnLink(Struct, frozen=True):
    """A link of the network and how full it was, in percent of its capacity, per frame."""

    a: str
    b: str
    bandwidth_mb_s: float
    latency_ms: float
    loss: float
    load: tuple[int, ...]


def _links(log: Log, pops: set[str]) -> tuple[tuple[float, ...], list[DrawnLink]]:
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
                DrawnLink(
                    a,
                    b,
                    number(row, "bandwidth_mb_s"),
                    number(row, "latency_ms"),
                    number(row, "loss"),
                    tuple(round(100 * share) for share in load),
                )
            )
    return tuple(finite(events[0].time) for events in chosen), links


def _link_lines(links: Sequence[DrawnLink], places: Mapping[str, Point]) -> Iterable[Markup]:
    """Yield a line for each link, as thick as it is wide, coloured by its highest load."""
    most = max((link.bandwidth_mb_s for link in links), default=1.0)
    thick = LinearScale(0.0, math.sqrt(most) or 1.0, 1.2, 7.0 if len(places) <= 16 else 3.5)
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
            class_=f"link load{min(4, max(0, peak) // 20)}",
            x1=x1,
            y1=y1,
            x2=x2,
            y2=y2,
            stroke_width=thick(math.sqrt(max(link.bandwidth_mb_s, 0.0))),
            data_load=" ".join(map(str, link.load)) if link.load else None,
        )


def _capacities(
    links: Sequence[DrawnLink],
    places: Mapping[str, Point],
    chains: Sequence[PlacedChain],
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
        if room.covered(box) > _COVERED * width * 13.0:
            continue
        room.take(box)
        yield element("text", words, class_="capacity halo", x=box.x, y=box.y + 4)


def _chain_lines(
    chains: Sequence[PlacedChain], places: Mapping[str, Point], colours: Mapping[str, int]
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
