"""The directory: all registrations as one watcher knows them, judged by its own receipt.

A registration holds for its lease from the moment *this* watcher heard it. After that it is
``stale``, and ``gone`` after ``GONE_LEASES`` leases. A watcher that is itself cut off hears
nobody: it calls the others stale, and nobody gone before it was connected again for a lease.
No I/O and no clock: what came in and the time go in, changes come out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from phalanx.fabric.registration import (
    DECLARED,
    Registration,
    RegistrationError,
    State,
    Trust,
    decode,
)

GONE_LEASES = 3
"""An owner of which nothing was heard for so many leases is gone."""
FORGET_S = 600.0
"""How long one that left or is gone stays in sight."""

Appraise = Callable[[Registration], Trust]
"""A relying party's policy: how far to trust a service, by the attestation that it presents."""


def unattested(_registration: Registration) -> Trust:
    """Trust nobody's code, since nobody checks it yet."""
    return Trust()


class Entry(Struct, frozen=True):
    """A service as this watcher knows it."""

    registration: Registration
    state: State
    heard: float
    """When it was last heard, or when it ended, in seconds of the watcher's clock."""
    confirmed: bool = False
    """Whether it was renewed in the watcher's sight. If not, it may have died long ago."""
    trust: Trust = Trust()

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


class Change(Struct, frozen=True):
    """An entry that is new or different; a plain renewal is no change."""

    entry: Entry
    before: Entry | None


class Refused(Struct, frozen=True):
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
        self._entries: dict[str, Entry] = {}
        self._connected_since: float | None = -inf

    def entries(self) -> tuple[Entry, ...]:
        """Return what is known, by owner."""
        return tuple(self._entries[owner] for owner in sorted(self._entries))

    def get(self, owner: str) -> Entry | None:
        """Return what is known of one owner."""
        return self._entries.get(owner)

    def take(self, owner: str, value: bytes | None, now: float) -> list[Change | Refused]:
        """Take a value of the table, None for one that was dropped."""
        known = self._entries.get(owner)
        if value is None:
            if known is None or known.state is State.LEFT:
                return []
            return [self._set(replace(known, state=State.LEFT, heard=now), known)]
        try:
            registration = decode(value)
        except RegistrationError as error:
            return [self._refuse(owner, "unreadable", str(error))]
        if registration.owner != owner:
            return [self._refuse(owner, "impostor", f"it names {registration.owner!r} as owner")]
        renewed = False
        if known is not None and known.state is not State.LEFT:
            if registration.stamp == known.registration.stamp:
                return []  # told again, as after a reconnect: no sign of life
            if registration.stamp < known.registration.stamp:
                was, found = known.registration.stamp, registration.stamp
                return [self._refuse(owner, "outdated", f"{found} after {was}")]
            renewed = True
        elif known is not None and registration.incarnation < known.registration.incarnation:
            return [self._refuse(owner, "outdated", "of an incarnation before the one that left")]
        entry = Entry(registration, registration.state, now, renewed, self._appraise(registration))
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

    def tick(self, now: float) -> list[Change]:
        """Judge the leases at ``now``."""
        changes: list[Change] = []
        for owner in sorted(o for o, entry in self._entries.items() if self._due(entry) <= now):
            entry = self._entries[owner]
            if entry.available:
                changes.append(self._set(replace(entry, state=State.STALE), entry))
                entry = self._entries[owner]
                if self._due(entry) > now:
                    continue
            if entry.state is State.STALE:
                changes.append(self._set(replace(entry, state=State.GONE, heard=now), entry))
            else:
                del self._entries[owner]
        return changes

    def next_timer(self) -> float | None:
        """Return when ``tick`` has something to do; None: never, as things are."""
        due = min(map(self._due, self._entries.values()), default=inf)
        return due if due < inf else None

    def _due(self, entry: Entry) -> float:
        """Return when the state of ``entry`` changes by itself."""
        lease = entry.registration.lease_s
        if entry.available:
            return entry.heard + lease
        if entry.state is State.STALE:
            if self._connected_since is None:
                return inf
            return max(entry.heard + GONE_LEASES * lease, self._connected_since + lease)
        return entry.heard + self._forget_s

    def _set(self, entry: Entry, before: Entry | None) -> Change:
        self._entries[entry.owner] = entry
        return Change(entry, before)

    def _refuse(self, owner: str, reason: str, detail: str) -> Refused:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return Refused(owner, reason, detail)


def _same(entry: Entry, known: Entry) -> bool:
    """Whether ``entry`` says nothing else than ``known``, only later."""
    beat = known.registration.beat
    return (
        replace(entry, heard=known.heard, registration=replace(entry.registration, beat=beat))
        == known
    )
