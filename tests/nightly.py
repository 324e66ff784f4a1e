"""What ``make nightly`` runs in full, and ``make test`` in part."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

import pytest

T = TypeVar("T")
NIGHTLY = "PHALANX_PLANS" in os.environ
long_processes = pytest.mark.skipif(not NIGHTLY, reason="minutes over processes: make nightly")
"""The same is tested each time on virtual time, or of one process."""
at_night = pytest.mark.skipif(not NIGHTLY, reason="takes some seconds: make nightly")


def sample(cases: Iterable[T], every: int) -> list[T]:
    """Return all cases at night, and otherwise one of so many."""
    return list(cases)[:: 1 if NIGHTLY else every]


def examples(count: int) -> int:
    """Return how many examples a property gets: so many, and twenty times as many at night."""
    return count * (20 if NIGHTLY else 1)
