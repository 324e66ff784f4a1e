"""Keeping a service as its journal says: what has died is started again, until it is removed.

Nothing but the journal is remembered, so whoever keeps a service may be killed at any moment
and started again: it looks at the processes, and goes on. Whoever changes the service goes
first; while a change is on its way nothing is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.domain.errors import PhalanxError, StoreError
from phalanx.orchestration.fates import Endurance, Fate
from phalanx.orchestration.iml import BusyError, Unit
from phalanx.orchestration.journal import ServiceJournal, ServiceRecord
from phalanx.orchestration.journal_claims import Claim, ClaimedError, Note
from phalanx.orchestration.workflow import Deployment, Ground, Member, PassingFault, WorkflowError
from phalanx.orchestration.workflow.ground import files_of


class Kept(Struct, frozen=True):
    """Something that happened to a service that is kept."""

    what: str
    """``watches``, ``died``, ``started``, ``failed``, ``left alone``, ``waits`` or ``removed``."""
    line: str


OnKept = Callable[[Kept], None]


class Keeper:
    """Keeps one service.

    Args:
        ground: what is acted on.
        journal: what shall run.
        name: the service; there is, or was, one of that name.
        send: sends events that were recorded to where all events go.
        told: told of what happens.
        endurance: how often processes are started again.

    """

    def __init__(
        self,
        ground: Ground,
        journal: ServiceJournal,
        name: str,
        *,
        send: Callable[[], None],
        told: OnKept,
        endurance: Endurance,
    ) -> None:
        self._ground = ground
        self._journal = journal
        self._name = name
        self._send = send
        self._told = told
        self._endurance = endurance
        self._fates: dict[str, tuple[Unit, Fate]] = {}
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
            self._ground.sleep(self._endurance.look_s)

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
        if not self._fates:
            self._tell("watches", f"{len(members)} processes are watched")
        fates = {}
        for member in members:
            unit, fate = self._fates.get(member.name, (member.unit, Fate(self._endurance)))
            if unit != member.unit:  # it was changed: what went before says nothing of it
                fate = Fate(self._endurance)
            fates[member.name] = (member.unit, fate)
        self._fates = fates
        for member in members:
            try:
                self._see_to(member, fates[member.name][1], record)
            except (StoreError, PassingFault, BusyError) as error:
                waits.append(str(error))
        if all(fate.left_alone for _, fate in fates.values()):
            raise WorkflowError(
                f"{self._name}: all of its processes died again and again; "
                f"phalanx service logs {self._name} PROCESS tells what one said"
            )
        return True

    def _see_to(self, member: Member, fate: Fate, record: ServiceRecord) -> None:
        now = self._ground.monotonic()
        if self._runs(member):
            fate.lives(now)
        elif fate.dead(now):
            self._mourn(member, fate, record)
        elif fate.due is not None and now >= fate.due:
            self._start(member, fate, record)

    def _mourn(self, member: Member, fate: Fate, record: ServiceRecord) -> None:
        where = f"{member.name} at {member.site}"
        said = self._ground.sites(member.site).logs(member.name, 1).strip()
        words = f"; it said last: {said}" if said else ""
        if fate.due is not None:
            pause_s = fate.due - self._ground.monotonic()
            self._tell("died", f"{where} does not run; it is started in {pause_s:.3g} s{words}")
            return
        times = f"died {fate.deaths} times in a row"
        self._tell("left alone", f"{where} {times}: it is not started any more{words}")
        with self._claimed(record) as claim:
            if claim is not None:
                data = {"process": member.name, "site": member.site, "deaths": fate.deaths}
                self._note(claim, record, "service.given_up", data)

    def _start(self, member: Member, fate: Fate, record: ServiceRecord) -> None:
        ground, where = self._ground, f"{member.name} at {member.site}"
        with self._claimed(record) as claim:
            if claim is None or self._runs(member):
                return
            try:
                files = files_of(ground, member, _deployment(record))
                running = ground.sites(member.site).start(member.unit, files, fence=claim.fence)
            except (PassingFault, BusyError, StoreError):
                raise  # it is no fault of the process: that does not count
            except PhalanxError as error:
                fate.started(ground.monotonic())
                self._tell("failed", f"{where} cannot be started: {error}")
                return
            fate.started(ground.monotonic())
            self._tell("started", f"{where} runs again, process {running.pid}")
            data = {"process": member.name, "site": member.site, "attempt": fate.deaths}
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
        note = Note(kind, {"revision": change.revision, **data})
        claim.turn(change.revision, change.stage, note=note)

    def _runs(self, member: Member) -> bool:
        running = self._ground.sites(member.site).running()
        return any(one.unit.name == member.name and one.pid is not None for one in running)

    def _tell(self, what: str, line: str) -> None:
        self._told(Kept(what, f"{self._name}: {line}"))


def _deployment(record: ServiceRecord) -> Deployment:
    assert record.deployment is not None
    return msgspec.json.decode(record.deployment, type=Deployment)
