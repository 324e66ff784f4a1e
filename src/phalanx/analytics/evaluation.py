"""How well models tell what goes on in services, on runs that they were not trained on.

Runs are split, not rows: windows overlap, so rows of one run on both sides tell each other's
labels. The split at random that publications use is there beside it, to be compared with theirs.

How soon trouble is found by what was trained on normal runs alone, and how often it is wrong.

Runs are judged by models trained on the normal runs of other parts. The autoencoder stands beside
what needs no network: the Mahalanobis distance of a row from normal ones, and the best metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, groupby
from math import nan
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple
from msgspec.structs import replace as with_
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from phalanx.analytics import training
from phalanx.analytics.datasets import NORMAL, Run, by_service, kinds_of
from phalanx.analytics.metrics import Matrix, MetricError
from phalanx.analytics.models import Role
from phalanx.analytics.profiles import Windows, windows_of
from phalanx.analytics.service_models import MOST_RAISED, AutoencoderModel, of_two
from phalanx.analytics.training import (
    AHEAD,
    CLASSIFIER,
    DETECTOR,
    FOLDS,
    MARGIN,
    PROFILED,
    REBUILT,
    Examples,
    Origin,
    Schedule,
    WindowShape,
    examples_of,
    fit_classes,
    forecast_examples,
    held_runs,
    horizons_of,
    profiles_of,
    step_of,
    train_forecaster,
    unknown_from,
)

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


CNN, TWO_STAGES = "1D-CNN", "two stages"
Kinds = NDArray[np.int64]


class Scores(Struct, frozen=True):
    """How well rows were told apart, each from 0 to 1; with many kinds, means over the kinds."""

    accuracy: float
    precision: float
    recall: float
    f1: float


class ScoreSpread(Struct, frozen=True):
    """Scores over several seeds."""

    mean: Scores
    deviation: Scores
    by_kind: dict[str, float]
    """F1 of each kind, the mean over seeds."""


def scores(wanted: Kinds, found: Kinds, kinds: int) -> tuple[Scores, list[float]]:
    """Return how well kinds were told, and the F1 of each; a kind that is nowhere counts not.

    With two kinds precision, recall and F1 are those of the second: trouble.
    """
    precision, recall, f1 = [], [], []
    for kind in range(kinds):
        hit = int(((wanted == kind) & (found == kind)).sum())
        there, said = int((wanted == kind).sum()), int((found == kind).sum())
        precision.append(hit / said if said else 0.0)
        recall.append(hit / there if there else 0.0)
        f1.append(2 * hit / (there + said) if there + said else nan)
    accuracy = float((wanted == found).mean())
    if kinds == 2:
        return Scores(accuracy, precision[1], recall[1], f1[1]), f1
    seen = [kind for kind in range(kinds) if not np.isnan(f1[kind])]
    means = (float(np.mean([each[kind] for kind in seen])) for each in (precision, recall, f1))
    return Scores(accuracy, *means), f1


class ModelTrial(Struct, frozen=True):
    """What one kind of model found, with one seed, in all rows that are judged."""

    model: str
    naming: bool
    """Whether it was to name the kind, not only to tell trouble from what is normal."""
    seed: int
    wanted: Kinds
    found: Kinds


def trials(
    runs: Sequence[Run],
    seeds: Sequence[int],
    *,
    at_random: bool = False,
    tasks: Sequence[bool] = (False, True),
    models: Collection[str] = (),
    told: Callable[[str], None] = lambda _: None,
) -> Iterator[ModelTrial]:
    """Train and judge the models of deliverable D3.3, tables 2 and 3.

    The two stages are the 1D-CNNs of both tasks, one after the other (6.1.1).

    Args:
        runs: of a data set.
        seeds: each model is trained with each.
        at_random: split rows at random, as publications do, and not runs.
        tasks: tell trouble from what is normal (False), name the kind (True).
        models: by name; empty: all.
        told: what is being done, in half a line.

    Raises:
        MetricError: if the runs cannot be split.

    """
    kinds = kinds_of(runs)
    alarms: dict[int, Kinds] = {}
    for naming in tasks:
        shape = CLASSIFIER if naming else DETECTOR
        every = _examples(runs, kinds, shape)
        if not naming:
            every = replace(every, wanted=(every.wanted > 0).astype(np.int64))
        for seed in seeds:
            parts = _parts(runs, len(every.wanted), seed if at_random else None)
            judged = judged_rows(runs) if not at_random else np.ones(len(parts), bool)
            for name, model in _models(seed, len(kinds) if naming else 2).items():
                if models and name not in models:
                    continue
                found = np.full(len(parts), -1)
                for fold in np.unique(parts).tolist():
                    told(f"seed {seed}, part {fold + 1} of {FOLDS}: {name}")
                    there = parts == fold
                    found[there] = model(every.chosen(~there), every.windows[there])
                yield ModelTrial(name, naming, seed, every.wanted[judged], found[judged])
                if name == CNN and not naming:
                    alarms[seed] = found
                elif name == CNN and seed in alarms:
                    both = np.where(alarms[seed] == 0, 0, found)[judged]
                    yield ModelTrial(TWO_STAGES, naming, seed, every.wanted[judged], both)


def spread(found: Sequence[ModelTrial], kinds: tuple[str, ...]) -> ScoreSpread:
    """Return the scores of one model over its seeds."""
    each = [scores(t.wanted, t.found, len(kinds) if t.naming else 2) for t in found]
    table = np.array([astuple(one) for one, _ in each])
    names = kinds if found[0].naming else kinds[:2]
    f1 = np.nanmean(np.array([by_kind for _, by_kind in each]), axis=0)
    return ScoreSpread(
        Scores(*table.mean(0).tolist()),
        Scores(*table.std(0).tolist()),
        dict(zip(names, f1.tolist(), strict=False)),
    )


def _examples(runs: Sequence[Run], kinds: tuple[str, ...], shape: WindowShape) -> Examples:
    profiles = profiles_of(runs, runs[0].table.names)
    return examples_of(runs, profiles, kinds, shape)


def _parts(runs: Sequence[Run], rows: int, seed: int | None) -> Kinds:
    """Return the part of each row: that of its run, or one at random."""
    if seed is not None:
        return np.random.default_rng(seed).integers(FOLDS, size=rows)
    if len({run.part % FOLDS for run in runs}) < 2:
        raise MetricError("the runs cannot be split: name them RUN-1, RUN-2 and so on")
    return np.concatenate([np.full(len(run.table), run.part % FOLDS) for run in runs])


class UnknownScore(Struct, frozen=True):
    """What the two stages said of a kind that they were not trained on, as shares of the rows."""

    kind: str
    unknown: float
    missed: float
    """They took them for normal."""
    mistaken: float
    """They gave them the name of another kind."""
    lost: float
    """Of the rows of kinds that they know: those that they called unknown."""
    false: float
    """Of the normal rows: those that they called unknown."""


def _of(wanted: Kinds, kind: int) -> tuple[NDArray[np.bool_], ...]:
    return wanted == kind, (wanted != kind) & (wanted > 0), wanted == 0


def unknown(
    runs: Sequence[Run],
    schedule: Schedule = Schedule(),  # noqa: B008 - frozen
    told: Callable[[str], None] = lambda _: None,
) -> list[UnknownScore]:
    """Leave out one kind after the other, and judge what is said of it, on runs not trained on."""
    kinds = kinds_of(runs)
    every, alarms = _examples(runs, kinds, CLASSIFIER), _examples(runs, kinds, DETECTOR)
    parts = _parts(runs, len(every.wanted), None)
    trouble = replace(alarms, wanted=(every.wanted > 0).astype(np.int64))
    found = []
    for kind in range(1, len(kinds)):
        said_of: tuple[list[Matrix], ...] = [], [], []
        for fold in np.unique(parts).tolist():
            told(f"without {kinds[kind]}, part {fold + 1} of {FOLDS}")
            rows = (parts != fold) & (every.wanted != kind)
            learn = every.chosen(rows)
            network = fit_classes(learn, len(kinds), schedule)
            far, best = network.distances(every.windows), network.told(every.windows)
            light = fit_classes(trouble.chosen(rows), 2, schedule).told(trouble.windows)
            said = np.where((best == 0) | (light == 0), 0, 2)
            said[far > unknown_from(network, learn)] = 1
            for own, rows in zip(said_of, _of(every.wanted, kind), strict=True):
                own.append(said[(parts == fold) & rows])
        of_kind, others, normal = map(np.concatenate, said_of)
        shares = [of_kind == 1, of_kind == 0, of_kind == 2, others == 1, normal == 1]
        found.append(UnknownScore(kinds[kind], *(float(each.mean()) for each in shares)))
    return found


def judged_rows(runs: Sequence[Run]) -> NDArray[np.bool_]:
    """Return which rows count: not those from which it was learned what is usual."""
    from_ = [PROFILED if run.normal is not None else 0 for run in runs]
    return np.concatenate(
        [np.arange(len(run.table)) >= start for run, start in zip(runs, from_, strict=True)]
    )


def _models(seed: int, kinds: int) -> dict[str, Callable[[Examples, Windows], Kinds]]:
    """Return what learns from examples and tells of windows which kind they are."""

    def cnn(learn: Examples, windows: Windows) -> Kinds:
        network = fit_classes(learn, kinds, Schedule(seed=seed))
        return np.asarray(network.told(windows))

    def plain(make: Callable[[], Any]) -> Callable[[Examples, Windows], Kinds]:
        def run(learn: Examples, windows: Windows) -> Kinds:
            model = make_pipeline(StandardScaler(), make())
            model.fit(learn.windows.reshape(len(learn.windows), -1), learn.wanted)
            return np.asarray(model.predict(windows.reshape(len(windows), -1)), np.int64)

        return run

    return {
        CNN: cnn,
        "MLP": plain(lambda: MLPClassifier((64, 32), early_stopping=True, random_state=seed)),
        "Random Forest": plain(lambda: RandomForestClassifier(200, random_state=seed)),
        "SVM": plain(lambda: SVC(random_state=seed)),
    }


# -- forecasts ------------------------------------------------------------------------------


class ForecastScore(Struct, frozen=True):
    """How well one metric of one service was forecast, in its unit; beside what needs no model."""

    service: str
    metric: str
    ahead_s: float
    r2: float
    mae: float
    rmse: float
    skill: float | None
    """Share of the squared error of persistence that is gone: 0 is as good as no forecast. None:
    the metric never changed, so persistence is never wrong."""
    persistence_r2: float
    persistence_mae: float
    persistence_rmse: float
    ridge_skill: float | None
    covered: float
    """Share of values in the interval that was to hold nine of ten."""


class _Sums(Struct):
    """Sums over the rows that were judged."""

    true: list[Matrix] = []
    lstm: list[Matrix] = []
    ridge: list[Matrix] = []
    last: list[Matrix] = []
    inside: list[Matrix] = []


def forecasts(
    runs: Sequence[Run],
    ahead_s: dict[str, float],
    schedule: Schedule = AHEAD,
    told: Callable[[str], None] = lambda _: None,
) -> list[ForecastScore]:
    """Forecast metrics of runs, by models that were trained on other runs.

    Args:
        runs: of a data set; some parts of them at least.
        ahead_s: by metric, how many seconds ahead.
        schedule: of each training.
        told: what is being done, in half a line.

    """
    horizons = horizons_of(runs, ahead_s)
    step_s = step_of(runs)
    targets = tuple(ahead_s)
    sums: dict[tuple[str, str], _Sums] = {}
    for fold in range(FOLDS):
        learn = [run for run in runs if run.part % FOLDS != fold]
        judge = [run for run in runs if run.part % FOLDS == fold]
        if not learn or not judge:
            continue
        told(f"part {fold + 1} of {FOLDS}")
        origin = Origin("evaluated", "", "")
        model = train_forecaster(learn, origin, targets, horizons, schedule=schedule)
        card = model.card
        known = forecast_examples(learn, card.levels, targets, horizons)
        weights = _ridge(known)
        for run in judge:
            if run.service not in card.levels:
                continue
            examples = forecast_examples([run], card.levels, targets, horizons)
            level = card.levels[run.service]
            trust, errors = level.trust or card.trust, level.errors or card.errors
            outputs = model(examples.windows)[0] * np.array(trust)
            plain = _features(examples.windows) @ weights
            for number, (rows, target) in enumerate(card.outputs()):
                if rows != max(1, round(ahead_s[target] / step_s)):
                    continue
                column = card.metrics.index(target)
                unit = level.spread[column]
                now = run.table.columns((target,)).values[card.rows - 1 :, 0][: len(outputs)]
                wanted = examples.wanted[:, number].astype(np.float64) * unit
                mine = outputs[:, number] * unit
                low, high = (edge * unit for edge in errors[number])
                each = sums.setdefault((run.service, target), _Sums())
                each.true.append(now + wanted)
                each.last.append(now)
                each.lstm.append(now + mine)
                each.ridge.append(now + plain[:, number] * unit)
                each.inside.append((wanted >= mine + low) & (wanted <= mine + high))
    return [_scored(*key, ahead_s[key[1]], each) for key, each in sorted(sums.items())]


def _features(windows: Windows) -> Matrix:
    """Return what ridge regression sees: each value less the last one, and that."""
    values = windows[:, :, :-1].astype(np.float64)
    apart = (values - values[:, -1:]).reshape(len(values), -1)
    return np.concatenate([apart, values[:, -1], np.ones((len(values), 1))], axis=1)


def _ridge(known: Examples) -> Matrix:
    seen = _features(known.windows)
    square = seen.T @ seen + 30.0 * np.eye(seen.shape[1])
    return np.asarray(np.linalg.solve(square, seen.T @ known.wanted.astype(np.float64)))


def _scored(service: str, metric: str, ahead_s: float, sums: _Sums) -> ForecastScore:
    true, lstm, ridge, last = (
        np.concatenate(each) for each in (sums.true, sums.lstm, sums.ridge, sums.last)
    )
    there = np.isfinite(true) & np.isfinite(last)
    true, lstm, ridge, last = true[there], lstm[there], ridge[there], last[there]

    def squared(told: Matrix) -> float:
        return float(((true - told) ** 2).mean())

    variance = max(float(((true - true.mean()) ** 2).mean()), 1e-300)
    persisted = squared(last)
    return ForecastScore(
        service,
        metric,
        ahead_s,
        1 - squared(lstm) / variance,
        float(np.abs(true - lstm).mean()),
        squared(lstm) ** 0.5,
        1 - squared(lstm) / persisted if persisted else None,
        1 - squared(last) / variance,
        float(np.abs(true - last).mean()),
        squared(last) ** 0.5,
        1 - squared(ridge) / persisted if persisted else None,
        float(np.concatenate(sums.inside).mean()),
    )


def figures(
    runs: Sequence[Run],
    role: Role,
    seed: int,
    ahead_s: dict[str, float],
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Return how well a model of a role does on runs that it was not trained on, for its card."""
    if role == "forecaster":
        skills = defaultdict(list)
        for each in forecasts(runs, ahead_s, with_(AHEAD, seed=seed), told):
            if each.skill is not None:
                skills[f"skill over persistence, {each.metric}"].append(each.skill)
        return {name: float(np.mean(found)) for name, found in skills.items()}
    if role == "autoencoder":
        own = [s for s in alarm_scores(runs, with_(REBUILT, seed=seed), told) if s.method == FIXED]
        hourly = sum(s.false_alarms for s in own) / sum(s.hours for s in own)
        kinds = kinds_of(runs)[1:]
        found = {f"{kind} within {SOON} rows": max(s.soon(kind) for s in own) for kind in kinds}
        return {"false alarms an hour": hourly} | found
    naming = role == "classifier"
    one = list(trials(runs, [seed], tasks=[naming], models=[CNN], told=told))
    mean = spread(one, kinds_of(runs)).mean
    return {"F1": mean.f1, "accuracy": mean.accuracy, "recall": mean.recall}
