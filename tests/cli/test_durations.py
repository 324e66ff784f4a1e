from __future__ import annotations

import pytest
import typer

from phalanx.cli.terminal import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5 h", 5400), (" 15min ", 900), ("7d", 604_800), ("4w", 2_419_200)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-5s", "s", "5 years", "1e3s", "5s5s", "٥s", "3m"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration such as 90s"):
        duration(text)


def test_m_are_minutes_only_where_nobody_is_hurt_by_meaning_months() -> None:
    assert duration("3m", m=True) == 180
