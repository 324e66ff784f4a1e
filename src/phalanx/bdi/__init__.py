"""The reasoning cycle: beliefs, goals, plans, capabilities, and the agent that runs them.

A machine without I/O (dissertation, 2.2.2, 3.2, 5.1): percepts, messages, answers and the
time go in; messages and actions come out.
"""

from phalanx.bdi.agent import Agent, Instruction, Perform
from phalanx.bdi.beliefs import Belief, BeliefBase
from phalanx.bdi.capability import (
    Capability,
    Library,
    drains,
    hears,
    instead_of,
    perceives,
    plan,
    recalls,
    remembers,
    starts,
    when,
)
from phalanx.bdi.goals import GoalEnd, GoalInstance, GoalOutcome
from phalanx.bdi.steps import (
    Achieve,
    AchieveAll,
    Act,
    Adopt,
    Await,
    Believe,
    Body,
    Drop,
    Forget,
    Note,
    Pause,
    Perceive,
    PlanFailed,
    Step,
    Steps,
)

__all__ = [
    "Achieve",
    "AchieveAll",
    "Act",
    "Adopt",
    "Agent",
    "Await",
    "Belief",
    "BeliefBase",
    "Believe",
    "Body",
    "Capability",
    "Drop",
    "Forget",
    "GoalEnd",
    "GoalInstance",
    "GoalOutcome",
    "Instruction",
    "Library",
    "Note",
    "Pause",
    "Perceive",
    "Perform",
    "PlanFailed",
    "Step",
    "Steps",
    "drains",
    "hears",
    "instead_of",
    "perceives",
    "plan",
    "recalls",
    "remembers",
    "starts",
    "when",
]
