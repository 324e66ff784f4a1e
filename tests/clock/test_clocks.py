from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.clock.virtual import VirtualClock, VirtualTimer
from phalanx.clock.wall import WallClock
from phalanx.runtime.processes.process import run_clock
from phalanx.runtime.processes.spec import RunSpec


def _fail() -> None:
    raise ZeroDivisionError


@pytest.fixture
def clock() -> Iterator[WallClock]:
    wall = WallClock(speed=100.0)
    yield wall
    wall.close()


# -- any clock ----------------------------------------------------------------------------------


@pytest.fixture(params=["wall", "virtual"])
def either(request: pytest.FixtureRequest, clock: WallClock) -> WallClock | VirtualClock:
    return clock if request.param == "wall" else VirtualClock()


def test_an_exception_propagates_and_leaves_the_rest(either: WallClock | VirtualClock) -> None:
    seen: list[int] = []
    either.call_at(0.1, _fail)
    either.call_at(0.1, partial(seen.append, 1))
    with pytest.raises(ZeroDivisionError):
        either.run()
    either.run()
    assert seen == [1]


def test_cancelled_timers_are_not_waited_for(either: WallClock | VirtualClock) -> None:
    timer = either.call_later(1e9, lambda: None)
    either.call_later(0.1, timer.cancel)
    either.run()
    assert either.pending == 0
    assert either.now() < 1e9


