"""``phalanx report``: the page about a run, from its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.files import PAGE, check_writable, open_log
from phalanx.cli.terminal import out, say
from phalanx.reporting.page import write_report


def report(
    log: Annotated[Path, typer.Argument(help="Event log (JSONL) of a run.")],
    output: Annotated[Path, typer.Argument(help="Page to write (HTML).")],
) -> None:
    """Write the report on a run as one self-contained HTML page."""
    check_writable(output, PAGE, log)
    with open_log(log) as events:
        write_report(events, output)
    say(out, f"report: {output}")
