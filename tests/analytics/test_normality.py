"""How soon trouble is found by what was trained on normal runs alone."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace as with_

pytest.importorskip("torch", reason="training needs the extra train")

from phalanx.analytics import evaluation
from phalanx.analytics.evaluation import AlarmScore
from phalanx.analytics.metrics import MetricError
from phalanx.analytics.training import REBUILT
from tests.analytics.made_runs import runs

SHORT = with_(REBUILT, epochs=4, steps=60, batch=100)


def test_each_method_is_judged_on_runs_that_it_was_not_trained_on() -> None:
    found = evaluation.alarm_scores(runs(5, ("flood", "stall")), SHORT)
    by = {(one.method, one.service): one for one in found}
    methods = {one.method for one in found}
    (metric,) = (method for method in methods if method.startswith(evaluation.METRIC))
    assert methods == {
        evaluation.FIXED, evaluation.ADAPTIVE, evaluation.RAISED, evaluation.PUBLISHED,
        evaluation.MAHALANOBIS, metric,
    }  # fmt: skip
    assert {service for _, service in by} == {"cart", "streamer"}
    for one in found:
        assert one.hours == pytest.approx(5 * 259 / 3600)
        assert {kind: len(rows) for kind, rows in one.found.items()} == {"flood": 5, "stall": 5}
    for service in ("cart", "streamer"):
        fixed, raised = by[evaluation.FIXED, service], by[evaluation.RAISED, service]
        assert fixed.soon("flood") == 1.0
        assert fixed.false_alarms <= 2
        assert raised.false_alarms <= fixed.false_alarms
        assert raised.soon() <= fixed.soon()


def test_an_alarm_counts_where_it_begins() -> None:
    normal, trouble = runs(1, ("flood",))[:2]
    alarmed = np.zeros(len(normal.table), bool)
    alarmed[[0, 1, 5, 42, 43, 200]] = True
    score = AlarmScore("any", "cart", {})
    evaluation._count(score, normal, alarmed)
    assert (score.false_alarms, score.found) == (4, {})
    evaluation._count(score, trouble, alarmed)  # its flood begins in row 40
    assert (score.false_alarms, score.found) == (4, {"flood": [3]})
    alarmed[42:44] = False
    evaluation._count(score, trouble, alarmed)
    assert score.found == {"flood": [3, None]}
    assert score.soon("flood") == 0.5


def test_a_service_without_normal_runs_to_learn_from_is_refused() -> None:
    few = [run for run in runs(4) if run.normal is None or run.part == 0]
    with pytest.raises(MetricError, match="cart: it has less than two normal runs"):
        evaluation.alarm_scores(few, SHORT)
