from __future__ import annotations

import msgspec
import pytest
from small_network import (
    SERVER,
    SMALL,
    TOTAL,
    VNFD,
    World,
    attackers,
    drop,
    limit,
    line,
    users,
)

from phalanx.clock.virtual import VirtualClock
from phalanx.domain.actions import (
    Done,
    Failed,
    Hold,
    Lift,
    LinkSample,
    Observe,
    ReadLink,
    Release,
    SiteState,
    Stop,
)
from phalanx.domain.events import Recorder
from phalanx.domain.network import Host, Link, Network
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.traffic import SYN_FLOOD, Source
from phalanx.infrastructure.reservations.instances import MOST_COUNTED
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.reporting.event_text import KINDS


def flooded(loss: float = 0.0) -> World:
    """Run the network of the acceptance experiment until the flood is there."""
    world = World(line(loss=loss), [*users(), *attackers(20.0, 300.0)])
    world.deploy("pop5")
    world.run(20.0)
    return world


@pytest.mark.parametrize("loss", [0.0, 0.025])
def test_users_starve_under_a_flood_and_recover_behind_blocks(loss: float) -> None:
    world = flooded(loss)
    assert world.server()["legitimate_mb_s"] == pytest.approx(1.0, rel=0.01)
    assert world.server()["wanted_mb_s"] == 1.0
    world.run(60.0)
    assert world.rate() == pytest.approx(6.0)
    assert world.server()["legitimate_mb_s"] < 0.75
    world.enforce("limit", limit(4.0, link="pop6>server"))
    world.run(90.0)
    assert world.rate() == pytest.approx(4.0 * (1 - loss), rel=1e-3)
    assert world.server()["legitimate_mb_s"] < 0.2
    for i in range(8):
        world.enforce(f"block{i}", drop(f"10.2.0.{i}", SERVER))
    world.run(120.0)
    assert world.server()["legitimate_mb_s"] >= 0.99
    assert world.server()["malicious_mb_s"] == 0.0


def test_what_measures_hold_and_pass_is_in_the_log() -> None:
    world = flooded()
    world.run(60.0)
    for i in range(8):
        world.enforce(f"block{i}", drop(f"10.2.0.{i}", SERVER))
    world.enforce("idle", drop("10.9.9.9", SERVER))
    world.run(90.0)
    assert world.do("pop5", Lift("block0")) == Done(world.events[-1].id)
    world.enforce("steered", TrafficRule(TrafficMatch(target=SERVER), TrafficVerdict.STEER))
    world.run(110.0)
    counted = world.of_kind("measures.counted")
    assert {event.cause for event in counted} == {"run-1"}
    totals: dict[str, dict[str, float]] = {}
    for event in counted:
        for name, figures in event.data["measures"].items():
            before = totals.get(name, {"passed_mb": 0.0, "held_mb": 0.0})
            assert all(figures[key] >= before[key] for key in before)
            totals[name] = figures
    assert "idle" not in totals
    # Each attacker sends 0.75 MB/s; the first of a block's time is what takes effect in a tick.
    assert totals["block0"]["held_mb"] == pytest.approx(0.75 * 30, rel=0.01)
    assert totals["block1"]["held_mb"] == pytest.approx(0.75 * 50, rel=0.01)
    # One attacker is free again beside the users, 1 MB/s.
    assert totals["steered"] == pytest.approx(
        {"passed_mb": (1.0 + 0.75) * 20, "held_mb": 0.0}, rel=0.02
    )


def test_only_the_busiest_measures_are_told_of_and_the_others_later() -> None:
    sources = [
        Source(f"bot{i}", "attack", "pop1", f"10.2.1.{i}", SERVER, 8000, SYN_FLOOD, 0.01 + i / 1e5)
        for i in range(MOST_COUNTED + 8)
    ]
    world = World(line(mb_s=100.0), sources)
    world.deploy("pop5")
    world.run(1.0)
    for i in range(len(sources)):
        world.enforce(f"block{i}", drop(f"10.2.1.{i}", SERVER))
    world.run(9.0)
    (counted,) = world.of_kind("measures.counted")
    told = counted.data["measures"]
    assert sorted(told) == sorted(f"block{i}" for i in range(8, len(sources)))
    world.run(10.0)
    assert {f"block{i}" for i in range(8)} <= world.of_kind("measures.counted")[1].data[
        "measures"
    ].keys()
    world.net.shutdown()
    world.run(60.0)
    assert len(world.of_kind("measures.counted")) == 2


def test_samples_tell_the_truth_and_name_busy_links() -> None:
    world = flooded()
    world.run(40.0)
    figures = world.server()
    assert figures["legitimate_mb_s"] + figures["malicious_mb_s"] == pytest.approx(6.0)
    links = world.of_kind("network.sample")[-1].data["links"]
    assert list(links) == sorted(links)
    assert "pop6>pop5" not in links
    assert links["pop6>server"] == {"mb_s": 6.0, "bandwidth_mb_s": 6.0, "queue_ms": 200.0}
    assert [event.time for event in world.of_kind("network.sample")] == list(range(1, 41))


