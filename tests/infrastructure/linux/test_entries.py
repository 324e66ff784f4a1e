"""Where users' packets enter the network: read, looked at, dropped, answered for the target."""

from __future__ import annotations

import socket
import time

import pytest
from driver_bench import (
    CLIENT,
    HEADERS,
    OFFICE,
    OTHER,
    PAYLOAD,
    SERVER,
    Bench,
    drop,
    refused,
    watch,
)
from linux_needs import requires_root
from msgspec.structs import replace

from phalanx.domain.actions import (
    Done,
    Enforce,
    EntrySample,
    Lift,
    LinkSample,
    MeasureSample,
    ReadEntry,
    ReadLink,
    ReadMeasure,
    Stop,
)
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict

pytestmark = [pytest.mark.linux, requires_root]

DATAGRAMS = 100


def rate(bench: Bench, pop: str, target: str = SERVER) -> float:
    sample = bench.do(pop, ReadEntry(target))
    assert isinstance(sample, EntrySample), sample
    return sample.rate_mb_s


def put(bench: Bench, instance: str, rule: TrafficRule, name: str = "m") -> None:
    outcome = bench.do(instance.partition("/")[0], Enforce(name, instance, rule, name))
    assert isinstance(outcome, Done), outcome


def those(*sources: str, entry: str | None = "pop1") -> TrafficRule:
    match = TrafficMatch(sources=sources, target=SERVER, entry=entry)
    return TrafficRule(match, TrafficVerdict.DROP)


def test_what_enters_is_read_where_its_source_is_and_nowhere_else(bench: Bench) -> None:
    assert [rate(bench, pop) for pop in ("pop1", "pop3")] == [0, 0]
    begin = time.monotonic()
    assert bench.udp(DATAGRAMS, over_s=0.6) == DATAGRAMS
    read = rate(bench, "pop1")
    span = time.monotonic() - begin
    octets = DATAGRAMS * (PAYLOAD + HEADERS)
    assert read * 1e6 == pytest.approx(octets / span, rel=0.5)
    assert [rate(bench, pop) for pop in ("pop2", "pop3")] == [0, 0]
    assert rate(bench, "pop1", OFFICE) == 0
    assert "no host" in refused(bench.do("pop1", ReadEntry("10.9.9.9")))


def test_what_is_dropped_at_an_entry_is_read_all_the_same(bench: Bench) -> None:
    put(bench, bench.deploy("pop1", "edge-filter"), those(CLIENT))
    assert rate(bench, "pop1") == 0
    assert bench.udp(DATAGRAMS) == 0
    assert rate(bench, "pop1") > 0


@pytest.mark.parametrize("pop", ["pop1", "pop2"])
def test_an_entry_shows_its_own_sources_with_the_answers_to_them(bench: Bench, pop: str) -> None:
    edge = bench.deploy(pop, "edge-filter", *dict.fromkeys((pop, "pop1")))
    records = watch(bench, edge, ip=SERVER, entry="pop1")
    seen = {(flow.source, flow.protocol): flow for flow in records.flows}
    assert set(seen) == {(CLIENT, "udp"), (CLIENT, "tcp"), (OTHER, "tcp")}
    assert 18 <= seen[CLIENT, "udp"].packets <= 20, "a busy kernel may miss one"
    assert seen[CLIENT, "udp"].replies == 0
    for source in (CLIENT, OTHER):
        flow = seen[source, "tcp"]
        assert (flow.syn, flow.established, flow.answered) == (1, 1, 1)
    there = bench.deploy("pop3", "edge-filter")  # where the server is, but no source
    assert watch(bench, there, ip=SERVER, entry="pop3").flows == ()


