"""MMT-Security rules: packets a second by number and kind of rules, beside what only reads.

Everything on the same capture, made here: downloads, web requests, lookups, a port scan and a
SYN flood, 50 us apart. The limit is libpcap handing each packet to Python (``read``); dpkt
decodes each as far as TCP and UDP and judges nothing. Rules are either simple (one packet
decides) or sequences (four packets of one flow within 10 ms), each with a port of its own, and
the capture touches one in ten of them; and, where PHALANX_DATA has them, the public ones, a dozen
of which begin with each SYN. Best of several rounds, in CPU time, each on a fresh monitor.

Run it with ``python benchmarks/bench_mmt.py [--quick]``.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from phalanx.analytics.packets import Capture
from phalanx.policy.mmt import (
    MmtEvent,
    MmtExpression,
    MmtOperator,
    MmtRule,
    load_mmt,
    parse_expression,
)
from phalanx.policy.mmt_monitor import MmtMonitor
from tables import QUICK, extra, show

PACKETS, ROUNDS = (2_000, 1) if QUICK else (20_000, 3)
COUNTS = (1, 10) if QUICK else (1, 10, 100, 1_000)
PUBLIC = Path(os.environ.get("PHALANX_DATA", "")) / "policies" / "mmt-rules"
"""The public rules, where they are at hand: those of them run that bring no code."""
PORTS = 10_000
"""Ports of rules begin here."""
WEB = b"GET /index.html HTTP/1.1\r\nHost: www.example\r\nUser-Agent: bench\r\n\r\n"


def frame(source: str, target: str, protocol: int, body: bytes) -> bytes:
    """Return a packet on Ethernet."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0)
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    return b"\2" * 12 + b"\x08\x00" + head + ends + body


def tcp(source: str, target: str, ports: tuple[int, int], flags: int, data: bytes = b"") -> bytes:
    body = struct.pack(">HHIIBBHHH", *ports, random.getrandbits(32), 1, 0x50, flags, 512, 0, 0)
    return frame(source, target, 6, body + data)


def traffic(count: int) -> list[bytes]:
    """Return frames of the mixture."""
    rng = random.Random(1)
    random.seed(1)
    frames = []
    for number in range(count):
        user = f"10.0.{rng.randrange(4)}.{rng.randrange(1, 250)}"
        kind = rng.random()
        if kind < 0.5:
            frames.append(tcp("192.0.2.1", user, (80, 40_000), 16, b"x" * 1400))
        elif kind < 0.6:
            frames.append(tcp(user, "192.0.2.1", (40_000, 80), 24, WEB))
        elif kind < 0.7:
            frames.append(
                frame(user, "192.0.2.2", 17, struct.pack(">HHHH", 5000, 53, 40, 0) + b"q" * 32)
            )
        elif kind < 0.8:
            frames.append(
                tcp("198.51.100.9", "192.0.2.1", (5000, PORTS + number % 1_000 // 10 * 10), 2)
            )
        else:
            frames.append(tcp(f"203.0.113.{rng.randrange(1, 250)}", "192.0.2.1", (5000, 80), 2))
    return frames


def write(path: Path, frames: list[bytes]) -> None:
    """Write a capture, packets 50 us apart."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)]
    for number, octets in enumerate(frames):
        seconds, us = divmod(number * 50, 1_000_000)
        parts += [
            struct.pack("<IIII", 1_700_000_000 + seconds, us, len(octets), len(octets)),
            octets,
        ]
    path.write_bytes(b"".join(parts))


def said(text: str) -> MmtExpression:
    return parse_expression(text)


def simple(number: int) -> MmtRule:
    """Return a rule that one packet decides."""
    test = said(f"((tcp.dest_port == {PORTS + number}) && (ip.src != ip.dst))")
    both = MmtOperator("THEN", MmtEvent(1, test), MmtEvent(2, said("(tcp.flags == 2)")))
    return MmtRule(number, "ATTACK", both)


def sequence(number: int) -> MmtRule:
    """Return a rule that four packets decide: a scan of ports, as the public rule 40."""
    same = "((tcp.flags == 2) && (ip.src == ip.src.1) && (ip.dst == ip.dst.1)"
    events = [MmtEvent(1, said(f"((tcp.flags == 2) && (tcp.dest_port == {PORTS + number}))"))]
    for event in (2, 3, 4):
        others = [f"(tcp.dest_port != tcp.dest_port.{before})" for before in range(1, event)]
        events.append(MmtEvent(event, said(" && ".join([same, *others]) + ")")))
    pairs = [MmtOperator("THEN", a, b, 1, 10_000) for a, b in (events[:2], events[2:])]
    return MmtRule(number, "ATTACK", MmtOperator("THEN", pairs[0], pairs[1], 1, 10_000))


def reading(path: Path) -> int:
    """Read a capture and do nothing with it."""
    capture, count = Capture(str(path)), 0
    while packets := capture.read():
        count += len(packets)
    return count


def decoding(path: Path) -> int:
    """Decode it with dpkt."""
    dpkt = extra("dpkt")
    capture, count = Capture(str(path)), 0
    while packets := capture.read():
        for raw, _, _ in packets:
            inner = dpkt.ethernet.Ethernet(raw).data
            count += inner.data.dport >= 0
    return count


def judging(rules: list[MmtRule]) -> Callable[[Path], int]:
    """Return what runs rules on it."""

    def run(path: Path) -> int:
        capture, watch, verdicts = Capture(str(path)), MmtMonitor(rules), 0
        assert watch.rules
        while packets := capture.read():
            for raw, at, length in packets:
                verdicts += len(watch.packet(raw, at, length))
        return verdicts

    return run


def main() -> None:
    """Print the table."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bench.pcap"
        write(path, traffic(PACKETS))
        ways: list[tuple[str, Callable[[Path], int]]] = [
            ("read", reading),
            ("read, dpkt", decoding),
        ]
        for count in COUNTS:
            ways.append((f"{count:,} simple", judging([simple(n) for n in range(count)])))
            ways.append((f"{count:,} sequences", judging([sequence(n) for n in range(count)])))
        if public := [rule for file in sorted(PUBLIC.glob("*.xml")) for rule in load_mmt(file)]:
            ways.append((f"{len(MmtMonitor(public).rules)} public", judging(public)))
        rows, limit = [], 0.0
        for name, way in ways:
            took = []
            for _ in range(ROUNDS):
                began = time.process_time()
                found = way(path)
                took.append(time.process_time() - began)
            rate = PACKETS / min(took)
            limit = limit or rate
            verdicts = f"{found:,}" if name[0].isdigit() else ""
            rows.append((name, f"{rate:,.0f}", f"{limit / rate:.1f}", verdicts))
    show(
        f"{PACKETS:,} packets, one process",
        ("rules", "packets/s", "times slower than reading", "verdicts"),
        rows,
    )


if __name__ == "__main__":
    main()
