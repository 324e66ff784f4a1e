"""The audit of what is refused: an event ``access.refused``, and no flood of them.

Of each caller ``BURST`` refusals in ``WINDOW_S`` seconds are recorded one by one; further ones
are counted, and the count stands in the last event of the window. So the log grows by at most
``(BURST + 1) × (CALLERS + 1)`` events in a window, and no refusal goes uncounted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Struct

from phalanx.clock import Clock

KIND = "access.refused"
BURST = 5
WINDOW_S = 10.0
CALLERS = 256
"""Callers with a window of their own; the rest share one."""
REST = "*"
"""Stands for those who share a window, where the event is about several."""

_SHOWN = 200


class AccessRefusal(Struct, frozen=True):
    """Something that was not allowed, or not believed."""

    subject: str
    """The authenticated caller or sender."""
    action: str
    """An operation, or what else was tried."""
    resource: str
    """The provider, or what else the action was about."""
    reason: str
    rule: str | None = None
    """Name of the rule that decided; None if no rule did."""


class _Window:
    """What one caller was refused since its window began."""

    __slots__ = ("last", "recorded", "suppressed")

    def __init__(self) -> None:
        self.recorded = 0
        self.suppressed = 0
        self.last: AccessRefusal | None = None


class AccessAudit:
    """Records refusals as events.

    Args:
        clock: ends the windows.
        record: ``record(kind, cause, **data)``, as ``domain.events.Recorder.record``.
        cause: id of the event under which refusals stand: what a refused caller names as its
            cause is not believed.

    """

    def __init__(self, clock: Clock, record: Callable[..., Any], cause: str) -> None:
        self.refused = 0
        """All refusals."""
        self._clock = clock
        self._record = record
        self._cause = cause
        self._windows: dict[str, _Window] = {}

    def __call__(self, refusal: AccessRefusal) -> None:
        """Record a refusal, or count it for the event that ends the window."""
        self.refused += 1
        key = refusal.subject
        if key not in self._windows and len(self._windows) >= CALLERS:
            key = REST
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
            self._clock.call_at(self._clock.now() + WINDOW_S, partial(self._end, key))
        if window.recorded < BURST:
            window.recorded += 1
            self._write(refusal, refusal.subject, 0)
        else:
            window.suppressed += 1
            window.last = refusal

    def _end(self, key: str) -> None:
        window = self._windows.pop(key)
        if window.last is not None:
            self._write(window.last, key, window.suppressed - 1)

    def _write(self, refusal: AccessRefusal, subject: str, suppressed: int) -> None:
        self._record(
            KIND,
            self._cause,
            subject=subject,
            action=refusal.action[:_SHOWN],
            resource=refusal.resource,
            reason=refusal.reason[:_SHOWN],
            rule=refusal.rule,
            suppressed=suppressed,
        )
