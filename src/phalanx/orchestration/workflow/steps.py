"""Which steps a change takes, in which order: a pure function of what is and what shall be."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from phalanx.orchestration.workflow.model import Deployment, Member
from phalanx.orchestration.workflow.trust import TRUST_STEPS


class ChangeKind(Enum):
    """What is done to a service."""

    DEPLOY = "deploy"
    RECONFIGURE = "reconfigure"
    REMOVE = "remove"


class Step(Struct, frozen=True):
    """A step of a change."""

    figure: str
    """Its place in figure 2: its number, or ``operation``, or ``end`` for what comes after."""
    kind: str
    """What is done; see ``actions``."""
    subject: str = ""
    """To whom: the name of a member, or of a step of trust."""

    @property
    def name(self) -> str:
        """Its name in the journal."""
        return f"{self.figure}.{self.kind}" + (f":{self.subject}" if self.subject else "")


def step_named(name: str) -> Step:
    """Return the step with a name of the journal."""
    figure, _, rest = name.partition(".")
    kind, _, subject = rest.partition(":")
    return Step(figure, kind, subject)


class Difference(Struct, frozen=True):
    """What tells two deployments apart; the old and the new of those that are in both."""

    added: tuple[Member, ...]
    altered: tuple[tuple[Member, Member], ...]
    """They are started anew, here or elsewhere, and remember."""
    removed: tuple[Member, ...]


def difference(current: Deployment | None, target: Deployment | None) -> Difference:
    """Return what is to be done to come from one to the other; the network comes first."""
    old = {m.name: m for m in current.members} if current is not None else {}
    new = {m.name: m for m in target.members} if target is not None else {}
    return Difference(
        tuple(m for name, m in new.items() if name not in old),
        tuple((old[n], m) for n, m in new.items() if n in old and old[n].unit != m.unit),
        tuple(m for name, m in old.items() if name not in new),
    )


REQUEST, PIPELINE = Step("0", "request"), Step("1", "pipeline")
BROKERS, CONNECTIVITY = Step("2", "brokers"), Step("2", "connectivity")
OPERATION = Step("operation", "serving")
COMMIT = Step("end", "commit")
"""From here on a change is not rolled back any more: what is left is to clear up."""


def steps_of(
    kind: ChangeKind, current: Deployment | None, target: Deployment | None
) -> tuple[Step, ...]:
    """Return the steps of a change; before the pipeline is computed, those up to there."""
    if kind is ChangeKind.REMOVE:
        return (REQUEST, *_removal(current))
    if target is None:
        return REQUEST, PIPELINE
    change = difference(current, target)
    steps = [REQUEST, PIPELINE]
    steps += [Step("2", "identity", m.name) for m in change.added]
    if change.added:
        steps.append(BROKERS)
    # The network is left last and entered first: what agents do meanwhile waits for it.
    steps += [Step("2", "leave", old.name) for old, _ in reversed(change.altered)]
    network = target.network.name
    fresh = [Step("2", "start", m.name) for m in change.added]
    again = [Step("2", "arrive", new.name) for _, new in change.altered]
    entering = [*again, *fresh]
    steps += [step for step in entering if step.subject == network]
    # Agents that go on have the new plan before others are started with it: so all have one.
    steps += [Step("2", "inform", m.name) for m in _informed(change, current, target)]
    steps += [step for step in entering if step.subject != network]
    if change.added or change.altered:
        steps.append(CONNECTIVITY)
        steps += [Step(str(trust.number), "trust", trust.name) for trust in TRUST_STEPS]
        steps.append(OPERATION)
    steps.append(COMMIT)
    steps += [Step("end", "drain", m.name) for m in change.removed]
    moved = [old for old, new in change.altered if old.site != new.site]
    steps += [Step("end", "clear", m.name) for m in (*moved, *change.removed)]
    steps += [Step("end", "revoke", m.name) for m in change.removed]
    if change.removed:
        steps.append(Step("end", "revocations"))
    return tuple(steps)


def _informed(
    change: Difference, current: Deployment | None, target: Deployment
) -> tuple[Member, ...]:
    """Return the agents that are not started anew though the plan is another."""
    if current is None or current.plan == target.plan:
        return ()
    altered = {old.name for old, _ in change.altered}
    return tuple(m for m in current.agents if m.name not in altered)


def _removal(current: Deployment | None) -> tuple[Step, ...]:
    members = () if current is None else tuple(reversed(current.members))
    return (
        *(Step("end", "halt", m.name) for m in members),
        *(Step("end", "clear", m.name) for m in members),
        *(Step("end", "revoke", m.name) for m in members),
        COMMIT,
    )
