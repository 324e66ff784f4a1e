"""What ``phalanx service`` prints: steps as they are done, and a service as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from phalanx.cli.terminal import err, out, say

if TYPE_CHECKING:
    from phalanx.orchestration.service import AgentView, ServiceOrchestrator, ServiceView
    from phalanx.orchestration.workflow.machine import OnProgress
    from phalanx.orchestration.workflow.machine import Progress as Stepped
    from phalanx.orchestration.workflow.model import Deployment

_STYLES = {"left out": "dim", "again": "yellow", "failed": "red", "undone": "yellow"}


@contextmanager
def stepping() -> Iterator[OnProgress]:
    """Give what shows steps: a bar with lines above it, or lines alone in a pipe."""
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
    say(out, f"  {deployment.network.name} at {deployment.network.site}: the slice's network")
    for standing in orchestrator.standings(deployment):
        say(out, f"  trust: {standing}", "yellow")


def shown(view: ServiceView) -> None:
    """Print a service with its processes."""
    say(out, f"{view.name}: {view.state} (change {view.revision})")
    if view.deployment is None:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("process", "site", "process id", "life", "trust", "says"):
        table.add_column(column, no_wrap=column != "says")
    for agent in view.agents:
        style, says = _says(agent)
        table.add_row(
            agent.member.name,
            agent.member.site,
            "–" if agent.pid is None else str(agent.pid),
            str(agent.seen.incarnation) if agent.seen and agent.member.serves else "–",
            agent.trust.partition(":")[0],
            Text(says, style=style),
        )
    out.print(table)
    for standing in dict.fromkeys(agent.trust for agent in view.agents if agent.trust):
        say(out, f"trust: {standing}", "yellow")
    placement = view.deployment.pipeline.placement
    proven = "proven optimal" if placement.optimal else f"at most {placement.gap:.1%} too dear"
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
    if not agent.member.serves:
        return "green", "serves"
    if not agent.seen.serving:
        return "yellow", f"not serving: {agent.seen.detail}"
    return "green", f"serves, {agent.seen.goals} goals, {agent.seen.detail}"
