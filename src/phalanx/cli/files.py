"""Files that verbs read and write: refused before the work begins, not after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from phalanx.bdi import Capability
from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import Scenario


def open_scenario(
    path: Path, topology: Path | None = None, functions: Sequence[type[Capability]] = ()
) -> Scenario:
    """Return the scenario in ``path``, on another network if ``topology`` names a GraphML file.

    Args:
        path: scenario file.
        topology: GraphML file; None: the scenario's own network.
        functions: capabilities beside the installed ones.

    Raises:
        ScenarioError: with one line, also if it names a function that cannot be had.

    """
    scenario = load_scenario(path)
    try:
        load_catalogue(scenario, functions)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None
    if topology is None:
        return scenario
    # networkx takes a quarter of a second to import, and most runs do without it.
    from phalanx.runtime.topology import from_graphml  # noqa: PLC0415

    return from_graphml(topology, scenario)


def check_writable(path: Path) -> None:
    """Refuse a path at which no file can be written.

    Raises:
        PhalanxError: with one line.

    """
    folder = path.parent
    try:
        if path.is_dir():
            why = "is a directory; a file is expected"
        elif not folder.is_dir():
            why = f"the directory {folder} does not exist"
        elif not os.access(path if path.exists() else folder, os.W_OK):
            why = "cannot be written: permission denied"
        else:
            return
    except (OSError, ValueError) as error:
        why = f"cannot be written: {getattr(error, 'strerror', None) or error}"
    raise PhalanxError(f"{path}: {why}")
