"""Flow exports: flows/s that ``phalanx detect`` reads and judges, beside the library ``netflow``.

The library (netflow on PyPI) parses NetFlow 5, 9 and IPFIX into objects and stops there: it keeps
no sampling, no times, no sequence numbers and no templates by exporter, and knows no sFlow. The
datagrams are the same, in memory, all in one run; time is the processor's. A second table tells
what each does with datagrams that are right but less usual, or wrong, each in a process of its own.

Run it with ``python benchmarks/bench_exports.py [--quick]``.
"""

from __future__ import annotations

import multiprocessing
import struct
import time
from collections.abc import Callable

from phalanx.analytics.flow_exports import ExportReader
from phalanx.analytics.flow_sources import Collector
from tables import QUICK, console, extra, show

FLOWS = 20_000 if QUICK else 200_000
PATIENCE_S = 3.0
"""A parser that takes longer than this over one datagram does not end."""
FIELDS = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (6, 1), (2, 4), (1, 4))
NOW = 2_000_000_000
SOURCE = "10.0.0.2"


def row(number: int) -> bytes:
    """Return a flow of fields as ``FIELDS``."""
    ends = (0x0A000000 | number % 5000, 0x0A000001, 1024 + number % 60_000, 80)
    return struct.pack("!IIHHBBII", *ends, 6, 27, 9, 1200)


def flow_set(kind: int, body: bytes) -> bytes:
    """Return a set of NetFlow 9 or IPFIX."""
    body += bytes(-len(body) % 4)
    return struct.pack("!HH", kind, 4 + len(body)) + body


def template(number: int = 256, fields: tuple[tuple[int, int], ...] = FIELDS) -> bytes:
    """Return a template."""
    return struct.pack("!HH", number, len(fields)) + b"".join(
        struct.pack("!HH", *each) for each in fields
    )


def message(version: int, sets: bytes, number: int = 0, domain: int = 0) -> bytes:
    """Return a datagram of NetFlow 9 or IPFIX."""
    if version == 9:
        return struct.pack("!HHIIII", 9, 1, 60_000, NOW, number, domain) + sets
    return struct.pack("!HHIII", 10, 16 + len(sets), NOW, number, domain) + sets


