"""Datagrams of exporters: what they say, and that no octets raise."""

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.analytics import flow_exports
from phalanx.analytics.flow_exports import ExportReader
from tests.analytics import captures as make
from tests.analytics import exports as ex
from tests.analytics.exports import BOOT, NOW, V4, Record, ipfix, one_set, row, template, v9
from tests.nightly import examples

ONE = Record("10.0.0.1", "10.0.0.2", 1000, 80, 6, 18, 3, 200, 1.0, 2.5)
HEX = {"netflow5": ex.netflow5([ONE])[0], "netflow9": ex.netflow9([ONE])[0]} | {
    "ipfix": ex.ipfix_flows([ONE])[0],
    "sflow": ex.sflow([(2.5, make.ip4("10.0.0.1", "10.0.0.2", 6, make.tcp(1000, 80, 18)))], 7)[0],
}


def read(*datagrams, reader=None, source="192.0.2.1", at=NOW + 10.0):
    """Return the reader, and all flows and packets of the datagrams."""
    reader = reader or ExportReader()
    flows, packets = [], []
    for datagram in datagrams:
        found = reader.read(source, datagram, at)
        if found is not None:
            flows += found[1]
            packets += found[2]
    return reader, flows, packets


def names(flow):
    key = flow.key
    return (
        socket.inet_ntoa(key[12:16]),
        int.from_bytes(key[16:18]),
        socket.inet_ntoa(key[30:34]),
        int.from_bytes(key[34:36]),
        key[36],
    )


@pytest.mark.parametrize("way", ["netflow5", "netflow9", "ipfix"])
@pytest.mark.parametrize("rate", [0, 100])
def test_a_flow_is_read_with_its_times_and_its_sampling(way, rate):
    send = {"netflow5": ex.netflow5, "netflow9": ex.netflow9, "ipfix": ex.ipfix_flows}[way]
    ((_, datagram),) = send([ONE], rate, wait=3.5)
    reader, (flow,), _ = read(datagram, at=NOW + 42.0)
    assert names(flow) == ("10.0.0.1", 1000, "10.0.0.2", 80, 6)
    assert (flow.flags, flow.packets, flow.octets, flow.rate) == (18, 3, 200, rate or 1)
    assert flow.age_s == pytest.approx(3.5, abs=0.01)
    assert flow.lasted_s == pytest.approx(1.5, abs=0.01)
    exporter = reader.exporters["192.0.2.1"]
    assert (exporter.flows, exporter.lost, exporter.rates) == (1, 0, {rate} if rate else set())
    assert exporter.skew_s == pytest.approx(36.0)
    assert not reader.dropped


@pytest.mark.parametrize("expanded", [False, True])
def test_a_sampled_packet_is_read(expanded):
    frame = make.ethernet(make.ip4("10.0.0.1", "10.0.0.2", 6, make.tcp(1, 80, 2, b"x" * 500)))
    counters = struct.pack(">II", 2, 4) + b"\0" * 4
    datagram = ex.sflow_datagram([counters, ex.sflow_sample(frame, 512, expanded=expanded)])
    reader, _, (packet,) = read(datagram)
    assert (packet.head, packet.length, packet.rate) == (frame[:128], len(frame), 512)
    assert reader.exporters["192.0.2.1"].counters == 1


def test_uptime_may_wrap():
    late = Record("1.1.1.1", "2.2.2.2", 1, 2, 17, 0, 1, 99)
    late.first = late.last = ((1 << 32) - BOOT - 500) / 1000
    for send in (ex.netflow5, ex.netflow9):
        _, (flow,), _ = read(send([late], wait=1.0)[0][1])
        assert flow.age_s == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("way", ["netflow5", "netflow9", "ipfix"])
@pytest.mark.parametrize(("first", "last"), [(5.0, 4.0), (0.0, 90.0), (0.0, -90_000.0)])
def test_times_without_sense_are_refused(way, first, last):
    send = {"netflow5": ex.netflow5, "netflow9": ex.netflow9, "ipfix": ex.ipfix_flows}[way]
    odd = Record("1.1.1.1", "2.2.2.2", 1, 2, 17, 0, 1, 99, first, last)
    ((_, datagram),) = send([odd], wait=-last)  # exported at second 0
    reader, flows, _ = read(datagram)
    assert not flows
    assert reader.dropped["flows at times without sense"] == 1


def test_unknown_exporters_are_refused_and_counted():
    reader = ExportReader(["192.0.2.1"])
    assert read(HEX["netflow5"][1], reader=reader, source="192.0.2.66")[1] == []
    assert read(HEX["netflow5"][1], reader=reader)[1]
    assert reader.dropped == {"datagrams of unknown exporters": 1}
    assert list(reader.exporters) == ["192.0.2.1"]


