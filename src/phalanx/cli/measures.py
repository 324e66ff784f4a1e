"""``phalanx measures`` and ``phalanx release``: what is in force now and why, and its undoing."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct, to_builtins
from rich.text import Text

from phalanx.cli.bus_options import Bus, DomainFolder, operator, unknown
from phalanx.cli.bus_options import why as why_not
from phalanx.cli.terminal import AsJson, counted, emit_json, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.calls import CallError
from phalanx.fabric.operations import (
    INVENTORY,
    PAUSE,
    RELEASE,
    InventoryRequest,
    MeasureEntry,
    Operation,
    PauseRequest,
    ReleaseRequest,
)

SHOWN = 3
"""Sources of a measure that the table names."""
_DOES = {"drop": "block", "proxy": "answer handshakes for"}

Site = Annotated[
    Path | None,
    typer.Option("--site", metavar="FILE", help="Site file of a guard that runs on this machine."),
]


_Ask = Callable[[str, Operation[Any, Any], Struct], Any]
"""Returns what an agent answers; raises PhalanxError if it does not."""


def measures(
    *, site: Site = None, bus: Bus = None, domain: DomainFolder = None, as_json: AsJson = False
) -> None:
    """Show the measures that are in force now: what, against whom, and why."""
    with _agents(site, bus, domain) as (names, ask):
        found = list(_found(names, ask))
    if as_json:
        emit_json([{"id": _handle(m), "agent": a, **to_builtins(m)} for a, m, _ in found])
        return
    if not found:
        say(out, f"nothing is in force at {counted(len(names), 'agent')}")
        return
    table = table_of("id", "at", "what", "why", "since>", "lease>", "held MB>")
    for agent, each, observed_only in found:
        rule = each.rule
        figures = ("–",) * 3
        if rule is not None:
            lease = "–" if rule.lease_left_s is None else f"{rule.lease_left_s:.0f} s"
            figures = f"{rule.age_s:.0f} s", lease, f"{rule.held_mb:.1f}"
        why = (rule.reason if rule else "") or each.target
        row = _handle(each), agent, "would " * observed_only + _words(each), why, *figures
        table.add_row(*map(Text, row))
    out.print(table)


def release(
    measure: Annotated[
        str, typer.Argument(metavar="ID", help="As phalanx measures shows it, or in full.")
    ],
    *,
    pause: Annotated[
        bool,
        typer.Option("--pause", help="And have its agent bid for nothing until it is resumed."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Have the agent of the name ID bid again instead.")
    ] = False,
    site: Site = None,
    bus: Bus = None,
    domain: DomainFolder = None,
) -> None:
    """Take a measure back; it comes again if the attack goes on.

    Unless its agent is paused as well (--pause).
    """
    by = getpass.getuser()
    with _agents(site, bus, domain) as (names, ask):
        if resume:
            say(out, ask(measure, PAUSE, PauseRequest(False, by)).detail)
            return
        found = list(_found(names, ask))
        hit = [(a, m) for a, m, _ in found if measure in (_handle(m), m.measure)]
        if len(hit) != 1:
            there = f"there are {', '.join(_handle(m) for _, m, _ in found)}" if found else ""
            raise PhalanxError(f"no measure {measure!r} is in force; {there or 'nothing is'}")
        agent, entry = hit[0]
        if pause:  # first, so that it does not come again meanwhile
            say(out, ask(agent, PAUSE, PauseRequest(True, by)).detail)
        say(out, ask(agent, RELEASE, ReleaseRequest(entry.measure, by)).detail)


def _found(names: tuple[str, ...], ask: _Ask) -> Iterator[tuple[str, MeasureEntry, bool]]:
    for name in names:
        answer = ask(name, INVENTORY, InventoryRequest())
        for entry in answer.measures:
            yield name, entry, answer.observed_only


def _handle(entry: MeasureEntry) -> str:
    """Return a short name of a measure, the same as long as it is in force."""
    return blake2b(entry.measure.encode(), digest_size=3).hexdigest()


def _words(entry: MeasureEntry) -> str:
    if entry.rule is None:
        return entry.target
    match, verdict = entry.rule.rule.match, entry.rule.rule.verdict.value
    more = len(match.sources) - SHOWN
    whom = match.source or ", ".join(match.sources[:SHOWN]) + f" and {more} more" * (more > 0)
    return f"{_DOES.get(verdict, verdict)} {whom or match.target or match.link}"


@contextmanager
def _agents(
    site: Path | None, bus: Path | None, domain: Path | None
) -> Iterator[tuple[tuple[str, ...], _Ask]]:
    """Yield the agents of a guard or a domain, and what asks them."""
    if site is not None:
        if bus is not None or domain is not None:
            raise PhalanxError("give either --site, or --domain or --bus")
        from phalanx.runtime.control import ask_control  # noqa: PLC0415  # of a guard alone
        from phalanx.runtime.guarding import control_of, load_site  # noqa: PLC0415

        spec = load_site(site)
        path = control_of(spec)

        yield (spec.pop,), lambda _, *asked: ask_control(path, *asked)
        return
    from phalanx.runtime.processes.operator import Survey  # noqa: PLC0415

    with operator(bus, domain) as connected:
        survey = Survey(connected)
        survey.settle()

        def ask(owner: str, operation: Operation[Any, Any], request: Struct) -> Any:
            answer = connected.call(owner, operation, request)
            if not isinstance(answer, CallError):
                return answer
            if owner not in survey.names:
                raise unknown(owner, connected.identity.domain, survey.names)
            raise PhalanxError(why_not(owner, answer))

        found = (e for e in survey.registry.entries() if e.available)
        named = (e.owner for e in found if RELEASE.name in e.registration.operations)
        yield tuple(named), ask
