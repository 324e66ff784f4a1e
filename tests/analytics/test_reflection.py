"""Reflection, ACK and SYN-ACK floods: found in records and on packets; honest traffic never."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.analytics.capture import analyse
from phalanx.domain.actions import FlowStats
from phalanx.domain.traffic import HTTP, PROFILES, Source
from phalanx.infrastructure.simulated.observations import record
from tests.analytics import captures as make
from tests.analytics.findings import anomalous_targets, malicious_flows

TARGET = "10.0.0.1"
KINDS = {
    "dns-reflection": "reflection",
    "ntp-reflection": "reflection",
    "ack-flood": "ack flood",
    "syn-ack-flood": "syn-ack flood",
}


def source(profile: str, number: int, **more) -> Source:
    name = f"{profile}-{number}"
    address = f"10.2.0.{number}"
    return replace(Source(name, name, "a", address, TARGET, 80, PROFILES[profile], 1.0), **more)


def users(count: int, **more) -> list[Source]:
    one = Source("user", "users", "a", "", TARGET, 80, HTTP, 0.02)
    return [replace(one, address=f"1.1.1.{i}", **more) for i in range(count)]


def recorded(sources, mb: float, delivered: float = 0.6, seed: int = 1) -> tuple[FlowStats, ...]:
    rng = np.random.default_rng(seed)
    return record(rng, [(each, mb, delivered) for each in sources], 1.0)[0]


@pytest.mark.parametrize(("profile", "kind"), KINDS.items())
def test_named_sources_are_convicted_among_users(profile: str, kind: str) -> None:
    flows = recorded([source(profile, i) for i in range(8)], 5.0) + recorded(users(30), 0.2)
    assert {(f.source, f.kind) for f in malicious_flows(flows, 5.0)} == {
        (f"10.2.0.{i}", kind) for i in range(8)
    }
    (target,) = anomalous_targets(flows, 5.0)
    assert (target.kind, target.spoofed) == (kind, False)


@pytest.mark.parametrize("profile", ["ack-flood-spoofed", "syn-ack-flood-spoofed"])
def test_forged_packets_of_no_connection_are_forgeries(profile: str) -> None:
    flows = recorded([source(profile, 1)], 0.3, 1.0) + recorded(users(30), 0.2)
    assert malicious_flows(flows, 1.0) == []
    (target,) = anomalous_targets(flows, 1.0)
    assert (target.kind, target.spoofed) == (KINDS[profile.removesuffix("-spoofed")], True)
    assert "senders of" in target.reason


def test_many_weak_reflectors_are_convicted_together() -> None:
    reflectors = [source("dns-reflection", i) for i in range(200)]
    flows = recorded(reflectors, 0.05)
    assert all(flow.packets < 171 for flow in flows)
    assert len(malicious_flows(flows, 5.0)) == 200
    assert malicious_flows(flows[:5], 5.0) == []


def answer(resolver: str, packets: int, octets: int, *, port: int = 5353) -> FlowStats:
    size = packets * octets
    return FlowStats(resolver, TARGET, port, "udp", packets, size, 0, 0, 0, source_port=53)


def query(resolver: str, packets: int) -> FlowStats:
    return FlowStats(TARGET, resolver, 53, "udp", packets, packets * 80, 0, 0, 0)


def test_answers_that_the_target_asked_for_are_none() -> None:
    flows = [answer("8.8.8.8", 5000, 1400), query("8.8.8.8", 5000)]
    assert malicious_flows(flows, 5.0) == anomalous_targets(flows, 5.0) == []
    assert [f.kind for f in malicious_flows(flows[:1], 5.0)] == ["reflection"]


@given(
    st.integers(1, 60),
    st.integers(1, 3000),
    st.integers(60, 1500),
    st.floats(0.2, 1.0),
    st.integers(0, 2**32),
)
def test_resolvers_that_a_target_asks_are_never_blamed(resolvers, asked, octets, kept, seed):
    """Queries and answers are lost independently; a window may begin between the two."""
    rng = np.random.default_rng(seed)
    flows = []
    for i in range(resolvers):
        arrived = int(rng.binomial(asked, kept))
        flows.append(query(f"8.8.{i}.8", asked))
        flows.append(answer(f"8.8.{i}.8", max(1, arrived), octets))
    assert malicious_flows(flows, 5.0) == anomalous_targets(flows, 5.0) == []


@given(st.integers(1, 200), st.floats(0.1, 1.0), st.floats(0.01, 2.0), st.integers(0, 2**32))
def test_a_crowd_seen_one_way_only_is_never_blamed(count, delivered, mb, seed):
    """Of an asymmetric route recorders see no reply, of whatever service of the target."""
    crowd = users(count, asymmetric=True)
    flows = list(recorded(crowd, mb, delivered, seed))
    assert all(flow.replies == flow.resets == flow.answered == 0 for flow in flows)
    rng = random.Random(seed)
    if any(flow.established for flow in flows):
        flows.append(answer("8.8.8.8", rng.randrange(1, 20_000), rng.randrange(80, 1500)))
        packets = rng.randrange(1, 50_000)
        flows.append(FlowStats("9.9.9.9", TARGET, 443, "udp", packets, packets * 900, 0, 0, 0))
        held = rng.randrange(1, 300)
        flows.append(FlowStats("7.7.7.7", TARGET, 80, "tcp", 99, 9900, 0, 0, 0, 0, held))
    assert malicious_flows(flows, 5.0) == anomalous_targets(flows, 5.0) == []


@given(st.integers(0, 400), st.integers(1, 40), st.integers(0, 2**32))
def test_clients_of_a_server_that_starts_again_are_never_blamed(clients, connections, seed):
    """Each connection is reset once; the clients ask for new ones."""
    rng = random.Random(seed)
    flows = []
    for i in range(clients):
        old = rng.randint(1, connections)
        again = rng.randint(1, old)
        done = sum(rng.random() < 0.25 for _ in range(again))
        flows.append(
            FlowStats(
                f"1.1.{i // 250}.{i % 250}", TARGET, 80, "tcp", old + again + done,
                900, again, done, old + done, 0, 0, 0, old,
            )
        )  # fmt: skip
    assert malicious_flows(flows, 1.0) == anomalous_targets(flows, 1.0) == []


@given(st.integers(1, 199), st.integers(60, 1400))
def test_a_slow_one_way_stream_is_left_alone(packets_s: int, octets: int) -> None:
    flow = answer("9.9.9.9", packets_s * 10, octets)
    assert malicious_flows([flow], 10.0) == anomalous_targets([flow], 10.0) == []


@pytest.fixture
def found(tmp_path):
    """Return a function from packets (time, IP packet) to what is found among honest users."""

    def analysed(packets):
        for user in range(40):
            packets = packets + make.handshake(
                1000.0 + user * 0.05, f"1.1.1.{user + 1}", sport=50_000
            )
        file = tmp_path / "some.pcap"
        file.write_bytes(make.pcap([(t, make.ethernet(p)) for t, p in sorted(packets)]))
        return analyse(str(file))

    return analysed


def stream(count, packet, answer=None, since=1000.0, rate=1000.0):
    packets = []
    for i in range(count):
        at = since + i / rate
        packets.append((at, packet(i)))
        if answer is not None:
            packets.append((at + 1e-4, answer(i)))
    return packets


def resets(source_port, port=80, flags=make.RST):
    return lambda i: make.ip4(
        TARGET, source_port(i)[0], 6, make.tcp(port, source_port(i)[1], flags)
    )


def verdicts(analysis):
    return {(f.finding.source, f.finding.kind) for f in analysis.flows}


@pytest.mark.parametrize("sport", [40000, 443])
def test_an_ack_flood_on_packets(found, sport: int) -> None:
    ends = lambda i: ("6.6.6.6", sport + i % 20_000 if sport > 1024 else sport)  # noqa: E731
    packets = stream(
        2000, lambda i: make.ip4(ends(i)[0], TARGET, 6, make.tcp(ends(i)[1], 80, make.ACK)),
        resets(ends),
    )  # fmt: skip
    assert verdicts(found(packets)) == {("6.6.6.6", "ack flood")}


def test_a_forged_ack_flood_on_packets(found) -> None:
    ends = lambda i: (f"{11 + i % 200}.{i // 200}.7.9", 30_000 + i)  # noqa: E731
    packets = stream(
        2000, lambda i: make.ip4(ends(i)[0], TARGET, 6, make.tcp(ends(i)[1], 80, make.ACK)),
        resets(ends),
    )  # fmt: skip
    analysis = found(packets)
    assert verdicts(analysis) == set()
    (target,) = analysis.targets
    assert (target.finding.kind, target.finding.spoofed) == ("ack flood", True)


def test_a_syn_ack_flood_on_packets_and_no_scanner_taken_for_its_victim(found) -> None:
    flags = make.SYN | make.ACK
    packets = stream(
        2000, lambda i: make.ip4("7.7.7.7", TARGET, 6, make.tcp(443, 1024 + i, flags)),
        lambda i: make.ip4(TARGET, "7.7.7.7", 6, make.tcp(1024 + i, 443, make.RST)),
    )  # fmt: skip
    assert verdicts(found(packets)) == {("7.7.7.7", "syn-ack flood")}
    asked = stream(
        2000, lambda i: make.ip4(TARGET, "7.7.7.7", 6, make.tcp(1024 + i, 443, make.SYN))
    )
    scanned = verdicts(found([(t - 2e-4, p) for t, p in asked] + packets))
    assert "7.7.7.7" not in {who for who, _ in scanned}


@pytest.mark.parametrize(("port", "octets"), [(53, 1200), (123, 440), (11211, 1300)])
def test_reflection_on_packets(found, port: int, octets: int) -> None:
    packets = stream(
        1500, lambda i: make.ip4(f"9.0.0.{i % 30}", TARGET, 17, make.udp(port, 7777, b"x" * octets))
    )
    assert verdicts(found(packets)) == {(f"9.0.0.{i}", "reflection") for i in range(30)}


def test_a_resolver_that_is_asked_is_no_reflector_on_packets(found) -> None:
    packets = stream(
        3000,
        lambda i: make.ip4(TARGET, "9.0.0.1", 17, make.udp(1024 + i, 53, b"?" * 30)),
        lambda i: make.ip4("9.0.0.1", TARGET, 17, make.udp(53, 1024 + i, b"x" * 1200)),
    )
    analysis = found(packets)
    assert verdicts(analysis) == set()
    assert analysis.targets == ()
