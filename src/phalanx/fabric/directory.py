"""The directory: all registrations as one watcher knows them, judged by its own receipt.

A registration holds for its lease from the moment *this* watcher heard it. After that it is
``stale``, and ``gone`` after ``GONE_LEASES`` leases. A watcher that is itself cut off hears
nobody: it calls the others stale, and nobody gone before it was connected again for a lease.
No I/O and no clock: what came in and the time go in, changes come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.network import PopId
from phalanx.fabric.registration import (
    DECLARED,
    Appraisal,
    Area,
    HealthStatus,
    Registration,
    RegistrationError,
    ServiceState,
    Tier,
    decode,
)

GONE_LEASES = 3
"""An owner of which nothing was heard for so many leases is gone."""
FORGET_S = 600.0
"""How long one that left or is gone stays in sight."""

Appraise = Callable[[Registration], Appraisal]
"""A relying party's policy: how far to trust a service, by the attestation that it presents."""


def unattested(_registration: Registration) -> Appraisal:
    """Trust nobody's code, since nobody checks it yet."""
    return Appraisal()


class RegistryEntry(Struct, frozen=True):
    """A service as this watcher knows it."""

    registration: Registration
    state: ServiceState
    heard: float
    """When it was last heard, or when it ended, in seconds of the watcher's clock."""
    confirmed: bool = False
    """Whether it was renewed in the watcher's sight. If not, it may have died long ago."""
    trust: Appraisal = Appraisal()

    @property
    def owner(self) -> str:
        """Who provides the service."""
        return self.registration.owner

    @property
    def available(self) -> bool:
        """Whether its lease holds."""
        return self.state in DECLARED

    def lease_left_s(self, now: float) -> float:
        """Return for how long its lease holds, in seconds; 0 if it does not."""
        if not self.available:
            return 0.0
        return max(self.heard + self.registration.lease_s - now, 0.0)


class RegistryChange(Struct, frozen=True):
    """An entry that is new or different; a plain renewal is no change."""

    entry: RegistryEntry
    before: RegistryEntry | None


class RejectedEntry(Struct, frozen=True):
    """Something in the table that is not believed."""

    owner: str
    """The key under which it stands."""
    reason: str
    """``unreadable``, ``impostor`` (it names another owner) or ``outdated``."""
    detail: str


