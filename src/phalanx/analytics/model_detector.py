"""A trained model as a detector of services' troubles; the fixed rules go on beside it.

What is usual for a service is learned from the first rows in which nothing is wrong. A model
proposes: a trouble that a plan would relieve is named so only if what the plan does can be taken
back and the service is busy; anything else is told under a word that no plan is for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from math import nan
from pathlib import Path

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from phalanx.analytics.detectors import HTTP_FLOOD, SLOW, Finding
from phalanx.analytics.explanations import sentence
from phalanx.analytics.metrics import Matrix, MetricError, MetricTable
from phalanx.analytics.models import FOLDER, Model, ModelCard, ModelError, load_model
from phalanx.analytics.profiles import FEWEST, ServiceProfile, profile_of
from phalanx.analytics.service_models import NORMAL, AutoencoderModel, ServiceVerdict, TwoStages
from phalanx.analytics.service_rules import (
    BUSY,
    FULL,
    HIGH_CPU,
    HIGH_MEMORY,
    LEARNED,
    LOAD_STEP,
    NETWORK_DELAY,
    NOT_JUDGED,
    OVERLOADED,
    RELIEVED,
    TRAFFIC_SPIKE,
    ServiceRules,
)
from phalanx.domain.series import TrafficWindow

RTT_MS = "rtt_ms"
"""The metric that is told of each entry; a model sees that of the slowest."""
PROFILED = 30, 60, 120
"""Rows after which what is usual is told, and told again, until something is wrong."""
CONFIRMED = 2
"""Verdicts in a row that have to say the same."""
SURE = 0.8
"""Certainty from which on a trouble may be called by the name that a plan is for."""
UNUSUAL_LOAD, UNUSUAL_MEMORY, UNUSUAL_DELAY = "unusual load", "unusual memory", "unusual delay"
MEANS = {
    "cpu": HIGH_CPU,
    "memory": UNUSUAL_MEMORY,
    HIGH_MEMORY: UNUSUAL_MEMORY,
    "user spike": TRAFFIC_SPIKE,
    HTTP_FLOOD: TRAFFIC_SPIKE,
    "user step": LOAD_STEP,
    SLOW: FULL,
    "slow http": FULL,
}
"""What the words of models mean. A restart costs users, so memory is for the rule alone."""


class _Usual(Struct):
    """What is known of one service."""

    rows: list[Matrix] = field(default_factory=list)
    """That were learned from."""
    profile: ServiceProfile | None = None
    settled: bool = False
    """Nothing more is learned: what is done about a trouble changes what is usual."""
    latest_s: float = -1.0
    kind: str = NORMAL
    """That the last verdicts gave, and how many of them in a row."""
    times: int = 0


def model_detector(given: str) -> Callable[[], ModelDetector]:
    """Return what makes detectors of a trained model, one for each that watches.

    Args:
        given: a folder, with a ``/`` in its name; else the first part of the names of models that
            come with the package. A detector and a classifier are taken together, or else an
            autoencoder.

    Raises:
        ModelError: if there are none of that name, or they are not what their cards say.

    """
    folder = Path(given) if "/" in given else FOLDER
    names = [path.stem for path in sorted(folder.glob("*.json"))]
    if folder is FOLDER:
        names = [name for name in names if f"{name}-".startswith(f"{given}-")]
    found: dict[str, Model] = {}
    for name in names:
        model = load_model(name, folder)
        if found.setdefault(model.card.role, model) is not model:
            raise ModelError(f"{folder}: there are two models of the role {model.card.role}")
    if {"detector", "classifier"} <= set(found):
        both = found["detector"], found["classifier"]
        return partial(ModelDetector, TwoStages(*both), both[0].card, given)
    if "autoencoder" not in found:
        roles = ", ".join(found) or "none"
        raise ModelError(
            f"{folder}: no detector and classifier, and no autoencoder, of {given}; found: {roles}"
        )
    one = found["autoencoder"]
    return partial(ModelDetector, AutoencoderModel(one), one.card, given)


class ModelDetector:
    """Implements ``Detector``: looks at the series of a service and of the entries to it."""

    def __init__(self, judge: TwoStages | AutoencoderModel, card: ModelCard, name: str) -> None:
        self._judge, self._card, self._name = judge, card, name
        self._rules = ServiceRules()
        self._known: dict[str, _Usual] = defaultdict(_Usual)
        known = [profile.spread for profile in card.services.values()]
        self._spread = np.median(known, axis=0) if known else np.zeros(len(card.metrics))

    def examine(self, window: TrafficWindow) -> list[Finding]:
        """Return what the rules find, and what the model says beside that."""
        said = self._rules.examine(window)
        services = dict.fromkeys(one.subject for one in window.series if one.name != RTT_MS)
        told = [self._examined(service, window, bool(said)) for service in services]
        kinds = {finding.kind for finding in said}
        if kinds & {*OVERLOADED}:
            kinds |= {*OVERLOADED}
        return said + [
            finding
            for finding in told
            if finding is not None
            and finding.kind not in kinds
            and (not said or finding.kind in (*RELIEVED, NOT_JUDGED))
        ]

    def _examined(self, service: str, window: TrafficWindow, trouble: bool) -> Finding | None:
        """Return what is said of a service; learn from its newest row if nothing is wrong."""
        table, known = self._table(service, window), self._known[service]
        newest = np.where(np.isfinite(table.values[-1]), table.values[-1], nan)
        finding = None
        if known.profile is None:
            finding = _not_judged(
                service, f"has not been well for {PROFILED[0]} rows yet, which tell what is usual"
            )
        else:
            few = np.isfinite(known.rows).sum(axis=0) < FEWEST
            table.values[:, few] = nan
            try:
                verdict = self._judge(service, table, known.profile)
            except MetricError as fault:
                return _not_judged(service, f"is not judged: {fault}")
            finding = self._finding(verdict, window)
            kind = NORMAL if finding is None else finding.kind
            same = kind == known.kind or {kind, known.kind} <= {*OVERLOADED}
            known.kind, known.times = kind, known.times + 1 if same else 1
            if verdict.kind != NORMAL:
                known.settled |= known.times >= CONFIRMED
                return finding if known.times >= CONFIRMED else None
        if trouble:
            known.settled = known.profile is not None
            if not known.settled:  # what went before it may belong to it
                del known.rows[-LEARNED:]
        elif not known.settled and table.times[-1] > known.latest_s:
            known.rows.append(newest)
            known.latest_s = float(table.times[-1])
            if len(known.rows) in PROFILED:
                known.profile = self._profile(np.array(known.rows))
                known.settled = len(known.rows) == PROFILED[-1]
        return finding

    def _table(self, service: str, window: TrafficWindow) -> MetricTable:
        """Return the metrics of a service, and of the entry that is slowest at the time."""
        own = [one for one in window.series if one.subject == service or one.name == RTT_MS]
        times = sorted({t for one in own if one.subject == service for t in one.times})
        row = {time: number for number, time in enumerate(times)}
        names = self._card.metrics
        values = np.full((len(times), len(names)), nan)
        for one in own:
            if one.name not in names:
                continue
            column = names.index(one.name)
            for time, value in zip(one.times, one.values, strict=True):
                if time in row:
                    at = row[time], column
                    values[at] = np.fmax(values[at], value)
        return MetricTable(np.array(times), names, values)

    def _profile(self, rows: Matrix) -> ServiceProfile:
        table = MetricTable(np.arange(float(len(rows))), self._card.metrics, rows)
        own = profile_of([table], self._card.metrics)
        # So few rows tell where a service is, but not how far it goes from there.
        return replace(own, spread=tuple(np.maximum(own.spread, self._spread).tolist()))

    def _finding(self, verdict: ServiceVerdict, window: TrafficWindow) -> Finding | None:
        if verdict.kind == NORMAL:
            why = f"is judged without {', '.join(verdict.gaps)}: not read"
            return _not_judged(verdict.service, why) if verdict.gaps else None
        kind, target = MEANS.get(verdict.kind, verdict.kind), verdict.service
        then = {
            (one.subject, one.name): value
            for one in window.series
            for time, value in zip(one.times, one.values, strict=True)
            if time == verdict.at_s
        }
        if kind in OVERLOADED:
            shares = (then.get((target, f"{what}_share"), 0.0) for what in ("cpu", "connections"))
            busy = max(shares) >= BUSY / 2
            kind = kind if busy and verdict.certainty >= SURE else UNUSUAL_LOAD
        if kind == NETWORK_DELAY:
            ways = {subject: ms for (subject, name), ms in then.items() if name == RTT_MS}
            kind = kind if ways and verdict.certainty >= SURE else UNUSUAL_DELAY
            target = max(ways, key=ways.__getitem__, default=target)
        sure = min(round(verdict.certainty, 6), 0.999999)  # what is certain a rule has found
        reason = sentence(f"is that to model {self._name}, {sure:.0%} sure", verdict.causes)
        evidence = {cause.metric: round(cause.value, 6) for cause in verdict.causes}
        return Finding(kind, target, None, sure, reason, evidence)


def _not_judged(service: str, why: str) -> Finding:
    return Finding(NOT_JUDGED, service, None, 1.0, why)
