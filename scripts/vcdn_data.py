"""Make a labelled data set from a live service (docs/vcdn.md says what is in it).

``python scripts/vcdn_data.py --out DIR`` plays a small vCDN again and again, with users whose
number goes up and down as over a day, and in some runs with troubles; once a second it writes
the metrics of its functions: ``DIR/<function>/<run>.csv``, and ``DIR/<run>.json`` once a run is
whole. Runs that are whole are not made again, so it may be stopped and started again; started
twice with the same ``--out``, two work on it.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import fcntl
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.infrastructure.linux.kernel import runs
from phalanx.testrange.client import SEGMENT_S
from phalanx.testrange.exporter import METRICS
from phalanx.testrange.processes import NamespaceProcess, end
from vcdn import DELAY_MS, FUNCTIONS, Vcdn

KINDS = {
    "http flood": (60, 300),  # requests a second
    "slow http": (150, 350),  # connections
    "cpu": (0.3, 0.95),  # of a processor
    "memory": (1, 5),  # MB/s
    "network delay": (60, 250),  # ms one way, of each link
    "user spike": (2, 4),  # times the users, at once
    "user step": (2, 4),  # times the users, in five steps
}
"""Kinds of troubles, with their least and greatest strength."""
WARM_S = 15.0
"""Users come this long before the first row; in short runs for a quarter of their length."""
BREAK_IN_S = 6.0
"""Each of two attacks before the users, so that memory has grown to what it keeps."""
VISIT_S = 30.0
"""A viewer's stay, on average."""
SLOT_S = 100.0
"""A run with troubles has one of them in each part of this length."""
STEPS = 5
"""In which users become more in a ``user step``."""
PROGRAM = Path(__file__).with_name("vcdn_troubles.py")


class Audience(Struct, frozen=True):
    """How many viewers there are: as over a day, but a day is minutes long."""

    viewers: float
    """On average over a day."""
    swing: float
    """From the average to the most, as a share of it."""
    day_s: float
    phase: float
    """Of the day at the start, 0 to 1."""

    def at(self, seconds: float) -> float:
        """Return how many viewers are expected."""
        day = math.sin(2 * math.pi * (seconds / self.day_s + self.phase))
        return self.viewers * (1 + self.swing * day)

    def visits(
        self, rng: random.Random, start_s: float, end_s: float
    ) -> Iterator[tuple[float, float]]:
        """Yield begin and end of each visit: Poisson arrivals, exponential stays."""
        for _ in range(round(self.at(start_s))):
            yield start_s, start_s + rng.expovariate(1 / VISIT_S)
        most = self.viewers * (1 + self.swing) / VISIT_S
        now = start_s
        while (now := now + rng.expovariate(most)) < end_s:
            if rng.random() * most < self.at(now) / VISIT_S:
                yield now, now + rng.expovariate(1 / VISIT_S)


class Trouble:
    """One trouble of a run: drawn, later carried out."""

    def __init__(self, kind: str, begin_s: float, end_s: float, rng: random.Random) -> None:
        self.kind = kind
        self.begin_s, self.end_s = begin_s, end_s
        """In seconds of the run; as planned, then as they came."""
        self.strength = round(rng.uniform(*KINDS[kind]), 2)
        self._processes: list[NamespaceProcess] = []

    def more_users(self, audience: Audience) -> Iterator[tuple[float, float]]:
        """Yield begin and end of the visits that it adds."""
        if self.kind not in ("user spike", "user step"):
            return
        count = round(audience.at(self.begin_s) * (self.strength - 1))
        for number in range(count):
            step = number * STEPS // count if self.kind == "user step" else 0
            late = step * (self.end_s - self.begin_s) / STEPS + 2 * number % STEPS / STEPS
            yield self.begin_s + late, self.end_s

    def begin(self, vcdn: Vcdn) -> None:
        """Carry it out; it is bounded in time by itself, too."""
        seconds = f"{self.end_s - self.begin_s:.2f}"
        if self.kind == "network delay":
            vcdn.delay(self.strength)
        elif self.kind in ("cpu", "memory"):
            for function in FUNCTIONS:
                words = [str(PROGRAM), self.kind, seconds, str(self.strength)]
                process = vcdn.launch([*words, str(vcdn.core(function))])
                vcdn.adopt(function, process)
                self._processes.append(process)
        elif self.kind in ("http flood", "slow http"):
            verb, (address, port) = self.kind.split()[self.kind == "http flood"], vcdn.target
            much = str(round(self.strength))
            words = [str(PROGRAM), verb, address, str(port), seconds, much]
            self._processes.append(vcdn.launch(words))

    def finish(self, vcdn: Vcdn) -> None:
        """End it."""
        if self.kind == "network delay":
            vcdn.delay(DELAY_MS)
        end(self._processes)
        self._processes.clear()