class Directory:
    """All entries; knows the time only from what it is told."""

    def __init__(self, *, appraise: Appraise = unattested, forget_s: float = FORGET_S) -> None:
        self.refused: dict[str, int] = {}
        """Values of the table that were not believed, by reason."""
        self._appraise = appraise
        self._forget_s = forget_s
        self._entries: dict[str, RegistryEntry] = {}
        self._connected_since: float | None = -inf

    def entries(self) -> tuple[RegistryEntry, ...]:
        """Return what is known, by owner."""
        return tuple(self._entries[owner] for owner in sorted(self._entries))

    def get(self, owner: str) -> RegistryEntry | None:
        """Return what is known of one owner."""
        return self._entries.get(owner)

    def take(
        self, owner: str, value: bytes | None, now: float
    ) -> list[RegistryChange | RejectedEntry]:
        """Take a value of the table, None for one that was dropped."""
        known = self._entries.get(owner)
        if value is None:
            if known is None or known.state is ServiceState.LEFT:
                return []
            return [self._set(replace(known, state=ServiceState.LEFT, heard=now), known)]
        try:
            registration = decode(value)
        except RegistrationError as error:
            return [self._refuse(owner, "unreadable", str(error))]
        if registration.owner != owner:
            return [self._refuse(owner, "impostor", f"it names {registration.owner!r} as owner")]
        renewed = False
        if known is not None and known.state is not ServiceState.LEFT:
            if registration.stamp == known.registration.stamp:
                return []  # told again, as after a reconnect: no sign of life
            if registration.stamp < known.registration.stamp:
                was, found = known.registration.stamp, registration.stamp
                return [self._refuse(owner, "outdated", f"{found} after {was}")]
            renewed = True
        elif known is not None and registration.incarnation < known.registration.incarnation:
            return [self._refuse(owner, "outdated", "of an incarnation before the one that left")]
        entry = RegistryEntry(
            registration, registration.state, now, renewed, self._appraise(registration)
        )
        if known is not None and _same(entry, known):
            self._entries[owner] = entry
            return []
        return [self._set(entry, known)]

    def link(self, connected: bool, now: float) -> None:
        """Be told that the watcher is cut off, or connected again."""
        if connected and self._connected_since is None:
            self._connected_since = now
        elif not connected:
            self._connected_since = None

    def tick(self, now: float) -> list[RegistryChange]:
        """Judge the leases at ``now``."""
        changes: list[RegistryChange] = []
        for owner in sorted(o for o, entry in self._entries.items() if self._due(entry) <= now):
            entry = self._entries[owner]
            if entry.available:
                changes.append(self._set(replace(entry, state=ServiceState.STALE), entry))
                entry = self._entries[owner]
                if self._due(entry) > now:
                    continue
            if entry.state is ServiceState.STALE:
                changes.append(self._set(replace(entry, state=ServiceState.GONE, heard=now), entry))
            else:
                del self._entries[owner]
        return changes

    def next_timer(self) -> float | None:
        """Return when ``tick`` has something to do; None: never, as things are."""
        due = min(map(self._due, self._entries.values()), default=inf)
        return due if due < inf else None

    def _due(self, entry: RegistryEntry) -> float:
        """Return when the state of ``entry`` changes by itself."""
        lease = entry.registration.lease_s
        if entry.available:
            return entry.heard + lease
        if entry.state is ServiceState.STALE:
            if self._connected_since is None:
                return inf
            return max(entry.heard + GONE_LEASES * lease, self._connected_since + lease)
        return entry.heard + self._forget_s

    def _set(self, entry: RegistryEntry, before: RegistryEntry | None) -> RegistryChange:
        self._entries[entry.owner] = entry
        return RegistryChange(entry, before)

    def _refuse(self, owner: str, reason: str, detail: str) -> RejectedEntry:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return RejectedEntry(owner, reason, detail)


def _same(entry: RegistryEntry, known: RegistryEntry) -> bool:
    """Whether ``entry`` says nothing else than ``known``, only later."""
    beat = known.registration.beat
    return (
        replace(entry, heard=known.heard, registration=replace(entry.registration, beat=beat))
        == known
    )


def find(
    entries: Iterable[RegistryEntry],
    capability: str | None = None,
    *,
    area: Area | None = None,
    scope: str | None = None,
    pop: PopId | None = None,
) -> tuple[RegistryEntry, ...]:
    """Return the services that can be called and fit all that is given, best first.

    They serve, do not fail, and no verifier contradicts them. The order is: best health,
    narrowest area, most trust, least load (unknown last), name.

    Args:
        entries: the directory.
        capability: what the service can do.
        area: what it must manage, alone or within a larger area.
        scope: name of an agent's scope.
        pop: where an agent must stand.

    """

    def fits(entry: RegistryEntry) -> bool:
        service = entry.registration
        return (
            entry.state is ServiceState.SERVING
            and service.health.status is not HealthStatus.FAILING
            and entry.trust.tier is not Tier.CONTRAINDICATED
            and (capability is None or capability in service.capabilities)
            and (area is None or service.area.contains(area))
            and (scope is None or scope == service.scope)
            and (pop is None or pop == service.pop)
        )

    return tuple(sorted(filter(fits, entries), key=_order))


def _order(entry: RegistryEntry) -> tuple[int, int, int, float, str]:
    service = entry.registration
    return (
        list(HealthStatus).index(service.health.status),
        -service.area.depth,
        -list(Tier).index(entry.trust.tier),
        inf if service.load is None else service.load,
        entry.owner,
    )
