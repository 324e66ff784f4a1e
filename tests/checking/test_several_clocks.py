"""Logs of processes: each recorder by its own clock, events merged as they arrived."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.nightly import at_night
from typer.testing import CliRunner

from phalanx.checking import check
from phalanx.cli.main import app
from phalanx.domain.events import Event, in_causal_order, numbered
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from phalanx.store import open_store
from phalanx.store.jsonl import write_jsonl

SCENARIO = Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml"
AHEAD = {"pop1": 0.9, "pop2": -0.9, "pop3": 0.4, "network": -0.5}
"""How far clocks go ahead of that of the run, in seconds."""


def process(name, number, kind, time, cause="run-1", **data):
    return Event(f"{name}.1.0-{number}", time, name, kind, cause, data)


@pytest.fixture(scope="module")
def log():
    """A run as its processes would have told it: their beginnings, clocks apart, their ends."""
    events = run_scenario(load_scenario(SCENARIO)).events
    begin, end = events[0], events[-1]
    counted = {name: value for name, value in end.data.items() if name != "contents"}
    end = replace(end, data=counted)  # nobody sees what processes tell each other
    begin = replace(begin, time=-5.0, data={**begin.data, "clocks": 7})
    told = [replace(e, time=e.time + AHEAD.get(e.agent, 0.0)) for e in events[1:-1]]
    names = [*dict.fromkeys(e.agent for e in told)]
    role = {"network": "network"}
    for name in names:
        data = {"role": role.get(name, "agent"), "incarnation": 1}
        told.append(process(name, 1, "process.started", -1.0, **data))
        ended = process(name, 2, "process.ended", end.time + 2, f"{name}.1.0-1", reason="over")
        told.append(ended)
    end = replace(end, time=end.time + 3)
    return [begin, *sorted(told, key=lambda e: e.time), end]


def broken(events, **how):
    return {violation.rule for violation in check(events, **how)}


def first(log, kind, **data):
    return next(i for i, e in enumerate(log) if e.kind == kind and data.items() <= e.data.items())


@at_night
def test_a_log_of_several_clocks_breaks_no_rule_however_it_was_merged(log):
    assert check(log) == []
    assert check(sorted(log, key=lambda e: e.agent)) == []
    assert check(log[::-1]) == []


def test_events_stand_after_their_causes_and_what_their_recorder_said_before(log):
    ordered = in_causal_order(log[::-1])
    seen = set()
    for event in ordered:
        recorder, number = numbered(event.id)
        assert event.cause is None or event.cause in seen
        assert number == 1 or f"{recorder}-{number - 1}" in seen
        seen.add(event.id)
    assert len(ordered) == len(log)


def test_a_life_comes_after_the_one_before_it_though_another_clock_is_behind():
    """The network's clock is behind: what it says first has a later life of an agent as cause."""
    log = [
        Event("network-1", 1.0, "network", "hold.granted", "south.10-1", {}),
        Event("south.9-1", 99.0, "south", "goal.adopted", None, {}),
        Event("south.9.0-1", 99.5, "south", "process.started", None, {}),
        Event("south.10-1", 100.0, "south", "agent.restored", "south.10.0-1", {}),
        Event("south.10.0-1", 100.0, "south", "process.started", None, {}),
    ]
    ordered = [event.id for event in in_causal_order(log)]
    assert {*ordered[:2]} == {"south.9-1", "south.9.0-1"}
    assert ordered[2:] == ["south.10.0-1", "south.10-1", "network-1"]


def test_effect_that_comes_before_its_cause_by_more_than_clocks_are_apart(log):
    at = first(log, "auction.bid")
    bidder = log[at].agent
    early = [replace(e, time=e.time - 3) if e.agent == bidder else e for e in log]
    assert broken(early) == {"times"}
    assert broken(early, apart_s=5.0) == set()


def test_time_that_goes_back_in_one_recorder(log):
    at = [i for i, e in enumerate(log) if e.agent == "network"][300]
    assert broken([*log[:at], replace(log[at], time=-0.5), *log[at + 1 :]]) == {"times"}


@pytest.mark.parametrize("number", [30, 300])
def test_event_that_is_missing(log, number):
    assert "ids" in broken([*log[:number], *log[number + 1 :]])


def test_event_that_is_there_twice(log):
    assert "ids" in broken([*log, log[50]])


def test_events_that_the_log_says_were_shed(log):
    shed = process("pop1", 2, "outbox.shed", 30.0, "pop1.1.0-1", count=1)
    end = first(log, "process.ended")
    later = [replace(e, id="pop1.1.0-3") if e.id == "pop1.1.0-2" else e for e in log]
    at = first(log, "plan.ended")
    assert "ids" in broken([*later[:at], *later[at + 1 : end], *later[end:]])
    kept = [*later[:at], *later[at + 1 : end], shed, *later[end:]]
    assert "ids" not in broken(kept)


