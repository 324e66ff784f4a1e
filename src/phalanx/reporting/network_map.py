"""The map: PoPs, links, instances, chains, hosts and sources (the dissertation's figure 5.3)."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup
from msgspec import Struct

from phalanx.reporting.layout import positions
from phalanx.reporting.log import Log, number, rows, text
from phalanx.reporting.map_cards import Card, cards_of, draw_card, draw_dot
from phalanx.reporting.map_lines import (
    LinkView,
    capacities,
    chain_lines,
    link_lines,
    links_of,
)
from phalanx.reporting.map_room import Box, Room
from phalanx.reporting.placement import Chain, Placement
from phalanx.reporting.svg import Point, element, group

_FEW = {"wide": 16, "narrow": 9}
"""Up to so many PoPs each is drawn as a card; above, as dots with cards where there is news."""


class MapView(Struct, frozen=True):
    """The drawing for one width of page."""

    size: str
    drawing: Markup


class Map(Struct, frozen=True):
    """The map in both widths, the times of its frames, and the colour number of each VNF."""

    views: tuple[MapView, ...]
    frames: tuple[float, ...]
    colours: tuple[tuple[str, int], ...]
    unlabelled: int
    """PoPs whose name has no room on the wide map (it shows when pointed at)."""


class _Scene(Struct, frozen=True):
    """What is drawn, whatever the width."""

    cards: Mapping[str, Card]
    links: tuple[LinkView, ...]
    chains: tuple[Chain, ...]
    colours: Mapping[str, int]


def map_of(log: Log, placement: Placement) -> Map | None:
    """Draw the map; None if the log does not tell of any PoP."""
    pops = [text(row, "name") for row in rows(log.setting, "pops")]
    pops = list(dict.fromkeys(pop for pop in pops if pop))
    if not pops:
        return None
    frames, links = links_of(log, set(pops))
    vnfs = [text(row, "name") for row in rows(log.setting, "functions")]
    vnfs = list(dict.fromkeys([*vnfs, *(placed.vnf for placed in placement.instances)]))
    colours = {vnf: at % 8 for at, vnf in enumerate(vnfs)}
    cards = cards_of(log, pops, placement, colours)
    scene = _Scene(cards, tuple(links), placement.chains, colours)
    known = {
        text(row, "name"): (number(row, "x"), number(row, "y"))
        for row in rows(log.setting, "pops")
        if isinstance(row.get("x"), int | float) and isinstance(row.get("y"), int | float)
    }
    views, unlabelled = [], 0
    for size, width, height in (("wide", 1120.0, 620.0), ("narrow", 440.0, 600.0)):
        tall = height * (1.25 if len(pops) > 60 else 1.0)
        small = len(pops) <= _FEW[size]
        side, end, apart = (78.0, 62.0, 150.0) if small else (30.0, 24.0, 30.0)
        places = positions(
            pops,
            [(link.a, link.b) for link in links],
            known,
            (side, end, width - side, tall - end),
            apart,
        )
        room = Room(width, tall, () if small else places.values())
        body, hidden = (_cards(scene, places, room), 0) if small else _dots(scene, places, room)
        unlabelled = hidden if size == "wide" else unlabelled
        drawing = element(
            "svg",
            group(link_lines(links, places), class_="links"),
            group(chain_lines(placement.chains, places, colours), class_="chains"),
            *body,
            viewBox=f"0 0 {width:g} {tall:g}",
            class_=f"map {size}",
            role="img",
            aria_label="Map of the network with everything that was placed in it",
        )
        views.append(MapView(size, drawing))
    used = [(vnf, colours[vnf]) for vnf in vnfs if any(p.vnf == vnf for p in placement.instances)]
    return Map(tuple(views), frames, tuple(used), unlabelled)


def _cards(scene: _Scene, places: Mapping[str, Point], room: Room) -> list[Markup]:
    """Draw every PoP as a card where it stands."""
    boxes = {
        pop: room.take(Box(*places[pop], card.width, card.height))
        for pop, card in scene.cards.items()
    }
    figures = group(capacities(scene.links, places, scene.chains, room), class_="capacities")
    return [figures, *(draw_card(card, boxes[pop]) for pop, card in scene.cards.items())]


def _dots(scene: _Scene, places: Mapping[str, Point], room: Room) -> tuple[list[Markup], int]:
    """Draw dots, cards beside those with news, names where room is left; count the others."""
    news = [pop for pop, card in scene.cards.items() if card.news]
    news.sort(key=lambda pop: -scene.cards[pop].height)
    boxes = {
        pop: room.near(places[pop], scene.cards[pop].width, scene.cards[pop].height) for pop in news
    }
    degree = dict.fromkeys(places, 0)
    for link in scene.links:
        degree[link.a] += 1
        degree[link.b] += 1
    drawn, unlabelled = [], 0
    for pop in sorted(places, key=lambda pop: -degree[pop]):
        label = None
        if pop not in boxes:
            label = room.label(places[pop], 5.8 * len(pop) + 4.0, 11.0)
            unlabelled += label is None
        drawn.append(draw_dot(scene.cards[pop], places[pop], label))
    leaders = [
        element("line", class_="leader", x1=x, y1=y, x2=boxes[pop].x, y2=boxes[pop].y)
        for pop, (x, y) in places.items()
        if pop in boxes
    ]
    figures = [draw_card(scene.cards[pop], box) for pop, box in boxes.items()]
    return [*leaders, *drawn, *figures], unlabelled
