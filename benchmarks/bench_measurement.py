"""What it costs to measure a live agent from outside, and how soon a change is found for it.

Two targets: a native program, and a process that has imported what an agent imports. The first
look at a Python process walks through all its objects; later ones compare what the walk relied
on, and walk again only if that has changed. From the cost of looks follow, for a share of a core,
the times in which a change that stays is found (``looks.py``); they are also drawn, and tried on
the Python target, which changes a function of its own at a random time.

Then what it costs to sample the calls of a Python process, how long code has to run to be seen,
and after how many samples most calls were seen of a process that runs the demo again and again.

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

from looks import Looks
from phalanx.trust.measurement import ProcessMeasurement
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.processes import ProcessFiles, activity
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
RATES = (1, 10, 100)
RUN_S, TURNS, GRAPH_S = (0.5, 1, 5.0) if QUICK else (4.0, 5, 120.0)
BUSY_MS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0)
WORKER = """
import sys, time
from phalanx.trust.processes import ProgressCounter
counter = ProgressCounter()
def leaf(number): return number + 1
def work(): return sum(leaf(number) for number in range(200))
def busy(until):
    while time.perf_counter() < until: pass
busy_s = float(sys.argv[1])
print("ready", flush=True)
while True:
    if busy_s:
        time.sleep(0.001)
        busy(time.perf_counter() + busy_s)
    else:
        work()
    counter.turn()
"""
DEMO = """
import contextlib, os, tempfile
from phalanx.cli.main import app
print("ready", flush=True)
log = os.path.join(tempfile.mkdtemp(), "log.jsonl")
with open(os.devnull, "w") as none, contextlib.redirect_stdout(none):
    while True:
        with contextlib.suppress(SystemExit):
            app(["run", "ddos-resilience", "--log", log])
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


def sampling_cost() -> None:
    """Print what samples cost, and by how much they slow a process that calls all the time."""
    rows = []
    with running([sys.executable, "-c", WORKER, "0"]) as worker:
        files = ProcessFiles(worker.pid)
        with ProcessMeasurer(worker.pid, "worker", "1") as measurer:
            sampler = measurer.sampler()
            sampler.sample()
            ratios: dict[int, list[float]] = {rate: [] for rate in RATES}
            spent: dict[int, float] = dict.fromkeys(RATES, 0.0)
            for rate in RATES * TURNS:
                speeds = []
                for each in (0, rate, 0):  # the machine's own changes are in both
                    before, begin, cpu = worked(files), time.monotonic(), time.thread_time()
                    while (left := begin + RUN_S - time.monotonic()) > 0:
                        time.sleep(min(left, Random().expovariate(each) if each else left))
                        if each:
                            sampler.sample()
                    after = worked(files)
                    speeds.append((after[0] - before[0]) / (after[1] - before[1]))
                    spent[rate] += time.thread_time() - cpu
                ratios[rate].append(2 * speeds[1] / (speeds[0] + speeds[2]))
    for rate in RATES:
        slow = [1 - ratio for ratio in ratios[rate]]
        rows.append(
            [str(rate), f"{spent[rate] / (RUN_S * TURNS):.2%}", f"{statistics.median(slow):.2%}",
             f"{min(slow):.1%} to {max(slow):.1%}"]
        )  # fmt: skip
    show(
        "Samples of calls: what they cost",
        ("samples a second", "share of a core", "agent slower by", "from, to"),
        rows,
        f"a process that does nothing but call; turns for its CPU time, {TURNS} times {RUN_S:g} s",
    )


def worked(files: ProcessFiles) -> tuple[int, float]:
    """Return how often a process has turned, and its CPU time in seconds."""
    now = activity(files, files.mappings())
    return now.progress or 0, now.cpu_s


def seen_shares() -> None:
    """Print how often a function is seen that runs for some time, and what follows from it."""
    rows = []
    for busy_ms in BUSY_MS:
        with running([sys.executable, "-c", WORKER, str(busy_ms / 1e3)]) as worker:
            files = ProcessFiles(worker.pid)
            with ProcessMeasurer(worker.pid, "worker", "1") as measurer:
                sampler, samples, hits = measurer.sampler(), 0, 0
                before, begin = worked(files)[0], time.monotonic()
                while time.monotonic() < begin + RUN_S * TURNS / 2:
                    calls = sampler.sample()
                    samples += 1
                    hits += any(":busy:" in sampler.names[callee] for _, callee in calls)
                    time.sleep(0.0007 * (1 + Random().random()))
                each_s = (worked(files)[0] - before) / (time.monotonic() - begin)
        share = min(1.0, hits / samples / (each_s * busy_ms / 1e3))
        waits = [
            f"{4.605 / (rate * share * busy_ms / 1e3):.0f}" if hits else "never" for rate in RATES
        ]
        rows.append([f"{busy_ms:g}", str(samples), f"{share:.0%}", *waits])
    show(
        "Code that runs once a second: within how many seconds it is seen (99 %)",
        ("runs for ms", "samples", "seen of its time", *(f"{rate} a second" for rate in RATES)),
        rows,
        "seen of its time: share of the samples in it that two readings show alike",
    )


def whole_graph() -> None:
    """Print after how many samples the calls were seen that a busy process makes."""
    first: dict[tuple[str, str], int] = {}
    words = [sys.executable, "-c", DEMO]
    with running(words) as demo, ProcessMeasurer(demo.pid, "demo", "1") as measurer:
        sampler, samples, end = measurer.sampler(), 0, time.monotonic() + GRAPH_S
        while time.monotonic() < end:
            samples += 1
            for call in sampler.sample():
                first.setdefault(call, samples)
            time.sleep(0.001)
    order = sorted(first.values())
    show(
        "Calls of a process that runs the demo again and again",
        ("samples", "calls seen", "half seen after", "90 %", "99 %", "new in the last tenth"),
        [
            [str(samples), str(len(order))]
            + [str(order[max(0, int(part * len(order)) - 1)]) for part in (0.5, 0.9, 0.99)]
            + [str(sum(at > 0.9 * samples for at in order))]
        ],
    )


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
    sampling_cost()
    seen_shares()
    whole_graph()


if __name__ == "__main__":
    main()
