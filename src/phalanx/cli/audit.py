"""``phalanx audit``: whether a log is what its agents recorded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from phalanx.cli.check import runs_of
from phalanx.cli.files import damage_named
from phalanx.cli.ledger import reading
from phalanx.cli.terminal import AsJson, counted, emit_json, err, group, out, say
from phalanx.domain.events import Event
from phalanx.fabric.audit_trail import AuditBreak, AuditReading
from phalanx.ledger.entries import AuditAnchored
from phalanx.store.jsonl import LogStream

_SHOWN = 20

app = group("Verify that a log is what its agents recorded.")


class _Verified(Struct, frozen=True):
    """What was found in one log."""

    log: str
    events: int
    seals: int
    unsealed: dict[str, int]
    """Events after the last seal of their recorder."""
    anchored: int
    """Heads on the ledger that the log agrees with."""
    breaks: list[AuditBreak]
    heads: dict[str, tuple[int, str]]
    """The last head of each recorder of seals: to be noted elsewhere."""


@app.callback()
def audit() -> None:
    """Verify that a log is what its agents recorded."""


@app.command()
def verify(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...", help="Event logs (JSONL); or stores: FILE.db (SQLite), or a URL."
        ),
    ],
    *,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Ledger with the heads of the trail: evm:FILE, or http://…"
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="RECORDER:N:HEAD", help="A head that was noted earlier."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a log against the seals in it, and these against a ledger or against noted heads.

    No agent and no network is asked. Exit code 1 if an event was changed, or is missing.
    """
    anchors = [_noted(each) for each in head or ()]
    if ledger is not None:
        with reading(ledger) as (_, seen, _):
            entries = (each.entry for each in seen)
            anchors += [each for each in entries if isinstance(each, AuditAnchored)]
    broken = False
    for path, events, _ in (each for log in logs for each in runs_of(log)):
        found = _read(path, events, anchors)
        broken = broken or bool(found.breaks) or not found.seals
        if as_json:
            emit_json(found)
        else:
            _print(found, len(anchors))
    if broken:
        raise typer.Exit(1)


def _noted(text: str) -> AuditAnchored:
    recorder, _, rest = text.partition(":")
    number, _, value = rest.partition(":")
    if not number.isdecimal() or len(value) != 64:
        raise typer.BadParameter(
            f"{text[:80]!r} is not RECORDER:N:HEAD, as 'audit verify' prints it"
        )
    return AuditAnchored("", recorder, int(number), value)


def _read(path: Path, events: Iterable[Event], anchors: list[AuditAnchored]) -> _Verified:
    trail = AuditReading()
    with damage_named(path):
        for event in events:
            trail.see(event)
    if isinstance(events, LogStream) and (note := events.reading().note(path)) is not None:
        say(err, note, "yellow")
    loose = trail.end()
    agreed, breaks = 0, list(trail.breaks)
    for anchor in anchors:
        if trail.holds(anchor.recorder, anchor.events, anchor.head):
            agreed += 1
        elif anchor.recorder in trail.heads:
            why = "another head was anchored for this many seals"
            breaks.append(AuditBreak(anchor.recorder, 1, anchor.events, why))
        else:
            why = "seals were anchored, and the log has none of this recorder"
            breaks.append(AuditBreak(anchor.recorder, 1, anchor.events, why))
    heads = {name: list(known.items())[-1] for name, known in trail.heads.items()}
    return _Verified(str(path), trail.events, trail.seals, loose, agreed, breaks, heads)


def _print(found: _Verified, anchors: int) -> None:
    for each in found.breaks[:_SHOWN]:
        where = f"{each.recorder}-{each.first}"
        span = where if each.last <= each.first else f"{where} to {each.recorder}-{each.last}"
        say(out, f"{found.log}: {span}: {each.reason}", "red")
    if len(found.breaks) > _SHOWN:
        say(out, f"{found.log}: and {len(found.breaks) - _SHOWN} more")
    if not found.seals:
        say(out, f"{found.log}: {found.events} events, and no seal: nothing can be verified", "red")
        return
    for name, (number, value) in found.heads.items():
        say(out, f"{found.log}: head {name}:{number}:{value}")
    late = sum(found.unsealed.values())
    words = [counted(found.events, "event"), counted(found.seals, "seal")]
    words += [f"{late} not sealed"] if late else []
    words += [f"{found.anchored} of {anchors} noted heads agree"] if anchors else []
    verdict = counted(len(found.breaks), "break") if found.breaks else "as it was recorded"
    say(out, f"{found.log}: {', '.join(words)}: {verdict}", "red" if found.breaks else "green")
    if not anchors:
        say(err, "no head was noted elsewhere: who can write the log can write its seals, too")
