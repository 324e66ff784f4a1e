"""``phalanx slice``: deploys network slices with their closed loops, over the orchestrator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from phalanx.cli.beliefs import ask
from phalanx.cli.bus_options import Bus, DomainFolder
from phalanx.cli.service import (
    Domain,
    Request,
    Root,
    Sites,
    Store,
    Without,
    opened_services,
    placed,
    shown,
)
from phalanx.cli.terminal import group, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.domain.messages import SecurityPolicy
from phalanx.fabric.operations import POLICY
from phalanx.loading import show as show_text
from phalanx.loading import unknown
from phalanx.orchestration.service import ServiceOrchestrator, ServiceView
from phalanx.runtime.services import read_asked
from phalanx.slices.model import SlicesSpec

app = group("Deploy network slices with their closed loops, change them, remove them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the slice, or of its service.")]


@app.command()
def deploy(
    folder: Annotated[
        Path, typer.Argument(metavar="NSD", help="The folder of the service, or its NSD file.")
    ],
    domain: Domain,
    *,
    slices: Annotated[
        Path | None,
        typer.Option(
            "--slices", help="The slice descriptor; by default slices.yaml in the folder."
        ),
    ] = None,
    sites: Sites = None,
    request: Request = None,
    without: Without = None,
    store: Store = None,
    root: Root = None,
) -> None:
    """Deploy a service as slices, or change it to what the files say now.

    After a crash, the same command goes on where it stopped. A changed slice descriptor starts
    the agents anew, with what they remember.
    """
    home = folder if folder.is_dir() else folder.parent
    asked = read_asked(folder, sites, request, without or (), slices or home / "slices.yaml")
    name = asked.service().request.name
    with opened_services(domain, store, root) as orchestrator:
        deployed = {v.name for v in orchestrator.list() if v.deployment is not None}
        if name in deployed and orchestrator.asked(name) != asked:
            placed(orchestrator, orchestrator.reconfigure(name, asked))
        else:
            placed(orchestrator, orchestrator.deploy(asked))


@app.command("list")
def list_(domain: Domain, store: Store = None, root: Root = None) -> None:
    """Show the slices that are deployed or unfinished."""
    table = table_of("slice", "S-NSSAI", "sharing", "subnets", "service", "loops>", "state")
    with opened_services(domain, store, root) as orchestrator:
        for view, spec in _sliced(orchestrator):
            for each in spec.slices:
                sd = f"-{each.s_nssai.sd}" if each.s_nssai.sd else ""
                loops = len(view.deployment.loops) if view.deployment is not None else 0
                table.add_row(
                    *(each.name, f"{each.s_nssai.sst}{sd}", each.sharing),
                    Text(", ".join(each.subnets)),
                    *(view.name, str(loops), Text(view.state)),
                )
    if table.row_count:
        out.print(table)
    else:
        say(out, "no slice is deployed", "green")


@app.command()
def show(name: Name, domain: Domain, store: Store = None, root: Root = None) -> None:
    """Show a slice: its functions, and the processes of its service, loops among them."""
    with opened_services(domain, store, root) as orchestrator:
        view, spec = _found(orchestrator, name)
        for each in spec.subnets:
            say(out, f"{each.name} ({each.domain}): {', '.join(each.functions)}")
        shown(orchestrator.show(view.name))


@app.command()
def remove(name: Name, domain: Domain, store: Store = None, root: Root = None) -> None:
    """Remove a slice with its service: processes, loops, identities and files."""
    with opened_services(domain, store, root) as orchestrator:
        view, spec = _found(orchestrator, name)
        others = [each.name for each in spec.slices if each.name != name]
        if others and name != view.name:
            raise PhalanxError(
                f"{name}: is deployed together with {', '.join(others)}; phalanx slice remove "
                f"{view.name} removes all of them"
            )
        orchestrator.remove(view.name)
    say(out, f"{name} is removed; its events stay in the history", "green")


def _sliced(orchestrator: ServiceOrchestrator) -> list[tuple[ServiceView, SlicesSpec]]:
    """Return the services that are deployed as slices, with these."""
    found = []
    for view in orchestrator.list():
        asked = orchestrator.asked(view.name)
        spec = asked.service().slices if asked.slices is not None else None
        if spec is not None:
            found.append((view, spec))
    return found


def _found(orchestrator: ServiceOrchestrator, name: str) -> tuple[ServiceView, SlicesSpec]:
    known: list[str] = []
    for view, spec in _sliced(orchestrator):
        names = [view.name, *(each.name for each in spec.slices)]
        if name in names:
            return view, spec
        known += names
    raise PhalanxError(unknown("slice", name, known))


@app.command()
def policy(
    manager: Annotated[str, typer.Argument(metavar="MANAGER", help="Such as domain-CN, or e2e.")],
    slice_name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the slice.")],
    *,
    precedence: Annotated[
        str, typer.Option(metavar="ACTION,…", help="Order of actions on what loops look after.")
    ] = "",
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=VALUE", help="A figure of loops; may be repeated."),
    ] = None,
    inform: Annotated[
        list[str] | None,
        typer.Option("--inform", metavar="LOOP", help="Is told of troubles; may be repeated."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; the log keeps it.")] = "",
    bus: Bus = None,
    domain: DomainFolder = None,
) -> None:
    """Have a manager issue a policy for a slice to its loops, each of which judges it by itself."""
    limits = []
    for text in limit or ():
        name, _, value = text.partition("=")
        try:
            limits.append((name, float(value)))
        except ValueError:
            why = f"{show_text(text)} is no figure; NAME=VALUE is expected"
            raise typer.BadParameter(why, param_hint="--limit") from None
    said = SecurityPolicy(
        slice_name,
        precedence=tuple(filter(None, precedence.split(","))),
        limits=tuple(limits),
        inform=tuple(inform or ()),
        reason=reason,
    )
    answer = ask(manager, POLICY, said, bus, domain)
    say(out, f"{manager}: {answer.detail}")
