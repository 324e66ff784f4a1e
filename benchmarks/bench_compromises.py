"""Random one-change compromises of live processes: which are found, and how soon.

Each compromise is really made: another process writes into the memory of a live one, starts it with
another environment, traces it, writes into the file of its library; what takes new objects the
process is told to do itself, through a hole. Then looks follow each other as they do in a run:
drawn for a share of a core (``looks.py``), each really carried out and appraised. The times
between looks are drawn and not slept; the times that looks take are real. Then the compromise is
undone, or the process ended.

Two targets: a process that has imported what an agent imports, and a native program with a library
of its own. Run it with ``python benchmarks/bench_compromises.py [--quick] [--changes N]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from msgspec import Struct
from msgspec.structs import replace

from live_changes import TARGET, PythonChanges
from live_targets import PROGRAM, Agent, compiled, running, started
from looks import Looks
from phalanx.domain.trust import TrustTier
from phalanx.domain.version import VERSION
from phalanx.trust.measurement import MeasurementError, ReferenceValues, appraise
from phalanx.trust.processes import Mapping, ProcessFiles
from phalanx.trust.references import learned, reference_of_program
from tables import QUICK, console, show

CHANGES = 52 if QUICK else 1000
SHARE = 0.02
"""Of a core, for looks at one process."""
MOST_LOOKS = 60
"""Looks after which a compromise counts as missed; a tenth of all looks hash all text anew."""
CHECKED_EVERY = 10
"""Compromises after which the process, all of them undone, must be affirmed."""
SEED = 1
TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
print("ready" if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0 else "no", flush=True)
sys.stdin.read()
"""
TEXT, RELOCATED = "r-xp", "r--p"


class Found(Struct):
    """What became of one compromise."""

    kind: str
    by: str
    where: str
    after_s: float | None
    """None: it was missed."""
    looks: int = 0
    told: str = ""


class Watch:
    """Looks at one process as a run with a share of a core does."""

    def __init__(self, agent: Agent, random: Random, full_s: float, thin_s: float) -> None:
        self.agent = agent
        self._looks = Looks(SHARE, full_s=full_s, thin_s=thin_s, random=random)

    def appraised(self, *, thin: bool = False) -> tuple[TrustTier, list[str]]:
        """Look once; return the tier, and what was found."""
        seen = self.agent.look(thin=thin)
        calm = replace(seen.activity, starved=0.0, still_s=0.0)  # the machine is used by others
        tier, found = appraise(replace(seen, activity=calm), self.agent.reference)
        return tier, [f"{each.kind} {each.where}" for each in found]

    def until_found(self, about: str) -> tuple[float | None, int, str]:
        """Look until something is found that is ``about`` a place; return after how long."""
        passed_s = 0.0
        for number in range(1, MOST_LOOKS + 1):
            look = self._looks.draw()
            begin = time.monotonic()
            tier, found = self.appraised(thin=look.thin)
            passed_s += look.after_s + time.monotonic() - begin
            if tier in (TrustTier.CONTRAINDICATED, TrustTier.WARNING):
                told = next((line for line in found if about in line), "")
                if told:
                    return passed_s, number, told
        return None, MOST_LOOKS, ""


def costs(agent: Agent) -> tuple[float, float]:
    """Return the CPU time of a full and of a thin look at a process that did not change."""
    agent.look()
    full, thin = (
        min(agent.look(thin=thin).cpu_s for _ in range(3 if QUICK else 10))
        for thin in (False, True)
    )
    return full, thin


# -- a Python agent ------------------------------------------------------------------------


@contextmanager
def python_agent() -> Iterator[Agent]:
    """Run a process that has imported what an agent imports; another one is its reference."""
    command = [sys.executable, "-c", TARGET]
    with running(started(command)) as genuine:
        model = Agent(genuine, ReferenceValues("phalanx", VERSION, core_dumps=True))
        with model.measurer:
            seen = model.look()
            reference = learned(model.reference, seen, model.measurer.details())
    with running(started(command)) as process:
        agent = Agent(process, reference)
        with agent.measurer:
            yield agent


def compromised(folder: Path, random: Random, count: int, say: Callable[[], None]) -> list[Found]:
    """Make compromises of a Python agent one after the other."""
    results: list[Found] = []
    with python_agent() as agent:
        changes = PythonChanges(agent, folder, random)
        full_s, thin_s = costs(agent)
        watch = Watch(agent, random, full_s, thin_s)
        genuine = watch.appraised()
        assert genuine == (TrustTier.AFFIRMING, []), genuine
        kinds = list(changes.kinds)
        for number in range(count):
            change = changes.draw(kinds[number % len(kinds)])
            change.make()
            module = change.where.partition(".")[0]
            after_s, looks, told = watch.until_found(module)
            change.undo()
            results.append(Found(change.kind, change.by, change.where, after_s, looks, told))
            if number % CHECKED_EVERY == CHECKED_EVERY - 1 or number == count - 1:
                after = watch.appraised()
                assert after == (TrustTier.AFFIRMING, []), (change.kind, change.where, after)
            say()
        changes.close()
    return results


