from __future__ import annotations

import msgspec
import numpy as np
import pytest
from small_network import AT_HAND, SERVER, World, attackers, limit, line, users

from phalanx.domain.actions import Failed, FlowRecords, FlowStats, Observe
from phalanx.domain.network import Host
from phalanx.domain.traffic import PROFILES, UDP_FLOOD, Source
from phalanx.infrastructure.simulated import part_of
from phalanx.infrastructure.simulated.observations import record


def observed(world: World, action: Observe, pop: str = "pop5") -> FlowRecords:
    answers = world.ask(pop, action)
    assert answers == []
    world.run(world.clock.now() + action.seconds)
    (outcome,) = answers
    assert isinstance(outcome, FlowRecords)
    return outcome


def attacked(
    path: tuple[str, ...] = ("pop5", "pop6"), mb_s: float = 20.0, loss: float = 0.0, seed: int = 1
) -> World:
    world = World(line(loss=loss, mb_s=30.0), [*users(), *attackers(0.0)], seed=seed)
    world.deploy("pop5", path=path, mb_s=mb_s)
    world.run(20.0)
    return world


def mb_s(records: FlowRecords) -> float:
    return sum(flow.octets for flow in records.flows) / 1e6 / records.seconds


def test_records_show_what_tells_a_flood_from_a_user_and_no_label() -> None:
    records = observed(attacked(), Observe("vnf", 10.0, ip=SERVER))
    assert len(records.flows) == 58
    assert records.coverage == 1.0
    for flow in records.flows:
        assert isinstance(flow, FlowStats)
        malicious = flow.source.startswith("10.2.")
        assert (flow.syn == flow.packets) == malicious
        assert (flow.established == 0) == malicious or flow.syn < 3
        assert flow.octets > 3e6 if malicious else flow.octets < 3e5
    text = msgspec.json.encode(records).decode()
    for word in ("malicious", "attack", "flood", "http", "user", "bot", *PROFILES):
        assert word not in text


def test_links_and_addresses_are_seen_behind_the_measures() -> None:
    world = attacked()
    world.enforce("limit", limit(2.0, link="pop6>server"))
    world.enforce("block", limit(1.0, target=SERVER))
    world.run(40.0)
    assert mb_s(observed(world, Observe("vnf", 10.0, link="pop6>server"))) == pytest.approx(
        1.0, rel=0.05
    )
    seen = observed(world, Observe("vnf", 10.0, ip=SERVER))
    assert mb_s(seen) == pytest.approx(1.0, rel=0.05)


def test_a_narrow_mirror_covers_a_part() -> None:
    world = attacked(mb_s=2.0)
    records = observed(world, Observe("vnf", 10.0, link="pop6>server"))
    assert records.coverage == pytest.approx(2.0 / 6.7, rel=0.05)
    assert mb_s(records) == pytest.approx(2.0, rel=0.05)


def test_what_the_mirrors_links_lose_is_not_seen() -> None:
    world = attacked(path=("pop5", "pop6"), loss=0.05)
    assert observed(world, Observe("vnf", 5.0, ip=SERVER)).coverage == pytest.approx(0.95)


def test_at_its_own_pop_a_function_handles_what_it_can() -> None:
    world = World(line(mb_s=30.0), [*users(), *attackers(0.0)])
    world.deploy("pop6", vnfd=msgspec.structs.replace(AT_HAND, handles_mb_s=1.0), units=2)
    world.deploy("pop6", "strong")
    world.run(20.0)
    weak = observed(world, Observe("vnf", 5.0, link="pop6>server"), "pop6")
    strong = observed(world, Observe("strong", 5.0, link="pop6>server"), "pop6")
    assert mb_s(weak) == pytest.approx(2.0, rel=0.05)
    assert strong.coverage == 1.0


def test_the_mirror_loads_its_path_ahead_of_other_traffic() -> None:
    world = World(line(6, mb_s=8.0), [*users(), *attackers(0.0)])
    world.deploy("pop4", path=("pop4", "pop5", "pop6"), mb_s=3.0)
    world.run(20.0)
    assert world.rate("pop6>pop5") == 0.0
    answers = world.ask("pop4", Observe("vnf", 10.0, link="pop6>server"))
    world.run(26.0)
    assert world.rate("pop6>pop5") == pytest.approx(3.0)
    assert world.rate("pop5>pop4") == pytest.approx(3.0)
    world.run(35.0)
    assert len(answers) == 1
    assert world.rate("pop6>pop5") == 0.0


def test_copies_without_a_reservation_leave_users_most_of_a_link() -> None:
    world = World(line(6, mb_s=8.0), [*users(), *attackers(0.0)])
    world.deploy("pop4")
    world.run(20.0)
    answers = world.ask("pop4", Observe("vnf", 10.0, link="pop6>server"))
    world.run(26.0)
    assert world.rate("pop6>pop5") == pytest.approx(0.2 * 8.0)
    world.run(35.0)
    (records,) = answers
    assert records.coverage == pytest.approx(1.6 / 6.7, rel=0.05)


def test_parts_and_sampling_thin_out_what_is_seen() -> None:
    world = attacked()
    halves = [observed(world, Observe("vnf", 5.0, ip=SERVER, part=i, parts=2)) for i in (0, 1)]
    sources = [{flow.source for flow in half.flows} for half in halves]
    assert not sources[0] & sources[1]
    assert len(sources[0] | sources[1]) == 58
    assert {part_of(source, 2) for source in sources[1]} == {1}
    tenth = observed(world, Observe("vnf", 5.0, ip=SERVER, sampling=0.1))
    assert mb_s(tenth) == pytest.approx(0.1 * sum(mb_s(half) for half in halves), rel=0.1)
    assert tenth.coverage == 1.0


