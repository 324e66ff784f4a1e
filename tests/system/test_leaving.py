"""Agents that leave in order: what they do goes to others before it ends."""

import pytest

from phalanx.checking import check as log_check
from phalanx.runtime.scenario import FaultSpec
from phalanx.runtime.system import System
from tests.nightly import at_night, sample
from tests.system.lives import blocked, gaps, heard, left_behind, noise, run
from tests.system.process_log import allocated_twice
from tests.system.rings import arriving, attack, of, pop, ring, users

ROOMY = [pop(name, 8, 16) for name in ("north", "east", "south", "west")]
AGENTS = [f"pop{i}" for i in range(1, 7)]


def drain(agent, at_s):
    return FaultSpec(at_s, "drain", agent=agent)


def check(result):
    assert not log_check(result.events)
    assert not of(result, "agent.gone"), "nobody is alarmed"
    assert left_behind(result) == []


@pytest.mark.parametrize("agent", sample(AGENTS[::-1], 8))
def test_an_agent_leaves_in_the_midst_of_the_mitigation(agent):
    system, result = run([drain(agent, 220.0)])
    check(result)
    assert allocated_twice(heard(result.events)) == []
    assert gaps(result.events, 220, 420) == []
    assert len(blocked(result.events)) == 8
    assert result.summary.mitigated
    (left,) = of(result, "agent.left")
    assert left.agent == agent
    assert left.data["ended"] == []
    assert left.time < 220 + 120
    assert not system.nodes[agent].alive
    assert not [x for x in system.infrastructure.leases() if x.startswith(f"{agent}.")]
    believed = [e for e in of(result, "belief.changed", value=True) if "left(" in e.data["belief"]]
    assert {e.agent for e in believed} == set(AGENTS) - {agent}
    own = [e for e in of(result, "measure.lifted", pop=agent) if e.time >= 220]
    lifted = {e.data["effect"]: e.time for e in own if e.data["effect"].startswith("flow")}
    assert len(lifted) == (8 if agent == "pop5" else 0)
    made = {e.data["effect"]: e.time for e in of(result, "measure.applied") if e.time >= 220}
    assert all(made[effect] < at_s for effect, at_s in lifted.items()), "another holds it first"


@at_night
@pytest.mark.parametrize("agent", sample(AGENTS[::-1], 8))
def test_an_agent_leaves_while_classifiers_download(agent):
    _, result = run([drain(agent, 100.0)])
    check(result)
    limits = [g for g in gaps(result.events, 100, 420) if g[0].startswith(("ip", "link"))]
    assert limits == [], "the address stays limited all the time"
    assert len(blocked(result.events)) == 8
    assert result.summary.mitigated


def test_who_leaves_takes_nothing_new_on():
    result = System(ring(faults=[{"at_s": 9, "kind": "drain", "agent": "north"}])).run()
    (left,) = of(result, "agent.left")
    assert left.time == 9, "it had nothing to hand over"
    assert not [e for e in of(result, "auction.bid") if e.agent == "north"]
    assert result.summary.mitigated
    check(result)


def test_a_call_in_the_meantime_is_refused():
    faults = [{"at_s": 13, "kind": "drain", "agent": "south"}]
    result = System(ring(pops=ROOMY, faults=faults, timing={"drain_s": 60})).run()
    refused = [e for e in of(result, "auction.refused") if e.agent == "south" and e.time > 13]
    assert {e.data["reason"] for e in refused} == {"draining"}
    check(result)


def test_what_nobody_else_can_hold_ends_with_the_agent_when_its_time_is_over():
    small = [pop("north", 4, 8), pop("east", 0, 1), pop("south", 1, 1), pop("west", 0, 1)]
    faults = [{"at_s": 40, "kind": "drain", "agent": "north"}]
    result = System(ring(pops=small, faults=faults, timing={"drain_s": 30})).run()
    (left,) = of(result, "agent.left")
    assert left.time == pytest.approx(70, abs=1)
    assert left.data["ended"]
    ended = [e for e in of(result, "measure.lifted", pop="north") if e.time > 40]
    assert ended
    assert all(e.time >= 70 for e in ended)
    assert not log_check(result.events)


def test_what_a_leaving_agent_filters_is_filtered_by_its_neighbour_within_a_second():
    plan = ring(
        strategy="service",
        traffic=[users(at=["north", "west"]), attack(10, 150, at=["east"])],
        faults=[{"at_s": 30, "kind": "drain", "agent": "east"}],
        timing={"drain_s": 30},
        duration_s=150,
    )
    result = System(plan).run()
    (left,) = of(result, "agent.left")
    assert left.time == pytest.approx(60, abs=1)
    ended = [e for e in of(result, "measure.lifted", pop="east") if e.time >= 60]
    assert ended
    made = [e for e in of(result, "measure.applied", entry="east") if e.time > left.time]
    assert made
    assert made[0].time - left.time < 1.0
    assert not log_check(result.events)


def test_duties_go_to_another_agent_if_the_first_asked_is_silent():
    faults = [
        {"at_s": 39.9, "kind": "crash", "agent": "west"},
        {"at_s": 40, "kind": "drain", "agent": "south"},
    ]
    result = System(ring(pops=ROOMY, faults=faults)).run()
    (taken,) = [e for e in of(result, "duty.taken_up") if e.time < 45]
    assert taken.agent in ("north", "east"), "west is dead"
    assert not log_check(result.events)


@at_night
def test_leaving_works_although_messages_are_lost_and_doubled():
    _, result = run([drain("pop5", 220.0), *noise(219.0, 8.0, 0.3)])
    assert not log_check(result.events)
    assert gaps(result.events, 220, 420) == []
    assert of(result, "agent.left")
    assert left_behind(result) == []
    assert result.summary.mitigated


def test_an_agent_that_has_left_may_come_back():
    faults = [
        {"at_s": 40, "kind": "drain", "agent": "north"},
        {"at_s": 100, "kind": "restart", "agent": "north"},
    ]
    result = System(ring(pops=ROOMY, faults=faults)).run()
    (left,) = of(result, "agent.left")
    assert left.time < 60
    forgot = [
        e for e in of(result, "belief.changed", value=None) if e.data["belief"] == "left(north)"
    ]
    assert {e.agent for e in forgot} == {"east", "south", "west"}
    assert max(arriving(result, "malicious", 45, 130)) < 0.01
    check(result)
