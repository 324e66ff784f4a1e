"""What a driver does for the books: bring images, keep measures, observe traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from phalanx.infrastructure.books.instances import Instance

Ready = Callable[[Instance], None]
Fail = Callable[[Instance, str, str], None]
"""Told the instance, the reason, and the event that caused the failure."""


class Downloads(Protocol):
    """Brings images from the repository and starts what is in them."""

    def begin(self, instance: Instance, ready: Ready, fail: Fail) -> str | None:
        """Download and boot ``instance``, then call ``ready``, or ``fail`` on the way.

        Returns:
            Why there can be no download; None if it began.

        """

    def abort(self, instance: Instance) -> None:
        """End whatever there is of ``instance``: its download, its boot, what runs."""


class Measures(Protocol):
    """Keeps the measures of instances in force."""

    def lift_all(self, instance: Instance, reason: str, cause: str) -> None:
        """Lift what ``instance`` enforces."""

    def move(self, instance: Instance, to: Instance) -> None:
        """Hand the measures of one instance to another of the same PoP."""


class Observer(Protocol):
    """Carries out observations."""

    def lost(self, instance: Instance, reason: str) -> None:
        """Fail what ``instance`` was observing."""
