"""A service as it is shown: what the journal says of it, and how its processes are."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from phalanx.orchestration.journal import ServiceRecord
from phalanx.orchestration.journal_claims import ChangeStage
from phalanx.orchestration.workflow import Deployment, Member, Seen
from phalanx.orchestration.workflow.machine import Outcome


class AgentView(Struct, frozen=True):
    """A process of a service as it is now."""

    member: Member
    pid: int | None
    """Its process; None: it does not run."""
    seen: Seen | None
    """What it says of itself over the bus; None: nothing."""
    trust: str
    """How far it is trusted, in plain words; of the network nothing."""


class ServiceView(Struct, frozen=True):
    """A service as it is now."""

    name: str
    state: str
    """``running``, ``removed``, ``rolled back``, or which change is unfinished, and how."""
    revision: int
    deployment: Deployment | None
    agents: tuple[AgentView, ...] = ()
    unreachable: str = ""
    """Why the processes could not be asked; empty: they were."""
    unfinished: bool = False
    left_out: tuple[str, ...] = ()
    """Steps of the latest change that nobody does yet, in plain words."""


def view_of(found: ServiceRecord) -> ServiceView:
    """Return a service as the journal has it, without its processes."""
    change = found.change
    left_out = []
    for step in change.steps:
        outcome = msgspec.json.decode(step.result, type=Outcome) if step.result else Outcome()
        if outcome.left_out:
            left_out.append(f"{step.name}: {outcome.detail}")
    return ServiceView(
        found.name,
        _state(found),
        change.revision,
        deployment_of(found),
        unfinished=change.open,
        left_out=tuple(left_out),
    )


def _state(found: ServiceRecord) -> str:
    change = found.change
    match change.stage:
        case ChangeStage.OPEN:
            return f"unfinished: {change.kind}"
        case ChangeStage.UNDOING:
            return f"unfinished: {change.kind} is being taken back ({change.reason})"
    if found.deployment is not None:
        back = f" (the latest change was taken back: {change.reason})" if change.reason else ""
        return f"running{back}"
    return f"rolled back: {change.reason}" if change.reason else "removed"


def deployment_of(found: ServiceRecord | None) -> Deployment | None:
    """Return what is in force; None: nothing."""
    if found is None or found.deployment is None:
        return None
    return msgspec.json.decode(found.deployment, type=Deployment)
