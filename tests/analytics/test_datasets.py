"""Folders of runs: one's own, and public ones as they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from phalanx.analytics.datasets import kinds_of, read_runs
from phalanx.analytics.metrics import MetricError


def written(path: Path, labels: str, header: str = "cpu,label") -> Path:
    """Write a run with a row for each letter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"n": "normal", "f": "flood", "0": "0", "1": "1"}
    lines = [header, *(f"{row},{names[letter]}" for row, letter in enumerate(labels))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_runs_of_ones_own_are_numbered_by_their_names(tmp_path: Path) -> None:
    for name, labels in (("normal-1", "nn"), ("normal-12", "nn"), ("flood-1", "nff"), ("odd", "n")):
        written(tmp_path / "shop" / f"{name}.csv", labels)
    (tmp_path / "cart").mkdir()
    (tmp_path / "cart" / "normal-3.csv").write_text("cpu\n1\n")
    (tmp_path / "cart" / "load-3.csv").write_text("cpu\n1\n")
    runs = read_runs(tmp_path)
    parts = {(run.service, run.name): run.part for run in runs}
    assert parts == {
        ("cart", "load-3"): 0,
        ("cart", "normal-3"): 0,
        ("shop", "flood-1"): 0,
        ("shop", "normal-1"): 0,
        ("shop", "odd"): 0,
        ("shop", "normal-12"): 1,
    }
    whole = {run.name for run in runs if run.normal is not None}
    assert whole == {"normal-3", "normal-1", "normal-12", "odd"}
    assert kinds_of(runs) == ("normal", "flood")
    with pytest.raises(MetricError, match=r"expected as SERVICE/RUN\.csv"):
        read_runs(tmp_path / "shop")


def test_anomalies_of_the_ianomaly_toolkit_are_told_by_order_and_length(tmp_path: Path) -> None:
    header = "cpu_usage,Normal/Attack"
    written(tmp_path / "normal_data" / "web-2_normal.csv", "0000", header)
    written(tmp_path / "normal_data" / "web-2_normal10.csv", "0000", header)
    written(tmp_path / "anomaly_data" / "web-2_other_anoms10.csv", "00110111011", header)
    written(tmp_path / "anomaly_data" / "web-2_usersurge.csv", f"01110{'1' * 9}", header)
    runs = {run.name: run for run in read_runs(tmp_path)}
    assert {run.service for run in runs.values()} == {"web-2"}
    assert [runs[name].part for name in sorted(runs)] == [0, 1, 1, 0]
    others = runs["web-2_other_anoms10"].table
    assert others.labels[2:4] + others.labels[5:8] + others.labels[9:] == (
        *("cpu",) * 2,
        *("memory",) * 3,
        *("network delay",) * 2,
    )
    surge = runs["web-2_usersurge"].table.labels
    assert surge == ("normal", *("user spike",) * 3, "normal", *("user step",) * 9)
    assert others.times[1] - others.times[0] == 10.0
    written(tmp_path / "anomaly_data" / "web.csv", "01", header)
    with pytest.raises(MetricError, match=r"web\.csv: its name is not SERVICE_normal"):
        read_runs(tmp_path)


def test_the_sock_shop_has_a_service_for_each_pair_of_columns(tmp_path: Path) -> None:
    for trial in ("1", "2"):
        folder = tmp_path / "carts-cpu" / trial
        folder.mkdir(parents=True)
        for name in ("normal", "anomalous"):
            (folder / f"{name}.csv").write_text("time,carts_cpu,carts_mem,user_cpu\n0,1,2,3\n")
    runs = read_runs(tmp_path)
    assert {(run.service, run.part) for run in runs} == {
        (service, part) for service in ("carts", "user") for part in (1, 2)
    }
    assert {run.table.labels for run in runs} == {("normal",), ("fault",)}
    with pytest.raises(MetricError, match="no runs"):
        read_runs(tmp_path / "none")
