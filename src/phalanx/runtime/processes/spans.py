"""Spans of what a recorder has kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.fabric.tracing import Collector, Tracer
from phalanx.store.history import History


class Spans:
    """Makes spans of the events of a domain; causes of long ago are found in its history."""

    def __init__(self, domain: str, history: History, collector: Collector) -> None:
        """Make spans for ``collector``, which is closed with this."""
        self._domain = domain
        self._history = history
        self._collector = collector
        self._tracer = Tracer(domain, collector.export, self._led_to)

    def make(self, kept: Iterable[tuple[Event, float]]) -> None:
        """Make spans of events, each with its receipt by the broker's clock."""
        for event, received in kept:
            self._tracer.take(event, received)

    def figures(self) -> dict[str, Any]:
        """Return how many spans were lost, and how many have no cause though they name one."""
        return {"spans_lost": self._collector.lost, "spans_orphaned": self._tracer.orphans}

    def close(self) -> None:
        """Send what waits."""
        self._tracer.close()
        self._collector.close()

    def _led_to(self, event_id: str) -> list[Event]:
        try:
            return [entry.event for entry in self._history.causes(self._domain, event_id).entries]
        except StoreError:
            return []  # then its effects wait for it, and begin a trace; no more depends on it
