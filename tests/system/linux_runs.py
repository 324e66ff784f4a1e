"""Runs on real packets as processes of their own, and a visitor who is none of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

from phalanx.domain.events import Event
from phalanx.reporting.summary import Summary, summarise
from phalanx.store.jsonl import read_jsonl
from tests.system.conftest import SCENARIOS

PHALANX = (sys.executable, "-m", "phalanx")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_VISIT_EVERY_S = 0.2
_PATIENCE_S = 2.0
"""TCP sends a lost SYN again after 1 s: the visitor waits longer than that, as a browser does."""
_TOO_LONG_S = 120.0


def lacking(*tools: str) -> str:
    """Return in one line what this machine lacks for runs on real packets; empty if nothing."""
    # Only root can tell, and only with the extra packages.
    from phalanx.infrastructure.linux.features import missing, probe  # noqa: PLC0415

    lines = missing(probe())
    lines += [f"{tool}: no" for tool in tools if shutil.which(tool, path=_PATH) is None]
    return "; ".join(lines)


class Visit(NamedTuple):
    """One page asked for."""

    time: float
    """By CLOCK_MONOTONIC."""
    served: bool


class Visitor:
    """Asks for the page again and again from a user's namespace, with curl."""

    def __init__(self, run: str, home: str, url: str) -> None:
        words = ["-s", "-f", "-o", "/dev/null", "--max-time"]
        namespace = f"phx-{run}-{home}"
        self._command = ["ip", "netns", "exec", namespace, "curl", *words, str(_PATIENCE_S), url]
        self.visits: list[Visit] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def share(self, begin: float, end: float) -> float:
        """Return the share of visits begun between two times that were served."""
        served = [visit.served for visit in self.visits if begin <= visit.time < end]
        assert len(served) >= (end - begin) / (_VISIT_EVERY_S + _PATIENCE_S), "hardly any visit"
        return sum(served) / len(served)

    def _visit(self) -> None:
        while not self._over.wait(_VISIT_EVERY_S):
            begin = time.monotonic()
            served = subprocess.run(self._command, check=False).returncode == 0
            self.visits.append(Visit(begin, served))


class Process:
    """``phalanx run … --on linux``; what it prints is read line by line as it comes."""

    def __init__(self, scenario: str, *options: str) -> None:
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [*PHALANX, "run", str(SCENARIOS / scenario), "--on", "linux", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def line(self, pattern: str) -> tuple[float, re.Match[str]]:
        """Wait for a line and return when it came (CLOCK_MONOTONIC) and what matched."""
        until = time.monotonic() + _TOO_LONG_S
        alive = True
        while alive and time.monotonic() < until:
            alive = self._thread.is_alive()
            for when, text in list(self.lines):
                if found := re.search(pattern, text):
                    return when, found
            time.sleep(0.01)
        raise AssertionError(f"no line {pattern!r}: {self.text()}")

    def text(self) -> str:
        return "\n".join(text for _, text in self.lines)

    def wait(self) -> int:
        return self.process.wait(_TOO_LONG_S)

    def run(self) -> str:
        """Return the mark of the run, as soon as it has one."""
        return self.line(r"testbed ([0-9a-f]{6}):")[1][1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append((time.monotonic(), text.rstrip()))


class Observed:
    """A run that has ended, and what the visitor saw of it."""

    def __init__(self, events: Sequence[Event], visitor: Visitor, begins: str, left: list[str]):
        self.events = events
        self.visitor = visitor
        self.left = left
        """What stood on the machine after it."""
        self.summary: Summary = summarise(events)
        changes = [e for e in events if e.kind == "traffic.changed" and e.data["group"] == begins]
        self.begins = changes[0].time
        """When the attackers or the crowd came."""
        self.ends = changes[-1].time
        self.anchor = 0.0
        """Time of the run's start by CLOCK_MONOTONIC."""

    def share(self, begin: float, end: float, host: str = "server") -> float:
        """Return the share of what a host's users wanted that they got, in a span of the run."""
        samples = [e for e in self.events if e.kind == "network.sample"]
        got = wanted = 0.0
        for before, sample in pairwise(samples):
            if begin <= sample.time < end:
                figures: Mapping[str, float] = sample.data["hosts"][host]
                got += figures["legitimate_mb_s"] * (sample.time - before.time)
                wanted += figures["wanted_mb_s"] * (sample.time - before.time)
        return got / wanted

    def served(self, begin: float, end: float) -> float:
        """Return the share of the visitor's pages that came, in a span of the run."""
        return self.visitor.share(self.anchor + begin, self.anchor + end)

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.events)

    def in_force(self) -> set[str]:
        """Return the measures and instances that are there at the end."""
        there: set[str] = set()
        for event in self.events:
            match event.kind:
                case "measure.applied":
                    there.add(event.data["measure"])
                case "measure.lifted":
                    there.discard(event.data["measure"])
                case "instance.started":
                    there.add(event.data["instance"])
                case "instance.stopped":
                    there.discard(event.data["instance"])
        return there


def observe(scenario: str, begins: str, folder: Path, *options: str) -> Observed:
    """Run a scenario to its end, with a visitor.

    Args:
        scenario: its file, below the folder of scenarios.
        begins: group of sources whose coming matters: attackers, or a crowd.
        folder: for the log.
        options: of the run.

    """
    log = folder / "log.jsonl"
    with Process(scenario, "--log", str(log), *options) as process:
        run = process.run()
        process.line("server and users are ready")
        visitor = Visitor(run, "web-users-pop2", "http://10.0.6.10:8000/")
        try:
            came, _ = process.line(f"{begins} send")
            assert process.wait() == 0, process.text()
        finally:
            visitor.stop()
        observed = Observed(read_jsonl(log), visitor, begins, traces(run))
    observed.anchor = came - observed.begins
    return observed


def clean(run: str) -> str:
    """Have ``phalanx clean`` remove a run, and no other, since some may be alive beside it."""
    done = subprocess.run([*PHALANX, "clean", run], check=True, capture_output=True, text=True)
    return done.stdout


def machine() -> dict[str, list[str]]:
    """Return what has a name on the machine; of namespaces those that belong to no run."""
    commands = {
        "namespaces": ["ip", "netns"],
        "interfaces": ["ip", "-o", "link"],
        "rules": ["nft", "list", "ruleset"],
    }
    states = {name: _lines(words) for name, words in commands.items()}
    states["namespaces"] = sorted(n for n in states["namespaces"] if not n.startswith("phx"))
    states["interfaces"] = [line.split(": ")[1] for line in states["interfaces"]]
    return states


def traces(run: str) -> list[str]:
    """Return what is left of a run, looked for in another way than ``phalanx clean`` does."""
    return [
        *(line for line in _lines(["ip", "netns"]) if run in line),
        *map(str, Path("/sys/fs/cgroup").glob(f"**/phalanx/{run}")),
        *map(str, Path("/run/phalanx").glob(run)),
        *(str(p) for p in Path("/proc").glob("[0-9]*/environ") if _holds(p, run)),
    ]


def _holds(file: Path, run: str) -> bool:
    try:
        return f"PHALANX_RUN={run}".encode() in file.read_bytes()
    except OSError:
        return False


def _lines(words: list[str]) -> list[str]:
    environment = {**os.environ, "PATH": _PATH}
    return subprocess.check_output(words, text=True, env=environment).splitlines()
