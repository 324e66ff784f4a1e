"""What routers export leads to the verdicts of the traffic itself, and sampling blames nobody."""

import random
import socket
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.analytics import flow_sources
from phalanx.analytics.capture import analyse
from phalanx.analytics.flow_sources import Collector, analyse_exports
from tests.analytics import captures as make
from tests.analytics import exports as ex
from tests.nightly import examples, sample

SERVER = "10.0.0.1"


def verdicts(found):
    """Return who is named: sources with kind, and targets with kind and whether forged."""
    sources = {(f.finding.source, f.finding.target, f.finding.kind) for f in found.flows}
    targets = {(f.finding.target, f.finding.kind, f.finding.spoofed) for f in found.targets}
    return sources, targets


def of_packets(tmp_path, packets, window=5.0):
    file = tmp_path / "packets.pcap"
    frames = [(ex.NOW + at, make.ethernet(packet)) for at, packet in packets]
    file.write_bytes(make.pcap(frames))
    return analyse(str(file), window)


def of_exports(packets, way, rate=1, window=5.0, **options):
    collector = Collector(window, **options)
    for at, datagram in ex.exported(packets, way, rate):
        collector.feed("192.0.2.1", datagram, ex.NOW + at)
    return collector.end("exports")


def users(count, seconds=8.0, first=1, requests=3):
    """Return whole connections of honest users, each with some requests."""
    packets = []
    for user in range(count):
        source = socket.inet_ntoa((0x01010000 + first + user).to_bytes(4))
        at, port = seconds * user / count, 20_000 + user % 40_000
        packets += make.handshake(at, source, SERVER, port, close=False)
        for number in range(requests):
            ask = make.tcp(port, 80, make.ACK | make.PSH, b"GET / again")
            answer = make.tcp(80, port, make.ACK | make.PSH, b"x" * 900)
            packets.append((at + 0.01 * (number + 1), make.ip4(source, SERVER, 6, ask)))
            packets.append((at + 0.01 * (number + 1) + 0.004, make.ip4(SERVER, source, 6, answer)))
        for here, there, ports in ((source, SERVER, (port, 80)), (SERVER, source, (80, port))):
            packets.append((at + 0.1, make.ip4(here, there, 6, make.tcp(*ports, 17))))
    return packets


def forged(count, seconds=4.0, seed=1):
    rng = random.Random(seed)
    name = lambda _: socket.inet_ntoa(rng.randbytes(4))  # noqa: E731
    return make.syn_flood(1.0, name, count, SERVER, rate=count / seconds)


def udp(at, source, target, sport, dport, size=60):
    return at, make.ip4(source, target, 17, make.udp(sport, dport, b"x" * size))


def lookups(count, seconds=8.0, sources=500, answered=True):
    """Return queries to a DNS server, each from a port of its own, and its answers."""
    packets = []
    for number in range(count):
        source = socket.inet_ntoa((0x02020000 + number % sources).to_bytes(4))
        at, port = seconds * number / count, 1024 + number % 60_000
        packets.append(udp(at, source, SERVER, port, 53))
        if answered:
            packets.append(udp(at + 0.001, SERVER, source, 53, port, 200))
    return packets


def reflection(count, seconds=4.0, reflectors=12):
    return [
        udp(1 + seconds * n / count, f"9.9.9.{n % reflectors + 1}", SERVER, 53, 4444, 1400)
        for n in range(count)
    ]


def slow(at=0.5, count=40):
    """Return connections that are held open and never ask for anything."""
    packets = []
    for number in range(count):
        frames = make.handshake(
            at + number * 0.01, "6.6.6.7", SERVER, 30_000 + number, answer=False, close=False
        )
        packets += frames
    return packets


def mixed(*parts):
    return sorted((packet for part in parts for packet in part), key=lambda packet: packet[0])


