from __future__ import annotations

import msgspec
import pytest
from small_network import SERVER, World, attackers, drop, limit, line, users

from phalanx.domain.actions import Done, Enforce, Failed, Lift, MeasureSample, ReadMeasure
from phalanx.domain.network import Host, Link, Network
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.traffic import UDP_FLOOD, UDP_FLOOD_SPOOFED, Source
from phalanx.infrastructure.simulated import part_of

OFFICE = "10.0.6.20"


def sender(pop: str, address: str, mb_s: float = 1.0, target: str = SERVER) -> Source:
    return Source(address, "senders", pop, address, target, 80, UDP_FLOOD, mb_s)


def with_office(network: Network) -> Network:
    office = Host("office", "pop6", OFFICE, 6.0)
    return msgspec.structs.replace(network, hosts=(*network.hosts, office))


def branch() -> Network:
    """Return a line of six with a PoP aside: pop7 hangs on pop2."""
    return branch_of(line())


def branch_of(network: Network) -> Network:
    aside = msgspec.structs.replace(network.pops[0], name="pop7")
    return msgspec.structs.replace(
        network, pops=(*network.pops, aside), links=(*network.links, Link("pop2", "pop7", 10, 5))
    )


def limited(world: World, rule: TrafficRule, pop: str = "pop7") -> World:
    world.deploy(pop)
    world.run(1.0)
    assert isinstance(world.enforce("measure", rule, pop), Done)
    world.run(15.0)
    return world


def test_traffic_visits_the_way_point_only_while_the_measure_is_in_force() -> None:
    world = limited(World(branch(), [sender("pop1", "a")]), limit(0.4, target=SERVER))
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
    world = limited(World(branch(), sources), limit(0.3, link="pop3>pop4"))
    assert world.rate("pop3>pop4") == pytest.approx(0.3)
    assert world.rate() == pytest.approx(1.3)


def test_a_flow_limit_is_about_one_flow() -> None:
    sources = [sender("pop1", "a"), sender("pop1", "b"), sender("pop1", "a", target=OFFICE)]
    world = World(with_office(branch()), sources)
    limited(world, drop("a", SERVER))
    assert world.rate("pop2>pop7") == pytest.approx(1.0)
    assert world.rate("pop7>pop2") == 0.0
    assert world.rate() == pytest.approx(1.0)
    assert world.rate("pop6>office") == pytest.approx(1.0)
    assert world.do("pop7", ReadMeasure("measure")) == MeasureSample(0.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("match", "left"),
    [
        (TrafficMatch(target=SERVER, outside=("10.1.0.0/16",)), 1.0),
        (TrafficMatch(target=SERVER, outside=("10.1.0.0/16", "10.2.0.1")), 2.0),
        (TrafficMatch(target=SERVER, outside=("10.0.0.0/8",)), 3.0),
        (TrafficMatch(target=SERVER, sources=("10.2.0.0/24",)), 2.0),
        (TrafficMatch(target=SERVER, sources=("10.0.0.0/8",), outside=("10.3.0.1",)), 1.0),
    ],
)
def test_prefixes_say_who_is_kept_out(match: TrafficMatch, left: float) -> None:
    sources = [sender("pop1", address) for address in ("10.1.0.1", "10.2.0.1", "10.3.0.1")]
    world = limited(World(branch(), sources), TrafficRule(match, TrafficVerdict.DROP))
    assert world.rate() == pytest.approx(left)
    (applied,) = world.of_kind("measure.applied")
    assert applied.data.get("outside", []) == list(match.outside)


def test_forged_sources_are_from_outside_all_prefixes() -> None:
    forged = msgspec.structs.replace(sender("pop1", "10.1.0.1"), profile=UDP_FLOOD_SPOOFED)
    match = TrafficMatch(target=SERVER, outside=("10.1.0.0/16",))
    world = limited(World(branch(), [forged]), TrafficRule(match, TrafficVerdict.DROP))
    assert world.rate() == 0.0


def test_a_rule_that_is_removed_behind_the_agents_backs_acts_no_more_and_reading_says_so() -> None:
    world = limited(World(branch(), [sender("pop1", "10.1.0.1")]), drop("10.1.0.1", SERVER))
    (applied,) = world.of_kind("measure.applied")
    assert world.net.remove_rules(applied.data["effect"]) == ["measure"]
    world.run(30.0)
    assert world.rate() == pytest.approx(1.0)
    gone = world.do("pop7", ReadMeasure("measure"))
    assert isinstance(gone, Failed)
    assert "not in force any more" in gone.reason
    assert isinstance(world.do("pop7", Lift("measure")), Done)
    assert "measure" not in world.net.leases()


def test_a_burst_between_two_readings_is_counted_in_the_second() -> None:
    source = msgspec.structs.replace(sender("pop1", "a"), end_s=17.0)
    world = limited(World(branch(), [source]), drop("a", SERVER))
    world.do("pop7", ReadMeasure("measure"))
    world.run(20.0)
    assert world.do("pop7", ReadMeasure("measure")) == MeasureSample(0.0, pytest.approx(0.4))
    world.run(30.0)
    assert world.do("pop7", ReadMeasure("measure")) == MeasureSample(0.0, 0.0)


