from __future__ import annotations

from functools import partial
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.clock.virtual import VirtualClock, VirtualTimer


def _fail() -> None:
    raise ZeroDivisionError


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


def test_an_exception_propagates_and_leaves_the_rest() -> None:
    clock = VirtualClock()
    seen: list[int] = []
    clock.call_at(1.0, _fail)
    clock.call_at(1.0, partial(seen.append, 1))
    with pytest.raises(ZeroDivisionError):
        clock.run()
    clock.run()
    assert seen == [1]


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


@pytest.mark.parametrize("when", [inf, nan])
def test_times_that_never_come_are_refused(when: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        VirtualClock().call_at(when, lambda: None)


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
