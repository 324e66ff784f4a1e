"""How models of services hold against those who want them to fail, before and after defences.

``phalanx bench robustness --data DIR [--seeds N] [--share X]...`` trains the light detector and
the classifier on two parts of a data set's runs and judges them on the third, with each seed
another one: under attacks on what they are trained on, of ``--share`` of it each, and on what they
are shown (``robustness.py``), without defence and with each of

- adversarial training: attacked rows of trouble, and normal rows with a crowd's load, are learned;
- explanations: what a row is, is what rows are that are explained alike (gradient times input). In
  training, rows that are labelled otherwise are set aside;
- neighbours: the same by the metrics themselves, to see what explanations add.

Where rows of trouble carry an attacker's load, normal ones carry as much at random: that of a
crowd, which is normal. Needs the extra ``train``; two minutes on one core for a seed and a share.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
from msgspec import Struct
from msgspec.structs import replace as with_
from numpy.typing import NDArray

from tables import QUICK, console, extra, show

if "--data" not in sys.argv[:-1]:
    console.print("bench robustness --data DIR: a folder of runs, SERVICE/RUN-N.csv")
    sys.exit(0)
for _module in ("torch", "sklearn.neighbors", "art"):
    extra(_module)

from sklearn.neighbors import KNeighborsClassifier  # noqa: E402

from phalanx.analytics.datasets import NORMAL, Run, by_service, kinds_of, read_runs  # noqa: E402
from phalanx.analytics.evaluation import Scores, judged_rows, scores  # noqa: E402
from phalanx.analytics.metrics import Matrix, MetricError  # noqa: E402
from phalanx.analytics.profiles import Windows  # noqa: E402
from phalanx.analytics.training import (  # noqa: E402
    CLASSIFIER,
    DETECTOR,
    FOLDS,
    Examples,
    Schedule,
    examples_of,
    fit_classes,
    profiles_of,
)
from robustness import (  # noqa: E402
    EVASION,
    FLIPS,
    Kinds,
    Load,
    Network,
    attributed,
    evaded,
    generated,
    impact,
    load_on,
    more_of,
    relabelled,
)

SHARES = (0.3,) if QUICK else (0.05, 0.3)
"""Of the rows that are trained on: how many an attacker changes or adds."""
SCHEDULE = Schedule(epochs=1, steps=20) if QUICK else Schedule(epochs=8, steps=400)
"""Trainings are many: these are shorter than that of a model that is kept."""
NEIGHBOURS = 11
"""That have a say in what a row is."""
ROUNDS = 2
"""Of adversarial training: the model is attacked, and learns from that, too."""
NOTHING, NEARBY, EXPLAINED, ADVERSARIAL = (
    "none", "neighbours", "explanations", "adversarial",
)  # fmt: skip
POISONED, MADE = "load as normal", "GAN rows as normal"
DEFENCES = (NOTHING, NEARBY, EXPLAINED, ADVERSARIAL)
Mask = NDArray[np.bool_]
Told = tuple[str, float, str, Kinds]
"""Attack, share, defence, and what was told of the rows that are judged."""


class Resilience(Struct, frozen=True):
    """How well a model told rows of runs that it was not trained on, under one attack."""

    naming: bool
    """Whether it was to name the kind, not only to tell trouble from what is normal."""
    attack: str
    share: float
    """Of the rows that are trained on (of those of trouble, for labels and episodes); 1 in
    evasion: all rows that are judged."""
    defence: str
    seed: int
    scores: Scores
    impact: float
    """By which share errors grew from those without attack and defence (MAIP's resilience)."""


def robustness(
    runs: Sequence[Run],
    seeds: Sequence[int],
    *,
    shares: Sequence[float] = SHARES,
    schedule: Schedule = SCHEDULE,
    told: Callable[[str], None] = lambda _: None,
) -> Iterator[Resilience]:
    """Attack the light detector and the classifier, and judge them on runs they do not know.

    Args:
        runs: of a data set.
        seeds: of trainings and attacks; with each, another part of the runs is judged.
        shares: of the rows that are trained on: how many are changed or added.
        schedule: of each training, but for its seed.
        told: what is being done, in half a line.

    Raises:
        MetricError: if load moves none of the metrics, or there is no trouble to judge.

    """
    kinds, profiles = kinds_of(runs), profiles_of(runs, runs[0].table.names)
    usual = {name: [run.table.where(NORMAL) for run in own] for name, own in by_service(runs)}
    loads = [load_on(profiles[run.service, run.part], usual[run.service]) for run in runs]
    owner = np.repeat(np.arange(len(runs)), [len(run.table) for run in runs])
    parts = np.array([run.part % FOLDS for run in runs])[owner]
    for naming in (False, True):
        every = examples_of(runs, profiles, kinds, CLASSIFIER if naming else DETECTOR)
        if not naming:
            every = replace(every, wanted=(every.wanted > 0).astype(np.int64))
        for seed in seeds:
            judged = judged_rows(runs) & (parts == seed % FOLDS)
            if not every.wanted[judged].any():
                raise MetricError(f"part {seed % FOLDS} of the runs has no trouble to judge")
            known, schedule = parts != seed % FOLDS, with_(schedule, seed=seed)
            before = None
            for attack, share, defence, found in _trial(
                every, owner, loads, known, judged, schedule, shares
            ):
                told(f"seed {seed}, {'classifier' if naming else 'detector'}: {attack}, {defence}")
                score = scores(every.wanted[judged], found, len(kinds) if naming else 2)[0]
                before = 1 - score.accuracy if before is None else before
                grown = impact(before, 1 - score.accuracy, len(found))
                yield Resilience(naming, attack, share, defence, seed, score, grown)


def _trial(
    every: Examples,
    owner: Kinds,
    loads: list[Load],
    known: Mask,
    judged: Mask,
    schedule: Schedule,
    shares: Sequence[float],
) -> Iterator[Told]:
    """Yield attack, share, defence, and what was told of the rows that are judged."""
    learn, judge = every.chosen(known), every.chosen(judged)
    kinds, trouble = int(every.wanted.max()) + 1, every.wanted > 0
    chance = np.random.default_rng(schedule.seed)

    def attacked(network: Network, rows: Mask, attack: str, crowd: str = EVASION[0]) -> Windows:
        windows = every.windows.copy()
        for number, load in enumerate(loads):
            for of, how in (trouble, attack), (~trouble, crowd):
                own = np.flatnonzero(rows & of & (owner == number))
                windows[own] = evaded(
                    network, windows[own], every.wanted[own], load, how, schedule.seed
                )
        return windows[rows]

    def trained(attack: str, share: float, examples: Examples) -> Iterator[Told]:
        network = fit_classes(examples, kinds, schedule)
        yield attack, share, NOTHING, network.told(judge.windows)
        for defence, seen in _views(network).items():
            view = seen(examples.windows)
            alike = _vote(view, examples.wanted, view) == examples.wanted
            network = fit_classes(examples.chosen(alike), kinds, schedule)
            yield attack, share, defence, network.told(judge.windows)

    yield from trained(NOTHING, 0.0, learn)
    plain = hard = fit_classes(learn, kinds, schedule)
    more = learn
    for _ in range(ROUNDS):
        more = more_of(more, attacked(hard, known, EVASION[2]), learn.wanted)
        hard = fit_classes(more, kinds, schedule)
    yield NOTHING, 0.0, ADVERSARIAL, hard.told(judge.windows)
    for attack in EVASION:
        windows = attacked(plain, judged, attack)
        yield attack, 1.0, NOTHING, plain.told(windows)
        for defence, seen in _views(plain).items():
            yield attack, 1.0, defence, _vote(seen(learn.windows), learn.wanted, seen(windows))
        yield attack, 1.0, ADVERSARIAL, hard.told(attacked(hard, judged, attack))
    for share in shares:
        count = round(share * len(learn.wanted))
        for attack in FLIPS:
            yield from trained(attack, share, relabelled(learn, attack, share, schedule.seed))
        normal = chance.permutation(np.flatnonzero(known & ~trouble))[:count]
        rows = np.isin(np.arange(len(known)), normal)
        windows = attacked(plain, rows, NOTHING, EVASION[2])
        yield from trained(POISONED, share, more_of(learn, windows, 0))
        windows = generated(learn, chance.integers(1, kinds, count), schedule.seed)
        yield from trained(MADE, share, more_of(learn, windows, 0))


def _views(network: Network) -> dict[str, Callable[[Windows], Matrix]]:
    """Return in what rows may be alike: in their metrics, or in why a network says so."""
    return {
        NEARBY: lambda windows: windows.reshape(len(windows), -1),
        EXPLAINED: lambda windows: attributed(network, windows),
    }


def _vote(known: Matrix, wanted: Kinds, asked: Matrix) -> Kinds:
    """Return the kind that is most overrepresented among what rows are most like."""
    vote = KNeighborsClassifier(NEIGHBOURS).fit(known, wanted)
    usual = np.bincount(wanted)[vote.classes_]
    return np.asarray(vote.classes_[(vote.predict_proba(asked) / usual).argmax(axis=1)], np.int64)


def main() -> None:
    """Print a table for each task."""
    runs = read_runs(Path(sys.argv[sys.argv.index("--data") + 1]))
    words = list(pairwise(sys.argv))
    shares = [float(share) for option, share in words if option == "--share"] or SHARES
    seeds = int(sys.argv[sys.argv.index("--seeds") + 1]) if "--seeds" in sys.argv[:-1] else 1
    found: dict[tuple[bool, str, float, str], list[Resilience]] = defaultdict(list)
    with console.status("reads the runs") as shown:
        for each in robustness(runs, range(seeds), shares=shares, told=shown.update):
            found[each.naming, each.attack, each.share, each.defence].append(each)
    for naming in (False, True):
        attacks = dict.fromkeys((key[1], key[2]) for key in found if key[0] == naming)
        rows = [
            (
                f"{attack}, {share:.0%}" if attack not in (NOTHING, *EVASION) else attack,
                *(_cell(found[naming, attack, share, by]) for by in DEFENCES),
            )
            for attack, share in attacks
        ]
        task = "naming the kind (mean F1 over kinds)" if naming else "trouble or normal (F1)"
        show(f"{task}, by defence", ("attack", *DEFENCES), rows)
    console.print(
        "mean and deviation; then by which share errors grew from those without attack and defence"
    )


def _cell(found: list[Resilience]) -> str:
    if not found:
        return "–"
    f1, grown = [each.scores.f1 for each in found], mean(each.impact for each in found)
    return f"{mean(f1):.2f} ±{pstdev(f1):.2f} {grown:+.0%}"


if __name__ == "__main__":
    try:
        main()
    except MetricError as fault:
        console.print(str(fault), style="red", soft_wrap=True)
        sys.exit(1)
