"""The checker finds what is wrong in a log, and nothing in a log of a correct run."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.checking import RULES, Checker, check
from phalanx.checking.awards import KEPT, AuctionRules
from phalanx.checking.plans import random_plan
from phalanx.cli.fuzz import run_plan
from phalanx.cli.main import app
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from phalanx.store.jsonl import encode_line
from phalanx.store.memory import EventLog

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def log():
    return run_scenario(
        load_scenario(ROOT / "scenarios" / "ddos-resilience.yaml"), until=300
    ).events


def short(number):
    """Return a plan that ends soon after its attack and its faults."""
    return random_plan(number, "safety") | {"duration_s": 130.0}


@pytest.fixture(scope="module")
def busy():
    """A run in which an agent dies for a while, one leaves, and functions are updated."""
    plan = short(204) | {"strategy": "published", "bidding": "exact", "duration_s": 190.0}
    home = plan["hosts"][0]["at"]
    other = next(p["name"] for p in plan["network"]["pops"] if p["name"] != home)
    plan["faults"] = [
        {"at_s": 24.0, "kind": "crash", "agent": home, "for_s": 3.0, "memory": True},
        {"at_s": 56.0, "kind": "drain", "agent": other},
    ]
    return run_plan(plan).events


@pytest.fixture(scope="module")
def calm():
    """A run in which nothing is broken, and bids come over links."""
    plan = short(109) | {"faults": [], "strategy": "published", "bidding": "exact"}
    return run_plan(plan).events


@pytest.fixture(scope="module")
def defended():
    """A run in which attackers are filtered where they enter."""
    return run_scenario(load_scenario(ROOT / "scenarios" / "quickstart-ring.yaml"), until=60).events


@pytest.fixture(scope="module")
def passed_on():
    """A run in which a winner fails, and another of several bidders is next."""
    return run_plan(random_plan(97000200, "safety")).events


@pytest.fixture(scope="module")
def undone():
    """A run in which agents ask others to undo measures."""
    return run_plan(short(97000211)).events


def test_any_part_of_a_log_is_read_without_an_error(busy):
    """As that of a domain is, which has no first event with the network."""
    at = first(busy, "auction.bid")
    why = {"auction": busy[at].data["auction"], "goal": "", "reason": "no path to pop1"}
    told = [*busy[:at], replace(busy[at], kind="auction.refused", data=why), *busy[at + 1 :]]
    for start in (0, 1, 97, 998):
        part = [event for event in told[start:] if event.kind != "run.started"]
        found = check(part)
        assert len(found) < len(part)
        assert [one for one in found if "cannot be read" in one.text] == []


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


@pytest.mark.parametrize("kind", ["goal.ended", "hold.granted", "instance.stopped", "plan.ended"])
def test_event_that_is_told_twice_at_once_or_by_another(busy, kind):
    at = first(busy, kind)
    event = busy[at]
    twin = replace(event, id=f"{event.agent}.0-1")
    assert "things" in broken([*busy[: at + 1], twin, *busy[at + 1 :]])
    other = replace(event, agent="pop5" if event.agent != "pop5" else "pop4")
    assert "things" in broken([*busy[:at], other, *busy[at + 1 :]])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("auction.awarded", {"goal": "attackFiltered(10.9.9.9, pop1, x)"}),
        ("contract.ended", {"goal": "attackFiltered(10.9.9.9, pop1, x)"}),
        ("goal.ended", {"goal": "attackFiltered(10.9.9.9, pop1, x)"}),
        ("hold.ended", {"pop": "pop9"}),
        ("instance.stopped", {"vnf": "gateway"}),
        ("measure.lifted", {"effect": "linkRateLimited(a>b, 1)"}),
        ("plan.ended", {"goal": "attackFiltered(10.9.9.9, pop1, x)"}),
    ],
)
def test_thing_of_which_another_event_says_something_else(busy, kind, said):
    at = next(at for at in reversed(range(len(busy))) if busy[at].kind == kind)
    assert "things" in broken(changed(busy, at, **said))


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("instance.started", "auction.bid"),
        ("measure.applied", "goal.adopted"),
        ("plan.started", "auction.called"),
    ],
)
def test_event_of_a_kind_that_its_cause_cannot_bring_about(busy, kind, cause):
    at = next(at for at in reversed(range(len(busy))) if busy[at].kind == kind)
    why = next(each for each in reversed(busy[:at]) if each.kind == cause)
    other = replace(busy[at], cause=why.id)
    assert "kinds" in broken([*busy[:at], other, *busy[at + 1 :]])


def test_award_by_a_bid_of_another_auction(busy):
    at, why = next(
        (at, bid)
        for at, event in enumerate(busy)
        if event.kind == "auction.awarded"
        for bid in busy[:at]
        if bid.kind == "auction.bid" and bid.data["auction"] != event.data["auction"]
    )
    other = replace(busy[at], cause=why.id)
    assert "kinds" in broken([*busy[:at], other, *busy[at + 1 :]])


def test_finding_of_another_instance_than_was_begun(busy):
    at, begun = next(
        (at, event)
        for at, event in enumerate(busy)
        if event.kind == "analysis.done"
        and any(e.id == event.cause and e.kind == "plan.started" for e in busy[:at])
    )
    other = changed(busy, at, instance=begun.data["instance"] + "x")
    wrong = "kinds", busy[at].id
    assert wrong in {(each.rule, each.event) for each in check(other)}
    by = {"instance": begun.data["instance"], "by": begun.data["instance"] + "x"}
    update = replace(begun, id="other-1", kind="instance.replaced", data=by)
    back = replace(update, id="other-2", data={"instance": by["by"], "by": by["instance"]})
    found = check([*other[:at], update, back, *other[at:]])
    assert wrong not in {(each.rule, each.event) for each in found}


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
    data = {"incarnation": 2}  # that a process was killed no event says
    back = replace(log[at], id="other-0", kind="agent.restored", data=data)
    assert "contracts" not in broken([*log[: at + 1], back, twin, *log[at + 1 :]])


def test_agent_that_is_taken_for_dead_and_lives(log):
    at = first(log, "auction.called")
    gone = replace(log[at], id=f"{log[at].agent}.0-1", kind="agent.gone", data={"pop": "pop1"})
    assert broken([*log[:at], gone, *log[at:]]) == {"gone"}


def test_belief_that_does_not_change(log):
    at = first(log, "belief.changed")
    later = next(n for n, e in enumerate(log) if e.time > log[at].time + 1)
    twin = replace(log[at], id=f"{log[at].agent}.0-1", time=log[later].time)
    assert broken([*log[:later], twin, *log[later:]]) == {"beliefs"}


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


def test_correct_runs_with_failures_and_over_links_break_no_rule(busy, calm):
    assert check(busy) == []
    assert check(calm) == []


def other(log, at):
    """Return a log in which an event is of a kind that no rule knows."""
    return [*log[:at], replace(log[at], kind="other"), *log[at + 1 :]]


@pytest.mark.parametrize("fault", ["crash", "drain", "link-down", "lose"])
def test_fault_that_does_not_happen(log, fault):
    agent = log[first(log, "agent.started")].agent
    planned = {"at_s": 5.0, "kind": fault, "agent": agent}
    assert "planned" in broken(changed(log, 0, faults=[planned]))


def test_fault_that_is_not_planned(busy):
    at = first(busy, "fault.injected", fault="crash")
    assert "planned" in broken(changed(busy, at, fault="link-down"))


def test_fault_by_other_figures_than_planned(busy):
    back = first(busy, "fault.injected", fault="restart")
    assert busy[back].data["memory"] is True
    assert "planned" in broken(changed(busy, back, memory=False))
    crash = first(busy, "fault.injected", fault="crash")
    assert "planned" in broken(changed(busy, crash, rate=1.0, share=0.5))


def test_agent_that_returns_and_was_never_gone(log):
    at = first(log, "auction.called")
    back = replace(log[at], id=f"{log[at].agent}.0-1", kind="agent.returned", data={"pop": "pop1"})
    assert broken([*log[:at], back, *log[at:]]) == {"gone"}


def test_agent_that_returns_more_often_than_it_was_away(passed_on):
    at = first(passed_on, "agent.returned")
    later = next(i for i, e in enumerate(passed_on) if e.time > passed_on[at].time)
    agent, time = passed_on[at].agent, passed_on[later].time
    again = [replace(passed_on[at], id=f"{agent}.0-{n}", time=time + n / 1e9) for n in range(1, 20)]
    assert "gone" in broken([*passed_on[:later], *again, *passed_on[later:]])


def test_chain_without_a_link(calm):
    at = first(calm, "chain.opened")
    assert "chains" in broken(changed(calm, at, path=calm[at].data["path"][:1]))


def test_auction_that_waits_though_all_have_answered(log):
    at = first(log, "auction.awarded")
    auction, now = log[at].data["auction"], log[at].time
    early = [
        replace(e, time=now - 1.0) if n < at and e.data.get("auction") == auction else e
        for n, e in enumerate(log)
    ]
    found = [v.text for v in check(early) if v.rule == "auctions"]
    assert found == [f"all have answered at {now - 1.0:g} s"]


def test_contract_that_goes_on_after_the_plan_that_it_is_for(calm):
    at = first(calm, "contract.accepted")
    call = calm[first(calm, "auction.called", auction=calm[at].data["auction"])]
    data = {"goal": call.data["goal"], "goal_id": "other", "plan": "goal request"}
    data |= {"succeeded": False, "reason": "it is over"}
    over = replace(call, id="other-1", kind="plan.ended", time=calm[at].time, data=data)
    found = [v.text for v in check([*calm[: at + 1], over, *calm[at + 1 :]])]
    assert [text for text in found if "goes on" in text]
    # The plan of a goal that was adopted after the call had nothing to do with it.
    late = {"goal": data["goal"], "instance_id": "other-goal", "priority": 0}
    anew = replace(over, id="other-0", kind="goal.adopted", data=late)
    over_anew = replace(over, data={**data, "goal_id": "other-goal"})
    found = [v.text for v in check([*calm[: at + 1], anew, over_anew, *calm[at + 1 :]])]
    assert not [text for text in found if "goes on" in text]
    # Who was killed meanwhile, which shows as it is back, could not end it.
    back = replace(over, id="other-2", agent=calm[at].agent, kind="agent.restored")
    found = [v.text for v in check([*calm[: at + 1], over, back, *calm[at + 1 :]])]
    assert not [text for text in found if "goes on" in text]


def test_agent_that_does_not_begin(log):
    agents = [*log[0].data["agents"], "pop99"]
    assert "planned" in broken(changed(log, 0, agents=agents))


def test_run_without_its_last_samples(log):
    early = [e for e in log if e.kind != "network.sample" or e.time < log[-1].time - 5]
    assert "samples" in broken(early)


def test_link_with_another_bandwidth(log):
    at = first(log, "network.sample")
    links = {"pop1>pop2": {"mb_s": 0.0, "bandwidth_mb_s": 0.5, "queue_ms": 0.0}}
    assert "samples" in broken(changed(log, at, links=links))


@pytest.mark.parametrize("content", ["Heartbeat", "Digest"])
@pytest.mark.parametrize("times", [0.1, 10])
def test_agents_that_tell_too_seldom_or_too_often_that_they_live(log, content, times):
    contents = log[-1].data["contents"]
    few = {**contents, content: int(times * contents[content])}
    assert broken(changed(log, len(log) - 1, contents=few)) == {"beats"}


def test_agent_that_is_about_to_leave_and_does_not(busy):
    assert "drains" in broken(other(busy, first(busy, "agent.left")))


def test_agent_that_is_told_to_leave_and_goes_on(busy):
    told = next(i for i, e in enumerate(busy) if e.kind == "agent.draining")
    unheard = other(busy, told)
    assert "drains" in broken(other(unheard, first(unheard, "agent.left")))


def test_agent_that_is_about_to_leave_and_bids(busy):
    at = first(busy, "auction.bid")
    leaves = replace(busy[at], id="other-1", kind="agent.draining", data={})
    assert "drains" in broken([*busy[:at], leaves, *busy[at:]])


def test_instance_that_ends_as_idle_and_has_work(calm):
    at = first(calm, "contract.accepted")
    name = calm[at].data["instance"]
    start = first(calm, "instance.started", instance=name)
    data = {"instance": name, "vnf": "", "pop": calm[start].data["pop"], "reason": "idle for 5 s"}
    stop = replace(calm[start], id="other-1", kind="instance.stopped", data=data)
    assert "idle" in broken([*calm[: start + 1], stop, *calm[start + 1 :]])


def test_instance_that_is_not_updated(calm):
    at = first(calm, "instance.started")
    data = {"function": calm[at].data["vnf"], "version": "9.0"}
    offered = replace(calm[at], id="other-1", agent="run", kind="repository.changed", data=data)
    assert "updates" in broken([*calm[: at + 1], offered, *calm[at + 1 :]])


def test_bid_for_a_path_that_is_not_the_cheapest(calm):
    at = next(
        i
        for i, e in enumerate(calm)
        if e.kind == "auction.bid" and len(e.data["bids"][0]["path"]) > 1
    )
    bids = [{**bid, "C": bid["C"] + 1.0} for bid in calm[at].data["bids"]]
    assert {"paths", "prices"} <= broken(changed(calm, at, bids=bids))


def test_refusal_for_want_of_a_path_that_there_is(calm):
    at = next(
        i
        for i, e in enumerate(calm)
        if e.kind == "auction.bid" and len(e.data["bids"][0]["path"]) > 1
    )
    bid = calm[at]
    data = {"auction": bid.data["auction"], "goal": bid.data["goal"], "reason": "no path to pop1"}
    assert "paths" in broken([*calm[:at], replace(bid, kind="auction.refused", data=data)])


def test_award_that_skips_an_agent_which_lives(passed_on):
    assert check(passed_on) == []
    at = next(
        i
        for i, e in enumerate(passed_on)
        if "after" in e.data and len({row["agent"] for row in e.data["ranking"]}) > 2
    )
    award = passed_on[at].data
    last = next(
        row["agent"]
        for row in reversed(award["ranking"])
        if row["agent"] not in (award["winner"], award["after"])
    )
    assert "awards" in broken(changed(passed_on, at, winner=last))


def test_award_that_skips_as_silent_who_is_at_work(calm):
    at = next(
        i
        for i, e in enumerate(calm)
        if e.kind == "auction.awarded" and len({row["agent"] for row in e.data["ranking"]}) > 1
    )
    after, won = calm[at].data["winner"], calm[at].data["auction"]
    second = next(row["agent"] for row in calm[at].data["ranking"] if row["agent"] != after)
    later = first(calm, "contract.accepted", auction=won) + 1

    def passed_over(reason):
        data = calm[at].data | {"after": after, "winner": second, "reason": reason}
        again = replace(calm[at], id=f"{calm[at].agent}.0-1", time=calm[later].time, data=data)
        return broken([*calm[:later], again, *calm[later:]])

    assert "awards" in passed_over("does not answer")
    assert "awards" not in passed_over("no room")


def test_undo_that_is_asked_for_by_an_agent_which_was_never_told(undone):
    assert check(undone) == []
    known = {event.id: event for event in undone}
    asked = next(
        e
        for e in undone
        if e.kind == "goal.adopted"
        and known[e.cause].data.get("plan") == "request undo"
        and known[e.cause].agent != e.agent
    )
    name = asked.data["goal"].removeprefix("¬")
    told = [
        i
        for i, e in enumerate(undone)
        if e.kind == "belief.changed"
        and (e.data["belief"], e.data.get("holder")) == (name, asked.agent)
        and e.agent == known[asked.cause].agent
    ]
    lies = list(undone)
    for at in told:
        lies[at] = replace(undone[at], kind="other")
    assert "undo" in broken(lies)
    called = next(e for e in undone if e.kind == "auction.called")
    for at in told:
        lies = [*undone[:at], called, *undone[at:]]
        lies[at : at + 2] = [replace(undone[at], cause=called.id)]
    assert "undo" in broken(lies), "a call for proposals gives no mandate"


def test_what_fails_without_a_reason(busy):
    at = first(busy, "goal.ended", outcome="dropped")
    assert "achieved" in broken(changed(busy, at, reason=None))
    at = first(busy, "contract.ended")
    assert "achieved" in broken(changed(busy, at, fulfilled=False))


def test_goal_that_is_pursued_for_a_contract_that_has_ended(log):
    at = next(i for i, e in enumerate(log) if e.kind == "goal.adopted" and e.data.get("contract"))
    end = first(log, "contract.ended", auction=log[at].data["contract"])
    over = replace(log[end], id="other-1", time=log[at].time)
    assert "goals" in broken([*log[: at + 1], over, *log[at + 1 :]])


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


def test_success_that_the_winner_did_not_report(busy):
    by_id = {event.id: at for at, event in enumerate(busy)}

    def reported(event):
        cause = busy[by_id[event.cause]] if event.cause else event
        held = event.data.get("holder") not in (None, event.agent)
        return event.kind == "belief.changed" and held and cause.kind == "contract.ended"

    believed = next(event for event in busy if reported(event))
    at = by_id[believed.cause]
    assert "contracts" in broken(changed(busy, at, fulfilled=False, reason="it failed"))
    called = first(busy, "auction.called", auction=busy[at].data["auction"])
    said = [
        v.text
        for v in check([*busy[:called], replace(busy[called], agent="none"), *busy[called + 1 :]])
    ]
    assert any("did not report" in text for text in said)


def test_finding_without_evidence(log):
    at = next(i for i, e in enumerate(log) if e.kind == "analysis.done" and e.data["found"])
    assert "findings" in broken(changed(log, at, evidence={}))
    assert "findings" in broken(changed(log, at, found=["10.0.0.1>"]))


def test_source_that_is_filtered_and_was_not_found(defended):
    at = first(defended, "measure.applied", verdict="drop")
    sources = [*defended[at].data["sources"], "10.99.0.1"]
    assert "named" in broken(changed(defended, at, sources=sources))
    assert broken(defended) == set()


def test_attack_that_nobody_is_told_of(defended):
    at = first(defended, "run.ended")
    contents = {k: n for k, n in defended[at].data["contents"].items() if k != "AttackReport"}
    assert "reports" in broken(changed(defended, at, contents=contents))


@pytest.mark.parametrize("times", [0.5, 3])
def test_winners_that_are_asked_too_seldom_or_too_often_whether_they_are_at_work(calm, times):
    at = first(calm, "run.ended")
    contents = calm[at].data["contents"]
    contents = contents | {"Award": round(times * contents["Award"])}
    assert "asked" in broken(changed(calm, at, contents=contents))


def test_instance_that_ends_as_idle_for_another_time(calm):
    at = next(i for i, e in enumerate(calm) if e.data.get("reason", "").startswith("idle for"))
    assert "idle" in broken(changed(calm, at, reason="idle for 99 s"))


def test_agent_that_leaves_and_ends_what_others_could_do():
    plan = short(204)
    plan |= {"faults": [{"at_s": 20.0, "kind": "drain", "agent": plan["hosts"][0]["at"]}]}
    events = run_plan(plan).events
    at = first(events, "agent.left")
    assert broken(events) == set()
    assert "drains" in broken(changed(events, at, ended=["monitored(pop1>server1, 1, 0)"]))
    lasted = events[at].time - events[first(events, "agent.draining")].time
    late = changed(events, 0, timing=events[0].data["timing"] | {"drain_s": lasted - 0.1})
    assert "drains" not in broken(changed(late, at, ended=["what nobody else could do"]))
    duty = events[0].data["duties"][0]["goal"]
    assert "drains" in broken(changed(late, at, ended=[duty]))


def test_duty_that_another_agent_sees_to_and_never_took_up():
    plan = short(204)
    crash = {"at_s": 20.0, "kind": "crash", "agent": plan["hosts"][0]["at"], "for_s": 30.0}
    events = run_plan(plan | {"faults": [crash]}).events
    taken = next(e for e in events if e.kind == "duty.taken_up")
    at = next(i for i, e in enumerate(events) if e.cause == taken.id and e.kind == "goal.adopted")
    assert broken(events) == set()
    other = replace(events[at], cause=next(e.id for e in events if e.kind == "agent.started"))
    assert "duties" in broken([*events[:at], other, *events[at + 1 :]])
