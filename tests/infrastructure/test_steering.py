from __future__ import annotations

import msgspec
import pytest
from small_network import SERVER, World, attackers, line, users

from phalanx.domain.actions import Done, Failed, Lift, MeasureSample, ReadMeasure
from phalanx.domain.goals import Predicate
from phalanx.domain.network import Host, Link, Network
from phalanx.domain.predicates import (
    FlowRateLimited,
    IpRateLimited,
    LinkRateLimited,
    OverUsage,
    SplitTrafficLink,
    SplitTrafficTowardsIp,
)
from phalanx.domain.traffic import UDP_FLOOD, Source
from phalanx.infrastructure.simulated import part_of

OFFICE = "10.0.6.20"


def sender(pop: str, address: str, mb_s: float = 1.0, target: str = SERVER) -> Source:
    return Source(address, "senders", pop, address, target, 80, UDP_FLOOD, mb_s)


def with_office(network: Network) -> Network:
    office = Host("office", "pop6", OFFICE, 6.0)
    return msgspec.structs.replace(network, hosts=(*network.hosts, office))


def branch() -> Network:
    """Return a line of six with a PoP aside: pop7 hangs on pop2."""
    network = line()
    aside = msgspec.structs.replace(network.pops[0], name="pop7")
    return msgspec.structs.replace(
        network, pops=(*network.pops, aside), links=(*network.links, Link("pop2", "pop7", 10, 5))
    )


def limited(world: World, effect: Predicate, rate: float, pop: str = "pop7") -> World:
    world.deploy(pop)
    world.run(1.0)
    assert isinstance(world.enforce("measure", effect, rate, pop), Done)
    world.run(15.0)
    return world


def test_traffic_visits_the_way_point_only_while_the_measure_is_in_force() -> None:
    world = limited(World(branch(), [sender("pop1", "a")]), IpRateLimited(SERVER), 0.4)
    assert world.rate("pop2>pop7") == pytest.approx(1.0)
    assert world.rate("pop7>pop2") == pytest.approx(0.4)
    assert world.rate() == pytest.approx(0.4)
    assert isinstance(world.do("pop7", Lift("measure")), Done)
    assert world.do("pop7", Lift("measure")) == Done()
    world.run(30.0)
    assert world.rate("pop2>pop7") == 0.0
    assert world.rate() == pytest.approx(1.0)


def test_a_link_limit_is_about_the_traffic_of_that_link() -> None:
    sources = [sender("pop1", "a"), sender("pop5", "b")]
    world = limited(World(branch(), sources), LinkRateLimited("pop3>pop4"), 0.3)
    assert world.rate("pop3>pop4") == pytest.approx(0.3)
    assert world.rate() == pytest.approx(1.3)


def test_a_flow_limit_is_about_one_flow() -> None:
    sources = [sender("pop1", "a"), sender("pop1", "b"), sender("pop1", "a", target=OFFICE)]
    world = World(with_office(branch()), sources)
    limited(world, FlowRateLimited("a", SERVER), 0.0)
    assert world.rate("pop2>pop7") == pytest.approx(1.0)
    assert world.rate("pop7>pop2") == 0.0
    assert world.rate() == pytest.approx(1.0)
    assert world.rate("pop6>office") == pytest.approx(1.0)
    assert world.do("pop7", ReadMeasure("measure")) == MeasureSample(0.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    "split", [SplitTrafficTowardsIp(SERVER, 1, 2), SplitTrafficLink("pop6>server", 1, 2)]
)
def test_a_split_steers_its_part_and_limits_nothing(split: Predicate) -> None:
    sources = [sender("pop1", f"s{i}", 0.1) for i in range(20)]
    mine = sum(0.1 for source in sources if part_of(source.address, 2) == 1)
    assert 0 < mine < 2.0
    world = limited(World(branch(), sources), split, 0.0)
    assert world.rate("pop2>pop7") == pytest.approx(mine)
    assert world.rate() == pytest.approx(2.0)
    (applied,) = world.of_kind("measure.applied")
    assert applied.data["parts"] == 2
    assert world.do("pop7", ReadMeasure("measure")) == MeasureSample(pytest.approx(mine), 0.0)


def test_parts_cover_all_sources_once() -> None:
    addresses = [f"10.0.{i}.1" for i in range(256)]
    for parts in (1, 2, 3, 7):
        found = [part_of(address, parts) for address in addresses]
        assert set(found) == set(range(parts))
    assert part_of("10.1.0.1", 1000) == 947


