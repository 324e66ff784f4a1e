"""The traffic of a scenario, made by real programs, and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from phalanx.clock import Timer
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.domain.network import Host, LinkId, Network, PopId, link_id
from phalanx.domain.traffic import Source
from phalanx.infrastructure.linux.kernel import KernelError, cgroups
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.testrange.workload.attackers import Attack, programs
from phalanx.testrange.workload.counters import Arrivals, Devices
from phalanx.testrange.workload.processes import Process, end
from phalanx.testrange.workload.sampler import Link, Sampler
from phalanx.testrange.workload.schedule import Schedule
from phalanx.testrange.workload.server import Server
from phalanx.testrange.workload.users import Users

ATTACK_CORES = 1.2
"""Attackers are machines of their own: all together may take this much of the one that plays
them, so that what it costs to attack (slowhttptest spins) is not taken from who defends."""


class Site(Protocol):
    """What the workload needs of a testbed."""

    @property
    def run(self) -> str:
        """The mark of the run."""

    def namespace(self, pop: PopId) -> str:
        """Return the namespace of a PoP."""

    def device(self, link: LinkId) -> str:
        """Return the device in the namespace of a link's first PoP whose egress is the link."""

    def home(self, source_or_host_name: str) -> str:
        """Return the namespace in which a host or a source lives."""


class Workload:
    """Servers, users and attackers on a testbed.

    Records ``traffic.changed`` and ``network.sample`` as the simulated network does; agents
    see neither. Errors during the run end it: they are raised by the clock.

    Args:
        testbed: where; it is built.
        network: hosts and links.
        sources: users and attackers.
        clock: when; it runs in real time.
        recorder: where events go.
        cause: id of the event that began the run.
        folder: of the run; a folder ``workload`` is made in it.
        sample_s: pause between two samples, in seconds.

    """

    def __init__(
        self,
        testbed: Site,
        network: Network,
        sources: Sequence[Source],
        *,
        clock: WallClock,
        recorder: Recorder,
        cause: str,
        folder: Path,
        sample_s: float,
    ) -> None:
        self._testbed = testbed
        self._network = network
        self._clock = clock
        self._recorder = recorder
        self._cause = cause
        self._tasks = Tasks(clock)
        self._folder = folder / "workload"
        self._sample_s = sample_s
        self._sources = [s for s in sources if s.end_s is None or s.end_s > s.start_s]
        self._hosts = {host.address: host for host in network.hosts}
        self._processes: list[Process] = []
        self._users: list[Users] = []
        self._devices: dict[str, Devices] = {}
        self._senders: dict[str, Devices] = {}
        self._arrivals: dict[str, Arrivals] = {}
        self._timer: Timer | None = None
        self._schedule: Schedule | None = None
        self._sampler: Sampler | None = None

    def prepare(self) -> None:
        """Start the servers, the users (who wait) and the counters; blocking.

        Raises:
            KernelError: if a tool is missing or a server does not answer.

        """
        self._folder.mkdir(parents=True)
        attackers = [source for source in self._sources if source.profile.malicious]
        group = cgroups.create(self._testbed.run, "attackers", ATTACK_CORES, 0)
        tools = programs(attackers, self._folder)
        targets = {source.target for source in self._sources}
        servers = [self._serve(self._hosts[address]) for address in sorted(targets)]
        homes: dict[str, list[tuple[int, Source]]] = {}
        for number, source in enumerate(self._sources):
            if not source.profile.malicious:
                homes.setdefault(self._testbed.home(source.name), []).append((number, source))
        for namespace, inhabitants in homes.items():
            users = Users(self._testbed.run, namespace, inhabitants, self._folder)
            self._users.append(users)
            self._processes.append(users.process)
        for pop in self._network.pops:
            self._devices[pop.name] = Devices(self._testbed.namespace(pop.name))
        for source in attackers:
            self._senders[source.name] = Devices(self._testbed.home(source.name))
        self._schedule = Schedule(
            self._clock,
            self._tasks,
            self._recorder,
            self._cause,
            sources=self._sources,
            launch=lambda source: Attack(
                source,
                tools,
                run=self._testbed.run,
                namespace=self._testbed.home(source.name),
                group=group,
                sent=self._senders[source.name],
                folder=self._folder,
            ),
            failed=self._fail,
        )
        for server in servers:
            server.wait()

    def start(self) -> None:
        """Let the traffic of the scenario begin with the clock; ``prepare`` comes first."""
        assert self._schedule is not None
        self._schedule.start()
        self._timer = self._clock.call_at(0.0, self._begin)

    def stop(self) -> None:
        """End all processes and counters; blocking, once the clock has stopped. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._schedule is not None:
            self._processes += self._schedule.stop()
            self._schedule = None
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        self._tasks.stop()
        for users in self._users:
            users.stop()
        end(self._processes)
        self._processes.clear()
        self._users.clear()
        for counters in (self._devices, self._senders, self._arrivals):
            for counter in counters.values():
                counter.close()
            counters.clear()

    def _serve(self, host: Host) -> Server:
        here = [source for source in self._sources if source.target == host.address]
        namespace = self._testbed.home(host.name)
        self._arrivals[host.name] = Arrivals(
            namespace, [source.address for source in here if not source.profile.malicious]
        )
        ports = {source.port for source in here if source.profile.protocol == "tcp"}
        folder = self._folder / host.name
        server = Server(self._testbed.run, namespace, host.address, ports, folder)
        self._processes.append(server.process)
        return server

    def _begin(self) -> None:
        assert self._schedule is not None
        zero = time.monotonic() - self._clock.now()
        for users in self._users:
            users.begin(zero, self._clock.loop, self._fail_soon)
        self._sampler = Sampler(
            self._clock,
            self._tasks,
            self._recorder,
            self._cause,
            period_s=self._sample_s,
            hosts={host.name: host.address for host in self._network.hosts},
            devices=self._devices,
            links=self._links(),
            arrivals=self._arrivals,
            users=self._users,
            wanted=self._schedule.wanted_mb_s,
            failed=self._fail,
        )

    def _links(self) -> list[Link]:
        links = []
        for link in self._network.links:
            for name in (link_id(link.a, link.b), link_id(link.b, link.a)):
                device = self._testbed.device(name)
                links.append(Link(name, device, link.bandwidth_mb_s, access=False))
        for host in self._network.hosts:
            name = link_id(host.at, host.name)
            device = self._testbed.device(name)
            links.append(Link(name, device, host.bandwidth_mb_s, access=True))
        return links

    def _fail(self, reason: str) -> None:
        raise KernelError(reason)

    def _fail_soon(self, reason: str) -> None:
        """Fail where the clock notices: in a call of its own."""
        self._clock.call_soon(partial(self._fail, reason))
