"""The world of real packets: a testbed on this machine, an encrypted overlay, the wall clock."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

from phalanx.bus.sockets import SocketBus
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.journal import Journal
from phalanx.infrastructure.linux.kernel.errors import KernelError
from phalanx.infrastructure.linux.kernel.namespaces import entered, prefix
from phalanx.infrastructure.linux.kernel.runs import ROOT, folder, new_run, remove
from phalanx.infrastructure.linux.overlay import LocalKeys, Overlay, Place
from phalanx.infrastructure.linux.repository import PORT, build_images
from phalanx.infrastructure.linux.testbed import Testbed
from phalanx.infrastructure.linux.testbed.workload import Workload
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.world import Frame

BUS_PORT = 7400
VNI = 7

Say = Callable[[str], None]


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
        scenario, network, stack = frame.scenario, frame.network, self._stack
        stack.callback(self.clock.close)
        self.run = new_run()
        home = folder(self.run)
        stack.callback(remove, home)
        sources = scenario.to_sources(frame.seed)
        self._say(f"testbed {self.run}: {len(network.pops)} PoPs, {len(sources)} sources")
        testbed = Testbed(self.run, network, sources)
        stack.callback(testbed.destroy)
        testbed.build()

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
        self.overlay = overlay = Overlay(home, VNI, places, LocalKeys(pops))
        stack.callback(overlay.down)
        overlay.up()
        self._say(f"overlay: VXLAN, {overlay.engine}")

        images = build_images(frame.vnfds, home / "repository")
        self._serve(testbed, network.repository)
        workload = Workload(
            testbed,
            network,
            sources,
            clock=self.clock,
            recorder=Recorder("network", frame.log, self.clock.now, prefix="workload"),
            cause=frame.cause,
            folder=home,
            sample_s=scenario.timing.sample_s,
        )
        stack.callback(workload.stop)
        workload.prepare()
        self._say("server and users are ready")
        journal = Journal(home / "leases.db")
        stack.callback(journal.close)
        driver = LinuxNetwork(
            network,
            self.clock,
            Recorder("network", frame.log, self.clock.now),
            ground=testbed,
            images=images,
            journal=journal,
            cause=frame.cause,
        )
        stack.callback(driver.shutdown)

        bus = SocketBus(
            self.clock,
            {pop: (overlay.address(pop), BUS_PORT) for pop in pops},
            peers=tuple(pops),
            enter=lambda agent: entered(testbed.namespace(agent)),
            on_shed=frame.shed,
        )
        stack.callback(bus.close)
        workload.start()
        return driver, bus

    def _serve(self, testbed: Testbed, repository: str) -> None:
        """Start the VNF repository: a web server in the namespace of its PoP."""
        server = subprocess.Popen(  # noqa: S603  # our own interpreter
            [
                *prefix(testbed.namespace(repository)),
                *(sys.executable, "-m", "phalanx.infrastructure.linux.shelf"),
                *(testbed.underlay(repository), str(PORT)),
                str(folder(self.run) / "repository"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PHALANX_RUN": self.run},
        )
        self._stack.callback(_end, server)
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise KernelError(f"the VNF repository at {repository} does not start")


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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    if process.stdout is not None:
        process.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
        return
    process.kill()
    process.wait()
