"""Joining the fabric: all that one identity needs to be found, called and audited, at once.

``Fabric`` runs on any broker client and any clock: over the memory broker on virtual time it is
the same as over NATS on the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phalanx.bus.client import BrokerClient
from phalanx.clock import Clock
from phalanx.domain.network import PopId
from phalanx.domain.version import VERSION
from phalanx.fabric.access import STANDARD_POLICY, AccessPolicy, Gate, Resource
from phalanx.fabric.audit import AccessAudit, AccessRefusal
from phalanx.fabric.calls import CallClient
from phalanx.fabric.directory import Appraise, RejectedEntry, unattested
from phalanx.fabric.provider import Provider
from phalanx.fabric.registration import END_TO_END, Area, HealthChecks, Registration, ServiceState
from phalanx.fabric.registry import Registrar, Registry

LEASE_S = 6.0
"""For how long a registration holds, in seconds of the run at speed 1."""


class Fabric:
    """One identity's membership of the fabric.

    Attributes:
        audit: records what is refused, as events ``access.refused``.
        checks: health checks that the registration reports.
        gate: decides who may call; its policy may be changed.
        provider: serves the operations of this identity.
        calls: invokes operations of others.
        registry: the other members, as seen from here.
        registrar: this identity's own entry; it is written from ``start`` on.

    """

    def __init__(
        self,
        client: BrokerClient,
        clock: Clock,
        record: Callable[..., Any],
        cause: str,
        *,
        incarnation: int,
        policy: AccessPolicy = STANDARD_POLICY,
        capabilities: tuple[str, ...] = (),
        area: Area = END_TO_END,
        scope: str = "",
        pop: PopId | None = None,
        lease_s: float = LEASE_S,
        appraise: Appraise = unattested,
        registry: Registry | None = None,
        on_superseded: Callable[[Registration], None] | None = None,
    ) -> None:
        """Join; others find the identity once ``start`` was called.

        Args:
            client: of the broker; its identity joins.
            clock: makes all calls; time is never taken from elsewhere.
            record: ``record(kind, cause, **data)``, as ``domain.events.Recorder.record``.
            cause: id of the event under which refusals stand.
            incarnation: how often the identity was started; higher than in any earlier start.
            policy: who may call what.
            capabilities: what it is registered with.
            area: the part of the network that it manages.
            scope: name of the scope of an agent; empty if it is none.
            pop: where an agent stands; None if at no PoP.
            lease_s: for how long its registration holds among few, in seconds of ``clock``.
            appraise: how far to trust the registration of another.
            registry: one that others of this process share; None opens one of its own.
            on_superseded: told of the registration of a second process of this identity.

        Raises:
            NotPermittedError: if the identity may not be called, or may not read the registry.

        """
        me = client.identity
        self.audit = AccessAudit(clock, record, cause)
        self.checks = HealthChecks()
        provided = Resource(me.name, me.domain, area, capabilities)
        self.gate = Gate(policy, lambda: provided)
        self.provider = Provider(
            client, clock, self.gate.check, on_refused=self.audit, incarnation=incarnation
        )
        self.calls = CallClient(client, clock, life=str(incarnation))
        self._own_registry = registry is None
        self.registry = registry or Registry(
            client, clock, appraise=appraise, on_refused=self._impostor
        )
        self.registrar = Registrar(
            client,
            clock,
            Registration(
                me.name,
                me.role,
                incarnation,
                capabilities,
                area,
                scope,
                pop,
                lease_s=lease_s,
                version=VERSION,
            ),
            self.registry,
            health=self.checks,
            on_superseded=on_superseded,
        )

    def start(self) -> None:
        """Enter the registry as ``starting``, and keep the entry alive from now on.

        Raises:
            NotPermittedError: if the identity may not write its entry.

        """
        self.registrar.start()

    def serving(self) -> None:
        """Say in the registry that the identity does its work, and what may be invoked."""
        self.registrar.update(state=ServiceState.SERVING, operations=self.provider.operations)

    def leave(self) -> None:
        """Withdraw the entry, and neither watch nor serve any more."""
        self.registrar.withdraw()
        self._close()

    def abandon(self) -> None:
        """Stop as a crash does: the entry stays until its lease has run out."""
        self.registrar.abandon()
        self._close()

    def _close(self) -> None:
        if self._own_registry:
            self.registry.close()
        self.provider.close()

    def _impostor(self, refused: RejectedEntry) -> None:
        """Record an entry of the registry that is not believed."""
        me = self.registrar.registration.owner
        reason = f"{refused.reason}: {refused.detail}"
        self.audit(AccessRefusal(refused.owner, "register", me, reason))