ATTACKS = {
    "syn flood": lambda: make.syn_flood(1.0, "6.6.6.6", 2000, SERVER, rate=500),
    "forged syn flood": lambda: forged(3000),
    "udp flood": lambda: [
        udp(1 + n / 1000, "6.6.6.8", SERVER, 7000, 9000, 500) for n in range(3000)
    ],
    "reflection": lambda: reflection(3000),
    "slow": slow,
    "nothing": list,
}


@pytest.mark.parametrize("way", sample(ex.WAYS, 2))
@pytest.mark.parametrize("attack", ATTACKS)
def test_exports_name_whom_the_capture_names(tmp_path, attack, way):
    packets = mixed(users(100), ATTACKS[attack]())
    whole = verdicts(of_packets(tmp_path, packets, 10.0))
    found = of_exports(packets, way, window=10.0)
    assert verdicts(found) == whole
    assert bool(whole[1]) == (attack != "nothing")


SCALE = {
    "syn flood": lambda: make.syn_flood(1.0, "6.6.6.6", 12_000, SERVER, rate=6000),
    "forged syn flood": lambda: forged(12_000),
    "udp flood": lambda: [
        udp(1 + n / 3000, "6.6.6.8", SERVER, 7000, 9000, 500) for n in range(12_000)
    ],
    "reflection": lambda: reflection(12_000),
}
"""The same at more packets a second, to be sampled."""


@pytest.mark.parametrize("way", sample(ex.WAYS[::-1], 4))
@pytest.mark.parametrize("attack", SCALE)
def test_samples_name_the_same_and_say_how_sure_they_are(tmp_path, attack, way):
    packets = mixed(users(100), SCALE[attack]())
    found = of_exports(packets, way, 20, 10.0)
    assert verdicts(found) == verdicts(of_packets(tmp_path, packets, 10.0))
    for finding in (each.finding for each in (*found.targets, *found.flows)):
        assert "samples of 1 in 20, so counts are right within" in finding.reason
        samples = finding.evidence["samples"]
        assert finding.evidence["error"] == pytest.approx(1.96 / samples**0.5, rel=1e-3)


HONEST = {
    "a crowd that asks once each": lambda: users(500),
    "a crowd at a DNS server": lambda: lookups(3000, sources=1500),
    "a resolver that asks a DNS server": lambda: lookups(3000, sources=1),
    "calls": lambda: [
        packet
        for n in range(3000)
        for packet in (
            udp(n / 400, f"3.3.3.{n % 20}", SERVER, 5004, 5004),
            udp(n / 400 + 0.0002, SERVER, f"3.3.3.{n % 20}", 5004, 5004),
        )
    ],
    "logs of one way, below 200/s": lambda: [
        udp(n / 150, "4.4.4.4", SERVER, 514, 514) for n in range(1200)
    ],
}


@cache
def honest(crowd):
    return HONEST[crowd]()


@pytest.mark.parametrize("way", ex.WAYS)
@pytest.mark.parametrize("rate", sample([50, 1, 2], 3))
@pytest.mark.parametrize("crowd", HONEST)
def test_nobody_honest_is_named_however_little_is_sampled(crowd, rate, way):
    assert verdicts(of_exports(honest(crowd), way, rate, 4.0)) == (set(), set())


@pytest.mark.parametrize("way", ex.WAYS)
def test_a_rate_that_sampling_error_explains_names_nobody(way):
    """190 packets/s of one way: a few windows hold samples for more than 200 a second."""
    packets = [udp(n / 190, "4.4.4.4", SERVER, 514, 514) for n in range(190 * 30)]
    assert verdicts(of_exports(packets, way, 2, 2.0)) == (set(), set())


@pytest.mark.parametrize("way", ["netflow5", "netflow9", "ipfix"])
def test_a_long_flow_counts_for_the_time_that_it_took(way):
    """20 packets/s for 200 s, exported at once: 4,000 packets, but no flood in any window."""
    packets = [udp(n / 20, "4.4.4.4", SERVER, 514, 514) for n in range(4000)]
    assert verdicts(of_exports(packets, way)) == (set(), set())


