"""How soon trouble is found by what was trained on normal runs alone, and how often it is wrong.

Runs are judged by models trained on the normal runs of other parts. The autoencoder stands beside
what needs no network: the Mahalanobis distance of a row from normal ones, and the best metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, groupby

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.analytics import training
from phalanx.analytics.datasets import NORMAL, Run, by_service
from phalanx.analytics.metrics import Matrix, MetricError
from phalanx.analytics.profiles import windows_of
from phalanx.analytics.service_models import MOST_RAISED, AutoencoderModel, of_two
from phalanx.analytics.training import FOLDS, MARGIN, REBUILT, Origin, Schedule, held_runs

SOON = 3
"""Rows of a trouble within which it is to be found."""
QUANTILE = 0.99
"""Of the mean loss of normal rows: the threshold of Benzaïd et al."""
FIXED, ADAPTIVE, RAISED = "autoencoder", "adaptive", "raised"
"""The last is the adaptive threshold at the most to which an attacker can raise it."""
PUBLISHED, MAHALANOBIS, METRIC = "mean loss, 99 %", "Mahalanobis", "metric "
Alarms = NDArray[np.bool_]


class AlarmScore(Struct):
    """What one method found in the runs of one service."""

    method: str
    service: str
    found: dict[str, list[int | None]]
    """For each kind of trouble, each time that it came: the row of it with the first alarm, from 1;
    None: it was not found."""
    false_alarms: int = 0
    """Alarms that began in normal runs."""
    hours: float = 0.0
    """Of normal runs."""

    def soon(self, *kinds: str) -> float:
        """Return the share of these troubles, of all without a name, found in the first rows."""
        rows = [row for kind in kinds or self.found for row in self.found.get(kind, ())]
        return sum(row is not None and row <= SOON for row in rows) / max(len(rows), 1)


def alarm_scores(
    runs: Sequence[Run],
    schedule: Schedule = REBUILT,
    told: Callable[[str], None] = lambda _: None,
) -> list[AlarmScore]:
    """Return what each method finds in runs that it was not trained on; of metrics the best.

    Raises:
        MetricError: if a service has too few normal runs to learn from.

    """
    scores: dict[tuple[str, str], AlarmScore] = {}
    for fold in range(FOLDS):
        told(f"part {fold + 1} of {FOLDS}")
        learn = [run for run in runs if run.part % FOLDS != fold and run.normal is not None]
        judge = [run for run in runs if run.part % FOLDS == fold]
        known = {service: own for service, own in by_service(learn) if len(own) > 1}
        for service in sorted({run.service for run in judge} - set(known)):
            raise MetricError(f"{service}: it has less than two normal runs to learn from")
        for method, alarmed in _methods(known, schedule).items():
            for run in judge:
                key = method, run.service
                _count(scores.setdefault(key, AlarmScore(*key, {})), run, alarmed(run))
    metrics = {method for method, _ in scores if method.startswith(METRIC)}
    soon = {m: sum(one.soon() for one in scores.values() if one.method == m) for m in metrics}
    best = max(sorted(metrics), key=soon.__getitem__)
    return [one for one in scores.values() if one.method == best or one.method not in metrics]


def _methods(known: dict[str, list[Run]], schedule: Schedule) -> dict[str, Callable[[Run], Alarms]]:
    """Return what learned from normal runs and tells of a run in which rows it gives an alarm."""
    learn, origin = [*chain(*known.values())], Origin("evaluated", "", "")
    model = training.train_autoencoder(learn, origin, schedule=schedule)
    card, adaptive = model.card, AutoencoderModel(model, adaptive=True)

    def far(run: Run) -> Matrix:
        return np.nan_to_num(card.services[run.service].measure(run.table))

    def scored(run: Run) -> Matrix:
        return of_two(adaptive.scores(run.service, windows_of(far(run), card.rows)))

    def loss(run: Run) -> Matrix:
        windows = windows_of(far(run), card.rows)
        return np.asarray(np.abs(model(windows)[0] - windows[:, :, :-1]).mean(axis=(1, 2)))

    rows = {service: np.concatenate([far(run) for run in own]) for service, own in known.items()}
    spread = {service: np.cov(of.T) + 0.01 * np.eye(of.shape[1]) for service, of in rows.items()}

    def distance(run: Run) -> Matrix:
        apart = far(run) - rows[run.service].mean(axis=0)
        return of_two(np.sqrt((apart @ np.linalg.inv(spread[run.service]) * apart).sum(axis=1)))

    def metric(column: int, run: Run) -> Matrix:
        return of_two(np.abs(far(run)[:, column]))

    def above(
        score: Callable[[Run], Matrix], share: float = 1.0, margin: float = MARGIN
    ) -> Callable[[Run], Alarms]:
        limits = {}
        for service, own in known.items():
            held = np.concatenate([score(run) for run in own])[held_runs(own)]
            limits[service] = margin * float(np.quantile(held, share))
        return lambda run: score(run) > limits[run.service]

    return {
        FIXED: lambda run: scored(run) > card.threshold,
        ADAPTIVE: lambda run: np.array([adaptive.alarm(run.service, s) for s in scored(run)]),
        RAISED: lambda run: scored(run) > card.threshold * MOST_RAISED,
        PUBLISHED: above(loss, QUANTILE, 1.0),
        MAHALANOBIS: above(distance),
    } | {METRIC + name: above(partial(metric, column)) for column, name in enumerate(card.metrics)}


def _count(score: AlarmScore, run: Run, alarmed: Alarms) -> None:
    if run.normal is not None:
        score.false_alarms += int((alarmed & ~np.append(False, alarmed[:-1])).sum())
        score.hours += float(run.table.times[-1] - run.table.times[0]) / 3600
    at = 0
    for kind, rows in groupby(run.table.labels):
        length = len(list(rows))
        hit = np.flatnonzero(alarmed[at : at + length])
        if kind != NORMAL:
            score.found.setdefault(kind, []).append(int(hit[0]) + 1 if len(hit) else None)
        at += length
