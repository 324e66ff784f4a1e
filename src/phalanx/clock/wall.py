"""Real time: the Clock port over an asyncio event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import isfinite


class WallTimer:
    """A call at a real time; implements ``Timer``."""

    __slots__ = ("_call", "_clock", "_handle", "when")

    def __init__(self, clock: WallClock, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self._clock = clock
        self._call: Callable[[], None] | None = call
        self._handle: asyncio.Handle | None = None

    def cancel(self) -> None:
        """Take the call back; without effect once it was made."""
        if self._call is not None:
            self._call = None
            self._clock._pending -= 1
            if self._handle is not None:
                self._handle.cancel()

    def _arm(self, zero: float, speed: float) -> None:
        loop = self._clock.loop
        when = zero + self.when / speed
        if when <= loop.time():
            self._handle = loop.call_soon(self._fire)
        else:
            self._handle = loop.call_at(when, self._fire)

    def _fire(self) -> None:
        if self._clock._running:
            call, self._call = self._call, None
            if call is not None:
                self._clock._make(call)
        else:
            # The loop finishes its round after it was told to stop: keep that for the next run.
            self._handle = self._clock.loop.call_soon(self._fire)


class WallClock:
    """Seconds since ``run`` was first called, times ``speed``; implements ``Clock``.

    Processes of one run that start at different times agree on the time by ``begin``, if their
    clocks go from the moment at which that was true. A step of the machine's clock does not move
    this one.

    The clock owns its event loop (``loop``), which transports may use for their I/O. Close
    the clock when done with it.
    """

    def __init__(self, speed: float = 1.0, begin: float = 0.0, *, going: bool = False) -> None:
        """Make a clock.

        Args:
            speed: seconds of this clock per second.
            begin: the time that it shows first, in seconds.
            going: whether it goes from now on; else it stands until it runs.

        Raises:
            ValueError: if the speed is not positive, or a figure not finite.

        """
        if not (isfinite(speed) and speed > 0):
            raise ValueError(f"the speed of a clock is a positive number, not {speed}")
        if not isfinite(begin):
            raise ValueError(f"a clock begins at a finite time, not {begin}")
        self.loop = asyncio.new_event_loop()
        self._speed = speed
        self._begin = begin
        self._started = self.loop.time() if going else None
        self._early: list[WallTimer] = []
        self._pending = 0
        self._bounded = False
        self._running = False
        self._stop: Callable[[], bool] | None = None
        self._error: BaseException | None = None

    def now(self) -> float:
        """Return the time in seconds; that of its begin until the first ``run``."""
        if self._started is None:
            return self._begin
        return self._begin + (self.loop.time() - self._started) * self._speed

    def call_at(self, when: float, call: Callable[[], None]) -> WallTimer:
        """Make ``call`` at time ``when``, or soon if that is past.

        Raises:
            ValueError: if ``when`` is not a finite time.

        """
        if not isfinite(when):
            raise ValueError(f"a call needs a finite time, not {when}")
        timer = WallTimer(self, when, call)
        self._pending += 1
        if self._started is None:
            self._early.append(timer)
        else:
            timer._arm(self._zero(), self._speed)
        return timer

    def call_later(self, delay: float, call: Callable[[], None]) -> WallTimer:
        """Make ``call`` in ``delay`` seconds of this clock."""
        return self.call_at(self.now() + delay, call)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make ``call`` at the present time, after what is already waiting."""
        self._pending += 1
        self.loop.call_soon(self._make, call)

    def call_now(self, call: Callable[[], None]) -> None:
        """Make ``call`` within the callback of the loop that asks for it, if the clock runs.

        For transports: what came in is dealt with in the turn of the loop in which it was read.
        Not to be asked for by what the clock itself calls.
        """
        self._pending += 1
        self._make(call)

    @property
    def pending(self) -> int:
        """How many calls are still to be made."""
        return self._pending

    def run(self, until: float | None = None, stop: Callable[[], bool] | None = None) -> None:
        """Run the event loop until the time ``until``, or until no call is left.

        With ``until`` the loop goes on when nothing is left: messages may still arrive.

        Args:
            until: time in seconds; None: as long as there are calls to make.
            stop: asked after each call (and at the start); ends the run once it says true.

        Raises:
            BaseException: whatever a call raises; the clock can be run again afterwards.

        """
        if self._started is None:
            self._started = self.loop.time()
            early, self._early = self._early, []
            for timer in sorted(early, key=lambda timer: timer.when):
                timer._arm(self._zero(), self._speed)
        self._stop, self._bounded, self._running = stop, until is not None, True
        end = None
        if until is not None:
            end = self.loop.call_at(self._zero() + until / self._speed, self._halt)
        try:
            if not self._over():
                self.loop.run_forever()
        finally:
            self._stop, self._running = None, False
            if end is not None:
                end.cancel()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Close the event loop; calls that are left are not made."""
        self.loop.close()

    def _zero(self) -> float:
        """Return when this clock showed, or would have shown, 0, by the loop's time."""
        assert self._started is not None
        return self._started - self._begin / self._speed

    def _make(self, call: Callable[[], None]) -> None:
        if not self._running:  # as in WallTimer._fire
            self.loop.call_soon(self._make, call)
            return
        self._pending -= 1
        try:
            call()
        except BaseException as error:
            self._error = error
            self._halt()
            return
        if self._over():
            self._halt()

    def _over(self) -> bool:
        if self._stop is not None and self._stop():
            return True
        return not self._bounded and self._pending == 0

    def _halt(self) -> None:
        self._running = False
        self.loop.stop()
