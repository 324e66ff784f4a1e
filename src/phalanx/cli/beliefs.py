"""``phalanx beliefs`` and ``phalanx inventory``: what an agent believes, and what it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer
from msgspec import Struct
from rich.text import Text

from phalanx.cli.bus_options import Bus, DomainFolder, operator, unknown, why
from phalanx.cli.terminal import AsJson, counted, emit_json, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.calls import CallError
from phalanx.fabric.operations import (
    BELIEFS,
    INVENTORY,
    BeliefsRequest,
    InventoryRequest,
    Operation,
)
from phalanx.runtime.processes.operator import Survey

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]


def beliefs(
    name: Name,
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX", help="Only beliefs that begin with this, such as overUsage."
        ),
    ] = "",
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show what an agent believes now."""
    answer = ask(name, BELIEFS, BeliefsRequest(prefix), bus, domain)
    if as_json:
        emit_json(answer)
        return
    if not answer.beliefs:
        say(out, f"{name} believes nothing{f' that begins with {prefix}' if prefix else ''}")
        return
    table = table_of("believes", "kept so by", "since event")
    for belief in answer.beliefs:
        sign = "" if belief.value else "¬"
        table.add_row(
            Text(f"{sign}{belief.predicate}"),
            Text(belief.holder or ""),
            Text(belief.cause or "", style="dim"),
        )
    out.print(table)
    if answer.more:
        say(out, f"and {answer.more} more; a PREFIX narrows them", "dim")


def inventory(
    name: Name, *, bus: Bus = None, domain: DomainFolder = None, as_json: AsJson = False
) -> None:
    """Show the VNFs that an agent runs and the measures that it keeps in force."""
    answer = ask(name, INVENTORY, InventoryRequest(), bus, domain)
    if as_json:
        emit_json(answer)
        return
    if not answer.instances:
        say(out, f"{name} runs no VNF")
        return
    table = table_of("VNF", "version", "units>", "state", "for", "instance")
    for instance in answer.instances:
        table.add_row(
            instance.vnf,
            instance.version,
            str(instance.units),
            instance.state,
            Text(", ".join(instance.goals)),
            Text(instance.instance, style="dim"),
        )
    out.print(table)
    if answer.measures:
        say(
            out, f"it keeps {counted(len(answer.measures), 'measure')}; phalanx measures shows them"
        )


def ask(
    name: str, operation: Operation[Q, A], request: Q, bus: Path | None, domain: Path | None
) -> A:
    """Return an agent's answer.

    Raises:
        PhalanxError: if there is no such agent, or it does not answer.

    """
    with operator(bus, domain) as connected:
        answer = connected.call(name, operation, request)
        if not isinstance(answer, CallError):
            return answer
        survey = Survey(connected)
        survey.read()
        if name not in survey.names:
            raise unknown(name, connected.identity.domain, survey.names)
        raise PhalanxError(why(name, answer))
