"""``phalanx explain``: tells why something happened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from phalanx.cli.terminal import out, say
from phalanx.reporting.event_text import describe
from phalanx.reporting.explanation import explain as explain_log
from phalanx.store.jsonl import read_jsonl

_DEEPEST = 24
_OTHERS = 8


def explain(
    log: Annotated[Path, typer.Argument(help="Event log (JSONL) of a run.", show_default=False)],
    what: Annotated[
        str,
        typer.Argument(
            help="An event's id, 'last', 'attack', or a part of a goal, measure, instance, "
            "agent or auction."
        ),
    ] = "last",
) -> None:
    """Tell the chain of causes that led to an event, from the log alone."""
    answer = explain_log(read_jsonl(log), what)
    say(out, answer.title, "bold")
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for line in answer.lines:
        event = line.event
        words = Text(" " * min(line.depth, _DEEPEST) + describe(event))
        table.add_row(f"{event.time:.1f} s", Text(event.agent), Text(event.id), words)
    out.print(table)
    if answer.others:
        shown = ", ".join(answer.others[:_OTHERS]) + (" …" if len(answer.others) > _OTHERS else "")
        say(out, f"{len(answer.others)} more events match: {shown}", "dim")
