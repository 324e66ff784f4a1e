"""When what is held runs out."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from phalanx.clock import Clock, Timer

Lease = tuple[str, str]
"""What it is for (``hold`` or ``instance``), and the id of that."""


class Leases:
    """Expiry times, and one timer for the earliest."""

    def __init__(self, clock: Clock, expire: Callable[[Lease], None]) -> None:
        self._clock = clock
        self._expire = expire
        self._until: dict[Lease, float] = {}
        self._heap: list[tuple[float, int, Lease]] = []
        self._count = 0
        self._timer: Timer | None = None
        self._armed = 0.0

    def __contains__(self, lease: Lease) -> bool:
        return lease in self._until

    def grant(self, lease: Lease, ttl_s: float) -> None:
        """Let ``lease`` run for ``ttl_s`` seconds from now, or as long as it already does."""
        until = max(self._clock.now() + ttl_s, self._until.get(lease, 0.0))
        known = lease in self._until
        self._until[lease] = until
        if not known:
            self._push(until, lease)
            self._arm()

    def drop(self, lease: Lease) -> None:
        """Forget a lease: what it was for has ended."""
        self._until.pop(lease, None)

    def stop(self) -> None:
        """Let nothing expire any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._until.clear()
        self._heap.clear()

    def _push(self, until: float, lease: Lease) -> None:
        self._count += 1
        heappush(self._heap, (until, self._count, lease))

    def _arm(self) -> None:
        if self._heap and (self._timer is None or self._heap[0][0] < self._armed):
            if self._timer is not None:
                self._timer.cancel()
            self._armed = self._heap[0][0]
            self._timer = self._clock.call_at(self._armed, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            _, _, lease = heappop(self._heap)
            until = self._until.get(lease)
            if until is None:
                continue
            if until > now:  # Renewed since it was pushed.
                self._push(until, lease)
                continue
            del self._until[lease]
            self._expire(lease)
        self._arm()
