"""Faults of clocks, disks, links and groups of agents: what they do, and that it passes."""

import pytest

from phalanx.clock.virtual import DriftingClock, VirtualClock
from phalanx.domain.errors import ScenarioError
from phalanx.runtime.processes.spread import Spread
from phalanx.runtime.system import System, run_scenario
from tests.system.rings import POPS, arriving, of, pop, ring, users

ROOMY = [pop(name, 8, 16) for name in POPS]


def result_of(*faults, **changes):
    return run_scenario(ring(faults=list(faults), pops=ROOMY, **changes))


def test_parts_of_a_partition_watch_the_same_link_and_settle_when_it_heals():
    cut = {"at_s": 20, "kind": "partition", "groups": [["north", "east"]], "for_s": 60}
    result = result_of(cut, traffic=[], strategy="service", duration_s=200)
    taken = of(result, "duty.taken_up")
    assert {e.agent for e in taken} <= {"north", "east"}
    assert 20 < taken[0].time < 80
    settled = [e for e in of(result, "goal.ended") if "whose duty" in e.data.get("reason", "")]
    assert {e.agent for e in settled} == {e.agent for e in taken}
    assert all(e.time > 80 for e in settled)


def test_all_that_are_in_no_group_are_one_more():
    cut = {"at_s": 20, "kind": "partition", "groups": [["north"]], "for_s": 20}
    result = result_of(cut, traffic=[], duration_s=60)
    believed = {(e.agent, e.data["pop"]) for e in of(result, "agent.gone")}
    assert believed
    assert all("north" in pair for pair in believed)


def test_a_degraded_link_carries_its_share_and_then_all_again():
    worse = [
        {"at_s": 20, "kind": "degrade", "link": ["east", "south"], "share": 0.004, "for_s": 30},
        {"at_s": 20, "kind": "degrade", "link": ["west", "south"], "share": 0.004, "for_s": 30},
    ]
    result = result_of(*worse, duration_s=80, monitors=[], traffic=[users()])
    assert max(arriving(result, "legitimate", 25, 50)) <= 0.4 + 1e-6
    assert min(arriving(result, "legitimate", 60, 80)) == pytest.approx(1.0, rel=0.01)


def test_latency_and_loss_of_a_degraded_link_are_as_told_and_pass():
    system = System(ring())
    before = system.infrastructure.way("north", "east")
    system.infrastructure.degrade("east", "north", 1.0, 250.0, 0.5)
    latency_s, kept = system.infrastructure.way("north", "east")
    assert latency_s == pytest.approx(before[0] + 0.25)
    assert kept == pytest.approx(before[1] * 0.5)
    system.infrastructure.degrade("north", "east", 1.0, 0.0, 0.0)
    assert system.infrastructure.way("north", "east") == pytest.approx(before)


def test_an_agent_judges_by_its_own_clock_and_the_log_by_that_of_the_run():
    fast = {"at_s": 30, "kind": "drift", "agent": "east", "rate": 10, "for_s": 20}
    result = result_of(fast, duration_s=150)
    gone = [e for e in of(result, "agent.gone") if e.agent == "east"]
    assert gone, "by its clock its ward says nothing for 20 s at a time"
    assert 30 <= gone[0].time < 35
    times = [event.time for event in result.events]
    assert times == sorted(times)
    assert of(result, "agent.returned"), "they are heard of again"


def test_a_slow_disk_makes_an_agent_late():
    goal = [e for e in of(result_of(), "auction.bid") if e.agent == "east"]
    slow = {"at_s": 0, "kind": "slow-disk", "agent": "east", "delay_s": 3}
    awarded = of(result_of(slow), "auction.awarded")
    assert goal
    assert any("east" in e.data.get("silent", ()) for e in awarded)
    assert not any(e.data["winner"] == "east" for e in awarded)


def test_with_a_full_disk_an_agent_remembers_what_it_knew_before():
    full = {"at_s": 5, "kind": "full-disk", "agent": "south", "for_s": 60}
    dies = {"at_s": 40, "kind": "crash", "agent": "south", "for_s": 2, "memory": True}
    result = result_of(full, dies)
    plain = result_of(dies)
    (kept,), (known,) = of(result, "agent.restored"), of(plain, "agent.restored")
    assert kept.data["beliefs"] < known.data["beliefs"]
    assert result.summary.mitigated


def test_a_drifting_clock_makes_calls_at_its_own_time():
    true = VirtualClock()
    clock = DriftingClock(true)
    seen = []
    for when in (10.0, 100.0, 1000.0):
        clock.call_at(when, lambda: seen.append((true.now(), clock.now())))
    clock.call_at(50.0, lambda: seen.append("cancelled")).cancel()
    true.call_at(5.0, lambda: clock.adjust(2.0, 50.0))
    true.call_at(40.0, lambda: clock.adjust(0.5))
    true.run()
    assert [at for at, _ in seen] == pytest.approx([5.0, 27.5, 40.0 + (1000 - 125) / 0.5])
    assert [own for _, own in seen] == pytest.approx([55.0, 100.0, 1000.0])
    assert clock.fast_s() == pytest.approx(clock.now() - true.now())


@pytest.mark.parametrize("kind", ["drift", "slow-disk"])
def test_processes_refuse_faults_that_they_cannot_have(kind, tmp_path):
    plan = ring(faults=[{"at_s": 1, "kind": kind, "agent": "east"}])
    with pytest.raises(ScenarioError, match=rf"faults\[0\].kind: {kind} needs a simulation"):
        Spread(plan, tmp_path / "plan.yaml")


def test_links_of_real_packets_are_not_made_worse(tmp_path):
    fault = {"at_s": 1, "kind": "degrade", "link": ["north", "east"], "share": 0.5}
    with pytest.raises(ScenarioError, match="degrade needs a simulation"):
        Spread(ring(faults=[fault]), tmp_path / "plan.yaml", on="linux")