def test_templates_belong_to_their_exporter_and_domain():
    told, rows = one_set(0, template(256, V4)), one_set(256, row(ONE))
    reader, flows, _ = read(v9(1, [told], 0, 7), v9(1, [rows], 0, 8))
    assert not flows
    assert reader.dropped["sets of records before their template"] == 1
    assert not read(v9(1, [rows], 1, 7), reader=reader, source="192.0.2.2")[1]
    assert len(read(v9(1, [rows], 1, 7), reader=reader)[1]) == 1
    assert not read(ipfix(1, [rows], 0, 7), reader=reader)[1], "NetFlow 9 and IPFIX do not share"


def test_a_template_may_change_and_be_withdrawn():
    told, rows = one_set(2, template(256, V4)), one_set(256, row(ONE))
    reader, flows, _ = read(ipfix(1, [told, rows]))
    assert flows[0].packets == 3
    other = one_set(2, template(256, [(12, 4), (8, 4), *V4[2:]]))
    _, (swapped,), _ = read(ipfix(1, [other, rows], 1), reader=reader)
    assert names(swapped)[0] == "10.0.0.2"
    for withdrawn in (one_set(2, struct.pack(">HH", 256, 0)), one_set(2, struct.pack(">HH", 2, 0))):
        read(ipfix(1, [told]), reader=reader)
        assert not read(ipfix(1, [withdrawn, rows]), reader=reader)[1]
    assert reader.dropped["sets of records before their template"] == 2


def test_enterprise_fields_and_those_of_variable_length_are_passed_over():
    fields = [(0x8000 | 7, 65535, 9), (82, 65535), *V4, (0x8000 | 5, 4, 99)]
    record = b"\3abc" + b"\xff\x01\x00" + b"n" * 256 + row(ONE) + b"\0" * 4
    sets = [one_set(2, template(256, fields)), one_set(256, record * 2)]
    _, flows, _ = read(ipfix(1, sets))
    assert [names(flow) for flow in flows] == [("10.0.0.1", 1000, "10.0.0.2", 80, 6)] * 2


def test_the_way_back_of_a_biflow_is_a_flow():
    back = [(0x8000 | kind, 4, 29305) for kind in (2, 1)] + [(0x8000 | 6, 1, 29305)]
    sets = [
        one_set(2, template(256, V4 + back)),
        one_set(256, row(ONE) + struct.pack(">IIB", 9, 900, 24)),
    ]
    _, (there, here), _ = read(ipfix(1, sets))
    assert names(there)[0] == names(here)[2] == "10.0.0.1"
    assert (here.packets, here.octets, here.flags) == (9, 900, 24)


def test_running_totals_count_once():
    fields = [(86 if kind == 2 else 85 if kind == 1 else kind, size) for kind, size in V4]
    told = one_set(2, template(256, fields))
    reader = ExportReader()
    seen = []
    for total in (10, 25, 25, 3):  # the last: a new flow with these ends
        grown = Record("10.0.0.1", "10.0.0.2", 1000, 80, 6, 16, total, total * 100)
        seen += [
            f.packets for f in read(ipfix(1, [told, one_set(256, row(grown))]), reader=reader)[1]
        ]
    assert seen == [10, 15, 3]


def test_flags_that_are_not_exported_say_nothing():
    fields = [field for field in V4 if field[0] != 6]
    octets = row(ONE)[:13] + row(ONE)[14:]
    reader, (flow,), _ = read(v9(1, [one_set(0, template(256, fields)), one_set(256, octets)]))
    assert flow.flags == 18
    assert sum(reader.dropped.values()) == 1


def test_sequence_numbers_show_what_is_lost():
    reader = ExportReader()
    for sequence in (0, 30, 90, 60, 120):
        for _, datagram in ex.netflow5([ONE] * 30, sequence=sequence):
            read(datagram, reader=reader)
    exporter = reader.exporters["192.0.2.1"]
    assert (exporter.lost, exporter.reordered, exporter.restarts) == (0, 1, 0)
    read(ex.netflow5([ONE], sequence=200)[0][1], reader=reader)
    assert exporter.lost == 50
    read(ex.netflow5([ONE], sequence=(1 << 31) + 500)[0][1], reader=reader)
    assert exporter.restarts == 1


def test_a_router_that_begins_anew_is_noticed():
    reader = ExportReader()
    read(v9(1, [], 1_000_000), v9(1, [], 0), v9(1, [], 1), reader=reader)
    exporter = reader.exporters["192.0.2.1"]
    assert (exporter.lost, exporter.restarts) == (0, 1)


