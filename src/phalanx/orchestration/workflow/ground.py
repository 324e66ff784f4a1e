"""All that the workflow acts on, and how processes are waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.orchestration.iml import ImlError
from phalanx.orchestration.mlfo import Effort
from phalanx.orchestration.workflow.model import Deployment, Member
from phalanx.orchestration.workflow.ports import (
    Membership,
    Outfitter,
    Pair,
    Patience,
    Probed,
    Seen,
    Sites,
    Watcher,
)
from phalanx.orchestration.workflow.trust import TrustServices

FILES_OF_IDENTITY = "identity"
"""Folder of a process's identity among its files."""
_NAMED = 3
"""Of pairs that cannot speak with each other, so many are named."""


class Ground(Struct, frozen=True):
    """All that the workflow acts on."""

    sites: Sites
    membership: Membership
    outfitter: Outfitter
    watcher: Watcher
    trust: TrustServices
    patience: Patience = Patience()
    effort: Effort = Effort()
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


def files_of(ground: Ground, member: Member, deployment: Deployment) -> dict[str, bytes]:
    """Return all files that a process is started with; secrets are among them."""
    own = ground.membership.files(member.name)
    proofs = {f"{FILES_OF_IDENTITY}/{name}": octets for name, octets in own.items()}
    return {**ground.outfitter.files(member, deployment), **proofs}


def awaited(
    ground: Ground, members: tuple[Member, ...], beat: Callable[[], None], *, serving: bool
) -> dict[str, Seen]:
    """Wait until ``members`` answer over the bus; with ``serving``, until they do their work.

    Returns:
        what each said, by name.

    Raises:
        PhalanxError: if one ended, or the time is over.
        PassingFault: if the bus cannot be reached now.

    """
    patience = ground.patience
    give_up = ground.monotonic() + patience.ready_s
    waiting = {m.name: m for m in members}
    found: dict[str, Seen] = {}
    while True:
        seen = ground.watcher.look(waiting.values(), patience.look_s)
        for name, one in seen.items():
            goals_due = waiting[name].serves and one.goals == 0
            if not serving or (one.serving and not goals_due):
                found[name] = one
        waiting = {name: m for name, m in waiting.items() if name not in found}
        if not waiting:
            return found
        _check_alive(ground, waiting)
        beat()
        if ground.monotonic() > give_up:
            what = "done their work" if serving else "answered over the bus"
            raise PhalanxError(
                f"{', '.join(waiting)} have not {what} within {patience.ready_s:g} s"
            )
        ground.sleep(0.1)


def connected(
    ground: Ground, deployment: Deployment, beat: Callable[[], None]
) -> dict[Pair, Probed]:
    """Have all pairs of agents that speak with each other probe that they can.

    A pair that cannot is tried again while others may still get to know it.

    Returns:
        how each pair fared.

    Raises:
        PhalanxError: naming those that cannot reach each other when the time is over.
        PassingFault: if the bus cannot be reached now.

    """
    patience = ground.patience
    give_up = ground.monotonic() + patience.ready_s
    found: dict[Pair, Probed] = {}
    left = deployment.pairs
    while True:
        found |= ground.watcher.probe(left, patience.look_s)
        left = tuple(pair for pair in left if found[pair].round_trip_ms is None)
        if not left:
            return found
        ends = {name for pair in left for name in pair}
        _check_alive(ground, {m.name: m for m in deployment.agents if m.name in ends})
        beat()
        if ground.monotonic() > give_up:
            said = [
                f"{one} cannot reach {other}: {found[one, other].reason}" for one, other in left
            ]
            more = f"; and {len(said) - _NAMED} pairs more" if len(said) > _NAMED else ""
            raise PhalanxError("; ".join(said[:_NAMED]) + more)
        ground.sleep(0.1)


def _check_alive(ground: Ground, members: dict[str, Member]) -> None:
    for name, member in members.items():
        iml = ground.sites(member.site)
        running = {r.unit.name: r.pid for r in iml.running()}
        if running.get(name) is None:
            said = iml.logs(name, 1).strip() or "it said nothing"
            raise ImlError(f"{member.site}: {name} ended at once: {said}")
