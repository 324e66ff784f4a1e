"""Goals as an agent has them, and the filter F: which of them become intentions, and whose.

An intention: a goal that the agent is committed to, and the plan that it follows.

It runs the generator of the plan from step to step. What a step means is up to the agent.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from msgspec import Struct

from phalanx.bdi.beliefs import BeliefBase
from phalanx.bdi.steps import Body, PlanFailed
from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Goal, Mode, Predicate
from phalanx.domain.messages import Fact
from phalanx.domain.network import PopId
from phalanx.domain.vnf import InstanceId

P = TypeVar("P", bound=Predicate)


class PlanEnded(Exception):  # noqa: N818  # how a body says so, as StopIteration does
    """The body of a plan came to its end."""

    def __init__(self, failure: str | None, *, final: bool = False, fault: bool = False) -> None:
        super().__init__(failure)
        self.failure = failure
        """Why it failed; None: it did not."""
        self.final = final
        """Whether it would fail everywhere."""
        self.fault = fault
        """Whether the code of the plan raised an error that is none of ours."""


class Intention:
    """Runs the body of a plan step by step; each waiting step has one way to go on."""

    __slots__ = ("_body", "awaited", "capability", "cause", "facts", "plan", "turn")

    def __init__(self, capability: str, plan: str, cause: str) -> None:
        self.capability = capability
        self.plan = plan
        """Name of the plan, as the log has it."""
        self.cause = cause
        """The event that its present step follows from."""
        self.facts: dict[Predicate, Fact] = {}
        """What it came to believe on the way, and believed last."""
        self.awaited: str | None = None
        """The key that it waits for, if it does."""
        self.turn = 0
        """Counts the steps that take time: an answer to an earlier one is late, and ignored."""
        self._body: Body | None = None

    @property
    def open(self) -> bool:
        """Whether the plan is under way."""
        return self._body is not None

    def begin(self, body: Body) -> None:
        """Follow ``body``, the generator that the method of the plan returned."""
        self._body = body

    def send(self, value: object, error: PlanFailed | None = None) -> object:
        """Go on with the result of the last step, or with its failure; return the next step.

        Raises:
            PlanEnded: if there is none.

        """
        assert self._body is not None
        try:
            return self._body.throw(error) if error is not None else self._body.send(value)
        except StopIteration:
            raise PlanEnded(None) from None
        except PlanFailed as failed:
            raise PlanEnded(str(failed), final=failed.final) from None
        except Exception as fault:  # a function's fault must not end the agent
            text = f"fault in the plan: {type(fault).__name__}: {fault}"
            raise PlanEnded(text, fault=True) from fault

    def close(self) -> None:
        """Give the plan up; answers that come late are ignored."""
        body, self._body = self._body, None
        self.turn += 1
        if body is not None:
            body.close()

    def end(self) -> None:
        """Note that the body came to its end."""
        self._body = None
        self.turn += 1


class GoalOutcome(Enum):
    """How a goal can end."""

    ACHIEVED = "achieved"
    FAILED = "failed"
    DROPPED = "dropped"
    TAKEN_OVER = "taken over"


class GoalEnd(Struct, frozen=True):
    """The end of a goal, as told to those who wait for it."""

    goal: Goal
    outcome: GoalOutcome
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
        return self.outcome is GoalOutcome.ACHIEVED


class GoalInstance:
    """One goal of one agent, from its adoption to its end."""

    __slots__ = (
        "cause",
        "child",
        "children",
        "contract",
        "end",
        "final",
        "goal",
        "id",
        "instance",
        "intention",
        "priority",
        "queue",
        "running",
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
        queue: str | None = None,
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
        self.queue = queue
        """Goals of one queue are pursued by priority, one level after the other."""
        self.traffic_mb_s = traffic_mb_s
        self.tap = tap
        self.instance = instance
        """The VNF instance that is to achieve it; set where the goal was won in an auction."""
        self.contract = contract
        """The conversation in which it was won."""
        self.child = False
        """Plans of this agent wait for it, and nothing else does: it lives and dies with them."""
        self.children: list[tuple[GoalInstance, Callable[[GoalEnd], None]]] = []
        """Goals that its present plan waits for, each with what tells the plan of its end."""
        self.standing = standing
        """Pursued again whenever its plan ends, until it is dropped."""
        self.running = False
        """An intention pursues it, or another goal stands in for it."""
        self.suspended = False
        """Open, and not pursued for the time being."""
        self.stand_in: GoalInstance | None = None
        """The goal that was adopted in its place when its plans had failed."""
        self.intention: Intention | None = None
        """What pursues it at present."""
        self.tried: list[str] = []
        self.end: GoalEnd | None = None
        self.final = False
        """A plan for it failed, and would fail everywhere."""
        self.waiters: list[Callable[[GoalEnd], None]] = []

    def predicate_as(self, kind: type[P]) -> P:
        """Return what it is about, of the kind that the plan which asks is for."""
        assert isinstance(self.goal.predicate, kind)
        return self.goal.predicate

    def traffic_now(self) -> float:
        """Return the traffic that the goal is about at present, in MB/s."""
        return self.traffic_mb_s() if callable(self.traffic_mb_s) else self.traffic_mb_s

    def __repr__(self) -> str:
        return f"<{self.id} {self.goal} priority {self.priority}>"


def may_start(goal: GoalInstance, others: list[GoalInstance]) -> bool:
    """Filter: whether ``goal`` becomes an intention beside the unfinished ``others``.

    Goals of one queue are pursued in the order of their priority, a lower one only once all
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
    goal: GoalInstance, name: str, beliefs: BeliefBase, me: AgentId, *, local: bool, runs: bool
) -> bool:
    """Whether the VNF ``name`` of the agent ``me`` is to pursue the goal, rather than an auction.

    It is where the goal was won in an auction, and where a measure of its own is undone.

    Args:
        goal: what is to be achieved.
        name: name of the VNF's capability.
        beliefs: those of the agent.
        me: the agent.
        local: the plan is for goals of the agent that runs the VNF alone.
        runs: an instance of the VNF is running here.

    """
    if local:
        return runs
    if goal.instance is not None:
        return goal.instance.endswith(f"/{name}")
    if goal.goal.mode is not Mode.AVERT:
        return False
    belief = beliefs.get(goal.goal.predicate)
    return belief is not None and belief.holder == me