@pytest.mark.parametrize(
    "match",
    [
        TrafficMatch(target=SERVER, part=1, parts=2),
        TrafficMatch(link="pop6>server", part=1, parts=2),
    ],
)
def test_a_split_steers_its_part_and_limits_nothing(match: TrafficMatch) -> None:
    sources = [sender("pop1", f"s{i}", 0.1) for i in range(20)]
    split = TrafficRule(match, TrafficVerdict.SPLIT)
    mine = sum(0.1 for source in sources if part_of(source.address, 2) == 1)
    assert 0 < mine < 2.0
    world = limited(World(branch(), sources), split)
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
    world.enforce("limit", limit(2.0, target=SERVER))
    for i in range(8):
        world.enforce(f"block{i}", drop(f"10.2.0.{i}", SERVER))
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
    world.enforce("second", limit(0.5, link="pop6>server"), "pop7")
    assert isinstance(world.enforce("wrong", limit(1.0, target=SERVER), "pop4"), Failed)
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
    world = limited(World(branch(), [sender("pop1", "a")]), limit(0.4, target=SERVER))
    world.net.fail_link("pop2", "pop7")
    world.run(30.0)
    assert world.rate() == pytest.approx(1.0)
    world.net.restore_link("pop2", "pop7")
    world.run(45.0)
    assert world.rate() == pytest.approx(0.4)


def rule(verdict: TrafficVerdict, match: TrafficMatch, **figures: float) -> TrafficRule:
    return TrafficRule(match, verdict, figures)


TO_SERVER = TrafficMatch(target=SERVER)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (rule(TrafficVerdict.MIRROR, TO_SERVER), "nothing here can mirror traffic; offered are"),
        (limit(0.0, link="pop6>none"), "no link pop6>none"),
        (limit(1.0), "a rule needs a link or a target"),
        (limit(-1.0, target=SERVER), "cannot limit traffic to -1 MB/s"),
        (limit(float("nan"), target=SERVER), "cannot limit traffic to nan MB/s"),
        (rule(TrafficVerdict.LIMIT, TO_SERVER), "a rule to limit traffic needs rate_mb_s"),
        (rule(TrafficVerdict.DROP, TO_SERVER, x=1), "a rule to drop traffic has no parameter 'x'"),
        (rule(TrafficVerdict.DELAY, TO_SERVER, delay_ms=-1), "cannot delay traffic by -1 ms"),
        (rule(TrafficVerdict.SPLIT, TrafficMatch(target=SERVER, part=2, parts=2)), "no part 2 of"),
        (rule(TrafficVerdict.SPLIT, TrafficMatch(target=SERVER, parts=0)), "no part 0 of 0"),
        (rule(TrafficVerdict.DROP, TrafficMatch(target=SERVER, port=80)), "port 80 needs a"),
        (rule(TrafficVerdict.DROP, TrafficMatch(target=SERVER, protocol="x")), "no protocol 'x'"),
        (rule(TrafficVerdict.PROXY, TrafficMatch(link="pop5>pop6")), "handshakes can only be"),
    ],
)
def test_rules_that_make_no_sense_are_refused_for_good(wrong: TrafficRule, reason: str) -> None:
    world = World(line())
    world.deploy("pop5")
    world.run(1.0)
    refused = world.enforce("measure", wrong)
    assert isinstance(refused, Failed)
    assert refused.reason.startswith(reason)
    assert refused.final
    assert world.net.leases() == ["vnf"]


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        (TrafficMatch(target=SERVER, protocol="udp"), 2.0),
        (TrafficMatch(target=SERVER, protocol="udp", port=80), 1.0),
        (TrafficMatch(target=SERVER, protocol="tcp"), 0.0),
        (TrafficMatch(target=SERVER, source="b", link="pop2>pop3"), 1.0),
        (TrafficMatch(target=SERVER, source="b", link="pop6>pop5"), 0.0),
    ],
)
def test_a_rule_is_about_what_all_its_fields_match(match: TrafficMatch, hit: float) -> None:
    other = msgspec.structs.replace(sender("pop1", "b"), port=53)
    world = limited(World(branch(), [sender("pop1", "a"), other]), rule(TrafficVerdict.DROP, match))
    assert world.rate() == pytest.approx(2.0 - hit)