def drawn(name: str, seconds: float, seed: int) -> list[Trouble]:
    """Return the troubles of a run: each kind as often as the others over the runs of a set."""
    if name.startswith("normal"):
        return []
    rng = random.Random(f"{seed} {name}")
    count = max(1, round(seconds / SLOT_S))
    slot, before = seconds / count, (int(name.rpartition("-")[2]) - 1) * count
    found = []
    for k in range(count):
        turn, place = divmod(before + k, len(KINDS))
        kind = random.Random(f"{seed} {turn}").sample([*KINDS], len(KINDS))[place]
        # It begins and ends with a row, and what breaks with its end is in its last row.
        begin = round(slot * (k + rng.uniform(0.25, 0.45))) + 0.05
        end_s = begin + round(slot * rng.uniform(0.3, 0.45)) - 0.25
        found.append(Trouble(kind, begin, end_s, rng))
    return found


class VcdnRun:
    """One run, from the first user to the last row."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name = name
        self._rng = rng = random.Random(f"{options.seed} {name} users")
        self._options = options
        self._vcdn = Vcdn(folder)
        self.troubles = drawn(name, options.seconds, options.seed)
        self._audience = Audience(
            rng.uniform(18, 30), rng.uniform(0.3, 0.6), rng.uniform(150, 300), rng.random()
        )
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in FUNCTIONS}
        self._latest: dict[str, dict[str, float]] = {}
        self._failure = ""

    def run(self) -> dict[str, Any]:
        """Play it; return what is to be told of it. Processes are ended whatever happens."""
        load = os.getloadavg()[0]
        try:
            self._vcdn.start()
            asyncio.run(self._play())
        finally:
            self._vcdn.stop()
        keys = ("kind", "begin_s", "end_s", "strength")
        return {
            "seed": self._options.seed,
            "seconds": self._options.seconds,
            "load_of_machine": [round(load, 2), round(os.getloadavg()[0], 2)],
            "troubles": [{key: getattr(one, key) for key in keys} for one in self.troubles],
        }

    async def _play(self) -> None:
        vcdn, seconds = self._vcdn, self._options.seconds
        warm_s = min(WARM_S, seconds / 4)
        visits = [*self._audience.visits(self._rng, -warm_s, seconds)]
        for trouble in self.troubles:
            visits += trouble.more_users(self._audience)
        await self._break_in(min(BREAK_IN_S, seconds / 4))
        users = vcdn.users(visits, self._rng)
        zero = time.monotonic() + warm_s
        users.begin(zero, asyncio.get_running_loop(), self._fail)
        server = serve(lambda: self._latest)
        publisher = asyncio.create_task(self._publish())
        try:
            steps = asyncio.create_task(self._sample(zero, server.server_port))
            acts = [asyncio.create_task(self._trouble(one, zero)) for one in self.troubles]
            await asyncio.gather(steps, *acts)
        finally:
            publisher.cancel()
            users.stop()
            server.shutdown()
            server.server_close()

    async def _break_in(self, seconds: float) -> None:
        """Let nginx take the memory that it keeps after attacks, as if it had run for long."""
        self._vcdn.delay(KINDS["network delay"][1])
        for kind in ("http flood", "slow http"):
            trouble = Trouble(kind, 0.0, seconds, random.Random(0))
            trouble.strength = KINDS[kind][1]
            trouble.begin(self._vcdn)
            await asyncio.sleep(seconds)
            trouble.finish(self._vcdn)
        self._vcdn.delay(DELAY_MS)

    async def _publish(self) -> None:
        while True:
            self._vcdn.publish()
            await asyncio.sleep(SEGMENT_S - time.time() % SEGMENT_S)

    async def _trouble(self, trouble: Trouble, zero: float) -> None:
        await asyncio.sleep(zero + trouble.begin_s - time.monotonic())
        if not trouble.kind.startswith("user"):  # users keep their times themselves
            trouble.begin_s = round(max(trouble.begin_s, time.monotonic() - zero), 3)
        trouble.begin(self._vcdn)
        await asyncio.sleep(zero + trouble.end_s - time.monotonic())
        trouble.finish(self._vcdn)
        trouble.end_s = round(time.monotonic() - zero, 3)

    async def _sample(self, zero: float, port: int) -> None:
        step, seconds = 0, self._options.seconds
        while step <= seconds:
            await asyncio.sleep(zero + step - time.monotonic())
            if self._failure:
                raise PhalanxError(self._failure)
            now = time.monotonic() - zero
            self._latest = self._vcdn.sample(now)
            for name, row in self._latest.items() if step else ():
                self.rows[name].append({"time": round(now, 3), **row})
            progress(f"{self.name}: {step} of {seconds} s; http://127.0.0.1:{port}/metrics")
            step = max(step, int(now)) + 1  # a step that came too late is left out

    def _fail(self, reason: str) -> None:
        self._failure = reason

    def label(self, row: dict[str, Any], before: float) -> str:
        """Return what went on in the time that a row is about, or in a part of it."""
        at = (one.kind for one in self.troubles if one.begin_s < row["time"] and before < one.end_s)
        return next(at, "normal")

    def write(self, out: Path) -> None:
        """Write a file of each function."""
        for name, rows in self.rows.items():
            (out / name).mkdir(exist_ok=True)
            with (out / name / f"{self.name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("time", *METRICS, "label"))
                before = 0.0
                for row in rows:
                    figures = [f"{row[metric]:.6g}" for metric in METRICS]
                    writer.writerow((row["time"], *figures, self.label(row, before)))
                    before = row["time"]


def page(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return metrics of functions, by their name, in Prometheus' text format."""
    lines = []
    for name, text in METRICS.items():
        lines += [f"# HELP vcdn_{name} {text}", f"# TYPE vcdn_{name} gauge"]
        lines += [
            f'vcdn_{name}{{function="{function}"}} {"NaN" if math.isnan(row[name]) else row[name]}'
            for function, row in rows.items()
        ]
    return "\n".join(lines) + "\n"


