"""A plan's network of real packets on this machine: testbed, repository, traffic, driver."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.domain.network import Network
from phalanx.domain.traffic import Source
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.journal import Journal
from phalanx.infrastructure.linux.kernel import runs
from phalanx.infrastructure.linux.kernel.errors import KernelError
from phalanx.infrastructure.linux.kernel.namespaces import prefix
from phalanx.infrastructure.linux.repository import PORT, build_images
from phalanx.testrange import Testbed
from phalanx.testrange.workload import Workload

JOURNAL = "leases.db"
"""File among those of a run: what the driver holds under leases."""

Say = Callable[[str], None]


class RealPackets:
    """What one run has in the kernel and in processes; needs root.

    Build ``testbed``, then ``driver``; whatever was built is taken apart by the exit stack.
    """

    def __init__(
        self,
        run: str,
        network: Network,
        sources: Sequence[Source],
        sample_s: float,
        stack: ExitStack,
        say: Say,
    ) -> None:
        """Make nothing yet.

        Args:
            run: its name, from ``runs.new_run``.
            network: the PoPs, links and hosts.
            sources: the traffic.
            sample_s: pause between two samples of what arrives, in seconds.
            stack: takes apart what is built, the last first.
            say: told in one line what is being made.

        """
        self.run = run
        self.home = runs.folder(run)
        self._network = network
        self._sources = sources
        self._sample_s = sample_s
        self._stack = stack
        self._say = say
        self._testbed: Testbed
        self._workload: Workload
        stack.callback(runs.remove, self.home)

    def testbed(self) -> Testbed:
        """Make the namespaces, links and hosts.

        Raises:
            KernelError: if the machine does not allow it.

        """
        pops, sources = len(self._network.pops), len(self._sources)
        self._say(f"testbed {self.run}: {pops} PoPs, {sources} sources")
        self._testbed = Testbed(self.run, self._network, self._sources)
        self._stack.callback(self._testbed.destroy)
        self._testbed.build()
        return self._testbed

    def driver(
        self,
        vnfds: Mapping[str, Vnfd],
        clock: WallClock,
        recorder: Callable[[str], Recorder],
        cause: str,
    ) -> LinuxNetwork:
        """Make the repository, the servers, users and attackers, and the driver.

        Sources whose time is over by the clock are left out.

        Args:
            vnfds: descriptors of what can be deployed, by name.
            clock: of the run.
            recorder: makes a recorder of the network's events; its argument sets ids apart.
            cause: root of all causes.

        Raises:
            KernelError: if the machine does not allow it.

        """
        images = build_images(vnfds, self.home / "repository")
        self._serve(self._network.repository)
        self._workload = Workload(
            self._testbed,
            self._network,
            [s for s in self._sources if s.end_s is None or s.end_s > clock.now()],
            clock=clock,
            recorder=recorder("workload"),
            cause=cause,
            folder=self.home,
            sample_s=self._sample_s,
        )
        self._stack.callback(self._workload.stop)
        self._workload.prepare()
        now = clock.now()
        self._say("server and users are ready" + (f" at second {now:.1f}" if now > 0 else ""))
        journal = self._stack.enter_context(closing(Journal(self.home / JOURNAL)))
        driver = LinuxNetwork(
            self._network,
            clock,
            recorder(""),
            ground=self._testbed,
            images=images,
            journal=journal,
            cause=cause,
        )
        self._stack.callback(driver.shutdown)
        return driver

    def start(self) -> None:
        """Let the traffic begin, by the clock."""
        self._workload.start()

    def _serve(self, repository: str) -> None:
        """Start the VNF repository: a web server in the namespace of its PoP."""
        server = subprocess.Popen(  # noqa: S603  # our own interpreter
            [
                *prefix(self._testbed.namespace(repository)),
                *(sys.executable, "-m", "phalanx.infrastructure.linux.shelf"),
                *(self._testbed.underlay(repository), str(PORT), str(self.home / "repository")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, runs.VARIABLE: self.run},
        )
        self._stack.callback(_end, server)
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise KernelError(f"the VNF repository at {repository} does not start")


def measures_left(home: Path) -> int:
    """Return how many measures were under leases in a run of which only the files are left."""
    if not (home / JOURNAL).exists():
        return 0
    with closing(Journal(home / JOURNAL)) as journal:
        return len(journal.remaining())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    if process.stdout is not None:
        process.stdout.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(2)
        return
    process.kill()
    process.wait()
