"""One agent with all that belongs to it, composed in the same way in every environment.

An agent has a library of capabilities, a memory, a node that runs it on the ports, a place in
the registry, operations that others may call, access control, audit and a status. A run on
virtual time composes every agent over the broker in memory; the process of an agent composes
one over NATS and the wall clock.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from phalanx.auction.bidder import Bidder
from phalanx.auction.contracts import VnfInstance
from phalanx.auction.outlook import Outlook
from phalanx.auction.references import references
from phalanx.auction.settings import Configured, GoalPolicy, Settings
from phalanx.auction.terms import load_terms
from phalanx.auction.view import NetworkView
from phalanx.bdi.agent import Agent, Instruction
from phalanx.bdi.beliefs import Belief
from phalanx.bdi.capability import Library
from phalanx.bdi.steps import Adopt
from phalanx.bus import Bus
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.coordination.associations import Associations
from phalanx.coordination.contacts import LoopContacts
from phalanx.coordination.duties import Duties
from phalanx.coordination.lifecycle import NewVersion
from phalanx.coordination.measures import PROTECT
from phalanx.coordination.workload import WorkloadForecaster
from phalanx.domain.actions import (
    Failed,
    Invoke,
    Invoked,
    Outcome,
    ReadRules,
    RuleInForce,
    RulesInForce,
    SiteState,
)
from phalanx.domain.agents import POP, AgentId, AgentState, Scope
from phalanx.domain.events import Sink
from phalanx.domain.goals import Duty, Predicate, avert, want
from phalanx.domain.messages import SecurityPolicy
from phalanx.domain.network import LinkState, Network, PopId, link_id
from phalanx.domain.predicates import Monitored, PolicyKept, ServiceWatched, SignallingWatched
from phalanx.domain.resources import NOTHING
from phalanx.domain.rules import AllowList
from phalanx.domain.series import WorkloadForecast
from phalanx.domain.traffic import PROFILES
from phalanx.domain.version import VERSION
from phalanx.domain.vnf import InstanceId, Vnfd
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.calls import CallTimedOut
from phalanx.fabric.directory import RegistryChange, find
from phalanx.fabric.join import Fabric
from phalanx.fabric.operations import (
    BELIEFS,
    DRAIN,
    FORECAST,
    INVENTORY,
    PAUSE,
    POLICY,
    PROBE,
    RELEASE,
    STATUS,
    Accepted,
    AgentCounters,
    BeliefInfo,
    BeliefsAnswer,
    BeliefsRequest,
    DrainRequest,
    ForecastRequest,
    InstanceEntry,
    InventoryAnswer,
    InventoryRequest,
    MeasureEntry,
    Operation,
    PauseRequest,
    ProbeAnswer,
    ProbeRequest,
    ReleaseRequest,
    StatusAnswer,
    StatusRequest,
)
from phalanx.fabric.provider import Call
from phalanx.fabric.registration import ServiceState
from phalanx.identity.names import Role
from phalanx.infrastructure import Infrastructure
from phalanx.policy.assessment import SslaAssessment
from phalanx.policy.enforcement import PolicyEnforcer, PolicyPart, part_of
from phalanx.policy.plan import PolicyPlan, member_offences, plan_of_slice, plan_offences
from phalanx.runtime.catalogue import Catalogue
from phalanx.runtime.environment import RunNetwork
from phalanx.runtime.loading import policy_refusals
from phalanx.runtime.node import Node, Probes, Service
from phalanx.runtime.scenario import (
    ANALYST,
    MONITORS,
    SIGNALLING,
    STRATEGIES,
    DeclaredAgent,
    Scenario,
)
from phalanx.slices.agreements import agent_scores
from phalanx.slices.loop import ClosedLoop
from phalanx.slices.manager import SecurityManager
from phalanx.slices.services import LoopService
from phalanx.trust.attestation import Attestation, TrustTerms
from phalanx.trust.keys import KeyKeeping


def settings_of(scenario: Scenario, peers: Iterable[PopId], catalogue: Catalogue) -> Settings:
    """Return the terms of all auctions, as the scenario sets them, without loops of slices."""
    timing, told = scenario.timing, scenario.forecast
    under = {} if told is None else told.under_anomaly
    named = {*scenario.goals, *under, *(("default",) if scenario.trust is not None else ())}
    policies = {
        name: GoalPolicy(*scenario.terms(name), scenario.under_anomaly(name))
        for name in sorted(named)
    }
    weights = ((p.preferences, p.under_anomaly) for p in policies.values())
    weighed = [t for both in weights for each in both if each is not None for t in each.terms]
    weighed += [t for p in policies.values() for t in p.constraints.terms]
    return Settings(
        peers=tuple(sorted({*peers} - catalogue.loops)),
        repository=scenario.network.repository,
        catalogue=dict(catalogue.vnfds),
        duties={each.duty.goal: each.duty for each in installed_monitors(scenario)},
        policies=policies,
        terms=load_terms(weighed),
        method=scenario.bidding,
        pricing=scenario.prices(),
        outside={}
        if scenario.agreement is None
        else scenario.agreement.outsiders(pop.name for pop in scenario.network.pops),
        persistent_from=None if scenario.strategy == "published" else PROTECT,
        foreseen=None if scenario.strategy == "published" else STRATEGIES[scenario.strategy],
        allow=AllowList(scenario.allow),
        references=references_of(scenario, catalogue),
        forecast=told,
        deadline_s=timing.auction_deadline_s,
        lease_s=timing.lease_s,
        idle_s=timing.idle_timeout_s,
        heartbeat_s=timing.heartbeat_s,
        silence_s=timing.silence_s,
        probe_s=timing.probe_s,
        gossip_s=timing.gossip_s,
        drain_s=timing.drain_s,
    )


THURSDAY = 3 * 1440.0
"""Minute of the week at which the epoch of Unix began."""
SLICE = "slice"
"""Scope of the loops that judge agreements."""
FIRST_LEASE_S = 60.0
"""How long the plan's monitors wait for their agents, from the begin of the run on."""
MOST_LISTED = 64
"""Sources of a measure that an inventory lists."""
SILENT_S = 30.0
"""So long after it did not answer in time a service is invoked only where there is no other."""