def across(log):
    """Return an event of an agent, and its cause by another one."""
    known = {e.id: e for e in log if e.id.startswith("pop")}
    return next((e, known[e.cause]) for e in log if e.cause in known and e.agent not in e.cause)


def test_cause_that_two_events_are_to_each_other(log):
    effect, cause = across(log)
    twisted = [replace(e, cause=effect.id) if e is cause else e for e in log]
    assert "causes" in broken(twisted)


def test_cause_that_a_life_had_not_kept_when_it_was_killed(log):
    effect, cause = across(log)
    own = numbered(effect.id)[0] + "-900"
    unheard = [replace(e, cause=own) if e is effect else e for e in log]
    assert broken(unheard) == {"causes"}  # a recorder knows its own numbers
    unheard = [replace(e, cause=numbered(cause.id)[0] + "-900") if e is effect else e for e in log]
    assert broken(unheard) == {"causes"}  # that life ended in order
    killed = [e for e in unheard if (e.kind, e.agent) != ("process.ended", cause.agent)]
    assert broken(killed) == set()
    crash = replace(log[0], id="run-2", kind="agent.crashed", cause="run-1")
    crash = replace(crash, data={"pop": cause.agent}, time=effect.time + 2.9)
    dead = [e for e in killed if e.agent != cause.agent or e.time < effect.time]
    assert "kept" not in broken([*dead, crash])
    assert "kept" in broken([*dead, replace(crash, time=effect.time + 3.1)])


def test_goal_of_an_agent_that_ended_in_order_and_is_open(log):
    at = first(log, "goal.ended")
    other = replace(log[at], kind="other")
    assert "goals" in broken([*log[:at], other, *log[at + 1 :]])


def test_goals_that_a_killed_agent_leaves_behind(log):
    crash = replace(log[0], id="run-2", time=300.0, kind="agent.crashed", cause="run-1")
    crash = replace(crash, data={"pop": "pop6"})
    end = replace(log[-1], id="run-3", data={**log[-1].data, "goals": {"achieved": 23}})
    dead = [e for e in log[:-1] if e.agent != "pop6" or e.time < 300]
    own = [e for e in dead if e.agent != "run"]
    found = check([log[0], *own, crash, end])
    assert "goals" not in {violation.rule for violation in found}


def test_measure_that_stays_when_its_instance_has_stopped(log):
    at = first(log, "measure.lifted")
    other = replace(log[at], kind="other")
    assert "instances" in broken([*log[:at], other, *log[at + 1 :]])


def domain(*lives):
    """A network that was installed: its processes count from 1970, the network from its start."""
    events = []
    room = {"cores": 0.0, "memory_gb": 0.0, "disk_gb": 0.0}
    runs = {"instance": "a/vnf1/x", "pop": "a", "vnf": "x", "units": 1, "version": "1", **room}
    for life, (name, role, begin) in enumerate(lives, 1):
        root = f"{name}.{life}.0-1"
        events.append(Event(root, begin, name, "process.started", None, {"role": role}))
        if role == "network":
            about = f"{name}.{life}-1"
            events.append(Event(about, begin + 1, name, "instance.started", root, runs))
    return events


def test_a_network_that_is_started_again_begins_with_nothing(log):
    lives = ("network", "network", 3.0), ("network", "network", 1.0)
    assert check(domain(*lives), whole=True) == []
    twice = domain(lives[0])
    twice.append(replace(twice[-1], id="network.1-2"))
    assert broken(twice, whole=True) == {"instances"}


def test_an_installed_network_counts_its_seconds_from_its_own_start():
    lives = ("agent", "agent", 1.7e9), ("network", "network", 3.0)
    events = domain(*lives)
    acted = replace(events[-1], cause="agent.1.0-1")
    assert check([*events[:-1], acted], whole=True) == []
    apart = domain(lives[0], ("other", "agent", 1.7e9 - 60))
    late = replace(apart[-1], id="other.2.0-2", kind="other", cause="agent.1.0-1")
    assert broken([*apart, late], whole=True) == {"times"}


def test_the_command_reads_stores_and_knows_which_are_whole(log, tmp_path):
    store = tmp_path / "history.db"
    with open_store(f"sqlite:///{store}") as kept:
        kept.append("edge", log[:100])
        kept.append("west", [*log[:99], log[101]])
    done = CliRunner().invoke(app, ["check", str(store), "--json", "--apart", "3s"])
    found = {line["log"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.exit_code == 1
    assert {len(line["violations"]) > 1 for line in found.values()} == {False, True}
    early = [replace(e, time=e.time - 4) if e.agent == "pop5" else e for e in log]
    write_jsonl(in_causal_order(early), tmp_path / "early.jsonl")
    command = ["check", str(tmp_path / "early.jsonl")]
    assert CliRunner().invoke(app, command).exit_code == 1
    assert CliRunner().invoke(app, [*command, "--apart", "6s"]).exit_code == 0
