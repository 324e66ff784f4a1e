"""Health checks: named questions to one's own parts, answered in words."""

from __future__ import annotations

from collections.abc import Callable

from phalanx.fabric.registration import Health, HealthStatus

Check = Callable[[], str | None]
"""Returns what is wrong, in words; None: nothing."""


class Checks:
    """The health checks of one service; an instance is what a ``Registrar`` asks."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[Check, HealthStatus]] = {}

    def add(self, name: str, check: Check, status: HealthStatus = HealthStatus.DEGRADED) -> None:
        """Ask ``check`` from now on; ``status`` is how the service is when it finds something.

        Raises:
            ValueError: if there is a check of that name.

        """
        if name in self._checks:
            raise ValueError(f"there is a health check {name!r} already")
        self._checks[name] = (check, status)

    def __call__(self) -> Health:
        """Return how the service is: as the worst of what its checks find."""
        found = [
            (status, f"{name}: {reason}"[:300])
            for name, (check, status) in self._checks.items()
            if (reason := check()) is not None
        ]
        worst = max((status for status, _ in found), key=list(HealthStatus).index, default=None)
        return Health(worst or HealthStatus.OK, tuple(reason for _, reason in found[:32]))
