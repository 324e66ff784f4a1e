"""Routes of least latency between the PoPs, kept in the kernels' tables as links come and go."""

from __future__ import annotations

from msgspec import Struct

from phalanx.domain.network import Link, Network, PopId
from phalanx.infrastructure.linux.kernel.links import RouteBatch
from phalanx.infrastructure.reservations.topology import Topology
from phalanx.testrange.plan import SWITCH, Plan


class Hop(Struct, frozen=True):
    """Where a PoP sends packets for an address."""

    device: str
    via: str | None
    """Underlay address of the next PoP; None: the address is on the PoP's own switch."""


class Routing:
    """The tables of all PoPs: what they should be, and what is in the kernels already."""

    def __init__(self, network: Network, plan: Plan) -> None:
        self._plan = plan
        self._topology = Topology(network)
        self._installed: dict[PopId, dict[str, Hop]] = {pop: {} for pop in plan.namespaces}
        # The first of a PoP is its own; the others hang on its switch.
        self._addresses = {
            pop: [plan.underlay[pop], *(a for port in plan.at(pop) for a in port.addresses)]
            for pop in plan.namespaces
        }

    def link(self, a: PopId, b: PopId) -> Link | None:
        """Return the link that joins two PoPs, in whichever order."""
        return self._topology.link(a, b)

    def switch(self, link: Link, *, up: bool) -> None:
        """Note that a link went down or came back.

        The kernel forgot the routes over its interfaces when they went down.
        """
        self._topology.switch(link, up=up)
        for pop, other in ((link.a, link.b), (link.b, link.a)):
            device = self._plan.devices[f"{pop}>{other}"]
            table = self._installed[pop]
            self._installed[pop] = {a: hop for a, hop in table.items() if hop.device != device}

    def stale(self) -> list[PopId]:
        """Return the PoPs whose table is not as it should be."""
        return [pop for pop in self._installed if self._wanted(pop) != self._installed[pop]]

    def install(self, pop: PopId) -> None:
        """Bring the table of ``pop`` up to date; call it inside the namespace of ``pop``.

        Raises:
            KernelError: if the kernel refuses.

        """
        wanted, installed = self._wanted(pop), self._installed[pop]
        batch = RouteBatch()
        for address, hop in wanted.items():
            if installed.get(address) != hop:
                batch.route(address, hop.device, self._plan.underlay[pop], hop.via)
        for address in installed.keys() - wanted.keys():
            batch.no_route(address)
        batch.send()
        self._installed[pop] = wanted

    def _wanted(self, pop: PopId) -> dict[str, Hop]:
        table = {address: Hop(SWITCH, None) for address in self._addresses[pop][1:]}
        for target, addresses in self._addresses.items():
            path = self._topology.route(pop, target)
            if path is not None and target != pop:
                hop = Hop(self._plan.devices[f"{pop}>{path[1]}"], self._plan.underlay[path[1]])
                table.update(dict.fromkeys(addresses, hop))
        return table