@pytest.mark.parametrize("way", ["netflow5", "netflow9", "ipfix"])
def test_where_one_way_is_exported_nothing_is_said_of_udp(way):
    packets = mixed(users(200), [udp(n / 1000, "3.3.3.3", "10.0.0.5", 4, 5) for n in range(8000)])
    one_way = [(at, p) for at, p in packets if socket.inet_ntoa(p[16:20]).startswith("10.")]
    assert verdicts(of_exports(one_way, way, 1, 10.0)) == (set(), set())


def test_exporters_are_judged_each_by_itself(tmp_path):
    packets = mixed(users(100), ATTACKS["syn flood"]())
    collector = Collector(10.0)
    sent = ex.exported(packets, "netflow5")
    for at, datagram in sorted(sent + sent, key=lambda each: each[0]):
        for source in ("192.0.2.1", "192.0.2.2"):
            collector.feed(source, datagram, ex.NOW + at)
    found = collector.end("twice")
    assert verdicts(found) == verdicts(of_packets(tmp_path, packets, 10.0))
    (flow,) = found.flows
    assert flow.finding.evidence["syn_s"] <= 2 * 2000 / 10  # each datagram came twice to each


def test_a_window_is_judged_when_no_more_is_expected_of_it():
    news = []
    collector = Collector(1.0, told=news.append)
    sent = ex.exported(ATTACKS["syn flood"](), "sflow", 2)
    for at, datagram in sent:
        collector.feed("192.0.2.1", datagram, ex.NOW + at)
        if news:
            break
    assert at < 3.0, "a sample is exported at once"
    news.clear()
    collector = Collector(1.0, told=news.append)
    for at, datagram in ex.exported(ATTACKS["syn flood"](), "netflow5"):
        collector.feed("192.0.2.1", datagram, ex.NOW + at)
    assert not news, "flows may come for 15 s"
    collector.advance(ex.NOW + 25.0)
    assert {each.finding.source for each in news} == {"6.6.6.6", None}


def test_what_comes_too_late_is_counted():
    collector = Collector(1.0)
    old = ex.netflow5(ex.cache([udp(1.0, "1.1.1.1", SERVER, 1, 2)]))[0][1]
    new = ex.netflow5(ex.cache([udp(400.0, "1.1.1.1", SERVER, 1, 2)]))[0][1]
    collector.feed("192.0.2.1", new, ex.NOW + 401.0)
    collector.advance(ex.NOW + 500.0)
    collector.feed("192.0.2.1", old, ex.NOW + 2.0)
    found = collector.end("late")
    assert found.skipped["flows exported after their window was judged"] == 1


def test_the_table_of_flows_is_bounded(monkeypatch):
    monkeypatch.setattr(flow_sources, "SHARE", 16)
    for way in ex.WAYS:
        found = of_exports(forged(3000), way, connections=100)
        assert 2700 <= found.unlisted <= 3000 - 100


def test_a_capture_of_exports(tmp_path):
    packets = mixed(users(100), ATTACKS["syn flood"]())
    file = tmp_path / "exports.pcap"
    file.write_bytes(ex.pcap(ex.exported(packets, "ipfix")))
    found = analyse_exports(str(file), Collector(10.0), [2055])
    assert verdicts(found) == verdicts(of_packets(tmp_path, packets, 10.0))
    assert [each.address for each in found.exporters] == ["192.0.2.1"]
    assert not analyse_exports(str(file), Collector(10.0), [2056]).exporters
    found = analyse_exports(str(file), Collector(10.0, ["192.0.2.7"]), [2055])
    assert found.skipped["datagrams of unknown exporters"] > 10


@settings(max_examples=examples(20), deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=90), st.floats(-1e9, 1e9)), max_size=20), st.booleans()
)
def test_nothing_that_arrives_raises(datagrams, shuffle):
    collector = Collector(1.0)
    sent = [datagram for _, datagram in ex.exported(users(3), "sflow")]
    for octets, at in datagrams:
        collector.feed("192.0.2.1", octets, at)
        collector.feed("192.0.2.1", sent[len(octets) % len(sent)], at if shuffle else abs(at))
    collector.end("noise")
