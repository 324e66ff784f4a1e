"""Hours and days of a network: memory, speed, and whether every attack is seen to its end.

Agents on a ring watch a server's link, with heartbeats, and every ten minutes attackers flood
it for a minute; after a day the same ones come again. The log goes to a file and is not kept in
memory. Printed: virtual hours per hour of the wall clock, idle and attacked, memory hour by hour,
attacks that raised an alarm and were mitigated, and what is left open at the end.

Run it with ``python benchmarks/bench_endurance.py [--quick] [--hours 24] [--agents 20]``.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections import Counter
from pathlib import Path

from msgspec.structs import replace

from phalanx.domain.events import Event
from phalanx.reporting.event_text import is_alarm
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import (
    LinkSpec,
    MonitorSpec,
    NetworkSpec,
    PopSpec,
    Scenario,
    ShapeSpec,
)
from phalanx.runtime.system import System
from phalanx.store.jsonl import JsonlSink
from tables import QUICK, show

QUICKSTART = Path(__file__).resolve().parents[1] / "scenarios" / "quickstart-ring.yaml"
EVERY_S = 600.0
ATTACK_S = 60.0
FIRST_S = 60.0
DAY_S = 86_400.0
RUNNING = {"measure.applied": 1, "measure.lifted": -1, "instance.started": 1}
RUNNING |= {"instance.stopped": -1, "goal.adopted": 1, "goal.ended": -1}
RUNNING |= {"plan.started": 1, "plan.ended": -1, "chain.opened": 1, "chain.closed": -1}


def attack_starts(hours: float) -> list[float]:
    """Return when attacks begin, in seconds: six an hour."""
    return [FIRST_S + EVERY_S * number for number in range(round(6 * hours))]


def endurance(agents: int, hours: float, *, attacked: bool) -> Scenario:
    """Return a ring of so many agents, attacked every ten minutes or never."""
    quick = load_scenario(QUICKSTART)
    names = [f"pop{number:02d}" for number in range(agents)]
    pops = tuple(PopSpec(name, 8, 16, 200) for name in names)
    links = tuple(LinkSpec((names[i], names[(i + 1) % agents]), 50, 4) for i in range(agents))
    users, attackers = quick.traffic
    third, half = names[agents // 3], names[agents // 2]
    groups = [replace(users, at=(names[1], third, half))]
    daily = ShapeSpec(on_s=ATTACK_S, off_s=DAY_S - ATTACK_S)
    for number, start in enumerate(attack_starts(min(hours, 24)) if attacked else ()):
        at = names[1 + number % (agents - 1)], names[1 + number * 7 % (agents - 1)]
        name = f"attack-{number}"
        groups.append(replace(attackers, name=name, at=at, start_s=start, end_s=None, shape=daily))
    return replace(
        quick,
        name=f"endurance-{agents}",
        duration_s=3600 * hours,
        network=NetworkSpec(pops=pops, repository=half, links=links),
        hosts=tuple(replace(host, at=names[0]) for host in quick.hosts),
        traffic=tuple(groups),
        monitors=(MonitorSpec(f"{names[0]}>shop", names[0], 4.5),),
        timing=replace(quick.timing, sample_s=60.0),
    )


class Observer:
    """Counts what an endurance run must show; a sink that keeps no event."""

    def __init__(self, starts: list[float]) -> None:
        self.events = 0
        self.alarmed: set[int] = set()
        self.limited: set[int] = set()
        self.open: Counter[str] = Counter()
        self._starts = starts

    def __call__(self, event: Event) -> None:
        """Count one event."""
        self.events += 1
        kind = event.kind
        if kind in RUNNING:
            self.open[kind.partition(".")[0]] += RUNNING[kind]
        number = int((event.time - FIRST_S) // EVERY_S)
        if not 0 <= number < len(self._starts) or event.time > self._starts[number] + ATTACK_S:
            return
        if kind == "measure.applied":
            self.limited.add(number)
        elif is_alarm(event):
            self.alarmed.add(number)


def rss_mb() -> float:
    """Return the resident memory of this process in MB."""
    gc.collect()
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * 4096 / 1e6


def run(agents: int, hours: float, *, attacked: bool) -> list[str]:
    """Run it and return the cells of its row."""
    scenario = endurance(agents, hours, attacked=attacked)
    observer = Observer(attack_starts(hours) if attacked else [])
    memory: list[float] = []
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with JsonlSink(Path(folder) / "log.jsonl") as sink:
            system = System(scenario, sinks=[sink, observer], keep_events=1000)

            def look(now: float) -> None:
                if now >= 600 + 3600 * len(memory):
                    memory.append(rss_mb())
                    spent = time.perf_counter() - begin
                    print(f"{now / 3600:6.2f} h, {memory[-1]:.1f} MB, {spent:.0f} s", flush=True)

            system.run(on_progress=look)
        memory.append(rss_mb())
    spent = time.perf_counter() - begin
    print(dict(observer.open), {p.name: n for p, n in system.bus.sent.items()})
    return [
        f"{len(observer.alarmed)} / {len(observer.limited)} of {len(observer._starts)}",
        f"{observer.events:,}",
        f"{hours / spent * 3600:,.0f}",
        f"{memory[0]:.1f}",
        f"{memory[-1]:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hours", type=float, default=1 if QUICK else 24)
    parser.add_argument("--agents", type=int, default=8 if QUICK else 20)
    parser.add_argument("--only")
    given = parser.parse_args()
    rows = []
    for what in ("idle", "attacked"):
        if given.only in (None, what):
            hours = given.hours if what == "attacked" else min(given.hours, 4)
            rows.append(
                [f"{what}, {hours:g} h", *run(given.agents, hours, attacked=what == "attacked")]
            )
    show(
        f"{given.agents} agents on a ring",
        ["", "alarms / limits", "events", "hours per hour", "MB after 10 min", "MB at the end"],
        rows,
    )


if __name__ == "__main__":
    main()
