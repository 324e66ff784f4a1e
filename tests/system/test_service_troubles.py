"""What troubles a service is found and relieved, judged by what users get with it and without."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.checking import check
from phalanx.domain.messages import AttackReport, Performative
from phalanx.runtime.loading import load_scenario, offences
from phalanx.runtime.scenario import FaultSpec, HostLimitsSpec, Scenario, ShapeSpec, TrafficSpec
from phalanx.runtime.system import RunResult, System, run_scenario
from tests.nightly import NIGHTLY, at_night, sample
from tests.system.conftest import SCENARIOS
from tests.system.rings import SERVER, about, causes, of

CROWD, ATTACK, DETOUR, NEAR = "autoscale-crowd", "autoscale-attack", "detour", "place-near"
MEMORY, LIMITS, UP = "memory-restart", "restart-limits", "scale-up"
SECURED = "secured-detour"
AT_NIGHT = (
    (DETOUR, 47, 120, 0.97, 0.75),
    (NEAR, 49, 120, 0.97, 0.75),
    (CROWD, 45, 130, 0.97, 0.75),
    (MEMORY, 5, 240, 0.95, 0.35),
    (SECURED, 47, 120, 0.97, 0.75),
    (UP, 45, 130, 0.97, 0.75),
    (LIMITS, 35, 120, 0.93, 0.05),
)


def plan(name: str, **changes: Any) -> Scenario:
    return replace(load_scenario(SCENARIOS / f"{name}.yaml"), **changes)


@cache
def shipped(name: str) -> RunResult:
    return run_scenario(plan(name))


def unwatched(scenario: Scenario) -> Scenario:
    monitors = (replace(each, service=False) for each in scenario.monitors)
    return replace(scenario, monitors=tuple(monitors))


def served(result: RunResult, start: float, end: float) -> float:
    """Return the share of what users wanted that they got."""
    seen = [e.data["hosts"]["shop"] for e in of(result, "network.sample") if start < e.time <= end]
    return sum(s["legitimate_mb_s"] for s in seen) / sum(s["wanted_mb_s"] for s in seen)


def group(name: str, start_s: float, **changes: Any) -> TrafficSpec:
    given = {"profile": "http", "count": 8, "at": ("east", "west"), "demand_mb_s": 0.018}
    more: dict[str, Any] = given | changes
    return TrafficSpec(name=name, target="shop", port=443, start_s=start_s, **more)


def replicas(result: RunResult) -> list[Any]:
    return about(result, "measure.applied", "effect", "replicated")


def blocked(result: RunResult) -> set[str]:
    filters = about(result, "measure.applied", "effect", "attackFiltered")
    return {source for event in filters for source in event.data["sources"]}


@at_night
@pytest.mark.parametrize(
    ("name", "since", "until", "least", "most"),
    [
        (ATTACK, 45, 130, 0.97, 0.05),
        *(AT_NIGHT if NIGHTLY else ()),
    ],
)
def test_users_get_much_more_than_without(
    name: str, since: float, until: float, least: float, most: float
) -> None:
    result = shipped(name)
    assert served(result, since, until) >= least
    # Who asks for far too much is found without metrics as well.
    without = plan(name, monitors=()) if name == ATTACK else unwatched(plan(name))
    assert served(run_scenario(without, until=until), since, until) <= most
    assert result.summary.returned is (name != LIMITS), "that leak goes on, and its replica"
    assert check(result.events) == []


def test_a_crowd_gets_a_replica_from_who_has_room_and_gives_it_back() -> None:
    result = shipped(CROWD)
    (applied,) = replicas(result)
    assert 40 < applied.time < 50
    assert len(of(result, "auction.awarded")[0].data["ranking"]) == 4
    led = {event.kind for event in causes(result, applied)}
    assert led >= {"trouble.diagnosed", "goal.adopted", "auction.awarded", "run.started"}
    (lifted,) = about(result, "measure.lifted", "effect", "replicated")
    assert 155 < lifted.time < 170
    assert not of(result, "scaling.refused")
    assert not blocked(result)


def test_a_replica_for_attackers_is_refused_and_they_are_filtered_instead() -> None:
    result = shipped(ATTACK)
    (refused, *_) = of(result, "scaling.refused")
    attackers = {f"10.2.0.{i}" for i in range(1, 9)}
    assert refused.data["kinds"] == ["http flood"]
    assert set(refused.data["sources"]) == attackers
    assert refused.data["share"] > 0.8
    assert not replicas(result)
    assert not [e for e in of(result, "instance.started") if e.data["vnf"] == "service-replica"]
    assert blocked(result) == attackers
    first = about(result, "measure.applied", "effect", "attackFiltered")[0]
    assert refused.id in {event.id for event in causes(result, first)}
    assert "it is not for users" in about(result, "plan.ended", "plan", "scale")[0].data["reason"]
    assert result.summary.response.users_limited == 0
    assert result.summary.mitigated


@at_night
def test_of_a_crowd_and_an_attack_at_once_each_gets_what_it_should() -> None:
    both = plan(CROWD)
    flood = plan(ATTACK).traffic[1]
    result = run_scenario(replace(both, traffic=(*both.traffic, flood)), until=130)
    assert of(result, "scaling.refused")
    assert blocked(result) == {f"10.3.0.{i}" for i in range(1, 9)}
    assert replicas(result)
    assert replicas(result)[0].time > about(result, "measure.applied", "effect", "attackF")[0].time
    assert served(result, 60, 130) > 0.95


def test_more_attackers_than_users_are_told_from_users() -> None:
    base = plan(ATTACK)
    swarm = group("swarm", 40, count=100, profile="http-flood", demand_mb_s=0.25)
    result = run_scenario(replace(base, traffic=(base.traffic[0], swarm)), until=80)
    assert blocked(result) == {f"10.2.0.{i}" for i in range(1, 101)}
    assert not replicas(result)
    assert served(result, 50, 80) > 0.95


def test_slow_connections_get_no_replica_either() -> None:
    base = plan(ATTACK)
    slow = group("slow", 40, profile="slow-http", demand_mb_s=0.004)
    late = {"service_look_s": 20.0}  # else the service monitor has them filtered before
    changed = replace(base, traffic=(base.traffic[0], slow), parameters=late)
    result = run_scenario(changed, until=80)
    assert of(result, "scaling.refused")[0].data["kinds"] == ["slow connections"]
    assert not replicas(result)
    assert served(result, 55, 80) > 0.95


def test_a_proxy_that_was_known_before_a_crowd_came_is_no_attacker() -> None:
    base = plan(CROWD)
    proxy = group("proxy", 0, count=1, at=("east",), demand_mb_s=0.4)
    result = run_scenario(
        replace(base, hosts=(_host(base, 400),), traffic=(*base.traffic, proxy)), until=130
    )
    assert not blocked(result)
    assert not of(result, "scaling.refused")
    assert replicas(result)
    assert served(result, 60, 130) > 0.95


def scaled_up(result: RunResult, kind: str = "measure.applied") -> list[Any]:
    return about(result, kind, "effect", "scaledUp")


def test_a_service_is_enlarged_where_it_runs_before_it_gets_a_replica() -> None:
    result = run_scenario(plan(UP), until=175)
    (up,), (out,) = scaled_up(result), replicas(result)
    assert (up.data["pop"], up.data["target"], up.data["rate_mb_s"]) == ("south", SERVER, 2.0)
    assert up.time < 45
    assert out.time > 80
    (full,) = [e for e in of(result, "auction.failed") if "scaledUp" in e.data["goal"]]
    assert full.data["refusals"]["south"] == "needs 1 core, 0 free"
    assert served(result, up.time + 1, 80) == pytest.approx(1.0, abs=0.01)
    (less,), (gone,) = (
        scaled_up(result, "measure.lifted"),
        about(result, "measure.lifted", "effect", "replicated"),
    )
    assert 155 < gone.time < less.time < 170, "the replica is given back first"
    assert not of(result, "scaling.refused")


@at_night
def test_what_a_service_soon_needs_again_it_keeps_twice_as_long() -> None:
    base = plan(UP)
    (shop,) = base.hosts
    host = replace(shop, limits=replace(shop.limits, requests_s=120.0))
    result = run_scenario(replace(base, hosts=(host,), traffic=base.traffic[:1], duration_s=260))
    added = [e.time for e in scaled_up(result)]
    given_up = [e.time for e in scaled_up(result, "measure.lifted")]
    kept = [less - up for up, less in zip(added, given_up, strict=False)]
    assert len(added) == 4
    assert kept == pytest.approx([30, 60, 120], abs=5)
    assert max(up - less for up, less in zip(added[1:], given_up, strict=True)) < 6


def test_a_service_is_not_enlarged_for_attackers() -> None:
    attacked = replace(plan(ATTACK), functions=plan(UP).functions)
    result = run_scenario(attacked, until=80)
    assert of(result, "scaling.refused")
    assert not scaled_up(result)
    assert not [e for e in of(result, "instance.started") if e.data["vnf"] == "service-scaler"]
    assert blocked(result) == {f"10.2.0.{i}" for i in range(1, 9)}


@at_night
def test_what_a_crashed_agent_gave_to_a_service_ends_and_another_agent_has_it_replicated() -> None:
    base = plan(UP)
    crash = FaultSpec(60, "crash", agent="south")
    result = run_scenario(replace(base, traffic=base.traffic[:2], faults=(crash,)), until=120)
    (lifted,) = scaled_up(result, "measure.lifted")
    assert lifted.data["reason"].endswith("lease ran out")
    (applied,) = replicas(result)
    assert applied.time > lifted.time > 60
    assert served(result, 110, 120) > 0.95


def test_a_flood_that_was_served_does_not_change_what_is_usual() -> None:
    result = run_scenario(plan(ATTACK), until=100)
    heard = [e for e in result.events if e.data.get("belief") == f"serviceBreached({SERVER})"]
    assert not any(e.data["value"] for e in heard[-1:]), "users have what they want from 48 s on"


def _host(base: Scenario, requests_s: float) -> Any:
    return replace(base.hosts[0], limits=HostLimitsSpec(requests_s=requests_s))


@at_night
def test_growth_gets_its_replica_before_it_is_too_much() -> None:
    base = plan(CROWD)
    growing = group("growing", 40, count=80, end_s=160, shape=ShapeSpec(ramp_s=60))
    result = run_scenario(replace(base, traffic=(base.traffic[0], growing)), until=130)
    assert of(result, "trouble.diagnosed")[0].data["trouble"] == "load step"
    assert replicas(result)[0].time < 80, "at 95 s it would be too much"
    samples = [e.data["hosts"]["shop"] for e in of(result, "network.sample") if e.time < 130]
    assert min(s["legitimate_mb_s"] / s["wanted_mb_s"] for s in samples[5:]) > 0.9


def test_a_second_replica_comes_where_one_does_not_suffice() -> None:
    base = plan(CROWD)
    result = run_scenario(replace(base, hosts=(_host(base, 150),)), until=130)  # of 432
    assert [e.data["effect"] for e in replicas(result)] == [
        f"replicated({SERVER}, 1, 2)",
        f"replicated({SERVER}, 2, 4)",
    ]
    assert len({e.data["instance"] for e in replicas(result)}) == 2
    assert served(result, 80, 130) > 0.95


@at_night
def test_where_no_agent_has_room_the_log_says_so_and_nothing_else_happens() -> None:
    base = plan(CROWD)
    pops = tuple(replace(pop, cores=1.0, memory_gb=1.0, disk_gb=1.5) for pop in base.network.pops)
    full = replace(base.network, pops=pops)
    result = run_scenario(replace(base, network=full, duration_s=130), until=130)
    assert not replicas(result)
    failed = about(result, "goal.ended", "goal", "¬serviceTrouble")
    assert {e.data["outcome"] for e in failed} <= {"failed", "dropped"}
    assert "replicated" in failed[0].data["reason"]
    assert not blocked(result)


@at_night
def test_a_replica_whose_agent_dies_is_made_again() -> None:
    holder = replicas(shipped(CROWD))[0].data["pop"]
    crash = FaultSpec(60, "crash", agent=holder)
    result = run_scenario(plan(CROWD, faults=(crash,)), until=130)
    assert {e.data["pop"] for e in replicas(result)} > {holder}
    assert served(result, 100, 130) > 0.95


WATCHER_AWAY = (
    (CROWD, FaultSpec(60, "crash", agent="south")),
    (CROWD, FaultSpec(44, "crash", agent="south", for_s=20, memory=True)),
    (CROWD, FaultSpec(60, "crash", agent="south", for_s=20)),
    (DETOUR, FaultSpec(95, "crash", agent="south", for_s=3)),
    (DETOUR, FaultSpec(60, "partition", groups=(("north",), ("east", "south", "west")), for_s=30)),
)


@at_night
@pytest.mark.parametrize(("name", "fault"), sample(WATCHER_AWAY, 5))
def test_what_was_asked_for_is_not_there_for_ever_when_who_asked_was_away(
    name: str, fault: FaultSpec
) -> None:
    base = plan(name)
    result = run_scenario(replace(base, duration_s=320, faults=(*base.faults, fault)))
    kinds = "replicated", "scaledUp", "rerouted"
    made = [e for e in of(result, "measure.applied") if e.data["effect"].startswith(kinds)]
    ended = [e.data["measure"] for e in of(result, "measure.lifted")]
    assert made
    assert {e.data["measure"] for e in made} <= set(ended)


@at_night
def test_a_gateway_that_is_no_faster_is_given_up_for_the_next() -> None:
    result = shipped(DETOUR)
    ways = about(result, "measure.applied", "effect", "rerouted")
    assert [e.data["pop"] for e in ways[:2]] == ["west", "north"]
    refused = [e for e in of(result, "contract.ended") if not e.data["fulfilled"]]
    assert "over west it takes 308 ms, 308 ms without" in refused[0].data["reason"]
    lifted = about(result, "measure.lifted", "effect", "rerouted")
    assert len(lifted) == len(ways), "the direct way is tried again"


def exposed(result: RunResult) -> float:
    """Return the most that passed links in the clear that are not trusted, in MB/s."""
    samples = [e.data["hosts"]["shop"] for e in of(result, "network.sample")]
    return max(sample["exposed_mb_s"] for sample in samples)


def test_what_is_led_around_over_links_of_others_is_encrypted_there() -> None:
    base = plan(SECURED)
    secured = run_scenario(base, until=70)
    applied = about(secured, "measure.applied", "effect", "rerouted")
    assert {e.data["encrypted"] for e in applied} == {1.0}
    assert exposed(secured) == 0.0
    plain = {name: goal for name, goal in base.goals.items() if name != "Rerouted"}
    assert exposed(run_scenario(replace(base, goals=plain), until=70)) > 0.9


def distrusted(scenario: Scenario, *ends: str) -> Scenario:
    links = scenario.network.links
    changed = tuple(replace(k, trusted=k.trusted and {*k.between} != {*ends}) for k in links)
    return replace(scenario, network=replace(scenario.network, links=changed))


def test_a_gateway_behind_which_others_could_read_is_refused_with_the_reason() -> None:
    base = plan(DETOUR, goals=plan(SECURED).goals)
    result = run_scenario(distrusted(base, "north", "east"), until=80)
    ended = [e.data for e in of(result, "contract.ended") if not e.data["fulfilled"]]
    reasons = {data["reason"] for data in ended}
    assert "it would pass north>east in the clear, and may not" in reasons
    assert exposed(result) == 0.0
    near = run_scenario(
        replace(distrusted(base, "north", "east"), functions=plan(NEAR).functions), until=80
    )
    assert about(near, "measure.applied", "effect", "placedNear"), "another plan is there"


def test_what_would_become_readable_later_takes_the_direct_way_instead() -> None:
    base = plan(SECURED)
    cut = FaultSpec(60, "link-down", link=("north", "east"))
    result = run_scenario(replace(base, faults=(*base.faults, cut)), until=100)
    assert exposed(result) == 0.0, "from north it would go back over west, and be read there"
    assert served(result, 62, 100) < 0.9, "which is slow, but nobody's to read"


@at_night
def test_a_replica_is_placed_where_the_slow_way_begins() -> None:
    result = shipped(NEAR)
    near = about(result, "measure.applied", "effect", "placedNear")
    assert {(e.data["pop"], e.data["entry"]) for e in near} == {("west", "west")}
    assert len(about(result, "measure.lifted", "effect", "placedNear")) == len(near)


@at_night
def test_a_service_is_started_anew_before_its_memory_is_used_up() -> None:
    result = shipped(MEMORY)
    restarts = of(result, "host.restarted")
    assert [e.data for e in restarts] == [{"host": "shop", "pop": "south"}] * 3
    assert "trouble.diagnosed" in {event.kind for event in causes(result, restarts[0])}
    relieved = about(result, "goal.ended", "goal", "¬serviceTrouble")
    assert [e.data["outcome"] for e in relieved] == ["achieved"] * 3
    samples = [e.data["hosts"]["shop"] for e in of(result, "network.sample")]
    assert sum(s["legitimate_mb_s"] == 0 for s in samples) <= 2 * len(restarts)


def leaking(**limits: float) -> Scenario:
    """Return ``MEMORY`` with other leaks, and a replica in the repository."""
    base, functions = plan(MEMORY), plan(CROWD).functions
    changed = HostLimitsSpec(**{"requests_s": 300.0, **limits})
    return replace(base, hosts=(replace(base.hosts[0], limits=changed),), functions=functions)


def most_restarts(result: RunResult, span_s: float) -> int:
    times = [event.time for event in of(result, "host.restarted")]
    return max((sum(a <= b < a + span_s for b in times) for a in times), default=0)


@at_night
def test_a_leak_faster_than_restarts_ends_in_a_replica_and_in_no_loop() -> None:
    result = run_scenario(leaking(leak_share_s=0.15), until=145)
    assert served(result, 35, 145) > 0.97
    assert most_restarts(result, 119) == 3
    reasons = [event.data.get("reason", "") for event in of(result, "host.restarted")]
    assert "it takes" in reasons[1], "its PoP saw the limit at once"
    assert [e.data["effect"] for e in replicas(result)] == [f"replicated({SERVER}, 0, 1)"]
    assert not of(result, "trouble.unrelieved")


@at_night
def test_a_replica_answers_before_the_service_ends_once_it_was_started_anew_often_enough() -> None:
    result = run_scenario(plan(LIMITS), until=90)
    (replica,) = replicas(result)
    samples = [e for e in of(result, "network.sample") if e.time > replica.time]
    assert min(e.data["hosts"]["shop"]["legitimate_mb_s"] for e in samples) > 0.6
    assert len([e for e in of(result, "host.restarted") if e.time < replica.time]) == 2


@at_night
def test_where_nothing_helps_against_a_leak_that_is_said_once() -> None:
    alone = plan(LIMITS, functions=plan(MEMORY).functions)
    result = run_scenario(alone, until=110)
    (told,) = of(result, "trouble.unrelieved")
    assert told.data["trouble"] == "high memory"
    assert "replicated" in told.data["reason"]
    assert most_restarts(result, 119) == 2


@at_night
def test_attackers_who_make_a_service_leak_are_filtered_and_get_no_replica() -> None:
    base = leaking(leak_share_request=0.0005, requests_s=3000.0)
    flood = group("leakers", 20, at=("north",), profile="http-flood", demand_mb_s=0.5)
    result = run_scenario(replace(base, traffic=(*base.traffic, flood)), until=120)
    assert blocked(result) == {f"10.2.0.{i}" for i in range(1, 9)}
    filtered = about(result, "measure.applied", "effect", "attackFiltered")[0].time
    assert all(event.time > filtered for event in replicas(result)), "what comes is for users"
    assert most_restarts(result, 119) <= 3
    assert served(result, 60, 120) > 0.9


@pytest.mark.skipif(not NIGHTLY, reason="it takes two seconds: make nightly")
def test_attackers_who_make_it_leak_as_slowly_as_users_cause_no_loop_either() -> None:
    base = leaking(leak_share_request=0.001, requests_s=3000.0)
    result = run_scenario(
        replace(base, traffic=(*base.traffic, group("leakers", 20, at=("north",)))), until=300
    )
    assert most_restarts(result, 119) == 3
    assert served(result, 60, 150) > 0.9


def test_only_a_service_that_tells_metrics_is_watched() -> None:
    base = plan(CROWD)
    silent = replace(base, hosts=(replace(base.hosts[0], limits=None),))
    assert [(field, "requests_s" in why) for field, why in offences(silent)] == [
        ("monitors[0].service", True)
    ]


def test_a_false_report_of_a_request_flood_blocks_no_user() -> None:
    base = plan(CROWD)
    system = System(unwatched(replace(base, traffic=base.traffic[:1], duration_s=40)))
    report = AttackReport(SERVER, ("http flood",), tuple(f"10.1.0.{i}" for i in range(1, 41)))
    liar = system.agents["south"]

    def lie() -> None:
        liar.agent.cause = system.cause
        for name in system.agents:
            liar.agent.tell(Performative.INFORM, name, "attack", report)
        liar.node.carry_out(liar.agent.settle())

    system.clock.call_at(20.0, lie)
    result = system.run()
    assert of(result, "analysis.done")
    assert not of(result, "measure.applied")


@at_night
def test_the_same_run_gives_the_same_log() -> None:
    first, second = shipped(ATTACK), run_scenario(plan(ATTACK))
    assert first.events == second.events
