"""The workflow: a journaled state machine that goes on wherever an earlier one was ended.

Before a step its intention is written, after it its result. A step whose result is not there is
done again, which does no harm. A step that fails for good, before the change is committed, has
everything that was begun taken back, the latest first; that is journaled in the same way. After
that what is left to be done can only be tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.orchestration.journal import ChangeRecord, ChangeStage, Claim, JournalNote, StepStage
from phalanx.orchestration.workflow.actions import Actions, is_transient
from phalanx.orchestration.workflow.context import WorkflowContext
from phalanx.orchestration.workflow.model import (
    COMMIT,
    PIPELINE,
    Asked,
    ChangeKind,
    Deployment,
    NotAvailableError,
    WorkflowStep,
    step_named,
    steps_of,
)

OnProgress = Callable[["Progress"], None]
_DONE_KIND = {
    ChangeKind.DEPLOY: "service.deployed",
    ChangeKind.RECONFIGURE: "service.reconfigured",
    ChangeKind.REMOVE: "service.removed",
}


class WorkflowError(PhalanxError):
    """A change did not come to its end; says why, and what will help."""


class RolledBackError(WorkflowError):
    """A change failed for good; everything is as it was before it."""


class Progress(Struct, frozen=True):
    """How a step went."""

    step: WorkflowStep
    state: str
    """``begun``, ``done``, ``left out``, ``again``, ``failed`` or ``undone``."""
    place: int
    """Of the step among all of the change, from 1 on."""
    of: int
    """How many there are, as far as is known."""
    detail: str = ""


class Wanted(Struct, frozen=True):
    """What a change is about, as the journal keeps it."""

    asked: Asked
    before: Deployment | None
    """What was in force when it began."""


class StepResult(Struct, frozen=True):
    """What a pipeline step came to."""

    detail: str = ""
    left_out: bool = False
    deployment: Deployment | None = None


class Workflow:
    """Carries out one change of a service under a claim."""

    def __init__(
        self,
        context: WorkflowContext,
        claim: Claim,
        change: ChangeRecord,
        *,
        told: OnProgress | None = None,
    ) -> None:
        """Take up a change where the journal has it.

        Args:
            context: what is acted on.
            claim: the right to change the service.
            change: what the journal has of the change.
            told: told of each step.

        """
        wanted = msgspec.json.decode(change.request, type=Wanted)
        self._context = context
        self._claim = claim
        self._change = change
        self._kind = ChangeKind(change.kind)
        self._before = wanted.before
        self._told = told
        self._actions = Actions(
            context, wanted.asked, wanted.before, change.revision, claim.fence, claim.beat
        )
        self._stages = {step.name: step.stage for step in change.steps}
        for step in change.steps:
            if step.name == PIPELINE.name and step.result is not None:
                self._actions.target = msgspec.json.decode(step.result, type=StepResult).deployment

    def run(self) -> Deployment | None:
        """Bring the change to its end; return what is in force then.

        Raises:
            RolledBackError: if it was taken back.
            WorkflowError: if it could not be ended either way now.
            StoreError: if the journal failed, or another orchestrator took over.

        """
        reason = self._change.reason
        if self._change.stage is ChangeStage.OPEN:
            failed = self._forward()
            if failed is None:
                return self._finish()
            reason = failed
            self._claim.turn(self._change.revision, ChangeStage.UNDOING, reason)
        self._backward()
        name = self._claim.name
        note = JournalNote(
            "service.rolled_back", {"revision": self._change.revision, "reason": reason}
        )
        self._claim.turn(self._change.revision, ChangeStage.UNDONE, note=note)
        why = reason.removeprefix(f"{name}: ")
        raise RolledBackError(f"{name}: {why}; everything is as it was before")

    # -- forward ----------------------------------------------------------------------------------

    def _forward(self) -> str | None:
        """Do what is left to do; return why it cannot be done."""
        while True:
            steps = steps_of(self._kind, self._before, self._actions.target)
            left = [s for s in steps if self._stages.get(s.name) is not StepStage.DONE]
            if not left:
                return None
            step = left[0]
            failed = self._do(step, steps.index(step) + 1, len(steps))
            if failed is None:
                continue
            committed = self._stages.get(COMMIT.name) is StepStage.DONE
            if committed or self._kind is ChangeKind.REMOVE:
                raise WorkflowError(
                    f"{self._claim.name}: {step.name} failed: {failed}; what is left to clear up "
                    f"is done by phalanx service resume {self._claim.name}"
                )
            return failed

    def _do(self, step: WorkflowStep, place: int, of: int) -> str | None:
        self._mark(step, StepStage.INTENDED)
        self._tell(step, "begun", place, of)
        outcome = self._attempts(partial(self._perform, step), step, place, of)
        if isinstance(outcome, str):
            self._tell(step, "failed", place, of, outcome)
            note = self._note(step, "failed", outcome)
            self._mark(step, StepStage.INTENDED, note=note)
            return outcome
        if step == COMMIT:
            target = self._actions.target
            self._claim.deploy(None if target is None else msgspec.json.encode(target))
        state = "left out" if outcome.left_out else "done"
        note = self._note(step, state, outcome.detail)
        self._mark(step, StepStage.DONE, msgspec.json.encode(outcome), note)
        self._tell(step, state, place, of, outcome.detail)
        return None

    def _perform(self, step: WorkflowStep) -> StepResult:
        try:
            detail = self._actions.do(step)
        except NotAvailableError as error:
            return StepResult(str(error), left_out=True)
        return StepResult(detail, deployment=self._actions.target if step == PIPELINE else None)

    def _attempts(
        self, work: Callable[[], StepResult], step: WorkflowStep, place: int, of: int
    ) -> StepResult | str:
        """Return what came of ``work``, or why it failed for good."""
        retry = self._context.retry
        pause_s = retry.pause_s
        for left in reversed(range(retry.attempts)):
            try:
                return work()
            except PhalanxError as error:
                self._claim.beat()  # and stop if another orchestrator took over
                if left == 0 or not is_transient(error):
                    return str(error)
                self._tell(step, "again", place, of, str(error))
                self._context.sleep(pause_s)
                pause_s *= 2
        raise AssertionError("at least one attempt is made")

    def _finish(self) -> Deployment | None:
        target = self._actions.target
        data: dict[str, Any] = {"revision": self._change.revision}
        if target is not None:
            data["agents"] = {m.name: m.site for m in target.all_agents}
        note = JournalNote(_DONE_KIND[self._kind], data)
        self._claim.turn(self._change.revision, ChangeStage.DONE, note=note)
        return target

    # -- backward ---------------------------------------------------------------------------------

    def _backward(self) -> None:
        begun = [step_named(name) for name in self._stages]
        for place, step in reversed(tuple(enumerate(begun, 1))):
            if self._stages[step.name] is StepStage.UNDONE:
                continue
            self._mark(step, StepStage.UNDOING)
            failed = self._attempts(partial(self._revert, step), step, place, len(begun))
            if isinstance(failed, str):
                raise WorkflowError(
                    f"{self._claim.name}: {step.name} cannot be taken back: {failed}; "
                    f"phalanx service resume {self._claim.name} tries it again"
                )
            self._mark(step, StepStage.UNDONE, note=self._note(step, "undone", ""))
            self._tell(step, "undone", place, len(begun))

    def _revert(self, step: WorkflowStep) -> StepResult:
        self._actions.undo(step)
        return StepResult()

    # -- parts ------------------------------------------------------------------------------------

    def _mark(
        self,
        step: WorkflowStep,
        stage: StepStage,
        result: bytes | None = None,
        note: JournalNote | None = None,
    ) -> None:
        self._claim.step(self._change.revision, step.name, stage, result, note)
        self._stages[step.name] = stage

    def _note(self, step: WorkflowStep, state: str, detail: str) -> JournalNote:
        return JournalNote(
            "service.step",
            {
                "revision": self._change.revision,
                "figure": step.figure,
                "step": step.kind,
                "subject": step.subject,
                "state": state,
                "detail": detail,
            },
        )

    def _tell(self, step: WorkflowStep, state: str, place: int, of: int, detail: str = "") -> None:
        if self._told is not None:
            self._told(Progress(step, state, place, of, detail))
