"""The Linux driver: the same reservations as the simulated network, and real packets.

Counters of what users send into the network at a PoP, towards each host; no VNF is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from phalanx.clock.wall import WallClock
from phalanx.domain.actions import (
    Action,
    Deploy,
    Enforce,
    EntrySample,
    Failed,
    Lift,
    Observe,
    Outcome,
    ReadEntry,
    ReadLink,
    ReadMeasure,
    ReadRules,
    ReadService,
    Renew,
    Renewed,
)
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import ScenarioError
from phalanx.domain.events import Recorder
from phalanx.domain.network import Link, LinkId, Network, PopId, link_id
from phalanx.domain.vnf import InstanceId, Vnfd
from phalanx.infrastructure import Answer
from phalanx.infrastructure.linux.capture import LinkMeters, TrafficCapture
from phalanx.infrastructure.linux.enforcement import Enforcement, TrafficEncryption
from phalanx.infrastructure.linux.images import VnfImage
from phalanx.infrastructure.linux.journal import LeaseJournal, RemainingLease
from phalanx.infrastructure.linux.kernel.runs import note
from phalanx.infrastructure.linux.routers import Routers
from phalanx.infrastructure.linux.services import ServicePrograms, Services
from phalanx.infrastructure.linux.tasks import TaskError, Tasks
from phalanx.infrastructure.linux.topology import LinuxTopology
from phalanx.infrastructure.linux.tunnels import Detours, Tunnels
from phalanx.infrastructure.linux.vnf.bundles import lasting
from phalanx.infrastructure.linux.vnf.nft import ADDRESS_FAMILIES, family_of
from phalanx.infrastructure.linux.vnf_processes import VnfProcesses, token
from phalanx.infrastructure.linux.workers import DriverContext, NamespaceWorkers
from phalanx.infrastructure.reservations.allocations import Perceive
from phalanx.infrastructure.reservations.lifecycle import Lifecycle
from phalanx.infrastructure.reservations.network import NetworkDriver

WINDOW_S = 2.0
"""A rate is that over at most so long."""
LEAST_S = 0.04
"""A rate is not told from less than this, in seconds."""
NOTHING_S = 0.5
"""That nothing comes in is told after this long, in seconds."""
KEPT_S = 60
"""Counters that are not read for so long stop, in seconds."""
_BEFORE = -40
"""Priority: before any measure."""


class EntryCounters:
    """Carries out ``ReadEntry``; counts from the first reading at a PoP on.

    The counter of an address begins with a packet and ends ``WINDOW_S`` later; how much of that
    time is left says how long it has counted, so that no reading needs an earlier one.
    """

    def __init__(self, context: DriverContext, addresses: Iterable[str]) -> None:
        """Count nothing yet.

        Args:
            context: what every part of the driver works with.
            addresses: of the hosts.

        """
        self._tasks = context.tasks
        self._linux = context.linux
        self._workers = context.workers
        self._hosts = tuple(addresses)
        self._tables: dict[tuple[PopId, str], str] = {}

    def read(self, pop: PopId, action: ReadEntry, answer: Answer) -> None:
        """Answer with what came in at ``pop`` during the last seconds, before any measure."""
        at = self._linux.host_at(action.target)
        if at is None:
            answer(Failed(f"no host has the address {action.target}"))
            return
        if at != pop and self._linux.entry(pop) is None:
            answer(EntrySample(action.target, 0.0))  # nobody's packets enter here
            return
        self._tasks.start(
            self._rate(pop, action.target),
            lambda rate: answer(EntrySample(action.target, rate)),
            lambda reason: answer(Failed(reason)),
        )

    def close(self) -> None:
        """Remove the counters."""
        for (pop, _), table in self._tables.items():
            with contextlib.suppress(TaskError):  # the kernel has removed it with its device
                self._workers.nft(pop, f"delete table netdev {table}")
        self._tables.clear()

    async def _rate(self, pop: PopId, target: str) -> float:
        """Return the rate towards an address in MB/s."""
        device, hook = self._linux.entry(pop), "ingress"
        if device is None:
            device, hook = self._linux.host_device(target), "egress"
        table = f"phx_{token(f'entry {pop} {device}')}"
        script = _lease(table)
        if (pop, device) not in self._tables:
            if self._linux.namespace(pop) is None:
                note(self._linux.run, f"netdev {table}")
            script = _counters(table, device, hook, self._hosts) + script
        await self._tasks.thread(self._workers.nft, pop, script)
        self._tables[pop, device] = table
        until = asyncio.get_running_loop().time() + NOTHING_S
        while True:
            octets, age_s = await self._read(pop, table, target)
            if age_s >= LEAST_S or asyncio.get_running_loop().time() >= until:
                return octets / max(age_s, LEAST_S) / 1e6
            await asyncio.sleep(LEAST_S / 2)

    async def _read(self, pop: PopId, table: str, target: str) -> tuple[int, float]:
        """Return the octets counted and for how long, in seconds."""
        family = family_of(target)
        key, counted = socket.inet_pton(family.number, target), f"entering{family.own}"
        for element in await self._tasks.thread(self._workers.elements, pop, table, counted):
            if element.key == key:
                return element.octets, WINDOW_S - (element.expires_s or 0.0)
        return 0, 0.0


def _counters(table: str, device: str, hook: str, hosts: Sequence[str]) -> str:
    place = f"netdev {table}"
    counted = f"flags dynamic, timeout; timeout {WINDOW_S:g}s; size 65535; counter;"
    script = (
        f"add table {place}\n"
        f"add set {place} lease {{ type ether_type; flags timeout; }}\n"
        f'add chain {place} count {{ type filter hook {hook} device "{device}" '
        f"priority {_BEFORE}; }}\n"
        f"flush chain {place} count\n"
    )
    for family in ADDRESS_FAMILIES:
        own, target = family.own, f"{family.ip} daddr"
        if mine := ", ".join(filter(family.has, hosts)):
            script += (
                f"add set {place} hosts{own} {{ type {family.type}; elements = {{ {mine} }}; }}\n"
                f"add set {place} entering{own} {{ type {family.type}; {counted} }}\n"
                f"add rule {place} count meta protocol @lease {target} @hosts{own} "
                f"add @entering{own} {{ {target} }}\n"
            )
    return script


def _lease(table: str) -> str:
    element = f"element netdev {table} lease"
    return (
        f"add {element} {{ ip, ip6 }}\ndelete {element} {{ ip, ip6 }}\n"
        f"add {element} {{ {lasting(KEPT_S)} }}\n"
    )


class LinuxNetwork(NetworkDriver):
    """Implements ``Infrastructure`` for namespaces, devices and processes of this machine."""

    def __init__(
        self,
        network: Network,
        clock: WallClock,
        recorder: Recorder,
        *,
        linux: LinuxTopology,
        images: Mapping[tuple[str, str], VnfImage],
        journal: LeaseJournal,
        cause: str,
        keep_images: bool = False,
        programs: ServicePrograms | None = None,
        encryption: TrafficEncryption | None = None,
        revive: bool = False,
        routers: Routers | None = None,
    ) -> None:
        """Take over what ``linux`` has prepared.

        Args:
            network: PoPs, links and hosts as the agents know them.
            clock: when things happen; its loop does the input and output.
            recorder: where events go; its agent should be ``network``.
            linux: namespaces, devices, addresses.
            images: of the VNFs in the repository, by name and version.
            journal: where leases are kept.
            cause: the event that is the root cause of the run.
            keep_images: whether PoPs keep the images that they downloaded, for each other too.
            programs: of the services behind the hosts; None: nothing tells of them.
            encryption: carries traffic between PoPs encrypted; None: nothing does.
            revive: whether a VNF that dies is started again at once, and takes over its rules;
                else they are removed, and its agent perceives ``InstanceLost``.
            routers: are told of drops and limits; None: there are none.

        """
        super().__init__(network, clock, recorder, cause, keep_images=keep_images)
        self._linux = linux
        self._tasks = Tasks(clock)
        self._workers = NamespaceWorkers(linux)
        self._context = context = DriverContext(
            clock, self._tasks, recorder, linux, self._workers, self._topology, cause
        )
        self._processes = VnfProcesses(
            context, network.repository, images, self._images, self._crashed, revive=revive
        )
        self._tunnels = Tunnels(linux, self._workers, self._tasks)
        detours = Detours(self._workers, self._tasks)
        self._services = None if programs is None else Services(context, programs)
        self._routers = routers or Routers("", (), ())
        self._routers.open(clock, recorder, cause, self._tasks)
        self._ledger = self._measures = Enforcement(
            *(context, self._processes, self._tunnels, detours, journal, self._services),
            encryption,
            self._routers,
        )
        self._capture = TrafficCapture(context, self._processes, self._tunnels, detours)
        self._meters = LinkMeters(context, self._processes, _bandwidth(network))
        self._entries = EntryCounters(context, (host.address for host in network.hosts))
        self._lifecycle = Lifecycle(
            clock,
            recorder,
            reservations=self._reservations,
            downloads=self._processes,
            measures=self._measures,
            observer=self._capture,
            percepts=self._percepts,
            images=self._images,
        )

    def attach(self, agent: AgentId, pop: PopId, perceive: Perceive) -> None:
        """Tell ``agent`` of changes at ``pop`` from now on; VNFs start quickly there."""
        super().attach(agent, pop, perceive)
        self._processes.prepare(pop)

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Carry out ``action`` at ``pop``, as ``phalanx.domain.actions`` says.

        What the reservations alone decide is answered before this returns, the rest later.
        """
        if pop not in self._topology.pops:
            answer(Failed(f"no PoP {pop}"))
            return
        match action:
            case Deploy():
                self._measures.lease(action.instance, action.ttl_s)
                self._lifecycle.deploy(pop, action, cause, answer)
            case Enforce() | Observe():
                self._work(pop, action, cause, answer)
            case ReadMeasure():
                self._measures.read(action.measure, pop, answer)
            case ReadLink():
                self._meters.read(pop, action, answer)
            case ReadEntry():
                self._entries.read(pop, action, answer)
            case ReadService() if self._services is not None:
                self._services.read(action, answer)
            case ReadRules():
                answer(self._deeds(action.pop, self._measures.rules(action.pop)))
            case Lift():
                answer(self._measures.lift(action.measure, pop, cause))
            case Renew():
                answer(self._renew(pop, action))
            case _:
                refusal = Failed(f"cannot carry out {type(action).__name__}")
                answer(self._reserved(pop, action, cause) or refusal)

    def install(
        self, pop: PopId, instance: InstanceId, vnfd: Vnfd, *, units: int, ttl_s: float, cause: str
    ) -> None:
        """Put an instance in place that runs from the start, without a download.

        Its process is started before this returns, or meanwhile if the clock runs: then one
        that does not start has crashed.

        Raises:
            ValueError: if there is no such VNF.
            ScenarioError: if the PoP has no room for it.
            TaskError: if its process does not start.

        """
        image = self._processes.images.get((vnfd.name, vnfd.version))
        if image is None:
            raise ValueError(f"the VNF repository has no {vnfd.name} {vnfd.version}")
        refusal = self._lifecycle.install(
            pop, instance, vnfd, units=units, ttl_s=ttl_s, cause=cause
        )
        if refusal is not None:
            raise ScenarioError(f"monitors: {vnfd.name} cannot be installed at {pop}: {refusal}")
        self._measures.lease(instance, ttl_s)
        start = self._processes.start(instance, pop, vnfd.name, image.path)
        if self._context.clock.loop.is_running():
            self._tasks.start(start, lambda _: None, partial(self._crashed, instance))
        else:
            self._tasks.wait(start)

    def recover(
        self, remaining: Iterable[RemainingLease], vnfds: Mapping[str, Vnfd], least_s: float = 0.0
    ) -> None:
        """Take over the instances and rules that an earlier driver has left, with their leases.

        The rules themselves are in the kernel, unless the machine was restarted; their VNFs
        find them by their tables' names and put back what is missing. An agent that remembers
        its instances renews them; else their leases run out. Those of functions that are not
        among ``vnfds``, or for which there is no room any more, run out in the kernel.

        Args:
            remaining: what the journal says.
            vnfds: the functions, by name.
            least_s: lease that each has from now on at least, in seconds: where the agent that
                remembers them is back, and only has yet to begin.

        Raises:
            TaskError: if a VNF does not start.

        """
        self._tasks.wait(self._take_over(list(remaining), vnfds, least_s))
        self._routers.start()

    def repository_away(self, away: bool) -> None:
        """Refuse new downloads from the VNF repository, or allow them again."""
        fault = "repository-away" if away else "repository-back"
        self._recorder.record("fault.injected", self._cause, fault=fault)
        self._processes.store.away = away

    def shutdown(self) -> None:
        """End all processes and rules; what is under way is never answered."""
        self._lifecycle.shutdown()
        self._measures.stop_counting()
        self._routers.close()
        self._tasks.wait(self._processes.end_all())
        self._tasks.stop()
        self._entries.close()
        self._workers.close()

    def suspend(self) -> None:
        """End as a kill does, in order: VNFs and rules stay for the next driver to take over."""
        self._measures.stop_counting()
        self._tasks.stop()
        self._workers.close()

    def _work(self, pop: PopId, action: Enforce | Observe, cause: str, answer: Answer) -> None:
        instance = self._lifecycle.running(action.instance, pop)
        if isinstance(instance, str):
            answer(Failed(instance))
        elif isinstance(action, Enforce):
            self._measures.enforce(action, instance, cause, answer)
        else:
            self._capture.begin(action, instance, answer)

    def _renew(self, pop: PopId, action: Renew) -> Outcome:
        outcome = self._lifecycle.renew(pop, action)
        if isinstance(outcome, Renewed):
            for name in action.instances:
                instance = self._lifecycle.running(name, pop)
                if not isinstance(instance, str):
                    self._measures.renew(instance, action.ttl_s)
        return outcome

    async def _take_over(
        self, remaining: list[RemainingLease], vnfds: Mapping[str, Vnfd], least_s: float
    ) -> None:
        for kept in sorted(remaining, key=lambda kept: -kept.seconds):  # an instance's longest
            entry, vnfd = kept.entry, vnfds.get(kept.entry.role)
            ttl_s = max(kept.seconds, least_s)
            if not self._lifecycle.has(entry.instance):
                if vnfd is None or entry.pop not in self._topology.pops:
                    continue
                place, units, cause = (entry.pop, entry.instance, vnfd), entry.units, self._cause
                if self._lifecycle.install(*place, units=units, ttl_s=ttl_s, cause=cause):
                    continue
                self._measures.lease(entry.instance, ttl_s)
                await self._processes.start_again(entry.instance, entry.pop, entry.role)
            instance = self._lifecycle.running(entry.instance, entry.pop)
            if isinstance(instance, str):
                continue
            about = {"measure": entry.measure, "pop": entry.pop, "seconds": round(ttl_s, 3)}
            event = self._recorder.record("lease.recovered", self._cause, **about)
            await self._measures.put_again(entry, instance, ttl_s, event)

    def _crashed(self, instance: str, reason: str) -> None:
        if self._lifecycle.has(instance):
            event = self._recorder.record("vnf.crashed", self._cause, instance=instance, how=reason)
            self._lifecycle.kill(instance, event)

    def _switched(self, link: Link, event: str, *, up: bool) -> None:
        self._linux.set_link(link.a, link.b, up=up)
        self._tasks.forget(
            self._tunnels.reroute(self._topology),
            self._context.failure(link.a, "reroute tunnels", event),
        )


def _bandwidth(network: Network) -> dict[LinkId, float]:
    figures = {link_id(host.at, host.name): host.bandwidth_mb_s for host in network.hosts}
    for link in network.links:
        figures[link_id(link.a, link.b)] = link.bandwidth_mb_s
        figures[link_id(link.b, link.a)] = link.bandwidth_mb_s
    return figures
