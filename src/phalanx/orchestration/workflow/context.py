"""All that the workflow acts on, and how processes are waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.orchestration.descriptors.service import Service
from phalanx.orchestration.iml.unit import Iml, ImlError, UnitKind
from phalanx.orchestration.mlfo.search import Effort
from phalanx.orchestration.workflow.model import Deployment, ServiceMember, TrustServices


class TransientFault(PhalanxError):  # noqa: N818  # it is not an error that stays
    """Something did not work now, and may in a moment."""


class Seen(Struct, frozen=True):
    """What a process answered over the bus."""

    incarnation: int
    serving: bool
    goals: int = 0
    """Open goals of its own; of the network none."""
    detail: str = ""


Pair = tuple[str, str]
"""Identities of two agents that speak with each other."""


class Probed(Struct, frozen=True):
    """Whether one agent of a pair reaches the other, by messages as they send each other."""

    round_trip_ms: float | None
    """None: it does not."""
    reason: str = ""
    """Why not, in words."""


class Membership(Protocol):
    """Who belongs to the domain; each call may be repeated without harm.

    Raises:
        TransientFault: by all of its methods, if it may work in a moment.
        PhalanxError: if it will not.

    """

    def issue(self, name: str, kind: UnitKind) -> None:
        """Make an identity, unless it is there."""

    def revoke(self, name: str) -> None:
        """Take an identity back, unless it is gone; the brokers know it when this returns."""

    def reload(self) -> None:
        """Tell the brokers who belongs to the domain."""

    def files(self, name: str) -> dict[str, bytes]:
        """Return the files that prove an identity, by name; secrets are among them."""

    def revocations(self) -> dict[str, bytes]:
        """Return those of the files that tell who was revoked."""


class ConfigurationWriter(Protocol):
    """Knows what processes are started with."""

    def functions(self) -> tuple[str, ...]:
        """Return the capabilities that agents can have."""

    def plan(self, service: Service, target: Deployment, leaving: tuple[ServiceMember, ...]) -> str:
        """Return the slice's network, with places for those that are about to leave.

        Raises:
            PhalanxError: if there can be none.

        """

    def files(self, member: ServiceMember, deployment: Deployment) -> dict[str, bytes]:
        """Return the files of a process, ``config.toml`` among them, but its identity's."""


class Watcher(Protocol):
    """Looks at the processes of a service over the bus.

    Raises:
        TransientFault: by all of its methods, if the bus cannot be reached now.

    """

    def look(self, members: Iterable[ServiceMember], within_s: float) -> dict[str, Seen]:
        """Ask ``members`` how they are, and return what those said that answered, by name."""

    def probe(self, pairs: Iterable[Pair], within_s: float) -> dict[Pair, Probed]:
        """Have the first of each pair ask the second over the bus, all at the same time."""

    def reload(self, name: str) -> str:
        """Have an agent read its plan again, and return what it says of that.

        Raises:
            PhalanxError: if it cannot follow that plan.

        """

    def forget(self, name: str) -> None:
        """See to it that the registry has no entry of an identity that does not run any more."""

    def send(self, events: list[Event]) -> list[Event]:
        """Send events to where all events go; return those that have arrived."""

    def close(self) -> None:
        """Give the connection back; the next request connects anew."""


class StepRetryPolicy(Struct, frozen=True):
    """How often and how long something is tried."""

    attempts: int = 4
    """Of a step, before it has failed for good."""
    pause_s: float = 0.5
    """Before the second attempt; twice as long before each further one."""
    ready_s: float = 30.0
    """How long processes may take to do their work."""
    look_s: float = 2.0
    """How long one look at them takes at most."""
    stop_s: float = 10.0
    """How long a process may take to end."""
    drain_s: float = 60.0
    """How long an agent may take to hand over."""


FILES_OF_IDENTITY = "identity"
"""Folder of a process's identity among its files."""
_NAMED = 3
"""Of pairs that cannot speak with each other, so many are named."""


class WorkflowContext(Struct, frozen=True):
    """All that the workflow acts on."""

    sites: Callable[[str], Iml]
    """Returns the IML of the site of a name."""
    membership: Membership
    writer: ConfigurationWriter
    watcher: Watcher
    trust: TrustServices
    retry: StepRetryPolicy = StepRetryPolicy()
    effort: Effort = Effort()
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


def files_of(
    context: WorkflowContext, member: ServiceMember, deployment: Deployment
) -> dict[str, bytes]:
    """Return all files that a process is started with; secrets are among them."""
    own = context.membership.files(member.name)
    proofs = {f"{FILES_OF_IDENTITY}/{name}": octets for name, octets in own.items()}
    return {**context.writer.files(member, deployment), **proofs}


def awaited(
    context: WorkflowContext,
    members: tuple[ServiceMember, ...],
    beat: Callable[[], None],
    *,
    serving: bool,
) -> dict[str, Seen]:
    """Wait until ``members`` answer over the bus; with ``serving``, until they do their work.

    Returns:
        what each said, by name.

    Raises:
        PhalanxError: if one ended, or the time is over.
        TransientFault: if the bus cannot be reached now.

    """
    retry = context.retry
    give_up = context.monotonic() + retry.ready_s
    waiting = {m.name: m for m in members}
    found: dict[str, Seen] = {}
    while True:
        seen = context.watcher.look(waiting.values(), retry.look_s)
        for name, one in seen.items():
            goals_due = waiting[name].serves and one.goals == 0
            if not serving or (one.serving and not goals_due):
                found[name] = one
        waiting = {name: m for name, m in waiting.items() if name not in found}
        if not waiting:
            return found
        _check_alive(context, waiting)
        beat()
        if context.monotonic() > give_up:
            what = "done their work" if serving else "answered over the bus"
            raise PhalanxError(f"{', '.join(waiting)} have not {what} within {retry.ready_s:g} s")
        context.sleep(0.1)


def connected(
    context: WorkflowContext, deployment: Deployment, beat: Callable[[], None]
) -> dict[Pair, Probed]:
    """Have all pairs of agents that speak with each other probe that they can.

    A pair that cannot is tried again while others may still get to know it.

    Returns:
        how each pair fared.

    Raises:
        PhalanxError: naming those that cannot reach each other when the time is over.
        TransientFault: if the bus cannot be reached now.

    """
    retry = context.retry
    give_up = context.monotonic() + retry.ready_s
    found: dict[Pair, Probed] = {}
    left = deployment.pairs
    while True:
        found |= context.watcher.probe(left, retry.look_s)
        left = tuple(pair for pair in left if found[pair].round_trip_ms is None)
        if not left:
            return found
        ends = {name for pair in left for name in pair}
        _check_alive(context, {m.name: m for m in deployment.all_agents if m.name in ends})
        beat()
        if context.monotonic() > give_up:
            said = [
                f"{one} cannot reach {other}: {found[one, other].reason}" for one, other in left
            ]
            more = f"; and {len(said) - _NAMED} pairs more" if len(said) > _NAMED else ""
            raise PhalanxError("; ".join(said[:_NAMED]) + more)
        context.sleep(0.1)


def _check_alive(context: WorkflowContext, members: dict[str, ServiceMember]) -> None:
    for name, member in members.items():
        iml = context.sites(member.site)
        running = {r.unit.name: r.pid for r in iml.running()}
        if running.get(name) is None:
            said = iml.logs(name, 1).strip() or "it said nothing"
            raise ImlError(f"{member.site}: {name} ended at once: {said}")
