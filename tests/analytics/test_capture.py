"""Captures: from octets to verdicts, over formats, link layers and what is broken in files."""

import os
import random
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phalanx.analytics.capture import CaptureError, FlowTable, analyse
from phalanx.analytics.packets import TCP, Decoded
from tests.analytics import captures as make

DATA = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
CIC = DATA / "pcaps" / "CIC-DDoS-2019-SynFlood.pcap"
MIXTURE = make.mixture()


@pytest.fixture
def look(tmp_path):
    """Return a function from a file's octets to what is found in it."""

    def analysed(octets, **options):
        file = tmp_path / "some.pcap"
        file.write_bytes(octets)
        return analyse(str(file), **options)

    return analysed


def names(found):
    return [(f.finding.source, f.finding.target, f.finding.kind) for f in found.flows]


FLOOD = [("6.6.6.6", "10.0.0.1", "syn flood")]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(make.pcap(MIXTURE), id="pcap"),
        pytest.param(make.pcap(MIXTURE, order=">"), id="big-endian"),
        pytest.param(make.pcap(MIXTURE, nano=True), id="nanoseconds"),
        pytest.param(make.pcap(MIXTURE, order=">", nano=True), id="nanoseconds-big-endian"),
        pytest.param(make.pcap(MIXTURE, snap=54), id="headers-only"),
        pytest.param(make.pcapng(MIXTURE), id="pcapng"),
        pytest.param(make.pcapng(MIXTURE, order=">"), id="pcapng-big-endian"),
    ],
)
def test_formats(look, octets):
    found = look(octets)
    assert names(found) == FLOOD
    (target,) = found.targets
    assert (target.finding.target, target.finding.spoofed) == ("10.0.0.1", False)
    assert found.packets == found.analysed == len(MIXTURE)
    assert found.seconds == pytest.approx(MIXTURE[-1][0] - MIXTURE[0][0], abs=1e-5)
    assert found.octets == sum(len(frame) for _, frame in MIXTURE)
    assert (found.skipped, found.problem, found.unlisted) == ({}, None, 0)


@pytest.mark.parametrize("kind", [make.ETHERNET, make.RAW, make.SLL, make.SLL2, make.NULL])
def test_link_layers(look, kind):
    frames = [(time, make.link(frame[14:], kind)) for time, frame in MIXTURE]
    found = look(make.pcap(frames, link_type=kind))
    assert names(found) == FLOOD
    assert found.analysed == len(frames)


@pytest.mark.parametrize("tags", [(0x8100,), (0x88A8, 0x8100)])
def test_vlan_tags(look, tags):
    frames = [(time, make.ethernet(frame[14:], tags=tags)) for time, frame in MIXTURE]
    assert names(look(make.pcap(frames))) == FLOOD


def test_ip_options(look):
    body = make.tcp(1024, 80, make.SYN, options=b"\1" * 20)
    packet = make.ip4("6.6.6.6", "10.0.0.1", 6, body, options=b"\1" * 40)
    frames = [(1.0 + i / 1000, make.ethernet(packet, tags=(0x8100, 0x8100))) for i in range(500)]
    assert names(look(make.pcap(frames))) == FLOOD


def test_ipv6_flows(look):
    packet = make.ip6("2001:db8::6", "2001:db8::1", 6, make.tcp(1024, 80, make.SYN))
    frames = [(1.0 + i / 1000, make.ethernet(packet)) for i in range(500)]
    assert names(look(make.pcap(frames))) == [("2001:db8::6", "2001:db8::1", "syn flood")]


def test_ipv6_extension_headers_are_read_over(look):
    """Hop by hop, destination options, authentication, and the first of two fragments."""
    ah = bytes([44, 4]) + b"\0" * 22
    head = bytes([60, 1]) + b"\0" * 14 + bytes([51, 0]) + b"\0" * 6 + ah + bytes([6, 0, 0, 1]) * 2
    packet = make.ip6(
        "2001:db8::6", "2001:db8::1", 0, head + make.tcp(1024, 80, make.SYN, options=b"")
    )
    found = look(make.pcap([(1.0 + i / 1000, make.ethernet(packet)) for i in range(500)]))
    assert names(found) == [("2001:db8::6", "2001:db8::1", "syn flood")]
    assert (found.analysed, found.skipped) == (500, {})


def test_errors_of_icmp_are_no_flood(look):
    """They answer other packets, as many as there are."""
    errors = [make.ip4("6.6.6.6", "10.0.0.1", 1, bytes([3]) + b"\0" * 40) for _ in range(2000)]
    echoes = [make.ip4("6.6.6.7", "10.0.0.1", 1, bytes([8]) + b"\0" * 40) for _ in range(2000)]
    packets = [(1 + i / 1000, p) for i, p in enumerate(errors)]
    packets += [(1 + i / 1000, p) for i, p in enumerate(echoes)]
    found = look(make.pcap([(t, make.ethernet(p)) for t, p in sorted(packets)]))
    assert names(found) == [("6.6.6.7", "10.0.0.1", "icmp flood")]
    assert found.skipped == {"neither TCP, UDP nor ICMP echo": 2000}


