"""Agents in processes of their own over real packets: the outcome, and what is left of it.

As ``test_linux_runs``, these keep real time: ``pytest -m linux -n 0``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from phalanx.domain.events import Event
from phalanx.identity.names import Role
from phalanx.reporting.summary import summarise
from phalanx.runtime.processes.testbed import ProcessTestbed
from phalanx.store.jsonl import read_jsonl
from tests.system.linux_runs import Process, clean, lacking, traces
from tests.system.linux_spread_plan import ATTACKERS, CRASH_S, KEEPER, LEASE_S, plan
from tests.system.process_lab import processes

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = processes(pytest.mark.linux, pytest.mark.xdist_group("linux"))

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testbed.md"
PATIENCE_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    """Skip all unless the machine can do it."""
    if reason := lacking("nginx", "curl", "cc", "ip", "nft"):
        pytest.skip(f"no runs on real packets here: {reason}")


class Run(NamedTuple):
    """A run that has ended."""

    events: Sequence[Event]
    text: str
    left: list[str]
    """What stood on the machine after it."""

    def of(self, kind: str, **data: object) -> list[Event]:
        return [
            e
            for e in self.events
            if e.kind == kind and all(e.data.get(field) == value for field, value in data.items())
        ]

    def outcome(self) -> dict[str, object]:
        """Return what the run came to: all but the moments at which it did."""
        response = summarise(self.events).response
        end = self.events[-1]
        blocked = [e for e in self.of("measure.applied") if e.data["rate_mb_s"] == 0]
        return {
            "blocked": sorted({e.data["effect"] for e in blocked}),
            "attackers limited": (response.attackers_limited, response.attackers),
            "users limited": response.users_limited,
            "keepers": sorted({e.data["pop"] for e in blocked}),
            "given back": end.data["given_back"],
            "leases": end.data["leases"],
            "reserved": end.data["reserved_mb_s"],
            "shed": end.data["shed"],
            "reason": end.data["reason"],
        }


def run(folder: Path, document: dict[str, object], *options: str) -> Run:
    """Run a plan to its end."""
    scenario, log = folder / "plan.yaml", folder / "log.jsonl"
    scenario.write_text(json.dumps(document))
    with Process(str(scenario), "--log", str(log), *options) as process:
        mark = process.run()
        process.line("server and users are ready")
        assert process.wait() == 0, process.text()
    return Run(read_jsonl(log), process.text(), traces(mark))


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something; fail if it does not come."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_the_outcome_is_that_of_one_process(tmp_path: Path) -> None:
    spread = run(tmp_path, plan(), "--spread")
    together = run(tmp_path, plan())
    assert spread.outcome() == together.outcome()
    assert spread.outcome()["attackers limited"] == (ATTACKERS, ATTACKERS)
    assert spread.outcome()["users limited"] == 0
    assert spread.outcome()["given back"] is True
    for kind in (
        "driver.failed",
        "vnf.crashed",
        "agent.crashed",
        "lease.expired",
        "access.refused",
    ):
        assert not spread.of(kind), spread.of(kind)
    lives = {e.data["process"] for e in spread.of("process.started")}
    assert len(lives) == len(plan()["network"]["pops"]) + 1
    assert (spread.left, together.left) == ([], [])


def test_what_an_agent_held_that_was_killed_lapses_and_others_take_over(tmp_path: Path) -> None:
    traffic = [{**group} for group in plan()["traffic"]]
    traffic[1]["end_s"] = 16
    faults = [{"kind": "crash", "agent": KEEPER, "at_s": CRASH_S}]
    crashed = run(
        tmp_path, plan(duration_s=26, traffic=traffic, faults=faults, name="killed"), "--spread"
    )
    (crash,) = crashed.of("agent.crashed", pop=KEEPER)
    held = {
        e.data["instance"]
        for e in crashed.of("instance.started", pop=KEEPER)
        if e.time < crash.time
    }
    lapsed = crashed.of("lease.expired", what="instance", pop=KEEPER)
    assert {e.data["name"] for e in lapsed} <= held
    assert lapsed
    assert all(e.time < crash.time + 2 * LEASE_S + 1 for e in lapsed)
    ended = {e.data["measure"] for e in crashed.of("measure.lifted", pop=KEEPER)}
    assert ended == {e.data["measure"] for e in crashed.of("measure.applied", pop=KEEPER)}
    again = [e for e in crashed.of("measure.applied") if e.time > crash.time]
    assert {e.data["effect"] for e in again if e.data["rate_mb_s"] == 0} == set(
        crashed.outcome()["blocked"]  # type: ignore[call-overload]
    )
    assert KEEPER not in {e.data["pop"] for e in again}
    end = crashed.events[-1]
    assert (end.data["given_back"], end.data["reason"]) == (True, "finished")
    assert crashed.left == []


def test_a_network_that_was_killed_is_cleared_by_its_next_life(tmp_path: Path) -> None:
    from phalanx.runtime.linux_environment import made  # noqa: PLC0415  # needs vici

    scenario = tmp_path / "plan.yaml"
    scenario.write_text(json.dumps(plan()))
    testbed = ProcessTestbed(tmp_path, [("network", Role.NETWORK)])
    marks: list[str] = []

    def standing() -> list[str]:
        """Return the mark of the testbed that stands, if another does than those before."""
        found = re.findall(r"testbed (\w+):|(ready)", "\n".join(made(testbed.state("network"))))
        return [found[0][0]] if len(found) == 2 and found[0][0] not in marks else []

    def start() -> str:
        told = {"plan": str(scenario), "on": "linux"}
        testbed.start("network", "network", told)
        until(standing, testbed.end_of("network"))
        marks.extend(standing())
        return marks[-1]

    try:
        first = start()
        testbed.kill("network")
        assert len(traces(first)) > len(plan()["network"]["pops"])
        second = start()
        assert traces(first) == []
        cleared = f"cleared testbed {first} of an earlier life, with 0 measures in force"
        assert cleared in testbed.log("network").read_text()
        testbed.signal("network", signal.SIGTERM)
        assert testbed.wait("network", PATIENCE_S)
        assert testbed.ended()["network"] == 0, testbed.log("network").read_text()
        assert traces(second) == []
        assert made(testbed.state("network")) == []
    finally:
        testbed.close()
        for mark in marks:
            clean(mark)


def test_the_passage_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (commands,) = re.findall(r"<!-- run by a test -->\n```sh\n(.*?)^```$", text, re.S | re.M)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    words = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-ec", commands],
        cwd=tmp_path,
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = [word for word in shlex.split(commands) if word.endswith(".jsonl")][:1]
    response = summarise(read_jsonl(tmp_path / log)).response
    assert (response.attackers_limited, response.users_limited) == (8, 0), done.stdout
