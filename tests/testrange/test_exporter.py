"""Metrics of a function: what the exporter says is what the log and the kernel say."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from phalanx.testrange import exporter
from phalanx.testrange.exporter import METRICS, FunctionExporter

PROCESS_METRICS = [*METRICS][:5]
LINE = "0.250\t200\t1000\t80\t900\t70\n"
BURN = """
import sys, time
held = bytearray(50_000_000)
while time.process_time() < 0.4: pass
print(time.process_time(), flush=True); sys.stdin.read()
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "access.log").touch()
    return tmp_path / "access.log"


def sampled(log: Path, seconds: float, text: str) -> dict[str, float]:
    """Return what is said of ``text``, logged in ``seconds``."""
    log.write_text(LINE * 3)
    function = FunctionExporter(1, log)
    function.sample(100.0)
    with log.open("a") as file:
        file.write(text)
    row = function.sample(100.0 + seconds)
    function.close()
    return row


def test_rates_are_those_of_the_time_between_two_samples(log: Path) -> None:
    row = sampled(log, 4.0, LINE * 6 + "0.001\t404\t100\t20\t-\t-\n" + "5.000\t499\t0\t20\t-\t0\n")
    assert row["requests_per_s"] == 6 / 4
    assert row["errors_per_s"] == 2 / 4
    assert row["network_tx_bytes_per_s"] == (6 * 1070 + 100) / 4
    assert row["network_rx_bytes_per_s"] == (6 * 980 + 40) / 4


def test_the_first_sample_has_no_rates(log: Path) -> None:
    log.write_text(LINE)
    function = FunctionExporter(1, log)
    row = function.sample(5.0)
    function.close()
    assert set(row) == set(METRICS)
    assert math.isnan(row["requests_per_s"])


def test_latencies_are_those_of_numpy(log: Path) -> None:
    waits = np.random.default_rng(7).exponential(0.1, 333).round(3)
    row = sampled(log, 1.0, "".join(f"{wait:.3f}\t200\t1\t1\t-\t-\n" for wait in waits))
    for share in (50, 90, 99):
        assert row[f"latency_p{share}_s"] == pytest.approx(np.percentile(waits, share), abs=1e-12)


def test_without_requests_there_is_no_latency_and_no_process_no_memory(log: Path) -> None:
    row = sampled(log, 1.0, "")
    assert row["requests_per_s"] == 0
    gaps = {name for name, figure in row.items() if math.isnan(figure)}
    assert gaps == {
        *(f"latency_p{share}_s" for share in (50, 90, 99)),
        *PROCESS_METRICS,
        "connections_open",
    }


def test_several_tries_upstream_are_added_up(log: Path) -> None:
    row = sampled(log, 1.0, "0.1\t200\t10\t20\t0, 300 : 4\t5, 6\n")
    assert row["network_tx_bytes_per_s"] == 21
    assert row["network_rx_bytes_per_s"] == 324


def test_a_line_counts_once_it_is_whole(log: Path) -> None:
    log.write_text(LINE[:9])
    function = FunctionExporter(1, log)
    function.sample(0.0)
    with log.open("a") as file:
        file.write(LINE[9:] + LINE[:5])
    assert function.sample(1.0)["requests_per_s"] == 1
    assert function.sample(2.0)["requests_per_s"] == 0
    function.close()


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[str]]:
    """A shell and its child, which tells what it has used and waits."""
    words = ["sh", "-c", '"$0" -I -S -c "$1"; :', sys.executable, BURN]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        yield shell
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)


def test_processes_are_measured_with_what_they_start_and_may_die(
    burner: subprocess.Popen[str], log: Path
) -> None:
    function = FunctionExporter(1, log)
    function.sample(0.0)
    function.roots.append(burner.pid)
    assert burner.stdout is not None
    used_s = float(burner.stdout.readline())
    row = function.sample(10.0)
    assert row["cpu_cores"] * 10 == pytest.approx(used_s, abs=0.05)
    assert row["memory_rss_bytes"] > 50e6
    assert row["memory_vsize_bytes"] > row["memory_rss_bytes"]
    _, child = exporter.family(function.roots)
    os.kill(child, signal.SIGKILL)
    burner.wait()
    row = function.sample(20.0)
    assert all(math.isnan(row[name]) for name in PROCESS_METRICS)
    function.close()


def test_what_a_process_used_is_never_less_than_nothing(
    burner: subprocess.Popen[str], log: Path
) -> None:
    function = FunctionExporter(1, log)
    function.roots.append(burner.pid)
    assert burner.stdout is not None
    burner.stdout.readline()
    function.sample(0.0)
    _, child = exporter.family(function.roots)
    function._before[child] = function._before[child] + 1e9  # another one had this number
    row = function.sample(1.0)
    assert row["cpu_cores"] >= 0
    assert row["disk_write_bytes_per_s"] >= 0
    function.close()
