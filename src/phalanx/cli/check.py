"""``phalanx check``: looks in a log for what a correct run can never have recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import asdict

from phalanx.checking import RULES, Checker, Violation
from phalanx.cli.event_lines import event_cells, event_grid
from phalanx.cli.files import open_log
from phalanx.cli.terminal import AsJson, emit_json, out, say
from phalanx.domain.events import Event
from phalanx.store.memory import EventLog

_SHOWN = 20
_LONGEST_CHAIN = 12


def check(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Event logs (JSONL).")],
    *,
    as_json: AsJson = False,
) -> None:
    """Look in a log for what a correct run can never have recorded.

    Exit code 1 if a rule is broken. The rules are in docs/reference/checks.md.
    """
    broken = False
    for path in logs:
        with open_log(path) as events:
            checker = Checker()
            for event in events:
                checker.see(event)
            violations = checker.end()
        broken = broken or bool(violations)
        if as_json:
            found = [asdict(violation) for violation in violations]
            emit_json({"log": str(path), "events": len(events), "violations": found})
        else:
            _print(path, events, violations)
    if broken:
        raise typer.Exit(1)


def _print(path: Path, events: Sequence[Event], violations: Sequence[Violation]) -> None:
    for found in violations[:_SHOWN]:
        say(out, f"{path}: {found.time:.3f} s, {found.event}: {found.rule}: {found.text}", "red")
    if len(violations) > _SHOWN:
        say(out, f"{path}: and {len(violations) - _SHOWN} more")
    if violations:
        grid = event_grid()
        for depth, event in enumerate(
            EventLog(events).causes(violations[0].event)[-_LONGEST_CHAIN:]
        ):
            grid.add_row(*event_cells(event, depth))
        say(out, "the causes of the first:")
        out.print(grid)
    broken = len({violation.rule for violation in violations})
    verdict = f"{broken} broken, in {len(violations)} places" if violations else "no violation"
    say(out, f"{path}: {len(events)} events, {len(RULES)} rules: {verdict}")