def test_fragments_count_for_their_addresses(look):
    packets = []
    for i in range(1000):
        first = make.ip4("6.6.6.6", "10.0.0.1", 17, make.udp(9, 9, b"x" * 64), fragment=0x2000)
        later = make.ip4("6.6.6.6", "10.0.0.1", 17, b"\2" * 64, fragment=9)
        packets += [(1 + i / 1000, first), (1 + i / 1000, later)]
    found = look(make.pcap([(t, make.ethernet(p)) for t, p in packets]))
    (flow,) = found.flows
    assert flow.finding.kind == "udp flood"
    assert flow.finding.evidence["packets_s"] == pytest.approx(2000, rel=0.01)


def test_random_sources_are_forged(look):
    rng = random.Random(1)
    packets = make.syn_flood(1.0, lambda _: socket.inet_ntoa(rng.randbytes(4)), 3000)
    found = look(make.pcap([(t, make.ethernet(p)) for t, p in packets]))
    assert found.flows == ()
    (target,) = found.targets
    assert target.finding.spoofed
    assert "forged" in target.finding.reason


def decoded(packets):
    """Return packets (key, flags, octets of payload, octets), all at the same time."""
    keys = np.frombuffer(b"".join(packet[0] for packet in packets), np.uint8)
    columns = np.array([packet[1:] for packet in packets]).T
    return Decoded(keys.reshape(len(packets), -1), *columns, np.zeros(len(packets)))


@pytest.mark.parametrize("asked", [True, False], ids=["from its SYN on", "from its SYN-ACK on"])
def test_the_server_of_a_connection_is_known_in_later_windows(asked):
    client, server = (socket.inet_pton(socket.AF_INET6, a) for a in ("::a", "::b"))
    there = client + (4000).to_bytes(2, "big") + server + (50_000).to_bytes(2, "big") + bytes([TCP])
    back = there[18:36] + there[:18] + there[36:]
    table = FlowTable()
    begun = [(there, make.SYN), (back, make.SYN | make.ACK), (there, make.ACK)][not asked :]
    table.add(decoded([(key, flags, 0, 40) for key, flags in begun]))
    table.close(1.0)
    table.add(decoded([(back, make.ACK, 1, 100), (there, make.ACK, 0, 40)]))
    (flow,) = table.close(1.0).flows
    assert (flow.source, flow.target, flow.port) == ("::a", "::b", 50_000)
    assert (flow.packets, flow.replies) == (1, 1)


def test_slow_connections(look):
    packets = []
    for i in range(200):
        packets += make.handshake(1 + i / 100, "6.6.6.6", sport=2000 + i, answer=False, close=False)
        packets += make.handshake(1 + i / 100, "1.1.1.1", sport=2000 + i, close=False)
    found = look(make.pcap([(t, make.ethernet(p)) for t, p in sorted(packets)]))
    assert names(found) == [("6.6.6.6", "10.0.0.1", "slow connections")]
    assert "held by 1 source" in found.targets[0].finding.reason


def test_a_server_that_only_sends_is_not_slow_at_its_users(look):
    """Of connections begun before the capture it is not known who asked."""
    packets = []
    for i in range(200):
        down = make.tcp(8080, 2000 + i, make.ACK | make.PSH, b"film")
        packets += [(1 + i / 100, make.ip4("10.0.0.1", "1.1.1.1", 6, down))]
        up = make.tcp(2000 + i, 8080, make.ACK)
        packets += [(1 + i / 100, make.ip4("1.1.1.1", "10.0.0.1", 6, up))]
    found = look(make.pcap([(t, make.ethernet(p)) for t, p in packets]))
    assert found.flows == found.targets == ()


def test_what_is_passed_over_is_counted(look):
    good = make.ip4("1.1.1.1", "10.0.0.1", 6, make.tcp(1, 2, make.SYN))
    extended = make.ip6("::1", "::2", 0, b"\0" * 8)
    frames = [
        make.ethernet(b"\0" * 28, kind=0x0806),
        make.ethernet(make.ip4("1.1.1.1", "10.0.0.1", 1, b"ping....")),
        make.ethernet(extended),
        make.ethernet(b"\x42" + good[1:], kind=0x0800),
        make.ethernet(good[:18]),
        make.ethernet(good[:30]),
        b"",
        make.ethernet(good),
    ]
    found = look(make.pcap([(1.0, frame) for frame in frames]))
    assert found.skipped == {
        "cut short": 2,
        "damaged IP header": 1,
        "neither TCP, UDP nor ICMP echo": 2,
        "not IP": 2,
    }
    assert found.analysed == 1
    assert found.packets == len(frames)


def test_the_flow_table_is_bounded_and_says_so(look):
    found = look(make.pcap(MIXTURE), connections=500)
    assert found.unlisted > 0
    assert names(found) == FLOOD


