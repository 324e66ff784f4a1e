"""How an agent's memory is made, and how another life goes on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from phalanx.bdi.beliefs import Belief
from phalanx.bdi.goals import GoalInstance, Outcome
from phalanx.bdi.memory import BeliefMemory, FallenGoal, GoalMemory, Memory, contents

if TYPE_CHECKING:
    from phalanx.bdi.agent import Agent


def remember(agent: Agent) -> Memory:
    """Return what ``agent`` needs to go on after a crash."""
    own: list[GoalMemory] = []
    fallen: list[FallenGoal] = []
    for goal in agent.open_goals():
        if goal.contract is None and not goal.child:
            own.append(goal.memory())
        else:
            fallen.append(FallenGoal(goal.id, str(goal.goal)))
    parts: dict[str, Struct] = {}
    for name, capability in agent.capabilities.items():
        part = capability.remember(agent)
        if part is not None:
            parts[name] = part
    return Memory(
        agent=agent.name,
        incarnation=agent.incarnation,
        remembers=agent.remembers,
        time=agent.now,
        beliefs=tuple(
            BeliefMemory(predicate, b.value, b.holder, b.event, b.since)
            for predicate, b in agent.beliefs
        ),
        goals=tuple(own),
        fallen=tuple(fallen),
        parts=parts,
    )


def recall(agent: Agent, memory: Memory) -> None:
    """Let ``agent`` begin with what an earlier life of it remembered.

    Beliefs and own goals are back at once, goals under the ids that they had; nothing is
    concluded from beliefs a second time. What a plan was doing has fallen with it: the plan is
    chosen and begun anew, once the capabilities are back at work.

    Raises:
        ValueError: if it is the memory of another agent, or of a later life.

    """
    if memory.agent != agent.name or memory.incarnation >= agent.incarnation:
        raise ValueError(
            f"life {memory.incarnation} of {memory.agent} is no earlier one of "
            f"{agent.name}, which begins life {agent.incarnation}"
        )
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
        belief = Belief(old.value, old.holder, old.event, old.since + shift)
        agent.beliefs.put(old.predicate, belief)
    for fallen in memory.fallen:
        agent.record(
            "goal.ended",
            goal=fallen.goal,
            instance_id=fallen.id,
            outcome=Outcome.DROPPED.value,
            reason="its plan fell with the agent",
        )
    goals = _recall_goals(agent, memory.goals)
    for name, capability in agent.capabilities.items():
        agent.cause = restored
        agent.do(capability.recall(agent, memory.parts.get(name), shift))
    agent.cause = restored
    agent.call_all("begin")
    for goal in goals:
        if not goal.suspended:
            agent.go_on_with(goal)


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
            scope=old.scope,
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
