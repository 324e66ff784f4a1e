"""How many files one flood, one message and one won contract lead through.

It counts, with ``sys.setprofile``, the files of the package in which code runs, and the hops: calls
from one file into another. The simulated network and the clock are left out. A flood is
``scenarios/quickstart-ring.yaml`` from the first alarm to the last flow that is limited; a
contract is the first one of that run, from the award to the report, at its winner; a message
goes sealed from agent to agent over a NATS server, after their greeting.

Run it with ``python benchmarks/trace_paths.py [--src SRC] [--base SRC]``. ``SRC`` is the ``src``
of any checkout, this one's unless told; ``--base`` traces another one beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec.structs import replace

from tables import console, show

HERE = Path(__file__).resolve().parents[1] / "src"
LEFT_OUT = ("infrastructure/", "clock/")
ENTRIES = {"receive", "perceive", "answer", "tick"}
"""What a shell calls of its agent."""


Figures = dict[str, tuple[list[str], int]]
"""By path: the files, and the number of hops."""


class Trace:
    """Files and hops while something runs."""

    def __init__(self, src: Path) -> None:
        self._root = f"{src / 'phalanx'}/"
        self._files: dict[str, str] = {}
        self.files: set[str] = set()
        self.hops = 0

    def file(self, frame: FrameType | None) -> str:
        """Return the file of a frame within the package; empty outside of what is traced."""
        if frame is None:
            return ""
        name = frame.f_code.co_filename
        known = self._files.get(name)
        if known is None:
            own = name.removeprefix(self._root) if name.startswith(self._root) else ""
            known = self._files[name] = "" if own.startswith(LEFT_OUT) else own
        return known

    def add(self, frame: FrameType) -> None:
        """Count a call."""
        here = self.file(frame)
        if not here:
            return
        caller = frame.f_back
        while caller is not None and not self.file(caller):
            caller = caller.f_back
        self.files.add(here)
        self.hops += bool(caller is not None and self.file(caller) != here)

    def figures(self) -> tuple[list[str], int]:
        """Return the files and the hops so far."""
        return sorted(self.files), self.hops


@contextmanager
def profiled(watch: Any) -> Iterator[None]:
    """Have ``watch(frame, what)`` called at each call and return."""
    sys.setprofile(lambda frame, what, _: watch(frame, what))
    try:
        yield
    finally:
        sys.setprofile(None)


class Run:
    """Watches a run: a flood from alarm to limit, and the first contract at its winner."""

    def __init__(self, src: Path) -> None:
        self.flood, self.contract = Trace(src), Trace(src)
        self.flooded: tuple[list[str], int] = ([], 0)
        self._alarmed = False
        self._winner = ""
        self._over = False
        self._now: list[tuple[str, str]] = []

    def watch(self, frame: FrameType, what: str) -> None:
        """Take one call or return in."""
        name, file = frame.f_code.co_name, self.flood.file(frame)
        if name in ENTRIES and file == "bdi/agent.py" and what in ("call", "return"):
            if what == "return":
                self._now.pop()
            else:
                self._now.append((frame.f_locals["self"].name, name))
        if what != "call" or not file:
            return
        if name == "record" and file == "domain/events.py":
            self._recorded(frame.f_locals.get("kind", ""), frame.f_locals.get("data", {}))
        elif name == "heard_award" and not self._winner:
            self._winner = self._now[-1][0]
        if self._alarmed:
            self.flood.add(frame)
        own = self._now and self._now[-1][0] == self._winner and self._now[-1][1] != "tick"
        if own and not self._over:
            self.contract.add(frame)

    def _recorded(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "belief.changed" and str(data.get("belief")).startswith("overUsage"):
            self._alarmed = True
        elif kind == "measure.applied" and "flowRateLimited" in json.dumps(data, default=str):
            self.flooded = self.flood.figures()
        elif kind == "contract.ended":
            self._over = True


def flood_and_contract(src: Path) -> Figures:
    """Run the ring once."""
    load = import_module("phalanx.runtime.loading").load_scenario
    plan = load(src.parent / "scenarios" / "quickstart-ring.yaml")
    if hasattr(plan, "strategy"):  # earlier checkouts know no other than the published one
        plan = replace(plan, strategy="published")
    system = import_module("phalanx.runtime.system").System(plan)
    run = Run(src)
    with profiled(run.watch):
        system.run()
    return {"one flood": run.flooded, "one won contract": run.contract.figures()}


def message(src: Path) -> Figures:
    """Send messages over NATS; trace the second one, from the sender to the receiver."""
    sys.path.insert(0, str(src.parent / "tests" / "bus"))
    bus_messages, nats_lab, seal_lab = map(import_module, ("bus_messages", "nats_lab", "seal_lab"))
    agent_bus = import_module("phalanx.bus.agents").AgentBus
    limits = getattr(seal_lab, "SealLimits", None) or seal_lab.Limits
    meeting = next(kind for kind in vars(nats_lab).values() if hasattr(kind, "at_servers"))
    trace = Trace(src)
    with tempfile.TemporaryDirectory() as folder, meeting.at_servers(Path(folder)) as ground:
        buses, inbox = {}, bus_messages.Inbox()
        for identity in (nats_lab.A, nats_lab.B):
            own = seal_lab.credentials(identity.name, domain=identity.domain, signed_by="lab")
            seal = seal_lab.Seal(own, 1, limits())
            bus = agent_bus(ground.join(identity), ground.clock, seal, peers=("a", "b"))
            bus.attach(identity.name, inbox)
            buses[identity.name] = bus
        ground.rest()
        buses["a"].send(bus_messages.message(1))
        ground.until(lambda: len(inbox) == 1)
        ground.rest()
        with profiled(lambda frame, what: trace.add(frame) if what == "call" else None):
            buses["a"].send(bus_messages.message(2))
            ground.until(lambda: len(inbox) == 2)
    return {"one message over NATS": trace.figures()}


def traced(src: Path) -> Figures:
    """Trace the checkout at ``src``; needs a process of its own."""
    sys.path.insert(0, str(src))
    return {**flood_and_contract(src), **message(src)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--src", type=Path, default=HERE)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--files", action="store_true", help="Name the files too.")
    given = parser.parse_args()
    sources = [given.src.resolve(), (given.base or given.src).resolve()]
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        after, before = processes.map(traced, sources)
    show(
        "Files and hops of one path through the package",
        ["path", "files before", "files after", "hops before", "hops after"],
        [
            [name, *(f"{n:,}" for n in (len(before[name][0]), len(files), before[name][1], hops))]
            for name, (files, hops) in after.items()
        ],
    )
    for name, (files, _) in after.items() if given.files else ():
        console.print(f"{name}: {', '.join(files)}")


if __name__ == "__main__":
    main()
