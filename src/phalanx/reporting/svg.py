"""The little that drawing needs: paths, scales, ticks, figures as text."""

from __future__ import annotations

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


def clock(seconds: float, *, exact: bool = False) -> str:
    """Return a time of the run as text: ``42 s``, ``42.3 s``, from 20 min on ``25:05``."""
    if seconds < MINUTES_FROM_S:
        return f"{seconds:.1f}\u00a0s" if exact else f"{seconds:g}\u00a0s"
    return _minutes(seconds)


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