# -- a native program ----------------------------------------------------------------------


class NativeChanges:
    """Compromises of a native program, each of another process of it."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.folder, self._random = folder, random
        compiled(folder, "extra.so", "int extra(void) { return 1; }", "-shared", "-fPIC")
        own = "int own(int n) { int s = 0; for (int i = 0; i < n; i++) s += i * n; return s; }"
        self._own = compiled(folder, "libown.so", own, "-shared", "-fPIC")
        options = (
            "-Wl,-z,relro,-z,now",
            "-Wl,--no-as-needed",
            str(self._own),
            f"-Wl,-rpath,{folder}",
        )
        self._program = compiled(folder, "guard", PROGRAM, *options)
        made = reference_of_program(self._program, "guard", "1.0")
        self.reference = replace(made, core_dumps=True)
        self.ended = 0
        """Processes that a compromise has ended: nothing was left to look at."""
        self._watch: Watch | None = None
        self._costs = (0.0, 0.0)
        self.kinds: dict[str, Callable[[str], Found | None]] = {
            "program text": lambda kind: self._written(kind, TEXT),
            "text, put back": lambda kind: self._written(kind, TEXT, back=True),
            "read-only data": lambda kind: self._written(kind, RELOCATED),
            "unlisted library": lambda kind: self._told(
                kind, f"load {folder}/extra.so", "extra.so"
            ),
            "anonymous code": lambda kind: self._told(kind, "execute", "anonymous"),
            "code in a memory file": lambda kind: self._told(kind, "memfd", "memfd"),
            "environment": self._environment,
            "tracer": self._traced,
            "file altered before load": self._file,
            "file written while it runs": self._file_live,
            "file exchanged while it runs": self._file_exchanged,
            "stopped": self._stopped,
        }

    @contextmanager
    def _running(self, program: Path | None = None, **environment: str) -> Iterator[Watch]:
        command = [str(program or self._program)]
        reference = self.reference
        if program is not None:
            listed = reference.objects[str(self._program)]
            reference = replace(reference, objects={**reference.objects, str(program): listed})
        with running(started(command, {**os.environ, **environment})) as process:
            agent = Agent(process, reference)
            with agent.measurer:
                if not self._costs[0]:
                    self._costs = costs(agent)
                yield Watch(agent, self._random, *self._costs)

    def draw(self, kind: str) -> Found:
        """Make a compromise of a kind at a random place, and look until it is found."""
        for _ in range(50):
            with suppress(MeasurementError):
                found = self.kinds[kind](kind)
                if found is not None:
                    return found
            self.ended += 1
        raise LookupError(kind)

    def _result(self, kind: str, watch: Watch, where: str, by: str, about: str = "") -> Found:
        after_s, looks, told = watch.until_found(about)
        return Found(kind, by, where, after_s, looks, told)

    def _genuine(self, watch: Watch) -> None:
        genuine = watch.appraised()
        assert genuine == (TrustTier.AFFIRMING, []), genuine

    def _place(self, watch: Watch, permissions: str) -> tuple[Mapping, int]:
        """Return a random octet of the program or of one of its libraries."""
        files = ProcessFiles(watch.agent.process.pid)
        try:
            maps = [m for m in files.mappings() if m.permissions == permissions and m.backed]
        finally:
            files.close()
        executable = {m.path for m in maps} & set(self.reference.objects)
        maps = [m for m in maps if m.path in executable]
        sizes = [m.end - m.start for m in maps]
        chosen = self._random.choices(maps, sizes)[0]
        return chosen, chosen.start + self._random.randrange(chosen.end - chosen.start)

    def _written(self, kind: str, permissions: str, *, back: bool = False) -> Found | None:
        with self._running() as watch:
            self._genuine(watch)
            mapping, place = self._place(watch, permissions)
            number = os.open(f"/proc/{watch.agent.process.pid}/mem", os.O_RDWR)
            try:
                try:
                    old = os.pread(number, 1, place)
                except OSError:  # behind the end of the file
                    return None
                os.pwrite(number, bytes([old[0] ^ self._random.randrange(1, 256)]), place)
                if back:
                    os.pwrite(number, old, place)
            finally:
                os.close(number)
            where = f"{mapping.path.rpartition('/')[2]}+{place - mapping.start:x}"
            found = self._result(kind, watch, where, "memory", mapping.path)
            return found if watch.agent.process.poll() is None else None

    def _told(self, kind: str, order: str, about: str) -> Found:
        with self._running() as watch:
            self._genuine(watch)
            watch.agent.exploit(order)
            return self._result(kind, watch, "", "its own code", about)

    def _environment(self, kind: str) -> Found:
        extra = str(self.folder / "extra.so")
        name, value = self._random.choice(
            [("LD_PRELOAD", extra), ("LD_LIBRARY_PATH", "/tmp"), ("LD_BIND_NOT", "1"),  # noqa: S108
             ("GLIBC_TUNABLES", "glibc.malloc.check=3"), ("PYTHONPATH", "/tmp"),  # noqa: S108
             ("PYTHONSTARTUP", "x.py"), ("MALLOC_PERTURB_", "7"), ("SSLKEYLOGFILE", "keys")]
        )  # fmt: skip
        with self._running(None, **{name: value}) as watch:
            return self._result(kind, watch, name, "start", name)

    def _traced(self, kind: str) -> Found:
        with self._running() as watch:
            self._genuine(watch)
            command = [sys.executable, "-c", TRACER, str(watch.agent.process.pid)]
            with running(started(command)):
                return self._result(kind, watch, "", "ptrace", "traced")

    def _altered(self, path: Path) -> tuple[int, int]:
        """Return a place in the text of the own library, and what is to stand there."""
        octets = path.read_bytes()
        listed = subprocess.run(  # noqa: S603
            ["readelf", "-SW", str(path)],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
        line = next(line for line in listed.stdout.splitlines() if " .text " in line).split()
        at = line.index(".text")
        begin, size = int(line[at + 3], 16), int(line[at + 4], 16)
        place = begin + self._random.randrange(size)
        return place, octets[place] ^ self._random.randrange(1, 256)

    def _file(self, kind: str) -> Found | None:
        kept = self._own.read_bytes()
        place, octet = self._altered(self._own)
        try:
            put(self._own, place, octet)
            with self._running() as watch:
                return self._result(kind, watch, f"libown.so+{place:x}", "file", str(self._own))
        except AssertionError:  # it did not even start
            return None
        finally:
            put(self._own, place, kept[place])

    def _file_live(self, kind: str) -> Found:
        kept = self._own.read_bytes()
        with self._running() as watch:
            self._genuine(watch)
            place, octet = self._altered(self._own)
            times = self._own.stat()
            try:
                put(self._own, place, octet)
                if self._random.random() < 0.5:  # as one does who hides it
                    os.utime(self._own, ns=(times.st_atime_ns, times.st_mtime_ns))
                where = f"libown.so+{place:x}"
                return self._result(kind, watch, where, "file", str(self._own))
            finally:
                put(self._own, place, kept[place])

    def _file_exchanged(self, kind: str) -> Found:
        copy = Path(shutil.copy(self._program, self.folder / "copy"))
        with self._running(copy) as watch:
            self._genuine(watch)
            copy.unlink()
            shutil.copy(self._program, copy)
            return self._result(kind, watch, "copy", "file", str(copy))

    def _stopped(self, kind: str) -> Found:
        with self._running() as watch:
            self._genuine(watch)
            watch.agent.process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            found = self._result(kind, watch, "", "signal", "stopped")
            watch.agent.process.send_signal(signal.SIGCONT)
            return found


def put(path: Path, place: int, octet: int) -> None:
    """Write one octet of a file in place."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([octet]))


