"""``phalanx doctor``: what this machine offers to a run on real packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from phalanx.cli.terminal import AsJson, emit_json, err, out, say, table_of

if TYPE_CHECKING:
    from phalanx.infrastructure.linux.features import Feature

_STYLES = {True: "green", False: "yellow", None: "dim"}


def doctor(as_json: AsJson = False) -> None:
    """Show what a run on real packets would use here; exit code 1 if it cannot run.

    Everything is tried in network namespaces of its own; the machine's network is not touched.
    """
    # ctypes and all that a Linux run stands on are of no use to the other verbs.
    from phalanx.infrastructure.linux.features import missing, probe  # noqa: PLC0415

    features = probe()
    lacking = missing(features)
    if as_json:
        emit_json({"possible": not lacking, "missing": lacking, "features": features})
    else:
        out.print(_table(features))
        if not lacking:
            say(out, "A run with --on linux is possible.", "green")
        for line in lacking:
            say(err, f"needed for a run with --on linux: {line}", "red")
    if lacking:
        raise typer.Exit(1)


def _table(features: tuple[Feature, ...]) -> Table:
    table = table_of("feature", "found", "what a run uses it for", "what to install")
    table.columns[0].no_wrap = True
    for feature in features:
        bad = feature.needed and feature.works is False
        table.add_row(
            feature.name,
            Text(feature.found, style="red" if bad else _STYLES[feature.works]),
            Text(feature.used),
            Text(feature.install),
        )
    return table
