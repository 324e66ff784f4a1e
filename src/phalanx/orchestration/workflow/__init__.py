"""The service orchestrator's workflow (figure 2), as a journaled state machine."""

from phalanx.orchestration.workflow.ground import Ground
from phalanx.orchestration.workflow.machine import (
    Progress,
    RolledBackError,
    Told,
    Wanted,
    Workflow,
    WorkflowError,
)
from phalanx.orchestration.workflow.model import Asked, Deployment, Member
from phalanx.orchestration.workflow.ports import (
    Hook,
    Membership,
    Outfitter,
    Pair,
    PassingFault,
    Patience,
    Probed,
    Seen,
    Sites,
    Watcher,
    no_hook,
)
from phalanx.orchestration.workflow.steps import ChangeKind, Step, difference, steps_of
from phalanx.orchestration.workflow.trust import (
    TRUST_STEPS,
    NotAvailableError,
    NoTrustServices,
    TrustServices,
    TrustStep,
)

__all__ = [
    "TRUST_STEPS",
    "Asked",
    "ChangeKind",
    "Deployment",
    "Ground",
    "Hook",
    "Member",
    "Membership",
    "NoTrustServices",
    "NotAvailableError",
    "Outfitter",
    "Pair",
    "PassingFault",
    "Patience",
    "Probed",
    "Progress",
    "RolledBackError",
    "Seen",
    "Sites",
    "Step",
    "Told",
    "TrustServices",
    "TrustStep",
    "Wanted",
    "Watcher",
    "Workflow",
    "WorkflowError",
    "difference",
    "no_hook",
    "steps_of",
]
