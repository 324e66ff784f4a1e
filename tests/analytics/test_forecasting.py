"""What a load will be, between what, and when nobody can say."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from phalanx.analytics.forecasting import (
    LoadForecaster,
    changes,
    level_of,
    leveled,
    windows_before,
)
from phalanx.analytics.metrics import MetricError
from tests.analytics.small_models import NAMES, card, levels, model, steps

NAN = float("nan")


def forecaster(trust: tuple[float, ...] = (1.0, 0.5)) -> LoadForecaster:
    """Tell that the cpu grows by as much as it did in the last row, the memory as much in ten."""
    weights = np.zeros((5, 4, 2))
    weights[-1, 0, 0] = weights[-1, 1, 1] = 1.0
    weights[-2, 0, 0] = weights[-2, 1, 1] = -1.0
    of = card(
        "forecaster",
        targets=("cpu", "memory"),
        horizons=(10,),
        trust=trust,
        errors=((-1.0, 2.0), (0.0, 0.0)),
        levels=levels(shop=100.0),
    )
    return LoadForecaster(model(of, weights, (0.0, 0.0)))


def test_a_forecast_is_what_is_now_and_the_change_that_is_believed() -> None:
    rows = steps(8, cpu=[100, 100, 100, 100, 100, 100, 100, 104], memory=100 + np.arange(8.0))
    cpu, memory = forecaster()("shop", rows.columns(NAMES))
    assert (cpu.metric, cpu.at_s, cpu.ahead_s) == ("cpu", 7.0, 10.0)
    assert (cpu.value, cpu.low, cpu.high) == pytest.approx((108.0, 98.0, 128.0))
    assert memory.value == pytest.approx(107.5)
    level = replace(levels(shop=100.0)["shop"], trust=(0.0, 1.0), errors=((-2.0, 0.0),) * 2)
    cpu, memory = forecaster()("shop", rows, level)  # believed as for this service alone
    assert (cpu.value, cpu.low, cpu.high) == pytest.approx((104.0, 84.0, 104.0))
    assert memory.value == pytest.approx(108.0)
    none = forecaster((0.0, 0.0))("shop", rows)
    assert [each.value for each in none] == pytest.approx([104.0, 107.0])


def test_a_service_that_was_not_trained_on_is_measured_by_its_own_rows() -> None:
    rows = steps(8, cpu=np.arange(8.0), memory=5.0)
    cpu, memory = forecaster()("other", rows)
    assert cpu.value == pytest.approx(8.0, abs=1e-3)
    assert memory.value == pytest.approx(5.0)


def test_without_a_late_value_nothing_is_forecast() -> None:
    with pytest.raises(MetricError, match="memory was not read lately"):
        forecaster()("shop", steps(8, cpu=1.0, memory=[1.0] * 5 + [NAN] * 3, latency=1.0))
    held = forecaster()("shop", steps(8, cpu=100.0, memory=[100.0] * 7 + [NAN], latency=1.0))
    assert held[1].value == pytest.approx(100.0)
    with pytest.raises(MetricError, match="3 rows; 5 are needed"):
        forecaster()("shop", steps(3))
    with pytest.raises(MetricError, match="infinite"):
        forecaster()("shop", steps(8, cpu=np.inf))
    with pytest.raises(MetricError, match="nothing is known of latency"):
        level_of([steps(8, latency=NAN)], NAMES)
    with pytest.raises(MetricError, match="is a detector, no forecaster"):
        LoadForecaster(model(card("detector"), np.zeros((5, 4, 2)), (0.0, 0.0)))


def test_windows_and_the_changes_after_them_go_together() -> None:
    values = leveled(steps(12, cpu=np.arange(12.0)), levels(shop=1.0)["shop"])
    assert values[:, 0] == pytest.approx(10 * (np.arange(12.0) - 1))
    windows = windows_before(np.arange(12.0)[:, None] / 2, 4)
    told = changes(np.arange(12.0)[:, None] ** 2, 4, (0,), (1, 3))
    assert len(told) == len(windows) - 3
    for end, each in zip(range(3, 9), told, strict=True):
        assert each.tolist() == [(end + 1) ** 2 - end**2, (end + 3) ** 2 - end**2]
        assert windows[end - 3, :, 0].tolist() == [(end - back) / 2 for back in (3, 2, 1, 0)]