def test_blocks_come_before_limits_whatever_was_first() -> None:
    """So a blocked flood uses up nobody's limit, and the limit is seen to be quiet."""
    world = World(line(), [*users(), *attackers(0.0)])
    world.deploy("pop5")
    world.run(1.0)
    world.enforce("limit", IpRateLimited(SERVER), 2.0)
    for i in range(8):
        world.enforce(f"block{i}", FlowRateLimited(f"10.2.0.{i}", SERVER))
    world.run(60.0)
    assert world.rate() == pytest.approx(1.0, rel=0.01)
    assert world.do("pop5", ReadMeasure("limit")) == MeasureSample(
        pytest.approx(1.0, rel=0.01), pytest.approx(0.0, abs=1e-6)
    )


def test_way_points_at_several_pops_are_all_visited() -> None:
    world = World(branch(), [sender("pop1", "a", 2.0)])
    world.deploy("pop7")
    world.deploy("pop4", "other")
    world.run(1.0)
    world.enforce("second", LinkRateLimited("pop6>server"), 0.5, "pop7")
    assert isinstance(world.enforce("wrong", IpRateLimited(SERVER), 1.0, "pop4"), Failed)
    enforced = world.do("pop7", Lift("none"))
    assert enforced == Done()
    world.run(10.0)
    assert world.rate("pop7>pop2") == pytest.approx(0.5)
    assert world.rate("pop4>pop5") == pytest.approx(0.5)


def test_a_dead_link_moves_traffic_or_stops_it() -> None:
    ring = msgspec.structs.replace(line(), links=(*line().links, Link("pop6", "pop1", 10, 60)))
    world = World(ring, [sender("pop1", "a")])
    percepts = world.attach("pop3")
    world.run(5.0)
    assert world.rate("pop1>pop2") == pytest.approx(1.0)
    world.net.fail_link("pop3", "pop2")
    world.run(10.0)
    assert world.rate("pop1>pop6") == pytest.approx(1.0)
    assert world.rate() == pytest.approx(1.0)
    world.net.fail_link("pop1", "pop6")
    world.run(15.0)
    assert world.rate() == 0.0
    world.net.restore_link("pop2", "pop3")
    world.run(20.0)
    assert world.rate("pop1>pop2") == pytest.approx(1.0)
    ups = [next(li.up for li in state.links if li.to == "pop2") for state in percepts]
    assert ups == [True, False, True]
    told = [(e.data["link"], e.data["up"]) for e in world.of_kind("link.changed")]
    assert told[:2] == [("pop2>pop3", False), ("pop3>pop2", False)]
    faults = [e.data["fault"] for e in world.of_kind("fault.injected")]
    assert faults == ["link-down", "link-down", "link-up"]
    with pytest.raises(ValueError, match="no link joins"):
        world.net.fail_link("pop1", "pop3")


def test_a_way_point_that_is_cut_off_is_passed_over() -> None:
    world = limited(World(branch(), [sender("pop1", "a")]), IpRateLimited(SERVER), 0.4)
    world.net.fail_link("pop2", "pop7")
    world.run(30.0)
    assert world.rate() == pytest.approx(1.0)
    world.net.restore_link("pop2", "pop7")
    world.run(45.0)
    assert world.rate() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("effect", "rate", "reason"),
    [
        (OverUsage("pop6>server"), 0.0, "cannot enforce overUsage(pop6>server)"),
        (LinkRateLimited("pop6>none"), 0.0, "no link pop6>none"),
        (SplitTrafficTowardsIp(SERVER, 2, 2), 0.0, "no part 2 of 2"),
        (SplitTrafficLink("pop6>server", 0, 0), 0.0, "no part 0 of 0"),
        (IpRateLimited(SERVER), -1.0, "cannot limit traffic to -1 MB/s"),
        (IpRateLimited(SERVER), float("nan"), "cannot limit traffic to nan MB/s"),
    ],
)
def test_measures_that_make_no_sense_are_refused(
    effect: Predicate, rate: float, reason: str
) -> None:
    world = World(line())
    world.deploy("pop5")
    world.run(1.0)
    assert world.enforce("measure", effect, rate) == Failed(reason)
    assert world.net.leases() == ["vnf"]


def test_a_measure_is_lifted_by_its_own_pop_alone() -> None:
    world = World(line())
    world.deploy("pop5")
    world.run(1.0)
    world.enforce("measure", IpRateLimited(SERVER), 1.0)
    assert world.enforce("measure", IpRateLimited(SERVER), 1.0) == Failed(
        "measure measure exists already"
    )
    world.do("pop4", Lift("measure"))
    assert world.do("pop4", ReadMeasure("measure")) == Failed("no measure measure at pop4")
    assert world.net.leases() == ["vnf", "measure"]
