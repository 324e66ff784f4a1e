"""What the exporters of a simulated service tell, and what a replica takes from it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from small_network import SERVER, World, line, users

from phalanx.domain.actions import Done, Failed, ReadService, RestartService, ServiceSample
from phalanx.domain.network import HostLimits
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict

REQUESTS_MB = 0.08 / 400e-6
"""Requests that an http user makes in a MB."""


def world(requests_s: float | None, leak_share_s: float = 0.0) -> World:
    network = line(mb_s=100.0)
    limits = HostLimits(requests_s=requests_s, leak_share_s=leak_share_s)
    host = replace(network.hosts[0], bandwidth_mb_s=100.0, limits=limits)
    return World(replace(network, hosts=(host,)), users())


def read(made: World) -> ServiceSample:
    sample = made.do("pop6", ReadService(SERVER))
    assert isinstance(sample, ServiceSample)
    return sample


def serve(made: World, pop: str, match: TrafficMatch, mb_s: float = 10.0) -> None:
    made.deploy(pop, path=(pop,))
    made.run(made.clock.now() + 1.0)
    rule = TrafficRule(match, TrafficVerdict.SERVE, {"rate_mb_s": mb_s})
    assert isinstance(made.enforce("replica", rule, pop), Done)


def test_the_metrics_follow_from_the_load() -> None:
    made = world(400.0)
    made.run(10.0)
    figures = read(made).metrics
    assert figures["requests_s"] == pytest.approx(REQUESTS_MB, rel=0.02)  # 1 MB/s in all
    assert figures["cpu_share"] == pytest.approx(REQUESTS_MB / 400, rel=0.02)
    assert figures["latency_ms"] == pytest.approx(1000 / (400 - REQUESTS_MB), rel=0.05)  # M/M/1
    assert figures["refused_share"] == 0
    assert figures["receive_mb_s"] == pytest.approx(1.0, rel=0.02)
    assert figures["connections_share"] == pytest.approx(50 / 512, rel=1e-4)


def test_users_get_what_the_service_can_answer() -> None:
    made = world(100.0)
    made.run(20.0)
    figures = read(made).metrics
    assert made.server()["legitimate_mb_s"] == pytest.approx(0.5, rel=0.05)
    assert figures["cpu_share"] == pytest.approx(1.0, abs=0.02)
    assert figures["refused_share"] > 0
    assert figures["requests_s"] > 100.0
    assert figures["latency_ms"] > 100.0


def test_each_entry_has_its_traffic_and_its_way() -> None:
    made = world(400.0)
    made.run(10.0)
    entries = read(made).entries
    assert sorted(entries) == [f"pop{i}" for i in range(1, 6)]
    assert entries["pop1"][0] == pytest.approx(0.2, rel=0.02)
    assert entries["pop1"][1] == pytest.approx(2 * (5 * 5.0 + 0.1), rel=0.01)
    assert entries["pop5"][1] == pytest.approx(2 * (5.0 + 0.1), rel=0.01)


def test_a_service_without_figures_tells_nothing() -> None:
    for made, address in ((world(None), SERVER), (world(400.0), "10.9.9.9")):
        made.run(1.0)
        assert isinstance(made.do("pop6", ReadService(address)), Failed)


def test_a_replica_answers_its_share_and_relieves_the_host() -> None:
    made = world(100.0)
    made.run(10.0)
    serve(made, "pop3", TrafficMatch(target=SERVER, part=1, parts=2))
    made.run(25.0)
    assert made.server()["legitimate_mb_s"] == pytest.approx(1.0, rel=0.03)
    assert read(made).metrics["receive_mb_s"] == pytest.approx(0.5, rel=0.25)


def test_a_replica_answers_no_more_than_it_can() -> None:
    made = world(400.0)
    made.run(10.0)
    serve(made, "pop3", TrafficMatch(target=SERVER, entry="pop1"), 0.1)
    made.run(25.0)
    assert made.server()["legitimate_mb_s"] == pytest.approx(0.9, rel=0.03)


def test_the_host_answers_again_for_a_replica_that_is_cut_off_or_ends() -> None:
    made = world(400.0)
    made.run(10.0)
    serve(made, "pop1", TrafficMatch(target=SERVER, part=0, parts=2))
    made.run(15.0)
    assert read(made).metrics["receive_mb_s"] < 0.8
    made.net.fail_link("pop1", "pop2")
    made.run(20.0)
    assert set(read(made).entries) == {f"pop{i}" for i in range(2, 6)}
    assert read(made).metrics["receive_mb_s"] == pytest.approx(0.8, rel=0.02)
    made.net.restore_link("pop1", "pop2")
    made.run(25.0)
    made.net.kill_instance("vnf")
    made.run(30.0)
    assert read(made).metrics["receive_mb_s"] == pytest.approx(1.0, rel=0.02)


def test_a_service_that_leaks_stops_and_is_started_anew_at_its_own_pop_alone() -> None:
    made = world(400.0, leak_share_s=0.02)
    made.run(20.0)
    assert read(made).metrics["memory_share"] == pytest.approx(0.6)
    made.run(45.0)
    assert made.server()["legitimate_mb_s"] == 0.0
    assert read(made).metrics["memory_share"] == 1.0
    assert isinstance(made.do("pop5", RestartService(SERVER, 9)), Failed)
    assert isinstance(made.do("pop6", RestartService("10.9.9.9", 9)), Failed)
    assert isinstance(made.do("pop6", RestartService(SERVER, 9)), Done)
    made.run(46.5)
    assert made.server()["legitimate_mb_s"] == 0.0
    assert read(made).metrics["memory_share"] == pytest.approx(0.2)
    made.run(52.0)
    assert made.server()["legitimate_mb_s"] == pytest.approx(1.0, rel=0.02)


def test_a_memory_limit_starts_a_service_anew_until_it_was_so_often_enough() -> None:
    made = world(400.0, leak_share_s=0.1)
    made.run(3.0)
    assert isinstance(made.do("pop6", RestartService(SERVER, 3, 0.6)), Done)
    made.run(11.0)  # 2 s for a start, 4 s until it takes 60 %
    assert [e.data.get("reason") for e in made.events if e.kind == "host.restarted"] == [
        None,
        "it takes 60% of its memory",
    ]
    made.run(60.0)
    assert read(made).metrics["restarts"] == 3
    assert {type(value) for value in read(made).metrics.values()} <= {int, float}, "they travel"
    assert read(made).metrics["memory_share"] == 1.0
    assert isinstance(made.do("pop6", RestartService(SERVER, 3)), Failed)
    assert isinstance(made.do("pop6", RestartService(SERVER, 4)), Done)
