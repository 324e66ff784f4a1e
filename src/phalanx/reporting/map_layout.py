"""Where PoPs, cards and labels stand on a map: never on top of each other.

PoPs stand as the log says. Without positions, the drawing distance of two PoPs follows their
distance in hops: stress majorisation by the Guttman transform (Gansner, Koren and North, 2004),
from the start that classical scaling gives. There is nothing random in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import networkx as nx
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.reporting.svg import Point

_ROUNDS = 120
_MOST_STRETCH = 1.6

Array = NDArray[np.float64]


def positions(
    pops: Sequence[str],
    links: Sequence[tuple[str, str]],
    known: Mapping[str, Point],
    box: tuple[float, float, float, float],
    apart: float,
) -> dict[str, Point]:
    """Return a position for every PoP inside ``box``.

    Args:
        pops: names, in the order of the log.
        links: pairs of names.
        known: longitude and latitude, or drawing positions; used if there is one for every PoP.
        box: left, top, right, bottom in pixels.
        apart: least distance between two PoPs in pixels, as far as the box allows.

    """
    if not pops:
        return {}
    if all(pop in known for pop in pops):
        places = np.array([known[pop] for pop in pops]) * (1.0, -1.0)
    else:
        places = _by_hops(pops, links)
        places = _lying(places, wide=box[2] - box[0] >= box[3] - box[1])
    places = _spread(_fit(places, box), box, apart)
    return {pop: (float(x), float(y)) for pop, (x, y) in zip(pops, places.round(1), strict=True)}


def _by_hops(pops: Sequence[str], links: Sequence[tuple[str, str]]) -> Array:
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(pops)
    graph.add_edges_from((a, b) for a, b in links if a in graph and b in graph)
    size = len(pops)
    far = np.full((size, size), np.sqrt(size) + 2.0)
    order = {pop: at for at, pop in enumerate(pops)}
    for source, reached in nx.all_pairs_shortest_path_length(graph):
        for target, hops in reached.items():
            far[order[source], order[target]] = hops
    if size < 3:
        return np.column_stack([np.arange(size, dtype=float), np.zeros(size)])
    places = _classical(far)
    np.fill_diagonal(far, 1.0)
    weights = far**-2.0
    np.fill_diagonal(weights, 0.0)
    laplacian = np.diag(weights.sum(axis=1)) - weights
    inverse = np.linalg.inv(laplacian + 1.0 / size) - 1.0 / size
    for _ in range(_ROUNDS):
        drawn = _distances(places)
        np.fill_diagonal(drawn, 1.0)
        pull = -weights * far / np.maximum(drawn, 1e-9)
        np.fill_diagonal(pull, 0.0)
        np.fill_diagonal(pull, -pull.sum(axis=1))
        places = inverse @ (pull @ places)
    return places


def _classical(far: Array) -> Array:
    """Return the start: classical scaling, with twins moved apart along a spiral."""
    size = len(far)
    centre = np.eye(size) - 1.0 / size
    values, vectors = np.linalg.eigh(-0.5 * centre @ far**2 @ centre)
    axes = _signed(vectors[:, -2:])
    places = axes * np.sqrt(np.maximum(values[-2:], 1e-6))
    turn = np.arange(size) * 2.4
    return np.asarray(places + 0.05 * np.column_stack([np.cos(turn), np.sin(turn)]))


def _signed(axes: Array) -> Array:
    """Turn each column so that its largest part is positive: the sign is free otherwise."""
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(axes.shape[1])]))


def _lying(places: Array, *, wide: bool) -> Array:
    """Turn the drawing so that its longest axis lies along that of the box."""
    centred = places - places.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    turned = centred @ _signed(axes[:, ::-1])
    return np.asarray(turned if wide else turned[:, ::-1])


def _fit(places: Array, box: tuple[float, float, float, float]) -> Array:
    left, top, right, bottom = box
    low, high = places.min(axis=0), places.max(axis=0)
    span = np.where(high - low > 1e-9, high - low, np.inf)
    scale = np.array([right - left, bottom - top]) / span
    positive = scale[scale > 0]
    scale = np.minimum(scale, positive.min(initial=np.inf) * _MOST_STRETCH)
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    return np.asarray((places - (low + high) / 2) * scale + middle)


def _spread(places: Array, box: tuple[float, float, float, float], apart: float) -> Array:
    """Push PoPs apart that are too close, for as many rounds as it takes or 200."""
    left, top, right, bottom = box
    size = len(places)
    room = np.sqrt((right - left) * (bottom - top) / size)
    apart = min(apart, 0.8 * float(room))
    turn = np.arange(size) * 2.4
    places = places + 0.01 * np.column_stack([np.cos(turn), np.sin(turn)])
    for _ in range(200):
        gap = places[:, None, :] - places[None, :, :]
        distance = np.sqrt((gap**2).sum(axis=2))
        np.fill_diagonal(distance, np.inf)
        lacking = np.maximum(apart - distance, 0.0)
        if lacking.max(initial=0.0) < 0.5:
            break
        places = places + 0.4 * (gap / distance[:, :, None] * lacking[:, :, None]).sum(axis=1)
        places = np.clip(places, (left, top), (right, bottom))
    return places


def _distances(places: Array) -> Array:
    gap = places[:, None, :] - places[None, :, :]
    return np.asarray(np.sqrt((gap**2).sum(axis=2)))


class Box(Struct, frozen=True):
    """A rectangle by its middle, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        """The left edge."""
        return self.x - self.width / 2

    @property
    def top(self) -> float:
        """The upper edge."""
        return self.y - self.height / 2

    def overlap(self, other: Box) -> float:
        """Return the area that both cover."""
        wide = (self.width + other.width) / 2 - abs(self.x - other.x)
        high = (self.height + other.height) / 2 - abs(self.y - other.y)
        if wide <= 0 or high <= 0:
            return 0.0
        return min(wide, self.width, other.width) * min(high, self.height, other.height)


