"""A whole network on one machine: PoPs, links, hosts and sources as network namespaces.

Each PoP is a router with a switch (the bridge ``sw``). PoPs reach each other at their
underlay addresses along the paths of least latency; hosts and sources hang on the switches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

from phalanx.domain.network import LinkId, Network, PopId
from phalanx.domain.traffic import Source
from phalanx.infrastructure.linux.kernel import cgroups, namespaces, runs
from phalanx.infrastructure.linux.kernel.cgroups import Cgroup
from phalanx.infrastructure.linux.kernel.links import Links, RouteBatch, has_netem
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.kernel.wire import Wire
from phalanx.testrange import build
from phalanx.testrange.plan import draw
from phalanx.testrange.routing import Routing

P = ParamSpec("P")


class Testbed:
    """The network of a run.

    Args:
        run: mark of the run, from ``kernel.runs.new_run``.
        network: PoPs, links and hosts.
        sources: who will send traffic. Users of one group at one PoP share a namespace, each
            attacker has its own.

    Raises:
        KernelError: if an address is unusable or stands twice.

    """

    __test__ = False  # pytest takes the name for its own

    def __init__(self, run: str, network: Network, sources: Sequence[Source]) -> None:
        self.run = run
        self.notes: list[str] = []
        """What was chosen for want of something else, a line each."""
        self._network = network
        self._plan = draw(run, network, sources)
        self._ports = {a: port for port in self._plan.ports for a in port.addresses}
        self._routing = Routing(network, self._plan)
        self._groups: dict[PopId, Cgroup] = {}
        self._wire: Wire | None = None

    @property
    def folder(self) -> Path:
        """Where the files of the run lie."""
        return runs.folder(self.run)

    def build(self) -> None:
        """Make everything; blocking, about 1 s for 6 PoPs and 60 sources.

        Raises:
            KernelError: if something is missing or refused; what was made is removed.

        """
        try:
            with Inside(None) as hands:
                hands.call(self._build)
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """Remove everything, with the processes in it; the run's folder stays. Idempotent.

        Raises:
            KernelError: if something cannot be removed.

        """
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._groups.clear()
        runs.sweep(self.run)

    def namespace(self, pop: PopId) -> str:
        """Return the network namespace of a PoP, such as ``phx-1a2b3c-pop1``."""
        return self._plan.namespaces[pop]

    def underlay(self, pop: PopId) -> str:
        """Return the address under which other PoPs reach this one, such as ``10.254.0.1``."""
        return self._plan.underlay[pop]

    def device(self, link: LinkId) -> str:
        """Return the device, in the namespace where ``link`` begins, whose egress is the link.

        Raises:
            KeyError: if there is no such link.

        """
        return self._plan.devices[link]

    def host_at(self, address: str) -> PopId | None:
        """Return the PoP on whose switch ``address`` is; None if it is on none."""
        port = self._ports.get(address)
        return None if port is None else port.pop

    def host_device(self, address: str) -> str:
        """Return the device whose egress leads to ``address``, at its PoP.

        Raises:
            KeyError: if the address is on no switch.

        """
        return self._ports[address].device

    def address(self, host: str) -> str | None:
        """Return the address of the host of that name; None if there is none."""
        return self._plan.hosts.get(host)

    def home(self, name: str) -> str:
        """Return the network namespace in which a host or a source lives.

        Raises:
            KeyError: if there is none of that name.

        """
        return self._plan.homes[name]

    def cgroup(self, pop: PopId) -> Cgroup:
        """Return the limits of a PoP; there are some once it is built."""
        return self._groups[pop]

    def set_link(self, a: PopId, b: PopId, *, up: bool) -> None:
        """Cut or mend the link between two PoPs; all routes follow at once. Blocking.

        Raises:
            KeyError: if no link joins them.
            KernelError: if the kernel refuses.

        """
        link = self._routing.link(a, b)
        if link is None:
            raise KeyError(f"{a}>{b}")
        with Inside(None) as hands:
            for pop in (a, b):
                hands.call(self._within, self.namespace(pop), self._switch, a, b, pop, up)
            self._routing.switch(link, up=up)
            for pop in self._routing.stale():
                hands.call(self._within, self.namespace(pop), self._routing.install, pop)

    def shed(self) -> int:
        """Return how many frames delayed links lost because a queue was full.

        Raises:
            KernelError: if the process that carries them is gone.

        """
        return 0 if self._wire is None else self._wire.shed()

    def _build(self) -> None:
        plan = self._plan
        strands = build.strands(plan)
        lossy = any(join.loss > 0 for join in plan.joins)
        netem = bool(strands or lossy) and has_netem()
        wired = bool(strands) and not netem
        for name in (*plan.namespaces.values(), *(port.namespace for port in plan.ports)):
            namespaces.create(name)
        for pop in self._network.pops:
            self._groups[pop.name] = cgroups.create(
                self.run, pop.name, pop.total.cores, pop.total.memory_gb
            )
            self._within(self.namespace(pop.name), build.begin_pop, plan, pop.name, wired=wired)
        if wired:
            self._wire = Wire(self.run, strands)
        for port in plan.ports:
            self._within(port.namespace, build.make_home, port, netem=netem)
        for name, namespace in plan.namespaces.items():
            self._within(namespace, build.finish_pop, plan, name, netem=netem)
        for name, namespace in plan.namespaces.items():
            self._within(namespace, self._routing.install, name)
        self._note(wired=wired, dropped=lossy and not netem)

    def _note(self, *, wired: bool, dropped: bool) -> None:
        self.notes.clear()
        if wired:
            self.notes.append("delay on links by a process (TAP), as this kernel has no netem")
        if dropped:
            self.notes.append("loss on links by nftables, as this kernel has no netem")
        limits = next(iter(self._groups.values())).limits if self._groups else ()
        missing = [name for name in cgroups.CONTROLLERS if name not in limits]
        if missing:
            self.notes.append(f"no limits on {', '.join(missing)}: no control group to write to")

    def _switch(self, a: PopId, b: PopId, pop: PopId, up: bool) -> None:
        """Take an end of a link down or up; the kernel forgets neighbours with it."""
        join = next(j for j in self._plan.joins if {j.a, j.b} == {a, b})
        with Links() as links:
            device, _ = build.ends(join, pop)
            links.set(device, state="up" if up else "down")
        if up:
            batch = RouteBatch()
            build.meet(batch, self._plan, join, pop)
            batch.send()

    @staticmethod
    def _within(
        namespace: str, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call ``function`` with the calling thread moved into ``namespace``."""
        namespaces.enter(namespace)
        function(*args, **kwargs)
