"""A run spread out: a broker, the network and each agent in processes of their own.

The scenario, the agents and the outcome are those of a run in one process; what lies between
is real: time, processes, mutual TLS, a stream that keeps the events. Who runs it records the
beginning and the end, breaks what the scenario breaks, and reads everything from the stream.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from phalanx.bus import subjects
from phalanx.bus.client import Stored
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.domain.events import Event, Recorder, Sink, in_causal_order
from phalanx.domain.network import PopId
from phalanx.fabric import operations as ops
from phalanx.fabric.calls import CallClient, CallError
from phalanx.fabric.envelope import EnvelopeError, event_of
from phalanx.identity.names import Role
from phalanx.reporting.summary import summarise
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import NEW_VERSION, VersionRequest, description
from phalanx.runtime.course import (
    RESERVATIONS,
    Course,
    Progress,
    ReservationsAnswer,
    ReservationsRequest,
    RunResult,
    defects,
    record_end,
)
from phalanx.runtime.domain.spec import read_bundle
from phalanx.runtime.environment import LINUX_LEAD_S, Say, check_linux
from phalanx.runtime.processes.network import LINK, REPOSITORY, LinkRequest, RepositoryRequest
from phalanx.runtime.processes.process import RecordingClient, run_clock
from phalanx.runtime.processes.secaas import SecaasIdentity
from phalanx.runtime.processes.spec import RunSpec
from phalanx.runtime.processes.testbed import ProcessTestbed
from phalanx.runtime.processes.trusting import TrustTestbed, genuine
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.trusting import SECAAS
from phalanx.store.state import StateFile
from phalanx.trust.processes import new_hash_seed

RUN = "run"
NETWORK = "network"
START_S, START_EACH_S = 4.0, 0.5
"""Real seconds from starting the processes to second 0, and how many more for each of them."""
FIRST_LOOKS = 1.2
"""Time until all agents were looked at, as a multiple of the first looks' own on this machine."""
CALL_S = 5.0
END_S = 10.0
"""How long processes may take to say their last events, in real seconds."""


