"""What installed packages bring: open sets, found by their entry points."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path


def installed(group: str) -> dict[str, EntryPoint]:
    """Return what packages bring to a group of entry points, by name, not loaded yet."""
    places = tuple((place, _changed(place)) for place in sys.path)
    return {point.name: point for point in _entry_points(group, places)}


@lru_cache(maxsize=32)
def _entry_points(group: str, _: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Return the points of a group: finding them reads a file of each installed package."""
    return entry_points(group=group)


def _changed(place: str) -> int:
    """Return when a folder of packages was changed last, in ns; 0 if there is none."""
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0
