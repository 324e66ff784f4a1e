"""The Clock port: what time it is, and calls at a later time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that was asked for and can be taken back."""

    def cancel(self) -> None:
        """Take the call back; without effect once it was made."""


class Clock(Protocol):
    """Time in seconds since the start of the run."""

    def now(self) -> float:
        """Return the time."""

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Make ``call`` at time ``when``, or soon if that is past; ties in the order asked."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make ``call`` at the present time, after what is already waiting."""