class Spread:
    """One run over processes. Make it, ``run`` it once."""

    def __init__(
        self,
        scenario: Scenario,
        plan: Path,
        seed: int | None = None,
        sinks: Sequence[Sink] = (),
        *,
        speed: float = 1.0,
        on: str = "simulation",
        say: Say = lambda _: None,
        settling_s: float = 0.0,
    ) -> None:
        """Choose what to run; nothing happens before ``run``.

        Args:
            scenario: what to run.
            plan: the file that it was read from, which every process reads.
            seed: of everything random; None: the scenario's.
            sinks: told of every event as it arrives, but of none before its cause.
            speed: seconds of the run per second.
            on: where the network stands.
            say: told in one line what is being made.
            settling_s: at some moment of the last seconds, so many, agents and network must agree
                on what is held; else the result says how they do not. 0: nobody asks.

        """
        for number, fault in enumerate(scenario.faults):
            if fault.kind in ("drift", "slow-disk", "remove-rule", "stale", "blind") or (
                fault.kind == "degrade" and on == "linux"
            ):
                where = f"{plan}: faults[{number}].kind"
                raise ScenarioError(f"{where}: {fault.kind} needs a simulation in one process")
        self._scenario = scenario
        self._plan = plan.absolute()
        self._seed = scenario.seed if seed is None else seed
        self._sinks = tuple(sinks)
        self._speed = speed
        self._on = on
        self._made = 0
        """Lines of what the network's process has made that were told already."""
        self._say = say
        self._agents = tuple(agent.name for agent in scenario.all_agents())
        self._catalogue = load_catalogue(scenario)
        self._events: dict[str, Event] = {}
        self._told: set[str] = set()
        self._early: dict[str, list[Event]] = {}
        """Events that came before their cause, by that."""
        self._reservations: ReservationsAnswer | None = None
        self._settling_s = settling_s
        self._unsettled: tuple[str, ...] = ("not all have answered",) if settling_s else ()
        self._down: set[PopId] = set()
        """Agents that are not meant to run now."""
        self._ending = False

    def run(
        self,
        until: float | None = None,
        on_progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> RunResult:
        """Run to the end of the scenario, or to ``until``, or until asked to stop.

        Args:
            until: seconds of the run; None: the scenario's duration.
            on_progress: told the time once a second of the run.
            should_stop: asked often; the run ends in order once it says true.

        Raises:
            PhalanxError: with one line, if a process cannot be had, or that of the network ends
                before its time.

        """
        if self._on == "linux":
            check_linux()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phalanx-")))
            members = [(RUN, Role.OPERATOR), (NETWORK, Role.NETWORK)]
            members += [(name, Role.AGENT) for name in self._agents]
            if self._scenario.trust is not None:
                members.append((SECAAS, Role.AGENT))
            brokers = 3 if any(f.kind == "broker-down" for f in self._scenario.faults) else 1
            self._processes = processes = ProcessTestbed(folder, members, brokers=brokers)
            stack.callback(self._clear_testbed)
            stack.callback(processes.close)
            allowance = START_S + START_EACH_S * len(self._agents)
            allowance += LINUX_LEAD_S if self._on == "linux" else 0.0
            reference = None
            if self._scenario.trust is not None:
                rehearsal, seed = folder / "rehearsal", new_hash_seed()
                reference, took_s = genuine(rehearsal, self._plan, self._say, hash_seed=seed)
                allowance += FIRST_LOOKS * took_s * len(self._agents)
                processes.environment = reference.environment
            self._run = RunSpec(time.time() + allowance, self._speed, f"{RUN}-1", self._seed)
            self._clock = run_clock(self._run)
            stack.callback(self._clock.close)
            bundle = read_bundle(processes.bus(RUN))
            own = RecordingClient(stack, bundle, folder / "run", self._clock, self._run)
            self._exchange = own.client
            self._client = CallClient(self._exchange, self._clock, life="1")
            self._recorder = Recorder(RUN, own.stream, self._clock.now)
            self._trust: TrustTestbed | None = None
            if reference is not None and self._scenario.trust is not None:
                self._trust = TrustTestbed(
                    self._scenario.trust, self._agents, processes, self._clock, reference
                )
                stack.callback(self._trust.close)
                self._secaas = SecaasIdentity(
                    stack, processes.bus(SECAAS), folder / SECAAS, self._clock, self._run
                )
            return self._go(until, on_progress, should_stop)

    def _go(
        self,
        until: float | None,
        on_progress: Progress | None,
        should_stop: Callable[[], bool] | None,
    ) -> RunResult:
        end = self._scenario.duration_s if until is None else until
        described = description(self._scenario, self._seed, self._catalogue)
        self._cause = self._recorder.record("run.started", None, **described)
        self._exchange.follow(subjects.EVENTS, self._heard)
        self._start(NETWORK)
        for name in self._agents:
            self._start(name)
        self._say(f"a broker and {len(self._agents) + 1} processes, events by way of NATS")
        Course(
            self._scenario, self._catalogue.vnfds, self._clock, self._recorder, self._cause, self
        )
        self._every(1.0, partial(self._look, on_progress))
        if self._trust is not None:
            secaas = self._secaas
            begin = partial(self._trust.start, secaas.bus, secaas.stream, self._cause)
            self._clock.call_at(0.0, begin)
        self._clock.call_at(end, self._count)
        if self._settling_s:
            self._clock.call_at(end - self._settling_s, partial(self._survey, end))
        self._clock.run(end, should_stop)
        self._finish("finished" if self._clock.now() >= end else "interrupted", end)
        events = in_causal_order(self._events.values())
        found = defects(events) + self._processes.tracebacks()
        return RunResult(events, summarise(events), found, self._unsettled)

    def _start(self, name: str) -> None:
        verb = "network" if name == NETWORK else "agent"
        where = {"on": self._on} if name == NETWORK else {}
        trust = None if self._trust is None else self._trust.config(name)
        settings = {"plan": str(self._plan), **where}
        self._processes.start(verb, name, settings, self._run, trust=trust)

    def _heard(self, stored: Stored) -> None:
        stored.acknowledge()
        try:
            event = event_of(stored, self._exchange.identity.domain)
        except (EnvelopeError, ValueError) as error:
            raise PhalanxError(f"{stored.subject}: {error}") from None
        if event.id not in self._events:
            self._events[event.id] = event
            if self._trust is not None and event.kind == "process.started":
                self._trust.started(event.agent)
            self._tell(event)

    def _tell(self, event: Event) -> None:
        """Tell the sinks of an event whose cause they know, and of those that waited for it."""
        turns = [event]
        for turn in turns:
            if turn.cause is None or turn.cause in self._told:
                self._told.add(turn.id)
                for sink in self._sinks:
                    sink(turn)
                turns += self._early.pop(turn.id, ())
            else:
                self._early.setdefault(turn.cause, []).append(turn)

    def _look(self, on_progress: Progress | None) -> None:
        """Check that the network's process runs, note which agents do not, and report the time."""
        now = self._clock.now()
        self._tell_testbed()
        if now < self._scenario.duration_s and not self._ending:
            for name in (NETWORK, *self._agents):
                if name in self._down or self._processes.lives(name):
                    continue
                ended = f"the process of {name} ended: {self._processes.end_of(name)}"
                if name == NETWORK:
                    raise PhalanxError(ended)
                self._say(f"{ended}; the others go on without it")
                self._lost(name, self._cause)
        if on_progress is not None and now > 0:
            on_progress(now)

    def _tell_testbed(self) -> None:
        """Tell what the network's process has made since the last look."""
        if self._on == "linux":
            from phalanx.runtime.linux_environment import made  # noqa: PLC0415  # an extra

            lines = made(self._processes.state(NETWORK))
            for line in lines[self._made :]:
                self._say(line)
            self._made = max(self._made, len(lines))

    def _clear_testbed(self) -> None:
        """Remove what the network's process has left if it was killed; it does not run."""
        if self._on == "linux":
            from phalanx.runtime.linux_environment import clear  # noqa: PLC0415  # an extra

            if (cleared := clear(self._processes.state(NETWORK))) is not None:
                self._say(cleared)

    def _every(self, period_s: float, call: Callable[[], None]) -> None:
        def turn() -> None:
            call()
            self._clock.call_at(self._clock.now() + period_s, turn)

        self._clock.call_soon(turn)

    # -- what happens from outside ----------------------------------------------------------

    def lives(self, agent: AgentId) -> bool:
        """Return whether the process of the agent runs."""
        return self._processes.lives(agent)

    def crash(self, agent: AgentId, cause: str) -> None:
        """End the process of an agent by SIGKILL."""
        self._processes.kill(agent)
        self._lost(agent, cause)

    def _lost(self, agent: AgentId, cause: str) -> None:
        self._down.add(agent)
        self._recorder.record("agent.crashed", cause, pop=agent)

    def restart(self, agent: AgentId, cause: str, *, remembering: bool) -> None:
        """Start the process of an agent again; of a life in processes, none has a cause."""
        if not remembering:
            with StateFile(self._processes.state(agent)) as state:
                state.begin()
                state.save(b"")
        self._start(agent)
        self._down.discard(agent)
        if self._trust is not None:
            self._trust.deployed(agent, cause)

    def drain(self, agent: AgentId, cause: str) -> None:
        """Have an agent hand over what it does, and leave."""
        self._down.add(agent)
        within = self._scenario.timing.drain_s * 2
        self._call(agent, ops.DRAIN, ops.DrainRequest(within), cause=cause)

    def cut(self, a: PopId, b: PopId) -> None:
        """Cut a link."""
        self._call(NETWORK, LINK, LinkRequest(a, b, up=False))

    def mend(self, a: PopId, b: PopId) -> None:
        """Mend a link."""
        self._call(NETWORK, LINK, LinkRequest(a, b, up=True))

    def take_repository(self, *, away: bool) -> None:
        """Take the VNF repository off the network, or bring it back."""
        self._call(NETWORK, REPOSITORY, RepositoryRequest(away))

    def degrade(self, fault: FaultSpec, *, ends: bool) -> None:
        """Make a link worse, or kill a broker, or let an agent write no more; or undo it."""
        agent = fault.agent or ""
        if fault.link is not None:
            worse = fault.share or 0.0, fault.latency_ms, fault.loss
            figures = (1.0, 0.0, 0.0) if ends else worse
            self._call(NETWORK, LINK, LinkRequest(*fault.link, up=True, figures=figures))
            return
        if fault.kind == "broker-down":
            server = self._processes.brokers.servers[(fault.broker or 1) - 1]
            if ends and server.pid is None:
                server.start(detached=True)
            elif not ends and server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)
        elif self.lives(agent):
            room = resource.RLIM_INFINITY if ends else 0
            limits = room, resource.RLIM_INFINITY
            resource.prlimit(self._processes.pid(agent), resource.RLIMIT_FSIZE, limits)

    def corrupt(self, agent: AgentId, how: str, cause: str) -> None:  # noqa: ARG002
        """Write into an agent's memory from another process; a liar lies by its plan."""
        if self._trust is not None and how == "infect" and self.lives(agent):
            self._trust.infect(agent)

    def update(self, function: str, version: str, cause: str) -> None:
        """Tell the agents that the repository offers another version."""
        for name in self._agents:
            self._call(name, NEW_VERSION, VersionRequest(function, version, cause), cause=cause)

    def _call(
        self,
        owner: str,
        operation: Any,
        request: Any,
        answer: Callable[[Any], None] | None = None,
        cause: str | None = None,
    ) -> None:
        def answered(found: ops.Accepted | CallError) -> None:
            if answer is not None:
                answer(found)

        self._client.invoke(
            owner,
            operation,
            request,
            answered,
            timeout_s=CALL_S * self._speed,
            cause=cause or self._cause,
            attempts=3,
        )

    # -- the end ----------------------------------------------------------------------------

    def _survey(self, end: float) -> None:
        """Ask who lives what it holds, and the network what is held, until they agree."""
        living = [name for name in self._agents if name not in self._down]
        asked = (ops.STATUS, ops.StatusRequest()), (ops.INVENTORY, ops.InventoryRequest())
        answers: dict[str, Any] = {}

        def answered(about: str, found: Any) -> None:
            answers[about] = found
            if len(answers) < 2 * len(living) + 1:
                return
            self._unsettled = disagreements(answers.values()) if living else ()
            if self._unsettled and self._clock.now() + 1.0 < end:
                self._clock.call_at(self._clock.now() + 1.0, partial(self._survey, end))

        self._call(NETWORK, RESERVATIONS, ReservationsRequest(), partial(answered, NETWORK))
        for name in living:
            for operation, request in asked:
                about = f"{operation.name} of {name}"
                self._call(name, operation, request, partial(answered, about))

    def _count(self) -> None:
        """Ask what is held and free."""

        def counted(found: ReservationsAnswer | CallError) -> None:
            if isinstance(found, ReservationsAnswer):
                self._reservations = found

        self._call(NETWORK, RESERVATIONS, ReservationsRequest(), counted)

    def _finish(self, reason: str, planned_s: float) -> None:
        """Wait for the last event of each process, then record the end of the run."""
        clock, self._ending = self._clock, True
        if clock.now() < self._scenario.duration_s:  # else they end by themselves
            for name in self._agents:
                self._processes.signal(name, signal.SIGINT)
        if self._reservations is None:
            self._count()
        deadline = clock.now() + END_S * self._speed
        clock.run(deadline, lambda: self._reservations is not None and self._all_said(self._agents))
        self._processes.signal(NETWORK, signal.SIGTERM)
        deadline = clock.now() + END_S * self._speed
        clock.run(deadline, lambda: self._all_said((NETWORK,)))
        self._processes.wait(NETWORK, END_S)  # it may have much to take apart
        ended = self._record_end(reason, planned_s)
        deadline = clock.now() + END_S * self._speed
        clock.run(deadline, lambda: ended in self._events)
        for event in in_causal_order(e for early in self._early.values() for e in early):
            for sink in self._sinks:  # their causes never came
                sink(event)

    def _all_said(self, names: Sequence[str]) -> bool:
        """Whether the last event of each life that ended in order has arrived."""
        last = {e.agent for e in self._events.values() if e.kind == "process.ended"}
        return last >= {*names} - self._down

    def _record_end(self, reason: str, planned_s: float) -> str:
        messages: Counter[str] = Counter()
        shed = 0
        for event in self._events.values():
            if event.kind == "process.ended":
                shed += event.data.get("shed", 0)
                messages.update(event.data.get("messages", {}))
        return record_end(
            self._recorder,
            self._cause,
            reason,
            self._events.values(),
            messages=dict(sorted(messages.items())),
            shed=shed,
            planned_s=planned_s,
            delivery={},
            reservations=self._reservations,
        )