def test_the_noise_depends_on_the_seed_alone() -> None:
    one, same, other = (
        observed(attacked(seed=seed), Observe("vnf", 5.0, ip=SERVER)) for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_traffic_that_is_rerouted_meanwhile_stays_in_view() -> None:
    world = attacked()
    answers = world.ask("pop5", Observe("vnf", 10.0, link="pop6>server"))
    world.run(25.0)
    world.enforce("limit", limit(1.0, link="pop6>server"))
    world.net.fail_link("pop1", "pop2")
    world.run(30.0)
    (records,) = answers
    assert isinstance(records, FlowRecords)
    assert mb_s(records) == pytest.approx((6.7 + 1.0) / 2, rel=0.1)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (Observe("vnf", 1.0), "an observation needs either a link or an address"),
        (Observe("vnf", 1.0, "pop6>server", "x"), "an observation needs either a link or"),
        (Observe("vnf", 1.0, link="pop6>none"), "no link pop6>none"),
        (Observe("vnf", 0.0, ip=SERVER), "cannot observe for 0 s"),
        (Observe("vnf", 1.0, ip=SERVER, sampling=0.0), "cannot sample a share of 0"),
        (Observe("vnf", 1.0, ip=SERVER, part=3, parts=2), "no part 3 of 2"),
    ],
)
def test_observations_that_make_no_sense_are_refused(action: Observe, reason: str) -> None:
    (answer,) = attacked().ask("pop5", action)
    assert isinstance(answer, Failed)
    assert answer.reason.startswith(reason)


def test_nothing_to_see_is_an_empty_record() -> None:
    world = World(line())
    world.deploy("pop5")
    world.run(1.0)
    assert observed(world, Observe("vnf", 5.0, ip="10.9.9.9")) == FlowRecords((), 5.0, 1.0)


def test_counters_are_unbiased() -> None:
    source = users(1)[0]
    rng = np.random.default_rng(3)
    flows = [record(rng, [(source, 4.0, 0.5)], 0.5)[0][0] for _ in range(50)]
    assert np.mean([flow.packets for flow in flows]) == pytest.approx(5000, rel=0.01)
    assert np.mean([flow.syn for flow in flows]) == pytest.approx(400, rel=0.03)
    assert np.mean([flow.established for flow in flows]) == pytest.approx(200, rel=0.04)
    assert np.mean([flow.replies for flow in flows]) == pytest.approx(2250, rel=0.02)


def test_copies_do_not_cross_a_link_that_is_down() -> None:
    world = attacked()
    world.net.fail_link("pop5", "pop6")
    (answer,) = (world.ask("pop5", Observe("vnf", 5.0, link="pop6>server")),)
    world.run(30.0)
    assert answer == [Failed("no copies arrived over pop5-pop6: a link is down or full")]


def test_copies_lost_while_a_link_was_down_cost_coverage() -> None:
    world = attacked()
    answers = world.ask("pop5", Observe("vnf", 10.0, ip=SERVER))
    world.run(24.0)
    world.net.fail_link("pop5", "pop6")
    world.run(30.0)
    (records,) = answers
    assert isinstance(records, FlowRecords)
    assert records.coverage == pytest.approx(0.4, abs=0.02)


def test_an_isolated_pop_sees_nothing_of_the_traffic_elsewhere() -> None:
    world = World(line(mb_s=30.0), [*users(), *attackers(0.0)])
    world.deploy("pop1")
    world.run(10.0)
    assert observed(world, Observe("vnf", 2.0, ip=SERVER), "pop1").flows
    world.net.fail_link("pop1", "pop2")
    world.run(20.0)
    for action in (Observe("vnf", 2.0, ip=SERVER), Observe("vnf", 2.0, link="pop6>server")):
        assert observed(world, action, "pop1").flows == ()


def test_copies_find_no_way_over_a_link_that_no_traffic_takes_and_that_is_down() -> None:
    near = [Source("u", "users", "pop6", "10.1.0.1", SERVER, 80, PROFILES["http"], 0.02)]
    world = World(line(mb_s=30.0), near)
    world.deploy("pop1")
    world.run(10.0)
    action = Observe("vnf", 2.0, ip=SERVER)
    assert observed(world, action, "pop1").flows
    world.net.fail_link("pop2", "pop3")
    assert observed(world, action, "pop1").flows == ()


def test_copies_without_a_reservation_share_a_full_link() -> None:
    bulk = Source("b", "bulk", "pop6", "10.4.0.1", "10.0.1.1", 80, UDP_FLOOD, 24.0)
    network = line(mb_s=8.0)
    hosts = (*network.hosts, Host("sink", "pop1", "10.0.1.1", 50.0))
    world = World(msgspec.structs.replace(network, hosts=hosts), [*users(), *attackers(0.0), bulk])
    world.deploy("pop4", path=("pop4", "pop5", "pop6"))
    world.run(20.0)
    records = observed(world, Observe("vnf", 5.0, link="pop6>server"), "pop4")
    assert records.coverage == pytest.approx(1.6 / 6.7 * 8.0 / (24.0 + 1.6), rel=0.1)
    assert world.rate("pop6>pop5") == pytest.approx(8.0)
