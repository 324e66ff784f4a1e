"""Whether what is said of why a model said so is to be believed, and what it costs.

``phalanx bench explanations --data DIR`` trains a classifier on two parts of a data set's runs and
explains its alarms on the third: by the Shapley values that come with every alarm, by SHAP and by
LIME. All are held against exact Shapley values, and one alarm is drawn. Currentness is the time to
explain an alarm over the time to tell it, the metric of accountability of MAIP (the platform of
deliverable D3.3, 3.2). Needs the extras ``train`` and ``explain``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from alarm_chart import alarm_svg
from phalanx.analytics.datasets import kinds_of, read_runs
from phalanx.analytics.explanations import (
    Score,
    causes,
    sentence,
    shapley,
)
from phalanx.analytics.models import Model
from phalanx.analytics.profiles import Windows
from phalanx.analytics.service_models import ServiceVerdict
from tables import OUT, QUICK, console, extra, show

ALARMS = 20 if QUICK else 200
BACKGROUND = 20
"""Normal rows that stand for what is usual, where that is not one row in which all is."""
SHOWN = 30
"""Rows before an alarm that are drawn."""
PART = 0
"""Of the runs, that is explained."""
Parts = NDArray[np.float64]


def methods(usual: Windows) -> dict[str, Callable[[Score, Windows], Parts]]:
    """Return what explains an alarm, by name; the first is what the others are held against."""
    return {
        "SHAP, exact": by_shap,
        "built in": shapley,
        "SHAP over normal rows": lambda score, window: by_shap(score, window, usual),
        "LIME": by_lime,
    }


def by_shap(score: Score, window: Windows, usual: Windows | None = None) -> Parts:
    """Return Shapley values by SHAP, exactly, which takes 2^metrics windows.

    Args:
        score: of the model.
        window: (rows, metrics + 1).
        usual: normal windows, (n, rows, metrics + 1), that take the place of what is not told; then
            orders of metrics are drawn. None: all is as usual, and all sets are told.

    """
    shap = extra("shap")
    kind = shap.explainers.Exact if usual is None else shap.explainers.Permutation
    players = window.shape[1] - 1
    explain = kind(_told(score, window, usual), shap.maskers.Independent(np.zeros((1, players))))
    return np.asarray(explain(np.ones((1, players)), silent=True).values[0], np.float64)


def by_lime(score: Score, window: Windows, seed: int = 0) -> Parts:
    """Return weights of metrics by LIME: of a line through scores nearby."""
    players = window.shape[1] - 1
    shown = np.random.default_rng(seed).integers(0, 2, (100, players)).astype(float)
    told = (
        extra("lime.lime_tabular")
        .LimeTabularExplainer(
            shown, mode="regression", categorical_features=range(players), random_state=seed
        )
        .explain_instance(
            np.ones(players), _told(score, window), num_features=players, num_samples=500
        )
    )
    return np.array([part for _, part in sorted(told.as_map()[1])])


def _told(score: Score, window: Windows, usual: Windows | None = None) -> Callable[[Parts], Parts]:
    """Return the score by which metrics are told of a window, (n, metrics)."""
    others = np.zeros_like(window)[None] if usual is None else usual

    def told(shown: Parts) -> Parts:
        kept = np.concatenate([shown, np.ones((len(shown), 1))], axis=1) > 0
        mixed = np.where(kept[:, None, None, :], window, others).reshape(-1, *window.shape)
        scores = score(mixed.astype(np.float32))
        return np.asarray(scores.reshape(len(shown), len(others)).mean(axis=1))

    return told


def margin(model: Model, kind: int) -> Score:
    """Return what tells how far a kind is ahead of the next one, in logits."""

    def score(windows: Windows) -> Parts:
        logits = model(windows)[0]
        return np.asarray(logits[:, kind] - np.delete(logits, kind, axis=1).max(axis=1))

    return score


def agreement(exact: Parts, found: Parts) -> tuple[float, float, float]:
    """Return how two explanations of alarms agree; both are (alarms, metrics).

    That is the mean correlation of the metrics' ranks (Spearman), the share of alarms with the same
    metric first, and the share of the first three metrics that are the same.
    """
    count = exact.shape[1]
    one, other = (np.argsort(np.argsort(parts, axis=1), axis=1) for parts in (exact, found))
    apart = ((one - other) ** 2).sum(axis=1).mean()
    three = ((one >= count - 3) & (other >= count - 3)).sum(axis=1).mean() / 3
    first = (exact.argmax(axis=1) == found.argmax(axis=1)).mean()
    return 1 - 6 * float(apart) / (count**3 - count), float(first), float(three)


def globally(
    parts: Parts, kinds: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return for each kind each metric's mean share of what spoke for it, the largest first.

    Args:
        parts: of alarms, (alarms, metrics), from ``shapley``.
        kinds: of the same alarms.
        names: of the metrics.

    """
    speaks = np.maximum(parts, 0.0)
    shares = speaks / np.maximum(speaks.sum(axis=1, keepdims=True), 1e-12)
    found = {}
    for kind in sorted(set(kinds)):
        mean = shares[[each == kind for each in kinds]].mean(axis=0)
        found[kind] = {names[at]: float(mean[at]) for at in np.argsort(-mean)}
    return found


