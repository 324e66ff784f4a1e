"""Forecasts of load: what a metric will be some seconds from now, and between what it will lie.

A model says by how much a metric changes. So much of that is believed as helped on rows that were
held back from training: a model that has learned nothing there says that all stays as it is.
"""

from __future__ import annotations

import numpy as np

from phalanx.analytics.metrics import Matrix, MetricError, MetricTable, held
from phalanx.analytics.models import Level, Model
from phalanx.analytics.profiles import HELD, Windows
from phalanx.domain.series import Forecast

FARTHEST = 8.0
"""Spreads from the mean beyond which all is the same."""


def level_of(tables: list[MetricTable], names: tuple[str, ...]) -> Level:
    """Return mean and deviation of metrics in tables of one service.

    Raises:
        MetricError: if nothing is known of one.

    """
    values = np.concatenate([table.columns(names).values for table in tables])
    known = np.isfinite(values)
    if not known.any(axis=0).all():
        missing = [name for name, there in zip(names, known.any(axis=0), strict=True) if not there]
        raise MetricError(f"nothing is known of {', '.join(missing)}")
    values = np.where(known, values, np.nan)
    spread = np.nanstd(values, axis=0)
    middle = np.nanmean(values, axis=0)
    # What never changed gets a spread by its size, so that a change is told in that.
    spread = np.maximum(spread, 1e-3 * np.abs(middle) + 1e-12)
    return Level(names, tuple(middle.tolist()), tuple(spread.tolist()))


def leveled(table: MetricTable, level: Level) -> Matrix:
    """Return (rows, metrics): how many spreads each value is from the mean; gaps are held."""
    values = (table.columns(level.names).values - np.array(level.middle)) / np.array(level.spread)
    return held(values)


def windows_before(values: Matrix, rows: int) -> Windows:
    """Return the window that ends at each row, from row ``rows - 1`` on."""
    cut = np.lib.stride_tricks.sliding_window_view(values, rows, axis=0).transpose(0, 2, 1)
    late = np.broadcast_to(np.linspace(0, 1, rows)[None, :, None], (len(cut), rows, 1))
    clipped = np.clip(cut, -FARTHEST, FARTHEST)
    return np.concatenate([clipped, late], axis=2, dtype=np.float32)


def changes(
    values: Matrix, rows: int, targets: tuple[int, ...], horizons: tuple[int, ...]
) -> Matrix:
    """Return by how much each target changes until each horizon, for windows that have it all.

    Args:
        values: (rows, metrics).
        rows: of a window.
        targets: columns that are told.
        horizons: rows ahead.

    Returns:
        (windows, targets x horizons), fewer windows than ``windows_before`` by the last horizon.

    """
    last = max(horizons)
    now = values[rows - 1 : len(values) - last]
    return np.concatenate(
        [
            values[rows - 1 + ahead : len(values) - last + ahead][:, list(targets)]
            - now[:, list(targets)]
            for ahead in horizons
        ],
        axis=1,
    )


class LoadForecaster:
    """Forecasts the metrics of services with a trained model."""

    def __init__(self, model: Model) -> None:
        """Take a model of the role ``forecaster``.

        Raises:
            MetricError: if it is of another.

        """
        if model.card.role != "forecaster":
            raise MetricError(f"model {model.card.name} is a {model.card.role}, no forecaster")
        self._model = model

    def __call__(
        self, service: str, table: MetricTable, level: Level | None = None
    ) -> tuple[Forecast, ...]:
        """Return a forecast of each target at each horizon, from the last rows of a table.

        Args:
            service: whose metrics they are.
            table: its rows are as far apart as those that the model was trained on.
            level: of the service; None: that of the model's card, or of the table itself.

        Raises:
            MetricError: if the table is too short, or metrics are missing.

        """
        card = self._model.card
        last = card.latest(service, table, card.rows)
        for target in card.targets:
            if np.isnan(last.columns((target,)).values[-1 - HELD :]).all():
                raise MetricError(f"{service}: {target} was not read lately")
        level = level or card.levels.get(service) or level_of([table], card.metrics)
        values = leveled(last, level)
        trust, errors = level.trust or card.trust, level.errors or card.errors
        told = self._model(windows_before(values, card.rows))[0][0]
        found = []
        for number, (ahead, target) in enumerate(card.outputs()):
            column = card.metrics.index(target)
            unit, now = level.spread[column], values[-1, column]
            change = told[number] * trust[number]
            low, high = errors[number]
            value, low, high = (
                (now + change + error) * unit + level.middle[column] for error in (0.0, low, high)
            )
            times = float(table.times[-1]), ahead * card.step_s
            found.append(Forecast(service, target, *times, float(value), float(low), float(high)))
        return tuple(found)
