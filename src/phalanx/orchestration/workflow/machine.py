"""The workflow: a journaled state machine that goes on wherever an earlier one was ended.

Before a step its intention is written, after it its result. A step whose result is not there is
done again, which does no harm. A step that fails for good, before the change is committed, has
everything that was begun taken back, the latest first; that is journaled in the same way. After
that what is left to be done can only be tried again.

What each step does, and how it is taken back. Every action may be repeated without harm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError
from phalanx.orchestration.iml.unit import BusyError
from phalanx.orchestration.journal import ChangeRecord, ChangeStage, Claim, JournalNote, StepStage
from phalanx.orchestration.mlfo.need import need_of
from phalanx.orchestration.mlfo.pipeline import compute
from phalanx.orchestration.workflow.context import (
    FILES_OF_IDENTITY,
    TransientFault,
    WorkflowContext,
    awaited,
    connected,
    files_of,
)
from phalanx.orchestration.workflow.model import (
    COMMIT,
    PIPELINE,
    TRUST_STEPS,
    Asked,
    ChangeKind,
    Deployment,
    NotAvailableError,
    ServiceMember,
    WorkflowStep,
    arranged,
    difference,
    step_named,
    steps_of,
)


def planned(
    context: WorkflowContext, asked: Asked, current: Deployment | None, revision: int
) -> Deployment:
    """Return what a change would put in force, computed whole; nothing is done yet.

    Args:
        context: what could be acted on.
        asked: what is asked for.
        current: what is in force.
        revision: the number of the change.

    Raises:
        PlacementError: if no placement keeps what is asked; says why, and what would do.

    """
    service = asked.service(context.writer.functions())
    need = need_of(service, asked.without)
    pipeline = compute(need, context.effort, None if current is None else current.pipeline)
    target = arranged(asked, need, pipeline, current, revision)
    leaving = difference(current, target).removed
    target = replace(target, plan=context.writer.plan(service, target, leaving))
    if current is not None and target.plan != current.plan:
        unit = replace(target.network.unit, revision=revision)
        target = replace(target, network=replace(target.network, unit=unit))
    return target


def cost_of(target: Deployment) -> str:
    """Return what a placement costs, and how far that is proven to be the least."""
    placement = target.pipeline.placement
    above = f"at most {placement.gap:.1%} above the optimum"
    proven = "proven optimal" if placement.optimal else above
    return f"cost {placement.objective:g}, {proven}"


class Actions:
    """The actions of one change.

    Args:
        context: what is acted on.
        asked: what was asked; of a removal, what was asked before.
        current: what is in force before the change.
        revision: the number of the change.
        fence: of the claim.
        beat: shows others that this orchestrator is at work.

    """

    def __init__(
        self,
        context: WorkflowContext,
        asked: Asked,
        current: Deployment | None,
        revision: int,
        fence: int,
        beat: Callable[[], None],
    ) -> None:
        self.target: Deployment | None = None
        """What shall be in force, once it is computed."""
        self._context = context
        self._asked = asked
        self._current = current
        self._revision = revision
        self._fence = fence
        self._beat = beat
        self._do: dict[str, Callable[[str], str]] = {
            "request": self._request,
            "pipeline": self._pipeline,
            "identity": self._identity,
            "brokers": self._brokers,
            "leave": self._leave,
            "start": self._start,
            "arrive": self._arrive,
            "inform": self._inform,
            "connectivity": self._connectivity,
            "trust": self._trust,
            "serving": self._serving,
            "commit": lambda _: "",
            "drain": self._drain,
            "halt": self._halt,
            "clear": self._clear,
            "revoke": self._revoke,
            "revocations": self._revocations,
        }
        self._undo: dict[str, Callable[[str], None]] = {
            "identity": self._dismiss,
            "leave": self._come_back,
            "start": self._discard,
            "arrive": self._leave_again,
            "inform": self._inform_back,
            "trust": self._distrust,
        }

    def do(self, step: WorkflowStep) -> str:
        """Do a step, and return what came of it in a few words.

        Raises:
            NotAvailableError: if it is left out.
            TransientFault, BusyError: if it may work in a moment.
            PhalanxError: if it failed for good.

        """
        return self._do[step.kind](step.subject)

    def undo(self, step: WorkflowStep) -> None:
        """Take a step back, of which any part may have been done; raises as ``do``."""
        undo = self._undo.get(step.kind)
        if undo is not None:
            undo(step.subject)

    # -- 0 and 1: what is asked, and the pipeline -------------------------------------------------

    def _request(self, _: str) -> str:
        service = self._asked.service(self._context.writer.functions())
        return f"{service.nsd.id}, flavour {service.flavour.id}: {len(service.request.vnfs)} VNFs"

    def _pipeline(self, _: str) -> str:
        self.target = planned(self._context, self._asked, self._current, self._revision)
        where = ", ".join(f"{m.key} at {m.site}" for m in self.target.agents)
        return f"{where}; {cost_of(self.target)}"

    # -- 2: agents --------------------------------------------------------------------------------

    def _identity(self, name: str) -> str:
        self._context.membership.issue(name, self._new(name).unit.kind)
        return ""

    def _dismiss(self, name: str) -> None:
        self._context.membership.reload()  # else it may not be let in to withdraw its entry
        self._context.watcher.forget(name)
        self._context.membership.revoke(name)

    def _brokers(self, _: str) -> str:
        self._context.membership.reload()
        return ""

    def _start(self, name: str) -> str:
        return self._run(self._new(name), self._made, None)

    def _discard(self, name: str) -> None:
        member = self._new(name)
        self._end(member, gracefully=False)
        self._context.sites(member.site).clear(name, fence=self._fence)

    def _leave(self, name: str) -> str:
        """End a process that is to go on elsewhere, or as another revision; it keeps its state."""
        self._end(self._old(name), gracefully=False)
        return f"left {self._old(name).site}"

    def _come_back(self, name: str) -> None:
        """Have it go on where it was, with what it came to know where it is not to stay."""
        old, new = self._old(name), self._new(name)
        here, there = self._context.sites(old.site), self._context.sites(new.site)
        assert self._current is not None
        if old.site == new.site:
            self._run(old, self._current, None)
            return
        if not any(r.unit.name == name and r.pid for r in here.running()):
            state = there.state(name)
            if state is not None:  # newer than what stayed here
                here.clear(name, fence=self._fence)
            self._run(old, self._current, state)
        there.clear(name, fence=self._fence)

    def _arrive(self, name: str) -> str:
        old, new = self._old(name), self._new(name)
        state = None
        if old.site != new.site:
            state = self._context.sites(old.site).state(name)
        return self._run(new, self._made, state)

    def _leave_again(self, name: str) -> None:
        self._end(self._new(name), gracefully=False)

    def _inform(self, name: str) -> str:
        return self._hand(self._old(name), self._made)

    def _inform_back(self, name: str) -> None:
        assert self._current is not None
        self._hand(self._old(name), self._current)

    def _hand(self, member: ServiceMember, deployment: Deployment) -> str:
        """Give a process that goes on the plan of a deployment, and have it read that."""
        context = self._context
        iml = context.sites(member.site)
        iml.update(member.name, context.writer.files(member, deployment), fence=self._fence)
        if not any(running.unit.name == member.name and running.pid for running in iml.running()):
            return "does not run: it reads the plan when it is started"
        return context.watcher.reload(member.name)

    def _run(self, member: ServiceMember, deployment: Deployment, state: bytes | None) -> str:
        context = self._context
        files = files_of(context, member, deployment)
        iml = context.sites(member.site)
        running = iml.start(member.unit, files, fence=self._fence, state=state)
        return f"at {member.site}, process {running.pid}"

    def _end(self, member: ServiceMember, *, gracefully: bool) -> None:
        retry = self._context.retry
        within_s = retry.drain_s if gracefully else retry.stop_s
        self._context.sites(member.site).stop(
            member.name, fence=self._fence, gracefully=gracefully, within_s=within_s
        )

    def _connectivity(self, _: str) -> str:
        """Wait until all processes answer, and each agent reaches those that it speaks with."""
        awaited(self._context, self._made.members, self._beat, serving=False)
        found = connected(self._context, self._made, self._beat)
        answer = f"{len(self._made.members)} processes answer over the bus"
        took = [p.round_trip_ms for p in found.values() if p.round_trip_ms is not None]
        if not took:
            return answer
        return f"{answer}; {len(took)} pairs reach each other, the slowest in {max(took):.3g} ms"

    # -- 3 to 14: trust ---------------------------------------------------------------------------

    def _trust(self, name: str) -> str:
        step = next(step for step in TRUST_STEPS if step.name == name)
        return self._context.trust.perform(step, self._made.service, self._concerned())

    def _distrust(self, name: str) -> None:
        step = next(step for step in TRUST_STEPS if step.name == name)
        self._context.trust.revert(step, self._made.service, self._concerned())

    def _concerned(self) -> tuple[str, ...]:
        change = difference(self._current, self._made)
        fresh = {m.name for m in change.added} | {new.name for _, new in change.altered}
        return tuple(m.name for m in self._made.all_agents if m.name in fresh)

    # -- operation --------------------------------------------------------------------------------

    def _serving(self, _: str) -> str:
        seen = awaited(self._context, self._made.members, self._beat, serving=True)
        goals = sum(one.goals for one in seen.values())
        return f"{len(self._made.all_agents)} agents serve, {goals} goals adopted"

    # -- the end ----------------------------------------------------------------------------------

    def _drain(self, name: str) -> str:
        self._end(self._old(name), gracefully=True)
        return "left in order"

    def _halt(self, name: str) -> str:
        self._end(self._old(name), gracefully=False)
        return ""

    def _clear(self, name: str) -> str:
        self._context.sites(self._old(name).site).clear(name, fence=self._fence)
        return ""

    def _revoke(self, name: str) -> str:
        self._dismiss(name)
        return ""

    def _revocations(self, _: str) -> str:
        """Hand those that stay the list of identities that are revoked."""
        fresh = self._context.membership.revocations()
        files = {f"{FILES_OF_IDENTITY}/{name}": octets for name, octets in fresh.items()}
        for member in self._made.members:
            self._context.sites(member.site).update(member.name, files, fence=self._fence)
        return ""

    # -- parts ------------------------------------------------------------------------------------

    @property
    def _made(self) -> Deployment:
        assert self.target is not None  # the pipeline comes before all that ask for it
        return self.target

    def _new(self, name: str) -> ServiceMember:
        member = self._made.member(name)
        assert member is not None
        return member

    def _old(self, name: str) -> ServiceMember:
        member = None if self._current is None else self._current.member(name)
        assert member is not None
        return member


def is_transient(error: PhalanxError) -> bool:
    """Whether what failed may work in a moment."""
    return isinstance(error, TransientFault | BusyError)


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
