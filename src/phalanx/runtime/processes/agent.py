"""An agent as a process: it joins, discovers, works, remembers, and leaves in order."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.outlook import Connected
from phalanx.bdi.agent import Agent
from phalanx.bdi.memory import Memory, MemoryUnusable, decode, encode, remember
from phalanx.bus import Bus
from phalanx.bus.agents import AgentBus
from phalanx.bus.seal import Seal
from phalanx.clock import Timer
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import ScenarioError, StoreError
from phalanx.domain.events import Recorder, Sink
from phalanx.domain.network import link_id
from phalanx.domain.rules import TrafficVerdict
from phalanx.domain.trust import Submit
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.audit_trail import audited
from phalanx.fabric.directory import RegistryChange, RegistryEntry
from phalanx.fabric.network import NetworkCalls
from phalanx.fabric.operations import RELOAD, Accepted, AgentCounters, ReloadRequest
from phalanx.fabric.provider import Call
from phalanx.fabric.registration import END_TO_END, HealthStatus, ServiceState
from phalanx.identity.names import Role
from phalanx.infrastructure import Infrastructure
from phalanx.infrastructure.remote import RemoteInfrastructure
from phalanx.ledger.entries import AuditAnchored
from phalanx.runtime.catalogue import Catalogue, load_catalogue
from phalanx.runtime.composition import (
    ComposedAgent,
    first_view,
    install_monitors,
    installed_monitors,
    planned_sites,
    settings_of,
)
from phalanx.runtime.environment import BuildContext, Say, acting_on, check_linux, faulty
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.process import Process, bundle_of
from phalanx.runtime.processes.spec import AgentSpec, Interfaces
from phalanx.runtime.processes.trusting import ProcessTrust
from phalanx.runtime.scenario import DeclaredAgent, Scenario, fingerprint
from phalanx.runtime.trusting import BiasedBus, GuardedInfrastructure
from phalanx.slices.model import LoopIndex
from phalanx.trust.attestation import Attestation
from phalanx.trust.processes import ProgressCounter, harden_process

PLAINLY = {
    "no-session": "no-session: said again, or before one of the two was restarted",
    "stale": "stale: of an earlier life of its sender, or said again",
}
"""Refusals that replays give rise to, and restarts as well: nobody can tell which it was."""
ALONE_S = 1.0
"""A site's agent begins without a broker after this time, in seconds: its leases run."""
TURN_S = 1.0
"""How often the loop counts its turns, in real seconds."""
AGAIN_S = 2.0
"""Before a memory that the disk did not take is written again."""
_FIXED = ("functions", "goals", "parameters", "timing", "bidding")
"""Fields of a plan that an agent takes up at its start alone."""
_SCOPES = {"subslice": "sub-slice", "function": "network-function"}
"""Names of scopes where they differ from the level of an area."""


def _own(measurer: Path) -> bool:
    """Whether a measurer is of this user, and not root: it could not read a hardened process."""
    try:
        return os.geteuid() != 0 and measurer.stat().st_uid == os.geteuid()
    except OSError:  # it is not there yet: it may well be root's
        return False


class FollowedPlan(Struct, frozen=True):
    """A plan as one agent follows it."""

    declared: DeclaredAgent
    """The agent; one that the plan does not declare stands at no PoP."""
    plan: Scenario
    """With the functions that the agent can run."""
    catalogue: Catalogue
    version: str
    """Fingerprint of the whole plan, also of functions that only others can run."""


def read_plan(spec: AgentSpec, name: AgentId) -> FollowedPlan:
    """Return the plan that the process of the agent ``name`` is started with.

    Raises:
        ScenarioError: with one line, if it is not usable, or lacks a function that is asked for.

    """
    plan = load_scenario(spec.plan)
    version = fingerprint(plan)
    if spec.site is not None:
        plan = _site_plan(spec, spec.site, name, plan)
    if spec.functions is not None:
        unknown = sorted({*spec.functions} - plan.functions.keys())
        if unknown:
            known = ", ".join(sorted(plan.functions))
            raise ScenarioError(f"{spec.plan}: functions: no {unknown[0]}; there are {known}")
        plan = replace(plan, functions={n: plan.functions[n] for n in spec.functions})
    declared = {agent.name: agent for agent in plan.all_agents()}.get(name)
    if declared is None:
        level = (spec.scope or END_TO_END).level
        declared = DeclaredAgent(name, _SCOPES.get(level, level), spec.capabilities)
        plan = replace(plan, agents=(*plan.agents, declared))
    return FollowedPlan(declared, plan, load_catalogue(plan, offered=_offered(spec)), version)


