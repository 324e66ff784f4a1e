"""The ledger's keys for the overlay of a run, brought in beside the run's loop.

A pair of PoPs is protected by what both ends were handed out in the present epoch. Until they
have it, as in the chain of trust and after a deployment anew, the pair has a local secret: of
whoever enrols the agents, and new in each epoch, so that nobody knows it who was expelled. What
was in use when an epoch ends may stay for ``GRACE_S``, in which the next keys arrive; then it is
replaced, and where that cannot be, nothing passes.

A PoP takes part while one of the agents that stand there is neither expelled nor retired: it is
the PoP's kernel that encrypts, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hmac import compare_digest

from phalanx.clock import Clock
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.network import PopId
from phalanx.domain.trust import GroupKeys
from phalanx.infrastructure.linux.overlay import Overlay
from phalanx.infrastructure.linux.overlay_keys import LocalKeys, PairKey
from phalanx.trust.keys import pair_secret

GRACE_S = 10.0
"""For how long what an epoch was protected by may be used once it has ended."""
RETRY_S = 2.0
"""Before what could not be done is tried again."""


class LedgerKeys:
    """Secrets of pairs of PoPs from the epochs of a ledger; implements ``KeyProvider``.

    Args:
        agents: by each agent the PoP at which it stands.

    """

    def __init__(self, agents: Mapping[AgentId, PopId]) -> None:
        self._agents = dict(agents)
        self._pops = frozenset(agents.values())
        self._local = LocalKeys(self._pops)
        self._group = GroupKeys(1)
        self._settled = 1

    def take(self, group: GroupKeys) -> bool:
        """Take in what protects the group from now on; return whether another epoch began."""
        turned = group.epoch > self._group.epoch
        if turned:
            self._local.rotate()
        self._group = group
        self._authorise()
        return turned

    def settle(self, epoch: int) -> None:
        """Let nothing of the epochs before ``epoch`` be used any more."""
        self._settled = max(self._settled, epoch)
        self._authorise()

    def members(self) -> frozenset[PopId]:
        """Return the PoPs that take part."""
        return self._local.members()

    def key(self, a: PopId, b: PopId) -> PairKey:
        """Return what protects a pair now; see ``KeyProvider``."""
        group, least = self._group, 2 * self._settled
        local = self._local.secret(a, b)
        one, other = self._held(group, a), self._held(group, b)
        # A keeper that hands out different keys leaves pairs with local ones.
        if not one or not other or not compare_digest(one, other):
            return PairKey(2 * group.epoch, local, late=True, least=least)
        secret = pair_secret(one, f"overlay {a}", f"overlay {b}")
        return PairKey(2 * group.epoch + 1, secret, least=least)

    def _held(self, group: GroupKeys, pop: PopId) -> bytes:
        held = (group.secrets.get(name) for name, at in self._agents.items() if at == pop)
        return next((secret for secret in held if secret is not None), b"")

    def _authorise(self) -> None:
        group = self._group
        out = group.expelled | (group.retired if self._settled >= group.epoch else frozenset())
        stay = frozenset(pop for agent, pop in self._agents.items() if agent not in out)
        for pop in self.members() - stay:
            self._local.revoke(pop)
        for pop in stay - self.members():
            self._local.admit(pop)


Aside = Callable[[Callable[[], str], Callable[[str], None]], None]
"""Does what blocks beside the clock's calls, and makes one of these with what it returned."""
Record = Callable[..., str]
"""Records an event: kind, cause, data."""


class OverlayKeying:
    """Brings an overlay to what its group's ledger says; none of its methods blocks."""

    def __init__(
        self, overlay: Overlay, keys: LedgerKeys, clock: Clock, aside: Aside, record: Record
    ) -> None:
        """Do nothing before ``take``; ``keys`` are those of the overlay."""
        self._overlay = overlay
        self._keys = keys
        self._clock = clock
        self._aside = aside
        self._record = record
        self._cause = ""
        self._busy = self._again = False
        self._told: tuple[int, int] | None = None
        self._why = ""
        self._epoch = 1

    def take(self, group: GroupKeys, cause: str) -> None:
        """Bring in what protects the group from now on; ``cause`` is the event that led to it."""
        self._cause, self._epoch = cause, group.epoch
        before = self._keys.members()
        if self._keys.take(group):
            until = self._clock.now() + GRACE_S
            self._clock.call_at(until, partial(self._settle, group.epoch))
        self._follow(before)

    def _settle(self, epoch: int) -> None:
        before = self._keys.members()
        self._keys.settle(epoch)
        self._follow(before)

    def _follow(self, before: frozenset[PopId]) -> None:
        for pop in sorted(before - self._keys.members()):
            self._revoke(pop, self._cause)
        self._bring()

    def _revoke(self, pop: PopId, cause: str) -> None:
        if pop not in self._keys.members():
            work = partial(_failure, partial(self._overlay.revoke, pop))
            self._aside(work, partial(self._revoked, pop, cause))

    def _revoked(self, pop: PopId, cause: str, failure: str) -> None:
        if failure:
            self._failed(failure, partial(self._revoke, pop, cause))
        else:
            self._record("overlay.revoked", cause, pop=pop)
            self._bring()  # it may have been enrolled anew meanwhile

    def _bring(self) -> None:
        """Rekey and readmit; what came meanwhile is seen to as soon as that has ended."""
        self._again = self._busy
        if not self._busy:
            self._busy = True
            self._aside(self._work, partial(self._brought, self._overlay.revoked))

    def _work(self) -> str:
        back = sorted(self._overlay.revoked & self._keys.members())
        works: list[Callable[[], None]] = [self._overlay.rotate]
        works += [partial(self._overlay.readmit, pop) for pop in back]
        return "; ".join(failure for work in works if (failure := _failure(work)))

    def _brought(self, revoked: frozenset[PopId], failure: str) -> None:
        self._busy = False
        if not failure:
            self._why = ""
        for pop in sorted(revoked - self._overlay.revoked):
            self._record("overlay.readmitted", self._cause, pop=pop)
        keyed = self._overlay.generations().count(2 * self._epoch + 1)
        if keyed and (self._epoch, keyed) != self._told:
            self._told = self._epoch, keyed
            self._record("overlay.keyed", self._cause, epoch=self._epoch, pairs=keyed)
        if self._again:
            self._bring()
        elif failure:
            self._failed(failure, self._bring)

    def _failed(self, failure: str, again: Callable[[], None]) -> None:
        if failure != self._why:  # what lasts is told once
            self._why = failure
            self._record("overlay.failed", self._cause, reason=failure)
        self._clock.call_at(self._clock.now() + RETRY_S, again)


def _failure(work: Callable[[], None]) -> str:
    try:
        work()
    except PhalanxError as error:
        return str(error)
    return ""
