"""Scenarios with the strategy of the dissertation, for tests of what that strategy does."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from phalanx.runtime.loading import load_scenario, parse_scenario
from phalanx.runtime.scenario import Scenario


def load_published(path: Path | str) -> Scenario:
    """Return the scenario in a file with ``strategy: published``."""
    return replace(load_scenario(path), strategy="published")


def parse_published(text: str, name: str) -> Scenario:
    """Return the scenario in a text with ``strategy: published``."""
    return replace(parse_scenario(text, name), strategy="published")
