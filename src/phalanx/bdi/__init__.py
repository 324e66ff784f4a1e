"""The reasoning cycle: beliefs, goals, plans, capabilities, and the agent that runs them.

A machine without I/O (dissertation, 2.2.2, 3.2, 5.1): percepts, messages, answers and the
time go in; messages and actions come out.
"""

from phalanx.bdi.agent import Agent
from phalanx.bdi.beliefs import Belief, BeliefBase
from phalanx.bdi.capability import Capability, hears, instead_of, perceives, plan, when
from phalanx.bdi.core import Perform
from phalanx.bdi.goals import GoalEnd, GoalInstance, Outcome
from phalanx.bdi.steps import (
    Achieve,
    AchieveAll,
    Act,
    Adopt,
    Await,
    Believe,
    Drop,
    Forget,
    Note,
    Pause,
    Perceive,
    PlanFailed,
    Step,
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
    "Capability",
    "Drop",
    "Forget",
    "GoalEnd",
    "GoalInstance",
    "Note",
    "Outcome",
    "Pause",
    "Perceive",
    "Perform",
    "PlanFailed",
    "Step",
    "hears",
    "instead_of",
    "perceives",
    "plan",
    "when",
]
