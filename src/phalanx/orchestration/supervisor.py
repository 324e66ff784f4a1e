"""Keeping a service as its journal says: what has died is started again, until it is removed.

Nothing but the journal is remembered, so a supervisor may be killed at any moment
and started again: it looks at the processes, and goes on. A command that changes the service goes
first; while a change is on its way nothing is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.domain.errors import PhalanxError, StoreError
from phalanx.orchestration.iml.unit import BusyError, Unit
from phalanx.orchestration.journal import (
    Claim,
    ClaimedError,
    JournalNote,
    ServiceJournal,
    ServiceRecord,
)
from phalanx.orchestration.workflow.context import TransientFault, WorkflowContext, files_of
from phalanx.orchestration.workflow.machine import WorkflowError
from phalanx.orchestration.workflow.model import Deployment, ServiceMember


class RestartPolicy(Struct, frozen=True):
    """How long, and how often, processes that die are started again."""

    look_s: float = 1.0
    """Between two looks at them."""
    pause_s: float = 1.0
    """Before a process is started again; twice as long before each further time in a row."""
    most_pause_s: float = 60.0
    attempts: int = 6
    """A process that dies after so many starts in a row is left alone."""
    steady_s: float = 60.0
    """One that lives for so long has ended the row."""


class RestartState:
    """The restart of one process as its watcher sees it, at times of any clock, in seconds."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.deaths = 0
        """In a row."""
        self.due: float | None = None
        """When it is to be started; None: it lives, as far as is known, or is left alone."""
        self.left_alone = False
        self._policy = policy
        self._since: float | None = None

    def lives(self, now: float) -> None:
        """Note that it was seen alive."""
        if self._since is None or self.due is not None or self.left_alone:
            self._since, self.due = now, None
        if self.left_alone or now - self._since >= self._policy.steady_s:
            self.deaths, self.left_alone = 0, False

    def dead(self, now: float) -> bool:
        """Note that it was seen dead, and return whether that is news."""
        if self.due is not None or self.left_alone:
            return False
        lived_s = 0.0 if self._since is None else now - self._since
        self.deaths = 1 if lived_s >= self._policy.steady_s else self.deaths + 1
        if self.deaths > self._policy.attempts:
            self.left_alone = True
        else:
            pause_s = self._policy.pause_s * 2.0 ** (self.deaths - 1)
            self.due = now + min(pause_s, self._policy.most_pause_s)
        return True

    def started(self, now: float) -> None:
        """Note that it was started; whether it lives is seen at the next look."""
        self._since, self.due = now, None


class SupervisorNotice(Struct, frozen=True):
    """Something that happened to a service that is kept."""

    what: str
    """``watches``, ``died``, ``started``, ``failed``, ``left alone``, ``waits`` or ``removed``."""
    line: str


OnNotice = Callable[[SupervisorNotice], None]


