"""What an agent remembers of its life, so that it can go on with it after kill -9.

A memory holds what cannot be found out again: beliefs, the agent's own goals, and what its
capabilities add (a VNF's instance, a contract). What a plan was just doing is not in it: a plan
begins anew. Times are those of the agent's clock; restoring a memory shifts them to the new
own, so the clocks of two lives need not agree.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from phalanx.bdi.agent import Agent, Instruction
from phalanx.bdi.beliefs import Belief
from phalanx.bdi.capability import Library
from phalanx.bdi.goals import GoalInstance, GoalOutcome
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.goals import Goal, Predicate
from phalanx.domain.network import PopId
from phalanx.domain.tagged import UNREADABLE, reader
from phalanx.domain.vnf import InstanceId

VERSION = 2
"""Of the form; raised when an older reader would misread a memory."""


class MemoryUnusable(PhalanxError):  # noqa: N818  # as ``MemoryError`` is taken
    """Octets are no memory of this agent; the text is one line."""


class BeliefMemory(Struct, frozen=True):
    """What is believed of a predicate."""

    predicate: Predicate
    belief: Belief


class GoalMemory(Struct, frozen=True):
    """An own goal that is open; see ``bdi.goals.GoalInstance``."""

    id: str
    """Its id; empty: its end was told already, and it is adopted anew."""
    goal: Goal
    cause: str
    priority: int
    queue: str | None
    traffic_mb_s: float
    tap: PopId
    instance: InstanceId | None
    standing: bool
    stand_in: Goal | None = None
    """The goal that was adopted in its place when its plans had failed."""


class LostGoal(Struct, frozen=True):
    """An open goal that does not survive: the part of a plan, or of work for another agent."""

    id: str
    goal: str


class _Core(Struct, frozen=True, kw_only=True):
    version: int = VERSION
    agent: AgentId
    incarnation: int
    """The life that remembers."""
    remembers: int
    """The earliest life of which it knows all doings."""
    time: float
    """When this was, in seconds of the agent's clock."""
    beliefs: tuple[BeliefMemory, ...] = ()
    goals: tuple[GoalMemory, ...] = ()
    lost: tuple[LostGoal, ...] = ()


class Memory(_Core, frozen=True, kw_only=True):
    """All that an agent remembers at one moment."""

    parts: dict[str, Struct] = {}
    """What capabilities remember, by their names."""


class _Written(_Core, frozen=True, kw_only=True):
    parts: dict[str, Raw] = {}


def encode(memory: Memory) -> bytes:
    """Return ``memory`` as JSON."""
    return msgspec.json.encode(memory)


def decode(octets: bytes, library: Library) -> Memory:
    """Return the memory that ``octets`` are.

    What belongs to a capability that is not in ``library`` any more is passed over.

    Raises:
        MemoryUnusable: if they are none, or of another version, or hold what is not known here.

    """
    try:
        written: _Written = reader(_Written)(octets)
        if written.version != VERSION:
            raise MemoryUnusable(f"a memory of version {written.version}, not {VERSION}")
        parts: dict[str, Struct] = {}
        for name, raw in written.parts.items():
            capability = library.capabilities.get(name)
            if capability is not None and capability.memory is not None:
                parts[name] = reader(capability.memory)(raw)
    except UNREADABLE as error:
        raise MemoryUnusable(f"no memory of an agent: {' '.join(str(error).split())}") from error
    core: dict[str, Any] = {name: getattr(written, name) for name in _Core.__struct_fields__}
    return Memory(**core, parts=parts)


def contents(part: Struct) -> dict[str, int]:
    """Return how many of what a capability remembers, for the log."""
    fields = ((name, getattr(part, name)) for name in part.__struct_fields__)
    return {name: len(value) for name, value in fields if isinstance(value, tuple) and value}


