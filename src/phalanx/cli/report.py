"""``phalanx report``: the console's page with the log of a run inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.files import PAGE, check_writable, open_log
from phalanx.cli.terminal import out, say
from phalanx.console.report import write_report


def report(
    log: Annotated[Path, typer.Argument(help="Event log (JSONL) of a run.")],
    output: Annotated[Path, typer.Argument(help="Page to write (HTML).")],
) -> None:
    """Write the report on a run as one self-contained HTML page.

    It is the page of phalanx console with the log inside, and asks no host for anything.
    """
    check_writable(output, PAGE, log)
    with open_log(log) as events:
        write_report(events, output)
    say(out, f"report: {output}")
