"""What breaks gives way: agents, VNFs, bids, goals. The log says how, and why."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.checking import check as log_check
from phalanx.runtime.scenario import FaultSpec
from phalanx.runtime.system import System, run_scenario
from tests.nightly import at_night, sample
from tests.published import load_published
from tests.system.rings import about, arriving, attack, causes, crash, of, pop, ring, users

SCENARIOS = Path(__file__).parents[2] / "scenarios"
ROOMY = [pop(name, 8, 16) for name in ("north", "east", "south", "west")]


def check(result):
    assert not log_check(result.events)


# -- agents -------------------------------------------------------------------------------


def test_what_a_dead_agent_held_runs_out_and_is_negotiated_anew():
    plain = load_published(SCENARIOS / "ddos-resilience.yaml")
    result = run_scenario(replace(plain, faults=(FaultSpec(220.0, "crash", agent="pop5"),)))
    (gone,) = of(result, "agent.gone")
    assert gone.data["pop"] == "pop5"
    assert gone.agent == "pop6"
    assert gone.time < 230
    expired = [e.data["name"] for e in of(result, "lease.expired", what="instance")]
    assert any(name.endswith("/rate-limiter") for name in expired)
    anew = [
        e
        for e in about(result, "goal.adopted", "goal", "flowRateLimited")
        if e.agent in ("pop3", "pop4") and e.time > 220
    ]
    assert len(anew) == 8
    for event in anew:
        assert any(c.data.get("belief") == "gone(pop5)" for c in causes(result, event))
    blocks = [e for e in about(result, "measure.applied", "effect", "flowRate") if e.time > 220]
    assert len(blocks) == 8
    assert len({e.data["instance"] for e in blocks}) == 1, "one limiter serves them all"
    assert result.summary.mitigated
    assert result.summary.returned
    check(result)


def test_an_agent_that_is_back_at_once_is_known_to_have_forgotten_what_it_held():
    result = run_scenario(ring(faults=[crash("north", 40, for_s=3)]))
    (returned,) = of(result, "agent.returned")
    assert returned.data["pop"] == "north"
    assert not of(result, "agent.gone")
    again = [e for e in of(result, "measure.applied") if e.time > 40]
    assert sorted(e.data["effect"] for e in again) == [
        "flowRateLimited(10.2.0.1, 10.0.0.10)",
        "flowRateLimited(10.2.0.2, 10.0.0.10)",
    ]
    expired = of(result, "lease.expired", name="north.1/vnf2/rate-limiter")
    assert all(e.time < expired[0].time for e in again), "before the old limits ran out"
    assert max(arriving(result, "malicious", 40, 130)) < 0.01
    lives = [e.data["incarnation"] for e in of(result, "agent.started") if e.agent == "north"]
    assert lives == [1, 2]
    assert result.summary.mitigated
    assert result.summary.returned
    check(result)


def test_an_agent_that_is_back_after_its_death_was_noticed_is_welcome():
    result = run_scenario(ring(faults=[crash("north", 40, for_s=20)]))
    lives = [e for e in result.events if e.kind in ("agent.gone", "agent.returned")]
    assert [(e.kind, e.data["pop"]) for e in lives] == [
        ("agent.gone", "north"),
        ("agent.returned", "north"),
    ]
    assert lives[1].time == pytest.approx(60, abs=1)
    believed = about(result, "belief.changed", "belief", "gone(north)")
    others = ("east", "south", "west")
    for value, since in ((True, lives[0].time), (None, 60.0)):
        told = [e for e in believed if e.data["value"] is value]
        assert sorted(e.agent for e in told) == sorted(others)
        assert all(since <= e.time < since + 1 for e in told)
    assert result.summary.mitigated
    check(result)


def test_an_agent_that_was_only_out_of_touch_takes_its_place_again():
    silence = {"at_s": 40, "kind": "lose", "agent": "north", "share": 1.0, "for_s": 15}
    result = run_scenario(ring(faults=[silence]))
    (gone,) = of(result, "agent.gone", pop="north")
    (returned,) = of(result, "agent.returned", pop="north")
    assert 40 < gone.time < 55 <= returned.time < 62
    assert max(arriving(result, "malicious", 40, 130)) < 0.01
    assert result.summary.mitigated
    assert result.summary.returned
    check(result)


def test_the_guardian_of_a_dead_monitor_has_its_link_watched():
    result = run_scenario(ring(faults=[crash("south", 5)]))
    (gone,) = of(result, "agent.gone")
    assert gone.agent == "west"
    monitored = about(result, "goal.adopted", "goal", "monitored(")
    assert [e.agent for e in monitored[:2]] == ["south", "west"]
    assert gone in causes(result, monitored[1])
    called = about(result, "auction.called", "goal", "monitored(")[0]
    assert monitored[1] in causes(result, called)
    started = of(result, "instance.started", vnf="link-monitor")
    assert [e.data["pop"] for e in started] == ["south", "north"]
    assert result.summary.mitigated
    check(result)


def test_holds_of_an_auction_end_when_its_auctioneer_dies():
    called = about(run_scenario(ring(), until=12), "auction.called", "goal", "linkRateLimited")[0]
    system = System(ring(faults=[crash("south", called.time + 0.012)]))
    result = system.run(on_progress=lambda _: system.infrastructure.check())
    auction = called.data["auction"]
    bidders = {e.agent for e in of(result, "auction.bid", auction=auction)}
    expired = {e.data["pop"] for e in of(result, "lease.expired", what="hold")}
    assert bidders
    assert bidders == expired
    assert not of(result, "auction.awarded", auction=auction)
    assert result.summary.mitigated
    check(result)


def test_the_work_of_a_dead_winner_passes_to_the_next_best_bid():
    result = run_scenario(ring(pops=ROOMY, faults=[crash("north", 13)]))
    awards = about(result, "auction.awarded", "goal", "?anomalousUsage")
    assert [e.data["winner"] for e in awards[:1]] == ["north"]
    passed_on = awards[1]
    assert passed_on.data["after"] == "north"
    assert passed_on.data["reason"] == "is gone"
    assert passed_on.data["auction"] == awards[0].data["auction"]
    ranking = [row["agent"] for row in passed_on.data["ranking"]]
    assert passed_on.data["winner"] == ranking[1]
    assert result.summary.mitigated
    check(result)


def test_the_work_of_a_dead_winner_does_not_pass_to_the_dead():
    far = {"default": {"preferences": {"time": 0, "cost": 0, "decentralisation": 1}}}
    looks = {"analysis_s": 40, "classify_s": 4, "quiet_s": 10}
    faults = [crash("east", 13), crash("north", 26)]
    result = run_scenario(ring(pops=ROOMY, goals=far, parameters=looks, faults=faults))
    awards = about(result, "auction.awarded", "goal", "?anomalousUsage")[:2]
    ranking = [row["agent"] for row in awards[0].data["ranking"]]
    assert ranking == ["north", "east", "west", "south"]
    assert [e.data["winner"] for e in awards] == ["north", "west"]
    check(result)


# -- VNFs ---------------------------------------------------------------------------------


def kill(system, vnf, times):
    """Let the first ``times`` instances of ``vnf`` crash as soon as they run."""
    killed = []

    def watch(event):
        if event.kind == "instance.started" and event.data["vnf"] == vnf and len(killed) < times:
            killed.append(event.data["instance"])
            later = system.clock.now() + 0.5
            system.clock.call_at(
                later, lambda: system.infrastructure.kill_instance(event.data["instance"])
            )

    system.log.listen(watch)
    return killed


def test_a_failed_winner_gives_way_to_the_next_best_bids():
    system = System(ring(pops=ROOMY))
    killed = kill(system, "anomaly-detector", 2)
    result = system.run()
    assert len(killed) == 2
    awards = about(result, "auction.awarded", "goal", "?anomalousUsage")
    winners = [e.data["winner"] for e in awards]
    assert winners == [row["agent"] for row in awards[0].data["ranking"]][:3]
    assert [e.data.get("after") for e in awards] == [None, *winners[:2]]
    assert "ended: crashed" in awards[1].data["reason"]
    assert len({e.data["auction"] for e in awards}) == 1
    assert result.summary.mitigated
    check(result)


def test_when_all_bidders_failed_there_is_a_new_auction():
    system = System(ring(pops=ROOMY))
    killed = kill(system, "anomaly-detector", 4)
    result = system.run()
    assert len(killed) == 4
    rounds = about(result, "auction.called", "goal", "?anomalousUsage")
    assert [e.data["round"] for e in rounds] == [1, 2]
    failed = of(result, "auction.failed", auction=rounds[0].data["auction"])
    assert failed[0].data["reason"].endswith("nobody is left")
    assert of(result, "auction.awarded", auction=rounds[1].data["auction"])
    assert result.summary.mitigated
    check(result)


def test_a_goal_that_nobody_can_achieve_gives_way_to_its_fallback():
    small = [pop("north", 5, 10), pop("east", 2, 4), pop("south", 2, 4), pop("west", 2, 4)]
    result = run_scenario(ring(pops=small))
    failed = of(result, "auction.failed", goal="flowRecord(10.0.0.10, 0, 1)")
    assert failed
    split = about(result, "goal.adopted", "goal", "splitTraffic")[0]
    assert failed[0] in causes(result, split)
    (whole,) = of(result, "goal.ended", goal="flowRecord(10.0.0.10, 0, 1)")
    assert whole.data["outcome"] == "achieved"
    assert whole.data["reason"].startswith("by splitTrafficTowardsIp")
    parts = about(result, "analysis.done", "goal", "flowRecord")
    assert sorted(e.data["goal"] for e in parts) == [
        "flowRecord(10.0.0.10, 0, 2)",
        "flowRecord(10.0.0.10, 1, 2)",
    ]
    assert result.summary.mitigated
    check(result)


@pytest.mark.parametrize("end_s", sample([60, 200], 2))
def test_a_limit_that_nobody_could_confirm_does_not_stay_for_ever(end_s):
    away = {"at_s": 15.5, "kind": "repository-away", "for_s": 60}
    result = run_scenario(
        ring(
            traffic=[users(demand_mb_s=0.3), attack(10, end_s)],
            parameters={"analysis_s": 4, "classify_s": 4, "quiet_s": 10, "review_s": 80},
            faults=[away],
        )
    )
    assert of(result, "goal.ended", goal="flowRecord(10.0.0.10, 0, 1)", outcome="failed")
    (reviewed, *_) = [
        e
        for e in about(result, "goal.ended", "goal", "quiet(ipRateLimited")
        if e.data["outcome"] == "failed"
    ]
    assert reviewed.data["reason"] == "it holds traffic back for too long without a verdict"
    assert 90 < reviewed.time < 105
    looked_again = [e for e in about(result, "analysis.done", "goal", "flow") if e.time > 90]
    assert bool(looked_again) is (end_s > 100)
    assert min(arriving(result, "legitimate", 150, 240)) > 2.85
    assert max(arriving(result, "malicious", 150, 240)) < 0.01
    check(result)


@at_night
@pytest.mark.parametrize("away_s", sample([60, 6], 2))
def test_a_protective_goal_outlasts_the_absence_of_the_repository(away_s):
    away = {"at_s": 9, "kind": "repository-away", "for_s": away_s}
    images = {"edge-filter": {"image_mb": 520}}
    plan = ring(strategy="service", functions=images, faults=[away])
    # With so little disk no image is there before it is wanted.
    pops = tuple(replace(pop, disk_gb=0.51) for pop in plan.network.pops)
    result = run_scenario(replace(plan, network=replace(plan.network, pops=pops)))
    applied = [e.time for e in of(result, "measure.applied")]
    back = 9 + away_s
    assert back < min(applied) < back + 35, "a pause of at most 10 s, then download and look"
    calls = [e.time for e in about(result, "auction.called", "goal", "entryScreened")]
    assert len([when for when in calls if when < back]) < 2 * away_s + 20
    assert max(arriving(result, "malicious", back + 36, 130)) < 0.01
    assert result.summary.mitigated
    check(result)


# -- many at once -------------------------------------------------------------------------


@pytest.mark.parametrize("cores", sample([3, 8], 2))
def test_many_auctions_at_once_never_promise_anything_twice(cores):
    crowd = attack(count=40, at=["north", "east", "south", "west"], demand_mb_s=0.15)
    pops = [pop(name, cores, 2 * cores) for name in ("north", "east", "south", "west")]
    system = System(ring(pops=pops, traffic=[users(), crowd]))

    def watch(event):
        if event.kind.startswith(("auction.", "instance.", "lease.")):
            system.infrastructure.check()

    system.log.listen(watch)
    result = system.run()
    blocks = about(result, "auction.called", "goal", "flowRateLimited")
    assert len({e.data["goal"] for e in blocks}) == 40
    applied = about(result, "measure.applied", "effect", "flowRateLimited")
    assert len({e.data["effect"] for e in applied}) == 40
    assert result.summary.mitigated
    assert result.summary.returned
    check(result)
