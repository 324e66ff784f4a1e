"""Agents that crash and go on with what they remember: nothing twice, nothing lost."""

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.bdi.memory import decode, encode, remember
from phalanx.checking import check as log_check
from phalanx.checking.fuzz import judge
from phalanx.checking.plans import random_plan
from phalanx.cli.fuzz import run_plan
from phalanx.coordination.duties import Duties
from phalanx.coordination.failover import own_goals
from phalanx.runtime.node import Node
from phalanx.runtime.scenario import FaultSpec
from phalanx.runtime.system import System
from tests.nightly import at_night, examples, sample
from tests.system.lives import (
    RESILIENCE,
    blocked,
    doubled,
    gaps,
    left_behind,
    noise,
    restored,
    run,
)
from tests.system.rings import crash, of, ring

AWAY_S = 3.0
SETTLED_S = 6.0
"""Two agents that pursue one goal have settled which of them goes on."""
MOMENTS = {
    "the limit is auctioned": (21.01, "pop6"),
    "bids are in": (21.05, "pop6"),
    "a bidder has proposed": (21.05, "pop5"),
    "the winner is chosen": (21.072, "pop6"),
    "the winner boots": (23.0, "pop5"),
    "its auctioneer waits": (23.0, "pop6"),
    "the measure is just applied": (26.0845, "pop5"),
    "its auctioneer has not heard yet": (26.0845, "pop6"),
    "the analyser looks": (45.0, "pop5"),
    "the target is found": (51.184, "pop5"),
    "the address is limited": (51.2305, "pop5"),
    "nobody can classify": (51.28, "pop5"),
    "the load balancer boots": (53.0, "pop5"),
    "the parts are auctioned": (56.35, "pop5"),
    "classifiers download": (100.0, "pop5"),
    "a classifier downloads": (100.0, "pop3"),
    "a classifier looks": (175.0, "pop4"),
    "blocks are auctioned": (186.7, "pop4"),
    "blocks are made": (186.75, "pop5"),
    "a block is being reported": (189.24, "pop3"),
    "all is blocked": (250.0, "pop5"),
    "the attack has ended": (425.0, "pop5"),
    "a bystander sleeps": (100.0, "pop2"),
}


def check(result, *, agents=()):
    events = result.events
    assert not log_check(events)
    lives = [e.agent for e in of(result, "agent.restored")]
    assert sorted(lives) == sorted(agents)
    assert doubled(events) == []
    assert left_behind(result) == []
    assert len(blocked(events)) == 8
    assert result.summary.mitigated


@pytest.mark.parametrize("moment", sample(MOMENTS, 24))
def test_an_agent_goes_on_after_a_crash_while(moment):
    at_s, agent = MOMENTS[moment]
    _, result = run([restored(agent, at_s, AWAY_S)])
    check(result, agents=[agent])
    assert gaps(result.events, at_s, at_s + 30) == []
    assert result.summary.returned
    assert not of(result, "agent.gone")
    back = at_s + AWAY_S
    (event,) = of(result, "agent.restored")
    assert event.time == pytest.approx(back)
    assert event.data["remembers"] == 1


@settings(
    max_examples=examples(1),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(0, 2**32 - 1))
def test_an_agent_goes_on_although_messages_are_lost_and_doubled(seed):
    rng = random.Random(seed)
    at_s = rng.choice([rng.uniform(20.9, 57), rng.uniform(51.1, 57), rng.uniform(57, 300)])
    agent, away = f"pop{rng.randint(1, 6)}", rng.choice([0.1, 1, 3])
    share = rng.choice([0.1, 0.2])
    _, result = run([restored(agent, at_s, away), *noise(at_s - 0.5, away + 3, share)])
    check(result, agents=[agent])


def test_a_contract_whose_vnf_did_not_run_yet_is_passed_on_at_once():
    _, result = run([restored("pop5", 23.0, 1.0)])
    again = next(e for e in of(result, "auction.awarded") if "after" in e.data)
    assert again.data["after"] == "pop5"
    assert 24.0 < again.time < 24.1
    stopped = of(result, "instance.stopped", instance="pop5.1/vnf2/rate-limiter")
    assert [e.data["reason"] for e in stopped] == ["its agent was restarted"]
    assert stopped[0].time == 24.0


@at_night
def test_work_goes_on_where_its_vnf_runs_already():
    _, plain = run([])
    _, result = run([restored("pop5", 100.0, AWAY_S)])
    won = [[e.data["auction"] for e in of(r, "auction.awarded")] for r in (plain, result)]
    assert won[1] == won[0][: len(won[1])], "no auction was held again before the crash's agent"
    assert result.summary.last_limit_s == pytest.approx(plain.summary.last_limit_s, abs=1)


@at_night
def test_measures_stay_in_force_and_are_still_watched():
    _, result = run([restored("pop5", 300.0, AWAY_S)])
    lifted = of(result, "measure.lifted", pop="pop5")
    assert all(e.data["reason"] == "lifted" for e in lifted)
    assert [e.time for e in lifted if 300 < e.time < 420] == []
    assert [e for e in lifted if e.time > 420], "quiet is noticed in the second life"


