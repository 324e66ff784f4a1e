"""Captures: packets/s and memory of ``phalanx detect``, beside a loop over dpkt.

The loop is what a user would write by hand: parse each packet, count SYNs and their answers by
source. It says nothing about how sure one can be, and has a counter for every source there is.
The captures are floods from random sources, the worst case for a table of flows, and from 8
sources among users. Every figure is a fresh process, all in one run, on the same files.

Run it with ``python benchmarks/bench_detect.py [--quick]``.
"""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from phalanx.analytics.capture import analyse
from tables import QUICK, console, extra, show

SIZES = (10_000, 50_000) if QUICK else (100_000, 1_000_000)
RATE = 25_000
"""Packets/s in the captures."""


class Figures(msgspec.Struct):
    """What one process measured."""

    packets: int
    seconds: float
    rss_mb: float
    """Peak of the whole process."""
    base_mb: float
    """Peak before the file was opened."""


def random_sources(count: int) -> Iterator[bytes]:
    """Yield SYNs from addresses drawn at random."""
    draw = random.Random(1)
    for _ in range(count):
        yield _frame(draw.getrandbits(32), 0x0A000001, draw.randrange(1024, 65536), 80, 2)


def eight_sources(count: int) -> Iterator[bytes]:
    """Yield SYNs of 8 sources; each fifth packet belongs to a connection of a user."""
    draw = random.Random(1)
    for number in range(count):
        if number % 5:
            yield _frame(0x06060600 + number % 8, 0x0A000001, draw.randrange(1024, 65536), 80, 2)
            continue
        turn, user = number // 5 % 3, number // 15
        port = 1024 + user // 500 % 60_000
        ends = (0x01010000 + user % 500, 0x0A000001, port, 80)
        yield (
            _frame(0x0A000001, ends[0], 80, port, 18) if turn == 1 else _frame(*ends, 2 + 7 * turn)
        )


def _frame(source: int, target: int, sport: int, dport: int, flags: int) -> bytes:
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 40, 7, 0, 64, 6, 0, source, target)
    tcp = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 0x50, flags, 5840, 0, 0)
    return b"\2" * 12 + b"\x08\0" + ip + tcp + b"\0" * 6


def write(file: Path, frames: Iterator[bytes]) -> None:
    """Write a capture."""
    with file.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number, frame in enumerate(frames):
            second, part = divmod(number, RATE)
            head = struct.pack("<IIII", second, part * 1_000_000 // RATE, len(frame), len(frame))
            out.write(head + frame)


def phalanx(file: str) -> int:
    """Run the detectors; return the packets read."""
    return analyse(file).packets


def by_hand(file: str) -> int:
    """Count SYNs and acknowledgements by source; return the packets read."""
    dpkt = extra("dpkt")
    asked: Counter[tuple[bytes, bytes]] = Counter()
    completed: Counter[tuple[bytes, bytes]] = Counter()
    packets = 0
    with Path(file).open("rb") as octets:
        for _, frame in dpkt.pcap.Reader(octets):
            packets += 1
            ip = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(ip, dpkt.ip.IP) or not isinstance(ip.data, dpkt.tcp.TCP):
                continue
            flags = ip.data.flags & (dpkt.tcp.TH_SYN | dpkt.tcp.TH_ACK)
            if flags == dpkt.tcp.TH_SYN:
                asked[ip.src, ip.dst] += 1
            elif flags == dpkt.tcp.TH_ACK:
                completed[ip.src, ip.dst] += 1
    assert any(asked[pair] > 20 * completed[pair] for pair in asked)
    return packets


WAYS: dict[str, Callable[[str], int]] = {"phalanx detect": phalanx, "dpkt, by hand": by_hand}


def measure(way: str, file: Path) -> Figures:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--only", way, str(file)]
    done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return msgspec.json.decode(done.stdout, type=Figures)


def only(way: str, file: str) -> None:
    """Run one way and print its figures."""
    base = _peak_mb()
    began = time.perf_counter()
    packets = WAYS[way](file)
    figures = Figures(packets, time.perf_counter() - began, _peak_mb(), base)
    sys.stdout.buffer.write(msgspec.json.encode(figures))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Measure all captures and ways."""
    extra("dpkt")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for title, make in (("random sources", random_sources), ("8 sources", eight_sources)):
            for size in SIZES:
                file = Path(folder) / "flood.pcap"
                write(file, make(size))
                figures = [measure(way, file) for way in WAYS]
                ratio = figures[1].seconds / figures[0].seconds
                for way, seen in zip(WAYS, figures, strict=True):
                    rows.append(
                        (
                            f"{title}, {way}",
                            f"{size:,}",
                            f"{seen.packets / seen.seconds:,.0f}",
                            f"{seen.rss_mb:.0f}",
                            f"{seen.rss_mb - seen.base_mb:.0f}",
                            f"{ratio:.1f}" if way == "phalanx detect" else "1",
                        )
                    )
    columns = ("capture", "packets", "packets/s", "peak MB", "of it for the file", "speed-up")
    show("Detection in captures", columns, rows)
    console.print("Memory is the process's peak; the interpreter and its modules are in it.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        only(sys.argv[2], sys.argv[3])
    else:
        main()