def serve(rows: Callable[[], Mapping[str, Mapping[str, float]]]) -> ThreadingHTTPServer:
    """Serve ``/metrics`` on loopback, at a free port, until ``shutdown`` and ``server_close``."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page(rows()).encode()
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def progress(line: str) -> None:
    """Say on a terminal how far it is."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a run, unless another process works on it; what a killed one left is ended."""
    lock = folder.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.fstat(lock.fileno()).st_nlink > 0  # who had it has not just removed it
    except BlockingIOError:
        ours = False
    if not ours:
        lock.close()
        yield False
        return
    try:
        sweep(folder)
        folder.mkdir()
        yield True
    finally:
        sweep(folder)
        Path(lock.name).unlink()
        lock.close()


def left_behind(folder: Path) -> list[int]:
    """Return the processes whose complaints go to a file in ``folder``.

    Those are all that were started for it. nginx overwrites its environment, and workers of a
    killed one go on; this mark they keep.
    """
    found = []
    top = str(folder.resolve()) + os.sep
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                errors = str((entry / "fd" / "2").readlink())
            except OSError:
                continue
            if errors.startswith(top):
                found.append(int(entry.name))
    return found


def sweep(folder: Path) -> None:
    """Remove the folder of a run, and what still runs for it."""
    runs.end(left_behind(folder))
    shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Make the data set; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--runs", type=int, default=24, help="how many (24)")
    parser.add_argument("--normal", type=int, help="of these without trouble (5 of 12)")
    parser.add_argument("--seconds", type=int, default=300, help="length of each (300)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    normal = options.runs * 5 // 12 if options.normal is None else options.normal
    if options.seconds < 4 or not 0 <= normal <= options.runs:
        parser.error("--seconds is at least 4, --normal from 0 to --runs")
    names = [f"normal-{n + 1:02d}" for n in range(normal)]
    names += [f"trouble-{n + 1:02d}" for n in range(options.runs - normal)]
    out: Path = options.out
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended in order, too
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            done = out / f"{name}.json"
            with claimed(out / f".{name}") as ours:
                if not ours or done.exists():
                    continue
                run = VcdnRun(name, out / f".{name}", options)
                told = run.run()
                run.write(out)
                done.with_suffix(".new").write_text(json.dumps(told, indent=1) + "\n")
                done.with_suffix(".new").replace(done)
            progress("")
            kinds = ", ".join(trouble.kind for trouble in run.troubles) or "no trouble"
            print(f"{name}: {len(run.rows[FUNCTIONS[0]])} rows of each function; {kinds}")
    except (PhalanxError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