def _offered(spec: AgentSpec) -> frozenset[TrafficVerdict] | None:
    """Return the verdicts of a site's own driver; None where the network's are not known."""
    if spec.site is None:
        return None
    from phalanx.infrastructure.linux.enforcement import offered  # noqa: PLC0415  # of sites alone

    return offered()


def _site_plan(spec: AgentSpec, site: Interfaces, name: AgentId, plan: Scenario) -> Scenario:
    """Return a plan as the agent of a site follows it, which reads counters of the kernel.

    Raises:
        ScenarioError: if the site and the plan do not fit, or the plan has what is not offered
            between sites.

    """
    pop = {agent.name: agent.pop for agent in plan.all_agents()}.get(name)
    if pop is None:
        raise ScenarioError(f"{spec.plan}: {name} stands at no PoP, so it has no site")
    if spec.trust is not None:
        why = "a driver in the agent's own process cannot refuse an agent that is not trusted"
        raise ScenarioError(f"trust: {why}; leave out trust or site")
    hosts = sorted(host.name for host in plan.hosts if host.at == pop)
    for host in sorted({*hosts} ^ {*site.hosts}):
        known = ", ".join(hosts) or "none"
        why = "needs its interface" if host in hosts else f"is no host at {pop}; there are: {known}"
        raise ScenarioError(f"site.hosts: {host} {why}")
    for monitor in plan.monitors:
        if monitor.at == pop and monitor.link not in {link_id(pop, host) for host in hosts}:
            raise ScenarioError(
                f"{spec.plan}: monitors: {monitor.link} is no link from {pop} to a host there; "
                "links between sites are not watched"
            )
    from phalanx.runtime.guarding import PARAMETERS  # noqa: PLC0415  # of sites alone

    return replace(plan, parameters={**PARAMETERS, **plan.parameters})


def open_agent(spec: AgentSpec, say: Say = lambda _: None) -> AgentProcess:
    """Return the process of an agent, ready to run.

    Args:
        spec: what it is started with.
        say: told in one line what a site's driver finds and makes.

    Raises:
        PhalanxError: with one line, if a file is not usable, the state is another's, or this
            machine cannot be the site.

    """
    bundle = bundle_of(spec, Role.AGENT)
    followed = read_plan(spec, bundle.identity.name)
    if spec.site is not None:
        from phalanx.runtime.guarding import check_interfaces  # noqa: PLC0415

        check_linux()
        named = {f"site.hosts.{host}": each for host, each in spec.site.hosts.items()}
        entry = spec.site.ingress
        check_interfaces(named if entry is None else {**named, "site.ingress": entry})
    brought = followed.catalogue.brought_by(followed.declared)
    process = Process(
        spec,
        bundle,
        capabilities=tuple(sorted({*followed.catalogue.vnfds, *brought})),
        area=spec.scope or END_TO_END,
        silence_s=followed.plan.timing.silence_s,
    )
    scope, pop = followed.declared.scope, followed.declared.pop
    process.fabric.registrar.update(plan=followed.version, scope=scope, pop=pop)
    seal = Seal(bundle.credentials, process.incarnation)
    bundle.live.on_change(seal.use)
    try:
        return AgentProcess(spec, followed, process, seal, say)
    except BaseException:
        process.close()
        raise