def datagrams(version: int) -> list[bytes]:
    """Return ``FLOWS`` flows as an exporter sends them."""
    made = []
    for number in range(0, FLOWS, 30):
        flows = range(number, number + 30)
        if version == 5:
            head = struct.pack("!HHIIIIBBH", 5, 30, 60_000, NOW, 0, number, 0, 0, 0)
            body = b"".join(
                row(n)[:8] + bytes(8) + struct.pack("!IIII", 9, 1200, 50_000, 55_000)
                + row(n)[8:12] + b"\0\x1b\6" + bytes(9) for n in flows
            )  # fmt: skip
            made.append(head + body)
            continue
        sets = flow_set(256, b"".join(map(row, flows)))
        if number % 600 == 0:
            sets = flow_set(0 if version == 9 else 2, template()) + sets
        made.append(message(version, sets, number // 30 if version == 9 else number))
    return made


def by_library(sent: list[bytes]) -> int:
    """Parse with the library; return the flows."""
    netflow = extra("netflow")
    templates: dict[str, dict[int, object]] = {"netflow": {}, "ipfix": {}}
    return sum(len(netflow.parse_packet(each, templates).flows) for each in sent)


def read(sent: list[bytes]) -> int:
    """Read them; return the flows."""
    reader = ExportReader()
    exports = (reader.read("192.0.2.1", each, NOW) for each in sent)
    return sum(len(export[1]) for export in exports if export is not None)


def judge(sent: list[bytes]) -> int:
    """Read and judge them; return the flows."""
    collector = Collector(5.0)
    for number, each in enumerate(sent):
        collector.feed("192.0.2.1", each, NOW + number / 100)
    return collector.end("benchmark").packets


WAYS: dict[str, Callable[[list[bytes]], int]] = {
    "netflow, parsed": by_library,
    "phalanx, parsed": read,
    "phalanx, parsed and judged": judge,
}
ENTERPRISE = struct.pack("!HHHHI", 256, 9, 0x8000 | 7, 4, 9) + template()[4:]
VARIABLE = template(256, (*FIELDS, (82, 65535)))
SWAPPED = template(256, ((12, 4), (8, 4), *FIELDS[2:]))
ODD: dict[str, tuple[list[tuple[int, bytes]], int]] = {
    "IPFIX field of an enterprise": (
        [(0, message(10, flow_set(2, ENTERPRISE) + flow_set(256, bytes(4) + row(2))))],
        1,
    ),
    "IPFIX field of variable length": (
        [(0, message(10, flow_set(2, VARIABLE) + flow_set(256, row(2) + b"\4eth0")))],
        1,
    ),
    "IPFIX template withdrawn, then told anew": (
        [
            (0, message(10, flow_set(2, template()))),
            (0, message(10, flow_set(2, struct.pack("!HH", 256, 0)))),
            (0, message(10, flow_set(2, template()) + flow_set(256, row(2)))),
        ],
        1,
    ),
    "two exporters, one number of a template": (
        [
            (0, message(9, flow_set(0, template()))),
            (1, message(9, flow_set(0, SWAPPED))),
            (0, message(9, flow_set(256, row(2)))),
        ],
        1,
    ),
    "NetFlow 9 of octets that are text": (
        [(0, b"0005" + b"30" * 22)],
        0,
    ),
    "IPFIX set of length 0": ([(0, message(10, struct.pack("!HH", 2, 0)))], 0),
    "NetFlow 9 template cut short": ([(0, message(9, struct.pack("!HHHH", 0, 8, 256, 9)))], 0),
}
"""Datagrams with the number of their exporter, and how many flows they hold."""


def _odd(way: str, name: str, answers: multiprocessing.Queue[str]) -> None:
    sent, _ = ODD[name]
    try:
        if way == "netflow":
            netflow = extra("netflow")
            templates: dict[str, dict[int, object]] = {"netflow": {}, "ipfix": {}}
            flows = [f for _, each in sent for f in netflow.parse_packet(each, templates).flows]
            sources = [str(flow.data.get("IPV4_SRC_ADDR", SOURCE)) for flow in flows]
        else:
            reader = ExportReader()
            exports = [reader.read(f"192.0.2.{who}", each, NOW) for who, each in sent]
            seen = [flow for export in exports if export is not None for flow in export[1]]
            sources = [".".join(map(str, flow.key[12:16])) for flow in seen]
        right = all(source == SOURCE for source in sources)
        answers.put(f"{len(sources)} flows" if right else "ends swapped")
    except Exception as fault:
        answers.put(f"raises {type(fault).__name__}")


def odd(way: str, name: str) -> str:
    """Return what becomes of some datagrams."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_odd, args=(way, name, answers))
    process.start()
    process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        process.join()
        return "does not end"
    return str(answers.get(timeout=1.0))


def main() -> None:
    """Measure."""
    extra("netflow")
    rows = []
    for version, name in ((5, "NetFlow 5"), (9, "NetFlow 9"), (10, "IPFIX")):
        sent = datagrams(version)
        first = 0.0
        for way, run in WAYS.items():
            began = time.process_time()
            flows = run(sent)
            seconds = time.process_time() - began
            first = first or seconds
            rows.append(
                (
                    f"{name}, {way}",
                    f"{flows:,}",
                    f"{flows / seconds:,.0f}",
                    f"{first / seconds:.1f}",
                )
            )
    show("Flow exports", ("protocol and reader", "flows", "flows/s", "speed-up"), rows)
    rows = [
        (name, f"{ODD[name][1]} flows", odd("netflow", name), odd("phalanx", name)) for name in ODD
    ]
    show("Datagrams that are rare or wrong", ("what", "holds", "netflow", "phalanx"), rows)
    console.print("None of netflow, scapy and dpkt reads sFlow.")


if __name__ == "__main__":
    main()
