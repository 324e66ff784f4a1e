"""The attributes of packets, by protocol: values, tunnels, fragments, and any octets."""

import random
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.policy.mmt_packets import DATAGRAMS, FIELDS, MmtDecoder, shown
from tests.analytics.captures import NULL, RAW, SLL, SLL2, ethernet, ip4, ip6, link, tcp, udp
from tests.nightly import examples

A, B = "10.0.0.1", "10.0.0.9"


def read(packet, names):
    """Return attributes of a decoded packet as people write them; None where there is none."""
    values = []
    for name in names.split():
        protocol, attribute = name.split(".")
        field = FIELDS[protocol][attribute]
        at = packet.at.get(protocol)
        value = None if at is None else field.read(packet, at)
        values.append(None if value is None else shown(field.kind, value))
    return values[0] if len(values) == 1 else values


def decode(frame, link_type=1, decoder=None, length=None):
    return (decoder or MmtDecoder()).decode(frame, 5_000_000, length or len(frame), link_type)


def test_ethernet_and_meta():
    packet = decode(ethernet(ip4(A, B, 17, udp(1, 2))), length=1500)
    assert read(packet, "meta.packet_len meta.utime meta.packet_index") == [
        1500,
        5_000_000,
        1,
    ]
    assert read(packet, "ethernet.src ethernet.proto ethernet.length") == [
        "02:02:02:02:02:02",
        0x0800,
        None,
    ]
    assert read(decode(b"\2" * 12 + b"\0\x26" + b"B" * 38), "ethernet.length ethernet.proto") == [
        38,
        None,
    ]


def test_arp():
    body = struct.pack(
        ">HHBBH6s4s6s4s",
        1,
        0x800,
        6,
        4,
        2,
        b"\1" * 6,
        socket.inet_aton(A),
        b"\3" * 6,
        socket.inet_aton(B),
    )
    packet = decode(ethernet(body, kind=0x0806))
    assert read(packet, "arp.ar_op arp.ar_sha arp.ar_sip arp.ar_tha arp.ar_tip") == [
        2,
        "01:01:01:01:01:01",
        A,
        "03:03:03:03:03:03",
        B,
    ]


def test_ip_tcp_and_its_flags():
    packet = decode(ethernet(ip4(A, B, 6, tcp(5000, 80, 0x12, b"abc")) + b"\0" * 6))
    assert read(packet, "ip.src ip.dst ip.version ip.header_len ip.proto_id ip.proto_ttl") == [
        A,
        B,
        4,
        20,
        6,
        64,
    ]
    assert read(packet, "tcp.src_port tcp.dest_port tcp.flags tcp.syn tcp.ack tcp.fin") == [
        5000,
        80,
        18,
        1,
        1,
        0,
    ]
    assert read(packet, "tcp.payload_len tcp.p_payload tcp.data_offset") == [3, "abc", 5]
    assert read(packet, "udp.dest_port ip.opts_type ip.options") == [None] * 3


@pytest.mark.parametrize(
    ("options", "kind", "padding"),
    [
        (b"\7\3\4\0", 7, 0),
        (b"\1\1\0\0", 1, 0),
        (b"\7\4\0\0", 7, None),
        (b"\0\0\0\7", 0, 1),
        (b"\7\0\7\0", 7, None),
    ],
)
def test_options_of_ip(options, kind, padding):
    packet = decode(ethernet(ip4(A, B, 17, udp(1, 2), options=options)))
    assert read(packet, "ip.opts_type ip.padding_check udp.dest_port") == [kind, padding, 2]


def test_ipv6_and_its_extensions():
    hops = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    packet = decode(ethernet(ip6("2001:db8::1", "2001:db8::2", 0, hops + udp(1, 53))))
    assert read(packet, "ipv6.src ipv6.next_hdr udp.dest_port") == ["2001:db8::1", 0, 53]
    later = bytes([17, 0, 0, 9, 0, 0, 0, 7])
    assert (
        read(decode(ethernet(ip6("::1", "::2", 44, later + udp(1, 53)))), "udp.dest_port") is None
    )


def test_icmp_of_both_kinds():
    packet = decode(ethernet(ip4(A, B, 1, struct.pack(">BBHHH", 5, 1, 0, 7, 8) + b"data")))
    assert read(packet, "icmp.type icmp.code icmp.seq_nb icmp.data") == [5, 1, 8, "data"]
    assert read(decode(ethernet(ip6("::1", "::2", 58, b"\x87\0\0\0"))), "icmpv6.type") == 0x87


@pytest.mark.parametrize(("link_type", "dlt"), [(RAW, 12), (SLL, SLL), (SLL2, SLL2), (NULL, NULL)])
def test_other_links(link_type, dlt):
    packet = decode(link(ip4(A, B, 17, udp(1, 2)), link_type), dlt)
    assert read(packet, "ip.src udp.dest_port ethernet.src") == [A, 2, None]


