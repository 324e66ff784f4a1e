"""``phalanx report``: the page about a run, from its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.files import check_writable
from phalanx.cli.terminal import out, say
from phalanx.store.jsonl import read_jsonl


def report(
    log: Annotated[Path, typer.Argument(help="Event log (JSONL) of a run.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="Page to write (HTML).", show_default=False)],
) -> None:
    """Write the self-contained HTML page about a run."""
    # numpy and the templates take a quarter of a second to import; other verbs do without.
    from phalanx.reporting import write_report  # noqa: PLC0415

    check_writable(output)
    write_report(read_jsonl(log), output)
    say(out, f"report: {output}")
