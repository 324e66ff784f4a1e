"""``phalanx clean``: removes what runs on real packets left behind."""

from __future__ import annotations

from typing import Annotated

import typer

from phalanx.cli.terminal import out, say
from phalanx.domain.errors import PhalanxError


def clean(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of runs, such as 1a2b3c; by default all that are found."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be removed.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also end runs that are alive.")
    ] = False,
) -> None:
    """Remove what ended runs left: processes, namespaces, rules, control groups, folders.

    Only what Phalanx has marked as its own is touched.
    """
    # ctypes and all that a Linux run stands on are of no use to the other verbs.
    from phalanx.infrastructure.linux.kernel.runs import clean as remove  # noqa: PLC0415
    from phalanx.infrastructure.linux.kernel.runs import is_run, living  # noqa: PLC0415

    for run in runs or ():
        if not is_run(run):
            raise PhalanxError(f"{run!r} is no run: six hexadecimal digits are expected")
    spared = {} if everything else living()
    lines = remove(runs or None, dry_run=dry_run, all=everything)
    for line in lines:
        say(out, f"would remove {line}" if dry_run else f"removed {line}")
    for run, pid in sorted(spared.items()):
        if not runs or run in runs:
            say(out, f"run {run} is alive (process {pid}) and left alone; --all ends it", "yellow")
    if not lines:
        say(out, "nothing to remove", "green")
