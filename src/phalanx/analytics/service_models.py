"""What trained models say of a service: normal, trouble, which trouble, or that nobody knows it.

Two stages (deliverable D3.3, 6.1.1): a light network looks at each row; where it sees trouble, a
larger one names it, or calls it a false alarm. What is unlike all that the larger one was trained
on is unknown, whether the light one sees trouble or not: it was not trained on it either.
An autoencoder (Benzaïd et al., section IV) needs no examples of trouble: it learns to rebuild what
is normal, and what it cannot rebuild in two rows running is not.
"""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
from msgspec import Struct

from phalanx.analytics.explanations import Cause, Score, causes
from phalanx.analytics.metrics import Matrix, MetricError, MetricTable
from phalanx.analytics.models import Model
from phalanx.analytics.profiles import ServiceProfile, Windows, windows_of

LATELY = 120
"""Rows without an alarm that an adaptive threshold follows."""
MOST_RAISED = 1.1
"""By so much at most, so that nobody can lead it away by trouble that grows slowly."""
NORMAL, TROUBLE, FALSE_ALARM, UNKNOWN = "normal", "trouble", "false alarm", "unknown"


class ServiceVerdict(Struct, frozen=True):
    """What is said of one row of a service's metrics."""

    service: str
    at_s: float
    """Of the row."""
    kind: str
    """``normal``, ``trouble`` that has no name yet, its kind, ``false alarm``, or ``unknown``."""
    certainty: float
    """0 to 1."""
    score: float
    threshold: float
    """Above which the score is no longer normal, or no longer known."""
    causes: tuple[Cause, ...] = ()
    gaps: tuple[str, ...] = ()
    """Metrics without a value in the row's window: they count as usual."""


class TwoStages:
    """The two networks that look at a service, one after the other."""

    def __init__(self, detector: Model, classifier: Model) -> None:
        """Take both models.

        Raises:
            MetricError: if they do not go together.

        """
        if (detector.card.role, classifier.card.role) != ("detector", "classifier"):
            raise MetricError("a detector and a classifier are needed, in this order")
        if detector.card.metrics != classifier.card.metrics:
            raise MetricError(
                f"models {detector.card.name} and {classifier.card.name} take different metrics"
            )
        self.detector, self.classifier = detector, classifier

    @property
    def rows(self) -> int:
        """How many of the latest rows are looked at."""
        first, second = self.detector.card, self.classifier.card
        return max(first.rows + second.after, second.rows)

    def __call__(self, service: str, table: MetricTable, profile: ServiceProfile) -> ServiceVerdict:
        """Judge a service by its latest rows.

        Trouble in the newest row has no name yet. Trouble in the row so far back as the classifier
        looks ahead gets one.

        Raises:
            MetricError: if there are too few rows, or too many gaps in them.

        """
        first, second = self.detector.card, self.classifier.card
        table = first.latest(service, table, self.rows)
        far = profile.measure(table)
        gaps = _gaps(profile, far)
        back = len(table) - 1 - second.after
        seen = windows_of(far, first.rows)
        trouble = _likely(self.detector(seen)[0])[:, 1]
        window = windows_of(far, second.rows, second.after)[back]
        logits, apart = (output[0] for output in self.classifier(window[None]))
        best = int(logits.argmax())

        def alarm(windows: Windows) -> Matrix:
            found = self.detector(windows)[0]
            return np.asarray(found[:, 1] - found[:, 0])

        def unlike(windows: Windows) -> Matrix:
            return self.classifier(windows)[1] - second.threshold

        def named(windows: Windows) -> Matrix:
            found = self.classifier(windows)[0]
            return np.asarray(found[:, best] - np.delete(found, best, axis=1).max(axis=1))

        reason: Score | None = None
        row, why = back, window
        threshold, score = first.threshold, trouble[back]
        kind, sure = NORMAL, 1.0 - score
        if apart > second.threshold:  # whatever is said beside it: nobody was shown such a row
            kind, reason, score, threshold = UNKNOWN, unlike, apart, second.threshold
            sure = 1 - threshold / (2 * score)
        elif score > threshold and best:
            kind, reason, sure = second.kinds[best], named, _likely(logits[None])[0, best]
        elif score > threshold:
            kind, sure = FALSE_ALARM, _likely(logits[None])[0, 0]
        elif second.after and trouble[-1] > threshold:
            kind, reason, row, why = TROUBLE, alarm, len(table) - 1, seen[-1]
            sure = score = trouble[-1]
        values = table.columns(profile.names).values
        found = causes(reason, why, profile, values) if reason else ()
        at_s = float(table.times[row])
        return ServiceVerdict(
            service, at_s, kind, float(sure), float(score), threshold, found, gaps
        )


