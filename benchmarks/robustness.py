"""Attacks on models of services, within what an attacker can do (extra ``train``).

Deliverable D3.3, 3.2 names the attacks (label flipping, random label flipping, GANs, evasion), the
defences (adversarial training, explanations) and metrics of accountability and resilience, without
an equation. Those of the platform that it describes (MAIP) are taken, as its published source has
them: ``impact`` here, and currentness in ``phalanx bench explanations``. ``phalanx bench
robustness`` attacks, defends and judges.

An attacker who sends load cannot set counters. He can add load of a few kinds to each row, and
metrics rise together, as they do when users come (``Load``). What load does beside, to latency and
memory, would give him away, and is left out: in his favour. So is that windows overlap: he may load
the same row otherwise for each window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from phalanx.analytics.metrics import Matrix, MetricError, MetricTable
from phalanx.analytics.networks import Classifier1D, Detector1D
from phalanx.analytics.profiles import FARTHEST, ServiceProfile, Windows
from phalanx.analytics.training import Examples

REACH = 1.0
"""Load of each kind that he adds to a row at most, as a multiple of what is usual."""
STEPS = 10
"""Of projected gradient descent."""
FREE_REACH = 0.5
"""By how much (in compressed spreads) any counter is changed for comparison: nobody can."""
NOISE = 16
"""Figures from which a generator makes a row."""
LOADS = (
    (r"request", r"connection|cpu|disk|rx|receive|tx|transmit", r""),  # as those of users
    (r"request", r"connection|rx|receive", r"error"),  # refused at once
    (r"rx|receive", r"", r""),  # uploads, or packets that nothing waits for
    (r"connection", r"", r""),  # held open
)
"""Kinds of load: patterns of the metric that they drive, of those that follow it as they do for
users, and of those that follow it one for one."""
FLIPS = ("labels to normal", "episodes to normal", "labels swapped")
EVASION = ("load at random", "FGSM by load", "PGD by load", "PGD on counters")
"""Attacks: on what is trained on, and on what is judged. The last one is feasible for nobody."""
Kinds = NDArray[np.int64]
Network = Detector1D | Classifier1D


class Load(Struct, frozen=True):
    """What an attacker's load does to the metrics of a service."""

    profile: ServiceProfile
    effects: Matrix
    """(kinds of load, metrics): what ``REACH`` of each adds, in the profile's scales."""


def load_on(profile: ServiceProfile, usual: Sequence[MetricTable]) -> Load:
    """Return what load does to a service.

    How much a metric follows another is the slope of a line through what is usual.

    Raises:
        MetricError: if load moves none of the metrics.

    """
    values = np.concatenate([table.columns(profile.names).values for table in usual])
    values = values[np.isfinite(values).all(axis=1)]
    apart = values - values.mean(axis=0)
    effects = []
    for patterns in LOADS:
        drives, follows, equals = (
            np.array([bool(pattern and re.search(pattern, name)) for name in profile.names])
            for pattern in patterns
        )
        if drives.any():
            driver = int(drives.argmax())
            slopes = apart[:, driver] @ apart / max(float((apart[:, driver] ** 2).sum()), 1e-300)
            added = np.where(follows, np.maximum(slopes, 0.0), equals)
            added[driver] = 1.0
            effects.append(REACH * np.median(values[:, driver]) * added / np.array(profile.scale))
    if not effects:
        raise MetricError(f"load moves none of the metrics {', '.join(profile.names)}")
    return Load(profile, np.array(effects))


