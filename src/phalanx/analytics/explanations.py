"""Why a model said so: which metrics, since when, how much, and what would have changed its mind.

Each metric gets its Shapley value: what it adds to the score, on the mean over all orders in
which metrics may be told to the model. A metric that is not told is as usual. The values are those
of the line that fits best to the scores of some sets of metrics, weighed by their size (Lundberg
and Lee, 2017, theorem 2): all small and all large sets, and some of those between, each with the
rest of the metrics, which cancels most of the error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from msgspec import Struct

from phalanx.analytics.metrics import Matrix
from phalanx.analytics.profiles import ServiceProfile, Windows

SETS = 400
"""Sets of metrics that are told to the model at most; up to eight metrics, these are all."""
NOTABLE = 0.1
"""Share of the score from which on a metric is worth a word."""
Score = Callable[[Windows], Matrix]
"""Returns for each window how much it speaks for a verdict; above 0 it is given."""


class Cause(Struct, frozen=True):
    """One metric's part in a verdict."""

    metric: str
    share: float
    """Of all that speaks for the verdict, 0 to 1."""
    since: int
    """Rows before the last one, at which it began to be unusual."""
    value: float
    """In the last row, in the metric's unit."""
    usual: float
    """What it usually is."""


def shapley(score: Score, window: Windows, seed: int = 0) -> Matrix:
    """Return what each metric adds to the score of a window, (metrics,).

    Their sum is the score less that of a window in which all is as usual.

    Args:
        score: of the model.
        window: (rows, metrics + 1).
        seed: of the sets that are drawn.

    """
    told, solve = _sets(window.shape[1] - 1, seed)
    shown = np.concatenate([told, np.ones((len(told), 1))], axis=1)[:, None, :]
    scores = score((window[None] * shown).astype(np.float32))
    return np.asarray(solve @ (scores - scores[0]))


@lru_cache(maxsize=32)
def _sets(metrics: int, seed: int) -> tuple[Matrix, Matrix]:
    """Return sets of metrics, (n, metrics), and what makes Shapley values of their scores."""
    chance = np.random.default_rng(seed)
    weight = {size: (metrics - 1) / (size * (metrics - size)) for size in range(1, metrics)}
    told, weights = [np.zeros(metrics), np.ones(metrics)], [0.0, 0.0]
    left = SETS
    between = set(weight)
    for size in range(1, metrics // 2 + 1):
        both = {size, metrics - size}
        if sum(comb(metrics, each) for each in both) > left:
            break
        between -= both
        for each in both:
            for chosen in combinations(range(metrics), each):
                told.append(np.isin(np.arange(metrics), chosen).astype(float))
                weights.append(weight[each] / comb(metrics, each))
                left -= 1
    sizes = sorted(between)
    mass = np.array([weight[size] for size in sizes])
    for _ in range(left // 2 if sizes else 0):
        size = chance.choice(sizes, p=mass / mass.sum())
        some = (chance.permutation(metrics) < size).astype(float)
        told += [some, 1.0 - some]
        weights += [mass.sum() / (left // 2 * 2)] * 2
    sets, weighed = np.array(told), (np.array(told) * np.array(weights)[:, None]).T
    whole, one = np.arange(len(sets))[None] == 1, np.ones((metrics, 1))
    line = np.block([[weighed @ sets, one], [one.T, 0.0]])  # that meets the whole window's score
    return sets, np.linalg.solve(line, np.concatenate([weighed, whole]))[:-1]


def causes(
    score: Score, window: Windows, profile: ServiceProfile, values: Matrix
) -> tuple[Cause, ...]:
    """Return the metrics that speak for a verdict, the strongest first.

    Args:
        score: of the model.
        window: (rows, metrics + 1).
        profile: of the service.
        values: (rows, metrics), in the metrics' units.

    """
    added = np.maximum(shapley(score, window), 0.0)
    whole = max(float(added.sum()), 1e-12)
    usual = np.expm1(np.array(profile.middle)) * np.array(profile.scale)
    found = []
    for column in np.argsort(-added):
        share = float(added[column]) / whole
        if share < NOTABLE:
            break
        far = np.abs(window[:, column])
        odd = np.flatnonzero(far >= far.max() / 2)
        found.append(
            Cause(
                profile.names[column],
                share,
                int(len(window) - 1 - odd[0]),
                float(values[-1, column]),
                float(usual[column]),
            )
        )
    return tuple(found)


def sentence(kind: str, found: tuple[Cause, ...]) -> str:
    """Return a verdict's causes as a sentence for users."""
    if not found:
        return f"{kind}: no metric stands out"
    told = (
        f"{cause.metric} is {cause.value:.3g}, usually {cause.usual:.3g} ({cause.share:.0%})"
        for cause in found
    )
    return f"{kind}: {'; '.join(told)}"