def main() -> None:
    """Print the tables."""
    if "--data" not in sys.argv[:-1]:
        console.print("bench explanations --data DIR: a folder of runs, SERVICE/RUN.csv")
        return
    for module in ("torch", "sklearn", "shap", "lime"):
        extra(module)
    from phalanx.analytics.evaluation import judged_rows  # noqa: PLC0415
    from phalanx.analytics.training import (  # noqa: PLC0415
        CLASSIFIER,
        FOLDS,
        Origin,
        Schedule,
        examples_of,
        profiles_of,
        train_classes,
    )

    runs = read_runs(Path(sys.argv[sys.argv.index("--data") + 1]))
    names, kinds = runs[0].table.names, kinds_of(runs)
    learn = [run for run in runs if run.part % FOLDS != PART]
    schedule = Schedule(epochs=2 if QUICK else 20)
    model = train_classes(learn, Origin("explained", "", ""), naming=True, schedule=schedule)
    every = examples_of(runs, profiles_of(runs, names), kinds, CLASSIFIER)
    owner = np.repeat(np.arange(len(runs)), [len(run.table) for run in runs])
    parts = np.array([run.part % FOLDS for run in runs])[owner]
    judged = np.flatnonzero(judged_rows(runs) & (parts == PART))
    windows = every.windows[judged]
    begun = perf_counter()
    found = np.array([model(window[None])[0][0].argmax() for window in windows])
    to_tell_s = (perf_counter() - begun) / len(windows)
    alarms = np.flatnonzero(found)
    alarms = alarms[np.unique(np.linspace(0, len(alarms) - 1, ALARMS).astype(int))]
    normal = np.flatnonzero((parts != PART) & (every.wanted == 0))
    usual = every.windows[np.random.default_rng(0).choice(normal, BACKGROUND)]
    told, rows = {}, []
    for name, explain in methods(usual).items():
        explain(margin(model, int(found[alarms[0]])), windows[alarms[0]])  # some compile first
        begun = perf_counter()
        told[name] = np.array(
            [explain(margin(model, int(found[at])), windows[at]) for at in alarms]
        )
        currentness = (perf_counter() - begun) / len(alarms) / to_tell_s
        rank, first, three = agreement(told["SHAP, exact"], told[name])
        rows.append((name, f"{rank:.3f}", f"{first:.0%}", f"{three:.0%}", f"{currentness:,.0f}"))
    show(
        f"{len(alarms)} alarms, by how they are explained; against exact Shapley values",
        ("explained by", "rank correlation", "first", "first three", "currentness"),
        rows,
    )
    told_kinds = [model.card.kinds[kind] for kind in found[alarms]]
    mean = globally(told["built in"], told_kinds, names)
    show(
        "What speaks for a kind, the mean share over its alarms",
        ("kind", "alarms", "first", "second", "third"),
        [
            (
                kind,
                str(told_kinds.count(kind)),
                *(f"{name} {share:.0%}" for name, share in list(shares.items())[:3]),
            )
            for kind, shares in mean.items()
        ],
    )
    drawn = alarms[int(told["built in"].max(axis=1).argmax())]
    run, profiles = runs[owner[judged[drawn]]], profiles_of(runs, names)
    last = int(judged[drawn] - np.flatnonzero(owner == owner[judged[drawn]])[0]) + CLASSIFIER.after
    table = run.table.rows(max(0, last - SHOWN), last + 1)
    profile, score = profiles[run.service, run.part], margin(model, int(found[drawn]))
    verdict = ServiceVerdict(
        run.service,
        float(table.times[-1 - CLASSIFIER.after]),
        kinds[found[drawn]],
        1.0,
        float(score(windows[drawn][None])[0]),
        0.0,
        causes(score, windows[drawn], profile, table.values),
    )
    OUT.mkdir(exist_ok=True)
    (OUT / "alarm.svg").write_text(alarm_svg(verdict, table), encoding="utf-8")
    console.print(f"{OUT}/alarm.svg: {verdict.service}: {sentence(verdict.kind, verdict.causes)}")


if __name__ == "__main__":
    main()
