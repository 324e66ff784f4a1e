"""``phalanx fuzz --processes``: drawn plans over real processes and brokers, killed by kill -9."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.bus.client import Silence, Unanswered
from phalanx.checking.fuzz import Failure, Ran
from phalanx.checking.plans import FAULTS, IN_ONE_PROCESS, random_plan
from phalanx.cli import fuzz
from phalanx.cli.fuzz import run_plan, run_processes
from phalanx.cli.main import app
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.operations import (
    InstanceEntry,
    InventoryAnswer,
    MeasureEntry,
    StatusAnswer,
)
from phalanx.fabric.registration import Health, ServiceState
from phalanx.runtime.course import ReservationsAnswer, RunResult
from phalanx.runtime.loading import load_scenario, offences, parse_scenario
from phalanx.runtime.processes.spread import Spread, disagreements
from phalanx.store.jsonl import read_jsonl
from tests.nightly import at_night, long_processes, sample
from tests.system.process_lab import processes
from tests.system.rings import document

KILLING = 214
"""Kills an agent that comes back with its memory, and a broker of three; the next: one for good."""


def fuzzed(*arguments):
    return CliRunner().invoke(app, ["fuzz", "--processes", *map(str, arguments)])


def marked(test):
    for mark in processes():
        test = mark(test)
    return test


@marked
@long_processes
def test_two_plans_with_kills_break_no_rule_and_leave_nothing(tmp_path):
    done = fuzzed("--seed", KILLING, "--plans", 2, "--keep", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert (found["plans"], found["failed"]) == ({"processes": 2}, [])
    assert found["reached"]["agent.restored: with its memory"]
    assert [*tmp_path.iterdir()] == []


@at_night
def test_plans_hold_what_processes_can_do_and_each_is_a_scenario_file():
    kinds = set()
    for seed in sample(range(300), 3):
        plan = random_plan(seed, "processes")
        scenario = parse_scenario(fuzz.as_yaml(plan), "plan.yaml")
        assert not [*offences(scenario)]
        assert len(scenario.network.pops) <= 4
        ends = [fault.at_s + (fault.for_s or 0) for fault in scenario.faults]
        assert max(ends, default=0) < scenario.duration_s - fuzz.SETTLING_S
        kinds |= {fault.kind for fault in scenario.faults}
    assert kinds == {*FAULTS, "broker-down"} - IN_ONE_PROCESS


def test_a_broker_can_be_killed_where_there_is_one():
    killed = document(faults=[{"at_s": 1, "kind": "broker-down", "broker": 2}])
    (failure,) = run_plan(killed).failures
    assert failure.rule == "document"
    assert "phalanx run --spread" in failure.text
    (failure,) = run_plan(document(faults=[{"at_s": 1, "kind": "broker-down"}])).failures
    assert "broker: missing" in failure.text


@pytest.fixture
def log():
    return run_plan(document(duration_s=5, traffic=[])).events


def ending(monkeypatch, end):
    """Have every run over processes end as ``end(plan, sink)`` does."""

    def run(self, *_):
        return end(self._plan, self._sinks[0])

    monkeypatch.setattr(Spread, "run", run)


def test_files_and_processes_that_a_run_leaves_are_found_and_ended(monkeypatch, log):
    left = []

    def end(plan, sink):
        (plan.parent / "socket").touch()
        command = [sys.executable, "-c", "print(flush=True); input()", str(plan)]
        left.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        left[0].stdout.readline()  # it runs
        for event in log:
            sink(event)
        return RunResult([*log], None)

    ending(monkeypatch, end)
    ran = run_processes(document())
    assert left[0].wait() == -9
    left[0].communicate()
    assert [failure.rule for failure in ran.failures] == ["left behind"] * 2
    assert f"process {left[0].pid}" in ran.failures[0].text
    assert not Path(left[0].args[-1]).parent.exists()


def test_what_a_run_shows_beside_its_log_is_a_failure(monkeypatch, log):
    crash = replace(log[0], id="run-2", kind="agent.crashed", cause="run-1", data={"pop": "east"})

    def end(_plan, sink):
        sink(log[0])
        sink(crash)
        return RunResult([], None, ("network: Traceback",), ("x is leased to nobody",))

    ending(monkeypatch, end)
    rules = [failure.rule for failure in run_processes(document()).failures]
    assert rules == ["traceback", "measures", "crash"]

    def fails(_plan, _sink):
        raise PhalanxError("the process of network ended")

    ending(monkeypatch, fails)
    assert run_processes(document()).failures == (
        Failure("run", "PhalanxError: the process of network ended"),
    )


def test_a_plan_that_failed_is_kept_with_its_log_and_the_moments_of_its_faults(
    monkeypatch, tmp_path, log
):
    kill = {"fault": "broker-down", "broker": 3}
    fault = replace(log[1], kind="fault.injected", time=1.234, data=kill)
    ran = Ran([log[0], fault], (Failure("measures", "x is leased to nobody"),))
    monkeypatch.setattr(fuzz, "run_processes", lambda _: ran)
    done = fuzzed("--seed", 7, "--plans", 1, "--keep", tmp_path)
    assert done.exit_code == 1
    kept = tmp_path / "processes-7.yaml"
    assert load_scenario(kept).seed == 7
    assert yaml.safe_load(kept.read_text()) == random_plan(7, "processes")
    assert "# at 1.234 s: the test bench injects broker-down: broker 3" in kept.read_text()
    assert read_jsonl(kept.with_suffix(".jsonl")) == [*ran.events]


def test_what_needs_the_same_run_twice_goes_with_no_processes():
    for option in (["--shrink"], ["--mode", "safety"], ["--topologies", "."]):
        assert fuzzed(*option).exit_code == 2


RATE, OTHER = "a.1:ipRateLimited(10.0.0.1)", "b.1:ipRateLimited(10.0.0.1)"


def inventory(instances=(), measures=()):
    return InventoryAnswer(
        tuple(InstanceEntry(name, "x", "1", 1, "running") for name in instances),
        tuple(MeasureEntry(name, "i", "") for name in measures),
    )


def status(**duties):
    return StatusAnswer("a", 1, ServiceState.SERVING, Health(), 1.0, duties=duties)


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ([ReservationsAnswer(leases=(RATE, "i", "a/installed1/x")), inventory("i", [RATE])], []),
        ([ReservationsAnswer(leases=("i",)), inventory()], ["i is leased to nobody"]),
        ([ReservationsAnswer(), inventory((), [RATE])], [f"{RATE} is not in force"]),
        (
            [ReservationsAnswer(leases=(RATE, OTHER)), inventory((), [RATE, OTHER])],
            ["ipRateLimited(10.0.0.1) is made twice"],
        ),
        (
            [ReservationsAnswer(), status(watch=False), status(watch=False)],
            ["nobody sees to watch"],
        ),
        ([ReservationsAnswer(), status(watch=False), status(watch=True)], []),
        ([Unanswered(Silence.CUT, "cut off")], ["no answer: "]),
    ],
)
def test_agents_and_network_must_agree_on_what_is_held(answers, wrong):
    found = disagreements(answers)
    assert len(found) == len(wrong)
    assert all(text.startswith(start) for text, start in zip(found, wrong, strict=True))
