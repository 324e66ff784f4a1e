"""The checker finds what is wrong in a log, and nothing in a log of a correct run."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.checking import RULES, Checker, check
from phalanx.checking.awards import KEPT, AuctionRules
from phalanx.cli.main import app
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from phalanx.store.jsonl import encode_line
from phalanx.store.memory import EventLog

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def log():
    return run_scenario(load_scenario(ROOT / "scenarios" / "ddos-resilience.yaml")).events


def broken(events):
    return {violation.rule for violation in check(events)}


def first(log, kind, **data):
    return next(i for i, e in enumerate(log) if e.kind == kind and data.items() <= e.data.items())


def changed(log, at, **data):
    return [*log[:at], replace(log[at], data={**log[at].data, **data}), *log[at + 1 :]]


def test_a_correct_run_breaks_no_rule(log):
    assert check(log) == []


def test_page_names_every_rule():
    page = (ROOT / "docs" / "reference" / "checks.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {text} |" for name, text in RULES.items()]


@pytest.mark.parametrize("number", [5, 200, 500])
def test_event_that_is_missing(log, number):
    assert "ids" in broken([*log[:number], *log[number + 1 :]])


def test_event_that_is_there_twice(log):
    assert "ids" in broken([*log[:50], log[49], *log[50:]])


def test_cause_that_comes_later(log):
    later = replace(log[20], cause=log[30].id)
    assert "causes" in broken([*log[:20], later, *log[21:]])


def test_event_that_causes_itself(log):
    assert "causes" in broken([*log[:20], replace(log[20], cause=log[20].id), *log[21:]])


def test_time_that_goes_back(log):
    assert "times" in broken([*log[:500], replace(log[500], time=1.0), *log[501:]])


def test_log_that_ends_early(log):
    assert broken(log[:-1]) == {"run"}


def test_goal_that_never_ends(log):
    at = first(log, "goal.ended")
    assert {"goals"} <= broken([*log[:at], *log[at + 1 :]])


def test_fields_that_are_missing(log):
    at = first(log, "goal.adopted")
    assert "fields" in broken([*log[:at], replace(log[at], data={}), *log[at + 1 :]])


def test_agent_that_acts_after_its_death(log):
    at = first(log, "auction.called")
    dead = log[at].agent
    crash = replace(log[0], id="other-1", kind="agent.crashed", cause="run-1", data={"pop": dead})
    assert "dead" in broken([*log[:at], replace(crash, time=log[at].time), *log[at:]])


def test_pop_with_less_than_nothing(log):
    at = first(log, "resources.changed")
    free = {**log[at].data["free"], "cores": -1.0}
    assert "resources" in broken(changed(log, at, free=free))


def test_measure_applied_twice(log):
    at = first(log, "measure.applied")
    twin = replace(log[at], id="other-1")
    assert "measures" in broken([*log[: at + 1], twin, *log[at + 1 :]])


def test_event_that_its_cause_cannot_bring_about(log):
    at = first(log, "measure.applied")
    assert "kinds" in broken([*log[:at], replace(log[at], cause="run-1"), *log[at + 1 :]])


def test_bid_that_answers_another_auction(log):
    later = [i for i, e in enumerate(log) if e.kind == "auction.bid"][3]
    assert "kinds" in broken(
        changed(log, later, auction=log[first(log, "auction.bid")].data["auction"])
    )


def test_agent_that_answered_and_counts_as_silent(log):
    at = first(log, "auction.awarded")
    silent = [log[at].data["winner"]]
    assert "awards" in broken(changed(log, at, silent=silent))


def test_refusal_that_nobody_recorded(log):
    at = first(log, "auction.awarded")
    found = check(changed(log, at, refusals={"pop9": "no time"}))
    assert "pop9 refuses (no time), and said None" in [violation.text for violation in found]


def test_bid_that_nothing_is_held_for(log):
    at = first(log, "hold.granted")
    assert "holds" in broken(changed(log, at, cores=log[at].data["cores"] / 2))


def test_bid_that_is_wrong_about_its_own_pop(log):
    at = first(log, "auction.bid")
    free = [{"cores": 0.5, "memory_gb": 0.5, "disk_gb": 1.0}]
    assert broken(changed(log, at, free=free)) == {"resources"}


def test_hold_that_outlives_its_time(log):
    end = first(log, "hold.ended")
    assert "holds" in broken([*log[:end], replace(log[end], kind="other"), *log[end + 1 :]])


def test_contract_that_never_ends(log):
    at = first(log, "contract.ended")
    assert "contracts" in broken([*log[:at], replace(log[at], kind="other"), *log[at + 1 :]])


def test_contract_that_is_accepted_twice(log):
    at = first(log, "contract.accepted")
    twin = replace(log[at], id="other-1")
    assert "contracts" in broken([*log[: at + 1], twin, *log[at + 1 :]])


def test_agent_that_is_taken_for_dead_and_lives(log):
    at = first(log, "auction.called")
    gone = replace(log[at], id="other-1", kind="agent.gone", data={"pop": "pop1"})
    assert broken([*log[:at], gone, *log[at:]]) == {"gone"}


def test_belief_that_does_not_change(log):
    at = first(log, "belief.changed")
    twin = replace(log[at], id="other-1")
    assert broken([*log[: at + 1], twin, *log[at + 1 :]]) == {"beliefs"}


def test_belief_that_is_removed_and_was_none(log):
    at = first(log, "belief.changed")
    assert "beliefs" in broken(changed(log, at, value=None))


def test_duty_that_loses_its_owner(log):
    at = first(log, "network.sample")
    duty = log[first(log, "goal.adopted")]
    data = {
        "goal": duty.data["goal"],
        "instance_id": duty.data["instance_id"],
        "outcome": "dropped",
    }
    end = replace(log[at], id="other-1", agent=duty.agent, kind="goal.ended", data=data)
    assert "duties" in broken([*log[:at], end, *log[at:]])


def test_auctions_of_long_ago_are_forgotten(log):
    """Each round ends before the next one: what is kept does not grow with their number."""
    checker = Checker()
    checker.see(log[0])
    call = log[first(log, "auction.called")]
    for number in range(10 * KEPT):
        name = f"{call.agent}.1/auction{number}"
        at = {"time": float(number), "agent": call.agent}
        ended = {"auction": name, "goal": call.data["goal"], "reason": "", "silent": []}
        checker.see(replace(call, **at, data={**call.data, "auction": name}))
        checker.see(replace(call, **at, kind="auction.failed", data={**ended, "refusals": {}}))
    rules = next(group for group in checker._groups if isinstance(group, AuctionRules))
    assert len(rules._auctions) <= 2 * KEPT


def test_verb_says_what_is_left_out_and_what_led_to_the_first_violation(log, tmp_path):
    path = tmp_path / "log.jsonl"
    at = first(log, "measure.applied")
    lines = [encode_line(event) for event in log]
    path.write_bytes(b"".join([*lines[: at + 1], lines[at], b"{\n", *lines[at + 1 :]]))
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 1
    told = " ".join(done.stdout.split())
    assert f"ids: id {log[at].id} after {log[at].id}" in told
    assert all(event.id in told for event in EventLog(log).causes(log[at].id)[-5:])
    assert "1 line was left out (2 octets)" in done.stderr