def test_of_a_tunnel_the_inner_packet_counts():
    inner = ip4("10.1.0.1", "10.1.0.2", 17, udp(7, 8))
    gre = struct.pack(">BBHII", 0x30, 0, 0x0800, 1, 2) + inner
    packet = decode(ethernet(ip4(A, B, 47, gre), tags=(0x8100,)))
    assert read(packet, "8021q.vid gre.kflag gre.sflag ip.src udp.src_port") == [
        5,
        1,
        1,
        "10.1.0.1",
        7,
    ]
    assert read(decode(ethernet(ip4(A, B, 47, b"\0\3" + gre[2:]))), "gre.version ip.src") == [
        3,
        A,
    ]
    assert read(decode(ethernet(ip4(A, B, 4, inner))), "ip.src") == "10.1.0.1"
    gtp = struct.pack(">BBHI", 0x34, 255, len(inner) + 8, 99) + b"\0\0\0\x85" + b"\1\0\5\0" + inner
    packet = decode(ethernet(ip4(A, B, 17, udp(2152, 2152, gtp))))
    assert read(packet, "gtp.teid gtp.msg_type ip.src") == [99, 255, "10.1.0.1"]


def test_http():
    head = b"GET /a b?x=1 HTTP/1.1\r\nHost: h.example\r\nUser-Agent:  x y \r\n"
    head += b"Content-Length: 3\r\n\r\nabc"
    packet = decode(ethernet(ip4(A, B, 6, tcp(5000, 8080, 24, head))))
    assert read(packet, "http.method http.uri http.host http.user_agent http.content_len") == [
        "GET",
        "/a b?x=1",
        "h.example",
        "x y",
        "3",
    ]
    answer = decode(
        ethernet(ip4(B, A, 6, tcp(80, 5000, 24, b"HTTP/1.0 404 Not Found\r\nServer: s\r\n\r\n")))
    )
    assert read(answer, "http.response http.server http.method") == [
        "404 Not Found",
        "s",
        None,
    ]
    assert (
        read(decode(ethernet(ip4(A, B, 6, tcp(1, 80, 24, b"GET nothing")))), "http.method") is None
    )


def test_a_segment_that_is_sent_again_is_read_once():
    decoder = MmtDecoder()
    frame = ethernet(ip4(A, B, 6, tcp(5000, 80, 24, b"GET / HTTP/1.1\r\n\r\n")))
    other = ethernet(ip4(A, B, 6, tcp(5000, 80, 24, b"PUT / HTTP/1.1\r\n\r\n")))
    found = [read(decode(f, decoder=decoder), "http.method") for f in (frame, frame, other)]
    assert found == ["GET", None, "PUT"]


def test_ftp_dns_and_ports():
    asked = decode(ethernet(ip4(A, B, 6, tcp(5000, 21, 24, b"PORT 1,2,3,4,5,6\r\n"))))
    assert read(asked, "ftp.packet_request ftp.packet_request_parameter") == [
        "PORT",
        "1,2,3,4,5,6",
    ]
    said = decode(ethernet(ip4(B, A, 6, tcp(21, 5000, 24, b"230 Welcome\r\n"))))
    assert read(said, "ftp.packet_response_code ftp.packet_reponse_value") == [230, "Welcome"]
    dns = struct.pack(">HHHHHH", 7, 0x8183, 1, 2, 3, 4)
    packet = decode(ethernet(ip4(B, A, 17, udp(53, 9999, dns))))
    assert read(packet, "dns.tid dns.qr dns.rcode dns.ancount") == [7, 1, 3, 2]
    assert read(decode(ethernet(ip4(A, B, 6, tcp(1, 22, 24, b"SSH-2.0")))), "ssh.packet_count") == 1


def data_chunk(payload, ppid):
    return struct.pack(">BBHIHHI", 0, 3, 16 + len(payload), 77, 3, 4, ppid) + payload


def test_sctp_and_the_protocols_of_5g():
    heartbeat = struct.pack(">BBH", 4, 0, 4)
    nas = bytes.fromhex("7e04a1b2c3d4057e005e")
    ies = struct.pack(">HBB", 10, 0, 2) + b"\0\7" + struct.pack(">HBB", 85, 0, 5) + b"\xc0\1\2\3\4"
    ies += struct.pack(">HBB", 38, 0, len(nas) + 1) + bytes([len(nas)]) + nas
    ngap = b"\0\x2e\x40" + bytes([len(ies) + 3]) + b"\0\0\3" + ies
    body = struct.pack(">HHII", 9999, 38412, 1, 2) + heartbeat + data_chunk(ngap, 60)
    packet = decode(ethernet(ip4(A, B, 132, body)))
    assert read(packet, "sctp.dest_port sctp.ch_type") == [38412, 4]
    assert read(packet, "sctp_data.data_ppid sctp_data.data_tsn sctp_data.data_stream") == [
        60,
        77,
        3,
    ]
    assert read(packet, "ngap.procedure_code ngap.pdu_present ngap.amf_ue_id ngap.ran_ue_id") == [
        46,
        0,
        7,
        0x01020304,
    ]
    assert read(
        packet,
        "nas_5g.security_type nas_5g.message_type nas_5g.sequence_number "
        "nas_5g.message_authentication_code",
    ) == [4, 0x5E, 5, 0xA1B2C3D4]
    init = struct.pack(">HHII", 1, 2, 0, 0) + struct.pack(">BBHIIHHI", 1, 0, 20, 5, 6, 7, 8, 9)
    assert read(
        decode(ethernet(ip4(A, B, 132, init))), "sctp.ch_type sctp_init.init_num_in_streams"
    ) == [1, 8]


