"""The registry: a live directory, and what keeps an identity's own entry in it.

Both are thin shells over the table ``registry`` of an exchange. Each owner writes its own key,
which the broker lets nobody else write, so the registry has no server that could fail or lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

from msgspec.structs import replace

from phalanx.bus.client import BrokerClient
from phalanx.bus.subjects import REGISTRY, name, token
from phalanx.clock import Clock, Timer
from phalanx.fabric.directory import (
    FORGET_S,
    Appraise,
    Directory,
    RegistryChange,
    RegistryEntry,
    RejectedEntry,
    unattested,
)
from phalanx.fabric.registration import (
    Health,
    Registration,
    RegistrationError,
    ServiceState,
    decode,
    encode,
)
from phalanx.identity.names import Role

RENEWALS = 3
"""How often an owner renews within one lease: two of three may be lost."""
CROWD = 24
"""Agents up to which leases keep their length. Those of more grow with their number, so that who
watches hears of no more renewals a second, however many agents there are.
"""
LONGEST_LEASE_S = 3600.0

Listener = Callable[[RegistryChange], None]


class Registry:
    """Watches the table and keeps a directory of it, from now until ``close``.

    Args:
        exchange: whose identity may watch the table.
        clock: makes the calls; leases are judged by it alone.
        appraise: how far to trust a registration.
        on_refused: told of each value that is not believed, for the audit.
        forget_s: how long an entry that ended stays in sight, in seconds.

    Raises:
        NotPermittedError: if the identity may not read the table.

    """

    def __init__(
        self,
        exchange: BrokerClient,
        clock: Clock,
        *,
        appraise: Appraise = unattested,
        on_refused: Callable[[RejectedEntry], None] | None = None,
        forget_s: float = FORGET_S,
    ) -> None:
        self.directory = Directory(appraise=appraise, forget_s=forget_s)
        self._clock = clock
        self._on_refused = on_refused
        self._listeners: list[Listener] = []
        self._overheard: dict[str, Callable[[bytes | None], None]] = {}
        self._timer: Timer | None = None
        self._closed = False
        self.read = False
        """Whether all entries that were there as the watch began have been heard of."""
        self.directory.link(exchange.connected, clock.now())
        exchange.on_change(self._linked)
        self._subscription = exchange.watch(REGISTRY, self._told, caught_up=self._caught_up)

    def entries(self) -> tuple[RegistryEntry, ...]:
        """Return what is known, by owner."""
        return self.directory.entries()

    def get(self, owner: str) -> RegistryEntry | None:
        """Return what is known of one owner."""
        return self.directory.get(owner)

    @property
    def agents(self) -> int:
        """How many agents there are, those included that may be alive."""
        ended = ServiceState.LEFT, ServiceState.GONE
        return sum(
            entry.registration.role is Role.AGENT and entry.state not in ended
            for entry in self.directory.entries()
        )

    def overhear(self, owner: str, listener: Callable[[bytes | None], None]) -> None:
        """Tell ``listener`` of each value that is written for ``owner``, renewals included."""
        self._overheard[owner] = listener

    @property
    def settled(self) -> bool:
        """Whether each entry was renewed in sight or has run out.

        Before that, a service that died before the watch began still looks alive. It takes
        a third of the longest lease, or a lease where one is dead.
        """
        return all(entry.confirmed or not entry.available for entry in self.entries())

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of each entry now and of each change; call what is returned to end.

        The present entries are told before this returns.
        """
        self._listeners.append(listener)
        for entry in self.entries():
            listener(RegistryChange(entry, None))

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def close(self) -> None:
        """Watch no more; without effect the second time."""
        self._closed = True
        self._subscription.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _told(self, key: str, value: bytes | None) -> None:
        if self._closed:
            return
        try:
            owner = name(key)
        except ValueError:
            owner = key  # no owner can have it, so that a value under it is an impostor's
        if (listener := self._overheard.get(owner)) is not None:
            listener(value)
        self._publish(self.directory.take(owner, value, self._clock.now()))

    def _caught_up(self) -> None:
        self.read = True

    def _linked(self, connected: bool) -> None:
        if not self._closed:
            self.directory.link(connected, self._clock.now())
            self._tick()

    def _tick(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._publish(self.directory.tick(self._clock.now()))
        self._arm()

    def _publish(self, found: list[RegistryChange | RejectedEntry] | list[RegistryChange]) -> None:
        for one in found:
            if isinstance(one, RegistryChange):
                for listener in tuple(self._listeners):
                    listener(one)
            elif self._on_refused is not None:
                self._on_refused(one)
        # A renewal leaves the timer as it is: it wakes too early, and is set anew.
        if found or self._timer is None:
            self._arm()

    def _arm(self) -> None:
        due = None if self._closed else self.directory.next_timer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._clock.call_at(due, self._tick)


class Registrar:
    """Keeps one's own entry alive, and withdraws it at the end.

    While the exchange is cut off nothing is written; what is due by then is written as soon as
    it is connected again, and so is a change of health at any time. The lease of an agent among
    more than ``CROWD`` is longer in proportion. An entry of the same owner that this registrar did
    not write and that is no older means that a second process runs under the identity: the
    registrar stops and says so.

    Args:
        exchange: of the owner.
        clock: makes the renewals.
        registration: what to say; its owner and role must be those of the exchange. Its lease
            is that of an agent among few.
        registry: tells how many agents there are, and of other values of the own entry.
        health: asked three times in such a lease.
        on_superseded: told of the other's entry when a second process took over; None: it is not
            watched for, as where one process has all identities.

    Raises:
        ValueError: if the registration is of another than the exchange's identity.

    """

    def __init__(
        self,
        exchange: BrokerClient,
        clock: Clock,
        registration: Registration,
        registry: Registry,
        *,
        health: Callable[[], Health] = Health,
        on_superseded: Callable[[Registration], None] | None = None,
    ) -> None:
        identity = exchange.identity
        if (registration.owner, registration.role) != (identity.name, identity.role):
            raise ValueError(
                f"{identity.role.value} {identity.name!r} cannot register "
                f"{registration.role.value} {registration.owner!r}"
            )
        self.registration = registration
        """What was said last, and is said again."""
        self._exchange = exchange
        self._clock = clock
        self._registry = registry
        self._health = health
        self._on_superseded = on_superseded
        self._lease_s = registration.lease_s
        self._due = clock.now()
        """When the entry is to be renewed."""
        self._timer: Timer | None = None
        self._active = False
        exchange.on_change(self._linked)

    @property
    def active(self) -> bool:
        """Whether the entry is kept alive."""
        return self._active

    def start(self) -> None:
        """Write the entry, and keep it alive from now on; without effect the second time.

        Raises:
            NotPermittedError: if the identity may not write its entry.
            RegistrationError: if no reader would take the registration.

        """
        if self._active:
            return
        self._active = True
        if self._on_superseded is not None:
            self._registry.overhear(self.registration.owner, self._told)
        self._renew()

    def update(self, **changes: Any) -> None:
        """Change fields of the entry, and write it at once if it is kept alive.

        Args:
            changes: new values by field; None keeps the present one.

        Raises:
            ValueError: if the state is one that an owner cannot say of itself.
            RegistrationError: if no reader would take the registration.

        """
        changes = {field: value for field, value in changes.items() if value is not None}
        self.registration = replace(self.registration, **changes)
        self._due = self._clock.now()
        if self._active:
            self._renew()

    def withdraw(self) -> None:
        """Remove the entry and renew it no more; without effect the second time."""
        if self._stop():
            self._exchange.drop(REGISTRY, token(self.registration.owner))

    def abandon(self) -> None:
        """Renew the entry no more; it stays until its lease has run out, as after a crash."""
        self._stop()

    def _stop(self) -> bool:
        was, self._active = self._active, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return was

    def _renew(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._active:
            return
        now, pause, health = self._clock.now(), self._lease_s / RENEWALS, self._health()
        due = now + pause / 2 >= self._due or health != self.registration.health
        if due and self._exchange.connected:
            lease_s, owner = self._lease_s, self.registration.owner
            self._due = now + pause
            agents = self._registry.agents if self.registration.role is Role.AGENT else 0
            if agents > CROWD:
                lease_s = min(lease_s * agents / CROWD, LONGEST_LEASE_S)
                # Those that were started together do not renew together.
                share = crc32(owner.encode()) / 2**32
                self._due = now + max(pause, lease_s / RENEWALS * (1 + share) / 2)
            beat = self.registration.beat + 1
            changes = {"health": health, "beat": beat, "lease_s": lease_s}
            self.registration = replace(self.registration, **changes)
            self._exchange.put(REGISTRY, token(owner), encode(self.registration))
        self._timer = self._clock.call_at(now + pause, self._renew)

    def _linked(self, connected: bool) -> None:
        if connected and self._active:
            self._renew()

    def _told(self, value: bytes | None) -> None:
        if not self._active or value is None:
            return
        try:
            found = decode(value)
        except RegistrationError:
            return  # ours never are; the next renewal puts ours in its place
        if found.owner == self.registration.owner and found.stamp > self.registration.stamp:
            self._stop()
            if self._on_superseded is not None:
                self._on_superseded(found)
