"""The service orchestrator: deploys, shows, changes and removes services, one change at a time."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from phalanx.domain.errors import ScenarioError
from phalanx.loading import one_line, unknown
from phalanx.orchestration.iml.unit import UnitKind
from phalanx.orchestration.journal import (
    ChangeStage,
    Claim,
    JournalNote,
    ServiceJournal,
    ServiceRecord,
)
from phalanx.orchestration.supervisor import OnNotice, RestartPolicy, ServiceSupervisor
from phalanx.orchestration.workflow.context import (
    Seen,
    TransientFault,
    WorkflowContext,
    awaited,
    files_of,
)
from phalanx.orchestration.workflow.machine import (
    OnProgress,
    StepResult,
    Wanted,
    Workflow,
    WorkflowError,
    planned,
)
from phalanx.orchestration.workflow.model import Asked, ChangeKind, Deployment, ServiceMember


class AgentView(Struct, frozen=True):
    """A process of a service as it is now."""

    member: ServiceMember
    pid: int | None
    """Its process; None: it does not run."""
    seen: Seen | None
    """What it says of itself over the bus; None: nothing."""
    trust: str
    """How far it is trusted, in plain words; of the network nothing."""


class ServiceView(Struct, frozen=True):
    """A service as it is now."""

    name: str
    state: str
    """``running``, ``removed``, ``rolled back``, or which change is unfinished, and how."""
    revision: int
    deployment: Deployment | None
    agents: tuple[AgentView, ...] = ()
    unreachable: str = ""
    """Why the processes could not be asked; empty: they were."""
    unfinished: bool = False
    left_out: tuple[str, ...] = ()
    """Steps of the latest change that nobody does yet, in plain words."""


def view_of(found: ServiceRecord) -> ServiceView:
    """Return a service as the journal has it, without its processes."""
    change = found.change
    left_out = []
    for step in change.steps:
        outcome = msgspec.json.decode(step.result, type=StepResult) if step.result else StepResult()
        if outcome.left_out:
            left_out.append(f"{step.name}: {outcome.detail}")
    return ServiceView(
        found.name,
        _state(found),
        change.revision,
        deployment_of(found),
        unfinished=change.open,
        left_out=tuple(left_out),
    )


def _state(found: ServiceRecord) -> str:
    change = found.change
    match change.stage:
        case ChangeStage.OPEN:
            return f"unfinished: {change.kind}"
        case ChangeStage.UNDOING:
            return f"unfinished: {change.kind} is being taken back ({change.reason})"
    if found.deployment is not None:
        back = f" (the latest change was taken back: {change.reason})" if change.reason else ""
        return f"running{back}"
    return f"rolled back: {change.reason}" if change.reason else "removed"


def deployment_of(found: ServiceRecord | None) -> Deployment | None:
    """Return what is in force; None: nothing."""
    if found is None or found.deployment is None:
        return None
    return msgspec.json.decode(found.deployment, type=Deployment)


class ServiceOrchestrator:
    """Changes services by the workflow, so that each command can be repeated after any crash.

    Args:
        context: what is acted on.
        journal: what was done, and is to be done.
        told: told of each step.

    """

    def __init__(
        self, context: WorkflowContext, journal: ServiceJournal, *, told: OnProgress | None = None
    ) -> None:
        self._context = context
        self._journal = journal
        self._told = told

    # -- changes ----------------------------------------------------------------------------------

    def deploy(self, asked: Asked) -> Deployment:
        """Deploy a service, or go on with its deployment; without effect if it runs as asked.

        Raises:
            ScenarioError: if what is asked is not usable, or the service runs otherwise.
            RolledBackError: if it failed for good, and all was taken back.
            WorkflowError: if it could not be ended either way now.
            ClaimedError: if another orchestrator works on the service.

        """
        name = self._name(asked)
        found = self._journal.read(name)
        running = deployment_of(found)
        if found is not None and found.change.open:
            _check_same(found, ChangeKind.DEPLOY, asked)
        elif running is not None:
            self._check_deployed(name, running, asked)
            self._claimed(name, lambda claim: self._revive(claim, running))
            return running
        done = self._changed(name, ChangeKind.DEPLOY, asked)
        assert done is not None
        return done

    def reconfigure(self, name: str, asked: Asked) -> Deployment:
        """Change a service that is deployed to what is asked now, or go on with that.

        Agents that stay where they are, with what they do, are not started anew; they read the
        plan of the slice's network again if it is another one.

        Raises:
            ScenarioError: if what is asked is not usable, or there is no such service.
            RolledBackError, WorkflowError, ClaimedError: as ``deploy``.

        """
        self._check_name(name, asked)
        found = self._found(name)
        if found.change.open:
            _check_same(found, ChangeKind.RECONFIGURE, asked)
        elif deployment_of(found) is None:
            raise ScenarioError(f"{name}: is not deployed; phalanx service deploy does that")
        done = self._changed(name, ChangeKind.RECONFIGURE, asked)
        assert done is not None
        return done

    def remove(self, name: str) -> None:
        """Remove a service without a trace, or go on with that; without effect if it is gone.

        An unfinished change is taken up first, and brought to its end.

        Raises:
            ScenarioError: if there never was such a service.
            WorkflowError, ClaimedError: as ``deploy``.

        """
        found = self._found(name)
        if found.change.open and found.change.kind != ChangeKind.REMOVE.value:
            try:
                self.resume(name)
            except WorkflowError:
                if self._found(name).change.open:
                    raise
            found = self._found(name)
        running = deployment_of(found)
        if running is not None or found.change.open:
            asked = msgspec.json.decode(found.change.request, type=Wanted).asked
            self._changed(name, ChangeKind.REMOVE, asked)

    def resume(self, name: str) -> Deployment | None:
        """Bring an unfinished change to its end; of a service that runs, start what has died.

        Raises:
            ScenarioError: if there never was such a service.
            RolledBackError, WorkflowError, ClaimedError: as ``deploy``.

        """
        found = self._found(name)
        if found.change.open:
            asked = msgspec.json.decode(found.change.request, type=Wanted).asked
            return self._changed(name, ChangeKind(found.change.kind), asked)
        running = deployment_of(found)
        if running is not None:
            self._claimed(name, lambda claim: self._revive(claim, running))
        return running

    def keep(self, name: str, told: OnNotice, policy: RestartPolicy | None = None) -> None:
        """Start what dies of a service, until it is removed.

        Args:
            name: of a service that is deployed, or on its way.
            told: told of what happens.
            policy: how often processes are started again; None: the usual.

        Raises:
            ScenarioError: if there is no such service.
            WorkflowError: once all of its processes died too often.

        """
        found = self._found(name)
        if found.deployment is None and not found.change.open:
            raise ScenarioError(f"{name}: is not deployed; phalanx service deploy does that")
        keeper = ServiceSupervisor(
            self._context,
            self._journal,
            name,
            send=self._send_and_close,
            told=told,
            policy=policy or RestartPolicy(),
        )
        keeper.keep()

    def foresee(self, asked: Asked, name: str = "") -> tuple[Deployment | None, Deployment]:
        """Return what is in force and what a change would put in force now; nothing is done.

        Args:
            asked: what would be asked for.
            name: of the service that would be reconfigured; empty: one would be deployed.

        Raises:
            PlacementError: if no placement keeps what is asked.
            ScenarioError: if what is asked is not usable, or the change would be refused.

        """
        own = self._name(asked)
        self._check_name(name or own, asked)
        found = self._found(name) if name else self._journal.read(own)
        running = deployment_of(found)
        if not name and running is not None:
            self._check_deployed(own, running, asked)
        revision = 1 if found is None else found.change.revision + 1
        return running, planned(self._context, asked, running, revision)

    # -- looks ------------------------------------------------------------------------------------

    def list(self) -> tuple[ServiceView, ...]:
        """Return all services that are deployed or unfinished, without asking their processes."""
        found = [self._journal.read(name) for name in self._journal.names()]
        views = [view_of(record) for record in found if record is not None]
        return tuple(view for view in views if view.deployment is not None or view.unfinished)

    def show(self, name: str) -> ServiceView:
        """Return a service with all of its processes as they are now.

        Raises:
            ScenarioError: if there never was such a service.

        """
        found = self._found(name)
        view = view_of(found)
        deployment = view.deployment
        if deployment is None:
            return view
        seen: dict[str, Seen] = {}
        unreachable = ""
        try:
            seen = self._context.watcher.look(deployment.members, self._context.retry.look_s)
        except TransientFault as error:
            unreachable = str(error)
        agents = []
        for member in deployment.members:
            running = {r.unit.name: r.pid for r in self._context.sites(member.site).running()}
            is_agent = member.unit.kind is UnitKind.AGENT
            trust = self._context.trust.standing(member.name) if is_agent else ""
            pid = running.get(member.name)
            agents.append(AgentView(member, pid, seen.get(member.name), trust))
        return msgspec.structs.replace(view, agents=tuple(agents), unreachable=unreachable)

    def standings(self, deployment: Deployment) -> tuple[str, ...]:
        """Return how far the agents are trusted, in plain words, each way once."""
        found = (self._context.trust.standing(member.name) for member in deployment.all_agents)
        return tuple(dict.fromkeys(found))

    def asked(self, name: str) -> Asked:
        """Return what was asked of a service that is deployed or on its way.

        Raises:
            ScenarioError: if there is no such service.

        """
        found = self._found(name)
        running = deployment_of(found)
        if running is None or found.change.open:
            return msgspec.json.decode(found.change.request, type=Wanted).asked
        return running.asked

    def logs(self, name: str, member: str, lines: int) -> str:
        """Return the end of what a process of a service said.

        Raises:
            ScenarioError: if there is no such service, or process in it.

        """
        deployment = deployment_of(self._found(name))
        members = {m.key: m for m in deployment.members} if deployment is not None else {}
        if member not in members:
            raise ScenarioError(one_line(f"{name}: {unknown('process', member, members)}"))
        chosen = members[member]
        return self._context.sites(chosen.site).logs(chosen.name, lines)

    # -- parts ------------------------------------------------------------------------------------

    def _changed(self, name: str, kind: ChangeKind, asked: Asked) -> Deployment | None:
        return self._claimed(name, lambda claim: self._change(claim, kind, asked))

    def _change(self, claim: Claim, kind: ChangeKind, asked: Asked) -> Deployment | None:
        found = self._journal.read(claim.name)  # as it is now that nobody else can change it
        if found is None or not found.change.open:
            wanted = Wanted(asked, deployment_of(found))
            revision = 1 if found is None else found.change.revision + 1
            note = JournalNote("service.requested", {"revision": revision, "change": kind.value})
            claim.begin(kind.value, msgspec.json.encode(wanted), note)
            found = self._journal.read(claim.name)
            assert found is not None
        workflow = Workflow(self._context, claim, found.change, told=self._told)
        return workflow.run()

    def _claimed(self, name: str, work: Callable[[Claim], Deployment | None]) -> Deployment | None:
        claim = self._journal.claim(name)
        try:
            return work(claim)
        finally:
            claim.release()
            self._send()

    def _revive(self, claim: Claim, running: Deployment) -> Deployment:
        """Start what has died; what runs is not touched."""
        context = self._context
        for member in running.members:
            files = files_of(context, member, running)
            context.sites(member.site).start(member.unit, files, fence=claim.fence)
        awaited(context, running.members, claim.beat, serving=True)
        return running

    def _send(self) -> None:
        """Send the events that were recorded; those that do not arrive are sent the next time."""
        waiting = self._journal.unsent()
        while waiting:
            try:
                arrived = self._context.watcher.send(waiting)
            except TransientFault:
                return
            self._journal.sent(arrived)
            if len(arrived) < len(waiting):
                return
            waiting = self._journal.unsent()

    def _send_and_close(self) -> None:
        """Send events over a connection of their own: nobody reads from one that is kept idle."""
        self._send()
        self._context.watcher.close()

    def _name(self, asked: Asked) -> str:
        return asked.service(self._context.writer.functions()).request.name

    def _check_name(self, name: str, asked: Asked) -> None:
        if self._name(asked) != name:
            raise ScenarioError(
                f"{asked.request[0]}: name: is {self._name(asked)!r}; {name!r} is reconfigured"
            )

    def _check_deployed(self, name: str, running: Deployment, asked: Asked) -> None:
        if running.asked != asked:
            raise ScenarioError(
                f"{name}: is deployed already, and otherwise; phalanx service reconfigure "
                f"{name} changes it"
            )

    def _found(self, name: str) -> ServiceRecord:
        found = self._journal.read(name)
        if found is None:
            raise ScenarioError(one_line(unknown("service", name, self._journal.names())))
        return found


def _check_same(found: ServiceRecord, kind: ChangeKind, asked: Asked) -> None:
    """Refuse another change than the one that is unfinished."""
    change = found.change
    wanted = msgspec.json.decode(change.request, type=Wanted)
    if change.kind != kind.value or wanted.asked != asked:
        raise ScenarioError(
            f"{found.name}: its change {change.revision} ({change.kind}) is unfinished, and is "
            f"another one; phalanx service resume {found.name} brings it to its end"
        )
