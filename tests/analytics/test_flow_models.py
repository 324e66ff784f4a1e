"""Learned verdicts on flows: what is read, what is left out, and what a model has to be worth."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typer.testing import CliRunner

from phalanx.analytics import flow_models
from phalanx.analytics.flow_models import (
    COLUMNS,
    FIGURES,
    FlowDataError,
    FlowTrial,
    best_threshold,
    figures_of,
    read_flows,
    rows_of,
    trials,
    worth,
)
from phalanx.cli.main import app
from phalanx.domain.actions import FlowStats
from phalanx.domain.series import TrafficWindow

NETWORKS = ("near", "far", "wide")
KINDS = ("syn flood", "udp flood", "slow http")
HEAD = ",".join(["label", *COLUMNS]) + "\n"
ZEROS = ",0" * (len(COLUMNS) - 1)


def row(**more: float) -> list[float]:
    return [{"seconds": 1.0, "packets": 100.0, **more}.get(name, 0.0) for name in COLUMNS]


def write(folder: Path, networks: Sequence[str] = NETWORKS, kinds: Sequence[str] = KINDS) -> Path:
    """Write users that are answered, and attackers that are not: ``replies`` tells them apart."""
    chance = np.random.default_rng(1)
    for network in networks:
        (folder / network).mkdir(parents=True)
        for kind in kinds:
            rows = [("users", *row(replies=chance.integers(60, 90))) for _ in range(20)]
            rows += [(kind, *row(replies=chance.integers(0, 30), convicted=1)) for _ in range(20)]
            with (folder / network / f"{kind}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("label", *COLUMNS), *rows])
    return folder


def test_a_window_gives_a_row_for_each_source_with_what_the_rules_say() -> None:
    flows = [FlowStats("10.0.0.1", "10.9.9.9", 80, "tcp", 2000, 120_000, 2000, 0, 0)]
    flows += [
        FlowStats(f"10.0.1.{n}", "10.9.9.9", port, "tcp", 50, 9000, 1, 1, 45, 1, 1)
        for n in range(3)
        for port in (80, 81)
    ]
    found = dict(rows_of(TrafficWindow(2.0, (), tuple(flows))))
    assert len(found) == 4
    flood = dict(zip(COLUMNS, found["10.0.0.1"], strict=True))
    assert flood | {"packets": 2000, "syn": 2000, "convicted": 1, "seconds": 2.0} == flood
    user = dict(zip(COLUMNS, found["10.0.1.0"], strict=True))
    assert user | {"packets": 100, "established": 2, "open": 2, "convicted": 0} == user
    totals = {"target_packets": 2300, "target_sources": 4, "target_silent": 1}
    assert flood | totals == flood
    assert user | totals == user


def test_forged_sources_count_as_convicted_though_nobody_names_them() -> None:
    forged = [
        FlowStats(f"11.0.{n // 250}.{n % 250}", "10.9.9.9", 80, "tcp", 1, 60, 1, 0, 1)
        for n in range(2000)
    ]
    user = FlowStats("10.0.1.1", "10.9.9.9", 80, "tcp", 50, 9000, 1, 1, 45, 1, 1)
    found = dict(rows_of(TrafficWindow(1.0, (), (*forged, user))))
    assert sum(values[-1] for values in found.values()) == 2000
    assert found["10.0.1.1"][-1] == 0


@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(0, 4), st.just(len(COLUMNS))),
        elements=st.floats() | st.sampled_from([-1.0, 0.0, 1e308, 2.0**63]),
    )
)
def test_figures_are_finite_whatever_was_counted(rows: Any) -> None:
    found = figures_of(rows)
    assert found.shape == (len(rows), len(FIGURES))
    assert np.isfinite(found).all()


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.integers(1, 4)),
        min_size=2,
        max_size=12,
    )
)
def test_no_threshold_is_better_than_the_best(points: list[tuple[int, int, bool, int]]) -> None:
    values = np.array([point[:2] for point in points], dtype=float)
    wanted = np.array([point[2] for point in points])
    weights = np.array([point[3] for point in points], dtype=float)
    for side in (wanted, ~wanted):
        weights[side] /= 2 * max(weights[side].sum(), 1e-9)

    def error(column: int, cut: float, above: bool) -> float:
        found = values[:, column] > cut if above else values[:, column] <= cut
        return float(weights[found != wanted].sum())

    if not wanted.any() or wanted.all() or (values == values[0]).all():
        return
    best = error(*best_threshold(values, wanted, weights))
    others = [error(c, cut + 0.5, a) for c in (0, 1) for cut in range(3) for a in (True, False)]
    assert best <= min(o for o in others) + 1e-9 or best <= 0.5


def test_neither_the_network_nor_the_kind_is_seen_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = read_flows(write(tmp_path))
    flows.rows[:, COLUMNS.index("target_packets")] = 100 + np.arange(len(flows.rows))
    mark = FIGURES.index("share of the target's packets")  # tells rows apart
    numbers = {figures_of(flows.rows)[n, mark]: n for n in range(len(flows.rows))}
    learned: list[set[int]] = []
    judged: list[set[int]] = []

    class Spy:
        def fit(self, figures: Any, wanted: Any, sample_weight: Any) -> None:
            learned.append({numbers[value] for value in figures[:, mark]})
            assert sample_weight[wanted].sum() == pytest.approx(sample_weight[~wanted].sum())

        def predict(self, figures: Any) -> Any:
            judged.append({numbers[value] for value in figures[:, mark]})
            return figures[:, FIGURES.index("replies a packet")] < 0.45

    monkeypatch.setattr(flow_models, "models", lambda _: {"spy": Spy()})
    found = list(trials(flows))
    assert {(one.network, one.family) for one in found} == {(n, k) for n in NETWORKS for k in KINDS}
    for one, known, asked in zip(found, learned, judged, strict=True):
        assert all(
            flows.networks[n] != one.network and flows.labels[n] != one.family for n in known
        )
        assert all(flows.networks[n] == one.network for n in asked)
        assert {flows.labels[n] for n in asked} == {"users", one.family}
        assert one.errors["spy"] == one.errors["threshold"] == one.errors["fixed rules"] == 0

    learned.clear()
    found = list(trials(flows, known=True))
    for one, known in zip(found, learned, strict=True):
        assert {flows.labels[n] for n in known} == {"users", *KINDS}
        assert all(flows.networks[n] != one.network for n in known)


def trial(network: str, kind: str, **errors: float) -> FlowTrial:
    return FlowTrial(network, kind, 1, {"fixed rules": 0.5, **errors}, FIGURES[0])


def test_a_model_ships_only_if_it_removes_a_third_everywhere() -> None:
    def judged(model: dict[str, float]) -> Any:
        found = [
            trial(network, kind, threshold=0.2, model=model.get(kind, 0.2))
            for network in NETWORKS
            for kind in KINDS
        ]
        return worth(found, "model")

    assert not judged({}).ships
    assert judged({}).removed == judged({}).high == pytest.approx(0)
    good = judged(dict.fromkeys(KINDS, 0.1))
    assert good.ships
    assert good.removed == good.low == good.high == pytest.approx(0.5)
    one_kind = judged({"syn flood": 0.0, "udp flood": 0.2, "slow http": 0.2})
    assert one_kind.removed == pytest.approx(1 / 3)
    assert not one_kind.ships  # drawn without that kind, nothing is removed
    assert one_kind.low == pytest.approx(0)
    assert not judged(dict.fromkeys(KINDS, 0.14)).ships  # surely better, but by less than a third


@pytest.mark.parametrize(
    "text",
    [
        "",
        "time,packets\n1,2\n",
        f"{HEAD}users,nan{ZEROS}",
        f"{HEAD}users,many{ZEROS}",
        f"{HEAD}users,1",
        f"{HEAD}users,1{ZEROS}\nusers,1",
        f"{HEAD}users,1{ZEROS},0",
        f"{HEAD}\n",
    ],
)
def test_files_that_are_no_rows_are_refused(tmp_path: Path, text: str) -> None:
    (write(tmp_path) / "near" / "broken.csv").write_text(text)
    with pytest.raises(FlowDataError, match=r"near/broken.csv: not rows of label, seconds, udp"):
        read_flows(tmp_path)


def test_what_leaves_nothing_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowDataError, match="two networks and two kinds"):
        read_flows(write(tmp_path / "a", networks=("near",)))
    with pytest.raises(FlowDataError, match="two networks and two kinds"):
        read_flows(write(tmp_path / "b", kinds=("syn flood",)))
    with pytest.raises(FlowDataError, match="two networks and two kinds"):
        read_flows(tmp_path / "nothing")


def test_the_command_prints_both_tables_and_a_verdict_of_each_model(tmp_path: Path) -> None:
    pytest.importorskip(
        "sklearn", reason="not installed: scikit-learn (pip install 'phalanx[train]')"
    )
    networks, kinds = NETWORKS[:2], KINDS[:2]
    words = ["evaluate", "--flows", str(write(tmp_path, networks, kinds)), "--seeds", "1"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert done.exit_code == 0
    assert "160 rows, 2 kinds of attack on 2 networks" in done.stdout
    for kind in (*kinds, *networks, "mean"):
        assert any(
            line.split()[: len(kind.split())] == kind.split() for line in done.stdout.splitlines()
        )
    assert "trees removes 0 % of the threshold's error (95 %: 0 to 0 %): not shipped" in done.stdout
    plain = CliRunner().invoke(app, [*words, "--json"])
    assert '"removed":0' in plain.stdout.replace(" ", "")
