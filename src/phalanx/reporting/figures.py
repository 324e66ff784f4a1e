"""Figures and times as text."""

from __future__ import annotations

MINUTES_FROM_S = 1200.0
"""Times and time axes that reach so far are written in minutes (and hours), not in seconds."""


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
