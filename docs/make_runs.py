"""The run that pictures and tables are drawn from."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario

SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "ddos-resilience.yaml"


@cache
def ddos_events() -> list[Event]:
    """Return the log of the scenario of the dissertation with its own seed."""
    return run_scenario(load_scenario(SCENARIO)).events
