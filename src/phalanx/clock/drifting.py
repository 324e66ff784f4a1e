"""A clock that does not agree with another one, as that of another machine."""

from __future__ import annotations

from collections.abc import Callable

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
