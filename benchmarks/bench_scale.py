"""Speed and memory of whole runs by number of PoPs: a flood of 40 s, with users, until second 60.

Each run has an agent at each PoP, with heartbeats, news of the network and the registry, on
virtual time in a fresh process; both strategies run. Beside each is how its time and memory grow
from the size before: as many times as the PoPs would be linear.

Run it with ``python benchmarks/bench_scale.py [--quick]``.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import msgspec
from msgspec.structs import replace

import defence_cases as cases
from defence_figures import ARMS
from phalanx.runtime.system import System
from tables import QUICK, console, show

SIZES = (6, 24) if QUICK else (100, 300, 1000)
FAMILIES = ("ring", "tree", "mesh")
UNTIL_S = 60.0


class Figures(msgspec.Struct):
    """What one process measured."""

    seconds: float
    rss_mb: float
    messages: int
    events: int


def run(name: str, arm: str) -> Figures:
    """Run the first minute of a case."""
    plan = replace(ARMS[arm](cases.scenario(cases.named(name), 1)), duration_s=UNTIL_S)
    begin = time.process_time()
    system = System(plan)
    result = system.run()
    return Figures(
        time.process_time() - begin,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        sum(system.bus.sent.values()),
        len(result.events),
    )


def in_a_process(name: str, arm: str) -> Figures:
    """Run a case in a fresh process."""
    command = [sys.executable, __file__, name, arm]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603
    return msgspec.json.decode(answer.stdout.splitlines()[-1], type=Figures)


def main() -> None:
    rows = []
    for family in FAMILIES:
        for arm in ("phalanx", "published"):
            before: Figures | None = None
            for size in SIZES:
                with console.status(f"{family} of {size} PoPs, {arm}"):
                    found = in_a_process(f"syn/steady/{family}-{size}", arm)
                times = "–", "–"
                if before is not None:
                    times = (
                        f"{found.seconds / before.seconds:.1f}",
                        f"{found.rss_mb / before.rss_mb:.1f}",
                    )
                rows.append(
                    [
                        f"{family} of {size:,}, {'service' if arm == 'phalanx' else arm}",
                        f"{found.seconds:.1f}",
                        times[0],
                        f"{found.rss_mb:,.0f}",
                        times[1],
                        f"{found.messages:,}",
                        f"{found.events:,}",
                    ]
                )
                before = found
    show(
        f"The first {UNTIL_S:.0f} s of an attack, by number of PoPs",
        ["PoPs, strategy", "CPU s", "times", "MB", "times", "messages", "events"],
        rows,
        "times: as many as at the size before. CPU s: of the process, composition included.",
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        found = run(sys.argv[1], sys.argv[2])
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        main()