def test_windows(look):
    early, late = make.syn_flood(0.0, "6.6.6.6", 500), make.syn_flood(100.0, "6.6.6.6", 500)
    found = look(make.pcap([(t, make.ethernet(p)) for t, p in early + late]), window_s=1.0)
    (flow,) = found.flows
    assert (flow.windows, found.windows) == (2, 2)
    assert flow.since_s == 0.0
    assert flow.until_s == pytest.approx(100.5, abs=0.01)
    assert flow.finding.evidence["syn_s"] in (500.0, pytest.approx(1000, rel=0.01))


def test_a_clock_that_is_set_back_begins_a_new_window(look):
    late, early = make.syn_flood(5000.0, "6.6.6.6", 500), make.syn_flood(10.0, "6.6.6.6", 500)
    found = look(make.pcap([(t, make.ethernet(p)) for t, p in late + early]))
    assert found.windows == 2
    assert names(found) == FLOOD


def test_no_packets_no_findings(look):
    found = look(make.pcap([]))
    assert (found.packets, found.flows, found.targets, found.seconds) == (0, (), (), 0.0)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "is empty"),
        (b"\xd4\xc3\xb2\xa1\2\0", "truncated"),
        (b"GIF89a" + b"\0" * 100, "is neither a pcap nor a pcapng capture"),
        (make.pcap([(1.0, b"x" * 60)], link_type=105), "link type 105 is not read; known are"),
        (make.pcap([(1.0, b"x" * 60)])[:-10], "truncated"),
        (make.pcap([])[:16] + b"\xff" * 8 + b"\0" * 80, "link type"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(look, octets, why):
    with pytest.raises(CaptureError, match=why) as refused:
        look(octets)
    assert "some.pcap: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CaptureError, match=f"^{path}: "):
            analyse(str(path))
    with pytest.raises(CaptureError):
        analyse("a\0b")


def test_a_capture_that_ends_early_is_judged_up_to_there(look):
    octets = make.pcap(MIXTURE)
    found = look(octets[:-5])
    assert names(found) == FLOOD
    assert found.packets == len(MIXTURE) - 1
    assert "truncated" in found.problem


def test_a_record_of_absurd_length_ends_the_capture(look):
    octets = bytearray(make.pcap(MIXTURE[:100]) + make.pcap(MIXTURE[:1])[24:])
    octets[24 + 8 : 24 + 12] = b"\xff\xff\xff\x7f"
    with pytest.raises(CaptureError, match="length"):
        look(bytes(octets))


def test_a_pcapng_of_several_link_layers_is_refused(look):
    octets = make.pcapng(MIXTURE[:10], link_types=(make.ETHERNET, make.RAW))
    with pytest.raises(CaptureError, match="type of the first interface"):
        look(octets)


FILES = [
    make.pcap(MIXTURE[:60]),
    make.pcap(MIXTURE[:60], order=">", nano=True),
    make.pcapng(MIXTURE[:60]),
    make.pcap([(t, f[14:]) for t, f in MIXTURE[:60]], link_type=make.RAW),
    make.pcap([(t, make.ethernet(f[14:], tags=(0x8100,))) for t, f in MIXTURE[:60]]),
]
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def _survives(look, octets, packets):
    """Look at ``octets``: findings about so many packets at most, or one line."""
    try:
        found = look(octets)
    except CaptureError as error:
        refusal = str(error)
    else:
        assert found.analysed + sum(found.skipped.values()) == found.packets <= packets
        assert found.unlisted == 0
        for flow in found.flows:
            assert flow.finding.reason
        return
    assert "\n" not in refusal


@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=40),
    st.integers(0, 10_000),
)
@FUZZ
def test_mutated_captures(look, octets, changes, end):
    broken = bytearray(octets)
    for where, value in changes:
        broken[where % len(broken)] = value
    # A changed length may let octets of one packet be read as several.
    _survives(look, bytes(broken[: len(broken) - end if end < len(broken) else None]), 10_000)


@given(st.lists(st.tuples(st.floats(0, 2**32 - 2), st.binary(max_size=140)), max_size=30))
@FUZZ
def test_random_frames(look, frames):
    for kind in (make.ETHERNET, make.RAW, make.SLL, make.SLL2, make.NULL):
        _survives(look, make.pcap(frames, link_type=kind), len(frames))


@given(st.binary(max_size=300))
@FUZZ
def test_random_octets(look, octets):
    _survives(look, octets, 20)
    _survives(look, make.pcap([]) + octets, 20)
    _survives(look, make.pcapng([]) + octets, 20)


@pytest.mark.skipif(not CIC.exists(), reason=f"no {CIC.name} in {DATA / 'pcaps'} (PHALANX_DATA)")
def test_a_recorded_syn_flood():
    found = analyse(str(CIC))
    assert names(found) == [("172.16.0.5", "192.168.50.4", "syn flood")]
    (target,) = found.targets
    assert (target.finding.target, target.finding.kind) == ("192.168.50.4", "syn flood")
    assert not target.finding.spoofed
    assert found.packets == 26_316
    assert found.unlisted == 0
