"""Room on a map: finds places for cards and labels where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from phalanx.reporting.svg import Point


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
