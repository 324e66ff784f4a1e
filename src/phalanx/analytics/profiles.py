"""What is usual for a service, and its metrics measured in that: the input of every model here.

A metric is divided by what it usually is, so that one model serves services of any size
(deliverable D3.3, 6.1.1: "profiling under typical conditions"). What is far from usual is
compressed, since a metric that is a thousand times too high tells no more than a hundred times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.analytics.metrics import Matrix, MetricError, MetricTable

Windows = NDArray[np.float32]
"""(windows, rows, channels): a channel for each metric, and one that tells how late a row is."""

LEAST_SPREAD = 0.1
"""Of the logarithm of a metric: what varies less than that is not told from what does not vary."""
FARTHEST = 20.0
"""Spreads from what is usual beyond which all is the same."""
FEWEST = 20
"""Rows from which one may say what is usual."""
FEW = 10
"""Values above zero: fewer do not tell a metric's unit, one freak row would be it."""
HELD = 2
"""Rows for which a value that was read holds; a longer gap counts as what is usual."""


class ServiceProfile(Struct, frozen=True):
    """What is usual for one service: for each metric a scale, and middle and spread in that."""

    names: tuple[str, ...]
    scale: tuple[float, ...]
    """Median of what is above zero, in the metric's unit; 1 where nothing ever was."""
    middle: tuple[float, ...]
    """Median of log(1 + value / scale)."""
    spread: tuple[float, ...]
    """Of the same: what a deviation is measured in."""

    def measure(self, table: MetricTable) -> Matrix:
        """Return (rows, metrics): how far each value is from usual, compressed; NaN: a gap."""
        values = table.columns(self.names).values
        if np.isinf(values).any():
            raise MetricError("a metric is infinite")
        with np.errstate(invalid="ignore"):
            far = np.log1p(np.maximum(values, 0) / np.array(self.scale))
        far = (far - np.array(self.middle)) / np.array(self.spread)
        far = np.clip(far, -FARTHEST, FARTHEST)
        return np.asarray(np.sign(far) * np.log1p(np.abs(far)))

    def value(self, far: Matrix) -> Matrix:
        """Return what values of the metrics are so far from usual; the inverse of ``measure``."""
        plain = np.sign(far) * np.expm1(np.abs(far))
        return np.asarray(
            np.expm1(plain * np.array(self.spread) + np.array(self.middle)) * np.array(self.scale)
        )


def profile_of(
    tables: list[MetricTable],
    names: tuple[str, ...],
    like: ServiceProfile | None = None,
    beside: Sequence[Sequence[MetricTable]] = (),
) -> ServiceProfile:
    """Return what is usual in tables of a service that is well.

    Args:
        tables: what was read.
        names: of the metrics.
        like: of the same service elsewhere or before: units and spreads are taken from it, so that
            few rows are enough to tell the middle.
        beside: what else was read, of this service first, then of others, with trouble in it or
            not: the first that has ``FEW`` values above zero tells the unit of a metric that is 0
            where all is well, such as errors. In a unit of 1 a small one would not be seen.

    Raises:
        MetricError: if there are too few rows to say.

    """
    none = [np.empty((0, len(names)))]
    values, *others = (
        np.concatenate([table.columns(names).values for table in each] or none)
        for each in (tables, *beside)
    )
    if len(values) < FEWEST:
        raise MetricError(f"{len(values)} rows do not tell what is usual: {FEWEST} are needed")
    if np.isinf(values).any():
        raise MetricError("a metric is infinite")
    scale, middle, spread = [], [], []
    for number, column in enumerate(values.T):
        known = column[~np.isnan(column)]
        above = known[known > 0]
        for more in others:
            if len(above) < FEW:
                found = more[np.isfinite(more[:, number]) & (more[:, number] > 0), number]
                above = max(above, found, key=len)
        unit = float(np.median(above)) if len(above) else 1.0
        if like is not None:
            unit = like.scale[number]
        logs = np.log1p(np.maximum(known, 0) / unit)
        usual = float(np.median(logs)) if len(known) else 0.0
        about = 1.4826 * float(np.median(np.abs(logs - usual))) if len(known) else 0.0
        scale.append(unit)
        middle.append(usual)
        spread.append(max(about, LEAST_SPREAD) if like is None else like.spread[number])
    return ServiceProfile(names, tuple(scale), tuple(middle), tuple(spread))


def windows_of(far: Matrix, rows: int, after: int = 0) -> Windows:
    """Return a window for each row: the row, what came before, and ``after`` rows after it.

    Args:
        far: (rows, metrics), from ``ServiceProfile.measure``.
        rows: of a window.
        after: of them, after the row that the window is about.

    """
    filled = np.nan_to_num(_held(far), nan=0.0)
    padded = np.concatenate(
        [
            np.repeat(filled[:1], rows - 1 - after, axis=0),
            filled,
            np.repeat(filled[-1:], after, axis=0),
        ]
    )
    cut = np.lib.stride_tricks.sliding_window_view(padded, rows, axis=0).transpose(0, 2, 1)
    late = np.broadcast_to(np.linspace(0, 1, rows)[None, :, None], (len(cut), rows, 1))
    return np.concatenate([cut, late], axis=2, dtype=np.float32)


def _held(far: Matrix) -> Matrix:
    """Return values with short gaps filled by what was read before."""
    held = far.copy()
    for _ in range(HELD):
        gap = np.isnan(held[1:])
        held[1:][gap] = held[:-1][gap]
    return held