# -- all of it -------------------------------------------------------------------------------


def row(name: str, results: list[Found]) -> list[str]:
    """Return a row of the table."""
    times = sorted(r.after_s for r in results if r.after_s is not None)
    found = [name, ", ".join(sorted({r.by for r in results})), f"{len(times)} of {len(results)}"]
    if not times:
        return [*found, "", "", ""]
    p99 = times[min(int(0.99 * len(times)), len(times) - 1)]
    return [*found, f"{times[len(times) // 2]:.2f}", f"{p99:.2f}", f"{times[-1]:.2f}"]


def main() -> None:
    """Make the compromises, and print what became of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    random, begin = Random(options.seed), time.monotonic()
    done: Counter[str] = Counter()

    def say() -> None:
        done["made"] += 1
        if done["made"] % 100 == 0:
            console.print(f"{done['made']} made, {time.monotonic() - begin:.0f} s", style="dim")

    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        results: list[Found] = []
        ended = natives = 0
        if shutil.which("cc") and shutil.which("readelf"):
            native = NativeChanges(folder, random)
            natives = options.changes * 6 // 10  # a process each, which costs milliseconds
            for number in range(natives):
                results.append(native.draw([*native.kinds][number % len(native.kinds)]))
                say()
            ended = native.ended
        else:
            console.print("no C compiler: Python alone", style="yellow")
        results += compromised(folder, random, options.changes - natives, say)
    kinds = sorted({r.kind for r in results})
    rows = [row(kind, [r for r in results if r.kind == kind]) for kind in kinds]
    show(
        f"{len(results)} compromises, seed {options.seed}; looks for {SHARE:.0%} of a core; "
        "time until found in s",
        ("kind", "by", "found", "median", "p99", "worst"),
        [*rows, row("all", results)],
        "Times between looks are drawn, those of looks are real. by: another process writes into "
        f"its memory or file, or its own code is told to do it. {ended} more ended the process "
        "at once and were drawn anew.",
    )
    for missed in (r for r in results if r.after_s is None):
        console.print(f"missed: {missed.kind} {missed.where}", style="red")
    sys.exit(1 if any(r.after_s is None for r in results) else 0)


if __name__ == "__main__":
    main()
