"""Labelled metrics of simulated services: the same again, and what judges are told of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scripts.flow_data import networks
from scripts.service_data import CALM_S, simulate

from phalanx.analytics.datasets import NORMAL, Run, read_runs
from phalanx.analytics.detectors import Finding
from phalanx.analytics.metrics import MetricTable
from phalanx.analytics.service_rules import HIGH_CPU, LOAD_STEP, NETWORK_DELAY, TRAFFIC_SPIKE
from tests.nightly import at_night


@at_night
def test_a_run_is_labelled_with_what_went_wrong_and_is_the_same_again(tmp_path: Path) -> None:
    name = "quickstart-ring"
    for folder in ("first", "second"):
        path = tmp_path / folder / name / "trouble-01.csv"
        told = simulate(networks()[name], name, [TRAFFIC_SPIKE, NETWORK_DELAY], path)
    first, second = (next(iter(tmp_path.glob(f"{f}/*/*.csv"))) for f in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert told.startswith("traffic spike from 1")
    (run,) = read_runs(tmp_path / "first")
    table, labels = run.table, np.array(run.table.labels)
    assert set(table.times[labels != NORMAL] >= CALM_S) == {True}
    metric = dict(zip(table.names, table.values.T, strict=True))
    usual = {name: np.median(values[table.times < CALM_S]) for name, values in metric.items()}
    spike, slow = labels == TRAFFIC_SPIKE, labels == NETWORK_DELAY
    assert np.median(metric["requests_s"][spike]) > 2 * usual["requests_s"]
    assert np.median(metric["cpu_share"][spike]) > 0.85
    assert np.all(metric["rtt_ms"][slow][1:] > 1.2 * usual["rtt_ms"])


def test_troubles_and_false_alarms_are_counted_as_they_came() -> None:
    pytest.importorskip("torch", reason="judging trains models, which needs the extra train")
    from scripts.service_judge import AFTER_S, Count  # noqa: PLC0415

    labels = [NORMAL] * 10 + [LOAD_STEP] * 10 + [NORMAL] * 30
    table = MetricTable(np.arange(50.0), (), np.empty((50, 0)), tuple(labels))

    def said(**at: tuple[int, ...]) -> list[list[Finding]]:
        kinds = {"cpu": HIGH_CPU, "delay": NETWORK_DELAY}
        return [
            [Finding(kinds[k], "", None, 1.0, "") for k, rows in at.items() if row in rows]
            for row in range(50)
        ]

    count = Count()
    count.add(Run("shop", "one", table), said(delay=(2, 3, 4, 12), cpu=(15, 16, 21, 40, 49)))
    assert count.delays == {LOAD_STEP: [5.0]}, "another replica is right, a way around is not"
    assert count.false == {NETWORK_DELAY: 1, HIGH_CPU: 2}, "not that which ends a trouble"
    assert count.hours == pytest.approx((9 + 30 - AFTER_S) / 3600)