def test_what_a_hostile_exporter_can_make_grow_is_bounded(monkeypatch):
    for name in ("EXPORTERS", "DOMAINS", "TEMPLATES", "SAMPLERS", "TOTALS"):
        monkeypatch.setattr(flow_exports, name, 4)
    reader = ExportReader()
    told = b"".join(template(256 + number, V4) for number in range(20))
    for domain in range(20):
        read(v9(1, [one_set(0, told)], 0, domain), reader=reader)
    exporter = reader.exporters["192.0.2.1"]
    assert len(exporter.sources) == 4
    assert all(len(source.templates) == 4 for source in exporter.sources.values())
    assert reader.dropped["templates of too many"] == 64
    assert reader.dropped["datagrams of too many sources of one exporter"] == 16
    for number in range(20):
        read(HEX["netflow5"][1], reader=reader, source=f"10.0.0.{number}")
    assert len(reader.exporters) == 4
    fields = [(86 if kind == 2 else kind, size) for kind, size in V4]
    rows = b"".join(row(Record("1.1.1.1", "2.2.2.2", p, 80, 6, 2, 1, 40)) for p in range(50))
    reader, flows, _ = read(ipfix(1, [one_set(2, template(256, fields)), one_set(256, rows)]))
    assert len(flows) == 50
    (source,) = reader.exporters["192.0.2.1"].sources.values()
    assert len(source.totals) == 4


MALFORMED = {
    "no known protocol": [b"", b"\0", b"\0\7hello", b"\0\0\0\4" + b"\0" * 60],
    "cut short": [
        HEX["netflow5"][1][:-1],
        HEX["sflow"][1][:-5],
        HEX["ipfix"][1][:-4],
        HEX["netflow9"][1][:11],
        struct.pack(">HHIIIIBBH", 5, 0, 0, 0, 0, 0, 0, 0, 0),
    ],
    "set of wrong length": [
        v9(1, [struct.pack(">HH", 256, 3)]),
        v9(1, [struct.pack(">HH", 256, 400)]),
        ipfix(1, [struct.pack(">HH", 2, 0)]),
    ],
    "no known kind": [v9(1, [one_set(7, b"")]), ipfix(1, [one_set(0, b"")])],
    "template without sense": [
        v9(1, [one_set(0, struct.pack(">HH", 5, 1) + b"\0\1\0\4")]),
        v9(1, [one_set(0, struct.pack(">HH", 256, 9999))]),
        v9(1, [one_set(0, template(256, [(9, 0)]))]),
        v9(1, [one_set(0, template(256, [(99, 40_000)] * 2))]),
    ],
    "sampling rate without sense": [
        ex.sflow_datagram([ex.sflow_sample(b"x" * 60, 0)]),
        ex.sflow_datagram([ex.sflow_sample(b"x" * 60, 1 << 25)]),
    ],
    "without an address": [struct.pack(">II", 5, 3) + b"\0" * 40],
}


@pytest.mark.parametrize(
    ("why", "datagram"), [(why, each) for why, some in MALFORMED.items() for each in some]
)
def test_what_is_malformed_is_dropped_by_reason(why, datagram):
    reader, flows, packets = read(datagram)
    assert not flows
    assert not packets
    ((reason, count),) = reader.dropped.items()
    assert why in reason
    assert count == 1


@settings(max_examples=examples(160), deadline=None)
@given(st.data())
def test_no_octets_raise(data):
    """Whole datagrams with octets changed, cut out or doubled, after good templates."""
    reader = ExportReader(sampling=3)
    read(HEX["netflow9"][1], HEX["ipfix"][1], reader=reader)
    good = data.draw(st.sampled_from([each for _, each in HEX.values()]))
    octets = bytearray(good)
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(octets)))
        what = data.draw(st.sampled_from(["change", "cut", "double", "insert"]))
        if what == "change" and at < len(octets):
            octets[at] = data.draw(st.sampled_from([0, 1, 2, 4, 127, 128, 254, 255]))
        elif what == "cut":
            del octets[at : at + data.draw(st.integers(1, 8))]
        elif what == "double":
            octets[at:at] = octets[at : at + 8]
        else:
            octets[at:at] = data.draw(st.binary(max_size=8))
    _, flows, packets = read(bytes(octets), reader=reader)
    assert all(flow.packets >= 0 and len(flow.key) == 37 for flow in flows)
    assert all(packet.length >= 0 for packet in packets)


@settings(max_examples=examples(120), deadline=None)
@given(st.sampled_from([b"\0\5", b"\0\x09", b"\0\x0a", b"\0\0\0\5", b""]), st.binary(max_size=200))
def test_no_random_octets_raise(head, octets):
    read(head + octets)