@pytest.mark.parametrize("when", [inf, nan])
def test_times_that_never_come_are_refused(either: WallClock | VirtualClock, when: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        either.call_at(when, lambda: None)


# -- time that passes ---------------------------------------------------------------------------


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
    clock.run(until=10_000.0, stop=lambda: "now" in seen)
    assert seen == ["soon", "now", "after", "after"], "a clock that has ended its run makes none"
    assert clock.pending == 1
    clock.run()
    assert (seen[4:], clock.pending) == (["now"], 0)


def test_an_exception_of_what_is_made_at_once_propagates(clock: WallClock) -> None:
    clock.loop.call_soon(clock.call_now, _fail)
    with pytest.raises(ZeroDivisionError):
        clock.run(until=10_000.0)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_is_positive(speed: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        WallClock(speed)


def test_a_clock_begins_where_it_is_told() -> None:
    clock = WallClock(speed=100.0, begin=250.0)
    seen: list[float] = []
    try:
        assert clock.now() == 250.0
        clock.call_at(251.0, lambda: seen.append(clock.now()))
        clock.call_at(100.0, lambda: seen.append(-1.0))
        clock.run(252.0)
        assert seen[0] == -1.0, "what is past is made at once"
        assert seen[1] >= 251.0
        assert clock.now() >= 252.0
    finally:
        clock.close()


def test_the_clock_of_a_process_goes_from_the_moment_at_which_its_begin_was_true() -> None:
    """What a process sets up before its clock runs would put it behind the others."""
    clock = run_clock(RunSpec(epoch_s=0.0, speed=2.0))
    try:
        began, now = clock.now(), clock.loop.time()
        clock.loop.time = lambda: now + 3.0  # type: ignore[method-assign]
        assert clock.now() >= began + 5.9
        seen: list[float] = []
        clock.call_at(clock.now() - 1.0, lambda: seen.append(clock.now()))
        clock.run(stop=lambda: bool(seen))
        assert seen == [clock.now()]
    finally:
        clock.close()


@pytest.mark.parametrize("begin", [float("nan"), float("inf")])
def test_a_clock_cannot_begin_at_no_time(begin: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        WallClock(begin=begin)


# -- time that jumps --------------------------------------------------------------------------


def test_time_jumps_to_each_timer() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []
    clock.call_at(5.0, lambda: seen.append(("late", clock.now())))
    clock.call_at(1.5, lambda: seen.append(("early", clock.now())))
    clock.run()
    assert seen == [("early", 1.5), ("late", 5.0)]
    assert clock.now() == 5.0


def test_calls_of_one_instant_keep_their_order() -> None:
    clock = VirtualClock()
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        clock.call_soon(lambda: seen.append("soon"))
        clock.call_at(clock.now(), lambda: seen.append("at once"))
        clock.call_at(clock.now() - 1, lambda: seen.append("past"))

    clock.call_at(1.0, first)
    clock.call_at(1.0, lambda: seen.append("second"))
    clock.run()
    assert seen == ["first", "second", "soon", "at once", "past"]


def test_until_includes_its_own_instant_and_sets_the_time() -> None:
    clock = VirtualClock()
    seen: list[float] = []
    for when in (1.0, 2.0, 2.5):
        clock.call_at(when, lambda: seen.append(clock.now()))
    clock.run(until=2.0)
    assert (seen, clock.now(), clock.pending) == ([1.0, 2.0], 2.0, 1)
    clock.run(until=7.0)
    assert (seen, clock.now(), clock.pending) == ([1.0, 2.0, 2.5], 7.0, 0)
    with pytest.raises(ValueError, match=r"it is 7\.0 already"):
        clock.run(until=6.0)


def test_stop_is_asked_between_calls() -> None:
    clock = VirtualClock()
    seen: list[int] = []
    for number in range(5):
        clock.call_soon(partial(seen.append, number))
        clock.call_at(1.0, partial(seen.append, 10 + number))
    clock.run(until=9.0, stop=lambda: len(seen) >= 7)
    assert seen == [0, 1, 2, 3, 4, 10, 11]
    assert (clock.now(), clock.pending) == (1.0, 3)
    clock.run(until=9.0)
    assert len(seen) == 10


def test_a_stop_after_the_last_call_keeps_the_time() -> None:
    clock = VirtualClock()
    seen: list[int] = []
    clock.call_at(3.0, partial(seen.append, 1))
    clock.run(until=9.0, stop=lambda: bool(seen))
    assert clock.now() == 3.0
    clock.call_at(4.0, partial(seen.append, 1))
    clock.run(until=9.0, stop=lambda: bool(seen))
    assert (clock.now(), seen) == (3.0, [1])


def test_cancelled_calls_are_not_made_nor_counted() -> None:
    clock = VirtualClock()
    seen: list[int] = []
    soon = clock.call_at(0.0, partial(seen.append, 1))
    later = clock.call_later(1.0, partial(seen.append, 2))
    clock.call_later(2.0, partial(seen.append, 3))
    soon.cancel()
    later.cancel()
    later.cancel()
    assert clock.pending == 1
    clock.run()
    later.cancel()
    assert (seen, clock.pending) == ([3], 0)


def test_a_call_made_cannot_be_cancelled() -> None:
    clock = VirtualClock()
    timers: list[VirtualTimer] = []

    def cancel_itself() -> None:
        timers[0].cancel()

    timers.append(clock.call_at(1.0, cancel_itself))
    clock.run()
    assert clock.pending == 0


def test_many_cancelled_timers_do_not_stay_in_memory() -> None:
    clock = VirtualClock()
    for _ in range(10_000):
        clock.call_at(100.0, lambda: None).cancel()
    assert clock.pending == 0
    assert len(clock._timers) < 200


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=200),
    st.lists(st.integers(0, 9), max_size=4),
)
def test_order_is_by_time_then_by_asking(asked: list[tuple[int, bool]], stops: list[int]) -> None:
    clock = VirtualClock()
    seen: list[tuple[float, int]] = []

    def note(number: int) -> None:
        seen.append((clock.now(), number))

    for number, (when, cancelled) in enumerate(asked):
        timer = clock.call_at(when, partial(note, number))
        if cancelled:
            timer.cancel()
    for until in sorted(stops):
        clock.run(until=until)
        assert clock.now() == until
    clock.run()
    expected = sorted((float(w), n) for n, (w, cancelled) in enumerate(asked) if not cancelled)
    assert seen == expected
    assert clock.pending == 0
