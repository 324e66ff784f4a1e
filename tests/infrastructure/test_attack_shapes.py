"""Attacks that grow, pulse, adapt and spread over hosts, and runs that differ by their seed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from small_network import SERVER, World, drop, limit, line, users

from phalanx.domain.actions import Lift
from phalanx.domain.traffic import STEADY, UDP_FLOOD, Shape, Source, SourcePlace
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.scenario import Scenario


def flood(
    shape: Shape = STEADY, *, adapt: str = "", places: tuple[SourcePlace, ...] = ()
) -> Source:
    return Source(
        "bot", "attack", "pop1", "10.2.0.1", SERVER, 80, UDP_FLOOD, 2.0, 10.0, 70.0,
        shape=shape, adapt=adapt, places=places,  # type: ignore[arg-type]
    )  # fmt: skip


def served(world: World, *times: float) -> list[float]:
    rates = []
    for time in times:
        world.run(time)
        rates.append(world.rate())
    return rates


def test_a_ramp_grows_to_the_full_demand() -> None:
    rates = served(World(line(), [flood(Shape(ramp_s=20.0))]), 9.0, 16.0, 21.0, 29.0, 40.0, 72.0)
    assert rates[0] == rates[-1] == 0.0
    assert rates[1:5] == sorted(rates[1:5])
    assert rates[2] == pytest.approx(1.1, abs=0.1)
    assert rates[4] == pytest.approx(2.0)


def test_pulses_come_and_go_and_the_log_tells() -> None:
    world = World(line(), [flood(Shape(on_s=10.0, off_s=15.0))])
    rates = served(world, 15.0, 25.0, 34.0, 40.0, 50.0, 65.0, 75.0)
    assert rates == pytest.approx([2.0, 0.0, 0.0, 2.0, 0.0, 2.0, 0.0])
    changes = [(e.time, e.data["active"]) for e in world.of_kind("traffic.changed")]
    assert changes == [(10, True), (20, False), (35, True), (45, False), (60, True), (70, False)]


def test_a_ramp_of_pulses_is_as_strong_as_the_ramp() -> None:
    levels = list(Shape(ramp_s=4.0, on_s=2.0, off_s=2.0).levels(0.0, 9.0))
    assert levels == [
        (0.0, 0.25), (1.0, 0.5), (2.0, 0.0), (3.0, 0.0), (4.0, 1.0), (6.0, 0.0), (8.0, 1.0),
        (9.0, 0.0),
    ]  # fmt: skip


def test_an_attacker_that_is_limited_goes_quiet_and_returns() -> None:
    world = World(line(), [flood(adapt="quiet")])
    world.deploy("pop5")
    world.run(15.0)
    world.enforce("limit", limit(0.2, target=SERVER))
    assert served(world, 17.0, 25.0, 45.0) == pytest.approx([0.2, 0.0, 0.0])
    world.do("pop5", Lift("limit"))
    assert served(world, 46.0, 55.0) == pytest.approx([0.0, 2.0])


def test_an_attacker_that_is_blocked_moves_on_until_it_has_no_place_left() -> None:
    places = (SourcePlace("pop2", "10.2.0.2", 81), SourcePlace("pop3", "10.2.0.3", 82))
    world = World(line(), [flood(adapt="move", places=places)])
    world.deploy("pop5")
    world.run(15.0)
    world.enforce("first", drop("10.2.0.1", SERVER))
    assert served(world, 17.0, 22.0) == pytest.approx([0.0, 2.0])
    assert world.rate("pop1>pop2") == 0.0
    world.enforce("second", drop("10.2.0.2", SERVER))
    assert served(world, 24.0, 30.0) == pytest.approx([0.0, 2.0])
    assert world.rate("pop2>pop3") == 0.0
    world.enforce("third", drop("10.2.0.3", SERVER))
    assert served(world, 35.0, 60.0) == pytest.approx([0.0, 0.0])


def test_a_crowded_link_alone_moves_nobody() -> None:
    source = replace(
        flood(adapt="move", places=(SourcePlace("pop2", "10.2.0.2", 81),)), demand_mb_s=50.0
    )
    world = World(line(), [source, *users()])
    world.run(60.0)
    assert world.rate("pop1>pop2") == pytest.approx(10.0)


PLAN = """
name: small
duration_s: 60
network:
  repository: a
  pops: [{name: a, cores: 4, memory_gb: 4, disk_gb: 40}, {name: b, cores: 4, memory_gb: 4, disk_gb: 40}]
  links: [{between: [a, b], bandwidth_mb_s: 10, latency_ms: 5}]
hosts:
  - {name: one, at: b, address: 10.9.0.1, bandwidth_mb_s: 6}
  - {name: two, at: b, address: 10.9.0.2, bandwidth_mb_s: 6}
functions: {link-monitor: {}}
traffic:
  - {name: users, profile: http, count: 20, at: [a], target: one, port: 80, demand_mb_s: 0.02,
     spread_s: 5, JITTER}
  - {name: bots, profile: udp-flood, count: 4, at: [a, b], target: [one, two], port: [80, 81],
     demand_mb_s: 1, adapt: move}
"""  # noqa: E501


def plan(jitter: str = "jitter: 0.3") -> Scenario:
    return parse_scenario(PLAN.replace("JITTER", jitter), "plan")


def test_a_carpet_hits_every_host_from_every_source() -> None:
    bots = [s for s in plan().to_sources() if s.group == "bots"]
    assert len(bots) == 8
    assert {(s.address, s.target) for s in bots} == {
        (f"10.2.0.{i}", f"10.9.0.{j}") for i in range(1, 5) for j in (1, 2)
    }
    assert sum(s.demand_mb_s for s in bots) == pytest.approx(4.0)
    world = World(plan().to_network(), bots)
    world.run(20.0)
    links = world.of_kind("network.sample")[-1].data["links"]
    assert {link: links[link]["mb_s"] for link in ("b>one", "b>two")} == {"b>one": 2, "b>two": 2}


def test_places_to_move_to_are_nobody_elses() -> None:
    bots = [s for s in plan().to_sources() if s.group == "bots" and s.target == "10.9.0.1"]
    taken = [place.address for s in bots for place in s.places]
    assert len(set(taken) | {s.address for s in bots}) == len(taken) + len(bots) == 4 * 17
    assert (bots[0].at, bots[0].places[0].at, bots[0].places[0].port) == ("a", "b", 81)


def test_jitter_makes_seeds_differ_and_none_changes_nothing() -> None:
    def demands(scenario: Scenario, seed: int) -> list[float]:
        return [s.demand_mb_s for s in scenario.to_sources(seed) if s.group == "users"]

    assert demands(plan(), 1) == demands(plan(), 1) != demands(plan(), 2)
    assert all(0.014 <= demand <= 0.026 for demand in demands(plan(), 1))
    assert len(set(demands(plan(), 1))) == 20
    assert demands(plan("jitter: 0"), 1) == [0.02] * 20
    starts = [[s.start_s for s in p.to_sources(1)] for p in (plan(), plan("jitter: 0"))]
    assert starts[0] == starts[1]