def test_dicom():
    request = struct.pack(
        ">BBIHH16s16s", 1, 0, 200, 1, 0, b"CALLED".ljust(16), b"CALLING".ljust(16)
    )
    packet = decode(ethernet(ip4(A, B, 6, tcp(5000, 104, 24, request))))
    assert read(
        packet, "dicom.pdu_type dicom.pdu_len dicom.called_ae_title dicom.proto_version"
    ) == [
        1,
        200,
        "CALLED",
        1,
    ]
    command = b"".join(
        struct.pack("<HHI", 0, element, 2) + struct.pack("<H", value)
        for element, value in ((0x100, 0x20), (0x110, 7), (0x800, 0x101), (0x900, 0xDEAD))
    )
    pdv = struct.pack(">BBIIBB", 4, 0, len(command) + 6, len(command) + 2, 3, 3) + command
    packet = decode(ethernet(ip4(A, B, 6, tcp(5000, 11112, 24, pdv))))
    assert read(packet, "dicom.command_field dicom.message_id dicom.status dicom.pdv_flags") == [
        0x20,
        7,
        0xDEAD,
        3,
    ]
    data = pdv[:11] + b"\2" + pdv[12:]
    packet = decode(ethernet(ip4(A, B, 6, tcp(5000, 11112, 24, data))))
    assert read(packet, "dicom.pdv_flags dicom.command_field") == [2, None]


def fragments(payload, size, *, source=A, number=7):
    whole = [(at, payload[at : at + size]) for at in range(0, len(payload), size)]
    return [
        ethernet(
            ip4(source, B, 17, part, fragment=at // 8 | (0x2000 if at + size < len(payload) else 0))
        )
        for at, part in whole
    ]


@pytest.mark.parametrize("seed", range(4))
def test_fragments_are_put_together_in_any_order(seed):
    payload = udp(5000, 6000, bytes(range(200)))
    frames = fragments(payload, 32)
    random.Random(seed).shuffle(frames)
    decoder = MmtDecoder()
    packets = [decode(frame, decoder=decoder) for frame in frames]
    assert [read(packet, "udp.dest_port") for packet in packets[:-1]] == [None] * (len(frames) - 1)
    assert FIELDS["udp"]["p_payload"].read(packets[-1], packets[-1].at["udp"]) == bytes(range(200))
    assert read(packets[-1], "meta.packet_len ip.ip_frag_packets_count") == [
        34 + len(payload),
        len(frames),
    ]


def test_fragments_that_never_become_whole_are_bounded():
    decoder = MmtDecoder()
    for number in range(DATAGRAMS + 50):
        source = f"10.9.{number // 250}.{number % 250 + 1}"
        decode(fragments(udp(1, 2, b"x" * 64), 32, source=source)[0], decoder=decoder)
    assert decoder.shed == 50
    overlapping = [ethernet(ip4(A, B, 17, b"y" * 1400, fragment=0x2000 | at)) for at in range(200)]
    for frame in overlapping:
        decode(frame, decoder=decoder)
    assert sum(len(o) for parts in decoder._fragments.values() for o, _ in parts.values()) < 200_000


SAMPLES = [
    ethernet(ip4(A, B, 6, tcp(5000, 80, 24, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))),
    ethernet(
        ip6(
            "::1",
            "::2",
            0,
            bytes([17, 0, 1, 4, 0, 0, 0, 0]) + udp(2152, 2152, b"\x34\xff" + b"\5" * 40),
        )
    ),
    ethernet(
        ip4(
            A,
            B,
            132,
            struct.pack(">HHII", 1, 2, 0, 0) + data_chunk(b"\0\x0f\x40\x20" + b"\0" * 40, 60),
        )
    ),
    ethernet(
        ip4(A, B, 6, tcp(1, 104, 24, bytes([4, 0, 0, 0, 0, 30, 0, 0, 0, 26, 1, 3]) + b"\0" * 40))
    ),
    ethernet(ip4(A, B, 47, b"\x30\0\x65\x58" + b"\2" * 60, options=b"\7\3\4\0")),
]


@settings(max_examples=examples(80), deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.integers(0, 120),
)
def test_any_octets_are_read_without_failing(sample, changes, cut):
    raw = bytearray(sample)
    for at, value in changes:
        raw[at % len(raw)] = value
    packet = decode(bytes(raw[:cut] if cut % 3 else raw))
    for protocol in packet.at:
        for name in FIELDS[protocol]:
            read(packet, f"{protocol}.{name}")
