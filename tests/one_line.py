"""Input that is taken, or refused in one line: what holds of every reader of files and octets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def taken_or_refused(
    error: type[Exception], read: Callable[[], T], at_most: int = 1_000
) -> T | None:
    """Return what ``read`` returns; nothing if it refuses in a line of so many characters."""
    try:
        return read()
    except error as refusal:
        said = str(refusal)
        assert said.isprintable()
        assert 0 < len(said) < at_most
        return None
