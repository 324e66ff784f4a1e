"""Verdicts on flows that are learned, judged beside the fixed rules on traffic never trained on.

What is judged is what one source did to one target in a window, by what recorders count.
Rows of one network and rows of one kind of attack are left out, both at a time, in turn: a model
that only knows what its own network looks like, or only the attacks that it was shown, fails here.
Beside it stands the best threshold on a single figure, chosen on the same rows.

Figures are shares and rates that mean the same over the simulated network and with real packets.
Mean octets of a packet are none of them: over the simulated network a user sends what it gets.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.analytics.fixed_rules import FixedRules
from phalanx.analytics.group_rules import AMPLIFIED
from phalanx.analytics.metrics import Matrix
from phalanx.analytics.source_rules import FlowAggregate, aggregate
from phalanx.domain.errors import PhalanxError
from phalanx.domain.series import TrafficWindow

COLUMNS = (
    "seconds", "udp", "packets", "syn", "established", "replies", "answered", "open", "resets",
    "syn_acks", "source_port", "target_packets", "target_sources", "target_silent", "convicted",
)  # fmt: skip
"""Of a row: how long was looked, what ``FlowAggregate`` counts, packets, sources and sources that
got nothing towards the same target over the same protocol, and whether the fixed rules convict."""
FIGURES = (
    "packets/s", "packets", "SYNs of packets", "SYNs/s", "established of SYNs", "replies a packet",
    "answered of connections", "answered", "open connections", "resets of replies",
    "SYN-ACKs of packets", "UDP", "port that amplifies", "share of the target's packets",
    "silent sources at the target", "got nothing",
)  # fmt: skip
WORSE = (1, 0, 0, 1, -1, -1, -1, -1, 0, 1, 1, 0, 1, 1, 0, 1)
"""Of each figure: whether more of it can only make a source more suspect (1), or less (-1)."""
HONEST = {"users", "viewers", "flash crowd", "bulk download", "bulk upload", "proxy", "calls",
          "reports", "resolver"}  # fmt: skip
"""Labels of rows that are no attack; every other is a kind of attack."""
WORTH = 1 / 3
"""Share of the threshold's error that a model has to remove, to be shipped."""
DRAWS = 2000
"""Of networks and families, for the interval."""
Answers = NDArray[np.bool_]


class FlowDataError(PhalanxError):
    """Recorded flows cannot be used; the message is one line."""