class InstalledMonitor(Struct, frozen=True):
    """A function that the plan has in place from the start, and the duty that it works on."""

    instance: InstanceId
    function: str
    duty: Duty


def installed_monitors(plan: Scenario) -> Iterator[InstalledMonitor]:
    """Yield what the plan's monitors stand for, in their order."""
    addresses = {link_id(host.at, host.name): host.address for host in plan.hosts}
    for number, monitor in enumerate(plan.monitors, 1):
        link = monitor.link
        watched: dict[str, Predicate] = {
            MONITORS[plan.strategy]: Monitored(
                link, monitor.threshold_mb_s, monitor.connections or 0
            )
        }
        if monitor.service:
            watched[ANALYST] = ServiceWatched(link, addresses[link])
        for function, predicate in watched.items():
            duty = Duty(want(predicate), monitor.agent or monitor.at, monitor.at)
            name = f"{monitor.at}/installed{number}/{function}"
            yield InstalledMonitor(name, function, duty)
    yield from _watches(plan)
    for address, pop in sorted({(each.address, each.pop) for each in plan.policed()}):
        duty = Duty(want(PolicyKept(address)), pop, pop)
        yield InstalledMonitor(
            f"{pop}/installed-{address}/{PolicyEnforcer.name}", PolicyEnforcer.name, duty
        )


def install_monitors(
    network: RunNetwork,
    plan: Scenario,
    vnfds: Mapping[str, Vnfd],
    cause: str,
    lease_s: float = FIRST_LEASE_S,
    at: PopId | None = None,
) -> None:
    """Put what the plan has in place from the start into the network, or into its PoP ``at``.

    Raises:
        ValueError, PhalanxError: if there is no room, or it does not start.

    """
    there = network.leases()
    """Instances that a driver has taken over from an earlier one."""
    for monitor in installed_monitors(plan):
        if at in (None, monitor.duty.tap) and monitor.instance not in there:
            network.install(
                monitor.duty.tap,
                monitor.instance,
                vnfds[monitor.function],
                units=1,
                ttl_s=max(lease_s, plan.timing.lease_s),
                cause=cause,
            )


