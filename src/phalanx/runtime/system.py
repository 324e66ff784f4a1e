"""All agents of a run in one process, on virtual time or the wall clock.

The agents are composed as in processes of their own: each joins the fabric, here over the
broker in memory. So they are in the registry, can be called and refuse calls, and what they
refuse is in the log. Their messages go over the bus of the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from phalanx.bdi.capability import Capability
from phalanx.bdi.goals import GoalInstance, GoalOutcome
from phalanx.bdi.memory import Memory, decode, encode, remember
from phalanx.bus import Bus
from phalanx.bus.memory import PerAgentBus
from phalanx.bus.memory_broker import MemoryBroker, MemoryClient
from phalanx.clock.virtual import DriftingClock, VirtualClock
from phalanx.coordination.failover import open_goals
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import ScenarioError
from phalanx.domain.events import Event, Recorder, Sink
from phalanx.domain.messages import Message
from phalanx.domain.network import PopId
from phalanx.domain.rules import AllowedSources, AllowList
from phalanx.domain.trust import GroupKeys
from phalanx.fabric.access import STANDARD_POLICY, AccessPolicy
from phalanx.fabric.audit_trail import AuditTrail
from phalanx.fabric.calls import CallClient
from phalanx.fabric.join import Fabric
from phalanx.fabric.operations import STOP, Accepted, StopRequest
from phalanx.fabric.provider import Call
from phalanx.fabric.registry import Registry
from phalanx.identity.names import Identity, Role
from phalanx.infrastructure import Infrastructure
from phalanx.ledger.entries import AuditAnchored
from phalanx.policy.enforcement import PolicyEnforcer
from phalanx.reporting.summary import summarise
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import (
    ComposedAgent,
    description,
    first_view,
    install_monitors,
    installed_monitors,
    settings_of,
)
from phalanx.runtime.course import Course, Progress, RunResult, defects, record_end, reservations_of
from phalanx.runtime.environment import (
    BuildContext,
    DegradableNetwork,
    Environment,
    KeyedEnvironment,
    RunBus,
    RunNetwork,
    acting_on,
    faulty,
)
from phalanx.runtime.node import Node
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario
from phalanx.runtime.trusting import SECAAS, ModelledTrust, end_doings
from phalanx.slices.model import LoopIndex
from phalanx.store.memory import EventLog

DOMAIN = "run"
"""The domain that all agents of the run belong to."""
LEASE_S = 6.0
"""For how long an agent that says nothing stays in the registry, in seconds of the run."""


class System:
    """Agents, bus and network of one run. Make it, ``run`` it, look at ``log``."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int | None = None,
        sinks: Sequence[Sink] = (),
        *,
        functions: Sequence[type[Capability]] = (),
        realtime: float | None = None,
        environment: Environment | None = None,
        keep_events: int | None = None,
        incarnation: int = 1,
        policy: AccessPolicy = STANDARD_POLICY,
    ) -> None:
        """Compose the system; nothing happens before ``run``.

        Args:
            scenario: what to build.
            seed: of everything random; None: the scenario's.
            sinks: told of every event, in order.
            functions: capabilities beside the installed ones.
            realtime: None for virtual time; else virtual seconds per second of the wall clock.
            environment: where to run; None: the simulated network, by ``realtime``.
            keep_events: how many events the log in memory holds; None: all.
            incarnation: of the agents; higher than in any earlier run at the same places.
            policy: who may call what of the agents.

        Raises:
            ScenarioError: if the scenario names a function that cannot be had.

        """
        self.scenario = scenario
        self.seed = scenario.seed if seed is None else seed
        self.environment = environment or simulated(realtime)
        self.catalogue = load_catalogue(scenario, functions, self.environment.verdicts)
        self.network = scenario.to_network()
        self.log = EventLog(keep=keep_events)
        for sink in sinks:
            self.log.listen(sink)
        self.clock = self.environment.clock
        self.recorder = Recorder("run", self.log, self.clock.now)
        about = description(scenario, self.seed, self.catalogue)
        if isinstance(self.clock, VirtualClock):
            about["clocks"] = 1
        self.cause = self.recorder.record("run.started", None, **about)
        recorder = Recorder("network", self.log, self.clock.now)
        context = BuildContext(
            scenario, self.seed, self.catalogue.vnfds, recorder, self.cause, self._shed
        )
        self.infrastructure: RunNetwork = self.environment.build(context)
        self._acting = acting_on(self.infrastructure, scenario, self.clock, self.recorder)
        self.bus: RunBus = self.environment.bus(context)
        self.faulty_bus = faulty(self.bus, self.clock, scenario, self.seed)
        self.broker = MemoryBroker(self.clock)
        self.registry = Registry(self.join("run", Role.OPERATOR), self.clock)
        """The agents, as all of them see them: the broker in memory tells all at the same time."""
        self._policy = policy
        self._clients: dict[AgentId, MemoryClient] = {}
        sites = {pop.name: self.infrastructure.site(pop.name) for pop in self.network.pops}
        self._view = first_view(scenario, sites)
        self._free_at_start = self.infrastructure.free()
        self._orphans: dict[str, tuple[GoalInstance, str]] = {}
        """Goals of agents that died, which a guardian may take over, with their crash's event."""
        self._memories: dict[AgentId, bytes] = {}
        """What agents knew when they died."""
        self.log.listen(self._note_taken_over)
        self._declared = {agent.name: agent for agent in scenario.all_agents()}
        drifting = [fault.agent for fault in scenario.faults if fault.kind == "drift"]
        self._clocks = {name: DriftingClock(self.clock) for name in drifting if name}
        """Of agents whose clock will not be that of the run."""
        self._disks: dict[AgentId, FaultSpec] = {}
        """Agents whose disk is slow or full now."""
        for kind in ("degrade", "remove-rule"):
            if any(f.kind == kind for f in scenario.faults) and not isinstance(
                self.infrastructure, DegradableNetwork
            ):
                raise ScenarioError(f"faults: {kind} exists on the simulated network alone")
        if any(f.kind == "broker-down" for f in scenario.faults):
            raise ScenarioError("faults: broker-down needs phalanx run --spread")
        self._settings = settings_of(scenario, self._declared, self.catalogue)
        self._loops = LoopIndex(scenario.loops())
        self.trust: ModelledTrust | None = None
        if scenario.trust is not None:
            self.trust = ModelledTrust(
                scenario.trust,
                tuple(self._declared),
                self.seed,
                self.clock,
                PerAgentBus(self.faulty_bus, SECAAS),
                self.log,
                self.cause,
                self._expelled,
                self._rekeyed,
            )
        self.agents = {
            name: self._compose(declared, incarnation) for name, declared in self._declared.items()
        }
        self._trail = None if scenario.policy is None else self._audited(f"audit.{incarnation}")

    @property
    def nodes(self) -> dict[AgentId, Node]:
        """The nodes of the agents, by name."""
        return {name: agent.node for name, agent in self.agents.items()}

    def join(self, name: str, role: Role) -> MemoryClient:
        """Return a client of the run's broker for an identity, such as that of a person."""
        return self.broker.join(Identity(name, role, DOMAIN))

    def calls(self, name: str = "operator", role: Role = Role.OPERATOR) -> CallClient:
        """Return what invokes operations of agents in the name of an identity."""
        return CallClient(self.join(name, role), self.clock, life="1")

    def run(
        self,
        until: float | None = None,
        on_progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> RunResult:
        """Run to the end of the scenario, or to ``until``, or until asked to stop.

        Args:
            until: seconds of the run; None: the scenario's duration.
            on_progress: told the time once a simulated second.
            should_stop: asked often; the run ends in order once it says true.

        """
        try:
            return self._run(until, on_progress, should_stop)
        finally:
            if self.trust is not None:
                self.trust.close()
            self.environment.close()

    def _run(
        self,
        until: float | None,
        on_progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> RunResult:
        end = self.scenario.duration_s if until is None else until
        for agent in self.agents.values():
            agent.node.start(self.cause)
            agent.fabric.start()
            agent.fabric.serving()
        if self.trust is not None:
            for name, agent in self.agents.items():
                self.trust.follow(name, agent.node)
            self.trust.start()
        self._install_monitors()
        self._free_at_start = self.infrastructure.free()
        self.course = Course(
            self.scenario, self.catalogue.vnfds, self.clock, self.recorder, self.cause, self
        )
        if on_progress is not None:
            self._report_progress(on_progress)
        self.clock.run(end, should_stop)
        self._finish("finished" if self.clock.now() >= end else "interrupted", end)
        events = self.log.events
        return RunResult(events, summarise(events), defects(events))

    # -- composition ------------------------------------------------------------------

    def _compose(self, declared: DeclaredAgent, incarnation: int) -> ComposedAgent:
        name = declared.name
        clock = self._clocks.get(name, self.clock)
        client = self._clients[name] = self.join(name, Role.AGENT)
        recorder = Recorder(name, self.log, self.clock.now, f"{name}.{incarnation}.0")
        fabric = Fabric(
            client,
            clock,
            recorder.record,
            self.cause,
            incarnation=incarnation,
            policy=self._policy,
            capabilities=tuple(
                sorted({*self.catalogue.vnfds, *self.catalogue.brought_by(declared)})
            ),
            lease_s=LEASE_S,
            registry=self.registry,
        )
        fabric.provider.serve(STOP, partial(self._stop, name))
        bus, infrastructure = self.ports(declared, incarnation)
        composed = ComposedAgent(
            declared,
            self.scenario,
            self.catalogue,
            replace(
                self._settings,
                catalogue=dict(self.catalogue.vnfds),
                loops=self._loops.known_to(name),
            ),
            fabric,
            clock=clock,
            bus=bus,
            infrastructure=infrastructure,
            sink=self._in_true_time if name in self._clocks else self.log,
            cause=self.cause,
            incarnation=incarnation,
            view=self._view,
            on_left=partial(self._left, name),
            on_expired=lambda _: self._end(name),
            trust=None if self.trust is None else self.trust.terms(name),
            services=None if self.trust is None else self.trust.services(name),
        )
        if (slow := self._disks.get(name)) is not None and slow.kind == "slow-disk":
            composed.node.disk_delay_s = slow.delay_s
        return composed

    def _in_true_time(self, event: Event) -> None:
        """Log an event of an agent whose clock drifts at the time at which it happened."""
        self.log(replace(event, time=self.clock.now()))

    def ports(self, declared: DeclaredAgent, incarnation: int) -> tuple[Bus, Infrastructure]:  # noqa: ARG002
        """Return what carries an agent's messages and what performs its actions."""
        clock = self._clocks.get(declared.name)
        fast_s = None if clock is None else clock.fast_s
        bus: Bus = PerAgentBus(self.faulty_bus, declared.name, fast_s=fast_s)
        network = self._acting
        if self.trust is not None:
            bus = self.trust.bus(declared.name, bus)
            network = self.trust.guarded(declared.name, network)
        return bus, network

    def _install_monitors(self) -> None:
        """Put the Link Monitors in place that the scenario starts with."""
        lease_s = self.scenario.timing.lease_s
        vnfds = self.catalogue.vnfds
        install_monitors(self.infrastructure, self.scenario, vnfds, self.cause, lease_s)
        for monitor in installed_monitors(self.scenario):
            self.agents[monitor.duty.home].pursue([monitor])

    def _expelled(self, agent: AgentId, cause: str) -> None:
        """End what an agent has put in force that is not to be trusted."""
        pop = self._declared[agent].pop
        if pop is not None:
            end_doings(self._acting, agent, pop, cause)

    def _rekeyed(self, keys: GroupKeys, cause: str) -> None:
        """Protect what agents say with other keys, where that is protected."""
        if isinstance(self.environment, KeyedEnvironment):
            self.environment.rekey(keys, cause)

    # -- what happens from outside ----------------------------------------------------

    def allow(self, entries: Iterable[AllowedSources]) -> None:
        """Block and limit none of these from now on, and lift what does."""
        allow = self.infrastructure.allow = AllowList(entries)
        for agent in self.agents.values():
            agent.allow(allow)

    def lives(self, agent: AgentId) -> bool:
        """Return whether the agent runs."""
        return self.agents[agent].node.alive

    def crash(self, agent: AgentId, cause: str | None = None) -> None:
        """End an agent as kill -9 does; its host notes it, and keeps its memory."""
        composed = self.agents[agent]
        if agent not in self._disks or self._disks[agent].kind != "full-disk":
            self._memories[agent] = encode(remember(composed.agent))
        composed.crash()
        self._clients[agent].close()
        if self.trust is not None:
            self.trust.unfollow(agent)
        event = self.recorder.record("agent.crashed", cause or self.cause, pop=agent)
        covered = {goal.id for goal in open_goals(composed.agent)}
        for goal in composed.agent.open_goals():
            if goal.id in covered:
                self._orphans[goal.id] = goal, event
            else:
                self._end_goal(goal, event, GoalOutcome.FAILED, "its agent died")

    def restart(self, agent: AgentId, cause: str, *, remembering: bool = False) -> None:
        """Start an agent again that had crashed or left.

        Args:
            agent: its name.
            cause: the event that says so.
            remembering: whether it goes on with what it knew when it crashed; else, or if it
                left in order, it begins anew.

        """
        incarnation = self.agents[agent].agent.incarnation + 1
        composed = self.agents[agent] = self._compose(self._declared[agent], incarnation)
        octets = self._memories.pop(agent, None)
        if remembering and octets is not None:
            library = composed.agent.library
            composed.node.restore(self._of_open_goals(decode(octets, library)), cause)
        else:
            composed.node.start(cause)
        composed.fabric.start()
        composed.fabric.serving()
        if self.trust is not None:
            self.trust.follow(agent, composed.node)
            self.trust.deployed(agent, cause)

    def _of_open_goals(self, memory: Memory) -> Memory:
        """Return a memory in which those goals have ended whose end the log has told already."""
        goals = []
        for goal in memory.goals:
            still_open = self._orphans.pop(goal.id, None) is not None
            goals.append(goal if still_open else replace(goal, id=""))
        return replace(memory, goals=tuple(goals), lost=())

    def drain(self, agent: AgentId, cause: str | None = None) -> None:
        """Have an agent hand over what it does, and leave."""
        self.agents[agent].drain(cause or self.cause)

    def cut(self, a: PopId, b: PopId) -> None:
        """Cut a link."""
        self.infrastructure.fail_link(a, b)

    def mend(self, a: PopId, b: PopId) -> None:
        """Mend a link."""
        self.infrastructure.restore_link(a, b)

    def take_repository(self, *, away: bool) -> None:
        """Take the VNF repository off the network, or bring it back."""
        self.infrastructure.repository_away(away)

    def degrade(self, fault: FaultSpec, *, ends: bool) -> None:
        """Make a link, an agent's clock or its disk worse, or as it was."""
        agent = fault.agent or ""
        match fault.kind:
            case "degrade":
                assert fault.link is not None
                assert isinstance(self.infrastructure, DegradableNetwork)
                figures = fault.share or 0.0, fault.latency_ms, fault.loss
                self.infrastructure.degrade(*fault.link, *((1.0, 0.0, 0.0) if ends else figures))
            case "drift":
                jump_s = 0.0 if ends else fault.jump_s
                self._clocks[agent].adjust(1.0 if ends else fault.rate, jump_s)
            case "stale" | "blind":
                setattr(self.agents[agent].agent.capability(PolicyEnforcer), fault.kind, not ends)
            case "remove-rule":
                assert isinstance(self.infrastructure, DegradableNetwork)
                self.infrastructure.remove_rules(fault.effect or "")
            case _ if ends:
                self._disks.pop(agent, None)
                self.agents[agent].node.disk_delay_s = 0.0
            case _:
                self._disks[agent] = fault
                if fault.kind == "slow-disk":
                    self.agents[agent].node.disk_delay_s = fault.delay_s
                elif self.lives(agent):  # what it learns from now on is in no memory
                    self._memories[agent] = encode(remember(self.agents[agent].agent))

    def corrupt(self, agent: AgentId, how: str, cause: str) -> None:  # noqa: ARG002  # others find it
        """Alter an agent's program while it runs, or make it bid and enforce falsely."""
        if self.trust is not None:
            self.trust.corrupt(agent, how)

    def update(self, function: str, version: str, cause: str) -> None:
        """Tell the agents that the repository offers another version."""
        for agent in self.agents.values():
            agent.offer(function, version, cause)

    def _left(self, agent: AgentId) -> None:
        self.agents[agent].leave()
        self._clients[agent].close()
        if self.trust is not None:
            self.trust.unfollow(agent)

    def _stop(self, agent: AgentId, call: Call[StopRequest, Accepted]) -> None:
        call.done(Accepted("it ends; what it holds stays under its leases"))
        self.clock.call_soon(partial(self._end, agent))

    def _end(self, agent: AgentId) -> None:
        """End an agent in order, as a process that is told to."""
        composed = self.agents[agent]
        if composed.node.alive:
            composed.agent.stop(self.clock.now(), self.cause)
            composed.node.crash()
            self._left(agent)

    # -- the end ----------------------------------------------------------------------

    def _note_taken_over(self, event: Event) -> None:
        """End a dead agent's goal in the log once a guardian has taken it over."""
        if event.kind == "goal.taken_over":
            orphan = self._orphans.pop(event.data["instance_id"], None)
            if orphan is not None:
                self._end_goal(orphan[0], event.id, GoalOutcome.TAKEN_OVER, f"by {event.agent}")

    def _end_goal(self, goal: GoalInstance, cause: str, outcome: GoalOutcome, reason: str) -> None:
        self.recorder.record(
            "goal.ended",
            cause,
            goal=str(goal.goal),
            instance_id=goal.id,
            outcome=outcome.value,
            reason=reason,
        )

    def _shed(self, message: Message) -> None:
        self.recorder.record(
            "message.shed",
            message.cause,
            receiver=message.receiver,
            performative=message.performative.value,
        )

    def _report_progress(self, on_progress: Progress) -> None:
        def tick() -> None:
            on_progress(self.clock.now())
            self.clock.call_at(self.clock.now() + 1.0, tick)

        self.clock.call_soon(tick)

    def _audited(self, prefix: str) -> AuditTrail:
        """Return what seals the log from now on, the events that are in it included."""
        trail = AuditTrail(
            Recorder("run", self.log, self.clock.now, prefix), sealed=partial(self._anchor, prefix)
        )
        for event in self.log.events:
            trail(event)
        self.log.listen(trail)
        trail.seal_often(self.clock)
        return trail

    def _anchor(self, prefix: str, number: int, head: str) -> None:
        if self.trust is not None:
            self.trust.anchor(AuditAnchored(SECAAS, prefix, number, head))

    def _finish(self, reason: str, planned_s: float) -> None:
        """End what is still open, so that the log has an end for every beginning."""
        for agent in self.agents.values():
            if agent.node.alive:
                agent.agent.stop(self.clock.now(), self.cause)
        for goal, cause in self._orphans.values():
            reason_ended = "its agent died and nobody took it over"
            self._end_goal(goal, cause, GoalOutcome.FAILED, reason_ended)
        record_end(
            self.recorder,
            self.cause,
            reason,
            self.log,
            messages={p.value: n for p, n in self.bus.sent.items()},
            shed=sum(self.bus.shed.values()),
            planned_s=planned_s,
            delivery={
                "delivered": self.bus.delivered,
                "queued": self.bus.queued,
                "lost": self.bus.lost,
                "lost_by_faults": self.faulty_bus.counts["lose"],
                "contents": dict(sorted(getattr(self.bus, "contents", {}).items())),
            },
            reservations=reservations_of(self.infrastructure, self._free_at_start),
        )
        if self._trail is not None:
            self._trail.seal()


def run_scenario(
    scenario: Scenario,
    seed: int | None = None,
    sinks: Sequence[Sink] = (),
    until: float | None = None,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    realtime: float | None = None,
    functions: Sequence[type[Capability]] = (),
    environment: Environment | None = None,
) -> RunResult:
    """Run a scenario from its start to its end; see ``System`` for the arguments."""
    environment = environment or simulated(realtime)
    try:
        system = System(scenario, seed, sinks, functions=functions, environment=environment)
        return system.run(until, on_progress, should_stop)
    finally:
        environment.close()


def simulated(realtime: float | None) -> Environment:
    """Return the simulated environment, by virtual time or so many virtual seconds a second."""
    # numpy and networkx take 35 MB, which an agent on a real machine does without.
    from phalanx.runtime.simulation import SimulatedEnvironment  # noqa: PLC0415

    return SimulatedEnvironment(realtime=realtime)
