"""What the agents are told: the state of their PoP whenever it changes, and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from phalanx.clock import Clock
from phalanx.domain.actions import Percept, SiteState
from phalanx.domain.network import LinkState, PopId
from phalanx.infrastructure.books.accounts import ComputeBook, LinkBook
from phalanx.infrastructure.books.topology import Topology

Perceive = Callable[[Percept], None]


class Percepts:
    """Tells attached agents; several changes of one instant become one percept."""

    def __init__(
        self, clock: Clock, topology: Topology, compute: ComputeBook, links: LinkBook
    ) -> None:
        self._clock = clock
        self._topology = topology
        self._compute = compute
        self._links = links
        self._agents: dict[PopId, Perceive] = {}
        self._told: dict[PopId, SiteState] = {}
        self._changed: dict[PopId, None] = {}

    def attach(self, pop: PopId, perceive: Perceive) -> None:
        """Tell ``perceive`` from now on, beginning with the state of ``pop``."""
        self._agents[pop] = perceive
        self._told.pop(pop, None)
        self.changed((pop,))

    def detach(self, pop: PopId) -> None:
        """Tell the agent of ``pop`` nothing more."""
        self._agents.pop(pop, None)

    def changed(self, pops: Iterable[PopId]) -> None:
        """Note that the state of ``pops`` may have changed."""
        if not self._changed:
            self._clock.call_soon(self._flush)
        self._changed.update(dict.fromkeys(pops))

    def tell(self, pop: PopId, percept: Percept) -> None:
        """Tell the agent of ``pop`` something at once, if there is one."""
        perceive = self._agents.get(pop)
        if perceive is not None:
            perceive(percept)

    def state(self, pop: PopId) -> SiteState:
        """Return the state of ``pop`` as it is now."""
        return SiteState(
            total=self._compute.totals[pop],
            free=self._compute.free(pop),
            links=tuple(
                LinkState(
                    to=neighbour,
                    bandwidth_mb_s=link.bandwidth_mb_s,
                    latency_ms=link.latency_ms,
                    loss=link.loss,
                    reserved_mb_s=self._links.reserved(pop, neighbour),
                    up=self._topology.is_up(link),
                )
                for neighbour, link in self._topology.neighbours[pop].items()
            ),
        )

    def _flush(self) -> None:
        changed, self._changed = self._changed, {}
        for pop in changed:
            if pop in self._agents:
                state = self.state(pop)
                if state != self._told.get(pop):
                    self._told[pop] = state
                    self.tell(pop, state)