def rows_of(window: TrafficWindow) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield each source of a window, with a row of ``COLUMNS``."""
    found = FixedRules().examine(window)
    convicted = {(f.source, f.target) for f in found if f.source is not None}
    forged = {f.target for f in found if f.spoofed}
    flows = aggregate(window.flows)
    totals: dict[tuple[str, str], list[int]] = {}
    for one in flows:
        total = totals.setdefault((one.target, one.protocol), [0, 0, 0])
        total[0] += one.packets
        total[1] += 1
        total[2] += _silent(one)
    for one in flows:
        blamed = (one.source, one.target) in convicted or (one.target in forged and _silent(one))
        yield one.source, (
            window.seconds, int(one.protocol != "tcp"), one.packets, one.syn, one.established,
            one.replies, one.answered, one.open, one.resets, one.syn_acks, max(one.source_port, 0),
            *totals[one.target, one.protocol], int(blamed),
        )  # fmt: skip


def _silent(one: FlowAggregate) -> bool:
    return not (one.established or one.answered or (one.protocol != "tcp" and one.replies))


def figures_of(rows: Matrix) -> Matrix:
    """Return ``FIGURES`` of rows of ``COLUMNS``, (n, figures): finite, whatever the counts are."""
    counts = np.clip(np.nan_to_num(rows.astype(np.float64), posinf=1e12, neginf=0.0), 0.0, 1e12)
    of = dict(zip(COLUMNS, counts.T, strict=True))
    for name in ("established", "answered", "open"):  # recorders of captures count them of UDP, too
        of[name] = of[name] * (of["udp"] == 0)
    seconds, packets = np.maximum(of["seconds"], 1e-3), np.maximum(of["packets"], 1.0)
    held = np.maximum.reduce([of["open"], of["answered"], of["established"], np.ones(len(rows))])
    return np.column_stack([
        np.log10(1 + of["packets"] / seconds),
        np.log10(1 + of["packets"]),
        np.minimum(of["syn"] / packets, 1.0),
        np.log10(1 + of["syn"] / seconds),
        np.minimum(of["established"] / np.maximum(of["syn"], 1.0), 1.0),
        np.minimum(of["replies"] / packets, 3.0),
        of["answered"] / held,
        np.log10(1 + of["answered"]),
        np.log10(1 + of["open"]),
        np.minimum(of["resets"] / np.maximum(of["replies"], 1.0), 1.0),
        np.minimum(of["syn_acks"] / packets, 1.0),
        of["udp"] > 0,
        np.isin(of["source_port"], list(AMPLIFIED)),
        np.minimum(of["packets"] / np.maximum(of["target_packets"], 1.0), 1.0),
        np.minimum(of["target_silent"] / np.maximum(of["target_sources"], 1.0), 1.0),
        (of["established"] + of["answered"] + of["udp"] * of["replies"]) == 0,
    ]).astype(np.float64)  # fmt: skip


class FlowRows(Struct, frozen=True):
    """Labelled rows, an entry each."""

    rows: Matrix
    """(n, ``COLUMNS``)."""
    labels: NDArray[np.str_]
    networks: NDArray[np.str_]

    @property
    def attacks(self) -> Answers:
        """Which of them are attacks."""
        return ~np.isin(self.labels, list(HONEST))


def read_flows(folder: Path) -> FlowRows:
    """Read ``FOLDER/<network>/<run>.csv``.

    Raises:
        FlowDataError: if there is nothing to leave out, or a file is not what it should be.

    """
    rows, labels, networks = [np.empty((0, len(COLUMNS)))], [], []
    for path in sorted(folder.glob("*/*.csv")):
        with path.open(newline="") as file:
            head, *lines = [*csv.reader(file)] or [[]]
        try:
            found = np.array([line[1:] for line in lines], float).reshape(len(lines), len(COLUMNS))
        except ValueError:
            found = np.array([[np.nan]])
        if head != ["label", *COLUMNS] or not np.isfinite(found).all():
            raise FlowDataError(f"{path}: not rows of label, {', '.join(COLUMNS)}")
        rows.append(found)
        labels += [line[0] for line in lines]
        networks += [path.parent.name] * len(lines)
    flows = FlowRows(np.concatenate(rows), np.array(labels, str), np.array(networks, str))
    if min(len(set(networks)), len(set(flows.labels[flows.attacks]))) < 2:
        raise FlowDataError(f"{folder}: flows of two networks and two kinds of attack are needed")
    return flows


class FlowTrial(Struct, frozen=True):
    """Balanced errors on one network and one kind of attack that were both left out, 0 to 1."""

    network: str
    family: str
    rows: int
    """Attack rows that were judged."""
    errors: dict[str, float]
    """By judge: ``fixed rules``, ``threshold``, and each model."""
    figure: str
    """The single figure that told most in training."""


def trials(
    flows: FlowRows,
    seeds: Sequence[int] = (0,),
    told: Callable[[str], None] = lambda _: None,
    *,
    known: bool = False,
) -> Iterator[FlowTrial]:
    """Leave out each network and each kind of attack in turn, both at a time, and judge them.

    Args:
        flows: of some networks and kinds of attack.
        seeds: each model is trained with each; its error is the mean.
        told: what is being done, in half a line.
        known: train with that kind of attack on the other networks.

    """
    figures, attacks = figures_of(flows.rows), flows.attacks
    for network in np.unique(flows.networks):
        here = flows.networks == network
        for family in np.unique(flows.labels[here & attacks]):
            told(f"without {network} and {family}")
            learn = np.flatnonzero(~here & (known | (flows.labels != family)))
            judge = np.flatnonzero(here & (~attacks | (flows.labels == family)))
            weights = _weights(flows.networks[learn], flows.labels[learn], attacks[learn])
            column, cut, above = best_threshold(figures[learn], attacks[learn], weights)
            values = figures[judge, column]
            answers: dict[str, list[Answers]] = {
                "fixed rules": [flows.rows[judge, -1] > 0],
                "threshold": [values > cut if above else values <= cut],
            }
            for seed in seeds:
                for name, model in models(seed).items():
                    with catch_warnings(action="ignore"):  # that it might learn for longer
                        model.fit(figures[learn], attacks[learn], sample_weight=weights)
                    answers.setdefault(name, []).append(model.predict(figures[judge]))
            labels, wanted = flows.labels[judge], attacks[judge]
            errors = {
                name: float(np.mean([_balanced(labels, wanted, one) for one in each]))
                for name, each in answers.items()
            }
            yield FlowTrial(str(network), str(family), int(wanted.sum()), errors, FIGURES[column])


def _weights(networks: Any, labels: Any, attacks: Answers) -> Matrix:
    """Return weights by which both sides, each network and each kind on its side count alike."""
    keys = np.char.add(np.char.add(networks, "/"), labels)
    _, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
    weights: Matrix = 1.0 / counts[number]
    for side in (attacks, ~attacks):
        weights[side] /= 2 * weights[side].sum()
    return weights * len(weights)


def _balanced(labels: Any, attacks: Answers, found: Answers) -> float:
    """Return the mean of what is missed and of honest traffic that is blamed, each kind alike."""
    blamed = [found[labels == label].mean() for label in np.unique(labels[~attacks])]
    return float(1 - found[attacks].mean() + np.mean(blamed)) / 2


def best_threshold(figures: Matrix, wanted: Answers, weights: Matrix) -> tuple[int, float, bool]:
    """Return the figure, the threshold, and whether attacks lie above it, with the least error."""
    best, half = (np.inf, 0, 0.0, True), weights.sum() / 2
    for column, values in enumerate(figures.T):
        order = np.argsort(values, kind="stable")
        sorted_ = values[order]
        ends = np.flatnonzero(np.diff(sorted_) > 0)
        gained = np.cumsum(np.where(wanted, weights, -weights)[order])[ends]
        for above, errors in ((False, half - gained), (True, half + gained)):
            if len(ends) and errors.min() < best[0]:
                at = ends[errors.argmin()]
                cut = float(sorted_[at] + sorted_[at + 1]) / 2
                best = (float(errors.min()), column, cut, above)
    return best[1:]


def models(seed: int) -> dict[str, Any]:
    """Return what learns, by name (scikit-learn)."""
    from sklearn.ensemble import HistGradientBoostingClassifier as Trees  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

    return {
        "logistic": LogisticRegression(max_iter=300),
        "trees": Trees(random_state=seed, max_depth=4, max_iter=40, monotonic_cst=WORSE),
        "MLP": MLPClassifier((16,), random_state=seed, max_iter=30),
    }


class Worth(Struct, frozen=True):
    """What a model removes of the threshold's error, over all trials."""

    removed: float
    low: float
    high: float
    """95 % interval, over networks and kinds of attack drawn anew."""

    @property
    def ships(self) -> bool:
        """Whether it is worth to be shipped."""
        return self.removed >= WORTH and self.low > 0


def worth(found: Sequence[FlowTrial], model: str, seed: int = 0) -> Worth:
    """Return the share of the threshold's error that a model removes.

    The interval is a bootstrap over clusters: networks and kinds are drawn, not rows, since rows of
    one network are alike.
    """
    networks = sorted({one.network for one in found})
    families = sorted({one.family for one in found})
    table = np.full((2, len(networks), len(families)), np.nan)
    for one in found:
        at = networks.index(one.network), families.index(one.family)
        table[(0, *at)], table[(1, *at)] = one.errors["threshold"], one.errors[model]
    chance = np.random.default_rng(seed)

    def removed(part: Any) -> float:
        before, after = np.nansum(part[0]), np.nansum(part[1])
        return float(1 - after / before) if before else 0.0

    drawn = []
    for _ in range(DRAWS):
        some, kinds = (chance.integers(size, size=size) for size in table.shape[1:])
        drawn.append(removed(table[:, some][:, :, kinds]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Worth(removed(table), float(low), float(high))