def test_watched_links_are_shown_when_they_are_idle() -> None:
    world = World(line(), watched=["pop6>server"])
    world.run(1.0)
    (sample,) = world.of_kind("network.sample")
    assert sample.data["links"]["pop6>server"]["mb_s"] == 0.0


def test_groups_start_and_stop_once_an_instant() -> None:
    world = flooded()
    world.run(301.0)
    changes = world.of_kind("traffic.changed")
    assert [(e.time, e.data["group"], e.data["count"], e.data["active"]) for e in changes] == [
        (0.0, "users", 50, True),
        (20.0, "attack", 8, True),
        (300.0, "attack", 0, False),
    ]
    assert changes[1].data["demand_mb_s"] == 6.0
    assert {event.cause for event in changes} == {"run-1"}


def test_counters_average_over_the_time_asked_for() -> None:
    world = World(line(), attackers(10.0))
    world.run(12.0)
    assert world.rate("pop4>pop5", 1.0) == pytest.approx(6.0)
    assert world.rate("pop4>pop5", 4.0) == pytest.approx(3.0, rel=0.05)
    assert world.rate("pop4>pop5", 30.0) == pytest.approx(1.0, rel=0.05)
    assert world.do("pop6", ReadLink("pop4>pop5")) == LinkSample(
        "pop4>pop5", pytest.approx(6.0), 10.0
    )
    assert world.do("pop6", ReadLink("pop4>pop6")) == Failed("no link pop4>pop6")
    assert isinstance(world.do("pop6", ReadLink("pop4>pop5", 31.0)), Failed)


def test_changes_of_one_instant_are_one_percept() -> None:
    world = World(line())
    percepts = world.attach("pop5")
    others = world.attach("pop1")
    assert percepts == []
    world.run(0.0)
    (first,) = percepts
    assert isinstance(first, SiteState)
    assert (first.total, first.free) == (TOTAL, TOTAL)
    assert [link.to for link in first.links] == ["pop4", "pop6"]
    for name in ("a", "b"):
        world.net.install("pop5", name, VNFD, units=1, ttl_s=9.0, cause="run-1")
    world.run(1.0)
    assert len(percepts) == 2
    assert isinstance(percepts[1], SiteState)
    assert percepts[1].free == TOTAL - VNFD.requires - VNFD.requires
    world.do("pop5", Hold("c", "g", SMALL, (), 0.0, 9.0))
    world.do("pop5", Release("c"))
    world.run(2.0)
    assert len(percepts) == 2  # who holds something knows it
    world.net.detach("pop5", "pop5")
    world.do("pop5", Stop("a"))
    world.run(3.0)
    assert (len(percepts), len(others)) == (2, 1)


def test_every_event_is_known_and_has_a_cause() -> None:
    world = flooded()
    world.deploy("pop2", "far", path=("pop2", "pop3"), mb_s=1.0, vnfd=VNFD, ttl_s=200.0)
    world.run(100.0)
    world.ask("pop2", Observe("far", 5.0, ip=SERVER))
    world.enforce("limit", limit(4.0, link="pop6>server"))
    world.run(400.0)
    kinds = {event.kind for event in world.events}
    assert kinds <= set(KINDS)
    ids = {event.id for event in world.events} | {"run-1", "cause"}
    assert all(event.cause in ids and event.agent == "network" for event in world.events)
    assert len(ids) == len(world.events) + 2


@pytest.mark.parametrize(
    ("network", "sources"),
    [
        (msgspec.structs.replace(line(), repository="pop9"), []),
        (msgspec.structs.replace(line(), links=(*line().links, Link("pop1", "pop9", 1, 1))), []),
        (msgspec.structs.replace(line(), links=(*line().links, Link("pop2", "pop1", 1, 1))), []),
        (msgspec.structs.replace(line(), pops=(*line().pops, line().pops[0])), []),
        (msgspec.structs.replace(line(), hosts=(*line().hosts, line().hosts[0])), []),
        (msgspec.structs.replace(line(), hosts=(Host("h", "pop9", "a", 1.0),)), []),
        (line(), [msgspec.structs.replace(users()[0], target="10.9.9.9")]),
        (line(), [msgspec.structs.replace(users()[0], at="pop9")]),
    ],
)
def test_networks_that_do_not_fit_together_are_refused(
    network: Network, sources: list[Source]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        World(network, sources)


def test_figures_that_are_impossible_are_refused() -> None:
    clock = VirtualClock()
    recorder = Recorder("network", lambda _: None, clock.now)
    for tick_s, sample_s, watched in ((0.0, 1.0, []), (0.1, -1.0, []), (0.1, 1.0, ["a>b"])):
        with pytest.raises(ValueError, match=r"not possible|no link"):
            SimulatedNetwork(
                line(),
                [],
                clock,
                recorder,
                seed=1,
                cause="run-1",
                tick_s=tick_s,
                sample_s=sample_s,
                watched=watched,
            )