@pytest.mark.parametrize("pop", ["pop1", "pop2"])
def test_sources_are_dropped_where_they_enter(bench: Bench, pop: str) -> None:
    edge = bench.deploy(pop, "edge-filter", *dict.fromkeys((pop, "pop1")))
    put(bench, edge, those(CLIENT, "10.1.0.77"))
    before = bench.sent("pop1", "pop3")
    assert bench.udp(DATAGRAMS) == 0
    assert bench.sent("pop1", "pop3") - before < DATAGRAMS * PAYLOAD / 4
    assert not bench.talks(CLIENT)
    assert bench.talks(CLIENT, host="office")
    assert bench.talks(OTHER)
    assert bench.udp(DATAGRAMS, source=OTHER) == DATAGRAMS
    sample = bench.do(pop, ReadMeasure("m"))
    assert isinstance(sample, MeasureSample)
    bench.udp(DATAGRAMS)
    sample = bench.do(pop, ReadMeasure("m"))
    assert isinstance(sample, MeasureSample)
    assert sample.held_back_mb_s > 0
    assert isinstance(bench.do(pop, Lift("m")), Done)
    bench.wait(lambda: bench.udp(DATAGRAMS) == DATAGRAMS)
    assert bench.talks(CLIENT)


def test_a_rule_of_one_entry_is_not_for_another(bench: Bench) -> None:
    put(bench, bench.deploy("pop3", "edge-filter"), those(CLIENT, OTHER, entry="pop3"))
    assert bench.talks(CLIENT)
    assert bench.udp(DATAGRAMS) == DATAGRAMS


def test_a_drop_ends_the_traffic_of_connections_that_are_open(bench: Bench) -> None:
    listener = bench.inside["server"].call(socket.create_server, (SERVER, 80))
    client = bench.inside["c-1"].call(socket.create_connection, (SERVER, 80), 5, (CLIENT, 0))
    with listener, client:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(1)
            client.sendall(b"before")
            assert connection.recv(100) == b"before"
            put(bench, bench.deploy("pop1", "edge-filter"), those(CLIENT, "10.1.0.77"))
            client.sendall(b"after")
            with pytest.raises(ConnectionResetError):  # the server frees it at once
                connection.recv(100)


def test_handshakes_are_answered_for_the_sources_of_an_entry(bench: Bench) -> None:
    edge = bench.deploy("pop1", "edge-filter")
    rule = TrafficRule(TrafficMatch(target=SERVER, entry="pop1"), TrafficVerdict.PROXY)
    put(bench, edge, rule)
    assert bench.talks(CLIENT)
    other = bench.deploy("pop3", "edge-filter")
    put(bench, other, replace(rule, match=replace(rule.match, entry="pop3")), "elsewhere")
    assert bench.talks(OTHER)
    body = bench.measure(other, "elsewhere")
    assert (body["passed_packets"], body["held_packets"]) == (0, 0)
    body = bench.measure(edge, "m")
    assert (body["passed_packets"], body["held_packets"]) == (2, 0)
    refusal = bench.do("pop3", Enforce("n", other, rule, "n"))
    assert "only be kept true at pop1" in refused(refusal)


def test_a_native_function_starts_without_the_repository(bench: Bench) -> None:
    bench.driver.repository_away(True)
    away = bench.do("pop1", bench.ask("pop1", "rate-limiter"))
    assert "repository is away" in refused(away)
    edge = bench.deploy("pop1", "edge-filter")
    put(bench, edge, drop(CLIENT, SERVER))
    assert not bench.talks(CLIENT)


@pytest.mark.parametrize("role", ["link-monitor", "service-monitor"])
def test_a_link_is_read_through_any_function_that_observes_links(bench: Bench, role: str) -> None:
    monitor = bench.deploy("pop3", role)
    assert bench.udp(DATAGRAMS) == DATAGRAMS
    sample = bench.do("pop3", ReadLink("pop3>server", 0.5))
    assert isinstance(sample, LinkSample)
    assert isinstance(bench.do("pop3", Stop(monitor)), Done)


@pytest.mark.parametrize("link", ["pop3>server", "pop1>pop3"])
def test_where_nothing_observes_links_the_counter_of_the_device_tells_the_rate(
    bench: Bench, link: str
) -> None:
    """Also of what comes in, where it arrives."""
    samples: list[object] = []
    bench.driver.perform("pop3", ReadLink(link, 1.0), bench.root, samples.append)
    bench.rest(0.1)
    assert bench.udp(DATAGRAMS) == DATAGRAMS
    bench.wait(lambda: bool(samples))
    (sample,) = samples
    assert isinstance(sample, LinkSample)
    sent_mb = DATAGRAMS * (PAYLOAD + HEADERS) / 1e6
    assert 0.5 * sent_mb < sample.rate_mb_s < 1.5 * sent_mb
