"""The PoPs of the map: cards with hosts, sources, measures and the squares of VNF instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup
from msgspec import Struct

from phalanx.reporting.log import Log, names, number, rows, text
from phalanx.reporting.map_room import Box
from phalanx.reporting.placement import Placed, Placement, Span
from phalanx.reporting.svg import Point, counted, element, figure, group

_SQUARE = 24.0
_ROW = 4
_MOST_SQUARES = 12
_LINE = 14.0


class Line(Struct, frozen=True):
    """A line of a card; ``steps`` are the times at which its number changes."""

    words: str
    kind: str = ""
    word: str = ""
    steps: tuple[tuple[float, int], ...] = ()


class Card(Struct, frozen=True):
    """What is to be said of one PoP."""

    pop: str
    lines: tuple[Line, ...]
    squares: tuple[Placed, ...]
    colours: Mapping[str, int]
    news: bool
    """Whether it stays a card where others are dots."""

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


def cards_of(
    log: Log, pops: Sequence[str], placement: Placement, colours: Mapping[str, int]
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
        lines = [Line(words, "host") for words in hosts.get(pop, ())]
        if pop == repository:
            lines.append(Line("VNF repository", "repository"))
        for malicious, word in ((False, "user"), (True, "attacker")):
            lines += _counted(sources.get((pop, malicious), []), word)
        measures = [measure for measure in placement.measures if measure.pop == pop]
        changes = [(m.span[0], 1) for m in measures]
        changes += [(m.span[1], -1) for m in measures if m.span[1] is not None]
        lines += _counted(changes, "measure")
        squares = tuple(placed for placed in placement.instances if placed.pop == pop)
        news = bool(squares or any(line.kind != "user" for line in lines))
        cards[pop] = Card(pop, tuple(lines), squares, colours, news)
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


def _counted(changes: Iterable[tuple[float, int]], word: str) -> list[Line]:
    """Return a line with the most that there were at a time; none if there never were any."""
    steps: dict[float, int] = {}
    total = 0
    for time, change in sorted(changes):
        total += change
        steps[time] = total
    most = max(steps.values(), default=0)
    return [Line(counted(most, word), word, word, tuple(steps.items()))] if most else []


def on_at(spans: Iterable[Span]) -> str:
    """Return spans as the page's script reads them: ``45:490 500:``."""
    return " ".join(f"{a:g}:{'' if b is None else f'{b:g}'}" for a, b in spans)


def short(vnf: str) -> str:
    """Return two letters for a VNF: ``RL`` for rate-limiter, ``Cl`` for classifier."""
    words = [word for word in vnf.replace("_", "-").split("-") if word]
    if len(words) > 1:
        return "".join(word[0] for word in words[:2]).upper()
    return vnf[:2].capitalize()


def draw_card(card: Card, box: Box) -> Markup:
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


def _square(placed: Placed, corner: Point, colour: int, more: int) -> Markup:
    auction = f", auction {placed.auction}" if placed.auction else ""
    title = f"{placed.order} · {placed.instance} ({placed.vnf} × {placed.units}{auction})"
    x, y = corner
    words = f"+{more + 1}" if more > 0 else short(placed.vnf)
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


def draw_dot(card: Card, at: Point, label: Box | None) -> Markup:
    """Draw a PoP as a dot, with its name where there is room for it."""
    words = ", ".join([card.pop, *(line.words for line in card.lines)])
    body = [element("title", words), element("circle", cx=at[0], cy=at[1], r=4.5)]
    if label:
        body.append(element("text", card.pop, class_="halo", x=label.x, y=label.y + 3.5))
    return group(body, class_="dot")