class LoadedNetwork(nn.Module):
    """A network that is shown a service's windows with an attacker's load on them."""

    def __init__(self, network: nn.Module, load: Load) -> None:
        super().__init__()
        self.network = network
        self.middle, self.spread, self.effects = (
            torch.tensor(each, dtype=torch.float32)
            for each in (load.profile.middle, load.profile.spread, load.effects)
        )

    def loaded(self, x: Tensor) -> Tensor:
        """Return windows with load on them.

        Args:
            x: (n, rows, channels + kinds of load): windows, and for each row how much of each kind
                is added, 0 to 1.

        """
        windows, load = x.split((x.shape[2] - len(self.effects), len(self.effects)), dim=2)
        far = windows[:, :, :-1].sign() * windows[:, :, :-1].abs().expm1()
        logs = far * self.spread + self.middle
        risen = (logs.expm1() + load @ self.effects).log1p() - logs
        far = (far + risen / self.spread).clamp(max=FARTHEST)
        # Not by its sign: that has no slope at what is usual.
        far = torch.where(far < 0, -(-far.clamp(max=0)).log1p(), far.clamp(min=0).log1p())
        return torch.cat([far, windows[:, :, -1:]], dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, kinds)."""
        return self.network(self.loaded(x))[0]


def evaded(
    network: Network, windows: Windows, wanted: Kinds, load: Load, attack: str, seed: int = 0
) -> Windows:
    """Return windows of a service changed so that a network takes them for something else.

    The gradient is followed in the attacker's load, not in the metrics, so each step and each
    projection stays within what he can cause.

    Args:
        network: that is attacked; the attacker knows it.
        windows: (n, rows, channels).
        wanted: what they are, (n,).
        load: that he can put on the service.
        attack: one of ``EVASION``.
        seed: of load at random.

    """
    shown, free = LoadedNetwork(network, load).eval(), attack == EVASION[3]
    x = np.pad(windows, ((0, 0), (0, 0), (0, len(load.effects))))
    last, first = np.arange(x.shape[2]), windows.shape[2]
    if attack == EVASION[0]:
        x[:, :, first:] = np.random.default_rng(seed).random(x[:, :, first:].shape)
    elif len(x):
        bounds = np.where(last < first, -np.inf, 0.0), np.full(len(last), np.inf)
        kinds, reach = network.out.out_features, FREE_REACH if free else 1.0
        told = PyTorchClassifier(
            shown, nn.CrossEntropyLoss(), x.shape[1:], kinds, clip_values=bounds
        )
        steps = 1 if attack == EVASION[1] else STEPS
        method = ProjectedGradientDescent(
            told, np.inf, reach, min(1.0, 2.5 / steps) * reach, max_iter=steps, batch_size=1024,
            verbose=False,
        )  # fmt: skip
        mask = np.broadcast_to(last < first - 1 if free else last >= first, x.shape)
        x = method.generate(x, np.eye(kinds)[wanted], mask=mask.astype(np.float32))
    with torch.no_grad():
        return np.asarray(shown.loaded(torch.from_numpy(x)), np.float32)


def relabelled(examples: Examples, attack: str, share: float, seed: int) -> Examples:
    """Return examples with labels that an attacker changed: those of ``FLIPS``.

    Labels called normal and labels swapped are MAIP's targeted and random label flipping. Where
    whole episodes of trouble are called normal, no row beside them tells.
    """
    wanted, chance = examples.wanted.copy(), np.random.default_rng(seed)
    trouble = np.flatnonzero(wanted)
    if attack == FLIPS[0]:
        wanted[chance.choice(trouble, round(share * len(trouble)), replace=False)] = 0
    elif attack == FLIPS[1]:
        stretches = np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted)) + 1)
        for number in chance.permutation(len(stretches)):
            if (wanted[trouble] == 0).sum() < share * len(trouble):
                wanted[stretches[number]] = 0
    else:
        drawn = chance.choice(len(wanted), (2, round(share * len(wanted))))
        for one, other in drawn.T:
            wanted[[one, other]] = wanted[[other, one]]
    return replace(examples, wanted=wanted)


def more_of(examples: Examples, windows: Windows, wanted: Kinds | int) -> Examples:
    """Return examples with more to learn from."""
    more = np.broadcast_to(np.asarray(wanted, np.int64), len(windows))
    return Examples(
        np.concatenate([examples.windows, windows]),
        np.concatenate([examples.wanted, more]),
        np.concatenate([examples.held_back, np.zeros(len(windows), np.bool_)]),
    )


def generated(examples: Examples, wanted: Kinds, seed: int, steps: int = 800) -> Windows:
    """Return windows of kinds, made by a small conditional GAN that was trained on examples."""
    torch.manual_seed(seed)
    real, labels = torch.from_numpy(examples.windows).flatten(1), torch.from_numpy(examples.wanted)
    wide, kinds = real.shape[1], int(labels.max()) + 1
    maker = nn.Sequential(nn.Linear(NOISE + kinds, 128), nn.ReLU(), nn.Linear(128, wide))
    judge = nn.Sequential(nn.Linear(wide + kinds, 128), nn.LeakyReLU(), nn.Linear(128, 1))
    turns = [torch.optim.Adam(each.parameters(), 5e-4, (0.5, 0.9)) for each in (judge, maker)]
    for step in range(2 * steps):
        rows = torch.randint(len(real), (128,))
        kind = one_hot(labels[rows], kinds).float()
        made = judge(torch.cat([maker(torch.cat([torch.randn(128, NOISE), kind], 1)), kind], 1))
        loss = softplus(-made).mean()
        if step % 2 == 0:
            true = judge(torch.cat([real[rows], kind], 1))
            loss = softplus(made).mean() + softplus(-true).mean()
        turns[step % 2].zero_grad()
        loss.backward()
        turns[step % 2].step()
    kind = one_hot(torch.from_numpy(wanted), kinds).float()
    drawn = maker(torch.cat([torch.randn(len(kind), NOISE), kind], 1)).detach().numpy()
    windows: Windows = drawn.reshape(-1, *examples.windows.shape[1:])
    windows[:, :, -1] = examples.windows[0, :, -1]
    return windows


def attributed(network: Network, windows: Windows) -> Matrix:
    """Return each metric's part in each kind's figure, (n, kinds x metrics).

    That is gradient times input, summed over rows: one pass for all windows.
    """
    x = torch.from_numpy(windows).requires_grad_()
    sums = network.eval()(x)[0].sum(0)
    slopes = [torch.autograd.grad(each, x, retain_graph=True)[0] for each in sums]
    return np.asarray(torch.cat([(each * x).sum(1) for each in slopes], 1).detach().numpy())


def impact(before: float, after: float, rows: int) -> float:
    """Return by which share errors grew, as MAIP has it: (after - before) / before.

    Where there were none before, one in ``rows`` is taken for it.
    """
    return (after - before) / max(before, 1 / rows)
