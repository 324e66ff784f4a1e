"""``phalanx beliefs`` and ``phalanx inventory``: what an agent thinks, and what it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer
from msgspec import Struct
from rich.table import Table
from rich.text import Text

from phalanx.cli.bus_options import AsJson, Bus, DomainFolder, operator, unknown, why
from phalanx.cli.terminal import amount, out, say
from phalanx.domain.errors import PhalanxError

if TYPE_CHECKING:
    from pathlib import Path

    from phalanx.fabric.operations import Operation

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose.", show_default=False)]


def beliefs(
    name: Name,
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="[PREFIX]", help="Only those that begin so: overUsage.", show_default=False
        ),
    ] = "",
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show what an agent believes now."""
    from phalanx.fabric.operations import BELIEFS, BeliefsRequest  # noqa: PLC0415  # takes time

    answer = _ask(name, BELIEFS, BeliefsRequest(prefix), bus, domain)
    if as_json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    if not answer.beliefs:
        say(out, f"{name} believes nothing{f' that begins with {prefix}' if prefix else ''}")
        return
    table = _table("believes", "kept so by", "since event")
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
    name: Name,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show which VNFs an agent runs, and which measures it keeps in force."""
    from phalanx.fabric.operations import INVENTORY, InventoryRequest  # noqa: PLC0415  # as above

    answer = _ask(name, INVENTORY, InventoryRequest(), bus, domain)
    if as_json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    if not answer.instances:
        say(out, f"{name} runs no VNF")
        return
    table = _table("VNF", "version", "units>", "state", "for", "instance")
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
        out.print()
        measures = _table("in force", "lease>", "by")
        for measure in answer.measures:
            left = amount(measure.lease_left_s, "s")
            measures.add_row(Text(measure.target), left, Text(measure.instance, style="dim"))
        out.print(measures)


def _ask(
    name: str, operation: Operation[Q, A], request: Q, bus: Path | None, domain: Path | None
) -> A:
    """Return an agent's answer.

    Raises:
        PhalanxError: if there is no such agent, or it does not answer.

    """
    from phalanx.fabric.calls import CallError  # noqa: PLC0415  # as above
    from phalanx.runtime.processes.operator import Survey  # noqa: PLC0415  # as above

    with operator(bus, domain) as connected:
        answer = connected.call(name, operation, request)
        if not isinstance(answer, CallError):
            return answer
        survey = Survey(connected)
        survey.read()
        if name not in survey.names:
            raise unknown(name, connected.identity.domain, survey.names)
        raise PhalanxError(why(name, answer))


def _table(*columns: str) -> Table:
    """Return a table with these columns; those whose title ends with > stand to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column.endswith(">")
        table.add_column(
            column.removesuffix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table