def remember(agent: Agent) -> Memory:
    """Return what ``agent`` needs to go on after a crash."""
    own: list[GoalMemory] = []
    lost: list[LostGoal] = []
    for goal in agent.open_goals():
        if goal.contract is None and not goal.child:
            own.append(_goal_memory(goal))
        else:
            lost.append(LostGoal(goal.id, str(goal.goal)))
    parts: dict[str, Struct] = {}
    for name, capability in agent.capabilities.items():
        for method in capability.hooks.get("remembers", ()):
            part = getattr(capability, method)(agent)
            if part is not None:
                parts[name] = part
    return Memory(
        agent=agent.name,
        incarnation=agent.incarnation,
        remembers=agent.remembers,
        time=agent.now,
        beliefs=tuple(BeliefMemory(*entry) for entry in agent.beliefs),
        goals=tuple(own),
        lost=tuple(lost),
        parts=parts,
    )


def restore(agent: Agent, memory: Memory, now: float, cause: str) -> list[Instruction]:
    """Let ``agent`` begin to live at ``now`` with what an earlier incarnation remembered.

    Beliefs and own goals are back at once, goals under the ids that they had; nothing is
    concluded from beliefs a second time. What a plan was doing is lost: the plan is
    chosen and begun anew, once the capabilities are back at work.

    Raises:
        ValueError: if it is the memory of another agent, or of a later incarnation.

    """
    if memory.agent != agent.name or memory.incarnation >= agent.incarnation:
        raise ValueError(
            f"incarnation {memory.incarnation} of {memory.agent} is no earlier one of "
            f"{agent.name}, which begins incarnation {agent.incarnation}"
        )
    agent.now, agent.cause = now, cause
    agent.remembers = memory.remembers
    agent.cause = restored = agent.record(
        "agent.restored",
        incarnation=agent.incarnation,
        remembers=memory.remembers,
        beliefs=len(memory.beliefs),
        goals=[str(goal.goal) for goal in memory.goals],
        parts={name: contents(part) for name, part in memory.parts.items()},
    )
    shift = agent.now - memory.time
    for old in memory.beliefs:
        belief = replace(old.belief, since=old.belief.since + shift)
        agent.beliefs.put(old.predicate, belief)
    for gone in memory.lost:
        agent.record(
            "goal.ended",
            goal=gone.goal,
            instance_id=gone.id,
            outcome=GoalOutcome.DROPPED.value,
            reason="its plan fell with the agent",
        )
    goals = _recall_goals(agent, memory.goals)
    for name, capability in agent.capabilities.items():
        agent.cause = restored
        for method in capability.hooks.get("recalls", ()):
            agent.do(getattr(capability, method)(agent, memory.parts.get(name), shift))
    agent.cause = restored
    agent.call_all("starts")
    for goal in goals:
        if not goal.suspended:
            agent.go_on_with(goal)
    return agent.settle()


def _goal_memory(goal: GoalInstance) -> GoalMemory:
    return GoalMemory(
        goal.id,
        goal.goal,
        goal.cause,
        goal.priority,
        goal.queue,
        goal.traffic_now(),
        goal.tap,
        goal.instance,
        goal.standing,
        None if goal.stand_in is None else goal.stand_in.goal,
    )


def _recall_goals(agent: Agent, memories: tuple[GoalMemory, ...]) -> list[GoalInstance]:
    """Open the goals again, and tie those that stand in for others to them."""
    goals = []
    for old in memories:
        goal_id, cause = old.id, old.cause
        if not goal_id:
            goal_id = agent.new_id("goal")
            cause = agent.record(
                "goal.adopted", goal=str(old.goal), instance_id=goal_id, priority=old.priority
            )
        goal = GoalInstance(
            goal_id,
            old.goal,
            cause,
            priority=old.priority,
            queue=old.queue,
            traffic_mb_s=old.traffic_mb_s,
            tap=old.tap,
            instance=old.instance,
            standing=old.standing,
        )
        agent.note(goal)
        goals.append(goal)
    for goal, old in zip(goals, memories, strict=True):
        stand_in = None if old.stand_in is None else agent.open_goal(old.stand_in)
        if stand_in is not None:
            agent.stand_in(goal, stand_in)
    return goals
