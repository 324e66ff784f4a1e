"""Three sites that drive themselves: how fast a flood is blocked at its entries; what kills do.

``north`` and ``south`` have users and three attackers each, ``east`` has the shop; all are machines
in namespaces, with a broker on the first. Each run floods through both entries. Printed are the
seconds from the first packet of an attacker to the alarm (the first look that finds somebody), the
first limit and the last block at an entry; the visits of honest users that failed;
and the machine's idle share meanwhile (``/proc/stat``), since a busy machine is late.

Then, under one long flood, random processes (agents, VNFs, fork servers, the broker) are killed at
random moments and started again. Printed is how many packets of attackers crossed to the third site
after each: 0 where no rule was lost.

Run it from the checkout with ``python benchmarks/bench_sites.py [--quick]``, as root.
"""

from __future__ import annotations

import random
import socket
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from gateway import FirstPacket
from tables import QUICK, console, show

sys.path.insert(0, str(Path(__file__).parents[1]))  # the lab stands with the tests

from tests.system.sites_lab import (
    ATTACKERS,
    ENTRIES,
    PLAN,
    SITES,
    SiteDomain,
    Sites,
    Visitors,
    named,
    until,
)

RUNS, KILLS = (2, 6) if QUICK else (30, 200)
FLOOD_S = 4.0
SETTLED_S = 3.0
"""After a start, before agents are tried."""
BACK_S = 4.0
"""Pause between two kills, at least; a lease is 15 s."""


def busy() -> tuple[float, float]:
    """Return (idle, all) ticks of the machine's processors so far."""
    ticks = [float(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def blocked(sites: Sites) -> bool:
    return all(sites.blocked(site) == {*ATTACKERS[site]} for site in ENTRIES)


def start_all(domain: SiteDomain) -> None:
    for site in SITES:
        domain.start(site)
    until(lambda: domain.serving() >= {*SITES}, "not all agents serve", 60)
    time.sleep(SETTLED_S)


def stop_all(domain: SiteDomain) -> None:
    for site in SITES:
        domain.sites.do(site, "kill -TERM $(pgrep -f -- --config)")
    for site in SITES:
        running = partial(domain.sites[SITES[site]].run, "pgrep -f -- --config")
        until(lambda run=running: not run()[1], f"{site} stays", 60)  # type: ignore[misc]


def flood(domain: SiteDomain) -> tuple[float, float, float, int, float]:
    """Return alarm, first limit and last block in seconds, failed visits, idle share."""
    sites, visitors = domain.sites, Visitors(domain.sites)
    first = [
        FirstPacket(sites.namespace(site), "eth0", of.__contains__)
        for site, sources in ATTACKERS.items()
        if (of := {socket.inet_aton(source) for source in sources})
    ]
    try:
        time.sleep(1.0)
        (idle, whole), since = busy(), time.monotonic()
        for site in ENTRIES:
            sites.flood(site, FLOOD_S)
        time.sleep(FLOOD_S)
        after = busy()
        failed = sum(wrong for wrong, _ in visitors.unserved(since).values())
    finally:
        visitors.stop()
        for tap in first:
            tap.close()
    begun = min(tap.time for tap in first if tap.time is not None)
    events = [event for event in domain.events() if event["time"] >= begun]
    alarms = [e["time"] for e in named(events, "analysis.done") if e["data"]["found"]]
    limits = [e for e in named(events, "measure.applied") if e["data"].get("sources")]
    whole = after[1] - whole
    entries = [e["time"] for e in limits if e["agent"] in ENTRIES]
    named_sources = {s for e in limits if e["agent"] in ENTRIES for s in e["data"]["sources"]}
    if named_sources != {s for each in ATTACKERS.values() for s in each}:
        console.print(f"not the attackers: {sorted(named_sources)}", style="red")
    moments = min(alarms), min(e["time"] for e in limits), max(entries)
    alarm, first, last = (each - begun for each in moments)
    return alarm, first, last, failed, (after[0] - idle) / whole


def kill_one(domain: SiteDomain, dice: random.Random) -> str:
    """Kill a process, start again what nobody else would, and return what it was."""
    what = dice.choice(("agent", "agent", "agent", "VNF", "fork server", "broker"))
    site = dice.choice(ENTRIES if what in ("VNF", "fork server") else tuple(SITES))
    if what == "agent":
        domain.kill(site)
        domain.start(site)
    elif what == "broker":
        domain.sites.do("north", "kill -9 $(pgrep nats-server)")
        domain.start_broker()
        return what
    else:
        pattern = "^phalanx-vnf .*edge-filter" if what == "VNF" else "forkserver.py"
        domain.sites[SITES[site]].run(f"kill -9 $(pgrep -f '{pattern}')")
    return f"{what} of {site}"


def main() -> None:
    dice = random.Random(1)
    plan = {**PLAN, "timing": {**PLAN["timing"], "drain_s": 1}}
    with Sites(Path(tempfile.mkdtemp(prefix="phalanx-sites"))) as sites:
        sites.serve()
        domain = SiteDomain(sites, plan)
        rows = []
        for _ in range(RUNS):
            start_all(domain)
            rows.append(flood(domain))
            stop_all(domain)
        columns = list(zip(*rows, strict=True))
        figures = [
            [name, f"{statistics.median(column):.2f}", f"{max(column):.2f}"]
            for name, column in zip(
                ("alarm, s", "first limit, s", "last block, s", "failed visits"),
                columns,
                strict=False,
            )
        ]
        idle = columns[-1]
        figures.append(["idle share", f"{statistics.median(idle):.2f}", f"{min(idle):.2f} (least)"])
        show(f"A flood through two of three sites, {RUNS} runs", ["", "median", "worst"], figures)

        start_all(domain)
        for site in ENTRIES:
            sites.flood(site, 60.0 + KILLS * 4 * BACK_S)
        until(lambda: blocked(sites), "not both entries block")
        time.sleep(1.0)
        crossed, lost = sites.crossed(), []
        for _ in range(KILLS):
            what = kill_one(domain, dice)
            time.sleep(BACK_S + dice.random())
            now = sites.crossed()
            lost += [f"{what}: {now - crossed} packets"] if now != crossed else []
            crossed = now
        until(lambda: domain.serving() >= {*SITES}, "not all agents serve", 60)
        sites.close()
        until(lambda: not any(sites.blocked(site) for site in ENTRIES), "a block is left", 600)
        stop_all(domain)
        left = [table for site in SITES for table in sites.tables(site)]
        console.print(
            f"{KILLS} kills; packets crossed after {len(lost)}: {'; '.join(lost) or 'none'}"
        )
        console.print(f"left behind after the flood and the end: {', '.join(left) or 'nothing'}")


if __name__ == "__main__":
    main()