def _watches(plan: Scenario) -> Iterator[InstalledMonitor]:
    """Yield what counts, at the PoP of each gNB, what devices ask its slices' AMFs for."""
    loops = plan.loops() if SIGNALLING in plan.functions else ()
    amfs = [loop for loop in loops if loop.kind == "AMF"]
    pops = {pop.name for pop in plan.network.pops if pop.agent}
    gnbs = [loop for loop in loops if loop.kind == "gNB" and loop.pop in pops]
    pairs = ((gnb, amf) for gnb in gnbs for amf in amfs if {*gnb.slices} & {*amf.slices})
    for pop, address in sorted({(gnb.pop or "", amf.address) for gnb, amf in pairs}):
        duty = Duty(want(SignallingWatched(address, pop)), pop, pop)
        yield InstalledMonitor(f"{pop}/installed-{address}/{SIGNALLING}", SIGNALLING, duty)


def references_of(scenario: Scenario, catalogue: Catalogue) -> dict[str, float] | None:
    """Return what the terms of bids are scaled against; None for utilities by eq. 3.1."""
    if scenario.utilities() == "published":
        return None
    return references(scenario.to_network(), catalogue.vnfds.values())


def planned_sites(network: Network) -> dict[PopId, SiteState]:
    """Return the state of each PoP as the plan of the network has it, with nothing in use."""
    links: dict[PopId, list[LinkState]] = {pop.name: [] for pop in network.pops}
    for link in network.links:
        for here, there in ((link.a, link.b), (link.b, link.a)):
            links[here].append(LinkState(there, link.bandwidth_mb_s, link.latency_ms, link.loss))
    return {p.name: SiteState(p.total, p.total, tuple(links[p.name])) for p in network.pops}


def first_view(plan: Scenario, sites: Mapping[PopId, SiteState]) -> NetworkView:
    """Return what every agent knows at the start: each PoP, as an agent there would tell of it."""
    loops = {loop.name for loop in plan.loops()}
    agents = [agent for agent in plan.all_agents() if agent.name not in loops]
    tellers = {agent.pop: agent.name for agent in reversed(agents)}
    tellers |= {pop.name: pop.name for pop in plan.network.pops if pop.agent}
    view = NetworkView.EMPTY.apply_all(
        AgentState(tellers.get(pop, pop), pop, 1, 0, site.total, site.free, site.links)
        for pop, site in sites.items()
    )
    for pop in plan.network.pops:
        if pop.power():
            view = view.described(pop.name, pop.power())
    return view


def take_up(
    agent: Agent, monitor: InstalledMonitor, settings: Settings
) -> partial[list[Instruction]]:
    """Give the agent an instance that runs already, and the standing goal that it works on.

    Returns:
        a call that makes the agent pursue the goal at the time that it is given.

    """
    instance = VnfInstance(monitor.instance, settings.catalogue[monitor.function], 1)
    instance.running = True
    instance.jobs["installed"] = "monitor"
    agent.capability(Bidder).inventory.add(instance)
    agent.active.add(monitor.function)
    goal = Adopt(monitor.duty.goal, instance=instance.id, standing=True)
    return partial(agent.take_on, goal)


class VersionRequest(Struct, frozen=True):
    """Tells that the repository offers another version of a function."""

    function: str
    version: str
    event: str = ""
    """The event that tells of it."""


AGREEMENTS = Operation(
    "agreements", PolicyPlan, Accepted, True, "keep to this policy from now on; an empty one: none"
)
"""Of agents of PoPs and loops of slices, where the plan has a ``policy:``, which may be empty."""


def told_of(plan: Scenario, policy: PolicyPlan) -> dict[AgentId, PolicyPlan]:
    """Return what each agent of a plan is to be told of a policy by ``AGREEMENTS``.

    The loop of a slice is told of its own terms, the agents of PoPs of all.
    """
    slices = {loop.name: loop.entity for loop in plan.loops() if loop.scope == SLICE}
    loops = {loop.name for loop in plan.loops()}
    others = (agent.name for agent in plan.all_agents() if agent.pop and agent.name not in loops)
    return dict.fromkeys(others, policy) | {
        loop: plan_of_slice(policy, name) for loop, name in slices.items()
    }


NEW_VERSION = Operation(
    "new-version", VersionRequest, Accepted, True, "replace a function by another version"
)


