"""What it costs to measure a live agent from outside, and how soon a change is found for it.

Two targets: a native program, and a process that has imported what an agent imports. The first
look at a Python process walks through all its objects; later ones compare what the walk relied
on, and walk again only if that has changed. From the cost of looks follow, for a share of a core,
the times in which a change that stays is found (``trust.looks``); they are also drawn, and tried on
the Python target, which changes a function of its own at a random time.

Run it with ``python benchmarks/bench_measurement.py [--quick]``.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from phalanx.trust.looks import Looks
from phalanx.trust.measurement import ProcessMeasurement
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.processes import ProcessFiles
from tables import QUICK, show

LOOKS, TRIALS, LIVE = (5, 200, 2) if QUICK else (40, 20_000, 20)
SHARES = (0.05, 0.02, 0.01, 0.005, 0.002)
LIVE_SHARE = 0.2
AGENT = """
import sys, time
import phalanx.cli.agent, phalanx.runtime.processes.agent
from phalanx.runtime import scenario
def genuine(): return 1
def changed(): return 2
scenario.probe = genuine
print("ready", flush=True)
for line in sys.stdin:
    scenario.probe = changed if line.strip() == "change" else genuine
    print("done", flush=True)
"""
NATIVE = shutil.which("nats-server") or shutil.which("sleep") or sys.executable


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None
        if words[0] == sys.executable:
            process.stdout.readline()
        else:
            time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.communicate()


def cost(looks: list[ProcessMeasurement]) -> float:
    """Return the median CPU time of looks, in seconds."""
    return statistics.median(look.cpu_s for look in looks)


def measured(name: str, pid: int) -> tuple[list[str], float, float]:
    """Return a row of the first table, and the CPU time of a full and of a thin look."""
    with ProcessMeasurer(pid, name, "1") as measurer:
        first = measurer.look()
        full = [measurer.look() for _ in range(LOOKS)]
        thin = [measurer.look(thin=True) for _ in range(LOOKS)]
    maps = ProcessFiles(pid).mappings()
    text = sum(m.end - m.start for m in maps if "x" in m.permissions and m.backed)
    row = [
        name,
        str(len(first.objects)),
        f"{text / 1e6:.1f}",
        str(len(first.modules or {})),
        f"{1e3 * first.cpu_s:.0f}",
        f"{1e3 * cost(full):.1f}",
        f"{1e3 * cost(thin):.1f}",
    ]
    return row, cost(full), cost(thin)


def drawn(looks: Looks, random: Random) -> list[float]:
    """Return, over many trials, the times from a change to the first full look, in seconds."""
    times = []
    for _ in range(TRIALS):
        at_s = 0.0
        while True:
            look = looks.draw()
            at_s += look.after_s
            if not look.thin:
                break
        times.append(at_s)
    random.shuffle(times)
    return sorted(times)


def curve(name: str, full_s: float, thin_s: float) -> None:
    """Print what shares of a core buy."""
    rows, random = [], Random(1)
    for share in SHARES:
        looks = Looks(share, full_s=full_s, thin_s=thin_s, random=random)
        times = drawn(looks, random)
        rows.append(
            [
                f"{share:.1%}",
                f"{1 / looks.rate():.1f}",
                f"{looks.found_within_s(0.5):.1f}",
                f"{looks.found_within_s():.1f}",
                f"{times[int(0.99 * len(times))]:.1f}",
                *(f"{looks.missed(duty, 60):.1%}" for duty in (0.5, 0.1, 0.01)),
            ]
        )
    show(
        f"{name}: what a share of a core buys; times in s",
        (
            "share",
            "between looks",
            "found p50",
            "p99",
            "p99, drawn",
            "missed in 60 s: 50 %",
            "10 %",
            "1 %",
        ),
        rows,
        "missed: a change that is there for this share of the time, and leaves no written page",
    )


def live(process: subprocess.Popen[str], full_s: float, thin_s: float) -> None:
    """Change a function of the target at random times; print how soon that was found."""
    random, spent_s, found = Random(), 0.0, list[float]()
    assert process.stdin is not None
    assert process.stdout is not None
    looks = Looks(LIVE_SHARE, full_s=full_s, thin_s=thin_s)
    with ProcessMeasurer(process.pid, "agent", "1") as measurer:
        genuine = (measurer.look().modules or {})["phalanx.runtime.scenario"]
        begin = time.monotonic()
        while len(found) < LIVE:
            changed_s, due_s = math.inf, time.monotonic() + random.random() * 2 / looks.rate()
            while True:
                look = looks.draw()
                until = time.monotonic() + look.after_s
                if due_s <= until and changed_s == math.inf:
                    time.sleep(max(0.0, due_s - time.monotonic()))
                    process.stdin.write("change\n")
                    process.stdin.flush()
                    process.stdout.readline()
                    changed_s = time.monotonic()
                time.sleep(max(0.0, until - time.monotonic()))
                seen = measurer.look(thin=look.thin)
                spent_s += seen.cpu_s
                if seen.modules and seen.modules["phalanx.runtime.scenario"] != genuine:
                    found.append(time.monotonic() - changed_s)
                    break
            process.stdin.write("back\n")
            process.stdin.flush()
            process.stdout.readline()
            measurer.look()
    found.sort()
    share = spent_s / (time.monotonic() - begin)
    show(
        f"Python agent: {LIVE} changes of a function, found live; times in s",
        ("share of a core", "p50", "worst", "p50 by the formula"),
        [[f"{share:.1%}", f"{found[len(found) // 2]:.2f}", f"{found[-1]:.2f}",
          f"{looks.found_within_s(0.5):.2f}"]],
        "with the walk that names the function",
    )  # fmt: skip


def main() -> None:
    """Print the tables."""
    with running([NATIVE, "1000"] if NATIVE.endswith("sleep") else [NATIVE, "-p", "0"]) as native:
        native_row, *native_costs = measured("native program", native.pid)
    with running([sys.executable, "-c", AGENT]) as agent:
        python_row, *python_costs = measured("Python agent", agent.pid)
        show(
            "One look: CPU time in ms",
            ("target", "objects", "text, MB", "modules", "first", "full", "thin"),
            [native_row, python_row],
        )
        curve("native program", *native_costs)
        curve("Python agent", *python_costs)
        live(agent, *python_costs)


if __name__ == "__main__":
    main()
