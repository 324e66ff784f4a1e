from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.ledger import RecordedEntry, open_ledger
from phalanx.ledger.entries import Planned

SECRET = bytes(31) + b"\x05"
runner = CliRunner()


@pytest.fixture
def kept(tmp_path: Path) -> str:
    """Give the URL of a ledger with one entry."""
    clock = VirtualClock()
    node = open_ledger(f"evm:{tmp_path / 'chain.db'}", clock)
    operator = node.found(SECRET, "secaas")
    clock.run(until=3.0)
    node.close()
    return f"evm:{tmp_path / 'chain.db'}?operator={operator}"


def test_the_status_of_a_ledger_is_shown(kept):
    shown = runner.invoke(app, ["ledger", "status", kept])
    assert shown.exit_code == 0, shown.output
    assert "1 Enrolled" in shown.stdout
    as_json = runner.invoke(app, ["ledger", "status", kept, "--json"])
    told = json.loads(as_json.stdout)
    assert told["status"]["entries"] == 1
    assert told["kinds"] == {"Enrolled": 1}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x", "must be a URL of"),
        ("evm:/nowhere/at/all", "no ledger"),
        ("http://", "URL of the node"),
        ("memory:?operator=0x12", "no account"),
    ],
)
def test_what_is_no_ledger_is_one_line(url, said):
    shown = runner.invoke(app, ["ledger", "status", url])
    assert shown.exit_code == 2
    assert said in shown.output
    assert len(shown.output.strip().splitlines()) == 1


def test_a_ledger_that_is_away_is_said_to_be(monkeypatch):
    monkeypatch.setattr("phalanx.cli.ledger.WAIT_S", 0.5)
    shown = runner.invoke(app, ["ledger", "status", "http://127.0.0.1:1", "--json"])
    assert shown.exit_code == 1
    assert "cannot be reached" in json.loads(shown.stdout)["status"]["reason"]


def serve(file: Path, port: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "phalanx", "ledger", "serve", str(file)]
    server = subprocess.Popen(
        [*command, "--port", port, "--interval", "0.1"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    line = server.stdout.readline()
    server.stdout.close()
    return server, re.search(r"http://\S+?(?=,)", line)[0]


@pytest.mark.processes
def test_a_served_ledger_that_is_killed_is_there_again_and_nothing_is_lost(tmp_path):
    server, url = serve(tmp_path / "chain.db", "0")
    clock = WallClock(begin=time.time())
    node = open_ledger(f"{url}?poll=0.05", clock)
    node.found(SECRET, "secaas")
    ledger = node.join(SECRET)
    seen: list[RecordedEntry] = []
    ledger.follow(seen.append)
    clock.run(clock.now() + 20.0, stop=partial(bool, seen))
    server.send_signal(signal.SIGKILL)
    server.wait(10)
    plans = [Planned(float(n), 1) for n in range(1, 20)]
    for plan in plans:
        ledger.submit(plan)
    clock.run(clock.now() + 1.0)
    assert ledger.status().waiting == len(plans)
    assert "cannot be reached" in ledger.status().reason
    server, _ = serve(tmp_path / "chain.db", url.rpartition(":")[2])
    clock.run(clock.now() + 30.0, stop=lambda: len(seen) > len(plans))
    assert [it.entry for it in seen[1:]] == plans
    node.close()
    clock.close()
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
