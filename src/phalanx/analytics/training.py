"""Training of the models (extra ``train``): from runs of services to files for onnxruntime.

All that is drawn at random hangs on one seed. What is kept is the running mean of the weights.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from msgspec import Struct
from msgspec.structs import replace as with_
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss

from phalanx.analytics.datasets import NORMAL, Run, by_service, kinds_of
from phalanx.analytics.forecasting import FARTHEST, changes, level_of, leveled, windows_before
from phalanx.analytics.metrics import MetricError
from phalanx.analytics.models import Level, Model, ModelCard, RebuildErrors, Role
from phalanx.analytics.networks import Autoencoder, Classifier1D, Detector1D, Forecaster1D
from phalanx.analytics.profiles import ServiceProfile, Windows, profile_of, windows_of
from phalanx.analytics.service_models import missed, of_two

FOLDS = 3
"""Runs are judged in so many parts, each by models that were trained on the others."""
HELD_BACK = 15
"""One stretch of rows in so many is held back to see when to stop."""
PROFILED = 120
"""Rows that tell what is usual for a service."""
RUN_HELD_BACK = 6
"""Of a service, for forecasts: the first run, the 7th and so on."""
TELLING = 3
"""Of a service, for the autoencoder: the first run, the 4th and so on are held back."""
STRETCH = 15
"""Rows of such a stretch."""
FOLLOW = 0.995
"""Share of the running mean of the weights that is kept at each step, in the end."""
WEIGHTING = 0.3
"""Power with which rare kinds weigh more: 0 not at all, 1 as much as all others together."""
N = TypeVar("N", bound=nn.Module)
NORMALLY = 0.999
"""Quantile of a metric's errors in normal runs that its errors are measured in: the largest of
all would grow with the data, by freak rows."""
MARGIN = 1.15
"""So many times as bad as the worst of the normal runs that were held back, and it is trouble."""
LEAST_ERROR = 0.1
"""Of a metric; what is rebuilt better than that is not told from what is always rebuilt."""
KNOWN = 0.998
"""Share of the rows that were held back which a classifier takes for known."""
Progress = Callable[[int, int, float], None]
"""Told after each epoch: its number, of how many at most, and the loss on what was held back."""


class Schedule(Struct, frozen=True):
    """How to train."""

    seed: int = 0
    epochs: int = 30
    """At most; more where there are few rows."""
    steps: int = 1000
    """At least so many fit into all epochs."""
    patience: int = 30
    """Epochs without getting better after which it ends."""
    keep_best: bool = False
    """Keep the epoch that did best on what was held back, not the last one. That loss rises long
    before rare kinds are told apart best."""
    batch: int = 64
    rate: float = 2e-3
    noise: float = 0.1
    """Added to each value."""
    shift: float = 0.15
    """Added to each metric of a window."""
    missing: float = 0.05
    """Share of metrics of windows that are left out, so that one may be missing later."""


AHEAD = Schedule(
    epochs=6, steps=300, patience=3, keep_best=True, batch=256, noise=0.0, shift=0.0, missing=0.0
)
"""For forecasts: there are more windows, and their values count as they are."""
REBUILT = Schedule(
    epochs=30, steps=300, patience=8, keep_best=True, batch=50, noise=0.0, shift=0.0, missing=0.0
)
"""For the autoencoder, as Benzaïd et al. have it."""


@dataclass(frozen=True)
class Examples:
    """Windows to learn from."""

    windows: Windows
    wanted: NDArray[Any]
    """Of each window: the number of its kind, or figures."""
    held_back: NDArray[np.bool_]

    def chosen(self, rows: NDArray[np.bool_]) -> Examples:
        """Return some of them."""
        return Examples(self.windows[rows], self.wanted[rows], self.held_back[rows])


def profiles_of(
    runs: Sequence[Run], names: tuple[str, ...]
) -> dict[tuple[str, int], ServiceProfile]:
    """Return what is usual for each service in each part of runs.

    That is told by the first ``PROFILED`` rows of its normal runs of that part, as one would
    profile a service that was just deployed; where there are none, by those of its other parts.
    """
    found = {}
    for service, own in by_service(runs):
        normal = [run for run in own if run.normal is not None] or [
            replace(run, table=run.table.where(NORMAL)) for run in own
        ]
        for part in {run.part for run in own}:
            told = [run for run in normal if run.part == part] or normal
            tables = [run.table.rows(0, PROFILED) for run in told]
            # Not the part itself, so that a part that is judged tells nothing; one alone may.
            beside = [
                [r.table for r in each if r.part != part] or [r.table for r in each]
                for each in (own, runs)
            ]
            try:
                wide = profile_of(
                    [run.table for run in normal if run.part != part] or tables,
                    names,
                    beside=beside,
                )
                found[service, part] = profile_of(tables, names, wide)
            except MetricError as fault:
                raise MetricError(f"{service}: {fault}") from None
    return found


def examples_of(
    runs: Sequence[Run],
    profiles: dict[tuple[str, int], ServiceProfile],
    kinds: tuple[str, ...],
    shape: WindowShape,
) -> Examples:
    """Return a window for each row of runs, with the number of its kind."""
    windows, numbers, held = [], [], []
    chance = np.random.default_rng(0)
    for run in runs:
        labels = run.table.labels or (NORMAL,) * len(run.table)
        if not run.table.labels and run.normal is None:
            raise MetricError(f"{run.service}/{run.name}: it has no column label")
        windows.append(
            windows_of(profiles[run.service, run.part].measure(run.table), shape.rows, shape.after)
        )
        numbers.append([kinds.index(label) if label in kinds else -1 for label in labels])
        stretches = chance.random(len(run.table) // STRETCH + 1) < 1 / HELD_BACK
        held.append(np.repeat(stretches, STRETCH)[: len(run.table)])
    return Examples(
        np.concatenate(windows), np.concatenate(numbers).astype(np.int64), np.concatenate(held)
    )


def fit(
    network: N,
    examples: Examples,
    loss: Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor],
    schedule: Schedule,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> N:
    """Train a network, and return the mean of its weights.

    Args:
        network: just made, with weights that hang on ``schedule.seed``.
        examples: to learn from.
        loss: of outputs, for windows and what is wanted of them.
        schedule: how.
        progress: told of each epoch.
        resume: file from which an interrupted training goes on, and in which it is kept.

    Raises:
        MetricError: if nothing is held back, or the file is of another training.

    """
    torch.set_num_threads(1)  # these are quicker so, and sums keep their order
    torch.manual_seed(schedule.seed)
    if examples.held_back.all() or not examples.held_back.any():
        raise MetricError(f"{len(examples.windows)} rows are too few to hold some of them back")
    windows, wanted = torch.from_numpy(examples.windows), torch.from_numpy(examples.wanted)
    learn = torch.from_numpy(np.flatnonzero(~examples.held_back))
    held = torch.from_numpy(np.flatnonzero(examples.held_back))
    per_epoch = -(-len(learn) // schedule.batch)
    epochs = max(schedule.epochs, -(-schedule.steps // per_epoch))
    patience = schedule.patience * epochs // schedule.epochs
    mean, best = deepcopy(network), deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), schedule.rate, weight_decay=1e-3)
    pace = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2 * schedule.rate, total_steps=epochs * per_epoch
    )
    state: dict[str, Any] = {"epoch": 0, "step": 0, "least": float("inf"), "at": 0}
    of = sha256(repr((network, schedule)).encode() + windows.numpy().tobytes()).hexdigest()
    if resume is not None and resume.exists():
        kept = _kept(resume, of)
        network.load_state_dict(kept["network"])
        mean.load_state_dict(kept["mean"])
        optimizer.load_state_dict(kept["optimizer"])
        pace.load_state_dict(kept["pace"])
        torch.set_rng_state(kept["random"])
        best, state = kept["best"], kept["state"]
    while state["epoch"] < epochs and state["epoch"] - state["at"] < patience:
        network.train()
        order = learn[torch.randperm(len(learn))]
        for start in range(0, len(order), schedule.batch):
            rows = order[start : start + schedule.batch]
            optimizer.zero_grad()
            drawn = _varied(windows[rows], schedule)
            loss(network(drawn), wanted[rows], drawn).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            pace.step()
            state["step"] += 1
            _follow(mean, network, min(FOLLOW, (1 + state["step"]) / (10 + state["step"])))
        mean.eval()
        with torch.no_grad():
            now = float(loss(mean(windows[held]), wanted[held], windows[held]))
        state["epoch"] += 1
        if now < state["least"]:
            state["least"], state["at"] = now, state["epoch"]
        if state["at"] == state["epoch"] or not schedule.keep_best:
            best = deepcopy(mean.state_dict())
        if progress is not None:
            progress(state["epoch"], epochs, now)
        if resume is not None:
            kept = {"network": network, "mean": mean, "optimizer": optimizer, "pace": pace}
            _keep(
                resume,
                {name: each.state_dict() for name, each in kept.items()}
                | {"random": torch.get_rng_state(), "best": best, "state": state, "of": of},
            )
    mean.load_state_dict(best)
    return cast("N", mean.eval())


class WindowShape(Struct, frozen=True):
    """What a model sees of each row that it is asked about."""

    rows: int
    after: int = 0
    """Rows of these that follow the row: so much later is the answer."""


DETECTOR, CLASSIFIER, FORECAST, REBUILD = (
    WindowShape(5),
    WindowShape(6, after=1),
    WindowShape(30),
    WindowShape(10),
)
"""Trouble is told with the row in which it shows, its kind a row later: one high row may be a spike
or the first of a step."""


class Origin(Struct, frozen=True):
    """What a card says of where its model comes from."""

    name: str
    data: str
    rebuild: str
    split: str = ""


def fit_classes(
    examples: Examples,
    kinds: int,
    schedule: Schedule,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Detector1D | Classifier1D:
    """Train the light 1D-CNN for two kinds, the larger one for more."""
    torch.manual_seed(schedule.seed)
    channels = examples.windows.shape[2]
    if kinds == 2:
        loss = _weighed(examples, kinds, 0.0)
        return fit(Detector1D(channels), examples, loss, schedule, progress, resume)
    loss = _weighed(examples, kinds, WEIGHTING)
    network = fit(Classifier1D(channels, kinds), examples, loss, schedule, progress, resume)
    known = ~examples.held_back
    network.learn_distances(
        torch.from_numpy(examples.windows[known]), torch.from_numpy(examples.wanted[known])
    )
    return network


def train_classes(
    runs: Sequence[Run],
    origin: Origin,
    *,
    naming: bool,
    schedule: Schedule = Schedule(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Model:
    """Train what tells trouble from what is normal or, ``naming``, one kind from another.

    What is farther from all that it knows than nearly all rows that were held back is unknown.
    """
    shape, kinds = CLASSIFIER if naming else DETECTOR, kinds_of(runs)
    card, profiles = _card(runs, origin, "classifier" if naming else "detector", shape, schedule)
    found = examples_of(runs, profiles, kinds, shape)
    if not naming:
        trouble = replace(found, wanted=(found.wanted > 0).astype(np.int64))
        network = fit_classes(trouble, 2, schedule, progress, resume)
        return exported(network, with_(card, threshold=0.5))
    network = fit_classes(found, len(kinds), schedule, progress, resume)
    return exported(network, with_(card, kinds=kinds, threshold=unknown_from(network, found)))


def unknown_from(network: Detector1D | Classifier1D, examples: Examples) -> float:
    """Return how far from all that a classifier knows a window is to be called unknown."""
    far = network.distances(examples.windows[examples.held_back])
    return float(np.quantile(far, KNOWN))


def train_autoencoder(
    runs: Sequence[Run],
    origin: Origin,
    *,
    schedule: Schedule = REBUILT,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Model:
    """Train the LSTM autoencoder on what is normal alone, by its mean absolute error.

    What is usual, and how large its errors may be, is told by whole normal runs of each service;
    the unit of a metric that is 0 in them, by other runs.
    """
    normal = [run for run in runs if run.normal is not None]
    if not normal:
        raise MetricError("no run is normal from its beginning to its end")
    names = _names(normal)
    beside = {service: [run.table for run in own] for service, own in by_service(runs)}
    every = [table for tables in beside.values() for table in tables]
    usual = {
        s: profile_of([run.table for run in own], names, beside=(beside[s], every))
        for s, own in by_service(normal)
    }
    card = with_(_origin(normal, origin, "autoencoder", REBUILD, schedule), services=usual)
    profiles = {(run.service, run.part): usual[run.service] for run in normal}
    found = examples_of(normal, profiles, (NORMAL,), REBUILD)
    services = np.repeat([run.service for run in normal], [len(run.table) for run in normal])
    for service in usual:
        whole = held_runs([run for run in normal if run.service == service])
        if whole.any():
            found.held_back[services == service] = whole
    torch.manual_seed(schedule.seed)
    network = fit(
        Autoencoder(len(names) + 1),
        found,
        lambda outputs, _, windows: l1_loss(outputs[0], windows[:, :, :-1]),
        schedule,
        progress,
        resume,
    )
    model = exported(network, card)
    rebuilt = {}
    for service in usual:
        errors = missed(model, found.windows[found.held_back & (services == service)])
        largest = np.maximum(np.quantile(errors, NORMALLY, axis=0), LEAST_ERROR)
        counted = of_two(np.linalg.norm(errors / largest, axis=1))
        worst = float(counted.max())
        usually = float(np.median(counted)) / worst
        rebuilt[service] = RebuildErrors(tuple((largest * worst).tolist()), usually)
    return model.of(with_(card, threshold=MARGIN, rebuilt=rebuilt))


def held_runs(runs: Sequence[Run]) -> NDArray[np.bool_]:
    """Return which rows of a service's runs belong to runs that are held back whole.

    What is special to a run, such as the level that it comes back to, is known from its other
    rows. Of a single run nothing is held back.
    """
    whole = [len(runs) > 1 and number % TELLING == 0 for number in range(len(runs))]
    return np.repeat(whole, [len(run.table) for run in runs])


def forecast_examples(
    runs: Sequence[Run],
    levels: dict[str, Level],
    targets: tuple[str, ...],
    horizons: tuple[int, ...],
) -> Examples:
    """Return windows of runs, with the changes that follow them, in spreads.

    Whole runs are held back, where a service has several: what is special to a run, such as the
    level that it comes back to, is known from its other rows.
    """
    windows, wanted, held = [], [], []
    chance = np.random.default_rng(0)
    count: Counter[str] = Counter(run.service for run in runs)
    seen: Counter[str] = Counter()
    for run in runs:
        seen[run.service] += 1
        level = levels[run.service]
        values = leveled(run.table, level)
        if len(values) < FORECAST.rows + max(horizons):
            continue
        columns = tuple(level.names.index(target) for target in targets)
        told = changes(values, FORECAST.rows, columns, horizons)
        windows.append(windows_before(values, FORECAST.rows)[: len(told)])
        wanted.append(told.astype(np.float32))
        stretches = chance.random(len(told) // STRETCH + 1) < 1 / HELD_BACK
        if count[run.service] > 1:
            stretches[:] = seen[run.service] % RUN_HELD_BACK == 1
        held.append(np.repeat(stretches, STRETCH)[: len(told)])
    if not windows:
        raise MetricError(f"no run has {FORECAST.rows + max(horizons)} rows to learn from")
    return Examples(np.concatenate(windows), np.concatenate(wanted), np.concatenate(held))


def train_forecaster(
    runs: Sequence[Run],
    origin: Origin,
    targets: tuple[str, ...],
    horizons: tuple[int, ...],
    *,
    schedule: Schedule = AHEAD,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Model:
    """Train annex A's LSTM: by how much metrics change until some rows ahead.

    How much of that is to be believed, and how far it misses, is told by what was held back.
    """
    names = _names(runs)
    levels = {
        service: level_of([run.table for run in own], names) for service, own in by_service(runs)
    }
    found = forecast_examples(runs, levels, targets, horizons)
    torch.manual_seed(schedule.seed)
    network = fit(
        Forecaster1D(len(names) + 1, len(targets) * len(horizons)),
        found,
        lambda outputs, wanted, _: mse_loss(outputs[0], wanted.clamp(-FARTHEST, FARTHEST)),
        schedule,
        progress,
        resume,
    )
    card = _origin(runs, origin, "forecaster", FORECAST, schedule)
    card = with_(card, targets=targets, horizons=horizons, levels=levels)
    model = exported(network, card)
    trust, errors = _believed(model, found)
    for service, own in by_service(runs):
        try:
            alone = _believed(model, forecast_examples(own, levels, targets, horizons))
        except MetricError:  # it has too few rows
            continue
        levels[service] = with_(levels[service], trust=alone[0], errors=alone[1])
    return model.of(with_(card, levels=levels, trust=trust, errors=errors))


def _believed(
    model: Model, found: Examples
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Return how much of each output is to be believed, and between what it then misses."""
    held = found.held_back
    if not held.any():
        raise MetricError("no row was held back")
    told, wanted = model(found.windows[held])[0], found.wanted[held].astype(np.float64)
    trust = np.clip((told * wanted).sum(0) / np.maximum((told**2).sum(0), 1e-12), 0.0, 1.0)
    missed = np.quantile(wanted - trust * told, [0.05, 0.95], axis=0).T
    return tuple(trust.tolist()), tuple((float(low), float(high)) for low, high in missed)


