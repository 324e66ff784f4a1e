"""Attacks stay within what an attacker can do, and do there what they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: extra train")
pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed: extra train")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: extra train")

import torch

from phalanx.analytics.datasets import NORMAL
from phalanx.analytics.metrics import MetricError, MetricTable, write_table
from phalanx.analytics.networks import Detector1D
from phalanx.analytics.profiles import profile_of, windows_of
from phalanx.analytics.training import Examples, Schedule, fit_classes
from robustness import (
    EVASION,
    FLIPS,
    Load,
    attributed,
    evaded,
    generated,
    impact,
    load_on,
    relabelled,
)
from tests.nightly import NIGHTLY

NAMES = (
    "requests_per_s",
    "errors_per_s",
    "cpu_cores",
    "memory_bytes",
    "rx_bytes_per_s",
    "latency_s",
)
"""Of a service whose cores and received bytes follow its requests."""


def table(rows: int, seed: int, trouble: slice = slice(0)) -> MetricTable:
    chance = np.random.default_rng(seed)
    requests = 100 + 20 * chance.normal(size=rows)
    memory = 1e6 * (1 + 0.02 * chance.normal(size=rows))
    latency = 0.01 * (1 + 0.05 * chance.normal(size=rows))
    memory[trouble] *= 1.8
    labels = np.full(rows, NORMAL, dtype=object)
    labels[trouble] = "memory"
    errors = 40 + 4 * chance.normal(size=rows)
    values = np.column_stack(
        [requests, errors, 0.1 + 0.005 * requests, memory, 500 * requests, latency]
    )
    return MetricTable(np.arange(float(rows)), NAMES, values, tuple(labels))


USUAL = table(300, 1)
PROFILE = profile_of([USUAL], NAMES)
LOAD = load_on(PROFILE, [USUAL])


def learned() -> tuple[Detector1D, Examples]:
    told = table(400, 2, slice(100, 180))
    windows = windows_of(PROFILE.measure(told), 5)
    wanted = np.array([label != NORMAL for label in told.labels]).astype(np.int64)
    examples = Examples(windows, wanted, np.arange(400) % 10 == 0)
    torch.set_num_threads(1)
    return fit_classes(examples, 2, Schedule(epochs=4, steps=30)), examples


NETWORK, EXAMPLES = learned()


def test_load_moves_metrics_as_users_do_and_no_others() -> None:
    in_units = LOAD.effects * np.array(PROFILE.scale)
    users, refused, uploads = in_units
    usual = float(np.median(USUAL.values[:, 0]))
    assert users == pytest.approx([usual, 0, 0.005 * usual, 0, 500 * usual, 0])
    assert refused == pytest.approx([usual, usual, 0, 0, 500 * usual, 0])
    assert uploads == pytest.approx([0, 0, 0, 0, 500 * usual, 0], rel=1e-2)


def test_where_load_moves_nothing_that_is_said() -> None:
    names = ("memory_bytes", "latency_s")
    profile = profile_of([USUAL], names)
    with pytest.raises(MetricError, match="load moves none of the metrics memory_bytes, latency_s"):
        load_on(profile, [USUAL])


@pytest.mark.parametrize("attack", EVASION[:3])
def test_evasion_stays_within_what_load_can_do(attack: str) -> None:
    rows = np.flatnonzero(EXAMPLES.wanted)
    windows = EXAMPLES.windows[rows]
    moved = evaded(NETWORK, windows, EXAMPLES.wanted[rows], LOAD, attack)
    before, after = (
        PROFILE.value(each[:, :, :-1].reshape(-1, len(NAMES)).astype(float))
        for each in (windows, moved)
    )
    added = (after - before) / np.array(PROFILE.scale)
    shares, *_ = np.linalg.lstsq(LOAD.effects.T, added.T, rcond=None)
    assert shares.T @ LOAD.effects == pytest.approx(added, abs=1e-3)
    assert shares.min() > -1e-3
    assert shares.max() < 1 + 1e-3
    assert shares.max() > 0.9
    assert np.array_equal(moved[:, :, -1], windows[:, :, -1])


def test_evasion_by_gradient_misleads_more_than_load_at_random() -> None:
    rows = np.flatnonzero(EXAMPLES.wanted)
    windows, wanted = EXAMPLES.windows[rows], EXAMPLES.wanted[rows]

    def certain(attack: str) -> float:
        seen = torch.from_numpy(evaded(NETWORK, windows, wanted, LOAD, attack))
        with torch.no_grad():
            logits = NETWORK.eval()(seen)[0]
        return float((logits[:, 1] - logits[:, 0]).mean())

    at_random, one_step, several, free = (certain(attack) for attack in EVASION)
    assert several < at_random
    assert several <= one_step + 0.05
    assert free < float("inf")


def test_a_load_of_nothing_changes_nothing() -> None:
    none = Load(PROFILE, np.zeros_like(LOAD.effects))
    windows = EXAMPLES.windows[:50]
    for attack in EVASION[:3]:
        moved = evaded(NETWORK, windows, EXAMPLES.wanted[:50], none, attack)
        assert moved == pytest.approx(windows, abs=1e-5)
    assert len(evaded(NETWORK, windows[:0], EXAMPLES.wanted[:0], LOAD, EVASION[2])) == 0


def test_labels_are_flipped_as_often_as_said() -> None:
    labels = np.array([0] * 60 + [1] * 20 + [0] * 40 + [2] * 20 + [0] * 60)
    examples = Examples(np.zeros((200, 5, 7), np.float32), labels, np.zeros(200, bool))
    flipped = relabelled(examples, FLIPS[0], 0.3, 0).wanted
    assert ((flipped != labels) & (labels > 0)).sum() == 12
    assert ((flipped == labels) | (flipped == 0)).all()
    whole = relabelled(examples, FLIPS[1], 0.3, 0).wanted
    assert sorted({int((whole == kind).sum()) for kind in (1, 2)}) == [0, 20]
    swapped = relabelled(examples, FLIPS[2], 0.3, 0).wanted
    assert np.array_equal(np.bincount(swapped), np.bincount(labels))
    assert 10 < (swapped != labels).sum() <= 120
    assert np.array_equal(examples.wanted, labels)


def test_generated_rows_look_like_their_kind() -> None:
    wanted = np.repeat([0, 1], 50)
    made = generated(EXAMPLES, wanted, seed=0)
    assert made.shape == (100, *EXAMPLES.windows.shape[1:])
    assert np.array_equal(made[0, :, -1], EXAMPLES.windows[0, :, -1])
    middle = [EXAMPLES.windows[EXAMPLES.wanted == kind].mean(axis=0) for kind in (0, 1)]
    for kind in (0, 1):
        own = made[wanted == kind].mean(axis=0)
        assert np.abs(own - middle[kind]).sum() < np.abs(own - middle[1 - kind]).sum()


def test_attributions_name_the_metric_that_tells() -> None:
    parts = attributed(NETWORK, EXAMPLES.windows[EXAMPLES.wanted == 1])
    assert parts.shape == (80, 2 * (len(NAMES) + 1))
    for_trouble = parts[:, len(NAMES) + 1 : -1].mean(axis=0)
    assert NAMES[int(for_trouble.argmax())] == "memory_bytes"


def test_impact_is_the_share_by_which_errors_grew() -> None:
    assert impact(0.1, 0.25, 100) == pytest.approx(1.5)
    assert impact(0.1, 0.05, 100) == pytest.approx(-0.5)
    assert impact(0.0, 0.02, 100) == pytest.approx(2.0)


@pytest.mark.skipif(not NIGHTLY, reason="trains many models: make nightly")
def test_each_attack_is_judged_before_and_after_each_defence(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for part in range(3):
        for name, trouble in (("normal", slice(0)), ("trouble", slice(60, 120))):
            run = table(150, 10 * part + len(name), trouble)
            write_table(run, tmp_path / "shop" / f"{name}-{part + 1}.csv")
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", "bench", "robustness", "--data", str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PHALANX_BENCH_QUICK": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("│") for line in done.stdout.splitlines() if "│" in line]
    told = [[cell.strip() for cell in row[1:-1]] for row in rows]
    shared = [f"{attack}, 30%" for attack in (*FLIPS, "load as normal", "GAN rows as normal")]
    attacks = ["none", *EVASION, *shared]
    assert [row[0] for row in told] == 2 * attacks
    assert [row[-1] != "–" for row in told[: len(attacks)]] == [True] * 5 + [False] * 5
    assert told[0][1].endswith("±0.00 +0%")
