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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest

from phalanx.checking import check
from phalanx.domain.events import Event
from phalanx.fabric.operations import (
    INVENTORY,
    STATUS,
    InventoryRequest,
    StatusAnswer,
    StatusRequest,
)
from phalanx.fabric.status import OverallStatus, report
from phalanx.runtime.processes.spec import RunSpec
from phalanx.runtime.processes.spread import disagreements
from phalanx.store.history import EventQuery, History
from phalanx.store.sql import SqlEventStore
from tests.system.process_checks import caught_up
from tests.system.process_lab import PATIENCE_S, PHALANX, Lab, processes
from tests.system.process_log import effect_of, holds
from tests.system.process_plan import NETWORK

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
        self.events: list[Event] = []
        """All that the stream has acknowledged and told."""
        self.victims = (*lab.pops, *BROKERS, NETWORK, RECORDER, AUDITOR)
        self.wrong: Any = None
        """What the last check that failed found."""
        self._random = random
        self._store = f"sqlite:///{lab.folder / 'history.db'}"
        self._kept: set[str] = set()
        self._kept_until = 0.0
        self._lives: Counter[str] = Counter()
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
        before = {name: self._lives[name] for name in victims}
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
                    self._lives[name] > before[name]
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
        self._wait(self._whole, "no event is missing and no rule broken")
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
                wrong = str(self.wrong)[:5_000]
                told = f"not within {PATIENCE_S:g} s: {what}: {wrong}\n{self.lab.story()}"
                pytest.fail(told, pytrace=False)
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
        lab, books = self.lab, self.lab.books()
        held = (lab.ask(pop, INVENTORY, InventoryRequest()) for pop in lab.pops)
        self.wrong = disagreements([books, *held])
        return not self.wrong and holds(effect_of(name) for name in books.leases if ":" in name)

    _read_to = 0

    def _read(self) -> None:
        for one in self.lab.heard[self._read_to :]:
            self.events.append(one.event)
            self._lives[one.event.agent] += one.event.kind == "process.started"
        self._read_to = len(self.lab.heard)

    def _whole(self) -> bool:
        """Whether each life is told without a gap, and the whole breaks no rule of the checker."""
        self._read()
        self.wrong = check(self.events, whole=True)
        return not self.wrong

    def _recorded(self) -> bool:
        with SqlEventStore(self._store) as store:
            query = EventQuery(received_since=self._kept_until)
            for entry in History(store.database).entries("run", query):
                self._kept.add(entry.event.id)
                self._kept_until = entry.received
        self.wrong = {event.id for event in self.events} - self._kept
        return not self.wrong


def test_any_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    with Lab(tmp_path, brokers=3) as lab:
        killing = Killing(lab, Random(SEED))
        try:
            killing.start_all()
            while killing.kills.total() < KILLS:
                killing.strike()
                print(
                    f"{killing.kills.total()} kills, settled after {killing.settled_s[-1]:.1f} s,"
                    f" {len(killing.events)} events",
                    flush=True,
                )
        finally:
            print(
                f"seed {SEED}: {killing.kills.total()} kills: {dict(killing.kills)};"
                f" settled after {median(killing.settled_s or [0]):.1f} s (median),"
                f" {max(killing.settled_s or [0]):.1f} s (most); {len(killing.events)} events",
                flush=True,
            )
            killing.end_auditor()
