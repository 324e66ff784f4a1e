"""Why a model said so, held against what is known exactly."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alarm_chart import alarm_svg
from bench_explanations import globally
from phalanx.analytics.explanations import (
    Cause,
    Score,
    causes,
    sentence,
    shapley,
)
from phalanx.analytics.metrics import Matrix, MetricTable
from phalanx.analytics.profiles import ServiceProfile, Windows
from phalanx.analytics.service_models import ServiceVerdict
from tests.nightly import NIGHTLY

METRICS = 5
NAMES = tuple("abcde")
PROFILE = ServiceProfile(NAMES, (10.0,) * METRICS, (0.7,) * METRICS, (0.2,) * METRICS)


def network(seed: int, metrics: int = METRICS) -> Score:
    """Return a small network that was never trained, with a score of 0 where all is usual."""
    chance = np.random.default_rng(seed)
    first, second = chance.normal(size=(metrics, 6)), chance.normal(size=6)

    def score(windows: Windows) -> Matrix:
        seen = windows[:, :, :-1].astype(float).mean(axis=1)
        return np.tanh(seen @ first) @ second

    return score


def window_of(values: list[float], rows: int = 1) -> Windows:
    return np.repeat([[*values, 0.0]], rows, axis=0).astype(np.float32)


def exactly(score: Score, window: Windows) -> Matrix:
    """Return Shapley values by their definition, over all sets of metrics."""

    def worth(told: tuple[int, ...]) -> float:
        kept = np.zeros(METRICS + 1, np.float32)
        kept[[*told, METRICS]] = 1.0
        return float(score((window * kept)[None])[0])

    found = np.zeros(METRICS)
    for metric in range(METRICS):
        others = [each for each in range(METRICS) if each != metric]
        for size in range(METRICS):
            weight = factorial(size) * factorial(METRICS - size - 1) / factorial(METRICS)
            for told in combinations(others, size):
                found[metric] += weight * (worth((*told, metric)) - worth(told))
    return found


@pytest.mark.skipif(not NIGHTLY, reason="SHAP takes seconds to load: make nightly")
@pytest.mark.filterwarnings("ignore")  # those of shap's own libraries
@pytest.mark.parametrize(("metrics", "apart"), [(5, 1e-5), (12, 0.15)])
def test_parts_of_metrics_agree_with_shap(metrics: int, apart: float) -> None:
    shap = pytest.importorskip("shap", reason="shap is not installed: extra explain")
    chance = np.random.default_rng(0)
    ranks = []
    for seed in range(20):
        score, window = network(seed, metrics), window_of([*chance.normal(size=metrics)], rows=3)

        def told(shown: Matrix, score: Score = score, window: Windows = window) -> Matrix:
            return score(window * np.pad(shown, ((0, 0), (0, 1)))[:, None, :])

        usual = shap.maskers.Independent(np.zeros((1, metrics)))
        exact = shap.explainers.Exact(told, usual)(np.ones((1, metrics)), silent=True).values[0]
        found = shapley(score, window)
        assert found == pytest.approx(exact, abs=apart * max(np.abs(exact).max(), 1))
        ranks.append(np.corrcoef(found.argsort().argsort(), exact.argsort().argsort())[0, 1])
    assert np.mean(ranks) > 0.95


far = st.lists(st.floats(-1.5, 2.5), min_size=METRICS, max_size=METRICS)
"""Not lower: no metric of the profile is below 0."""
seeds = st.integers(0, 10_000)


@given(far, seeds)
def test_the_parts_of_the_metrics_add_up_to_the_score(values: list[float], seed: int) -> None:
    score, window = network(seed), window_of(values, rows=3)
    whole = score(window[None])[0] - score(window[None] * 0)[0]
    assert shapley(score, window).sum() == pytest.approx(whole, abs=1e-5)


@given(far, seeds)
def test_of_few_metrics_the_parts_are_the_shapley_values(values: list[float], seed: int) -> None:
    score, window = network(seed), window_of(values)
    assert shapley(score, window) == pytest.approx(exactly(score, window), abs=1e-4)


@pytest.mark.parametrize("metrics", [1, 2, 3, 9, 12, 30])
def test_of_any_number_of_metrics_the_parts_are_near_the_shapley_values(metrics: int) -> None:
    """Of a score in which pairs of metrics count together, so that all parts are known."""
    chance = np.random.default_rng(metrics)
    alone, together = chance.normal(size=metrics), chance.normal(size=metrics)

    def score(windows: Windows) -> Matrix:
        seen = windows[:, 0, :-1].astype(float)
        return seen @ alone + (seen * np.roll(seen, 1, axis=1)) @ together + 5.0

    window = np.append(chance.normal(size=metrics), 0.0)[None].astype(np.float32)
    values = window[0, :-1].astype(float)
    pairs = values * np.roll(values, 1) * together
    exact = values * alone + (pairs + np.roll(pairs, -1)) / 2
    told = shapley(score, window)
    assert told.sum() == pytest.approx(exact.sum(), abs=1e-4)
    assert np.abs(told - exact).max() < 0.05 * np.abs(exact).max() + 1e-4


def test_where_metrics_add_up_the_parts_are_exact() -> None:
    weights = np.array([3.0, -1.0, 0.5, 0.0, 2.0])

    def score(windows: Windows) -> Matrix:
        return windows[:, :, :-1].astype(float).sum(axis=1) @ weights

    window = window_of([1.0, 1.0, -1.0, 2.0, 0.0], rows=2)
    assert shapley(score, window) == pytest.approx([6, -2, -1, 0, 0], abs=1e-6)


def test_causes_name_what_speaks_for_a_verdict_since_when_and_how_much() -> None:
    def score(windows: Windows) -> Matrix:
        return windows[:, :, 0].astype(float).sum(axis=1) - windows[:, :, 1].astype(float).sum(
            axis=1
        )

    window = np.zeros((4, METRICS + 1), np.float32)
    window[2:, 0], window[:, 1] = 2.0, 1.0
    values = PROFILE.value(window[:, :-1].astype(float))
    (found,) = causes(score, window, PROFILE, values)
    assert (found.metric, found.share, found.since) == ("a", 1.0, 1)
    assert found.value == pytest.approx(values[-1, 0])
    assert found.usual == pytest.approx(np.expm1(0.7) * 10)
    assert sentence("cpu", (found,)) == f"cpu: a is {found.value:.3g}, usually 10.1 (100%)"


def test_over_many_alarms_each_kind_has_its_metrics() -> None:
    parts = np.array([[3.0, 1.0, -5.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    told = globally(parts, ("cpu", "cpu", "delay"), ("a", "b", "c"))
    assert list(told) == ["cpu", "delay"]
    assert told["cpu"] == pytest.approx({"a": 0.625, "b": 0.375, "c": 0.0})
    assert next(iter(told["delay"])) == "c"


def test_an_alarm_is_drawn_with_all_its_causes() -> None:
    values = np.column_stack([np.arange(30.0), np.full(30, np.nan), *[np.ones(30)] * 3])
    table = MetricTable(np.arange(30.0), NAMES, values)
    found = (
        Cause("a", 0.75, 3, 29.0, 5.0),
        Cause("b", 0.25, 0, 1e9, 0.0),
    )
    verdict = ServiceVerdict("front <end>", 29.0, "cpu", 0.9, 1.0, 2.0, found)
    drawn = alarm_svg(verdict, table)
    tree = ElementTree.fromstring(drawn)  # noqa: S314 - our own
    told = [each.text for each in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert told == ["front <end>: cpu", "a, 75%", "29, usually 5", "b, 25%", "1e+09, usually 0"]
    assert "nan" not in drawn
    paths = [each.get("d") for each in tree.iter("{http://www.w3.org/2000/svg}path")]
    assert paths[1] is not None
    assert paths[1].count("L") == 29
