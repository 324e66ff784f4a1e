"""Durations as people write them."""

from __future__ import annotations

import re

import typer

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def duration(text: str, *, m: bool = False) -> float:
    """Return a duration, such as ``90s``, ``15min``, ``12h``, ``7d`` or ``4w``, in seconds.

    Args:
        text: what was written.
        m: take ``m`` for minutes as well; not where a month that is meant would be dear.

    Raises:
        typer.BadParameter: if it is none.

    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or (found[2] == "m" and not m):
        raise typer.BadParameter(f"{text!r} is no duration such as 90s, 15min, 12h, 7d or 4w")
    return float(found[1]) * _SECONDS[found[2]]
