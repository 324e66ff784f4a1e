from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.main import app
from tests.nightly import at_night, sample

CHECKOUT = Path(__file__).resolve().parents[2]


def quick(name: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", "bench", name],
        cwd=CHECKOUT,
        env={**os.environ, "PHALANX_BENCH_QUICK": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@at_night
def test_a_quick_benchmark_runs_and_counts_the_messages_of_an_auction() -> None:
    told = quick("auction")
    rows = [line.split("│") for line in told.splitlines() if " on a " in line]
    counted = {int(row[1].split()[0]): int(row[2]) for row in rows}
    assert counted == {bidders: 3 * bidders + 1 for bidders in (6, 24)}


needs_scipy = pytest.mark.skipif(
    find_spec("scipy") is None, reason="scipy is not installed: make bench"
)


@at_night
@needs_scipy
def test_a_quick_benchmark_finds_the_optimum_no_dearer_than_the_auctions() -> None:
    rows = [line for line in quick("optimum").splitlines() if "requests: " in line]
    assert len(rows) == 7
    (optimum,) = (row for row in rows if " optimum " in row)
    assert " 0.0% " in optimum


@at_night
@needs_scipy
def test_without_graphs_to_place_on_a_quick_benchmark_takes_some_of_its_own(tmp_path: Path) -> None:
    told = quick("mlfo", PHALANX_DATA=str(tmp_path))
    assert "random ones are taken" in told
    rows = [line for line in told.splitlines() if "random-" in line]
    assert len(rows) == 2
    assert all("0.00%" in row for row in rows)


@pytest.mark.nats
@pytest.mark.processes
def test_a_quick_benchmark_holds_auctions_among_processes() -> None:
    told = quick("processes")
    rows = [line.split("│") for line in told.splitlines() if line.rstrip().endswith(" 19 │")]
    assert len(rows) == 4, told


def test_evaluate_has_models_attacked_by_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("phalanx.cli.evaluate.bench", asked.append)
    monkeypatch.setattr("phalanx.cli.evaluate.needed", lambda _: None)
    words = ["--data", str(tmp_path), "--seeds", "2", "--share", "0.1", "--share", "0.3"]
    told = CliRunner().invoke(app, ["evaluate", "--robustness", *words])
    assert told.exit_code == 0, told.output
    assert asked == [["robustness", *words]]


@pytest.mark.parametrize("name", sample(["robustness", "explanations"], 2))
def test_without_data_a_benchmark_of_models_says_what_it_needs(name: str) -> None:
    assert "--data DIR: a folder of runs, SERVICE/RUN" in quick(name)
