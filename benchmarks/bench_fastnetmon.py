"""FastNetMon beside Phalanx: the same flood, the same gateway, one after the other.

Eight sources flood a web server behind a gateway that FastNetMon Community watches, or that
``phalanx guard`` guards. Counted are the seconds from the first attack packet at the gateway to
the call of FastNetMon's script (its alarm; what to do is left to the script), and to what
Phalanx has done; processor time and memory; and the share of requests of independent users that
were answered. Both look as often as they can: FastNetMon each second, Phalanx ten times.

Run it with ``python benchmarks/bench_fastnetmon.py [--quick]``, as root.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct

from tables import QUICK, console, show

ROUNDS = 1 if QUICK else 3
RATES = (18_000,) if QUICK else (18_000, 150_000)
"""Packets a second of all attackers together; the second is more than a small machine sends."""
BEFORE_S, FLOOD_S = 1.5, 6.0
AT_THE_END_S = 2.0
"""Whether users are served is looked at in this last part of the flood, in seconds."""
POLL_S = 0.2


def lack() -> str | None:
    """Return one line on what is missing to run this, if anything."""
    if os.geteuid() != 0:
        return "needs root: network namespaces"
    for tool, package in (("fastnetmon", "fastnetmon"), ("nginx", "nginx-light"), ("cc", "gcc")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: install it (Debian: {package})"
    return None


LACK = lack()
if LACK is not None:
    console.print(f"skipped: {LACK}", style="yellow", soft_wrap=True)
    sys.exit(0)

from defenders import Defender, FastNetMon, Phalanx, use  # noqa: E402
from gateway import FirstPacket, Gateway, Users  # noqa: E402


class Figures(Struct):
    """What came of one flood; times in seconds after its first packet, None: never."""

    alarm_s: float | None
    throttle_s: float | None
    named_s: float | None
    block_s: float | None
    whom: str
    served_before: float
    served: float
    packets_s: float
    cpu_s: float
    """Processor time over the flood, with what it takes to start VNFs."""
    late_cpu: float
    """Share of a core in the second half of the flood."""
    own_mb: float
    all_mb: float


def measure(make: Callable[[Gateway], Defender], packets_s: float) -> Figures:
    """Return what came of one flood that a new defender saw at a new gateway."""
    gateway = Gateway()
    try:
        defender = make(gateway)
        users, first = Users(gateway), FirstPacket(gateway)
        try:
            began = time.time()
            time.sleep(BEFORE_S)
            before, packets = use(defender.process.pid), gateway.packets()
            uses = [before]
            with gateway.flood(packets_s, FLOOD_S):
                end = time.time() + FLOOD_S
                while (left := end - time.time()) > 0:
                    time.sleep(min(left, POLL_S))
                    uses.append(use(defender.process.pid))
                arrived = gateway.packets() - packets
        finally:
            first.close()
            users.close()
            told = defender.told()
        assert first.time is not None, "no attack packet came"
        start = first.time

        def after(moment: float | None) -> float | None:
            return None if moment is None else moment - start

        return Figures(
            after(told.alarm),
            after(told.throttle),
            after(told.named),
            after(told.last_block),
            told.whom,
            users.served(began, start - 0.1),
            users.served(end - AT_THE_END_S, end),
            arrived / FLOOD_S,
            uses[-1].cpu_s - before.cpu_s,
            (uses[-1].cpu_s - uses[len(uses) // 2].cpu_s) / (FLOOD_S / 2),
            max(u.own_mb for u in uses),
            max(u.all_mb for u in uses),
        )
    finally:
        gateway.close()


def middle(values: Sequence[float | None]) -> float | None:
    """Return the median; None if something did not happen in most rounds."""
    happened = sorted(float("inf") if value is None else value for value in values)
    found = statistics.median_low(happened)
    return None if found == float("inf") else found


def seconds(value: float | None) -> str:
    """Return a time, or that it never came."""
    return "never" if value is None else f"{value:.2f}"


def main() -> None:
    tools: dict[str, Callable[[Gateway], Defender]] = {
        "FastNetMon": FastNetMon,
        "Phalanx, published": partial(Phalanx, strategy="published"),
        "Phalanx, service": partial(Phalanx, strategy="service"),
    }
    for rate in RATES:
        found: dict[str, list[Figures]] = {name: [] for name in tools}
        for _ in range(ROUNDS):
            for name, make in tools.items():
                found[name].append(measure(make, rate))
        table(rate, found)


def table(rate: int, found: dict[str, list[Figures]]) -> None:
    """Print what came of the floods of one rate."""
    rows: list[list[str]] = []

    def row(
        what: str, of: Callable[[Figures], float | None], words: Callable[[float | None], str]
    ) -> None:
        rows.append([what, *(words(middle([of(f) for f in one])) for one in found.values())])

    row("first packet to alarm, s", lambda f: f.alarm_s, seconds)
    row("first packet to first throttle, s", lambda f: f.throttle_s, seconds)
    row("first packet to all attackers named, s", lambda f: f.named_s, seconds)
    row("first packet to last block, s", lambda f: f.block_s, seconds)
    rows.append(["who is named", *(one[-1].whom for one in found.values())])
    row("processor time over the flood, s", lambda f: f.cpu_s, seconds)
    row("… of a core in its second half", lambda f: f.late_cpu, lambda v: f"{v:.1%}")
    row("most memory, MB", lambda f: f.own_mb, lambda v: f"{v:.0f}")
    row("… with its children, MB", lambda f: f.all_mb, lambda v: f"{v:.0f}")
    row("users served before the flood", lambda f: f.served_before, lambda v: f"{v:.0%}")
    row("users served at its end", lambda f: f.served, lambda v: f"{v:.0%}")
    arrived = statistics.median(f.packets_s for one in found.values() for f in one)
    show(
        f"SYN flood, {arrived:,.0f} packets/s ({rate:,} asked for), medians of {ROUNDS}",
        ("", *found),
        rows,
        f"Load of the {os.cpu_count()} cores in the last minute: {os.getloadavg()[0]:.1f}. "
        "FastNetMon leaves it to its script to do something.\nMemory with children adds up what "
        "is resident of each, libraries that they share included.",
    )


if __name__ == "__main__":
    main()
