"""Which goals become intentions, and whose work they are (the filtering function F)."""

from __future__ import annotations

from phalanx.bdi.beliefs import BeliefBase
from phalanx.bdi.capability import PlanSpec
from phalanx.bdi.goals import GoalInstance
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Mode


def may_start(goal: GoalInstance, others: list[GoalInstance]) -> bool:
    """Filter: whether ``goal`` becomes an intention beside the unfinished ``others``.

    Goals of one scope are pursued in the order of their priority, a lower one only once all
    higher ones have ended: protect first, find out after (dissertation, 5.1).
    """
    return not any(o.priority > goal.priority and o.end is None for o in others)


def already(goal: GoalInstance, beliefs: BeliefBase, me: AgentId) -> bool:
    """Whether the agent ``me`` with ``beliefs`` has nothing to do for ``goal``.

    Hearsay about a measure of another agent does not count. What was won in an auction is
    done already only if a measure of this agent's own keeps it true.
    """
    if goal.standing or not beliefs.satisfies(goal.goal):
        return False
    belief = beliefs.get(goal.goal.predicate)
    if belief is None or goal.goal.mode is Mode.AVERT:
        return True
    return belief.holder == me or (belief.holder is None and goal.contract is None)


def own_work(
    goal: GoalInstance, name: str, spec: PlanSpec, beliefs: BeliefBase, me: AgentId, *, runs: bool
) -> bool:
    """Whether the VNF ``name`` of the agent ``me`` is to pursue the goal, rather than an auction.

    It is where the goal was won in an auction, and where a measure of its own is undone.
    ``runs``: an instance of the VNF is running here.
    """
    if spec.local:
        return runs
    if goal.instance is not None:
        return goal.instance.endswith(f"/{name}")
    if goal.goal.mode is not Mode.AVERT:
        return False
    belief = beliefs.get(goal.goal.predicate)
    return belief is not None and belief.holder == me
