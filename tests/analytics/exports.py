"""Exporters made by hand: flow caches and samplers, and the datagrams that they send."""

import random
import socket
import struct
from dataclasses import dataclass

from tests.analytics import captures as make

BOOT, NOW = 1_000_000, 2_000_000_000
"""Milliseconds of uptime at second 0 of a capture, and the second of 1970 that it is."""
V4 = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (6, 1), (2, 8), (1, 8)]


@dataclass
class Record:
    """One direction of a flow."""

    source: str
    target: str
    sport: int
    dport: int
    protocol: int
    flags: int = 0
    packets: int = 0
    octets: int = 0
    first: float = 0.0
    last: float = 0.0


def cache(packets):
    """Return the flow records of (time, IPv4 packet)."""
    flows = {}
    for at, packet in packets:
        header = (packet[0] & 15) * 4
        protocol = packet[9]
        source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        sport, dport = struct.unpack_from(">HH", packet, header)
        key = source, target, sport, dport, protocol
        flow = flows.setdefault(key, Record(*key, first=at))
        flow.flags |= packet[header + 13] if protocol == 6 else 0
        flow.packets += 1
        flow.octets += len(packet)
        flow.last = at
    return sorted(flows.values(), key=lambda flow: flow.last)


def sampled(packets, rate, seed=1):
    """Return 1 in ``rate`` of the packets, chosen at random."""
    rng = random.Random(seed)
    return [packet for packet in packets if rng.random() * rate < 1]


def chunks(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def up(at):
    return BOOT + round(at * 1000) & 0xFFFFFFFF


def netflow5(records, rate=0, sequence=0, wait=0.0):
    """Return (time, datagram), sent ``wait`` seconds after the last flow in each."""
    sent = []
    for group in chunks(records, 30):
        at = max(each.last for each in group) + wait
        sampling = 0x4000 | rate if rate else 0
        head = (5, len(group), up(at), NOW + int(at), 0, sequence, 0, 7, sampling)
        body = [struct.pack(">HHIIIIBBH", *head)]
        body += [
            struct.pack(
                ">4s4sIHHIIIIHHBBBBHHBBH",
                *(socket.inet_aton(r.source), socket.inet_aton(r.target), 0, 1, 2),
                *(r.packets, r.octets, up(r.first), up(r.last), r.sport, r.dport),
                *(0, r.flags, r.protocol, 0, 0, 0, 0, 0, 0),
            )
            for r in group
        ]
        sent.append((at, b"".join(body)))
        sequence += len(group)
    return sent


def one_set(kind, body):
    body += b"\0" * (-len(body) % 4)
    return struct.pack(">HH", kind, 4 + len(body)) + body


def template(number, fields):
    return struct.pack(">HH", number, len(fields)) + b"".join(
        struct.pack(">HH", *field) if len(field) == 2 else struct.pack(">HHI", *field)
        for field in fields
    )


def row(record):
    return struct.pack(
        ">4s4sHHBBQQ",
        *(socket.inet_aton(record.source), socket.inet_aton(record.target), record.sport),
        *(record.dport, record.protocol, record.flags, record.packets, record.octets),
    )


def v9(at, sets, sequence=0, domain=0):
    head = struct.pack(">HHIIII", 9, len(sets), up(at), NOW + int(at), sequence, domain)
    return head + b"".join(sets)


def ipfix(at, sets, sequence=0, domain=0):
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), NOW + int(at), sequence, domain) + body


def netflow9(records, rate=0, wait=0.0):
    fields = [*V4, (22, 4), (21, 4)]
    told = struct.pack(">HHHHHHHHH", 300, 4, 8, 1, 4, 34, 4, 35, 1) + struct.pack(
        ">IIB", 0, rate, 2
    )
    sent = []
    for number, group in enumerate(chunks(records, 20)):
        at = max(each.last for each in group) + wait
        sets = [one_set(0, template(256, fields))]
        if rate:
            sets += [one_set(1, told[:18]), one_set(300, told[18:])]
        rows = (row(r) + struct.pack(">II", up(r.first), up(r.last)) for r in group)
        sent.append((at, v9(at, [*sets, one_set(256, b"".join(rows))], number)))
    return sent


def ipfix_flows(records, rate=0, wait=0.0, sequence=0):
    fields = [*V4, (152, 8), (153, 8)]
    told = struct.pack(">HHHHHHHHH", 300, 3, 1, 149, 4, 305, 4, 306, 4)
    sent = []
    for group in chunks(records, 20):
        at = max(each.last for each in group) + wait
        sets, count = [one_set(2, template(256, fields))], len(group)
        if rate:
            sets += [one_set(3, told), one_set(300, struct.pack(">III", 0, 1, rate - 1))]
            count += 1
        rows = (
            row(r) + struct.pack(">QQ", *(NOW * 1000 + round(t * 1000) for t in (r.first, r.last)))
            for r in group
        )
        sent.append((at, ipfix(at, [*sets, one_set(256, b"".join(rows))], sequence)))
        sequence += count
    return sent


def sflow_sample(frame, rate, *, expanded=False, protocol=1, head=128):
    """Return a flow sample of a frame."""
    first = frame[:head]
    raw = struct.pack(">IIII", protocol, len(frame) + 4, 4, len(first)) + first
    raw += b"\0" * (-len(raw) % 4)
    if expanded:
        body = struct.pack(">IIIIIIIIIII", 1, 0, 3, rate, rate, 0, 0, 3, 0, 4, 1)
    else:
        body = struct.pack(">IIIIIIII", 1, 3, rate, rate, 0, 3, 4, 1)
    body += struct.pack(">II", 1, len(raw)) + raw
    return struct.pack(">II", 3 if expanded else 1, len(body)) + body


def sflow_datagram(samples, sequence=1):
    head = struct.pack(">II4sIIII", 5, 1, b"\1\2\3\4", 0, sequence, 5000, len(samples))
    return head + b"".join(samples)


def sflow(packets, rate):
    """Return datagrams of the (time, IPv4 packet) that were chosen already."""
    sent = []
    for number, group in enumerate(chunks(packets, 8)):
        samples = [
            sflow_sample(make.ethernet(packet), rate, expanded=place % 2 == 1)
            for place, (_, packet) in enumerate(group)
        ]
        sent.append((group[-1][0], sflow_datagram(samples, number + 1)))
    return sent


def exported(packets, way, rate=1, wait=1.0):
    """Return the datagrams of an exporter by a protocol that sees those packets."""
    chosen = sampled(packets, rate) if rate > 1 else packets
    if way == "sflow":
        return sflow(chosen, rate)
    exporter = {"netflow5": netflow5, "netflow9": netflow9, "ipfix": ipfix_flows}[way]
    return exporter(cache(chosen), rate if rate > 1 else 0, wait=wait)


WAYS = ("sflow", "netflow5", "netflow9", "ipfix")


def pcap(sent, source="192.0.2.1", port=2055):
    """Return a capture of datagrams on their way to a collector."""
    return make.pcap(
        [
            (NOW + at, make.ethernet(make.ip4(source, "192.0.2.9", 17, make.udp(4000, port, data))))
            for at, data in sent
        ]
    )
