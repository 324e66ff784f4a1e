"""``phalanx doctor``: what this machine offers to a run on real packets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from phalanx.cli.terminal import err, out, say

if TYPE_CHECKING:
    from phalanx.infrastructure.linux.features import Feature

_STYLES = {True: "green", False: "yellow", None: "dim"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a Linux run would find and use here. Exit code 1: it is not possible.

    Everything is tried in network namespaces that end with the trial; the machine's own
    network is not touched.
    """
    # ctypes and all that a Linux run stands on are of no use to the other verbs.
    from phalanx.infrastructure.linux.features import missing, probe  # noqa: PLC0415

    features = probe()
    lacking = missing(features)
    if as_json:
        answer = {"possible": not lacking, "missing": lacking, "features": features}
        typer.echo(msgspec.json.encode(answer).decode())
    else:
        out.print(_table(features))
        if not lacking:
            say(out, "A run with --on linux is possible.", "green")
        for line in lacking:
            say(err, f"needed for a run with --on linux: {line}", "red")
    if lacking:
        raise typer.Exit(1)


def _table(features: tuple[Feature, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("feature", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what a run uses it for")
    table.add_column("what to install")
    for feature in features:
        bad = feature.needed and feature.works is False
        table.add_row(
            feature.name,
            Text(feature.found, style="red" if bad else _STYLES[feature.works]),
            Text(feature.used),
            Text(feature.install),
        )
    return table
