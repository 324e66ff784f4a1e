"""Taking over what another agent pursued: because it fell, or because it leaves."""

from __future__ import annotations

from phalanx.auction.settings import Settings
from phalanx.bdi import Adopt, Agent, Capability, GoalInstance
from phalanx.bdi.steps import Steps
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Mode
from phalanx.domain.messages import OpenGoal

KEPT_IN_MIND = 512
"""Goals that were taken over and are still known as such; the eldest are forgotten first."""


class Successor(Capability):
    """Knows which goals can be taken over, and which ones were."""

    settings: Settings

    def __init__(self) -> None:
        self.taken: dict[Goal, AgentId] = {}
        """Goals that this agent took over, and from whom."""

    def own_goals(self, me: Agent) -> list[GoalInstance]:
        """Return the own goals that others can achieve as well."""
        return [
            g
            for g in me.open_goals()
            if g.contract is None
            and not g.child
            and g.goal.mode is not Mode.AVERT
            and me.library.achievers(g.goal)
        ]

    def open_goals(self, me: Agent) -> tuple[OpenGoal, ...]:
        """Return what would have to be taken over, as it travels."""
        return tuple(open_goal(me, goal) for goal in self.own_goals(me))

    def take_over(self, me: Agent, owner: AgentId, goals: tuple[OpenGoal, ...]) -> Steps:
        """Pursue from now on what ``owner`` pursued."""
        for taken in goals:
            self.note_taken(me, taken.goal, owner)
            me.cause = me.record("goal.taken_over", goal=str(taken.goal), instance_id=taken.id)
            yield Adopt(
                taken.goal,
                taken.priority,
                traffic_mb_s=taken.traffic_mb_s,
                tap=taken.tap,
                standing=taken.standing,
            )

    def note_taken(self, me: Agent, goal: Goal, owner: AgentId) -> None:
        """Remember from whom a goal was taken over."""
        self.taken.pop(goal, None)
        self.taken[goal] = owner
        if len(self.taken) > KEPT_IN_MIND:
            del self.taken[next(iter(self.taken))]
        me.changes += 1


def open_goal(me: Agent, goal: GoalInstance) -> OpenGoal:
    """Return ``goal`` as it travels; this agent holds it if a VNF of its own is at work for it."""
    return OpenGoal(
        goal.id,
        goal.goal,
        goal.priority,
        goal.tap,
        goal.traffic_now(),
        goal.standing,
        goal.cause,
        None if goal.instance is None else me.name,
    )