class ComposedAgent:
    """An agent on its node, found in the registry, and called by others.

    It serves ``status``, ``beliefs``, ``inventory``, ``forecast``, ``drain``, ``release``,
    ``pause``, ``probe`` and ``new-version``. It asks those agents for proposals that are registered
    with the same area as itself, beside the peers of its settings, and forgets those that leave in
    order.
    """

    def __init__(
        self,
        declared: DeclaredAgent,
        plan: Scenario,
        catalogue: Catalogue,
        settings: Settings,
        fabric: Fabric,
        *,
        clock: Clock,
        bus: Bus,
        infrastructure: Infrastructure,
        sink: Sink,
        cause: str,
        incarnation: int,
        view: NetworkView,
        keep: Callable[[Agent], None] | None = None,
        on_left: Callable[[], None],
        on_expired: Callable[[str], None],
        counters: Callable[[], AgentCounters] | None = None,
        trust: TrustTerms | None = None,
        services: Mapping[type, Service] | None = None,
        events_waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        """Compose the agent; it does nothing before ``start`` or ``node.restore``.

        Args:
            declared: its name, scope, PoP and capabilities.
            plan: the network, the functions and the strategy.
            catalogue: the functions that it knows.
            settings: the terms of auctions; its own, since it changes them. The peers are those
                to ask before anything was read from the registry.
            fabric: of its identity.
            clock: makes all calls.
            bus: carries its messages; it may speak in its own name only.
            infrastructure: performs its actions.
            sink: takes its events.
            cause: root of what it does by itself.
            incarnation: how often it was started.
            view: the network as it knows it at the start.
            keep: see ``Node``.
            on_left: called once it has left in order.
            on_expired: called with the reason when it had to leave within a time and has not.
            counters: what went through its bus; None counts messages alone.
            trust: the terms by which it attests itself and others; None: it does not.
            services: see ``Node``.
            events_waiting: how many of its events are not acknowledged yet.

        """
        self.name = declared.name
        self.fabric = fabric
        self.settings = settings
        self._clock = clock
        self._cause = cause
        self._on_expired = on_expired
        self._events_waiting = events_waiting
        self.agent = make_agent(
            declared.name,
            catalogue.library_of(declared),
            self.settings,
            sink,
            parameters=plan.parameters,
            incarnation=incarnation,
            pop=declared.pop,
            scope=catalogue.scopes[declared.scope],
        )
        self.agent.active.update(catalogue.brought_by(declared))
        self._loops = catalogue.loops
        if not self.light:
            self.outlook.view = view
            self.agent.capability(Bidder).refused = self._refused
        loop = self.agent.capabilities.get(ClosedLoop.name)
        if isinstance(loop, ClosedLoop):
            loop.abilities = {**catalogue.library.capabilities, **catalogue.brought}
            loop.functions = tuple(catalogue.vnfds)
        self._plan = plan
        if plan.policy is not None:
            self._hold(plan.policy)
        self.probes = Probes(bus, self.name, clock, incarnation, cause)
        self._counters = counters or self.probes.counters
        if trust is not None:
            attestation = self.agent.capability(Attestation)
            attestation.terms = trust
            self.agent.heeds = partial(attestation.heeds, self.agent)
            self.agent.capability(KeyKeeping).exchange = trust.exchange
            if plan.agreement is not None:
                attestation.half_lives = plan.agreement.half_lives()
                attestation.appraise = partial(agent_scores, plan.agreement, plan.standing())
            if plan.trust is not None and not self.light:
                self.agent.capability(Associations).level = plan.trust.service_levels
        self.node = Node(
            self.agent,
            clock,
            self.probes,
            infrastructure,
            keep=keep,
            on_left=on_left,
            services={Invoke: self._invoke, **(services or {})},
        )
        self._infrastructure = infrastructure
        self._began = clock.now()
        self._silent: dict[AgentId, float] = {}
        """When each service that was invoked last did not answer in time."""
        provider = fabric.provider
        provider.serve(STATUS, self._status)
        provider.serve(BELIEFS, self._beliefs)
        provider.serve(INVENTORY, self._inventory)
        provider.serve(FORECAST, self._forecast)
        provider.serve(DRAIN, self._drain)
        provider.serve(PROBE, self._probe)
        provider.serve(RELEASE, self._release)
        provider.serve(PAUSE, self._pause)
        provider.serve(NEW_VERSION, self._new_version)
        self._serve_loops()
        self._stop_watching = fabric.registry.watch(self._registered)

    @property
    def light(self) -> bool:
        """Whether it is a loop of a slice: it keeps no view of the network, and deploys nothing."""
        return self.name in self._loops

    @property
    def stale(self) -> bool:
        """Whether the agent applies patches and changes of the policy only once it is asked to."""
        enforcer = self.agent.capabilities.get(PolicyEnforcer.name)
        return isinstance(enforcer, PolicyEnforcer) and enforcer.stale

    @property
    def outlook(self) -> Outlook:
        """What the agent knows of the network."""
        return self.agent.capability(Outlook)

    def pursue(self, monitors: Iterable[InstalledMonitor]) -> None:
        """Pursue the goals of the plan's monitors that run at this agent."""
        for monitor in monitors:
            pursue = take_up(self.agent, monitor, self.settings)
            self.agent.cause = self._cause
            self.node.carry_out(pursue(self._clock.now()))

    def drain(self, cause: str) -> None:
        """Hand over and leave; ``on_left`` is called once that is done."""
        if not self.agent.draining:
            self.fabric.registrar.update(state=ServiceState.DRAINING)
            self.node.drain(cause)

    def offer(self, function: str, version: str, event: str) -> bool:
        """Tell the agent of another version in the repository; whether it knows the function."""
        old = self.settings.catalogue.get(function)
        if old is None:
            return False
        vnfd = self.settings.catalogue[function] = replace(old, version=version)
        if self.stale:
            return True
        self.node.tell(NewVersion(vnfd, event), event)
        return True

    def leave(self) -> None:
        """Withdraw from the registry; the agent hears and says no more there."""
        self._stop_watching()
        self.fabric.leave()

    def crash(self) -> None:
        """End as kill -9 does: nothing is said, and the registry is not told."""
        self.node.crash()
        self._stop_watching()
        self.fabric.abandon()

    def _refused(self, speaker: AgentId, action: str, reason: str) -> None:
        self.fabric.audit(AccessRefusal(speaker, action, self.name, reason))

    # -- the others -------------------------------------------------------------------------

    def _registered(self, change: RegistryChange) -> None:
        """Ask agents that are registered for the same area; forget those that have left."""
        peers, owner = self.settings.peers, change.entry.owner
        left = change.entry.state is ServiceState.LEFT and owner != self.name
        place = bisect_left(peers, owner)
        if (peers[place : place + 1] == (owner,)) is not left:
            return
        found, mine = change.entry.registration, self.fabric.registrar.registration
        if found.role is Role.AGENT and found.area == mine.area and owner not in self._loops:
            here = () if left else (owner,)
            self.settings.peers = (*peers[:place], *here, *peers[place + left :])
            self.agent.changes += 1  # it remembers them, for a start without a registry

    # -- operations -------------------------------------------------------------------------

    def _status(self, call: Call[StatusRequest, StatusAnswer]) -> None:
        agent, registration = self.agent, self.fabric.registrar.registration
        now = self._clock.now()
        duties = agent.capabilities.get(Duties.name)
        own = duties.pursued(agent) if isinstance(duties, Duties) else ()
        pursued = {goal.goal for goal in own}
        call.done(
            StatusAnswer(
                agent.name,
                agent.incarnation,
                registration.state,
                self.fabric.checks(),
                up_s=max(now - self._began, 0.0),
                area=registration.area,
                load=self._load(),
                goals=len(agent.open_goals()),
                instances=len(self._instances()),
                counters=self._counters(),
                events_waiting=self._events_waiting(),
                clock_s=now,
                loop=self.settings.loops.get(self.name),
                duties={
                    str(goal): goal in pursued
                    for goal in (() if self.light else self.settings.duties)
                },
            )
        )

    def _load(self) -> float | None:
        """Return the share of the PoP's scarcest resource that is allocated."""
        mine = None if self.light else self.outlook.view.get(self.name)
        if mine is None or mine.total == NOTHING:
            return None
        return max(0.0, *(mine.total - mine.free).shares(mine.total).values())

    def _beliefs(self, call: Call[BeliefsRequest, BeliefsAnswer]) -> None:
        request = call.request
        found = sorted(
            (_belief(predicate, belief) for predicate, belief in self.agent.beliefs),
            key=lambda info: info.predicate,
        )
        found = [info for info in found if info.predicate.startswith(request.predicate)]
        shown = tuple(found[: request.limit])
        call.done(BeliefsAnswer(shown, more=len(found) - len(shown)))

    def _inventory(self, call: Call[InventoryRequest, InventoryAnswer]) -> None:
        inventory = self._instances()
        instances = tuple(
            InstanceEntry(i.instance, i.vnf, i.version, i.units, i.state, i.goals)
            for i in (instance.info() for instance in inventory)
        )
        kept = [(m, i.id, str(e)) for i in inventory for e, m in i.measures.items()]

        def told(outcome: Outcome) -> None:
            there = outcome if isinstance(outcome, RulesInForce) else RulesInForce()
            rules = {rule.measure: _shortened(rule) for rule in there.rules}
            measures = tuple(
                MeasureEntry(*each, rule.lease_left_s if rule else None, rule)
                for each, rule in ((each, rules.get(each[0])) for each in kept)
            )
            call.done(InventoryAnswer(instances, measures, there.observed_only))

        self._read_rules(told)

    def _read_rules(self, told: Callable[[Outcome], None]) -> None:
        """Have ``told`` what the network has in force at the agent's PoP."""
        pop = self.agent.pop
        if pop is None:
            told(RulesInForce())
        else:
            self._infrastructure.perform(pop, ReadRules(pop), self._cause, told)

    def allow(self, allow: AllowList) -> None:
        """Block and limit none of these from now on; lift what does."""
        self.settings.allow = allow

        def told(outcome: Outcome) -> None:
            rules = outcome.rules if isinstance(outcome, RulesInForce) else ()
            hit = {each.measure for each in rules if allow.spare(each.rule) != each.rule}
            for effect in [e for i in self._instances() for e, m in i.measures.items() if m in hit]:
                self._lift(effect)

        self._record_act("allow", f"{len(allow.entries)} prefixes", "its operator")
        self._read_rules(told)

    def _lift(self, effect: Predicate) -> None:
        goal = Adopt(avert(effect), PROTECT)
        self.node.carry_out(self.agent.take_on(goal, self._clock.now()))

    def _instances(self) -> list[VnfInstance]:
        return [] if self.light else list(self.agent.capability(Bidder).inventory)

    def _forecast(self, call: Call[ForecastRequest, WorkloadForecast]) -> None:
        workload = self.agent.capabilities.get(WorkloadForecaster.name)
        latest = workload.latest if isinstance(workload, WorkloadForecaster) else None
        if latest is not None:
            call.done(latest)
        else:
            call.fail("its plan asks for no forecasts" if workload is None else "too little seen")

    def _drain(self, call: Call[DrainRequest, Accepted]) -> None:
        within_s = call.request.within_s
        call.done(Accepted("it hands over and leaves"))  # it may have left at once
        self.drain(self._cause)
        gives_up = partial(self._on_expired, f"it had {within_s:g} s to leave")
        self._clock.call_at(self._clock.now() + within_s, gives_up)

    def _policy(self, call: Call[SecurityPolicy, Accepted]) -> None:
        self.node.tell(call.request, self._cause)
        call.done(Accepted("it is said to the loops; policy.issued tells who refuses it"))

    def _serve_loops(self) -> None:
        """Offer what managers and services of loops do, in a plan with slices."""
        if SecurityManager.name in self.agent.capabilities:
            self.fabric.provider.serve(POLICY, self._policy)
        for service in self.agent.capabilities.values():
            if isinstance(service, LoopService) and LoopContacts.name in self.agent.capabilities:
                self.fabric.provider.serve(service.operation, partial(self._serve, service))

    def _serve(self, service: LoopService, call: Call[Any, Any]) -> None:
        objection = service.objection(self.agent, call.caller.name, call.request)
        now = self._clock.now()
        call.refuse(objection) if objection else call.done(service.serve(call.request, now))

    def _invoke(self, action: Invoke, cause: str, answer: Callable[[Any], None]) -> None:
        """Invoke for the agent what it asks for; what is said of a slice no other slice hears."""

        def told(result: Any) -> None:
            done = isinstance(result, action.operation.answer)
            if isinstance(result, CallTimedOut):
                self._silent[owner] = self._clock.now()
            answer(Invoked(owner, result) if done else Failed(f"{owner}: {result.reason}"))

        of, loops = action.slice, self.settings.loops
        found = [entry.owner for entry in find(self.fabric.registry.entries(), action.capability)]
        may = [n for n in found if n not in self._loops or (n in loops and of in loops[n].slices)]
        if not may:
            why = Failed(f"no service that may be asked is registered as {action.capability}")
            self._clock.call_soon(partial(answer, why))
            return
        lately = self._clock.now() - SILENT_S
        may.sort(key=lambda name: self._silent.get(name, lately) > lately)
        owner, asks, within_s = may[0], (action.operation, action.request), action.timeout_s
        self.fabric.calls.invoke(owner, *asks, told, timeout_s=within_s, cause=cause)

    def _release(self, call: Call[ReleaseRequest, Accepted]) -> None:
        measure = call.request.measure
        found = (e for i in self._instances() for e, m in i.measures.items() if m == measure)
        effect = next(found, None)
        if effect is None:
            call.fail(f"it keeps no measure {measure!r} in force")
            return
        self._acted(call, "release", str(effect))
        self._lift(effect)
        call.done(Accepted(f"{self.name} takes it back; its events tell when it is gone"))

    def _pause(self, call: Call[PauseRequest, Accepted]) -> None:
        paused = call.request.paused
        self._acted(call, "pause" if paused else "resume", self.name)
        if not self.light:
            self.agent.capability(Bidder).paused = paused
            self.agent.changes += 1
            self.node.carry_out([])  # so that it is remembered before it is said
        words = "bids for nothing until it is resumed" if paused else "bids again"
        call.done(Accepted(f"{self.name} {words}"))

    def _acted(self, call: Call[Any, Accepted], what: str, on: str) -> None:
        """Record what an operator has the agent do; it is the cause of what follows."""
        said = call.request.session
        self._record_act(what, on, f"{call.caller.name} ({said})" if said else call.caller.name)

    def _record_act(self, what: str, on: str, by: str) -> None:
        self.agent.now, self.agent.cause = self._clock.now(), self._cause
        self.agent.cause = self.agent.record("operator.acted", action=what, subject=on, by=by)

    def _hold(self, policy: PolicyPlan) -> None:
        """Give the agent what concerns it of a policy, and let it be told of others."""
        part = self._part(policy, 0)
        self.agent.capability(SslaAssessment).part = part
        if not self.light:
            self.agent.capability(PolicyEnforcer).part = part
        self.fabric.provider.serve(AGREEMENTS, self._agreements)

    def _part(self, policy: PolicyPlan, number: int) -> PolicyPart:
        """Return what the agent is given of a policy: what concerns its slice, or its PoP."""
        loop, plan = self.settings.loops.get(self.name), replace(self._plan, policy=policy)
        of = loop.entity if self.light and loop is not None and loop.scope == SLICE else None
        if self.light and of is None:
            return PolicyPart(number)
        judges = of is not None or plan.slices is None
        part = part_of(
            *(policy, plan.policed(), plan.jurisdictions()),
            number=number,
            loop_of=of,
            pop=self.agent.pop,
            judges=judges,
        )
        if not isinstance(self._clock, WallClock):
            return part  # a simulated run begins on a Monday, at midnight
        return replace(part, minute=(time.time() - self._clock.now()) / 60 + THURSDAY)

    def _agreements(self, call: Call[PolicyPlan, Accepted]) -> None:
        policy, now = call.request, self._clock.now()
        whole = replace(self._plan, policy=policy)
        slices = None if whole.slices is None else [each.name for each in whole.slices.slices]
        wrongs = [*plan_offences(policy, slices), *policy_refusals(policy, whole)]
        wrongs += () if self.light else member_offences(policy)
        wrong = next(iter(wrongs), None)
        if wrong is not None:
            call.fail(": ".join(wrong))
            return
        number = self.agent.capability(SslaAssessment).part.number + 1
        begun = (replace(each, at_s=each.at_s or now) for each in policy.revoked)
        part = self._part(replace(policy, revoked=tuple(begun)), number)
        self.node.tell(part, self._cause)
        held = f"{len(part.terms)} terms, {len(part.rules.rules)} rules"
        call.done(Accepted(f"policy {number} is kept to from now on: {held}"))

    def _probe(self, call: Call[ProbeRequest, ProbeAnswer]) -> None:
        peer, within_s = call.request.peer, call.request.within_s
        entry = self.fabric.registry.get(peer)
        if entry is None or entry.registration.role is not Role.AGENT:
            call.done(ProbeAnswer(None, "no agent of that name is registered"))
            return

        def reached(took_s: float | None) -> None:
            if took_s is None:
                call.done(ProbeAnswer(None, f"no answer within {within_s:g} s"))
            else:
                call.done(ProbeAnswer(round(1000 * took_s, 3)))

        self.probes.probe(peer, within_s, reached)

    def _new_version(self, call: Call[VersionRequest, Accepted]) -> None:
        request = call.request
        if self.offer(request.function, request.version, request.event or self._cause):
            call.done(Accepted())
        else:
            call.fail(f"no function {request.function!r} here")


def _belief(predicate: Predicate, belief: Belief) -> BeliefInfo:
    return BeliefInfo(str(predicate), belief.value, belief.holder, belief.event)


def _shortened(told: RuleInForce) -> RuleInForce:
    """Return a rule with so few sources that any number of rules fit into an answer."""
    match = told.rule.match
    fewer = {"sources": match.sources[:MOST_LISTED], "outside": match.outside[:MOST_LISTED]}
    return replace(told, rule=replace(told.rule, match=replace(match, **fewer)))


def make_agent(
    name: AgentId,
    library: Library,
    settings: Settings,
    sink: Sink,
    *,
    parameters: Mapping[str, float],
    incarnation: int = 1,
    pop: PopId | None = None,
    scope: Scope = POP,
) -> Agent:
    """Return an agent whose configured capabilities know the terms of auctions."""
    agent = Agent(
        name, library, sink, pop=pop, scope=scope, parameters=parameters, incarnation=incarnation
    )
    for capability in agent.capabilities.values():
        if isinstance(capability, Configured):
            capability.settings = settings
    return agent


def description(scenario: Scenario, seed: int, catalogue: Catalogue) -> dict[str, Any]:
    """Return what ``run.started`` says of a run."""
    network = scenario.to_network()
    loops = [{k: v for k, v in asdict(loop).items() if v} for loop in scenario.loops()]
    return {
        "scenario": scenario.name,
        "seed": seed,
        "version": VERSION,
        "duration_s": scenario.duration_s,
        "pops": [
            {"name": p.name, **asdict(p.total), "x": p.x, "y": p.y} | spec.power()
            for p, spec in zip(network.pops, scenario.network.pops, strict=True)
        ],
        "links": [asdict(link) for link in network.links],
        "hosts": [
            {k: v for k, v in asdict(h).items() if k != "latency_ms" and v is not None}
            for h in network.hosts
        ],
        "repository": network.repository,
        "sources": [
            {
                "group": group.name,
                "at": list(group.at),
                "target": group.target if len(group.targets) == 1 else list(group.targets),
                "profile": group.profile,
                "malicious": PROFILES[group.profile].malicious,
                "count": group.count,
                "demand_mb_s": group.demand_mb_s,
                "start_s": group.start_s,
                "end_s": group.end_s,
            }
            for group in scenario.traffic
        ],
        "functions": [
            {
                "name": v.name,
                "version": v.version,
                **asdict(v.requires),
                "image_mb": v.image_mb,
                "handles_mb_s": v.handles_mb_s,
            }
            for v in catalogue.vnfds.values()
        ],
        "timing": asdict(scenario.timing),
        "bidding": scenario.bidding,
        "control": scenario.control,
        "pricing": scenario.prices(),
        "notes": list(scenario.notes),
        "agents": [agent.name for agent in scenario.all_agents()],
        "duties": [
            {"goal": str(each.duty.goal), "home": each.duty.home}
            for each in installed_monitors(scenario)
        ],
        "faults": [
            {n: v for n, v in msgspec.to_builtins(fault).items() if v is not None}
            for fault in scenario.faults
        ],
        "updates": [asdict(update) for update in scenario.updates],
        **({"loops": loops} if loops else {}),
        **({"allow": [asdict(each) for each in scenario.allow]} if scenario.allow else {}),
        **({"mode": scenario.mode} if scenario.mode != "enforce" else {}),
    }
