"""A run spread out: a broker, the network and each agent in processes of their own.

The scenario, the agents and the outcome are those of a run in one process; what lies between
is real: time, processes, mutual TLS, a stream that keeps the events. Who runs it records the
beginning and the end, breaks what the scenario breaks, and reads everything from the stream.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from phalanx.bus import subjects
from phalanx.bus.client import Stored
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event, Recorder, Sink
from phalanx.domain.network import PopId
from phalanx.fabric.calls import CallClient, CallError
from phalanx.fabric.envelope import EnvelopeError
from phalanx.fabric.operations import DRAIN, Accepted, DrainRequest
from phalanx.identity.names import Role
from phalanx.reporting.summary import summarise
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import description
from phalanx.runtime.domain import read_bundle
from phalanx.runtime.environment import LINUX_LEAD_S, Say, check_linux
from phalanx.runtime.processes.desk import NEW_VERSION, VersionRequest
from phalanx.runtime.processes.ground import Ground, check_all_live
from phalanx.runtime.processes.network import (
    LINK,
    REPOSITORY,
    RESERVATIONS,
    LinkRequest,
    RepositoryRequest,
    ReservationsAnswer,
    ReservationsRequest,
)
from phalanx.runtime.processes.recorder import event_of
from phalanx.runtime.processes.shell import run_clock
from phalanx.runtime.processes.spec import On, RunSpec
from phalanx.runtime.processes.start import connected
from phalanx.runtime.processes.stream import PAUSE_S, EventStream
from phalanx.runtime.scenario import FaultSpec, Scenario, UpdateSpec
from phalanx.runtime.system import Progress, RunResult
from phalanx.store.outbox import Outbox
from phalanx.store.state import StateFile

RUN = "run"
NETWORK = "network"
START_S, START_EACH_S = 4.0, 0.5
"""Real seconds from starting the processes to second 0, and how many more for each of them."""
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
        on: On = "simulation",
        say: Say = lambda _: None,
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

        """
        self._scenario = scenario
        self._plan = plan.absolute()
        self._seed = scenario.seed if seed is None else seed
        self._sinks = tuple(sinks)
        self._speed = speed
        self._on = on
        self._made = 0
        """Lines of what the network's process has made that were told already."""
        self._say = say
        self._pops = tuple(sorted(pop.name for pop in scenario.to_network().pops))
        self._catalogue = load_catalogue(scenario)
        self._events: dict[str, Event] = {}
        self._told: set[str] = set()
        self._early: dict[str, list[Event]] = {}
        """Events that came before their cause, by that."""
        self._books: ReservationsAnswer | None = None
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
            PhalanxError: with one line, if a process cannot be had or ends before its time.

        """
        if self._on == "linux":
            check_linux()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phalanx-")))
            members = [(RUN, Role.OPERATOR), (NETWORK, Role.NETWORK)]
            members += [(pop, Role.AGENT) for pop in self._pops]
            self._ground = ground = Ground(folder, members)
            stack.callback(self._clear_testbed)
            stack.callback(ground.close)
            allowance = START_S + START_EACH_S * len(self._pops)
            allowance += LINUX_LEAD_S if self._on == "linux" else 0.0
            self._run = RunSpec(time.time() + allowance, self._speed, f"{RUN}-1", self._seed)
            self._clock = run_clock(self._run)
            stack.callback(self._clock.close)
            bundle = read_bundle(ground.bus(RUN))
            state = stack.enter_context(StateFile(folder / "run"))
            outbox = stack.enter_context(Outbox(state))
            self._exchange = stack.enter_context(connected(bundle, self._clock))
            self._stream = EventStream(
                self._exchange,
                outbox,
                self._clock,
                epoch_s=self._run.epoch_s,
                pause_s=PAUSE_S * self._speed,
            )
            self._client = CallClient(self._exchange, self._clock, life="1")
            self._recorder = Recorder(RUN, self._stream, self._clock.now)
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
        for pop in self._pops:
            self._start(pop)
        self._say(f"a broker and {len(self._pops) + 1} processes, events by way of NATS")
        self._plan_faults()
        self._every(1.0, partial(self._look, on_progress))
        self._clock.call_at(
            end, partial(self._call, NETWORK, RESERVATIONS, ReservationsRequest(), self._counted)
        )
        self._clock.run(end, should_stop)
        self._finish("finished" if self._clock.now() >= end else "interrupted")
        events = in_causal_order(self._events.values())
        return RunResult(events, summarise(events))

    def _start(self, name: str) -> None:
        verb = "network" if name == NETWORK else "agent"
        where = {"on": self._on} if name == NETWORK else {}
        self._ground.start(verb, name, {"plan": str(self._plan), **where}, self._run)

    def _heard(self, stored: Stored) -> None:
        stored.acknowledge()
        try:
            event = event_of(stored, self._exchange.identity.domain)
        except (EnvelopeError, ValueError) as error:
            raise PhalanxError(f"{stored.subject}: {error}") from None
        if event.id not in self._events:
            self._events[event.id] = event
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
        """See that everybody lives who should, and tell the time."""
        now = self._clock.now()
        self._tell_testbed()
        if now < self._scenario.duration_s and not self._ending:
            check_all_live(self._ground, (n for n in (NETWORK, *self._pops) if n not in self._down))
        if on_progress is not None and now > 0:
            on_progress(now)

    def _tell_testbed(self) -> None:
        """Tell what the network's process has made since the last look."""
        if self._on == "linux":
            from phalanx.runtime.linux_environment import made  # noqa: PLC0415  # an extra

            lines = made(self._ground.state(NETWORK))
            for line in lines[self._made :]:
                self._say(line)
            self._made = max(self._made, len(lines))

    def _clear_testbed(self) -> None:
        """Remove what the network's process has left if it was killed; it does not run."""
        if self._on == "linux":
            from phalanx.runtime.linux_environment import clear  # noqa: PLC0415  # an extra

            if (cleared := clear(self._ground.state(NETWORK))) is not None:
                self._say(cleared)

    def _every(self, period_s: float, call: Callable[[], None]) -> None:
        def turn() -> None:
            call()
            self._clock.call_at(self._clock.now() + period_s, turn)

        self._clock.call_soon(turn)

    # -- what happens from outside ----------------------------------------------------------

    def _plan_faults(self) -> None:
        for fault in self._scenario.faults:
            self._clock.call_at(fault.at_s, partial(self._inject, fault))
        for update in self._scenario.updates:
            self._clock.call_at(update.at_s, partial(self._update, update))

    def _inject(self, fault: FaultSpec) -> None:
        undo: Callable[[], None] | None = None
        match fault.kind:
            case "crash" if fault.agent is not None:
                self._crash(fault.agent)
                undo = partial(self._restart, fault.agent, bool(fault.memory))
            case "restart" if fault.agent is not None:
                self._restart(fault.agent, bool(fault.memory))
            case "drain" if fault.agent is not None:
                self._drain(fault.agent)
            case "link-down" | "link-up" if fault.link is not None:
                cut = fault.kind == "link-down"
                self._call(NETWORK, LINK, LinkRequest(*fault.link, up=not cut))
                mended = LinkRequest(*fault.link, up=True)
                undo = partial(self._call, NETWORK, LINK, mended) if cut else None
            case "repository-away" | "repository-back":
                away = fault.kind == "repository-away"
                self._call(NETWORK, REPOSITORY, RepositoryRequest(away))
                back = RepositoryRequest(away=False)
                undo = partial(self._call, NETWORK, REPOSITORY, back) if away else None
            case _:  # of messages: the agents' processes do it themselves
                data = {n: v for n, v in asdict(fault).items() if v is not None and n != "kind"}
                self._recorder.record("fault.injected", self._cause, fault=fault.kind, **data)
        if fault.for_s is not None and undo is not None:
            self._clock.call_at(self._clock.now() + fault.for_s, undo)

    def _crash(self, pop: PopId) -> None:
        """End the process of an agent by SIGKILL."""
        if not self._ground.lives(pop):
            return
        event = self._recorder.record("fault.injected", self._cause, fault="crash", agent=pop)
        self._down.add(pop)
        self._ground.kill(pop)
        self._recorder.record("agent.crashed", event, pop=pop)

    def _restart(self, pop: PopId, remembering: bool) -> None:
        if self._ground.lives(pop):
            return
        data = {"memory": True} if remembering else {}
        self._recorder.record("fault.injected", self._cause, fault="restart", agent=pop, **data)
        if not remembering:
            with StateFile(self._ground.state(pop)) as state:
                state.begin()
                state.save(b"")
        self._start(pop)
        self._down.discard(pop)

    def _drain(self, pop: PopId) -> None:
        event = self._recorder.record("fault.injected", self._cause, fault="drain", agent=pop)
        self._down.add(pop)
        within = self._scenario.timing.drain_s * 2
        self._call(pop, DRAIN, DrainRequest(within), cause=event)

    def _update(self, update: UpdateSpec) -> None:
        if update.function not in self._catalogue.vnfds:
            return
        event = self._recorder.record(
            "repository.changed", self._cause, function=update.function, version=update.version
        )
        for pop in self._pops:
            request = VersionRequest(update.function, update.version, event)
            self._call(pop, NEW_VERSION, request, cause=event)

    def _call(
        self,
        owner: str,
        operation: Any,
        request: Any,
        answer: Callable[[Any], None] | None = None,
        cause: str | None = None,
    ) -> None:
        def answered(found: Accepted | CallError) -> None:
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

    def _counted(self, found: ReservationsAnswer | CallError) -> None:
        if isinstance(found, ReservationsAnswer):
            self._books = found

    def _finish(self, reason: str) -> None:
        """Wait for everybody's last event, then record the end of the run."""
        clock, self._ending = self._clock, True
        if clock.now() < self._scenario.duration_s:  # else they end by themselves
            for pop in self._pops:
                self._ground.signal(pop, signal.SIGINT)
        if self._books is None:
            self._call(NETWORK, RESERVATIONS, ReservationsRequest(), self._counted)
        deadline = clock.now() + END_S * self._speed
        clock.run(deadline, lambda: self._books is not None and self._all_said(self._pops))
        self._ground.signal(NETWORK, signal.SIGTERM)
        deadline = clock.now() + END_S * self._speed
        clock.run(deadline, lambda: self._all_said((NETWORK,)))
        self._ground.wait(NETWORK, END_S)  # it may have much to take apart
        ended = self._record_end(reason)
        deadline = clock.now() + END_S * self._speed
        clock.run(deadline, lambda: ended in self._events)
        for event in in_causal_order(e for early in self._early.values() for e in early):
            for sink in self._sinks:  # their causes never came
                sink(event)

    def _all_said(self, names: Sequence[str]) -> bool:
        """Whether the last event of each life that ended in order has arrived."""
        last = {e.agent for e in self._events.values() if e.kind == "process.ended"}
        return last >= {*names} - self._down

    def _record_end(self, reason: str) -> str:
        outcomes: dict[str, int] = {}
        messages: dict[str, int] = {}
        shed = 0
        for event in self._events.values():
            if event.kind == "goal.ended":
                outcome = event.data["outcome"]
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
            elif event.kind == "process.ended":
                shed += event.data.get("shed", 0)
                for performative, count in event.data.get("messages", {}).items():
                    messages[performative] = messages.get(performative, 0) + count
        books = self._books
        return self._recorder.record(
            "run.ended",
            self._cause,
            reason=reason,
            messages=dict(sorted(messages.items())),
            shed=shed,
            reserved_mb_s=0.0 if books is None else books.reserved_mb_s,
            given_back=books is not None and books.given_back,
            free={} if books is None else books.free,
            leases=[] if books is None else list(books.leases),
            goals=dict(sorted(outcomes.items())),
        )


def in_causal_order(events: Iterable[Event]) -> list[Event]:
    """Return events by their time, but each after its cause: clocks differ a little."""
    waiting = sorted(events, key=lambda event: event.time)
    known = {event.id: event for event in waiting}
    ordered: dict[str, Event] = {}
    for event in waiting:
        line = []
        at: Event | None = event
        while at is not None and at.id not in ordered:
            line.append(at)
            at = known.get(at.cause) if at.cause is not None else None
            if at is not None and at in line:
                break
        for one in reversed(line):
            ordered.setdefault(one.id, one)
    return list(ordered.values())
