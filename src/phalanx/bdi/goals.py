"""Goals as an agent has them: with a priority, a state and those who wait for them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from msgspec import Struct

from phalanx.bdi.memory import GoalMemory
from phalanx.domain.goals import Goal
from phalanx.domain.messages import Fact
from phalanx.domain.network import PopId
from phalanx.domain.vnf import InstanceId


class Pursuit(Protocol):
    """What pursues a goal: an intention."""

    def close(self) -> None:
        """Give the goal up."""


class Outcome(Enum):
    """How a goal can end."""

    ACHIEVED = "achieved"
    FAILED = "failed"
    DROPPED = "dropped"
    TAKEN_OVER = "taken over"


class GoalEnd(Struct, frozen=True):
    """The end of a goal, as told to those who wait for it."""

    goal: Goal
    outcome: Outcome
    reason: str
    event: str
    """The ``goal.ended`` event."""
    facts: tuple[Fact, ...] = ()
    """What its plan came to believe on the way."""
    final: bool = False
    """Whether it failed in a way in which it would fail everywhere."""

    @property
    def achieved(self) -> bool:
        """Whether the goal was achieved."""
        return self.outcome is Outcome.ACHIEVED


class GoalInstance:
    """One goal of one agent, from its adoption to its end."""

    __slots__ = (
        "cause",
        "child",
        "contract",
        "end",
        "final",
        "goal",
        "id",
        "instance",
        "priority",
        "pursuit",
        "running",
        "scope",
        "stand_in",
        "standing",
        "suspended",
        "tap",
        "traffic_mb_s",
        "tried",
        "waiters",
    )

    def __init__(
        self,
        goal_id: str,
        goal: Goal,
        cause: str,
        *,
        priority: int = 0,
        scope: str | None = None,
        traffic_mb_s: float | Callable[[], float] = 0.0,
        tap: PopId = "",
        instance: InstanceId | None = None,
        contract: str | None = None,
        standing: bool = False,
    ) -> None:
        self.id = goal_id
        self.goal = goal
        self.cause = cause
        self.priority = priority
        self.scope = scope
        self.traffic_mb_s = traffic_mb_s
        self.tap = tap
        self.instance = instance
        """The VNF instance that is to achieve it; set where the goal was won in an auction."""
        self.contract = contract
        """The conversation in which it was won."""
        self.child = False
        """A plan of this agent waits for it: it lives and dies with that plan."""
        self.standing = standing
        """Pursued again whenever its plan ends, until it is dropped."""
        self.running = False
        """An intention pursues it, or another goal stands in for it."""
        self.suspended = False
        """Open, and not pursued for the time being."""
        self.stand_in: GoalInstance | None = None
        """The goal that was adopted in its place when its plans had failed."""
        self.pursuit: Pursuit | None = None
        self.tried: list[str] = []
        self.end: GoalEnd | None = None
        self.final = False
        """A plan for it failed, and would fail everywhere."""
        self.waiters: list[Callable[[GoalEnd], None]] = []

    def traffic_now(self) -> float:
        """Return the traffic that the goal is about at present, in MB/s."""
        return self.traffic_mb_s() if callable(self.traffic_mb_s) else self.traffic_mb_s

    def memory(self) -> GoalMemory:
        """Return what is to be remembered of it."""
        return GoalMemory(
            self.id,
            self.goal,
            self.cause,
            self.priority,
            self.scope,
            self.traffic_now(),
            self.tap,
            self.instance,
            self.standing,
            None if self.stand_in is None else self.stand_in.goal,
        )

    def __repr__(self) -> str:
        return f"<{self.id} {self.goal} priority {self.priority}>"
