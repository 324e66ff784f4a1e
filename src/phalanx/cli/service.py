"""``phalanx service``: deploys the agents that guard a network service, and changes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from phalanx.cli.service_view import placed, shown, stepping
from phalanx.cli.terminal import BAD_INPUT, Group, out, refuse, say

if TYPE_CHECKING:
    from phalanx.orchestration.service import ServiceOrchestrator
    from phalanx.orchestration.supervisor import SupervisorNotice

_KEPT = {"died": "yellow", "started": "green", "failed": "red", "left alone": "red"}

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    help="Deploy the agents that guard a network service, change them, remove them.",
)

Nsd = Annotated[
    Path,
    typer.Argument(
        metavar="NSD", help="A service's folder, or its NSD's file.", show_default=False
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The service.", show_default=False)]
Domain = Annotated[
    Path,
    typer.Option("--domain", metavar="DIR", help="The domain's directory.", show_default=False),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where the journal is kept; services.db in the domain's directory if none is given.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Folder of the sites of this machine; sites in the domain's if none is given.",
        show_default=False,
    ),
]
Sites = Annotated[
    Path | None,
    typer.Option("--sites", help="The sites; sites.yaml of the folder if none is given."),
]
Request = Annotated[
    Path | None,
    typer.Option("--request", help="What is asked; request.yaml of the folder if none is given."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="SITE", help="No agent shall stand there; may be repeated."),
]


@app.command()
def deploy(
    nsd: Nsd,
    domain: Domain,
    *,
    sites: Sites = None,
    request: Request = None,
    without: Without = None,
    store: Store = None,
    root: Root = None,
) -> None:
    """Deploy a service: the same command again goes on after any crash."""
    # Orchestration takes time to import; other verbs do without.
    from phalanx.runtime.services import read_asked  # noqa: PLC0415

    asked = read_asked(nsd, sites, request, without or ())
    with _opened(domain, store, root) as orchestrator:
        placed(orchestrator, orchestrator.deploy(asked))


@app.command("list")
def list_(domain: Domain, store: Store = None, root: Root = None) -> None:
    """Show the services that are deployed or unfinished."""
    with _opened(domain, store, root) as orchestrator:
        views = orchestrator.list()
    if not views:
        say(out, "no service is deployed", "green")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("service", "state", "change", "agents"):
        table.add_column(column)
    for view in views:
        agents = view.deployment.agents if view.deployment is not None else ()
        where = ", ".join(f"{m.key} at {m.site}" for m in agents)
        table.add_row(view.name, Text(view.state), str(view.revision), Text(where))
    out.print(table)


@app.command()
def show(name: Name, domain: Domain, store: Store = None, root: Root = None) -> None:
    """Show a service: what runs where, why there, and how far it is trusted."""
    with _opened(domain, store, root) as orchestrator:
        shown(orchestrator.show(name))


@app.command()
def reconfigure(
    name: Name,
    domain: Domain,
    *,
    nsd: Annotated[
        Path | None, typer.Option("--nsd", help="Folder or NSD; what it was if none is given.")
    ] = None,
    sites: Sites = None,
    request: Request = None,
    without: Without = None,
    store: Store = None,
    root: Root = None,
) -> None:
    """Change a service that runs; agents that stay as they are do not notice."""
    from phalanx.runtime.services import changed_asked  # noqa: PLC0415

    with _opened(domain, store, root) as orchestrator:
        before = orchestrator.asked(name)
        asked = changed_asked(before, nsd, sites, request, without)
        placed(orchestrator, orchestrator.reconfigure(name, asked))


@app.command()
def remove(name: Name, domain: Domain, store: Store = None, root: Root = None) -> None:
    """Remove a service: its processes, its identities, its files."""
    with _opened(domain, store, root) as orchestrator:
        orchestrator.remove(name)
    say(out, f"{name} is gone; what was recorded of it stays in the history", "green")


@app.command()
def resume(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The service; all if none is named.")
    ] = None,
    *,
    domain: Domain,
    store: Store = None,
    root: Root = None,
) -> None:
    """Bring unfinished changes to their end, and start again what has died."""
    from phalanx.orchestration.workflow.machine import WorkflowError  # noqa: PLC0415

    failed = False
    with _opened(domain, store, root) as orchestrator:
        names = [view.name for view in orchestrator.list()] if name is None else [name]
        for each in names:
            try:
                done = orchestrator.resume(each)
                say(out, f"{each}: {'runs' if done is not None else 'is gone'}", "green")
            except WorkflowError as error:
                refuse(str(error))
                failed = True
    if not names:
        say(out, "nothing is deployed, nothing is unfinished", "green")
    if failed:
        raise typer.Exit(BAD_INPUT)


@app.command()
def watch(
    name: Name,
    domain: Domain,
    *,
    attempts: Annotated[
        int,
        typer.Option(min=1, help="Starts in a row after which a process that dies is left alone."),
    ] = 6,
    store: Store = None,
    root: Root = None,
) -> None:
    """Keep a service running: start again what dies, until Ctrl-C or its removal.

    It pauses 1 s before it starts a process again, and twice as long before each further time
    in a row, up to a minute. A process that lives for a minute has ended the row.
    """
    from phalanx.orchestration.supervisor import RestartPolicy  # noqa: PLC0415

    def told(kept: SupervisorNotice) -> None:
        say(out, kept.line, _KEPT.get(kept.what, ""))

    with suppress(KeyboardInterrupt), _opened(domain, store, root) as orchestrator:
        orchestrator.keep(name, told, RestartPolicy(attempts=attempts))


@app.command()
def logs(
    name: Name,
    process: Annotated[
        str, typer.Argument(metavar="PROCESS", help="Such as an agent's VNF, or network.")
    ],
    domain: Domain,
    *,
    lines: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = 100,
    store: Store = None,
    root: Root = None,
) -> None:
    """Show the end of what a process of a service said."""
    with _opened(domain, store, root) as orchestrator:
        said = orchestrator.logs(name, process, lines)
    for line in said.splitlines():
        say(out, line)


@app.command()
def image(
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="SITES", help="Put the digest into this file of sites."),
    ] = None,
) -> None:
    """Show the image that this installation is, for ``images`` in a file of sites."""
    from phalanx.loading import read_text  # noqa: PLC0415
    from phalanx.runtime.services import present_image  # noqa: PLC0415

    found = present_image()
    say(out, f"{found.name}: {found.digest}")
    say(out, f"capabilities: {', '.join(found.capabilities)}", "dim")
    if write is not None:
        line = rf"(?m)^(\s*{re.escape(found.name)}:\s*)sha256:[0-9a-f]{{64}}"
        text, count = re.subn(line, rf"\g<1>{found.digest}", read_text(write))
        write.write_text(text, encoding="utf-8")
        say(out, f"{write}: {count} sites have it now", "green")


@contextmanager
def _opened(domain: Path, store: str | None, root: Path | None) -> Iterator[ServiceOrchestrator]:
    from phalanx.runtime.services import opened  # noqa: PLC0415

    with stepping() as told, opened(domain, store=store, root=root, told=told) as orchestrator:
        yield orchestrator
