"""Windows of time over decoded packets: where one ends, and how long it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec.structs import astuple

from phalanx.analytics.capture.decode import KEY, Decoded
from phalanx.analytics.capture.flows import FlowTable
from phalanx.domain.actions import FlowRecords

SHORTEST_S = 1e-3
"""A window counts as so long at least, so that rates stay finite."""


class Windows:
    """Cuts packets into windows by their own times.

    A window begins with its first packet and ends with the first one that is ``seconds`` later
    (or as much earlier: a clock that was set back begins a new window).
    """

    def __init__(self, seconds: float, table: FlowTable) -> None:
        self.seconds = seconds
        self._table = table
        self._start: float | None = None
        self._last = 0.0

    def add(self, packets: Decoded) -> Iterator[tuple[float, FlowRecords]]:
        """Count packets; yield each window that they end: when it began, what it held."""
        keys, flags, payload, octets, time = astuple(packets)
        while len(time):
            if self._start is None:
                self._start = self._last = float(time[0])
            outside = np.flatnonzero(np.abs(time - self._start) >= self.seconds)
            count = int(outside[0]) if len(outside) else len(time)
            if count:
                self._last = max(self._last, float(time[:count].max()))
                self._table.add(
                    keys[:count].view(f"V{KEY}").ravel().tolist(),
                    flags[:count].tolist(),
                    payload[:count].tolist(),
                    octets[:count].tolist(),
                )
            if count < len(time):
                later = float(time[count]) > self._start
                yield self._start, self._table.close(self.seconds if later else self._elapsed())
                self._start = None
            keys, flags, payload, octets, time = (
                column[count:] for column in (keys, flags, payload, octets, time)
            )

    def end(self) -> Iterator[tuple[float, FlowRecords]]:
        """Yield the window that is still open."""
        if self._start is not None:
            yield self._start, self._table.close(self._elapsed())
            self._start = None

    def _elapsed(self) -> float:
        assert self._start is not None
        return max(SHORTEST_S, self._last - self._start)
