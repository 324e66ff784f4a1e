"""The Linux driver: the same books as the simulated network, and real packets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from phalanx.domain.actions import (
    Action,
    Deploy,
    Enforce,
    Failed,
    Hold,
    Lift,
    Observe,
    Outcome,
    ReadLink,
    ReadMeasure,
    Rechain,
    Release,
    Renew,
    Renewed,
    Scale,
    SiteState,
    Stop,
    Transfer,
)
from phalanx.domain.events import Recorder
from phalanx.domain.network import LinkId, Network, PopId, link_id
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import InstanceId, Vnfd
from phalanx.infrastructure import Answer
from phalanx.infrastructure.books.accounts import ComputeBook, LinkBook
from phalanx.infrastructure.books.lifecycle import Lifecycle
from phalanx.infrastructure.books.ownership import Ownership
from phalanx.infrastructure.books.percepts import Perceive, Percepts
from phalanx.infrastructure.books.topology import Topology
from phalanx.infrastructure.linux.chains import Chains
from phalanx.infrastructure.linux.enforcement import Enforcement
from phalanx.infrastructure.linux.ground import Ground
from phalanx.infrastructure.linux.images import Image
from phalanx.infrastructure.linux.jobs import Jobs, LoopClock
from phalanx.infrastructure.linux.journal import Journal, Remaining
from phalanx.infrastructure.linux.monitors import LinkMeters
from phalanx.infrastructure.linux.observing import Observing
from phalanx.infrastructure.linux.places import Places
from phalanx.infrastructure.linux.programs import Programs
from phalanx.infrastructure.linux.steering import Steering


class LinuxNetwork:
    """Implements ``Infrastructure`` for namespaces, devices and processes of this machine."""

    def __init__(
        self,
        network: Network,
        clock: LoopClock,
        recorder: Recorder,
        *,
        ground: Ground,
        images: Mapping[tuple[str, str], Image],
        journal: Journal,
        cause: str,
    ) -> None:
        """Take over what ``ground`` has prepared.

        Args:
            network: PoPs, links and hosts as the agents know them.
            clock: when things happen; its loop does the input and output.
            recorder: where events go; its agent should be ``network``.
            ground: namespaces, devices, addresses.
            images: of the VNFs in the repository, by name and version.
            journal: where leases are kept.
            cause: the event that is the root cause of the run.

        """
        self._cause = cause
        self._clock = clock
        self._recorder = recorder
        self._ground = ground
        self._jobs = Jobs(clock)
        self._topology = Topology(network)
        self._places = Places(ground)
        self._chains = Chains(ground, self._places, self._jobs)
        self._compute = ComputeBook({pop.name: pop.total for pop in network.pops})
        self._links = LinkBook(self._topology)
        self._percepts = Percepts(clock, self._topology, self._compute, self._links)
        self._programs = Programs(
            clock,
            self._jobs,
            recorder,
            ground=ground,
            places=self._places,
            topology=self._topology,
            repository=network.repository,
            images=images,
            crashed=self._crashed,
            cause=cause,
        )
        steering = Steering(self._chains, self._jobs)
        self._measures = Enforcement(
            clock,
            self._jobs,
            recorder,
            ground=ground,
            topology=self._topology,
            programs=self._programs,
            chains=self._chains,
            steering=steering,
            journal=journal,
            cause=cause,
        )
        self._observer = Observing(
            clock,
            self._jobs,
            ground=ground,
            places=self._places,
            topology=self._topology,
            programs=self._programs,
            chains=self._chains,
            steering=steering,
        )
        self._meters = LinkMeters(clock, self._jobs, ground, self._programs, _bandwidth(network))
        self._lifecycle = Lifecycle(
            clock,
            recorder,
            ownership=Ownership(
                self._topology, self._compute, self._links, self._percepts, recorder
            ),
            downloads=self._programs,
            measures=self._measures,
            observer=self._observer,
            percepts=self._percepts,
        )

    def attach(self, pop: PopId, perceive: Perceive) -> None:
        """Tell the agent of ``pop`` of changes from now on; soon of its ``SiteState``."""
        self._percepts.attach(pop, perceive)

    def detach(self, pop: PopId) -> None:
        """Stop telling; leases go on until they run out."""
        self._percepts.detach(pop)

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Carry out ``action`` at ``pop``, as ``phalanx.domain.actions`` says.

        What only the books decide is answered before this returns, the rest later.
        """
        if pop not in self._topology.pops:
            answer(Failed(f"no PoP {pop}"))
            return
        match action:
            case Deploy():
                self._measures.lease(action.instance, action.ttl_s)
                self._lifecycle.deploy(pop, action, cause, answer)
            case Enforce():
                instance = self._lifecycle.running(action.instance, pop)
                if isinstance(instance, str):
                    answer(Failed(instance))
                else:
                    self._measures.enforce(action, instance, cause, answer)
            case Observe():
                instance = self._lifecycle.running(action.instance, pop)
                if isinstance(instance, str):
                    answer(Failed(instance))
                else:
                    self._observer.begin(action, instance, answer)
            case ReadMeasure():
                self._measures.read(action.measure, pop, answer)
            case ReadLink():
                self._meters.read(pop, action, answer)
            case _:
                answer(self._outcome(pop, action, cause))

    def install(
        self, pop: PopId, instance: InstanceId, vnfd: Vnfd, *, units: int, ttl_s: float, cause: str
    ) -> None:
        """Put an instance in place that runs from the start, without a download.

        Raises:
            ValueError: if the PoP has no room for it.
            JobError: if its process does not start.

        """
        image = self._programs.images[vnfd.name, vnfd.version]
        self._measures.lease(instance, ttl_s)
        self._jobs.wait(self._programs.start(instance, pop, vnfd.name, image.path))
        refusal = self._lifecycle.install(
            pop, instance, vnfd, units=units, ttl_s=ttl_s, cause=cause
        )
        if refusal is not None:
            raise ValueError(f"{vnfd.name} cannot be installed at {pop}: {refusal}")

    def recover(self, remaining: Iterable[Remaining]) -> None:
        """Keep the rules that an earlier driver has left, until their leases run out.

        The rules themselves are in the kernel, unless the machine was restarted; their VNFs
        find them by their tables' names and put back what is missing.

        Raises:
            JobError: if a VNF does not start.

        """
        self._jobs.wait(self._keep(list(remaining)))

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

    def repository_away(self, away: bool) -> None:
        """Refuse new downloads from the VNF repository, or allow them again."""
        fault = "repository-away" if away else "repository-back"
        self._recorder.record("fault.injected", self._cause, fault=fault)
        self._programs.away = away

    def kill_instance(self, instance: str) -> None:
        """Let an instance crash: its process gets SIGKILL.

        Raises:
            ValueError: if there is none of that id.

        """
        if not self._programs.kill(instance):
            raise ValueError(f"no instance {instance}")
        self._recorder.record(
            "fault.injected", self._cause, fault="instance-killed", instance=instance
        )

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
        return [*self._lifecycle.names(), *self._measures.names()]

    def check(self) -> None:
        """Check the books.

        Raises:
            InvariantError: if a PoP or a link is over-committed.

        """
        self._compute.check()
        self._links.check()

    def shutdown(self) -> None:
        """End all processes and rules; what is under way is never answered."""
        self._lifecycle.shutdown()
        self._jobs.wait(self._programs.end_all())
        self._jobs.stop()
        self._chains.close()
        self._places.close()

    def _outcome(self, pop: PopId, action: Action, cause: str) -> Outcome:
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
            case Lift():
                return self._measures.lift(action.measure, pop, cause)
            case Renew():
                return self._renew(pop, action)
            case _:
                return Failed(f"cannot carry out {type(action).__name__}")

    def _renew(self, pop: PopId, action: Renew) -> Outcome:
        outcome = self._lifecycle.renew(pop, action)
        if isinstance(outcome, Renewed):
            for name in action.instances:
                instance = self._lifecycle.running(name, pop)
                if not isinstance(instance, str):
                    self._measures.renew(instance, action.ttl_s)
        return outcome

    async def _keep(self, remaining: list[Remaining]) -> None:
        until: dict[str, float] = {}
        for kept in remaining:
            entry = kept.entry
            if entry.instance not in until:
                await self._programs.start_again(entry.instance, entry.pop, entry.role)
            await self._measures.put_again(entry, kept.seconds)
            until[entry.instance] = max(until.get(entry.instance, 0.0), kept.seconds)
            self._recorder.record(
                "lease.recovered",
                self._cause,
                measure=entry.measure,
                pop=entry.pop,
                seconds=round(kept.seconds, 3),
            )
        for instance, seconds in until.items():
            self._clock.call_at(self._clock.now() + seconds, partial(self._programs.end, instance))

    def _crashed(self, instance: str, reason: str) -> None:
        if self._lifecycle.has(instance):
            event = self._recorder.record("vnf.crashed", self._cause, instance=instance, how=reason)
            self._lifecycle.kill(instance, event)

    def _switch(self, a: PopId, b: PopId, *, up: bool) -> None:
        link = self._topology.link(a, b)
        if link is None:
            raise ValueError(f"no link joins {a} and {b}")
        fault = "link-up" if up else "link-down"
        event = self._recorder.record("fault.injected", self._cause, fault=fault, link=[a, b])
        if self._topology.is_up(link) == up:
            return
        self._topology.switch(link, up=up)
        self._ground.set_link(a, b, up=up)
        for ends in ((link.a, link.b), (link.b, link.a)):
            self._recorder.record("link.changed", event, link=link_id(*ends), up=up)
        self._percepts.changed((link.a, link.b))


def _bandwidth(network: Network) -> dict[LinkId, float]:
    figures = {link_id(host.at, host.name): host.bandwidth_mb_s for host in network.hosts}
    for link in network.links:
        figures[link_id(link.a, link.b)] = link.bandwidth_mb_s
        figures[link_id(link.b, link.a)] = link.bandwidth_mb_s
    return figures
