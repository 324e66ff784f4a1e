from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def quick(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", "bench", name],
        cwd=CHECKOUT,
        env={**os.environ, "PHALANX_BENCH_QUICK": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_quick_benchmark_runs_and_counts_the_messages_of_an_auction() -> None:
    told = quick("auction")
    rows = [line.split("│") for line in told.splitlines() if " on a " in line]
    counted = {int(row[1].split()[0]): int(row[2]) for row in rows}
    assert counted == {bidders: 3 * bidders + 1 for bidders in (6, 24)}


@pytest.mark.skipif(find_spec("scipy") is None, reason="scipy is not installed: make bench")
def test_a_quick_benchmark_finds_the_optimum_no_dearer_than_the_auctions() -> None:
    rows = [line for line in quick("optimum").splitlines() if "requests: " in line]
    assert len(rows) == 7
    (optimum,) = (row for row in rows if " optimum " in row)
    assert " 0.0% " in optimum


@pytest.mark.nats
@pytest.mark.processes
def test_a_quick_benchmark_holds_auctions_among_processes() -> None:
    told = quick("processes")
    rows = [line.split("│") for line in told.splitlines() if line.rstrip().endswith(" 19 │")]
    assert len(rows) == 4, told
