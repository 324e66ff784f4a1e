"""Drives the fluid by the clock, and counts what passed.

Rates stay as they are between two ticks, so counters are exact at any moment. Once a tick
changes nothing the engine sleeps until something wakes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from phalanx.clock import Clock, Timer
from phalanx.infrastructure.simulated.fluid import Floats, Fluid, alike

HISTORY_S = 30.0
"""How far back the counters can be averaged."""
_ALIGNED = 1e-9


class Meter:
    """Counts flows at one place of the network, and mirrors them to another if asked.

    Args:
        flows: how many rows the fluid has for sources.
        mirror: stages of the path that the copies take; none if they stay at the PoP.
        most: most that is copied, MB/s.
        reserved: whether the path keeps that bandwidth for them; else they share it with all.

    """

    def __init__(self, flows: int, mirror: Sequence[int], most: float, *, reserved: bool) -> None:
        self._path = mirror
        self._reserved = reserved
        self.most = self.limit = most
        self.share = 1.0
        """Share of the copies that the links of the mirror carry now."""
        self.lost_s = 0.0
        """Seconds for which nothing arrived; those in which a part did count in proportion."""
        self.volume = np.zeros(flows)
        """MB seen since the meter was installed, one entry a flow."""
        self.aim(np.zeros(0, dtype=np.intp), np.zeros((0, 0), dtype=np.intp))

    def aim(
        self,
        rows: NDArray[np.intp],
        routes: NDArray[np.intp],
        detour: Sequence[int] = (),
    ) -> None:
        """Count the flows of ``rows`` as they are behind ``routes`` (hops x rows).

        ``detour``: stages that the copies pass before the path that is meant for them.
        """
        self.rows = rows
        self.routes = routes
        self.mirror = np.array([*detour, *self._path], dtype=np.intp)
        self.reserved = self._reserved and not detour
        self.rate = np.zeros(len(rows))


class Timed:
    """What is called again and again, by a timer that it sets itself."""

    _timer: Timer | None = None

    def stop(self) -> None:
        """Be called no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class TrafficEngine(Timed):
    """Ticks, counters and meters."""

    def __init__(
        self,
        clock: Clock,
        fluid: Fluid,
        tick_s: float,
        prepare: Callable[[], bool],
        react: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._fluid = fluid
        self._tick_s = tick_s
        self._prepare = prepare
        self._react = react
        self._ticks = -1
        self._synced = clock.now()
        self._meters: list[Meter] = []
        self._passed = np.zeros(0)
        self._refused = np.zeros(0)
        self._history = deque([(self._synced, self._passed, self._refused)])
        self.delivered = np.zeros(0)
        """MB that each flow has got to its end since the start."""
        self.goodput = np.zeros(0)
        """Of those, what was wanted there."""

    def wake(self) -> None:
        """Tick at the next chance: something changed."""
        if self._timer is None:
            due = ceil(self._clock.now() / self._tick_s - _ALIGNED)
            self._ticks = max(due, self._ticks + 1)
            self._timer = self._clock.call_at(self._ticks * self._tick_s, self._tick)

    def sync(self) -> None:
        """Bring all counters up to the present."""
        now = self._clock.now()
        fluid = self._fluid
        self._passed = _grown(self._passed, len(fluid.capacity))
        self._refused = _grown(self._refused, len(fluid.capacity))
        self.delivered = _grown(self.delivered, len(fluid.demand))
        self.goodput = _grown(self.goodput, len(fluid.demand))
        elapsed = now - self._synced
        if elapsed > 0:
            self._passed += fluid.passing * elapsed
            self._refused += fluid.arriving * fluid.dropping * elapsed
            self.delivered += fluid.delivering * elapsed
            # What was sent again for fear of loss arrives twice.
            self.goodput += np.minimum(fluid.delivering, fluid.demand) * elapsed
            for meter in self._meters:
                meter.volume[meter.rows] += meter.rate * elapsed
                meter.lost_s += (1.0 - meter.share) * elapsed
            self._synced = now

    def passed(self) -> Floats:
        """Return the MB that each stage has sent since the start, as of now."""
        self.sync()
        return self._passed.copy()

    def totals(self, stage: int) -> tuple[float, float]:
        """Return the MB that ``stage`` passed and refused since the start, as of now.

        It leaves the counters as they are, so that looking changes no digit of what others read.
        """
        elapsed = self._clock.now() - self._synced
        known = stage < len(self._passed)
        passed = float(self._passed[stage]) if known else 0.0
        refused = float(self._refused[stage]) if known else 0.0
        new = float(self._fluid.passing[stage]) * elapsed
        return passed + new, refused + self._refusing(stage) * elapsed

    def averages(self, stage: int, seconds: float) -> tuple[float, float]:
        """Return what ``stage`` passed and refused over the last ``seconds``, in MB/s.

        Averages over what is known if that is less (at most ``HISTORY_S``).
        """
        self.sync()
        now = self._synced
        since = max(now - seconds, self._history[0][0])
        if since >= now:
            return float(self._fluid.passing[stage]), self._refusing(stage)
        passed, refused = self._at(since, stage)
        span = now - since
        return (
            (float(self._passed[stage]) - passed) / span,
            (float(self._refused[stage]) - refused) / span,
        )

    def install(self, meter: Meter) -> None:
        """Begin to count."""
        self.sync()
        self._meters.append(meter)
        self._load()
        self.wake()

    def remove(self, meter: Meter) -> None:
        """Count no more."""
        self.sync()
        self._meters.remove(meter)
        self.wake()

    def _tick(self) -> None:
        self._timer = None
        self.sync()
        self._remember()
        changed = self._prepare()
        changed |= self._fluid.step(self._tick_s)
        if self._mirrored():
            changed = True
        self._react()
        if changed:
            self.wake()

    def _mirrored(self) -> bool:
        """Read the meters and load their mirrors; return whether that changes the fluid."""
        fluid = self._fluid
        priority = self._load()
        changed = not alike(priority, fluid.priority, 1e-6, 1e-9)
        fluid.priority = priority
        return changed

    def _load(self) -> Floats:
        """Read the meters; return what their mirrors put on each stage, in MB/s.

        Copies with a reservation are served first, others like all traffic; a link that is
        down carries none.
        """
        fluid = self._fluid
        room = np.where(fluid.up, fluid.capacity, 0.0)
        for meter in self._meters:
            meter.rate, meter.share = fluid.through(meter.rows, meter.routes), 1.0
        mirrors = [meter for meter in self._meters if len(meter.mirror)]
        copies = [min(meter.limit, float(np.sum(meter.rate))) for meter in mirrors]
        kept = [np.ones(len(meter.mirror) + 1) for meter in mirrors]
        priority = np.zeros(len(room))
        for _ in range(max(map(len, kept), default=0)):
            offered = {True: np.zeros(len(room)), False: np.zeros(len(room))}
            for meter, rate, share in zip(mirrors, copies, kept, strict=True):
                offered[meter.reserved][meter.mirror] += rate * share[:-1]
            left = np.maximum(room - offered[True], 0.0)
            served = {
                True: _fitting(room, offered[True]) * fluid.up,
                False: _fitting(left, fluid.arriving + offered[False]) * fluid.up,
            }
            priority = np.zeros(len(room))
            for meter, rate, share in zip(mirrors, copies, kept, strict=True):
                share[1:] = np.multiply.accumulate(served[meter.reserved][meter.mirror])
                priority[meter.mirror] += rate * share[1:]
        for meter, share in zip(mirrors, kept, strict=True):
            meter.share = float(share[-1])
        return np.minimum(priority, room)

    def _remember(self) -> None:
        history = self._history
        history.append((self._synced, self._passed.copy(), self._refused.copy()))
        while len(history) > 1 and history[1][0] <= self._synced - HISTORY_S:
            history.popleft()

    def _refusing(self, stage: int) -> float:
        return float(self._fluid.arriving[stage] * self._fluid.dropping[stage])

    def _at(self, time: float, stage: int) -> tuple[float, float]:
        """Return the counters of ``stage`` at a past time, between two ticks in proportion."""
        later = (self._synced, self._passed, self._refused)
        for entry in reversed(self._history):
            if entry[0] <= time:
                part = (time - entry[0]) / (later[0] - entry[0]) if later[0] > entry[0] else 0.0
                return _between(entry[1], later[1], stage, part), _between(
                    entry[2], later[2], stage, part
                )
            later = entry
        return 0.0, 0.0


def _fitting(room: Floats, offered: Floats) -> Floats:
    """Return the share of what is offered that there is room for."""
    return np.divide(room, offered, out=np.ones_like(room), where=offered > room)


def _between(early: Floats, late: Floats, stage: int, part: float) -> float:
    first = float(early[stage]) if stage < len(early) else 0.0
    last = float(late[stage]) if stage < len(late) else 0.0
    return first + (last - first) * part


def _grown(array: Floats, size: int) -> Floats:
    return array if len(array) == size else np.append(array, np.zeros(size - len(array)))
