"""An hour of attacks, one every ten minutes: each is seen, and nothing open is left behind."""

from __future__ import annotations

import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from phalanx.runtime.system import System
from phalanx.store.memory import EventLog
from tests.nightly import NIGHTLY
from tests.system.structures import sizes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEMORIES = (
    "Contract",  # the latest 512 ended conversations of an agent
    "Bid.",
    "CallForProposals.",
    "BeliefBase.",  # the latest 1,000 things that are not so, as measures that are gone
    "EdgeFilter._clean",  # what entered at a look, for each target
    "EdgeFilter._relapses",  # attackers that may return
    "EdgeFilter._seen",
    "Route.",
    "Fluid._routes",
    "_Entry.",
    "VnfLifecycle._called",
    "Lifecycle._ended",  # the latest 1,024 instances, for whoever bids for them again
    "SimulatedMeasures._ended",  # the latest 256 measures of a PoP, for the same
    "Lifecycle._offers",  # the latest 64 bids of a PoP, for whoever attests its agents
    "HeldBids.",
)
"""What remembers on purpose; all else is as large after the last attack as after the third."""


def test_each_attack_is_seen_and_what_was_opened_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["bench_endurance.py"])
    bench: Any = import_module("bench_endurance")
    hours = 1.0 if NIGHTLY else 2 / 3
    starts = bench.attack_starts(hours)
    observer = bench.Observer(starts)
    system = System(bench.endurance(6, hours, attacked=True), sinks=[observer], keep_events=1000)
    quiet: list[Counter[str]] = []
    opened: list[dict[str, int]] = []

    def look(now: float) -> None:
        if len(quiet) < len(starts) and now >= starts[len(quiet)] + 480.0:
            quiet.append(sizes(system, (EventLog,)))
            opened.append(dict(observer.open))

    system.run(on_progress=look)
    assert observer.alarmed == observer.limited == set(range(len(starts)))
    assert opened == [opened[0]] * len(starts), "what an attack opened is closed again"
    assert opened[0]["measure"] == 0
    third, last = quiet[2], quiet[-1]
    grown = {
        name: (third[name], last[name])
        for name in last
        if last[name] > third[name] and not name.startswith(MEMORIES)
    }
    assert grown == {}