def test_a_delay_lets_all_pass_and_makes_who_waits_for_answers_slower() -> None:
    flood, user = sender("pop1", "a", 0.5), msgspec.structs.replace(users(1)[0], demand_mb_s=1.0)
    lossy = World(branch_of(line(loss=0.01)), [flood, user])
    before = limited(lossy, rule(TrafficVerdict.STEER, TO_SERVER)).rate()
    lossy.do("pop7", Lift("measure"))
    delay = rule(TrafficVerdict.DELAY, TO_SERVER, delay_ms=400.0)
    assert isinstance(lossy.enforce("measure", delay, "pop7"), Done)
    lossy.run(60.0)
    flooded = 0.5 * 0.99**5
    assert before - flooded > 4 * (lossy.rate() - flooded) > 0
    assert lossy.of_kind("measure.applied")[-1].data["delay_ms"] == 400.0
    lossy.do("pop7", Lift("measure"))
    tarpit = rule(TrafficVerdict.DELAY, TO_SERVER, delay_ms=400.0, rate_mb_s=0.1)
    assert isinstance(lossy.enforce("measure", tarpit, "pop7"), Done)
    lossy.run(120.0)
    assert lossy.rate("pop7>pop2") == pytest.approx(0.1, rel=0.02)


def test_a_measure_is_lifted_by_its_own_pop_alone() -> None:
    world = World(line())
    world.deploy("pop5")
    world.run(1.0)
    world.enforce("measure", limit(1.0, target=SERVER))
    assert world.enforce("measure", limit(1.0, target=SERVER)) == Failed(
        "measure measure exists already"
    )
    world.do("pop4", Lift("measure"))
    assert world.do("pop4", ReadMeasure("measure")) == Failed("no measure measure at pop4")
    assert world.net.leases() == ["vnf", "measure"]


def test_steers_that_cross_deliver_no_more_than_the_links_carry() -> None:
    sources = [sender("pop1", "a", 40.0), sender("pop6", "b", 40.0, target=OFFICE)]
    network = line()
    office = Host("office", "pop1", OFFICE, 50.0)
    server = msgspec.structs.replace(network.hosts[0], bandwidth_mb_s=50.0)
    world = World(msgspec.structs.replace(network, hosts=(server, office)), sources)
    for pop, name in (("pop4", "vnf"), ("pop2", "other")):
        world.deploy(pop, name)
    world.run(1.0)
    steer = TrafficRule(TrafficMatch(target=SERVER), TrafficVerdict.STEER)
    back = TrafficRule(TrafficMatch(target=OFFICE), TrafficVerdict.STEER)
    assert isinstance(world.enforce("there", steer, "pop4"), Done)
    outcome = world.do("pop2", Enforce("back", "other", back, "effect"))
    assert isinstance(outcome, Done)
    world.run(30.0)
    assert world.rate() <= 10.0 + 1e-6
    for i in range(1, 6):
        assert world.rate(f"pop{i}>pop{i + 1}") <= 10.0 + 1e-6
        assert world.rate(f"pop{i + 1}>pop{i}") <= 10.0 + 1e-6


@pytest.mark.parametrize("order", [("encrypted", "led", "served"), ("served", "led", "encrypted")])
def test_what_is_encrypted_for_a_server_stays_so_on_ways_around_and_to_replicas(
    order: tuple[str, ...],
) -> None:
    network = branch()
    others = tuple(msgspec.structs.replace(link, trusted=False) for link in network.links)
    world = World(msgspec.structs.replace(network, links=others), [sender("pop1", "a")])
    rules = {
        "encrypted": ("pop6", rule(TrafficVerdict.STEER, TO_SERVER, encrypted=1.0)),
        "led": ("pop7", rule(TrafficVerdict.STEER, TO_SERVER)),
        "served": ("pop4", rule(TrafficVerdict.SERVE, TO_SERVER, rate_mb_s=5.0)),
    }
    for name, (pop, _) in rules.items():
        world.deploy(pop, name)
    world.run(1.0)
    for name in order:
        pop, one = rules[name]
        assert isinstance(world.do(pop, Enforce(name, name, one, name)), Done)
    world.run(10.0)
    assert world.server()["exposed_mb_s"] == 0.0
    assert world.rate("pop7>pop2") == world.rate("pop6>pop5") == pytest.approx(1.0)
    world.do("pop6", Lift("encrypted"))
    world.run(20.0)
    assert world.server()["exposed_mb_s"] == pytest.approx(1.0)


def test_a_measure_at_a_pop_that_is_cut_off_holds_nothing_back_and_says_so() -> None:
    world = limited(World(branch(), [sender("pop1", "a")]), limit(0.4, target=SERVER))
    world.net.fail_link("pop2", "pop7")
    world.run(30.0)
    assert world.rate() == pytest.approx(1.0)
    assert world.do("pop7", ReadMeasure("measure")) == MeasureSample(0.0, 0.0, cut_off=True)
    refused = world.enforce("second", drop("a", SERVER), "pop7")
    assert refused == Failed("pop7 is cut off: no traffic can be led there")
    world.net.restore_link("pop2", "pop7")
    world.run(60.0)
    assert world.rate() == pytest.approx(0.4)
    held = world.do("pop7", ReadMeasure("measure"))
    assert isinstance(held, MeasureSample)
    assert (held.held_back_mb_s, held.cut_off) == (pytest.approx(0.6), False)
