"""A whole system in one process: agents, bus and simulated network, made from a scenario."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import asdict, replace

from phalanx.auction.outlook import Outlook
from phalanx.bdi import Capability, GoalInstance, GoalOutcome
from phalanx.bdi.memory import Memory, decode, encode, remember
from phalanx.bus.memory import PerAgentBus
from phalanx.clock.wall import WallClock
from phalanx.coordination.failover import open_goals
from phalanx.coordination.lifecycle import NewVersion
from phalanx.domain.events import Event, Recorder, Sink
from phalanx.domain.messages import Message
from phalanx.domain.network import PopId
from phalanx.reporting.summary import Summary, summarise
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import (
    MONITOR,
    description,
    first_view,
    installed,
    settings_of,
    take_up,
)
from phalanx.runtime.environment import BuildContext, Environment, RunBus, RunNetwork, faulty
from phalanx.runtime.node import Node, make_agent
from phalanx.runtime.scenario import FaultSpec, Scenario, UpdateSpec
from phalanx.store.memory import EventLog

Progress = Callable[[float], None]
RESTART = "restart"
DRAIN = "drain"


class RunResult(Struct, frozen=True):
    """What a run left behind."""

    events: list[Event]
    summary: Summary


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
        self.cause = self.recorder.record(
            "run.started", None, **description(scenario, self.seed, self.catalogue)
        )
        self.settings = settings_of(
            scenario, (pop.name for pop in self.network.pops), self.catalogue
        )
        self.infrastructure: RunNetwork
        self.bus: RunBus
        context = BuildContext(
            scenario,
            self.seed,
            self.catalogue.vnfds,
            lambda about: Recorder("network", self.log, self.clock.now, prefix=about),
            self.cause,
            self._shed,
        )
        self.infrastructure = self.environment.build(context)
        self.bus = self.environment.bus(context)
        self.faulty_bus = faulty(self.bus, self.clock, scenario, self.seed)
        self.view = first_view(
            (pop.name, self.infrastructure.site(pop.name)) for pop in self.network.pops
        )
        self._free_at_start = self.infrastructure.free()
        self._orphans: dict[str, tuple[GoalInstance, str]] = {}
        """Goals of agents that died, which a guardian may take over, with their crash's event."""
        self._memories: dict[PopId, bytes] = {}
        """What agents knew when they died."""
        self.log.listen(self._note_taken_over)
        self.nodes = {pop: self._node(pop, incarnation) for pop in self.settings.peers}

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
            self.environment.close()

    def _run(
        self,
        until: float | None,
        on_progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> RunResult:
        end = self.scenario.duration_s if until is None else until
        for node in self.nodes.values():
            node.start(self.cause)
        self._install_monitors()
        self._free_at_start = self.infrastructure.free()
        self._plan_faults()
        if on_progress is not None:
            self._report_progress(on_progress)
        self.clock.run(end, should_stop)
        self._finish("finished" if self.clock.now() >= end else "interrupted")
        events = self.log.events
        return RunResult(events, summarise(events))

    def crash(self, pop: PopId) -> None:
        """Let an agent die as kill -9 does; its host notes it, and keeps its memory."""
        node = self.nodes[pop]
        if not node.alive:
            return
        self._memories[pop] = encode(remember(node.agent))
        event = self.recorder.record("fault.injected", self.cause, fault="crash", agent=pop)
        node.crash()
        event = self.recorder.record("agent.crashed", event, pop=pop)
        covered = {goal.id for goal in open_goals(node.agent)}
        for goal in node.agent.open_goals():
            if goal.id in covered:
                self._orphans[goal.id] = goal, event
            else:
                self._end_goal(goal, event, GoalOutcome.FAILED, "its agent died")

    def restart(self, pop: PopId, *, remembering: bool = False) -> None:
        """Start an agent again that had crashed or left.

        Args:
            pop: whose.
            remembering: whether it goes on with what it knew when it crashed; else, or if it
                left in order, it begins anew.

        """
        old = self.nodes[pop]
        if old.alive:
            return
        data = {"memory": True} if remembering else {}
        event = self.recorder.record("fault.injected", self.cause, fault=RESTART, agent=pop, **data)
        node = self.nodes[pop] = self._node(pop, old.agent.incarnation + 1)
        octets = self._memories.pop(pop, None)
        if remembering and octets is not None:
            node.restore(self._of_open_goals(decode(octets, self.catalogue.library)), event)
        else:
            node.start(event)

    def _of_open_goals(self, memory: Memory) -> Memory:
        """Return a memory in which those goals have ended whose end the log has told already."""
        goals = []
        for goal in memory.goals:
            still_open = self._orphans.pop(goal.id, None) is not None
            goals.append(goal if still_open else replace(goal, id=""))
        return replace(memory, goals=tuple(goals), lost=())

    def drain(self, pop: PopId) -> None:
        """Let an agent hand over what it does, and leave."""
        node = self.nodes[pop]
        if not node.alive:
            return
        event = self.recorder.record("fault.injected", self.cause, fault=DRAIN, agent=pop)
        node.drain(event)

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

    # -- composition ------------------------------------------------------------------

    def _node(self, pop: PopId, incarnation: int) -> Node:
        agent = make_agent(
            pop,
            self.catalogue.library,
            self.settings,
            self.log,
            parameters=self.scenario.parameters,
            incarnation=incarnation,
            pop=pop,
        )
        outlook: Outlook = agent.capability(Outlook)
        outlook.view = self.view
        return Node(agent, self.clock, PerAgentBus(self.faulty_bus, pop), self.infrastructure)

    def _install_monitors(self) -> None:
        """Put the Link Monitors in place that the scenario starts with."""
        for number, monitor in enumerate(self.scenario.monitors, 1):
            node, name = self.nodes[monitor.at], installed(number, monitor)
            self.infrastructure.install(
                monitor.at,
                name,
                self.catalogue.vnfds[MONITOR],
                units=1,
                ttl_s=self.settings.lease_s,
                cause=self.cause,
            )
            pursue = take_up(node.agent, name, monitor, self.settings)
            node.agent.cause = self.cause
            node.carry_out(pursue(self.clock.now()))

    # -- what happens from outside ----------------------------------------------------

    def _plan_faults(self) -> None:
        for fault in self.scenario.faults:
            self.clock.call_at(fault.at_s, partial(self._inject, fault))
        for update in self.scenario.updates:
            self.clock.call_at(update.at_s, partial(self._update, update))

    def _inject(self, fault: FaultSpec) -> None:
        network = self.infrastructure
        undo: Callable[[], None] | None = None
        if fault.kind == "crash" and fault.agent is not None:
            self.crash(fault.agent)
            undo = partial(self.restart, fault.agent, remembering=bool(fault.memory))
        elif fault.kind == RESTART and fault.agent is not None:
            self.restart(fault.agent, remembering=bool(fault.memory))
        elif fault.kind == DRAIN and fault.agent is not None:
            self.drain(fault.agent)
        elif fault.kind == "link-down" and fault.link is not None:
            network.fail_link(*fault.link)
            undo = partial(network.restore_link, *fault.link)
        elif fault.kind == "link-up" and fault.link is not None:
            network.restore_link(*fault.link)
        elif fault.kind.startswith("repository"):
            away = fault.kind == "repository-away"
            network.repository_away(away)
            undo = partial(network.repository_away, False) if away else None
        else:
            data = {n: v for n, v in asdict(fault).items() if v is not None and n != "kind"}
            self.recorder.record("fault.injected", self.cause, fault=fault.kind, **data)
        if fault.for_s is not None and undo is not None:
            self.clock.call_at(self.clock.now() + fault.for_s, undo)

    def _update(self, update: UpdateSpec) -> None:
        """Offer another version in the repository, and let the agents know."""
        old = self.settings.catalogue.get(update.function)
        if old is None:
            return
        vnfd = replace(old, version=update.version)
        self.settings.catalogue[update.function] = vnfd
        event = self.recorder.record(
            "repository.changed", self.cause, function=update.function, version=update.version
        )
        for node in self.nodes.values():
            node.tell(NewVersion(vnfd, event), event)

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

    def _finish(self, reason: str) -> None:
        """End what is still open, so that the log has an end for every beginning."""
        for node in self.nodes.values():
            if node.alive:
                node.agent.stop(self.clock.now(), self.cause)
        for goal, cause in self._orphans.values():
            reason = "its agent died and nobody took it over"
            self._end_goal(goal, cause, GoalOutcome.FAILED, reason)
        outcomes: dict[str, int] = {}
        for event in self.log:
            if event.kind == "goal.ended":
                outcome = event.data["outcome"]
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.recorder.record(
            "run.ended",
            self.cause,
            reason=reason,
            messages={p.value: n for p, n in self.bus.sent.items()},
            shed=sum(self.bus.shed.values()),
            reserved_mb_s=self.infrastructure.reserved_mb_s(),
            given_back=self.infrastructure.free() == self._free_at_start,
            free={pop: asdict(free) for pop, free in self.infrastructure.free().items()},
            leases=list(self.infrastructure.leases()),
            goals=dict(sorted(outcomes.items())),
        )


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

    return SimulatedEnvironment(None if realtime is None else WallClock(speed=realtime))
