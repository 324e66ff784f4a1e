"""kill -9 of any process at random moments, over three brokers: duties, measures and history hold.

One network lives through all of them: agents, brokers, the network, the recorder and the auditor
are killed, one or two at a time, and started again. ``PHALANX_KILLS`` says how often,
``PHALANX_KILLS_SEED`` which moments and processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest

from phalanx.fabric.operations import STATUS, StatusAnswer, StatusRequest
from phalanx.fabric.status import OverallStatus, report
from phalanx.runtime.processes.spec import RunSpec
from phalanx.store.history import EventQuery, History
from phalanx.store.sql import SqlEventStore
from tests.system.process_checks import caught_up
from tests.system.process_lab import PATIENCE_S, PHALANX, Lab, processes
from tests.system.process_log import effect_of, holds, split
from tests.system.process_plan import FIRST, NETWORK

pytestmark = processes()

KILLS = int(os.environ.get("PHALANX_KILLS", "6"))
SEED = int(os.environ.get("PHALANX_KILLS_SEED", "1"))
BROKERS = ("broker1", "broker2", "broker3")
RECORDER, AUDITOR = "recorder", "auditor"


class Killing:
    """Kills processes of a lab, starts them again, and checks what must hold afterwards."""

    def __init__(self, lab: Lab, random: Random) -> None:
        self.lab = lab
        self.kills: Counter[str] = Counter()
        self.settled_s: list[float] = []
        self.ids: set[str] = set()
        """Of all events that the stream has acknowledged and told."""
        self.never_kept: set[str] = set()
        """Causes that a process had not written yet when it was killed."""
        self.victims = (*lab.pops, *BROKERS, NETWORK, RECORDER, AUDITOR)
        self.wrong: Any = None
        """What the last check that failed found."""
        self._random = random
        self._store = f"sqlite:///{lab.folder / 'history.db'}"
        self._kept: set[str] = set()
        self._kept_until = 0.0
        self._last: dict[str, int] = {}
        self._count: Counter[str] = Counter()
        self._lives: dict[str, set[str]] = defaultdict(set)
        self._causes: set[str] = set()
        self._auditor: subprocess.Popen[bytes] | None = None
        self._run = RunSpec(time.time())

    # -- processes ----------------------------------------------------------------------------

    def start_all(self) -> None:
        """Start everything but the brokers, which run already."""
        for name in (RECORDER, AUDITOR, *self.lab.pops):
            self.start(name)
        self.lab.until(lambda: self.lab.serving(*self.lab.pops), "all agents serve")
        self._run = RunSpec(time.time() + 1.0)
        self.start(NETWORK)
        self.lab.until(lambda: self.lab.of("network.sample"), "the network is heard")
        self.settle()

    def start(self, name: str) -> None:
        """Start a process, the first time or again."""
        lab = self.lab
        if name in BROKERS:
            server = lab.broker(name)
            lab.until(lambda: server.pid is None, f"{name} is gone")
            server.start(detached=True)
        elif name == NETWORK:
            lab.testbed.start(NETWORK, NETWORK, {"plan": str(lab.plan)}, self._run)
        elif name == RECORDER:
            lab.testbed.start(RECORDER, RECORDER, {"store": self._store})
        elif name == AUDITOR:
            with (lab.folder / "auditor.log").open("ab") as log:
                self._auditor = subprocess.Popen(  # our own interpreter
                    [*PHALANX, "domain", "audit", str(lab.testbed.domain.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        else:
            lab.start(name)

    def kill(self, name: str) -> None:
        """End a process as kill -9 does."""
        if name in BROKERS:
            pid = self.lab.broker(name).pid
            assert pid is not None, f"{name} does not run"
            os.kill(pid, signal.SIGKILL)
        elif name == AUDITOR:
            self.end_auditor()
        else:
            self.lab.testbed.kill(name)
        self.kills[name] += 1

    def end_auditor(self) -> None:
        """Kill the auditor, if it runs."""
        if self._auditor is not None:
            assert self._auditor.poll() is None, (self.lab.folder / "auditor.log").read_text()
            self._auditor.kill()
            self._auditor.wait()

    def strike(self) -> None:
        """Kill one process, or two within a second, at a random moment, and start them again."""
        random, lab = self._random, self.lab
        lab.rest(random.uniform(0.0, 1.5))
        # Two brokers of three are no quorum: the others may die together, those one at a time.
        victims = random.sample(self.victims, 1 if random.random() < 0.7 else 2)
        if len(set(victims) & set(BROKERS)) > 1:
            victims = victims[:1]
        self._read()
        before = {name: len(self._lives[name]) for name in victims}
        for name in victims:
            self.kill(name)
            lab.rest(random.uniform(0.0, 1.0))
        for name in victims:
            lab.rest(random.uniform(0.0, 3.0))
            self.start(name)
        began = time.monotonic()
        said = " and ".join(victims)
        lab.until(
            lambda: (
                self._read()
                or all(
                    len(self._lives[name]) > before[name]
                    for name in victims
                    if name not in (*BROKERS, AUDITOR)
                )
            ),
            f"{said} lives again",
        )
        self.settle()
        self.settled_s.append(time.monotonic() - began)

    # -- checks -------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait for what must hold once everything runs; fail if it does not come."""
        lab = self.lab
        everyone = (*lab.pops, NETWORK, RECORDER)
        lab.until(lambda: lab.serving(*everyone), "all serve")
        caught_up(lab, lab.pops)
        self._wait(self._well, "the verdict is well, and each duty has an owner")
        self._wait(self._measures_right, "what is in force is what agents hold, and suffices")
        self._wait(self._whole, "no event and no cause is missing")
        self._wait(self._recorded, "the recorder has every event that was acknowledged")
        assert set(lab.testbed.ended()) == set(), lab.story()
        for name in everyone:
            said = lab.testbed.log(name).read_text()
            assert "Traceback" not in said, f"{name}: {said[-3000:]}"
        self._read()
        del lab.heard[:-2_000]
        self._read_to = len(lab.heard)

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > end:
                pytest.fail(
                    f"not within {PATIENCE_S:g} s: {what}: {self.wrong}\n{self.lab.story()}"
                )
            self.lab.rest(0.3)

    def _well(self) -> bool:
        lab = self.lab
        answers = {}
        for pop in lab.pops:
            found = lab.ask(pop, STATUS, StatusRequest())
            if isinstance(found, StatusAnswer):
                answers[pop] = found
        found = report(lab.registry.entries(), answers, lab.clock.now())
        self.wrong = found.findings, found.notes
        return len(answers) == len(lab.pops) and found.verdict is OverallStatus.WELL

    def _measures_right(self) -> bool:
        lab = self.lab
        leases = lab.books().leases
        held = lab.estate(*lab.pops)
        measures = [lease for lease in leases if ":" in lease]
        effects = [effect_of(measure) for measure in measures]
        self.wrong = leases, held
        return (
            set(measures) == {lease for lease in held if ":" in lease}
            and all(lease in held or lease in FIRST for lease in leases)
            and len(set(effects)) == len(effects)
            and holds(effects)
        )

    _read_to = 0

    def _read(self) -> None:
        heard = self.lab.heard
        for one in heard[self._read_to :]:
            event = one.event
            assert event.id not in self.ids, f"{event.id} is in the stream twice"
            self.ids.add(event.id)
            life, number = split(event.id)
            self._last[life] = max(number, self._last.get(life, 0))
            self._count[life] += 1
            if event.cause is not None:
                self._causes.add(event.cause)
            if event.kind == "process.started":
                self._lives[event.agent].add(life)
        self._read_to = len(heard)

    def _whole(self) -> bool:
        """Whether each life is told without a gap, and each cause that was ever written is."""
        self._read()
        incomplete = [life for life, last in self._last.items() if self._count[life] < last]
        if incomplete:
            self._recorded()
            numbers = ((life, n) for life in incomplete for n in range(1, self._last[life] + 1))
            lost = [name for life, n in numbers if (name := f"{life}-{n}") not in self.ids]
            self.wrong = {name: ("recorded" if name in self._kept else "lost") for name in lost}
            return False
        self._causes -= self.ids
        present = {max(lives, key=_incarnation) for lives in self._lives.values() if lives}
        present |= {life.rpartition(".")[0] for life in present}
        for cause in self._causes:
            life, number = split(cause)
            if {life, life.rpartition(".")[0]} & present or number <= self._last.get(life, 0):
                self.wrong = cause
                return False
        self.never_kept |= self._causes
        return True

    def _recorded(self) -> bool:
        with SqlEventStore(self._store) as store:
            query = EventQuery(received_since=self._kept_until)
            for entry in History(store.database).entries("run", query):
                self._kept.add(entry.event.id)
                self._kept_until = entry.received
        self.wrong = self.ids - self._kept
        return not self.wrong


def _incarnation(life: str) -> int:
    return int(life.split(".")[1])


def test_any_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    with Lab(tmp_path, brokers=3) as lab:
        killing = Killing(lab, Random(SEED))
        try:
            killing.start_all()
            while killing.kills.total() < KILLS:
                killing.strike()
                print(
                    f"{killing.kills.total()} kills, settled after {killing.settled_s[-1]:.1f} s,"
                    f" {len(killing.ids)} events",
                    flush=True,
                )
        finally:
            print(
                f"seed {SEED}: {killing.kills.total()} kills: {dict(killing.kills)};"
                f" settled after {median(killing.settled_s or [0]):.1f} s (median),"
                f" {max(killing.settled_s or [0]):.1f} s (most); {len(killing.ids)} events,"
                f" {len(killing.never_kept)} causes never written",
                flush=True,
            )
            killing.end_auditor()
