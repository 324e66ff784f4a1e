"""An intention: a goal that the agent is committed to, and the plan that it follows.

It runs the generator of the plan from step to step. What a step means is up to the agent.
"""

from __future__ import annotations

from phalanx.bdi.steps import Body, PlanFailed
from phalanx.domain.messages import Fact


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
        self.facts: list[Fact] = []
        """What it came to believe on the way."""
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