class AgentProcess:
    """A composed agent, its memory on disk, and the plan that it follows.

    It says by its registration which version of the plan it follows, and records which agents
    follow another. It asks those for bids as before: a bid by another plan may be a bad one,
    but the infrastructure grants nothing that is not there; to ask no more would part the
    agents in two whenever a plan is handed out site by site, or one file is wrong.

    SIGTERM lets it hand over what it does and leave; SIGINT and SIGHUP end it at once, so that
    its leases and its memory bridge the gap until it is started again. So they do where it drives
    its PoP itself: rules, and the VNFs that keep them, stay for the next life to take over.
    """

    def __init__(
        self,
        spec: AgentSpec,
        followed: FollowedPlan,
        process: Process,
        seal: Seal,
        say: Say = lambda _: None,
    ) -> None:
        """Compose the process.

        Args:
            spec: what it was started with.
            followed: the agent, the network, the functions and the terms of auctions.
            process: what it shares with every process.
            seal: protects its messages.
            say: see ``open_agent``.

        """
        self.process = process
        self.spec = spec
        self.plan = plan = followed.plan
        self._declared = declared = followed.declared
        self._name = declared.name
        clock, network = process.clock, plan.to_network()
        self.bus = AgentBus(process.client, clock, seal, on_refused=self._refused)
        seed = plan.seed if spec.run is None or spec.run.seed is None else spec.run.seed
        self._trust: ProcessTrust | None = None
        if spec.trust is not None:
            self._trust = ProcessTrust(spec.trust, clock, process.state, self._unusable)
        bus_of_agent: Bus = faulty(self.bus, clock, plan, seed)
        self._ended = False
        """Whether it gives back what it holds as it ends."""
        infrastructure = self._infrastructure(followed, say)
        settings = settings_of(plan, {declared.name}, followed.catalogue)
        if spec.site is not None:  # it has a repository of its own
            settings = replace(settings, repository=str(declared.pop))
        lies = [f.at_s for f in plan.faults if f.kind == "lie" and f.agent == declared.name]
        if lies and process.incarnation == 1:  # deployed anew it is honest
            lying = partial(self._lies, min(lies))
            bus_of_agent = BiasedBus(bus_of_agent, lying)
            infrastructure = GuardedInfrastructure(infrastructure, lambda _: True, lying)
        self.composed = ComposedAgent(
            declared,
            plan,
            followed.catalogue,
            replace(settings, loops=LoopIndex(plan.loops()).known_to(declared.name)),
            process.fabric,
            clock=clock,
            bus=bus_of_agent,
            infrastructure=infrastructure,
            sink=self._sink(declared.name, plan),
            cause=process.cause,
            incarnation=process.incarnation,
            view=first_view(plan, planned_sites(network)),
            keep=self._keep,
            on_left=self._left,
            on_expired=process.end,
            counters=self._counters,
            trust=None if self._trust is None else self._trust.terms,
            services=None if self._trust is None else self._trust.services,
            events_waiting=lambda: process.stream.waiting,
        )
        self.agent = self.composed.agent
        self._unkept: str | None = None
        """Why the memory could not be written; None: it was."""
        self._again: Timer | None = None
        self._lost_at = clock.now()
        self._differing: dict[str, tuple[str, str]] = {}
        """Agents of which was recorded that their plan differs: (theirs, ours)."""
        if spec.trust is not None and not _own(Path(spec.trust.measurer)):
            harden_process()
        self._speed = 1.0 if spec.run is None else spec.run.speed
        if self._trust is not None:
            process.on_close(self._trust.close)
        checks = process.fabric.checks
        checks.add("memory", lambda: self._unkept, HealthStatus.DEGRADED)
        checks.add("events", self._unsent)
        process.on_signal(signal.SIGTERM, partial(self.composed.drain, process.cause))
        process.on_signal(signal.SIGINT, partial(process.end, "interrupted"))
        process.on_signal(signal.SIGHUP, partial(process.end, "to be started again"))
        process.figures, process.counters = self._figures, self._counters
        process.fabric.provider.serve(RELOAD, self._reload)
        process.fabric.registry.watch(self._changed)
        clock.call_at(max(clock.now(), 0.0), self._begin)
        if spec.run is not None:
            clock.call_at(plan.duration_s, self._finish)

    def _infrastructure(self, followed: FollowedPlan, say: Say) -> Infrastructure:
        """Return what the agent acts on: the domain's network, or the driver of its own PoP.

        The driver takes over what an earlier life has left in force.
        """
        process, pop = self.process, followed.declared.pop
        if self.spec.site is None or pop is None:
            client, clock = process.client, process.clock
            return RemoteInfrastructure(
                NetworkCalls(client, clock, process.incarnation, process.fabric.registry),
                process.identity.name,
                pop,
                process.incarnation,
                clock,
                on_refused=partial(self._refused, speaker=Role.NETWORK.value),
            )
        from phalanx.runtime.guarding import SiteDriver  # noqa: PLC0415  # of sites alone

        driver = SiteDriver(process.clock, Path(self.spec.state), say)
        beside = f"{self._name}.{process.incarnation}.pop"  # the agent's own events
        recorder = Recorder(self._name, process.stream, process.clock.now, beside)
        vnfds = followed.catalogue.vnfds
        context = BuildContext(self.plan, self.plan.seed, vnfds, recorder, process.cause)
        driver.claim()
        network = driver.open(context, pop, self.spec.site, self.plan.timing.lease_s)
        process.on_close(lambda: driver.close() if self._ended else driver.suspend())
        install_monitors(network, self.plan, vnfds, process.cause, at=pop)
        return acting_on(network, self.plan, process.clock, recorder.part("observe"))

    def _sink(self, name: AgentId, plan: Scenario) -> Sink:
        """Return what takes the agent's events, and seals them where there is a policy."""
        process = self.process
        if plan.policy is None:
            return process.stream
        prefix = f"audit.{name}.{process.incarnation}"

        def anchor(number: int, head: str) -> None:
            if self._trust is not None:
                entry = AuditAnchored(name, prefix, number, head)
                self._trust.services[Submit](Submit(entry), process.cause, lambda _: None)

        sink, process.closing = audited(process.stream, process.clock, name, prefix, anchor)
        return sink

    def run(self) -> None:
        """Live until the process is told to end."""
        gc.collect()
        gc.freeze()  # what was imported stays: looking through it takes 40 ms, maybe in an attack
        self.process.run()

    # -- the beginning ----------------------------------------------------------------------

    def _begin(self) -> None:
        """Live, as soon as there is a connection; with the memory of an earlier life."""
        process, node = self.process, self.composed.node
        if process.stopping is not None:
            return
        alone = self.spec.site is not None and process.clock.now() - self._lost_at >= ALONE_S
        if not process.client.connected and not alone:
            process.clock.call_at(process.clock.now() + 0.1, self._begin)
            return
        memory = self._memory()
        if memory is None:
            node.start(process.cause)
            self.composed.pursue(
                each for each in installed_monitors(self.plan) if each.duty.home == self._name
            )
        else:
            node.restore(memory, process.cause)
        if not process.client.connected:
            self._connected(up=False)
        process.client.on_change(self._connected)
        process.fabric.serving()
        if self._trust is not None:
            self._progress = ProgressCounter()
            self._turn()
            attestation = self.agent.capability(Attestation)
            self._trust.follow(self._read, self._read, lambda: attestation.register)

    def _read(self, percept: object) -> None:
        """Let the agent know what the ledger says."""
        self.composed.node.tell(percept, self.process.cause)

    def _turn(self) -> None:
        """Count a turn of the loop, for whoever measures the process."""
        self._progress.turn()
        clock = self.process.clock
        clock.call_at(clock.now() + TURN_S * self._speed, self._turn)

    def _lies(self, since_s: float) -> str:
        return "lie" if self.process.clock.now() >= since_s else ""

    def _memory(self) -> Memory | None:
        """Return what an earlier life left behind, if it can be used."""
        try:
            found = self.process.state.load()
            if found is None or not found.octets:  # it left in order: nothing is open
                return None
            return decode(found.octets, self.agent.library)
        except (StoreError, MemoryUnusable) as error:
            self._unusable(str(error))
            return None

    def _unusable(self, reason: str) -> None:
        self.process.recorder.record("memory.unusable", self.process.cause, reason=reason)

    # -- the plan ---------------------------------------------------------------------------

    def _reload(self, call: Call[ReloadRequest, Accepted]) -> None:
        call.done(Accepted(self.reload()))

    def reload(self) -> str:
        """Read the plan again, take up its network, and return what came of it in a few words.

        Raises:
            ScenarioError: with one line, if it is not usable or differs in more than the
                network; then nothing is changed.

        """
        spec, name, registrar = self.spec, self._name, self.process.fabric.registrar
        found = read_plan(spec, name)
        changed = [f for f in _FIXED if getattr(found.plan, f) != getattr(self.plan, f)]
        if changed:
            raise ScenarioError(
                f"{spec.plan}: {', '.join(changed)}: differ from what {name} was started with; "
                "only the network can change while it runs, for more it is started again"
            )
        network, pop = found.plan.to_network(), self._declared.pop
        if pop is not None and all(known.name != pop for known in network.pops):
            raise ScenarioError(f"{spec.plan}: network.pops: there is no {pop} any more")
        if not self.composed.light:
            outlook = self.composed.outlook
            # What was heard of a PoP is newer than any plan, so only unknown PoPs are news.
            news = first_view(found.plan, planned_sites(network)).states
            outlook.view = outlook.view.apply_all(news)
        if spec.site is None:
            self.composed.settings.repository = network.repository
        self.plan = found.plan
        registrar.update(plan=found.version)
        for entry in self.process.fabric.registry.entries():
            self._compare(entry)
        return f"it follows plan {found.version}, of {len(network.pops)} PoPs"

    def _changed(self, change: RegistryChange) -> None:
        self._compare(change.entry)

    def _compare(self, entry: RegistryEntry) -> None:
        """Record, once for each difference, that an agent of the same area has another plan."""
        process = self.process
        mine, other = process.fabric.registrar.registration, entry.registration
        if other.role is not Role.AGENT or other.area != mine.area or other.owner == mine.owner:
            return
        if entry.state is ServiceState.LEFT:
            self._differing.pop(other.owner, None)
        if not (entry.available and entry.confirmed):  # it may have died with that plan long ago
            return
        plans = other.plan, mine.plan
        if not all(plans) or other.plan == mine.plan:
            self._differing.pop(other.owner, None)
        elif self._differing.get(other.owner) != plans:
            self._differing[other.owner] = plans
            process.recorder.record(
                "agent.differs", process.cause, pop=other.owner, plan=other.plan, own=mine.plan
            )

    # -- the brokers, and what came over them -------------------------------------------------

    def _connected(self, up: bool) -> None:
        """Let the agent know that it hears nobody, or hears others again."""
        process = self.process
        now, record = process.clock.now(), process.recorder.record
        if not up:
            self._lost_at = now
            cause = record("connection.lost", process.cause)
        else:
            seconds = round(now - self._lost_at, 3)
            cause = record("connection.regained", process.cause, seconds=seconds)
        self.composed.node.tell(Connected(up), cause)

    def _refused(self, reason: str, subject: str, speaker: str) -> None:
        why = PLAINLY.get(reason, reason)
        self.process.fabric.audit(AccessRefusal(speaker, subject, self._name, why))

    def _counters(self) -> AgentCounters:
        bus, client = self.bus, self.process.client.counters
        refused = dict(bus.refused)
        for reason, count in client.refused.items():
            refused[reason] = refused.get(reason, 0) + count
        return AgentCounters(
            sent=sum(bus.sent.values()),
            delivered=bus.delivered,
            shed=dict(client.shed),
            refused=refused,
            lost=bus.lost,
            reconnects=client.reconnects,
        )

    # -- what is kept -----------------------------------------------------------------------

    def _keep(self, agent: Agent) -> None:
        """Write events and memory before anything is said that follows from them."""
        process = self.process
        process.outbox.flush()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            process.state.save(encode(remember(agent)))
            self._unkept = None
        except StoreError as error:
            self._unkept = str(error)
            clock = process.clock
            self._again = clock.call_at(clock.now() + AGAIN_S, partial(self._keep_again, agent))

    def _keep_again(self, agent: Agent) -> None:
        self._again = None
        if self.composed.node.alive:
            self._keep(agent)

    def _unsent(self) -> str | None:
        failure = self.process.outbox.last_failure
        return None if failure is None else f"the disk does not take events: {failure}"

    def _figures(self) -> dict[str, Any]:
        return {
            "messages": {p.value: count for p, count in self.bus.sent.items()},
            "shed": sum(self.bus.shed.values()),
        }

    # -- the end ----------------------------------------------------------------------------

    def _left(self) -> None:
        self._ended = True
        with contextlib.suppress(StoreError):  # then it remembers that it has left
            self.process.state.save(b"")
        self.process.end("it has left")

    def _finish(self) -> None:
        """End what is still open: the run is over."""
        process, self._ended = self.process, True
        if self.composed.node.alive:
            self.agent.stop(process.clock.now(), process.cause)
            self.composed.node.crash()
        process.end("the run is over")
