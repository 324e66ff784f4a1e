"""Virtual time: a clock that jumps from one timer to the next.

A clock that does not agree with another one, as that of another machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

from phalanx.clock import Clock, Timer


class DriftingTimer:
    """A call at a time of a drifting clock; implements ``Timer``."""

    __slots__ = ("_call", "_clock", "_timer", "when")

    def __init__(self, clock: DriftingClock, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self._clock = clock
        self._call = call
        self._timer: Timer | None = None

    def cancel(self) -> None:
        """Take the call back; without effect once it was made."""
        self._clock._timers.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        clock = self._clock
        self._timer = clock._clock.call_at(clock._true(self.when), self._fire)

    def _fire(self) -> None:
        clock = self._clock
        del clock._timers[self]
        clock._least = max(clock._least, self.when)
        self._call()


class DriftingClock:
    """Runs fast or slow against ``clock``, and jumps ahead; implements ``Clock``."""

    def __init__(self, clock: Clock) -> None:
        """Make a clock that agrees with ``clock`` until it is adjusted."""
        self._clock = clock
        self._since, self._own, self._rate = 0.0, 0.0, 1.0
        self._least = 0.0
        """No call is made before its time: what dividing by the rate rounds off is added."""
        self._timers: dict[DriftingTimer, None] = {}

    def now(self) -> float:
        """Return the time in seconds."""
        return max(self._own + (self._clock.now() - self._since) * self._rate, self._least)

    def fast_s(self) -> float:
        """Return how far the clock is ahead, in seconds."""
        return self.now() - self._clock.now()

    def adjust(self, rate: float, jump_s: float = 0.0) -> None:
        """Jump ahead, and run at ``rate`` seconds a second from now on."""
        self._own, self._since, self._rate = self.now() + jump_s, self._clock.now(), rate
        for timer in tuple(self._timers):
            timer._arm()

    def call_at(self, when: float, call: Callable[[], None]) -> DriftingTimer:
        """Make ``call`` at time ``when``, or soon if that is past."""
        timer = DriftingTimer(self, when, call)
        self._timers[timer] = None
        timer._arm()
        return timer

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make ``call`` at the present time, after what is already waiting."""
        self._clock.call_soon(call)

    def _true(self, when: float) -> float:
        return self._since + (when - self._own) / self._rate


_FEW = 64
"""Cancelled timers that are never worth a clean-up."""


class VirtualTimer:
    """A call at a virtual time; implements ``Timer``."""

    __slots__ = ("_call", "_clock")

    def __init__(self, clock: VirtualClock, call: Callable[[], None]) -> None:
        self._clock = clock
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Take the call back in constant time; without effect once it was made."""
        if self._call is not None:
            self._call = None
            self._clock._forget()

    def _take(self) -> Callable[[], None] | None:
        """Return the call, None if it was cancelled; from now on there is none to cancel."""
        call, self._call = self._call, None
        return call

    def _fire(self) -> None:
        call = self._take()
        if call is None:
            self._clock._cancelled -= 1
        else:
            call()


class VirtualClock:
    """A clock whose time passes only when nothing is left to do at the present.

    Calls are made one at a time, in an order that depends on nothing but the order in which
    they were asked for: timers by time, then by the order asked; ``call_soon`` after all
    timers of the same instant. Implements ``Clock``.
    """

    __slots__ = ("_asked", "_cancelled", "_now", "_soon", "_timers")

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._asked = 0
        self._cancelled = 0

    def now(self) -> float:
        """Return the time in seconds since the start."""
        return self._now

    def call_at(self, when: float, call: Callable[[], None]) -> VirtualTimer:
        """Make ``call`` at time ``when``, or soon if that is not in the future.

        Raises:
            ValueError: if ``when`` is not a finite time.

        """
        timer = VirtualTimer(self, call)
        if self._now < when < inf:
            self._asked += 1
            heappush(self._timers, (when, self._asked, timer))
        elif when <= self._now:
            self._soon.append(timer._fire)
        else:
            raise ValueError(f"a call needs a finite time, not {when}")
        return timer

    def call_later(self, delay: float, call: Callable[[], None]) -> VirtualTimer:
        """Make ``call`` in ``delay`` seconds."""
        return self.call_at(self._now + delay, call)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make ``call`` at the present time, after what is already waiting."""
        self._soon.append(call)

    @property
    def pending(self) -> int:
        """How many calls are still to be made."""
        return len(self._timers) + len(self._soon) - self._cancelled

    def run(self, until: float | None = None, stop: Callable[[], bool] | None = None) -> None:
        """Make the calls in order, until none is left or the time ``until`` is over.

        Calls at ``until`` itself are made. If ``until`` is given the time is ``until``
        afterwards, even if nothing was left to do before.

        Args:
            until: time in seconds, not before the present; None: no limit.
            stop: asked before each call; once it says true nothing more happens.

        Raises:
            ValueError: if ``until`` has passed already.
            Exception: whatever a call raises; the clock can be run again afterwards.

        """
        if until is not None and until < self._now:
            raise ValueError(f"cannot run until {until}: it is {self._now} already")
        end = inf if until is None else float(until)
        timers, soon = self._timers, self._soon
        while True:
            if stop is not None and stop():
                return
            if timers and timers[0][0] <= self._now:
                heappop(timers)[2]._fire()
            elif soon:
                soon.popleft()()
            else:
                while timers and timers[0][2]._call is None:
                    heappop(timers)
                    self._cancelled -= 1
                if not timers or timers[0][0] > end:
                    break
                self._now = float(timers[0][0])
                heappop(timers)[2]._fire()
        if until is not None:
            self._now = end

    def _forget(self) -> None:
        """Count a cancelled timer; clear the heap of them when they are the larger part."""
        self._cancelled += 1
        timers = self._timers
        if self._cancelled > _FEW and self._cancelled * 2 > len(timers):
            kept = [entry for entry in timers if entry[2]._call is not None]
            self._cancelled -= len(timers) - len(kept)
            timers[:] = kept
            heapify(timers)
