"""Random plans, drawn and judged as ``phalanx fuzz`` does it, and what it says of them."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.checking import fuzz
from phalanx.checking.plans import FAULTS, owed, random_plan
from phalanx.cli.fuzz import as_yaml, digest, plan_of, run_plan, trial
from phalanx.cli.main import app
from phalanx.runtime.loading import offences, parse_scenario
from tests.nightly import at_night, sample
from tests.system.rings import attack, document, users

PLANS = int(os.environ.get("PHALANX_PLANS", "2"))
PARTS = min(6, PLANS)
"""Tests that the plans are dealt to, so that several processors share them."""
FIRST = int(os.environ.get("PHALANX_SEED", "3"))
KEPT = sorted(Path(__file__).with_name("plans").iterdir(), key=lambda file: file.stat().st_size)
"""Plans that once failed, short ones first."""
"""Plans that once failed, as ``--keep`` wrote them: a number draws another plan once the generator
learns more.

In liveness: a filter stood behind a full link, and the agents where the attack entered saw no need
of one, or looked elsewhere: through an instance that served another goal; or an agent came back
with its memory, and handed filters on to nobody; or attackers paused for almost as long as the
hold-down, or came in pulses too short for a patience; or an agent that filtered left. In either:
what came of one auction was the cause of what came of another; users got more than they wanted;
checks knew no hold for two offers, nor a filter that ends with an agent which leaves."""


@pytest.mark.parametrize("mode", ["safety", "liveness"])
@pytest.mark.parametrize("part", range(PARTS))
def test_random_plans(mode, part):
    for seed in range(FIRST + part, FIRST + PLANS, PARTS):
        assert trial(seed, mode).failures == (), f"phalanx fuzz --replay {seed} --mode {mode}"


@pytest.mark.parametrize("file", sample(KEPT, 80), ids=lambda file: file.stem)
def test_plans_that_once_failed(file):
    mode = file.stem.partition("-")[0]
    plan = yaml.safe_load(file.read_text())
    assert fuzz.judge(plan, mode, run_plan).failures == ()


@pytest.mark.parametrize("mode", ["safety", "liveness"])
def test_every_plan_is_a_scenario_file(mode):
    kinds = Counter()
    for seed in sample(range(300), 9):
        plan = random_plan(seed, mode)
        scenario = parse_scenario(as_yaml(plan), "plan.yaml")
        assert not [*offences(scenario)]
        kinds.update(fault.kind for fault in scenario.faults)
    assert kinds.keys() == FAULTS.keys()


@at_night
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_ended_tells_of_its_plans_and_leaves_no_process(number):
    command = [sys.executable, "-m", "phalanx", "fuzz", "--plans", "100000", "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        of = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        while len(workers := of.read_text().split()) < 2:
            time.sleep(0.1)
        time.sleep(3)
        run.send_signal(number)
        told = run.stdout.read()
    assert run.returncode in (0, 1)
    assert ", from plan " in told
    assert not any(Path("/proc", worker).exists() for worker in workers)


def test_a_plan_follows_from_its_number():
    assert plan_of(5, "safety") == plan_of(5, "safety") != plan_of(6, "safety")


def flood(demand_mb_s, *at):
    shape = {"name": "flood", "profile": "udp-flood", "count": 4, "demand_mb_s": demand_mb_s}
    return attack(10, None, at=[*at], **shape)


def test_a_flood_that_nobody_stops_is_a_failure_of_liveness_and_shrinks_to_what_it_takes():
    crash = {"at_s": 5, "kind": "crash"}
    plan = document(
        traffic=[users(), flood(9, "east", "west")],
        strategy="service",
        duration_s=60,
        faults=[crash | {"agent": name} for name in ("north", "east", "south", "west")],
    )
    found = fuzz.judge(plan, "liveness", run_plan).failures
    assert [failure.rule for failure in found] == ["service"]

    def fails(candidate):
        return any(
            f.rule == "service" for f in fuzz.judge(candidate, "liveness", run_plan).failures
        )

    small = fuzz.shrink(plan, fails, tries=16)
    assert fails(small)
    assert len(small["network"]["pops"]) < 4
    assert len(small["faults"]) < 4
    assert len(small["traffic"]) == 2, "users that suffer, and what they suffer from"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda e: [*e[:-1], e[-2], e[-1]], "ids"),
        (lambda e: [each for each in e if each.kind != "goal.ended"], "goals"),
    ],
)
def test_a_log_that_lies_fails_in_either_mode(change, rule):
    plan = document(duration_s=30)

    def run(candidate):
        ran = run_plan(candidate)
        return fuzz.Ran(change(list(ran.events)), ran.failures)

    assert rule in {failure.rule for failure in fuzz.judge(plan, "safety", run).failures}


def test_users_that_are_blocked_are_a_failure():
    plan = document(traffic=[users(), attack(10, 40)], strategy="service", duration_s=50)

    def run(candidate):
        events = list(run_plan(candidate).events)
        at = next(i for i, e in enumerate(events) if e.kind == "measure.applied")
        events[at] = replace(events[at], data=events[at].data | {"sources": ["10.1.0.1"]})
        return fuzz.Ran(events)

    said = [failure.text for failure in fuzz.judge(plan, "safety", run).failures]
    assert any("10.1.0.1, one of users, is blocked" in text for text in said)
    assert fuzz.judge(plan, "safety", run_plan).failures == ()


def test_beliefs_in_attacks_that_are_long_over_are_failures():
    plan = document(traffic=[users(), attack(10, 40)], strategy="service", duration_s=250)

    def run(candidate):
        events = run_plan(candidate).events
        over = [e for e in events if not e.data.get("belief", "").startswith("underAttack(")]
        begun = [e for e in events if e not in over][:1]
        return fuzz.Ran(sorted([*over, *begun], key=lambda e: e.time))

    said = [failure.text for failure in fuzz.judge(plan, "safety", run).failures]
    assert any("believes in underAttack" in text for text in said)


def test_what_a_plan_raises_is_a_failure_and_not_the_end(monkeypatch):
    run_plan(document(duration_s=10))  # what is imported late would tell of the time otherwise
    monkeypatch.setattr("phalanx.cli.fuzz.LIMIT_S", 0.01)
    gc.disable()  # or the time may be over in a callback of Hypothesis, which pytest tells of
    try:
        (failure,) = run_plan(document()).failures
    finally:
        gc.enable()
    assert failure.rule == "hangs"
    (failure,) = run_plan(document(strategy="none")).failures
    assert failure.rule == "document"


def test_one_agent_that_watches_three_hosts_finds_nothing_wrong_in_peace():
    """A look at one host's link said nothing of the others, which was taken for a breach."""
    names = ["shop", "bank", "school"]
    hosts = [
        {"name": name, "at": "south", "address": f"10.0.0.{10 + n}", "bandwidth_mb_s": 6}
        for n, name in enumerate(names)
    ]
    plan = document(
        hosts=hosts,
        strategy="service",
        traffic=[users(name=name, target=name) for name in names],
        monitors=[
            {"link": f"south>{name}", "at": "south", "threshold_mb_s": 4.5} for name in names
        ],
        duration_s=60,
    )
    events = run_plan(plan).events
    assert not [e for e in events if e.kind == "auction.called"]
    assert not [e for e in events if "serviceBreached" in str(e.data.get("belief"))]


