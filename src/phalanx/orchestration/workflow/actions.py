"""What each step does, and how it is taken back. Every action may be repeated without harm."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError
from phalanx.orchestration.iml.unit import BusyError
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
    TRUST_STEPS,
    Asked,
    Deployment,
    ServiceMember,
    WorkflowStep,
    arranged,
    difference,
)


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
        context, current = self._context, self._current
        service = self._asked.service(context.writer.functions())
        need = need_of(service, self._asked.without)
        running = None if current is None else current.pipeline
        pipeline = compute(need, context.effort, running)
        target = arranged(self._asked, need, pipeline, current, self._revision)
        target = replace(
            target, plan=context.writer.plan(service, target, difference(current, target).removed)
        )
        if current is not None and target.plan != current.plan:
            unit = replace(target.network.unit, revision=self._revision)
            target = replace(target, network=replace(target.network, unit=unit))
        self.target = target
        where = ", ".join(f"{m.key} at {m.site}" for m in target.agents)
        proven = (
            "proven optimal"
            if pipeline.placement.optimal
            else (f"at most {pipeline.placement.gap:.1%} above the optimum")
        )
        return f"{where}; cost {pipeline.placement.objective:g}, {proven}"

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
