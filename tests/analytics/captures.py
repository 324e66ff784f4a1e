"""Captures made by hand: packets, link layers, and both file formats."""

import socket
import struct

SYN, ACK, RST, FIN, PSH = 2, 16, 4, 1, 8
ETHERNET, RAW, SLL, SLL2, NULL = 1, 101, 113, 276, 0


def tcp(sport, dport, flags, data=b"", options=b""):
    offset = (20 + len(options)) // 4 << 4
    return struct.pack(">HHIIBBHHH", sport, dport, 1, 1, offset, flags, 512, 0, 0) + options + data


def udp(sport, dport, data=b""):
    return struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data


def ip4(source, target, protocol, body, *, options=b"", fragment=0):
    header = 5 + len(options) // 4
    return (
        struct.pack(">BBHHHBBH", 0x40 | header, 0, header * 4 + len(body), 7, fragment, 64,
                    protocol, 0)
        + socket.inet_aton(source) + socket.inet_aton(target) + options + body
    )  # fmt: skip


def ip6(source, target, protocol, body):
    pton = socket.inet_pton
    ends = pton(socket.AF_INET6, source) + pton(socket.AF_INET6, target)
    return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + ends + body


def ethernet(packet, *, kind=None, tags=()):
    if kind is None:
        kind = 0x86DD if packet and packet[0] >> 4 == 6 else 0x0800
    vlan = b"".join(struct.pack(">HH", tag, 5) for tag in tags)
    return b"\2" * 12 + vlan + struct.pack(">H", kind) + packet


def link(packet, link_type):
    """Wrap an IPv4 packet for a link type."""
    return {
        ETHERNET: lambda: ethernet(packet),
        RAW: lambda: packet,
        SLL: lambda: struct.pack(">HHH8sH", 0, 1, 6, b"\2" * 8, 0x0800) + packet,
        SLL2: lambda: struct.pack(">HHIHBB8s", 0x0800, 0, 1, 1, 0, 6, b"\2" * 8) + packet,
        NULL: lambda: struct.pack("=I", 2) + packet,
    }[link_type]()


def pcap(frames, *, order="<", nano=False, link_type=ETHERNET, snap=65535):
    """Return a file of ``(seconds, frame)``."""
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link_type)]
    for time, frame in frames:
        held = frame[:snap]
        fraction = round(time % 1 * (1e9 if nano else 1e6))
        parts.append(struct.pack(order + "IIII", int(time), fraction, len(held), len(frame)))
        parts.append(held)
    return b"".join(parts)


def _block(order, kind, body):
    body += b"\0" * (-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def pcapng(frames, *, order="<", link_types=(ETHERNET,)):
    parts = [_block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    parts += [_block(order, 1, struct.pack(order + "HHI", kind, 0, 65535)) for kind in link_types]
    for time, frame in frames:
        stamp = round(time * 1e6)
        head = struct.pack(
            order + "IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame)
        )
        parts.append(_block(order, 6, head + frame))
    return b"".join(parts)


def handshake(at, source, target="10.0.0.1", sport=40000, dport=80, *, answer=True, close=True):
    """Return the packets of one connection, times in seconds."""
    there = [tcp(sport, dport, SYN), tcp(sport, dport, ACK), tcp(sport, dport, ACK | PSH, b"GET")]
    back = [tcp(dport, sport, SYN | ACK)]
    if answer:
        back.append(tcp(dport, sport, ACK | PSH, b"200"))
    if close:
        back.append(tcp(dport, sport, ACK | FIN))
    frames = [ip4(source, target, 6, there[0]), ip4(target, source, 6, back[0])]
    frames += [ip4(source, target, 6, body) for body in there[1:]]
    frames += [ip4(target, source, 6, body) for body in back[1:]]
    return [(at + i * 1e-3, frame) for i, frame in enumerate(frames)]


def syn_flood(at, source, count, target="10.0.0.1", rate=1000.0):
    """Return SYNs from ``source`` (a name, or a function of the number)."""
    name = source if callable(source) else lambda _: source
    return [
        (at + i / rate, ip4(name(i), target, 6, tcp(1024 + i % 60000, 80, SYN)))
        for i in range(count)
    ]


def mixture():
    """Return a flood among users, as times and Ethernet frames."""
    packets = syn_flood(1000.0, "6.6.6.6", 2000)
    for user in range(50):
        packets += handshake(1000.0 + user * 0.03, f"1.1.1.{user + 1}", sport=50000 + user)
    return [(time, ethernet(packet)) for time, packet in sorted(packets)]
