"""What every driver that keeps these reservations offers in the same way."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from phalanx.clock import Clock
from phalanx.domain.actions import (
    Action,
    Hold,
    Outcome,
    Rechain,
    Release,
    Renew,
    RulesInForce,
    Scale,
    SiteState,
    Stop,
    Transfer,
)
from phalanx.domain.agents import AgentId
from phalanx.domain.events import Recorder
from phalanx.domain.network import Link, Network, PopId, link_id
from phalanx.domain.resources import Resources
from phalanx.domain.rules import AllowList
from phalanx.infrastructure.reservations.allocations import (
    ComputeAllocations,
    LinkAllocations,
    Perceive,
    Percepts,
    Reservations,
)
from phalanx.infrastructure.reservations.images import ImageCache
from phalanx.infrastructure.reservations.instances import MeasureLedger
from phalanx.infrastructure.reservations.lifecycle import Lifecycle
from phalanx.infrastructure.reservations.topology import Topology


class NetworkDriver:
    """Base of the drivers: reservations of a network, told to its agents; a driver adds the work.

    Args:
        network: what stands still.
        clock: when things happen.
        recorder: where events go; its agent should be ``network``.
        cause: the event that is the root cause of the run.
        keep_images: whether PoPs keep the images that they downloaded, for each other too.

    Raises:
        ValueError: if the network contradicts itself.

    """

    _lifecycle: Lifecycle
    """Made by the driver, from its workers; so are its measures."""
    _ledger: MeasureLedger[Any]

    def __init__(
        self,
        network: Network,
        clock: Clock,
        recorder: Recorder,
        cause: str,
        *,
        keep_images: bool = False,
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._cause = cause
        self._topology = Topology(network)
        self._compute = ComputeAllocations({pop.name: pop.total for pop in network.pops})
        self._links = LinkAllocations(self._topology)
        self._percepts = Percepts(clock, self._topology, self._compute, self._links)
        self._images = ImageCache(clock, recorder, self._compute, self._percepts, keeps=keep_images)
        self._reservations = Reservations(
            self._topology, self._compute, self._links, self._percepts, recorder
        )

    def attach(self, agent: AgentId, pop: PopId, perceive: Perceive) -> None:
        """Tell ``agent`` of changes at ``pop`` from now on; soon of its ``SiteState``."""
        self._percepts.attach(agent, pop, perceive)

    def detach(self, agent: AgentId, pop: PopId) -> None:
        """Tell ``agent`` nothing more; leases go on until they run out."""
        self._percepts.detach(agent, pop)

    @property
    def allow(self) -> AllowList:
        """Sources that no rule blocks or limits, whatever agents ask for."""
        return self._ledger.allow

    @allow.setter
    def allow(self, allow: AllowList) -> None:
        self._ledger.allow = allow

    def fail_link(self, a: PopId, b: PopId) -> None:
        """Cut the link between ``a`` and ``b``; what is reserved on it stays reserved.

        Raises:
            ValueError: if there is no such link.

        """
        self._switch(a, b, up=False)

    def restore_link(self, a: PopId, b: PopId) -> None:
        """Mend the link between ``a`` and ``b``.

        Raises:
            ValueError: if there is no such link.

        """
        self._switch(a, b, up=True)

    def site(self, pop: PopId) -> SiteState:
        """Return what the agent of ``pop`` would perceive of it now."""
        return self._percepts.state(pop)

    def free(self) -> dict[PopId, Resources]:
        """Return what is not allocated at each PoP."""
        return {pop: self._compute.free(pop) for pop in self._topology.pops}

    def reserved_mb_s(self) -> float:
        """Return the bandwidth that is reserved on all links together."""
        links = self._topology.neighbours
        return sum(self._links.reserved(pop, to) for pop in links for to in links[pop])

    def leases(self) -> list[str]:
        """Return the ids of all holds, instances and measures, each kind sorted."""
        return [*self._lifecycle.names(), *self._ledger.names()]

    def check(self) -> None:
        """Check the reservations.

        Raises:
            InvariantError: if a PoP or a link is over-committed.

        """
        self._compute.check()
        self._links.check()

    def _reserved(self, pop: PopId, action: Action, cause: str) -> Outcome | None:
        """Carry out what the reservations decide; None for other actions."""
        lifecycle = self._lifecycle
        match action:
            case Hold():
                return lifecycle.hold(pop, action, cause)
            case Release():
                return lifecycle.release(pop, action.hold)
            case Rechain():
                return lifecycle.rechain(pop, action, cause)
            case Scale():
                return lifecycle.scale(pop, action, cause)
            case Transfer():
                return lifecycle.replace(pop, action, cause)
            case Stop():
                return lifecycle.stop(pop, action, cause)
            case Renew():
                return lifecycle.renew(pop, action)
            case _:
                return None

    def _deeds(self, pop: PopId, rules: RulesInForce) -> RulesInForce:
        """Return ``rules`` with the bids that were made at ``pop``, and what it has for them."""
        if pop not in self._topology.pops:
            return rules
        left_s = self._lifecycle.lease_left_s
        told = tuple(replace(each, lease_left_s=left_s(each.instance)) for each in rules.rules)
        bids, site = self._lifecycle.offers(pop), self._percepts.ever(pop)
        return replace(rules, rules=told, bids=bids, site=site)

    def _switch(self, a: PopId, b: PopId, *, up: bool) -> None:
        link = self._topology.link(a, b)
        if link is None:
            raise ValueError(f"no link joins {a} and {b}")
        fault = "link-up" if up else "link-down"
        event = self._recorder.record("fault.injected", self._cause, fault=fault, link=[a, b])
        if self._topology.is_up(link) == up:
            return
        self._topology.switch(link, up=up)
        for ends in ((link.a, link.b), (link.b, link.a)):
            self._recorder.record("link.changed", event, link=link_id(*ends), up=up)
        self._switched(link, event, up=up)
        self._percepts.changed((link.a, link.b))

    def _switched(self, link: Link, event: str, *, up: bool) -> None:
        """Cut or mend a link in the network itself."""
        raise NotImplementedError
