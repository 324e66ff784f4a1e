"""The steps that the body of a plan or a rule yields to the reasoning cycle.

A body is a generator: it yields a step and, where the step has a result, is resumed with
it. Rules may yield only the steps that take no time (the first group).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from msgspec import Struct

from phalanx.domain.actions import Action, Invoke
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Predicate
from phalanx.domain.network import PopId
from phalanx.domain.trust import TrustAction
from phalanx.domain.vnf import InstanceId


class PlanFailed(Exception):  # noqa: N818  # a plan's way to say so, not a fault
    """Raise in a plan's body to give up; its text is the reason in the log.

    ``final`` says that no other agent would fare better: what failed is not this agent's part
    of the work, but something that was asked of all.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Believe(Struct, frozen=True):
    """Add the belief in ``predicate``, or in its negation."""

    predicate: Predicate
    value: bool = True
    holder: AgentId | None = None
    """Who keeps it true and can undo it; None: plain knowledge."""
    mandate: str = ""
    """As in ``Fact``."""


class Perceive(Struct, frozen=True):
    """Hand an observation to the belief revision rules, as if it had come by itself."""

    percept: object


class Forget(Struct, frozen=True):
    """Remove what is believed of ``predicate``: neither it nor its negation is known."""

    predicate: Predicate


class Adopt(Struct, frozen=True):
    """Take on a goal and go on without waiting."""

    goal: Goal
    priority: int = 0
    queue: str | None = None
    """Goals of one queue are pursued by priority, one level after the other."""
    traffic_mb_s: float | Callable[[], float] = 0.0
    """Traffic that the goal is about, in MB/s; a function is asked when the goal's turn comes."""
    tap: PopId = ""
    """Where that traffic is; empty: at this agent's PoP, if it has one."""
    instance: InstanceId | None = None
    contract: str | None = None
    standing: bool = False
    afresh: bool = False
    """What is believed of it from earlier times does not count: it is forgotten."""


class Drop(Struct, frozen=True):
    """Give up a goal, whatever its state."""

    goal: Goal
    reason: str = "no longer wanted"


class Note(Struct, frozen=True):
    """Record an event. Result: its id, which also becomes the cause of what follows."""

    kind: str
    data: dict[str, Any]


class Achieve(Struct, frozen=True):
    """Take on a goal and wait for its end. Result: ``GoalEnd``."""

    adopt: Adopt


class AchieveAll(Struct, frozen=True):
    """Take on several goals and wait for all. Result: list of ``GoalEnd`` in their order."""

    adopts: tuple[Adopt, ...]


class Act(Struct, frozen=True):
    """Ask the infrastructure. Result: its outcome; ``PlanFailed`` is raised if it failed."""

    action: Action | TrustAction | Invoke


class Pause(Struct, frozen=True):
    """Wait for some seconds."""

    seconds: float


class Await(Struct, frozen=True):
    """Wait until ``Agent.resume`` is called with this key. Result: the value given."""

    key: str


Step = (
    Believe | Perceive | Forget | Adopt | Drop | Note | Achieve | AchieveAll | Act | Pause | Await
)
Body = Generator[Step, Any, None]
Steps = Iterable[Step]