def filtered_at(pop, **changes):
    """Return a plan whose attack enters at ``pop`` and is larger than every link."""
    return document(traffic=[users(), flood(20, pop)], strategy="service", **changes)


def test_service_is_owed_where_an_agent_with_room_stands_at_each_entry():
    plan = filtered_at("east")
    assert owed(plan)
    east = next(pop for pop in plan["network"]["pops"] if pop["name"] == "east")
    assert not owed(plan | {"faults": [{"at_s": 5, "kind": "drain", "agent": "east"}]})
    assert owed(plan | {"faults": [{"at_s": 5, "kind": "drain", "agent": "west"}]})
    east["memory_gb"] = 0.05
    assert not owed(plan), "no room for a filter"
    plan["traffic"][1]["demand_mb_s"] = 0.01
    assert owed(plan), "what nobody filters fits into the links"


def test_service_is_not_owed_where_nobody_watches_or_the_attack_has_just_begun():
    """Else a plan that fails shrinks to one that says nothing."""
    plan = filtered_at("east")
    assert owed(plan)
    assert not owed(plan | {"monitors": []})
    assert not owed(plan | {"duration_s": 40})
    moving = plan | {"traffic": [users(), flood(20, "east") | {"adapt": "move"}]}
    assert owed(moving | {"duration_s": 155})
    assert not owed(moving | {"duration_s": 154}), "they may still go from place to place"


def test_service_is_not_owed_where_a_filter_cannot_be_fetched_in_time():
    plan = filtered_at("east", functions={"edge-filter": {"image_mb": 1}})
    assert owed(plan)
    away = {"at_s": 0, "kind": "repository-away", "for_s": 60}
    assert not owed(plan | {"faults": [away]})
    plan["goals"]["default"]["constraints"] = {"time_s": 1}
    assert not owed(plan)


def test_a_monitor_that_finds_no_room_is_refused_in_a_line(tmp_path):
    plan = document(strategy="service")
    plan["network"]["pops"][2]["disk_gb"] = 0.1
    file = tmp_path / "small.yaml"
    file.write_text(as_yaml(plan))
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", "run", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "monitors: service-monitor cannot be installed at south: needs 0.5 GB disk" in said
    assert "Traceback" not in said


# -- the command --------------------------------------------------------------------------------


def invoke(*args):
    return CliRunner().invoke(app, ["fuzz", *map(str, args)])


def test_the_command_counts_plans_and_rare_states_and_names_those_never_reached():
    done = invoke("--seed", 1, "--plans", 2, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["plans"] == {"safety": 1, "liveness": 1}
    assert said["failed"] == []
    assert {*said["reached"]} == {*fuzz.states()}
    assert said["never"] == [name for name, times in said["reached"].items() if not times]


def test_a_replay_prints_the_digest_that_each_run_of_the_plan_has():
    done = invoke("--replay", 10, "--mode", "safety", "--json")
    assert json.loads(done.stdout)["digests"] == {"safety": digest(10, "safety")}
    assert digest(10, "safety") != digest(19, "safety")


def test_a_plan_that_fails_is_kept_as_a_scenario_file(tmp_path, monkeypatch):
    monkeypatch.setattr("phalanx.cli.fuzz.MANY_EVENTS", 5)
    done = invoke("--seed", 2, "--plans", 1, "--mode", "safety", "--keep", tmp_path / "kept")
    assert done.exit_code == 1
    (file,) = (tmp_path / "kept").iterdir()
    assert parse_scenario(file.read_text(), "plan.yaml").seed == 2
    assert file.read_text().startswith("# rest: more than 5 events")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--plans", 3, "--for", "5s"], "--plans or --for"),
        (["--for", "soon"], "no duration"),
        (["--plans", 0], "--plans"),
        (["--topologies", "/nowhere"], "holds no *.graphml"),
    ],
)
def test_bad_options_are_refused_in_a_line(args, why):
    done = invoke(*args)
    assert done.exit_code == 2
    assert why in " ".join(done.output.split())
    assert "Traceback" not in done.output
