"""``phalanx explain``: tells why something happened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.event_lines import event_cells, event_grid
from phalanx.cli.files import open_log
from phalanx.cli.terminal import ReadableTable, out, say
from phalanx.reporting.explanation import explain as explain_log

_OTHERS = 8


def explain(
    log: Annotated[Path, typer.Argument(help="Event log (JSONL) of a run.")],
    what: Annotated[
        str,
        typer.Argument(
            help="An event's id, an address, an auction, 'last', 'attack', or a whole word of a "
            "goal, measure, instance or agent."
        ),
    ] = "last",
    why_not: Annotated[
        str,
        typer.Option(
            metavar="AGENT", help="Why this agent did not win the auction WHAT, or did not bid."
        ),
    ] = "",
) -> None:
    """Show the chain of causes that led to an event, from the log alone."""
    with open_log(log) as events:
        answer = explain_log(events, what, why_not)
        grid = event_grid()
        for line in answer.lines:
            grid.add_row(*event_cells(line.event, line.depth))
    say(out, answer.title, "bold")
    for sentence in answer.words:
        say(out, sentence)
    if answer.table:
        table = ReadableTable(*answer.table[0])
        for row in answer.table[1:]:
            table.add_row(*row)
        out.print(table)
    out.print(grid)
    if answer.others:
        shown = ", ".join(answer.others[:_OTHERS]) + (" …" if len(answer.others) > _OTHERS else "")
        say(out, f"{len(answer.others)} more events match: {shown}", "dim")
