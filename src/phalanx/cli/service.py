"""``phalanx service``: deploys the agents that guard a network service, and changes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from phalanx.cli.terminal import BAD_INPUT, err, group, out, refuse, say, table_of
from phalanx.loading import read_text
from phalanx.orchestration.iml.unit import UnitKind
from phalanx.orchestration.service import AgentView, ServiceOrchestrator, ServiceView
from phalanx.orchestration.supervisor import RestartPolicy, SupervisorNotice
from phalanx.orchestration.workflow.machine import OnProgress, WorkflowError
from phalanx.orchestration.workflow.machine import Progress as Stepped
from phalanx.orchestration.workflow.model import Deployment
from phalanx.runtime.services import changed_asked, opened, present_image, read_asked

_STYLES = {"left out": "dim", "again": "yellow", "failed": "red", "undone": "yellow"}
_KEPT = {"died": "yellow", "started": "green", "failed": "red", "left alone": "red"}

app = group("Deploy the agents that guard a network service, change them, remove them.")

Nsd = Annotated[
    Path, typer.Argument(metavar="NSD", help="The folder of a service, or its NSD file.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the service.")]
Domain = Annotated[Path, typer.Option("--domain", metavar="DIR", help="The domain's directory.")]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Store of the journal; by default services.db in the domain's directory.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Folder of the sites of this machine; by default sites in the domain's directory.",
    ),
]
Sites = Annotated[
    Path | None,
    typer.Option(
        "--sites", help="File of the sites; by default sites.yaml in the service's folder."
    ),
]
Request = Annotated[
    Path | None,
    typer.Option(
        "--request", help="File of the request; by default request.yaml in the service's folder."
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="SITE", help="Place no agent at this site; may be repeated."),
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
    """Deploy a service. After a crash, the same command goes on where it stopped."""
    asked = read_asked(nsd, sites, request, without or ())
    with opened_services(domain, store, root) as orchestrator:
        placed(orchestrator, orchestrator.deploy(asked))


@app.command("list")
def list_(domain: Domain, store: Store = None, root: Root = None) -> None:
    """Show the services that are deployed or unfinished."""
    with opened_services(domain, store, root) as orchestrator:
        views = orchestrator.list()
    if not views:
        say(out, "no service is deployed", "green")
        return
    table = table_of("service", "state", "change", "agents")
    for view in views:
        agents = view.deployment.agents if view.deployment is not None else ()
        where = ", ".join(f"{m.key} at {m.site}" for m in agents)
        table.add_row(view.name, Text(view.state), str(view.revision), Text(where))
    out.print(table)


@app.command()
def show(name: Name, domain: Domain, store: Store = None, root: Root = None) -> None:
    """Show a service: what runs where, why there, and whether it is attested."""
    with opened_services(domain, store, root) as orchestrator:
        shown(orchestrator.show(name))


@app.command()
def reconfigure(
    name: Name,
    domain: Domain,
    *,
    nsd: Annotated[
        Path | None,
        typer.Option("--nsd", help="The new folder or NSD; by default the current one."),
    ] = None,
    sites: Sites = None,
    request: Request = None,
    without: Without = None,
    store: Store = None,
    root: Root = None,
) -> None:
    """Change a running service; agents that stay as they are keep running."""
    with opened_services(domain, store, root) as orchestrator:
        before = orchestrator.asked(name)
        asked = changed_asked(before, nsd, sites, request, without)
        placed(orchestrator, orchestrator.reconfigure(name, asked))


@app.command()
def remove(name: Name, domain: Domain, store: Store = None, root: Root = None) -> None:
    """Remove a service: its processes, identities and files."""
    with opened_services(domain, store, root) as orchestrator:
        orchestrator.remove(name)
    say(out, f"{name} is removed; its events stay in the history", "green")


@app.command()
def resume(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the service; by default all.")
    ] = None,
    *,
    domain: Domain,
    store: Store = None,
    root: Root = None,
) -> None:
    """Finish unfinished changes, and restart processes that have died."""
    failed = False
    with opened_services(domain, store, root) as orchestrator:
        names = [view.name for view in orchestrator.list()] if name is None else [name]
        for each in names:
            try:
                done = orchestrator.resume(each)
                say(out, f"{each}: {'runs' if done is not None else 'is removed'}", "green")
            except WorkflowError as error:
                refuse(str(error))
                failed = True
    if not names:
        say(out, "no service is deployed or unfinished", "green")
    if failed:
        raise typer.Exit(BAD_INPUT)


@app.command()
def watch(
    name: Name,
    domain: Domain,
    *,
    attempts: Annotated[
        int,
        typer.Option(
            min=1, help="Stop restarting a process after this many failed starts in a row."
        ),
    ] = 6,
    store: Store = None,
    root: Root = None,
) -> None:
    """Keep a service running: restart what dies, until Ctrl-C or its removal.

    The pause before a restart is 1 s, and doubles with each further restart in a row, up to a
    minute. A process that lives for a minute ends the row.
    """

    def told(notice: SupervisorNotice) -> None:
        say(out, notice.line, _KEPT.get(notice.what, ""))

    with suppress(KeyboardInterrupt), opened_services(domain, store, root) as orchestrator:
        orchestrator.keep(name, told, RestartPolicy(attempts=attempts))


@app.command()
def logs(
    name: Name,
    process: Annotated[
        str,
        typer.Argument(metavar="PROCESS", help="Name of the process: an agent's VNF, or network."),
    ],
    domain: Domain,
    *,
    lines: Annotated[int, typer.Option(min=1, help="Number of lines.")] = 100,
    store: Store = None,
    root: Root = None,
) -> None:
    """Show the last lines that a process of a service printed."""
    with opened_services(domain, store, root) as orchestrator:
        said = orchestrator.logs(name, process, lines)
    for line in said.splitlines():
        say(out, line)


@app.command()
def image(
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="SITES", help="Write the digest into this file of sites."),
    ] = None,
) -> None:
    """Show name and digest of this installation, for the field images of a file of sites."""
    found = present_image()
    say(out, f"{found.name}: {found.digest}")
    say(out, f"capabilities: {', '.join(found.capabilities)}", "dim")
    if write is not None:
        line = rf"(?m)^(\s*{re.escape(found.name)}:\s*)sha256:[0-9a-f]{{64}}"
        text, count = re.subn(line, rf"\g<1>{found.digest}", read_text(write))
        write.write_text(text, encoding="utf-8")
        say(out, f"{write}: the digest of {count} sites is updated", "green")


@contextmanager
def opened_services(
    domain: Path, store: str | None, root: Path | None
) -> Iterator[ServiceOrchestrator]:
    """Give the orchestrator of a domain, whose steps are shown."""
    with _stepping() as told, opened(domain, store=store, root=root, told=told) as orchestrator:
        yield orchestrator


@contextmanager
def _stepping() -> Iterator[OnProgress]:
    """Give a function that shows steps: a bar with lines above it, or lines alone in a pipe."""
    if not err.is_terminal:
        yield lambda step: _line(step) if step.state != "begun" else None
        return
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=err)
    task = bar.add_task("", total=None, visible=False)

    def told(step: Stepped) -> None:
        if step.state != "begun":
            _line(step)
        bar.update(
            task,
            description=step.step.name,
            completed=step.place - (step.state == "begun"),
            total=step.of,
            visible=True,
        )

    with bar:
        yield told


def _line(step: Stepped) -> None:
    detail = f": {step.detail}" if step.detail else ""
    name = f"{step.place:>2}/{step.of} {step.step.name}"
    state = "" if step.state == "done" else f" ({step.state})"
    say(err, f"{name}{state}{detail}", _STYLES.get(step.state, ""))


def placed(orchestrator: ServiceOrchestrator, deployment: Deployment) -> None:
    """Print what runs now."""
    say(out, f"{deployment.service} runs", "green")
    for member in deployment.agents:
        say(out, f"  {member.name} at {member.site}, for {', '.join(member.serves)}")
    for loop in deployment.loops:
        say(out, f"  {loop.name} at {loop.site}, a closed loop {loop.why[0]}")
    say(out, f"  {deployment.network.name} at {deployment.network.site}: the slice's network")
    for standing in orchestrator.standings(deployment):
        say(out, f"  trust: {standing}", "yellow")


def shown(view: ServiceView) -> None:
    """Print a service with its processes."""
    say(out, f"{view.name}: {view.state} (change {view.revision})")
    if view.deployment is None:
        return
    table = table_of("process", "site", "process id", "life", "trust", "state")
    for agent in view.agents:
        style, says = _says(agent)
        table.add_row(
            agent.member.name,
            agent.member.site,
            "–" if agent.pid is None else str(agent.pid),
            str(agent.seen.incarnation) if agent.seen and agent.trust else "–",
            agent.trust.partition(":")[0],
            Text(says, style=style),
        )
    out.print(table)
    for standing in dict.fromkeys(agent.trust for agent in view.agents if agent.trust):
        say(out, f"trust: {standing}", "yellow")
    placement = view.deployment.pipeline.placement
    proven = (
        "proven optimal" if placement.optimal else f"at most {placement.gap:.1%} above the optimum"
    )
    say(out, f"why there (cost {placement.objective:g}, {proven}):")
    for member in view.deployment.agents:
        for line in member.why:
            say(out, f"  {member.key} at {member.site}: {line}")
    if view.unreachable:
        say(out, f"the processes could not be asked: {view.unreachable}", "red")
    for line in view.left_out:
        say(out, line, "dim")


def _says(agent: AgentView) -> tuple[str, str]:
    if agent.pid is None:
        return "red", "does not run"
    if agent.seen is None:
        return "yellow", "does not answer"
    if agent.member.unit.kind is UnitKind.NETWORK:
        return "green", "serves"
    if not agent.seen.serving:
        return "yellow", f"not serving: {agent.seen.detail}"
    return "green", f"serves, {agent.seen.goals} goals, {agent.seen.detail}"
