"""What is said of a service: by whom, of which row, why, and when nothing may be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.analytics.explanations import causes, sentence, shapley
from phalanx.analytics.metrics import Matrix, MetricError
from phalanx.analytics.models import RebuildErrors
from phalanx.analytics.profiles import Windows, profile_of, windows_of
from phalanx.analytics.service_models import LATELY, MOST_RAISED, AutoencoderModel, TwoStages
from tests.analytics.small_models import (
    KINDS,
    NAMES,
    USUAL,
    card,
    model,
    rebuilds_what_is_usual,
    steps,
    two_stages,
)

REBUILDS = card(
    "autoencoder",
    threshold=1.0,
    rebuilt={
        "shop": RebuildErrors((2.0,) * 3, usual=0.5),
        "cart": RebuildErrors((1.0, 4.0, 1.0), usual=0.5),
    },
)
FLOATS = st.floats(-3.0, 3.0, width=32)


def test_trouble_is_told_with_its_row_and_its_kind_a_row_later() -> None:
    judge = two_stages()
    cpu = [0.5] * 10 + [9.0] * 2
    assert judge("shop", steps(10), USUAL).kind == "normal"
    first = judge("shop", steps(12, cpu=cpu).rows(0, 11), USUAL)
    assert (first.kind, first.at_s) == ("trouble", 10.0)
    assert [cause.metric for cause in first.causes] == ["cpu"]
    named = judge("shop", steps(12, cpu=cpu), USUAL)
    assert (named.kind, named.at_s) == ("cpu", 10.0)
    assert named.certainty > 0.5
    cause = named.causes[0]
    assert (cause.metric, cause.value, cause.since) == ("cpu", 9.0, 1)
    assert cause.usual == pytest.approx(0.5, rel=0.05)
    assert sentence("cpu", named.causes).startswith("cpu: cpu is 9, usually 0.507")


def test_what_is_far_from_all_that_is_known_is_unknown_and_latency_here_a_false_alarm() -> None:
    high = [0.5] * 10 + [9.0] * 2
    unknown = two_stages(far=6.0)("shop", steps(12, cpu=high), USUAL)
    assert (unknown.kind, unknown.score, unknown.threshold) == ("unknown", 6.0, 5.0)
    latency = [0.02] * 10 + [9.0] * 2
    assert two_stages()("shop", steps(12, latency=latency), USUAL).kind == "false alarm"
    assert two_stages(far=6.0)("shop", steps(12, latency=latency), USUAL).kind == "unknown"


def test_metrics_that_are_missing_are_named_and_too_many_are_an_error() -> None:
    judge = two_stages()
    verdict = judge("shop", steps(9).columns(("cpu", "memory")), USUAL)
    assert (verdict.kind, verdict.gaps) == ("normal", ("latency",))
    with pytest.raises(MetricError, match="missing"):
        judge("shop", steps(9).columns(("cpu",)), USUAL)
    with pytest.raises(MetricError, match="5 rows; 6 are needed"):
        judge("shop", steps(5), USUAL)
    rows = steps(9)
    rows.values[3:5, 0] = np.nan  # a short gap holds what was read before
    assert judge("shop", rows, USUAL).gaps == ()


def test_models_that_do_not_go_together_are_refused() -> None:
    detector = model(card("detector"), np.zeros((5, 4, 2)), (0.0, 0.0))
    other = model(card("classifier", kinds=KINDS), np.zeros((5, 4, 3)), (0.0,) * 3)
    with pytest.raises(MetricError, match="in this order"):
        TwoStages(other, detector)
    more = card("classifier", metrics=(*NAMES, "disk"))
    with pytest.raises(MetricError, match="different metrics"):
        TwoStages(detector, model(more, np.zeros((5, 5, 3)), (0.0,) * 3))
    with pytest.raises(MetricError, match="no autoencoder"):
        AutoencoderModel(detector)
    with pytest.raises(MetricError, match="does not say how large its errors may be"):
        AutoencoderModel(rebuilds_what_is_usual(card("autoencoder", threshold=0.4)))


def test_an_autoencoder_tells_what_it_cannot_rebuild() -> None:
    judge = AutoencoderModel(rebuilds_what_is_usual(REBUILDS))
    assert judge("shop", steps(9), USUAL).kind == "normal"
    assert judge("shop", steps(9, memory=[1e8] * 8 + [9e8]), USUAL).kind == "normal"  # one row
    verdict = judge("shop", steps(9, memory=[1e8] * 6 + [9e8] * 3), USUAL)
    far = np.log1p(np.log(10 / 2) / 0.1)  # nine times as much as usual
    assert (verdict.kind, verdict.threshold) == ("trouble", 1.0)
    assert verdict.score == pytest.approx(far / 2.0, rel=1e-2)
    assert [cause.metric for cause in verdict.causes] == ["memory"]
    assert verdict.causes[0].since == 2
    assert 0.5 < verdict.certainty < 1.0
    # Of a service that it was not trained on, errors may be as large as those of any other.
    other = judge("new", steps(9, memory=[1e8] * 6 + [9e8] * 3), USUAL)
    assert (other.kind, other.score) == ("normal", pytest.approx(far / 4.0, rel=1e-2))


def test_an_adaptive_threshold_follows_no_alarms_and_no_farther_than_it_may() -> None:
    fixed, adaptive = (
        AutoencoderModel(rebuilds_what_is_usual(REBUILDS), adaptive=each) for each in (False, True)
    )
    for judge, raised in ((fixed, 1.0), (adaptive, 1.08)):
        for _ in range(LATELY):
            assert not judge.alarm("shop", 0.54)
        assert judge.threshold("shop") == pytest.approx(raised)
        for _ in range(LATELY):
            assert judge.alarm("shop", 5.0)
        assert judge.threshold("shop") == pytest.approx(raised)  # alarms teach nothing
    for number in range(50 * LATELY):  # trouble that grows as slowly as may be
        adaptive.alarm("shop", min(0.54 + number / LATELY, 0.999 * adaptive.threshold("shop")))
        assert 1.0 <= adaptive.threshold("shop") <= MOST_RAISED
    for _ in range(LATELY):
        adaptive.alarm("shop", 0.01)
    assert adaptive.threshold("shop") == 1.0  # never below the one that was learned


# -- why --------------------------------------------------------------------------------------


def linear(weights: list[float], bias: float) -> object:
    def score(windows: Windows) -> Matrix:
        return windows[:, -1, :3].astype(float) @ np.array(weights) + bias

    return score


@given(
    weights=st.lists(FLOATS, min_size=3, max_size=3),
    values=st.lists(FLOATS, min_size=3, max_size=3),
)
def test_of_a_sum_each_metric_gets_its_own_part(weights: list[float], values: list[float]) -> None:
    window = np.zeros((2, 4), np.float32)
    window[-1, :3] = values
    found = shapley(linear(weights, 7.0), window)
    assert found == pytest.approx(np.array(weights) * np.array(values), abs=1e-4)


def test_of_a_product_both_get_half() -> None:
    def score(windows: Windows) -> Matrix:
        return (windows[:, -1, 0] * windows[:, -1, 1]).astype(float)

    window = np.full((1, 4), 2.0, np.float32)
    assert shapley(score, window) == pytest.approx([2.0, 2.0, 0.0])


def test_a_verdict_for_which_nothing_speaks_has_no_causes() -> None:
    window = np.ones((2, 4), np.float32)
    assert causes(linear([0.0] * 3, 1.0), window, USUAL, np.ones((2, 3))) == ()
    assert sentence("cpu", ()) == "cpu: no metric stands out"


# -- what is usual ----------------------------------------------------------------------------


def test_a_service_is_measured_in_what_is_usual_for_it() -> None:
    chance = np.random.default_rng(0)
    small = steps(200, cpu=0.1 * chance.lognormal(0, 0.3, 200))
    large = steps(200, cpu=7.0 * chance.lognormal(0, 0.3, 200))
    for table in (small, large):
        far = profile_of([table], NAMES).measure(table)
        assert abs(np.median(far[:, 0])) < 0.01
        assert 0.3 < np.abs(far[:, 0]).mean() < 0.9
        assert (far[:, 1:] == 0.0).all()  # what never changes is as usual
    spike = profile_of([small], NAMES).measure(steps(1, cpu=1.0))
    assert 1.5 < spike[0, 0] <= np.log1p(20.0)


def test_columns_that_are_constant_zero_or_unknown_are_no_reason_for_an_alarm() -> None:
    table = steps(50, cpu=0.0, memory=float("nan"))
    profile = profile_of([table], NAMES)
    far = profile.measure(table)
    assert (far[:, 0] == 0.0).all()
    assert np.isnan(far[:, 1]).all()
    assert (windows_of(far, 5)[:, :, 1] == 0.0).all()
    with pytest.raises(MetricError, match="19 rows do not tell what is usual: 20 are needed"):
        profile_of([table.rows(0, 19)], NAMES)
    table.values[3, 0] = np.inf
    with pytest.raises(MetricError, match="infinite"):
        profile_of([table], NAMES)


def test_a_metric_that_is_zero_while_all_is_well_is_seen_in_the_unit_of_other_rows() -> None:
    usual, empty = steps(50, cpu=0.0, memory=7.0), steps(50, cpu=0.0)
    bad = steps(50, cpu=[0.0] * 20 + [5e-10, float("inf")] + [2e-9] * 28)
    alone = profile_of([usual], NAMES)
    assert alone.measure(bad.rows(49, 50))[0, 0] == pytest.approx(0, abs=1e-6)
    for beside in ([bad], [empty]), ([bad],), ([empty], [bad]):
        profile = profile_of([usual], NAMES, beside=beside)
        assert profile.scale[:2] == (2e-9, 7.0)
        assert profile.measure(bad.rows(49, 50))[0, 0] > 2
        assert (profile.measure(usual) == 0).all()
    freak = steps(50, cpu=[1e-15] + [0.0] * 49)
    assert profile_of([freak], NAMES, beside=([bad],)).scale[0] == 2e-9
    assert profile_of([freak], NAMES, beside=([empty],)).scale[0] == 1e-15
    assert profile_of([usual], NAMES, profile, beside=([freak],)).scale == profile.scale


@given(st.lists(st.floats(0.0, 1e12), min_size=3, max_size=3))
def test_what_a_metric_was_is_told_back_from_how_far_it_is(values: list[float]) -> None:
    table = steps(1, **dict(zip(NAMES, values, strict=True)))
    far = USUAL.measure(table)
    again = USUAL.measure(steps(1, **dict(zip(NAMES, USUAL.value(far)[0].tolist(), strict=True))))
    assert again == pytest.approx(far, abs=1e-6)


def test_a_window_holds_what_came_before_its_row_and_so_much_after_it() -> None:
    far = np.arange(6.0)[:, None]
    before = windows_of(far, 3)
    assert before[:, :, 0].tolist()[:3] == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    around = windows_of(far, 3, after=1)
    assert around[:, :, 0].tolist()[0] == [0, 0, 1]
    assert around[:, :, 0].tolist()[-1] == [4, 5, 5]
    assert (before[:, :, 1] == [0.0, 0.5, 1.0]).all()
