from __future__ import annotations

import pytest
from small_network import AT_HAND, SERVER, SMALL, TOTAL, World, limit, line, users

from phalanx.domain.actions import (
    Done,
    Failed,
    Hold,
    InstanceLost,
    Observe,
    ReadMeasure,
    Renew,
    Renewed,
    SiteState,
    Stop,
)
from phalanx.domain.errors import ScenarioError


def test_a_hold_runs_out_and_says_so() -> None:
    world = World(line())
    world.net.perform("pop5", Hold("h", "g", SMALL, (), 0.0, 5.0), "why", lambda _: None)
    world.run(4.9)
    assert world.net.leases() == ["h"]
    world.run(5.0)
    assert world.net.leases() == []
    (granted,), (event,) = world.of_kind("hold.granted"), world.of_kind("lease.expired")
    assert (event.time, event.cause, granted.cause) == (5.0, granted.id, "why")
    assert event.data == {"what": "hold", "name": "h", "pop": "pop5"}


def test_an_instance_runs_out_with_all_that_is_its() -> None:
    world = World(line(), users())
    percepts = world.attach("pop5")
    world.deploy("pop5", path=("pop5", "pop6"), mb_s=2.0, ttl_s=10.0)
    world.run(1.0)
    world.enforce("limit", limit(1.0, target=SERVER))
    observing = world.ask("pop5", Observe("vnf", 60.0, ip=SERVER))
    world.run(10.0)
    assert world.net.leases() == []
    assert world.net.free()["pop5"] == TOTAL
    (expired,) = world.of_kind("lease.expired")
    assert expired.cause == world.of_kind("instance.started")[0].id
    ends = world.of_kind("instance.stopped", "measure.lifted", "chain.closed")
    assert [event.kind for event in ends] == ["instance.stopped", "measure.lifted", "chain.closed"]
    assert {event.cause for event in ends} == {expired.id}
    assert percepts[-2] == InstanceLost("vnf", "lease ran out", ends[0].id)
    assert isinstance(percepts[-1], SiteState)
    assert percepts[-1].free == TOTAL
    assert observing == [Failed("instance vnf ended: lease ran out")]


def test_renewal_extends_and_names_what_is_gone() -> None:
    world = World(line())
    world.deploy("pop5", ttl_s=10.0)
    world.do("pop5", Hold("h", "g", SMALL, (), 0.0, 10.0))
    world.run(9.0)
    assert world.do("pop5", Renew(("vnf", "h", "other"), 10.0)) == Renewed(("other",))
    assert world.do("pop4", Renew(("vnf",), 10.0)) == Renewed(("vnf",))
    world.run(18.9)
    assert world.net.leases() == ["h", "vnf"]
    world.run(19.0)
    assert world.net.leases() == []


def test_a_shorter_renewal_takes_nothing_away() -> None:
    world = World(line())
    world.do("pop5", Hold("h", "g", SMALL, (), 0.0, 10.0))
    world.do("pop5", Renew(("h",), 1.0))
    world.run(9.9)
    assert world.net.leases() == ["h"]


def test_a_hold_is_there_once() -> None:
    world = World(line())
    world.do("pop5", Hold("h", "g", SMALL, (), 0.0, 10.0))
    free = world.net.free()
    again = world.do("pop5", Hold("h", "g", SMALL, (), 0.0, 99.0))
    assert again == Failed("hold h exists already")
    assert world.net.free() == free
    world.run(10.0)
    assert world.net.leases() == []


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf")])
def test_leases_have_a_length(ttl: float) -> None:
    world = World(line())
    assert isinstance(world.do("pop5", Hold("h", "g", SMALL, (), 0.0, ttl)), Failed)
    assert isinstance(world.do("pop5", Renew((), ttl)), Failed)


def test_a_stopped_instance_does_not_expire_later() -> None:
    world = World(line())
    world.deploy("pop5", ttl_s=10.0)
    world.run(1.0)
    assert isinstance(world.do("pop5", Stop("vnf")), Done)
    assert world.do("pop5", Stop("vnf")) == Done()
    world.deploy("pop5", ttl_s=30.0)
    world.run(20.0)
    assert world.net.leases() == ["vnf"]
    assert not world.of_kind("lease.expired")


def test_installed_instances_live_under_a_lease_too() -> None:
    world = World(line())
    world.net.install("pop6", "monitor", AT_HAND, units=1, ttl_s=5.0, cause="run-1")
    with pytest.raises(ScenarioError, match="exists already"):
        world.net.install("pop6", "monitor", AT_HAND, units=1, ttl_s=5.0, cause="run-1")
    with pytest.raises(ScenarioError, match="needs 7 cores, 5 free"):
        world.net.install("pop6", "more", AT_HAND, units=7, ttl_s=5.0, cause="run-1")
    assert isinstance(world.do("pop6", ReadMeasure("none")), Failed)
    world.run(5.0)
    assert world.net.leases() == []