@pytest.mark.parametrize("away", sample([10.0, 14.0], 2), ids=lambda a: f"away {a:g} s")
@pytest.mark.parametrize(
    ("at_s", "agent"), sample([(100.0, "pop5"), (51.33, "pop6"), (250.0, "pop5")], 3)
)
def test_of_two_that_pursue_a_goal_one_goes_on(at_s, agent, away):
    system = System(replace(RESILIENCE, faults=(restored(agent, at_s, away),)))
    seen = []

    def look():
        for node in system.nodes.values():
            duties = node.agent.capability(Duties).pursued(node.agent)
            own = [*own_goals(node.agent), *duties]
            seen.extend((str(g.goal), node.agent.name) for g in own)

    system.clock.call_at(at_s + away + SETTLED_S, look)
    result = system.run(on_progress=lambda _: system.infrastructure.check())
    assert not log_check(result.events)
    assert left_behind(result) == []
    assert of(result, "agent.gone", pop=agent)
    goals = [goal for goal, _ in seen if not goal.startswith("monitored")]
    assert len(goals) == len(set(goals)), seen
    # Its lease has run out: who watches meanwhile goes on until the home's new VNF runs.
    watching = {"pop3", "pop6"} if (agent, away) == ("pop6", 14.0) else {"pop6"}
    assert {pop for goal, pop in seen if goal.startswith("monitored")} == watching
    assert doubled([e for e in result.events if e.time > at_s + away + SETTLED_S]) == []


@at_night
def test_a_goal_that_a_guardian_took_over_stays_with_it():
    _, result = run([restored("pop5", 100.0, 10.0)])
    ended = [e for e in of(result, "goal.ended", outcome="taken over") if e.agent == "pop5"]
    assert {e.data["goal"] for e in ended} == {
        "flowRecord(10.0.6.10, 0, 1)",
        "splitTrafficTowardsIp(10.0.6.10, 0, 1)",
    }
    assert all(e.data["reason"] == "by pop6" for e in ended)


@at_night
def test_all_agents_are_restarted_in_turn_under_attack():
    turns = [restored(f"pop{i}", 150.0 + 12 * i, 4.0) for i in range(1, 7)]
    _, result = run(turns)
    check(result, agents=[f"pop{i}" for i in range(1, 7)])
    assert gaps(result.events, 150, 300) == []
    assert not of(result, "agent.gone")
    assert result.summary.returned


@at_night
def test_an_agent_that_forgot_everything_between_two_lives_is_known_to_have():
    faults = [
        FaultSpec(250.0, "crash", agent="pop5", for_s=1.0),
        restored("pop5", 252.0, 1.0),
    ]
    _, result = run(faults)
    (event,) = of(result, "agent.restored")
    assert (event.data["incarnation"], event.data["remembers"]) == (3, 2)
    assert len(blocked([e for e in result.events if e.time > 250])) == 8
    assert left_behind(result) == []


@at_night
def test_the_same_faults_give_the_same_log():
    faults = [restored("pop5", 51.3, 2.0), *noise(50.0, 6.0, 0.2)]
    first, second = (run(faults)[1].events for _ in range(2))
    assert first == second


# -- the memory itself --------------------------------------------------------------------


def test_every_memory_survives_its_writing_and_says_when_it_changed(monkeypatch):
    system = System(ring(faults=[crash("east", 40, for_s=3), crash("west", 60, for_s=20)]))
    library = system.catalogue.library
    known = {}
    calls = 0
    carry_out = Node._carry_out

    def look(node, instructions):
        nonlocal calls
        carry_out(node, instructions)
        calls += 1
        agent = node.agent
        memory = replace(remember(agent), time=0.0)
        if calls % 10 == 0:
            assert decode(encode(memory), library) == memory
        changes, before = known.get(id(agent), (-1, None))
        if changes == agent.changes:
            assert _without_traffic(before) == _without_traffic(memory)
        known[id(agent)] = agent.changes, memory

    monkeypatch.setattr(Node, "_carry_out", look)
    system.run(until=90)
    assert calls > 1000


def _without_traffic(memory):
    """Leave out what is asked for anew each time: how much traffic there is just now."""
    return replace(memory, goals=tuple(replace(g, traffic_mb_s=0.0) for g in memory.goals))


@at_night
@settings(
    max_examples=20,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(0, 2**32 - 1))
def test_random_plans_with_memory(seed):
    rng = random.Random(f"memory/{seed}")
    plan = random_plan(seed)
    agents = [pop["name"] for pop in plan["network"]["pops"] if pop.get("agent", True)]
    faults = [fault for fault in plan["faults"] if fault["kind"] != "crash"]
    for _ in range(rng.randint(1, 4)):
        dies = {"at_s": round(rng.uniform(1, 50), 3), "for_s": round(rng.uniform(0.1, 15), 3)}
        faults.append(dies | {"kind": "crash", "agent": rng.choice(agents), "memory": True})
    assert judge(plan | {"faults": faults}, "safety", run_plan).failures == ()