def disagreements(answers: Iterable[Any]) -> tuple[str, ...]:
    """Return what is wrong with what agents and network of a domain say they hold, a line each.

    Each lease is that of an agent that knows it, what agents keep in force is in force, no effect
    is made twice, and somebody sees to each duty.

    Args:
        answers: a ``ReservationsAnswer``, and each agent's inventory and status, or errors.

    """
    leases: set[str] = set()
    held: set[str] = set()
    duties: dict[str, bool] = {}
    wrong = []
    for answer in answers:
        match answer:
            case ReservationsAnswer():
                leases = {*answer.leases}
            case ops.InventoryAnswer(instances, measures):
                held |= {i.instance for i in instances} | {m.measure for m in measures}
            case ops.StatusAnswer():
                for duty, mine in answer.duties.items():
                    duties[duty] = duties.get(duty, False) or mine
            case _:
                wrong.append(f"no answer: {answer}")
    in_force = {name for name in leases if ":" in name}
    effects = Counter(name.partition(":")[2] for name in in_force)
    wrong += [f"{name} is leased to nobody" for name in leases - held if "/installed" not in name]
    wrong += [f"{name} is not in force" for name in held - in_force if ":" in name]
    wrong += [f"{effect} is made twice" for effect, count in effects.items() if count > 1]
    wrong += [f"nobody sees to {duty}" for duty, owned in duties.items() if not owned]
    return tuple(sorted(wrong))
