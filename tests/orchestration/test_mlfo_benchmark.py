"""The benchmark of the MLFO runs in short, with and without graphs of the Topology Zoo."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(find_spec("scipy") is None, reason="scipy is not installed: make bench")
def test_without_data_it_takes_graphs_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", "bench", "mlfo"],
        cwd=CHECKOUT,
        env={**os.environ, "PHALANX_BENCH_QUICK": "1", "PHALANX_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "random ones are taken" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "random-" in line]
    assert len(rows) == 2
    assert all("0.00%" in row for row in rows)