class ServiceSupervisor:
    """Keeps one service.

    Args:
        context: what is acted on.
        journal: what shall run.
        name: the service; there is, or was, one of that name.
        send: sends events that were recorded to where all events go.
        told: told of what happens.
        policy: how often processes are started again.

    """

    def __init__(
        self,
        context: WorkflowContext,
        journal: ServiceJournal,
        name: str,
        *,
        send: Callable[[], None],
        told: OnNotice,
        policy: RestartPolicy,
    ) -> None:
        self._context = context
        self._journal = journal
        self._name = name
        self._send = send
        self._told = told
        self._policy = policy
        self._restarts: dict[str, tuple[Unit, RestartState]] = {}
        self._waits: set[str] = set()
        """What cannot be done now, and why, as it was told."""

    def keep(self) -> None:
        """Keep the service until it is removed.

        Raises:
            WorkflowError: once all of its processes are left alone.

        """
        while True:
            waits: list[str] = []
            try:
                record = self._journal.read(self._name)
                assert record is not None  # nothing is ever taken out of the journal
                if not self._look(record, waits):
                    return
            except StoreError as error:
                waits.append(str(error))
            for why in waits:
                if why not in self._waits:
                    self._tell("waits", why)
            self._waits = {*waits}
            self._context.sleep(self._policy.look_s)

    def _look(self, record: ServiceRecord, waits: list[str]) -> bool:
        """Look at the service once; whether there still is one. What has to wait is noted."""
        change = record.change
        if change.open:
            waits.append(
                f"its change {change.revision} ({change.kind}) is on its way; if nobody works on "
                f"it, phalanx service resume {self._name} does"
            )
            return True
        if record.deployment is None:
            self._tell("removed", "there is no such service any more")
            return False
        members = _deployment(record).members
        if not self._restarts:
            self._tell("watches", f"{len(members)} processes are watched")
        restarts = {}
        for member in members:
            unit, restart = self._restarts.get(
                member.name, (member.unit, RestartState(self._policy))
            )
            if unit != member.unit:  # it was changed: what went before says nothing of it
                restart = RestartState(self._policy)
            restarts[member.name] = (member.unit, restart)
        self._restarts = restarts
        for member in members:
            try:
                self._see_to(member, restarts[member.name][1], record)
            except (StoreError, TransientFault, BusyError) as error:
                waits.append(str(error))
        if all(restart.left_alone for _, restart in restarts.values()):
            raise WorkflowError(
                f"{self._name}: all of its processes died again and again; "
                f"phalanx service logs {self._name} PROCESS tells what one said"
            )
        return True

    def _see_to(self, member: ServiceMember, restart: RestartState, record: ServiceRecord) -> None:
        now = self._context.monotonic()
        if self._runs(member):
            restart.lives(now)
        elif restart.dead(now):
            self._mourn(member, restart, record, now)
        elif restart.due is not None and now >= restart.due:
            self._start(member, restart, record)

    def _mourn(
        self, member: ServiceMember, restart: RestartState, record: ServiceRecord, now: float
    ) -> None:
        where = f"{member.name} at {member.site}"
        said = self._context.sites(member.site).logs(member.name, 1).strip()
        words = f"; it said last: {said}" if said else ""
        if restart.due is not None:
            due = f"it is started in {restart.due - now:.3g} s"
            self._tell("died", f"{where} does not run; {due}{words}")
            return
        times = f"died {restart.deaths} times in a row"
        self._tell("left alone", f"{where} {times}: it is not started any more{words}")
        with self._claimed(record) as claim:
            if claim is not None:
                data = {"process": member.name, "site": member.site, "deaths": restart.deaths}
                self._note(claim, record, "service.given_up", data)

    def _start(self, member: ServiceMember, restart: RestartState, record: ServiceRecord) -> None:
        context, where = self._context, f"{member.name} at {member.site}"
        with self._claimed(record) as claim:
            if claim is None or self._runs(member):
                return
            try:
                files = files_of(context, member, _deployment(record))
                running = context.sites(member.site).start(member.unit, files, fence=claim.fence)
            except (TransientFault, BusyError, StoreError):
                raise  # it is no fault of the process: that does not count
            except PhalanxError as error:
                restart.started(context.monotonic())
                self._tell("failed", f"{where} cannot be started: {error}")
                return
            restart.started(context.monotonic())
            self._tell("started", f"{where} runs again, process {running.pid}")
            data = {"process": member.name, "site": member.site, "attempt": restart.deaths}
            self._note(claim, record, "service.restarted", data)

    # -- parts ------------------------------------------------------------------------------------

    @contextmanager
    def _claimed(self, record: ServiceRecord) -> Iterator[Claim | None]:
        """Give the right to change the service; None if others work on it, or have meanwhile."""
        try:
            claim = self._journal.claim(self._name)
        except ClaimedError:
            yield None
            return
        try:
            now = self._journal.read(self._name)
            assert now is not None  # nothing is ever taken out of the journal
            same = now.change.revision == record.change.revision and not now.change.open
            yield claim if same else None
        finally:
            claim.release()
        self._send()

    def _note(self, claim: Claim, record: ServiceRecord, kind: str, data: dict[str, Any]) -> None:
        change = record.change
        note = JournalNote(kind, {"revision": change.revision, **data})
        claim.turn(change.revision, change.stage, note=note)

    def _runs(self, member: ServiceMember) -> bool:
        running = self._context.sites(member.site).running()
        return any(one.unit.name == member.name and one.pid is not None for one in running)

    def _tell(self, what: str, line: str) -> None:
        self._told(SupervisorNotice(what, f"{self._name}: {line}"))


def _deployment(record: ServiceRecord) -> Deployment:
    assert record.deployment is not None
    return msgspec.json.decode(record.deployment, type=Deployment)
