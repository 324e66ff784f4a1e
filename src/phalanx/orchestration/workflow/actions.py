"""What each step does, and how it is taken back. Every action may be repeated without harm."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError
from phalanx.orchestration.iml import BusyError
from phalanx.orchestration.mlfo import Change, compute, need_of, recompute
from phalanx.orchestration.workflow.ground import (
    FILES_OF_IDENTITY,
    Ground,
    awaited,
    connected,
    files_of,
)
from phalanx.orchestration.workflow.model import Asked, Deployment, Member, arranged
from phalanx.orchestration.workflow.ports import PassingFault
from phalanx.orchestration.workflow.steps import Step, difference
from phalanx.orchestration.workflow.trust import TRUST_STEPS


class Actions:
    """The actions of one change.

    Args:
        ground: what is acted on.
        asked: what was asked; of a removal, what was asked before.
        current: what is in force before the change.
        revision: the number of the change.
        fence: of the claim.
        beat: shows others that this orchestrator is at work.

    """

    def __init__(
        self,
        ground: Ground,
        asked: Asked,
        current: Deployment | None,
        revision: int,
        fence: int,
        beat: Callable[[], None],
    ) -> None:
        self.target: Deployment | None = None
        """What shall be in force, once it is computed."""
        self._ground = ground
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

    def do(self, step: Step) -> str:
        """Do a step, and return what came of it in a few words.

        Raises:
            NotAvailableError: if it is left out.
            PassingFault, BusyError: if it may work in a moment.
            PhalanxError: if it failed for good.

        """
        return self._do[step.kind](step.subject)

    def undo(self, step: Step) -> None:
        """Take a step back, of which any part may have been done; raises as ``do``."""
        undo = self._undo.get(step.kind)
        if undo is not None:
            undo(step.subject)

    # -- 0 and 1: what is asked, and the pipeline -------------------------------------------------

    def _request(self, _: str) -> str:
        service = self._asked.service(self._ground.outfitter.functions())
        return f"{service.nsd.id}, flavour {service.flavour.id}: {len(service.request.vnfs)} VNFs"

    def _pipeline(self, _: str) -> str:
        ground, current = self._ground, self._current
        service = self._asked.service(ground.outfitter.functions())
        need = need_of(service)
        change = Change(without=self._asked.without)
        if current is None:
            need = replace(need, without=(*need.without, *self._asked.without))
            pipeline = compute(need, ground.effort)
        else:
            pipeline = recompute(current.pipeline, need, change, ground.effort)
            need = replace(need, without=(*need.without, *self._asked.without))
        target = arranged(self._asked, need, pipeline, current, self._revision)
        target = replace(
            target, plan=ground.outfitter.plan(service, target, difference(current, target).removed)
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
        self._ground.membership.issue(name, self._new(name).unit.kind)
        return ""

    def _dismiss(self, name: str) -> None:
        self._ground.membership.reload()  # else it may not be let in to withdraw its entry
        self._ground.watcher.forget(name)
        self._ground.membership.revoke(name)

    def _brokers(self, _: str) -> str:
        self._ground.membership.reload()
        return ""

    def _start(self, name: str) -> str:
        return self._run(self._new(name), self._made, None)

    def _discard(self, name: str) -> None:
        member = self._new(name)
        self._end(member, gracefully=False)
        self._ground.sites(member.site).clear(name, fence=self._fence)

    def _leave(self, name: str) -> str:
        """End a process that is to go on elsewhere, or as another revision; it keeps its state."""
        self._end(self._old(name), gracefully=False)
        return f"left {self._old(name).site}"

    def _come_back(self, name: str) -> None:
        """Have it go on where it was, with what it came to know where it is not to stay."""
        old, new = self._old(name), self._new(name)
        here, there = self._ground.sites(old.site), self._ground.sites(new.site)
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
            state = self._ground.sites(old.site).state(name)
        return self._run(new, self._made, state)

    def _leave_again(self, name: str) -> None:
        self._end(self._new(name), gracefully=False)

    def _inform(self, name: str) -> str:
        return self._hand(self._old(name), self._made)

    def _inform_back(self, name: str) -> None:
        assert self._current is not None
        self._hand(self._old(name), self._current)

    def _hand(self, member: Member, deployment: Deployment) -> str:
        """Give a process that goes on the plan of a deployment, and have it read that."""
        ground = self._ground
        iml = ground.sites(member.site)
        iml.update(member.name, ground.outfitter.files(member, deployment), fence=self._fence)
        if not any(running.unit.name == member.name and running.pid for running in iml.running()):
            return "does not run: it reads the plan when it is started"
        return ground.watcher.reload(member.name)

    def _run(self, member: Member, deployment: Deployment, state: bytes | None) -> str:
        ground = self._ground
        files = files_of(ground, member, deployment)
        iml = ground.sites(member.site)
        running = iml.start(member.unit, files, fence=self._fence, state=state)
        return f"at {member.site}, process {running.pid}"

    def _end(self, member: Member, *, gracefully: bool) -> None:
        patience = self._ground.patience
        within_s = patience.drain_s if gracefully else patience.stop_s
        self._ground.sites(member.site).stop(
            member.name, fence=self._fence, gracefully=gracefully, within_s=within_s
        )

    def _connectivity(self, _: str) -> str:
        """Wait until all processes answer, and each agent reaches those that it speaks with."""
        awaited(self._ground, self._made.members, self._beat, serving=False)
        found = connected(self._ground, self._made, self._beat)
        answer = f"{len(self._made.members)} processes answer over the bus"
        took = [p.round_trip_ms for p in found.values() if p.round_trip_ms is not None]
        if not took:
            return answer
        return f"{answer}; {len(took)} pairs reach each other, the slowest in {max(took):.3g} ms"

    # -- 3 to 14: trust ---------------------------------------------------------------------------

    def _trust(self, name: str) -> str:
        step = next(step for step in TRUST_STEPS if step.name == name)
        return self._ground.trust.perform(step, self._made.service, self._concerned())

    def _distrust(self, name: str) -> None:
        step = next(step for step in TRUST_STEPS if step.name == name)
        self._ground.trust.revert(step, self._made.service, self._concerned())

    def _concerned(self) -> tuple[str, ...]:
        change = difference(self._current, self._made)
        fresh = {m.name for m in change.added} | {new.name for _, new in change.altered}
        return tuple(m.name for m in self._made.agents if m.name in fresh)

    # -- operation --------------------------------------------------------------------------------

    def _serving(self, _: str) -> str:
        seen = awaited(self._ground, self._made.members, self._beat, serving=True)
        goals = sum(one.goals for one in seen.values())
        return f"{len(self._made.agents)} agents serve, {goals} goals adopted"

    # -- the end ----------------------------------------------------------------------------------

    def _drain(self, name: str) -> str:
        self._end(self._old(name), gracefully=True)
        return "left in order"

    def _halt(self, name: str) -> str:
        self._end(self._old(name), gracefully=False)
        return ""

    def _clear(self, name: str) -> str:
        self._ground.sites(self._old(name).site).clear(name, fence=self._fence)
        return ""

    def _revoke(self, name: str) -> str:
        self._dismiss(name)
        return ""

    def _revocations(self, _: str) -> str:
        """Hand those that stay the list of whom to believe no more."""
        fresh = self._ground.membership.revocations()
        files = {f"{FILES_OF_IDENTITY}/{name}": octets for name, octets in fresh.items()}
        for member in self._made.members:
            self._ground.sites(member.site).update(member.name, files, fence=self._fence)
        return ""

    # -- parts ------------------------------------------------------------------------------------

    @property
    def _made(self) -> Deployment:
        assert self.target is not None  # the pipeline comes before all that ask for it
        return self.target

    def _new(self, name: str) -> Member:
        member = self._made.member(name)
        assert member is not None
        return member

    def _old(self, name: str) -> Member:
        member = None if self._current is None else self._current.member(name)
        assert member is not None
        return member


def is_passing(error: PhalanxError) -> bool:
    """Whether what failed may work in a moment."""
    return isinstance(error, PassingFault | BusyError)
