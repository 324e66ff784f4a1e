"""What happens to a run from outside, and how it ends: the same wherever its agents live.

``Course`` makes the faults and updates of a scenario happen by the clock. What breaks, and how,
is up to the ``Breakable``: nodes in this process, or processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from phalanx.clock import Clock
from phalanx.domain.agents import AgentId
from phalanx.domain.events import Event, Recorder
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.fabric.operations import Operation
from phalanx.reporting.summary import Summary
from phalanx.runtime.environment import RunNetwork
from phalanx.runtime.scenario import FaultSpec, Scenario, UpdateSpec

Progress = Callable[[float], None]


class RunResult(Struct, frozen=True):
    """What a run left behind."""

    events: list[Event]
    summary: Summary
    defects: tuple[str, ...] = ()
    """Plans of functions that raised something, and processes, each in a line: a defect."""
    unsettled: tuple[str, ...] = ()
    """How agents and network disagree on what is held, if that was asked."""


class ReservationsRequest(Struct, frozen=True):
    """Asks what is held and what is free."""


class ReservationsAnswer(Struct, frozen=True):
    """What is held and what is free, over the whole network."""

    free: dict[str, dict[str, float]] = {}
    """Cores, memory and disk (GB) by PoP."""
    reserved_mb_s: float = 0.0
    """Bandwidth reserved on all links together."""
    leases: tuple[str, ...] = ()
    """Ids of holds, instances and measures."""
    given_back: bool = False
    """Whether as much is free as at the start, when only the plan's monitors ran."""


RESERVATIONS = Operation(
    "reservations", ReservationsRequest, ReservationsAnswer, False, "what is held and what is free"
)


def reservations_of(network: RunNetwork, at_start: Mapping[PopId, Resources]) -> ReservationsAnswer:
    """Return what is held and free in a network, of which ``at_start`` was free at first."""
    free = network.free()
    return ReservationsAnswer(
        {pop: asdict(resources) for pop, resources in free.items()},
        network.reserved_mb_s(),
        tuple(network.leases()),
        free == at_start,
    )


class Breakable(Protocol):
    """What a run can break, and mend."""

    def lives(self, agent: AgentId) -> bool:
        """Return whether the agent runs."""

    def crash(self, agent: AgentId, cause: str) -> None:
        """End the agent as kill -9 does. ``cause`` is the event that says so."""

    def restart(self, agent: AgentId, cause: str, *, remembering: bool) -> None:
        """Start the agent again, with what it knew when it ended or anew."""

    def drain(self, agent: AgentId, cause: str) -> None:
        """Have the agent hand over what it does, and leave."""

    def cut(self, a: PopId, b: PopId) -> None:
        """Cut a link."""

    def mend(self, a: PopId, b: PopId) -> None:
        """Mend a link."""

    def take_repository(self, *, away: bool) -> None:
        """Take the VNF repository off the network, or bring it back."""

    def degrade(self, fault: FaultSpec, *, ends: bool) -> None:
        """Make a link, an agent, its clock or disk, a broker or rules worse, or as they were."""

    def corrupt(self, agent: AgentId, how: str, cause: str) -> None:
        """Alter the agent's program while it runs (``infect``), or what it says (``lie``)."""

    def update(self, function: str, version: str, cause: str) -> None:
        """Tell the agents that the repository offers another version."""