class AutoencoderModel:
    """The autoencoder's word: how badly the newest two rows are rebuilt.

    The score of a row is the root of the sum of its squared errors, that of each metric measured
    in the largest of normal runs that were held back: a metric that is odd now and then may be so.
    """

    def __init__(self, model: Model, *, adaptive: bool = False) -> None:
        """Take a model of the role ``autoencoder``.

        Args:
            model: whose card has the threshold.
            adaptive: whether the threshold follows the scores of the rows that lately gave no
                alarm: to ``MOST_RAISED`` times itself at most, and never below itself.

        Raises:
            MetricError: if it is of another.

        """
        if model.card.role != "autoencoder":
            raise MetricError(f"model {model.card.name} is a {model.card.role}, no autoencoder")
        if not model.card.rebuilt:
            raise MetricError(f"card {model.card.name} does not say how large its errors may be")
        self.model = model
        self._adaptive = adaptive
        self._lately: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LATELY))

    @property
    def rows(self) -> int:
        """How many of the latest rows are looked at."""
        return self.model.card.rows + 1

    def scores(self, service: str, windows: Windows) -> Matrix:
        """Return the score of the last row of each window, (n,).

        For a service that the model was not trained on, errors are measured in the largest of all.
        """
        known = self.model.card.rebuilt
        own = [known[service]] if service in known else [*known.values()]
        largest = np.max([each.largest for each in own], axis=0)
        return np.asarray(np.linalg.norm(missed(self.model, windows) / largest, axis=1))

    def alarm(self, service: str, score: float) -> bool:
        """Return whether the next score of a service, the lesser of two rows, is an alarm."""
        if score > self.threshold(service):
            return True
        self._lately[service].append(score)
        return False

    def threshold(self, service: str) -> float:
        """Return the threshold as of now."""
        card, lately = self.model.card, self._lately[service]
        if not self._adaptive or service not in card.rebuilt or len(lately) < LATELY:
            return card.threshold
        raised = float(np.median(lately)) / card.rebuilt[service].usual
        return card.threshold * min(max(raised, 1.0), MOST_RAISED)

    def __call__(self, service: str, table: MetricTable, profile: ServiceProfile) -> ServiceVerdict:
        """Judge a service by its latest rows.

        Raises:
            MetricError: if there are too few rows, or too many gaps in them.

        """
        card, limit = self.model.card, self.threshold(service)
        table = card.latest(service, table, self.rows)
        far = profile.measure(table)
        gaps = _gaps(profile, far)
        windows = windows_of(far, card.rows)[-2:]
        score = float(self.scores(service, windows).min())
        kind = TROUBLE if self.alarm(service, score) else NORMAL
        why: tuple[Cause, ...] = ()
        if kind == TROUBLE:
            values = table.columns(profile.names).values

            def over(windows: Windows) -> Matrix:
                return self.scores(service, windows) - limit

            why = causes(over, windows[-1], profile, values)
        sure = score / (score + limit) if kind == TROUBLE else 1 - score / (2 * limit)
        at_s = float(table.times[-1])
        return ServiceVerdict(service, at_s, kind, sure, score, limit, why, gaps)


def missed(autoencoder: Model, windows: Windows) -> Matrix:
    """Return by how much an autoencoder misses each metric in windows' last rows, (n, metrics)."""
    return np.abs(autoencoder(windows)[0][:, -1] - windows[:, -1, :-1])


def of_two(scores: Matrix) -> Matrix:
    """Return for each row the lesser of its score and that of the row before, (n,)."""
    return np.asarray(np.minimum(scores, np.concatenate([scores[:1], scores[:-1]])))


def _gaps(profile: ServiceProfile, far: Matrix) -> tuple[str, ...]:
    unknown = np.flatnonzero(np.isnan(far).all(axis=0))
    return tuple(profile.names[column] for column in unknown)


def _likely(logits: Matrix) -> Matrix:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
