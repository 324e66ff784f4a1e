"""``phalanx check``: looks in a log for what a correct run can never have recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import asdict

from phalanx.checking import APART_S, RULES, Checker, as_seen
from phalanx.cli.event_lines import event_cells, event_grid
from phalanx.cli.files import damage_named
from phalanx.cli.terminal import AsJson, duration, emit_json, err, out, say
from phalanx.domain.events import Event
from phalanx.store.causes import climb
from phalanx.store.jsonl import LogStream

_SHOWN = 20
_LONGEST_CHAIN = 12
_RECENT = 5000
"""So many events are kept, to tell what led to the first violation."""


def check(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...", help="Event logs (JSONL); or stores: FILE.db (SQLite), or a URL."
        ),
    ],
    *,
    apart: Annotated[
        str, typer.Option(metavar="DURATION", help="Most by which clocks of processes differ.")
    ] = f"{APART_S:g}s",
    as_json: AsJson = False,
) -> None:
    """Look in a log for what a correct run can never have recorded.

    Exit code 1 if a rule is broken. The rules are in docs/reference/checks.md.
    """
    apart_s, broken = duration(apart), False
    for path, events, whole in (each for log in logs for each in runs_of(log)):
        checker, recent = Checker(apart_s=apart_s, whole=whole), dict[str, Event]()
        causes: list[Event] = []
        with damage_named(path):
            for event in as_seen(events):
                recent[event.id] = event
                if len(recent) > _RECENT:
                    del recent[next(iter(recent))]
                checker.see(event)
                if checker.violations and not causes:
                    causes = _causes(checker, recent)
            violations = checker.end()
        if isinstance(events, LogStream) and (note := events.reading().note(path)) is not None:
            say(err, note, "yellow")
        broken = broken or bool(violations)
        if as_json:
            found = [asdict(violation) for violation in violations]
            emit_json({"log": str(path), "events": checker.events, "violations": found})
        else:
            _print(path, checker, causes or _causes(checker, recent))
    if broken:
        raise typer.Exit(1)


def runs_of(log: str) -> Iterator[tuple[Path, Iterable[Event], bool]]:
    """Yield the name and events of a log, or of each run of a store, and whether it has all."""
    path = Path(log)
    store = f"sqlite:///{log}" if path.suffix == ".db" else log
    if "://" not in store:
        yield path, LogStream(path), False
        return
    from phalanx.store.database import Database  # noqa: PLC0415  # slow, and most logs are files
    from phalanx.store.history import EventQuery, History  # noqa: PLC0415

    with Database(store, create=False) as database:
        history = History(database)
        for run in history.runs():
            entries = history.entries(run.name, EventQuery())
            yield path / run.name, (entry.event for entry in entries), not run.retired


def _causes(checker: Checker, recent: dict[str, Event]) -> list[Event]:
    """Return what led to the first violation, as far as it is recent."""

    def read(event_id: str) -> tuple[Event, ...]:
        return (recent[event_id],) if event_id in recent else ()

    first = [violation.event for violation in checker.violations[:1]]
    return [cause for event in first for cause in climb(event, read).entries[-_LONGEST_CHAIN:]]


def _print(path: Path, checker: Checker, causes: Sequence[Event]) -> None:
    violations = checker.violations
    for found in violations[:_SHOWN]:
        say(out, f"{path}: {found.time:.3f} s, {found.event}: {found.rule}: {found.text}", "red")
    if len(violations) > _SHOWN:
        say(out, f"{path}: and {len(violations) - _SHOWN} more")
    if violations:
        grid = event_grid()
        for depth, event in enumerate(causes):
            grid.add_row(*event_cells(event, depth))
        say(out, "the causes of the first:")
        out.print(grid)
    broken = len({violation.rule for violation in violations})
    verdict = f"{broken} broken, in {len(violations)} places" if violations else "no violation"
    say(out, f"{path}: {checker.events} events, {len(RULES)} rules: {verdict}")
