from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from phalanx.clock.wall import WallClock


def _fail() -> None:
    raise ZeroDivisionError


@pytest.fixture
def clock() -> Iterator[WallClock]:
    wall = WallClock(speed=100.0)
    yield wall
    wall.close()


def test_timers_come_in_order_and_not_early(clock: WallClock) -> None:
    seen: list[tuple[str, bool]] = []
    clock.call_at(0.4, lambda: seen.append(("late", clock.now() >= 0.39)))
    clock.call_at(0.2, lambda: seen.append(("early", clock.now() >= 0.19)))
    clock.call_soon(lambda: seen.append(("soon", True)))
    assert clock.now() == 0.0
    clock.run()
    assert seen == [("soon", True), ("early", True), ("late", True)]
    assert clock.pending == 0


def test_until_ends_a_run_and_leaves_the_rest(clock: WallClock) -> None:
    seen: list[int] = []
    clock.call_at(0.1, partial(seen.append, 1))
    clock.call_at(1e9, partial(seen.append, 2))
    clock.run(until=0.3)
    assert (seen, clock.pending) == ([1], 1)
    assert clock.now() >= 0.29


def test_stop_leaves_the_calls_of_the_same_round(clock: WallClock) -> None:
    seen: list[int] = []
    for number in range(4):
        clock.call_soon(partial(seen.append, number))
    cancelled = clock.call_at(0.0, partial(seen.append, 9))
    clock.run(stop=lambda: len(seen) == 2)
    assert (seen, clock.pending) == ([0, 1], 3)
    cancelled.cancel()
    clock.run()
    assert (seen, clock.pending) == ([0, 1, 2, 3], 0)


def test_what_the_loop_reports_can_be_dealt_with_at_once(clock: WallClock) -> None:
    seen: list[str] = []

    def report() -> None:
        clock.call_now(lambda: seen.append("now"))
        seen.append("after")

    clock.call_soon(lambda: seen.append("soon"))
    clock.loop.call_soon(report)
    clock.loop.call_soon(report)
    clock.run(until=1.0, stop=lambda: "now" in seen)
    assert seen == ["soon", "now", "after", "after"], "a clock that has ended its run makes none"
    assert clock.pending == 1
    clock.run()
    assert (seen[4:], clock.pending) == (["now"], 0)


def test_an_exception_of_what_is_made_at_once_propagates(clock: WallClock) -> None:
    clock.loop.call_soon(clock.call_now, _fail)
    with pytest.raises(ZeroDivisionError):
        clock.run(until=1.0)


def test_an_exception_propagates(clock: WallClock) -> None:
    seen: list[int] = []
    clock.call_soon(_fail)
    clock.call_soon(partial(seen.append, 1))
    with pytest.raises(ZeroDivisionError):
        clock.run()
    clock.run()
    assert seen == [1]


def test_cancelled_timers_are_not_waited_for(clock: WallClock) -> None:
    timer = clock.call_later(1e9, lambda: None)
    clock.call_later(0.1, timer.cancel)
    clock.run()
    assert clock.pending == 0


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_is_positive(speed: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        WallClock(speed)


def test_times_that_never_come_are_refused(clock: WallClock) -> None:
    with pytest.raises(ValueError, match="finite"):
        clock.call_at(float("inf"), lambda: None)


def test_a_clock_begins_where_it_is_told() -> None:
    clock = WallClock(speed=100.0, begin=250.0)
    seen: list[float] = []
    try:
        assert clock.now() == 250.0
        clock.call_at(251.0, lambda: seen.append(clock.now()))
        clock.call_at(100.0, lambda: seen.append(-1.0))
        clock.run(252.0)
        assert seen[0] == -1.0, "what is past is made at once"
        assert 251.0 <= seen[1] < 252.0
        assert clock.now() >= 252.0
    finally:
        clock.close()


@pytest.mark.parametrize("begin", [float("nan"), float("inf")])
def test_a_clock_cannot_begin_at_no_time(begin: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        WallClock(begin=begin)
