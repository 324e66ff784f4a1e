"""Forecasts without training are held against persistence, and advice against what there is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from phalanx.analytics.metrics import Matrix, MetricError, MetricTable
from phalanx.analytics.workload import LIKELY, DampedTrend, assess, walked
from phalanx.domain.series import INDICATORS, WorkloadForecast

ROWS, SERIES, STEPS = 120, 200, 4
AT = np.arange(ROWS)[:, None]


def skills(values: Matrix) -> tuple[float, float]:
    """Return the skill over persistence of all series together, and of the worst."""
    told, errors = walked(values, STEPS)
    stays = (errors + told[: len(errors)]) ** 2
    lost = errors**2
    return float(1 - lost.sum() / stays.sum()), float((1 - lost.sum(0) / stays.sum(0)).min())


def made(kind: str, spread: float = 0.01) -> Matrix:
    rng = np.random.default_rng(5)
    begins = rng.integers(20, 80, SERIES)
    shapes: dict[str, Callable[[], Matrix]] = {
        "walk": lambda: np.cumsum(rng.normal(0, 0.02, (ROWS, SERIES)), axis=0),
        "noise": lambda: np.full((ROWS, SERIES), 0.3),
        "step": lambda: np.where(begins <= AT, 0.8, 0.2),
        "spikes": lambda: 0.2 + 0.5 * (rng.random((ROWS, SERIES)) < 0.05),
        "saw": lambda: 0.2 + (AT + begins) % 12 * 0.05,
        "rise": lambda: 0.2 + np.clip(AT - begins, 0, 40) * 0.015,
        "tide": lambda: 0.4 + 0.2 * np.sin(AT / 15 + begins),
    }
    return np.asarray(shapes[kind]() + rng.normal(0, spread, (ROWS, SERIES)))


@pytest.mark.parametrize("kind", ["walk", "noise", "step", "spikes", "saw"])
def test_what_cannot_be_foretold_is_left_to_persistence(kind: str) -> None:
    every, worst = skills(made(kind))
    assert every > -0.02
    assert worst > -0.15


@pytest.mark.parametrize("kind", ["rise", "tide"])
def test_what_goes_on_is_foretold_better_than_by_persistence(kind: str) -> None:
    every, worst = skills(made(kind))
    assert every > 0.3
    assert worst > 0.1


def test_nothing_of_the_future_is_in_a_forecast() -> None:
    values = made("rise")
    told, _ = walked(values, STEPS)
    early, _ = walked(values[:70], STEPS)
    assert told[:70] == pytest.approx(early)


def test_most_of_what_comes_lies_in_the_interval() -> None:
    values, within, many = made("tide"), 0, 0
    names = tuple(map(str, range(SERIES)))
    for now in range(60, ROWS - STEPS):
        table = MetricTable(np.arange(now) * 5.0, names, values[:now])
        for told, came in zip(DampedTrend(STEPS)("a", table), values[now + 3], strict=True):
            within, many = within + (told.low <= came <= told.high), many + 1
            assert told.low <= told.value <= told.high
            assert told.ahead_s == 5.0 * STEPS
    assert 0.8 < within / many < 0.98


def test_a_forecast_of_now_and_one_of_too_little() -> None:
    table = MetricTable(np.arange(8.0), ("cpu",), np.array([[0.1, 0.2, np.nan, 0.4] * 2]).T)
    (told,) = DampedTrend(0)("a", table)
    assert (told.value, told.ahead_s, told.skill) == (pytest.approx(0.4), 0.0, 0.0)
    with pytest.raises(MetricError, match="a: 5 rows; 6 are needed"):
        DampedTrend(2)("a", table.rows(0, 5))


def told(alarm: str = "", **courses: Matrix) -> WorkloadForecast:
    rng = np.random.default_rng(1)
    flat = np.full(60, 0.2)
    columns = [np.asarray(courses.get(name, flat)) for name in INDICATORS]
    values = np.clip(np.array(columns).T + rng.normal(0, 0.004, (60, len(columns))), 0, 1)
    table = MetricTable(np.arange(60) * 5.0, INDICATORS, values)
    return assess("east", table, DampedTrend(STEPS)("east", table), alarm)


def grown(to: float, rows: int) -> Matrix:
    return 0.2 + (to - 0.2) * np.clip((np.arange(60) - 59 + rows) / rows, 0, 1)


def test_what_is_as_usual_is_left() -> None:
    said = told()
    assert (said.advice, said.anomaly, said.signs) == ("leave", 0.0, ())
    usual = next(each for each in said.indicators if each.name == "cores")
    assert usual.usual_low < 0.2 < usual.usual_high < 0.3


def test_growth_that_goes_on_steadily_is_scaled_for_and_is_no_anomaly() -> None:
    course = grown(0.6, 16)
    said = told(rx=course, tx=course)
    assert said.advice == "scale"
    assert said.anomaly < 0.2
    rx = next(each for each in said.indicators if each.name == "rx")
    assert rx.expected > rx.now + 0.05
    assert rx.skill > 0.2


def test_a_crowd_that_is_answered_is_scaled_for_and_a_flood_that_is_not_is_an_anomaly() -> None:
    crowd = told(rx=grown(0.7, 1), tx=grown(0.7, 1))
    assert crowd.advice == "scale"
    assert crowd.anomaly < LIKELY
    flood = told(rx=grown(0.7, 1))
    assert flood.signs == ("one-sided", "sudden", "unusual")
    assert flood.anomaly >= LIKELY
    assert (flood.advice, flood.reason[-23:]) == ("migrate", "and nothing explains it")


def test_what_an_alarm_explains_is_throttled_even_where_it_fills_the_pop() -> None:
    said = told("underAttack(10.0.0.10)", rx=grown(0.99, 3))
    assert said.advice == "throttle"
    assert said.reason == "underAttack(10.0.0.10) explains it"
    assert said.anomaly >= 0.8


def test_a_pop_that_will_be_full_is_left_for_another() -> None:
    said = told(memory=grown(0.85, 16))
    assert said.advice == "migrate"
    assert said.reason.startswith("memory will be 9")
    assert all(0 <= v <= 1 for e in said.indicators for v in (e.low, e.high, e.expected))


def test_what_was_never_seen_before_is_not_unusual_yet() -> None:
    rows = np.linspace(0.1, 0.8, 8)[:, None] * np.ones(5)
    table = MetricTable(np.arange(8) * 5.0, INDICATORS, rows)
    said = assess("east", table, DampedTrend(STEPS)("east", table))
    assert said.anomaly == 0.0
    assert {(e.usual_low, e.usual_high) for e in said.indicators} == {(0.0, 1.0)}
