"""The world of real packets: a testbed on this machine, an encrypted overlay, the wall clock."""

from __future__ import annotations

from contextlib import ExitStack

from phalanx.bus.sockets import SocketBus
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.kernel.namespaces import entered
from phalanx.infrastructure.linux.kernel.runs import ROOT, new_run
from phalanx.infrastructure.linux.overlay import LocalKeys, Overlay, Place
from phalanx.runtime.real_packets import RealPackets, Say
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.world import Frame

BUS_PORT = 7400
VNI = 7


class LinuxWorld:
    """Namespaces for PoPs and hosts, real servers, users and attackers; needs root."""

    def __init__(self, say: Say = lambda _: None) -> None:
        """Make nothing yet.

        Args:
            say: told in one line what is being made.

        """
        self.clock = WallClock()
        self.run = ""
        self.overlay: Overlay | None = None
        self._say = say
        self._stack = ExitStack()

    def build(self, frame: Frame) -> tuple[LinuxNetwork, SocketBus]:
        """Make the testbed and all that belongs to it; takes some seconds.

        Raises:
            KernelError: if the machine does not allow it.

        """
        try:
            return self._build(frame)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop everything and leave nothing behind; without effect the second time."""
        self._stack.close()

    def _build(self, frame: Frame) -> tuple[LinuxNetwork, SocketBus]:
        network, stack = frame.network, self._stack
        stack.callback(self.clock.close)
        self.run = new_run()
        sources = frame.scenario.to_sources(frame.seed)
        sample_s = frame.scenario.timing.sample_s
        real = RealPackets(self.run, network, sources, sample_s, stack, self._say)
        testbed = real.testbed()

        pops = sorted(pop.name for pop in network.pops)
        places = [
            Place(
                pop,
                testbed.namespace(pop),
                testbed.underlay(pop),
                f"10.255.{i // 250}.{i % 250 + 1}",
            )
            for i, pop in enumerate(pops)
        ]
        self.overlay = overlay = Overlay(real.home, VNI, places, LocalKeys(pops))
        stack.callback(overlay.down)
        overlay.up()
        self._say(f"overlay: VXLAN, {overlay.engine}")

        def recorder(about: str) -> Recorder:
            return Recorder("network", frame.log, self.clock.now, prefix=about)

        driver = real.driver(frame.vnfds, self.clock, recorder, frame.cause)
        bus = SocketBus(
            self.clock,
            {pop: (overlay.address(pop), BUS_PORT) for pop in pops},
            peers=tuple(pops),
            enter=lambda agent: entered(testbed.namespace(agent)),
            on_shed=frame.shed,
        )
        stack.callback(bus.close)
        real.start()
        return driver, bus


def plan(scenario: Scenario) -> list[str]:
    """Return in words what a run of ``scenario`` would make on this machine."""
    network, sources = scenario.to_network(), scenario.to_sources()
    attackers = [source for source in sources if source.profile.malicious]
    groups = {(source.group, source.at) for source in sources if not source.profile.malicious}
    spaces = len(network.pops) + len(network.hosts) + len(groups) + len(attackers)
    tools = {source.profile.name for source in attackers}
    return [
        f"{spaces} network namespaces phx-<run>-…: {len(network.pops)} PoPs, "
        f"{len(network.hosts)} hosts, {len(groups)} groups of users, {len(attackers)} attackers",
        f"{len(network.links)} links between PoPs, shaped and delayed, all inside the namespaces",
        f"control groups phalanx/<run>/<pop>: {', '.join(pop.name for pop in network.pops)}",
        f"an encrypted overlay among the PoPs (VXLAN {VNI} over ESP): a charon in each",
        f"a VNF repository at {network.repository} with {len(scenario.functions)} images; "
        "VNFs as processes where auctions place them",
        f"a web server for each attacked or used host, {len(sources) - len(attackers)} users, "
        f"{len(attackers)} attackers ({', '.join(sorted(tools)) or 'none'}) for "
        f"{scenario.duration_s:g} s of real time",
        f"files below {ROOT}/<run>; all of it is removed at the end, and by phalanx clean",
        "nothing in this machine's own network: no interface, address, route, table or setting",
    ]