def _names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the metrics of runs, which are to be the same."""
    names = runs[0].table.names
    for run in runs:
        if run.table.names != names:
            raise MetricError(
                f"{run.service}/{run.name}: its metrics are {', '.join(run.table.names)}; "
                f"expected are {', '.join(names)}"
            )
    return names


def step_of(runs: Sequence[Run]) -> float:
    """Return the seconds between two rows, which are to be the same in all runs."""
    steps = {run.name: float(np.median(np.diff(run.table.times))) for run in runs}
    step_s = float(np.median(list(steps.values())))
    for name, each in steps.items():
        if abs(each - step_s) > step_s / 2:
            raise MetricError(
                f"{name}: its rows are {each:g} s apart, those of others {step_s:g} s"
            )
    return step_s


def horizons_of(runs: Sequence[Run], ahead_s: dict[str, float]) -> tuple[int, ...]:
    """Return how many rows ahead all that is to be forecast lies, ascending."""
    step_s = step_of(runs)
    return tuple(sorted({max(1, round(ahead / step_s)) for ahead in ahead_s.values()}))


def _origin(
    runs: Sequence[Run], origin: Origin, role: Role, shape: WindowShape, schedule: Schedule
) -> ModelCard:
    return ModelCard(
        name=origin.name,
        role=role,
        metrics=runs[0].table.names,
        rows=shape.rows,
        after=shape.after,
        step_s=step_of(runs),
        data=origin.data,
        split=origin.split,
        figures={},
        seed=schedule.seed,
        rebuild=origin.rebuild,
    )


def _card(
    runs: Sequence[Run], origin: Origin, role: Role, shape: WindowShape, schedule: Schedule
) -> tuple[ModelCard, dict[tuple[str, int], ServiceProfile]]:
    profiles = profiles_of(runs, _names(runs))
    services = {service: profile for (service, _), profile in sorted(profiles.items())}
    return with_(_origin(runs, origin, role, shape, schedule), services=services), profiles


def _weighed(
    found: Examples, kinds: int, power: float
) -> Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor]:
    counts = np.bincount(found.wanted[~found.held_back], minlength=kinds)
    weights = (counts.sum() / kinds / np.maximum(counts, 1)) ** power
    weight = torch.tensor(weights / weights.mean(), dtype=torch.float32)

    def loss(outputs: tuple[Tensor, ...], wanted: Tensor, _: Tensor) -> Tensor:
        return cross_entropy(outputs[0], wanted, weight=weight, label_smoothing=0.05)

    return loss


def exported(network: nn.Module, card: ModelCard) -> Model:
    """Return a trained network as a model of onnxruntime."""
    network.eval()
    octets = io.BytesIO()
    window = torch.zeros(2, card.rows, len(card.metrics) + 1)
    names = [f"out{number}" for number in range(len(network(window)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an exporter that is going to be replaced
        torch.onnx.export(
            network,
            (window,),
            octets,
            dynamo=False,
            input_names=["window"],
            output_names=names,
            dynamic_axes={name: {0: "n"} for name in ("window", *names)},
        )
    return Model(card.sealed(octets.getvalue()), octets.getvalue())


def _varied(windows: Tensor, schedule: Schedule) -> Tensor:
    """Return windows a little changed, so that nothing hangs on one value."""
    values = windows[:, :, :-1]
    count, _, metrics = values.shape
    values = values + schedule.noise * torch.randn_like(values)
    values = values + schedule.shift * torch.randn(count, 1, metrics)
    values = values * (torch.rand(count, 1, metrics) >= schedule.missing)
    return torch.cat([values, windows[:, :, -1:]], dim=2)


@torch.no_grad()
def _follow(mean: nn.Module, network: nn.Module, kept: float) -> None:
    for own, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(new, 1 - kept)
        else:
            own.copy_(new)


def _kept(path: Path, of: str) -> dict[str, Any]:
    try:
        found = torch.load(path, weights_only=True)
    except Exception as fault:  # whatever a file that is cut short or foreign brings about
        raise MetricError(f"{path}: no training is kept in it; remove it to begin anew") from fault
    if not isinstance(found, dict) or found.get("of") != of:
        raise MetricError(f"{path}: of another training; remove it to begin anew")
    return found


def _keep(path: Path, state: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    torch.save(state, new)
    new.replace(path)