class Room:
    """What is taken of a drawing of ``width`` by ``height`` pixels."""

    def __init__(self, width: float, height: float, dots: Iterable[Point] = ()) -> None:
        self._width, self._height = width, height
        self._dots = [Box(x, y, 9.0, 9.0) for x, y in dots]
        self._taken: list[Box] = []

    def take(self, box: Box) -> Box:
        """Cover ``box`` and return it."""
        self._taken.append(box)
        return box

    def covered(self, box: Box) -> float:
        """Return how much of ``box`` is taken or lies outside; what is no dot counts tenfold."""
        inside = Box(self._width / 2, self._height / 2, self._width, self._height).overlap(box)
        outside = box.width * box.height - inside
        dots = sum(box.overlap(dot) for dot in self._dots)
        return dots + 10.0 * (outside + sum(box.overlap(other) for other in self._taken))

    def near(self, at: Point, width: float, height: float) -> Box:
        """Take and return the best place for a card beside ``at``: least covered, then nearest."""
        best, least = Box(at[0], at[1], width, height), math.inf
        for ring in range(9):
            for turn in range(16):
                angle = math.pi / 2 + turn * math.pi / 8
                reach = 12.0 + 16.0 * ring
                box = Box(
                    at[0] + math.cos(angle) * (reach + width / 2),
                    at[1] + math.sin(angle) * (reach + height / 2),
                    width,
                    height,
                )
                price = self.covered(box) + 6.0 * ring + 0.1 * turn
                if price < least:
                    best, least = box, price
        return self.take(best)

    def label(self, at: Point, width: float, height: float) -> Box | None:
        """Take and return a free place for a label beside a dot; None if there is none."""
        across, along = width / 2 + 7.0, height / 2 + 6.0
        for dx, dy in ((across, 0.0), (-across, 0.0), (0.0, along), (0.0, -along)):
            box = Box(at[0] + dx, at[1] + dy, width, height)
            if self.covered(box) <= 0.0:
                return self.take(box)
        return None