class Course:
    """The faults and updates of a scenario, as they are due."""

    def __init__(
        self,
        scenario: Scenario,
        functions: Iterable[str],
        clock: Clock,
        recorder: Recorder,
        cause: str,
        target: Breakable,
    ) -> None:
        """Plan everything that the scenario says.

        Args:
            scenario: its faults and updates.
            functions: names of what the repository holds.
            clock: makes the calls.
            recorder: records what was done.
            cause: root of all causes.
            target: carries it out.

        """
        self._clock = clock
        self._recorder = recorder
        self._cause = cause
        self._target = target
        for fault in scenario.faults:
            clock.call_at(fault.at_s, partial(self.inject, fault))
        for update in scenario.updates:
            if update.function in functions:
                clock.call_at(update.at_s, partial(self._update, update))

    def inject(self, fault: FaultSpec) -> None:
        """Let a fault happen now, and plan its end."""
        target, undo = self._target, None
        agent, link = fault.agent or "", fault.link or ("", "")
        match fault.kind:
            case "crash":
                self.crash(agent)
                undo = partial(self.restart, agent, remembering=bool(fault.memory))
            case "restart":
                self.restart(agent, remembering=bool(fault.memory))
            case "drain":
                self.drain(agent)
            case "link-down":
                target.cut(*link)
                undo = partial(target.mend, *link)
            case "link-up":
                target.mend(*link)
            case "repository-away":
                target.take_repository(away=True)
                undo = partial(target.take_repository, away=False)
            case "repository-back":
                target.take_repository(away=False)
            case "infect" | "lie":
                target.corrupt(agent, fault.kind, self._injected(fault.kind, agent))
            case "remove-rule":
                self._told(fault)
                target.degrade(fault, ends=False)
            case (
                "degrade" | "drift" | "slow-disk" | "full-disk" | "broker-down" | "stale" | "blind"
            ):
                self._told(fault)
                target.degrade(fault, ends=False)
                undo = partial(target.degrade, fault, ends=True)
            case _:  # of messages: the agents' buses do it themselves
                self._told(fault)
        if fault.for_s is not None and undo is not None:
            self._clock.call_at(self._clock.now() + fault.for_s, undo)

    def _told(self, fault: FaultSpec) -> None:
        plain = msgspec.to_builtins(fault)
        data = {n: v for n, v in plain.items() if v not in (None, 0.0) and n != "kind"}
        if fault.kind not in ("delay", "reorder", "slow-disk"):
            data.pop("delay_s", None)
        if fault.kind != "drift":
            data.pop("rate")
        self._recorder.record("fault.injected", self._cause, fault=fault.kind, **data)

    def crash(self, agent: AgentId) -> None:
        """End an agent as kill -9 does, unless it has ended."""
        if self._target.lives(agent):
            self._target.crash(agent, self._injected("crash", agent))

    def restart(self, agent: AgentId, *, remembering: bool = False) -> None:
        """Start an agent again that has crashed or left."""
        if not self._target.lives(agent):
            data = {"memory": True} if remembering else {}
            cause = self._injected("restart", agent, **data)
            self._target.restart(agent, cause, remembering=remembering)

    def drain(self, agent: AgentId) -> None:
        """Have an agent hand over and leave, unless it has ended."""
        if self._target.lives(agent):
            self._target.drain(agent, self._injected("drain", agent))

    def _injected(self, fault: str, agent: AgentId, **data: bool) -> str:
        return self._recorder.record(
            "fault.injected", self._cause, fault=fault, agent=agent, **data
        )

    def _update(self, update: UpdateSpec) -> None:
        event = self._recorder.record(
            "repository.changed", self._cause, function=update.function, version=update.version
        )
        self._target.update(update.function, update.version, event)


def record_end(
    recorder: Recorder,
    cause: str,
    reason: str,
    events: Iterable[Event],
    *,
    messages: Mapping[str, int],
    shed: int,
    planned_s: float,
    delivery: Mapping[str, object],
    reservations: ReservationsAnswer | None,
) -> str:
    """Record the end of a run, and return the id of the event.

    Args:
        recorder: of the run.
        cause: root of all causes.
        reason: why it ended, such as ``finished``.
        events: all of the run.
        messages: how many were sent, by performative.
        shed: how many full queues dropped.
        planned_s: when it was to end.
        delivery: what they held, and what became of them; empty: it is not known.
        reservations: what is held and free; None: it is not known.

    """
    outcomes: dict[str, int] = {}
    for event in events:
        if event.kind == "goal.ended":
            outcome = event.data["outcome"]
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    known = reservations or ReservationsAnswer()
    return recorder.record(
        "run.ended",
        cause,
        reason=reason,
        planned_s=planned_s,
        messages=dict(messages),
        shed=shed,
        **delivery,
        reserved_mb_s=known.reserved_mb_s,
        given_back=known.given_back,
        free=known.free,
        leases=list(known.leases),
        goals=dict(sorted(outcomes.items())),
    )


def defects(events: Iterable[Event]) -> tuple[str, ...]:
    """Return what functions raised that is no failure of a plan, a line for each, once."""
    found = dict.fromkeys(
        f"{event.data['capability']}.{event.data['method'].replace(' ', '_')}: "
        f"{event.data['error']} (at {event.agent}, second {event.time:.1f})"
        for event in events
        if event.kind == "function.failed"
    )
    return tuple(found)
