"""Workload prediction (deliverable D3.3, 4.2): forecasts without training, and what they mean.

A damped trend is believed as far as it helped on the rows before. What it tells is compared with
what is usual, and with signatures of anomalies; the weights of these are assumed, not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from phalanx.analytics.metrics import Matrix, MetricError, MetricTable, held
from phalanx.domain.series import Advice, Forecast, LoadOutlook, WorkloadForecast

TREND_ROWS = 6
"""Rows that a trend is read from."""
DAMPING = 0.95
"""What is left of a trend after each row."""
DOUBT = 2.0
"""Independent forecasts whose success is put down to luck."""
NINE_OF_TEN = (0.05, 0.95)
"""Quantiles of the errors between which a forecast lies."""
FEW = 10
"""With fewer rows nothing is usual, nor can errors be told but for those of a random walk."""
USUAL_SPREADS = 3.0
"""Robust spreads around the median that are usual; a spread is ``LEAST_SPREAD`` at least."""
LEAST_SPREAD = 0.02
SUDDEN = 0.6
"""A rise is sudden if so much of it came between two rows."""
ONE_SIDED = 0.5
"""What comes in is not answered if what goes out, in its shares, is below this part of usual."""
SIGNS = {"unusual": 0.15, "sudden": 0.3, "one-sided": 0.6, "alarm": 0.8}
"""Likelihood of an anomaly from each signature alone (assumed): growth is usual for the most part,
and a rise that is sudden, too, may still be a crowd."""
LIKELY = 0.5
"""From this likelihood on it is taken for an anomaly."""
FULL = 0.9
"""Share from which a resource counts as full."""


class DampedTrend:
    """Forecasts all columns of a table without training, each row as good as its last rows say.

    The slope is the median of those between any two of the last rows (Theil and Sen), and fades
    (Gardner and McKenzie 1985). Of the change that it foretells so much is believed as would have
    cost least squared error on all rows of the table, less what luck explains; and nothing while
    what would have been said so far has cost more than saying that all stays (persistence).
    """

    def __init__(self, steps: int) -> None:
        """Take how many rows ahead is told; 0: what is now."""
        self._steps = steps

    def __call__(self, service: str, table: MetricTable) -> tuple[Forecast, ...]:
        """Return a forecast of each column, from rows that are equally far apart.

        ``skill`` is that of what would have been said at each row of the table.

        Raises:
            MetricError: if the table has fewer than ``TREND_ROWS`` rows.

        """
        values = held(table.values)
        if len(values) < TREND_ROWS:
            raise MetricError(f"{service}: {len(values)} rows; {TREND_ROWS} are needed")
        steps = min(self._steps, len(values) - 1)
        told, errors = walked(values, steps)
        value = values[-1] + told[-1]
        high = 1.645 * np.diff(values, axis=0).std(axis=0) * np.sqrt(steps)
        low = -high
        if len(errors) >= FEW:
            low, high = np.quantile(errors, NINE_OF_TEN, axis=0)
        stays = np.square(errors + told[: len(errors)]).sum(axis=0)
        lost = np.square(errors).sum(axis=0) / np.where(stays > 0, stays, 1.0)
        skill = np.where(stays > 0, 1.0 - lost, 0.0)
        columns = (value, value + np.minimum(low, 0), value + np.maximum(high, 0), skill)
        ahead_s = steps * float(np.median(np.diff(table.times)))
        return tuple(
            Forecast(service, name, float(table.times[-1]), ahead_s, *map(float, row))
            for name, row in zip(table.names, np.transpose(columns), strict=True)
        )


def walked(values: Matrix, steps: int) -> tuple[Matrix, Matrix]:
    """Return what a damped trend would have said at each row, from that and earlier rows alone.

    Args:
        values: (rows, columns), all finite.
        steps: rows ahead.

    Returns:
        the change that is told at each row, (rows, columns); and by how much it was wrong,
        (rows - steps, columns).

    """
    rows, slopes = len(values), np.zeros_like(values)
    a, b = np.triu_indices(TREND_ROWS, 1)
    cut = np.lib.stride_tricks.sliding_window_view(values, TREND_ROWS, axis=0)
    slopes[TREND_ROWS - 1 :] = np.median((cut[..., b] - cut[..., a]) / (b - a), axis=2)
    damped = np.cumsum(DAMPING ** np.arange(steps))
    said, came, both, worse = np.zeros((4, *values.shape))
    for ahead in range(1, steps + 1):  # each counts from the row on where it is known
        trend = slopes[: rows - ahead] * damped[ahead - 1] / ahead
        change = (values[ahead:] - values[:-ahead]) / ahead
        said[ahead:] += trend**2
        came[ahead:] += change**2
        both[ahead:] += trend * change
    said, came, both = (np.cumsum(each, axis=0) for each in (said, came, both))
    both = np.maximum(both, 0.0)
    explained = both**2 / np.where(said * came > 0, said * came, 1.0)
    windows = np.arange(1, rows + 1)[:, None] / max(steps, 1)
    luck = DOUBT * (1.0 - explained) / np.where(explained > 0, windows * explained, np.inf)
    sure = np.where(explained > 0, np.maximum(1.0 - luck, 0.0), 0.0)
    believed = np.minimum(both / np.where(said > 0, said, 1.0), 1.0) * sure
    told = believed * slopes * (damped[-1] if steps else 0.0)
    actual = values[steps:] - values[: rows - steps]
    worse[steps:] = (actual - told[: rows - steps]) ** 2 - actual**2
    told[np.cumsum(worse, axis=0) > 0] = 0.0
    return told, actual - told[: rows - steps]


def assess(
    subject: str, table: MetricTable, forecasts: Sequence[Forecast], alarm: str = ""
) -> WorkloadForecast:
    """Return what forecasts of a PoP's load mean.

    Args:
        subject: the PoP.
        table: shares of what it has, a column for each of ``INDICATORS`` that is known.
        forecasts: of each indicator, in the order of the columns.
        alarm: what of its traffic was found to be an attack; empty: nothing.

    """
    values = held(table.values)
    before = values[:-TREND_ROWS]
    learned = len(before) >= FEW
    middle = np.median(before, axis=0) if learned else values[-1]
    spread = 1.4826 * np.median(np.abs(before - middle), axis=0) if learned else np.inf
    reach = USUAL_SPREADS * np.maximum(spread, LEAST_SPREAD)
    figures = np.array([[f.value, f.low, f.high] for f in forecasts]).T
    shares = np.clip([values[-1], *figures, middle - reach, middle + reach], 0.0, 1.0).round(4)
    outlooks = tuple(
        LoadOutlook(told.metric, *(*row, round(told.skill or 0.0, 3)))
        for told, row in zip(forecasts, shares.T.tolist(), strict=True)
    )
    excess = np.array([max(each.now, each.expected) - each.usual_high for each in outlooks])
    top = int(excess.argmax())
    signs = {"alarm": 1.0} if alarm else {}
    if learned and excess[top] > 0:
        much = signs["unusual"] = min(1.0, float(excess[top] / reach[top]))
        lately = values[-TREND_ROWS - 1 :, top]
        if np.diff(lately).max() >= SUDDEN * (lately.max() - middle[top]):
            signs["sudden"] = much
        if table.names[-2:] == ("tx", "rx") and top == len(outlooks) - 1:
            tx, rx = (values[-1, at] / max(middle[at], LEAST_SPREAD) for at in (-2, -1))
            if middle[-2] > LEAST_SPREAD and tx < ONE_SIDED * rx:
                signs["one-sided"] = much
    anomaly = 1.0 - prod(1.0 - SIGNS[sign] * much for sign, much in signs.items())
    at_s, ahead_s = forecasts[0].at_s, forecasts[0].ahead_s
    advice, reason = _advice(outlooks, outlooks[top], bool(excess[top] > 0), anomaly, alarm)
    told = (at_s, ahead_s, outlooks, round(anomaly, 3), tuple(sorted(signs)))
    return WorkloadForecast(subject, *told, advice, reason)


def _advice(
    outlooks: Sequence[LoadOutlook], top: LoadOutlook, grows: bool, anomaly: float, alarm: str
) -> tuple[Advice, str]:
    fullest = max(outlooks, key=lambda each: each.expected)
    growth = f"{top.name} will be {top.expected:.0%}, usually {top.usual_high:.0%} at most"
    if anomaly >= LIKELY and alarm:
        return "throttle", f"{alarm} explains it"
    if fullest.expected >= FULL:
        return "migrate", f"{fullest.name} will be {fullest.expected:.0%}"
    if anomaly >= LIKELY:
        return "migrate", f"{growth}, and nothing explains it"
    if grows:
        return "scale", growth
    return "leave", "all is as usual"
