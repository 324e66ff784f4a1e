"""Reading scenario files: a scenario, or one line that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

from phalanx.loading import MAX_BYTES, parse_as, read_text, refusal
from phalanx.runtime.checks import offences
from phalanx.runtime.scenario import Scenario

__all__ = ["MAX_BYTES", "load_scenario", "parse_as", "parse_scenario", "read_text"]


def load_scenario(path: str | Path) -> Scenario:
    """Return the scenario in the YAML file ``path``.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    return parse_scenario(read_text(path), str(path))


def parse_scenario(text: str, name: str) -> Scenario:
    """Return the scenario that ``text`` (YAML) describes; ``name`` stands for it in errors.

    Raises:
        ScenarioError: as ``load_scenario``.

    """
    scenario, tree = parse_as(Scenario, text, name)
    for field, why in offences(scenario):
        raise refusal(name, tree, field, why)
    return scenario
