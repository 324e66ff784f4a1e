from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phalanx.bus.seal_frames import WINDOW, ReplayWindow


@given(st.integers(0, 3), st.lists(st.integers(0, 3 * WINDOW) | st.integers(0, 1 << 64)))
def test_each_number_comes_in_once_unless_it_is_too_old(first: int, numbers: list[int]) -> None:
    window, taken = ReplayWindow(first), set[int]()
    for number in numbers:
        highest = max(taken, default=first - 1)
        expected = number >= first and number not in taken and number > highest - WINDOW
        assert window.fresh(number) is expected
        assert window.fresh(number) is expected, "to look changes nothing"
        if expected:
            window.mark(number)
            taken.add(number)
