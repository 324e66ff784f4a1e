"""The little that drawing needs: paths, scales, ticks, figures as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

Point = tuple[float, float]

MINUTES_FROM_S = 1200.0
"""Times and time axes that reach so far are written in minutes (and hours), not in seconds."""


def coordinate(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{round(value, 1) + 0.0:.10g}"


def line_path(points: Sequence[Point]) -> str:
    """Return path data through ``points``."""
    return "M" + "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in points) if points else ""


def step_path(points: Sequence[Point]) -> str:
    """Return path data that keeps each value until the next point."""
    if not points:
        return ""
    path = f"M{coordinate(points[0][0])} {coordinate(points[0][1])}"
    return path + "".join(f"H{coordinate(x)}V{coordinate(y)}" for x, y in points[1:])


class LinearScale(Struct, frozen=True):
    """Maps a domain of values to a range of pixels, linearly."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the pixel of ``value``."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.0
        return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return at most about ``count`` round values (steps 1, 2, 5) between ``low`` and ``high``."""
    if not high > low or count < 1:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= raw - 1e-12), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def time_ticks(end_s: float, count: int) -> list[float]:
    """Return round times from 0 to ``end_s``: seconds, then whole minutes, then hours."""
    seconds, minutes, hours = (1, 2, 5, 10, 20, 30), (1, 2, 3, 5, 10, 20, 30), (1, 2, 4, 12, 24)
    steps = (*seconds, *(60 * m for m in minutes), *(3600 * h for h in hours))
    if end_s < 5:
        return ticks(0.0, end_s, count)
    step = next((s for s in steps if end_s / s <= count), None)
    if step is None:
        return ticks(0.0, end_s, count)
    return [float(t) for t in range(0, int(end_s + 1e-6) + 1, step)]


def clock(seconds: float, *, exact: bool = False) -> str:
    """Return a time of the run as text: ``42 s``, ``42.3 s``, from 20 min on ``25:05``."""
    if seconds < MINUTES_FROM_S:
        return f"{seconds:.1f}\u00a0s" if exact else f"{seconds:g}\u00a0s"
    return _minutes(seconds)


def axis_clock(seconds: float, end_s: float) -> str:
    """Return the label of a time axis that reaches to ``end_s``: one unit for all labels."""
    return clock(seconds) if end_s < MINUTES_FROM_S else _minutes(seconds)


def _minutes(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def figure(value: float, digits: int = 2) -> str:
    """Return ``value`` for reading: at most ``digits`` decimals, thousands set apart."""
    shown = f"{value:,.{digits}f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown.replace(",", "\u2009").replace("-", "\u2212")


def counted(count: int, word: str, plural: str = "") -> str:
    """Return ``1 auction``, ``2 auctions``."""
    return f"{count} {word if count == 1 else plural or word + 's'}"
