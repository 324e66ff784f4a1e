"""The right to change a service: held by one orchestrator at a time, and fenced."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, insert, select, update

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.orchestration.journal_tables import CHANGES, EVENTS, SERVICES, STEPS
from phalanx.store.database import Database

T = TypeVar("T")

AUTHOR = "orchestrator"
"""Who records the events of services: the identity of this name."""


class ClaimedError(StoreError):
    """Another orchestrator works on the service, or has taken it over."""


class ChangeStage(Enum):
    """How far a change is."""

    OPEN = "open"
    """On its way."""
    UNDOING = "undoing"
    """A step failed for good; what was done is taken back."""
    DONE = "done"
    UNDONE = "undone"


class StepStage(Enum):
    """How far a step is."""

    INTENDED = "intended"
    """It may have been done, in part or as a whole."""
    DONE = "done"
    UNDOING = "undoing"
    UNDONE = "undone"


class Note(Struct, frozen=True):
    """What an event shall say; its id, time and cause are the journal's."""

    kind: str
    data: dict[str, Any]


class Claim:
    """The right to change one service, until ``release`` or until somebody takes it over.

    Raises:
        ClaimedError: by all of its methods, if the service was taken over: whatever this
            process was about to do, another one does now.
        StoreError: by all of its methods, if the store failed: then nothing was written.

    """

    def __init__(
        self, database: Database, name: str, fence: int, life: str, now: Callable[[], float]
    ) -> None:
        self.name = name
        self.fence = fence
        """Higher than that of every claim before."""
        self._database = database
        self._life = life
        self._now = now

    def begin(self, kind: str, request: bytes, note: Note) -> int:
        """Begin a change and return its number.

        Args:
            kind: of the change.
            request: what is asked (JSON).
            note: the event that is the root of all that follows.

        """

        def work(connection: Connection, row: Row[Any]) -> int:
            revision: int = row.revision + 1
            connection.execute(
                insert(CHANGES).values(
                    service=self.name,
                    revision=revision,
                    kind=kind,
                    request=request.decode(),
                    stage=ChangeStage.OPEN.value,
                    reason="",
                )
            )
            connection.execute(
                update(SERVICES).where(SERVICES.c.name == self.name).values(revision=revision)
            )
            self._record(connection, row.events, note, root=True)
            return revision

        return self._write(work)

    def step(
        self,
        revision: int,
        name: str,
        stage: StepStage,
        result: bytes | None = None,
        note: Note | None = None,
    ) -> None:
        """Note how far a step is; its place is behind those that were begun before."""

        def work(connection: Connection, row: Row[Any]) -> None:
            of_change = (STEPS.c.service == self.name) & (STEPS.c.revision == revision)
            known = connection.execute(select(STEPS.c.name).where(of_change)).scalars().all()
            if name in known:
                values: dict[str, Any] = {"stage": stage.value}
                if result is not None:
                    values["result"] = result.decode()
                connection.execute(
                    update(STEPS).where(of_change, STEPS.c.name == name).values(values)
                )
            else:
                connection.execute(
                    insert(STEPS).values(
                        service=self.name,
                        revision=revision,
                        place=len(known),
                        name=name,
                        stage=stage.value,
                        result=None if result is None else result.decode(),
                    )
                )
            if note is not None:
                self._record(connection, row.events, note)

        self._write(work)

    def turn(
        self, revision: int, stage: ChangeStage, reason: str = "", note: Note | None = None
    ) -> None:
        """Note how far a change is."""

        def work(connection: Connection, row: Row[Any]) -> None:
            of_it = (CHANGES.c.service == self.name) & (CHANGES.c.revision == revision)
            values = {"stage": stage.value} | ({"reason": reason} if reason else {})
            connection.execute(update(CHANGES).where(of_it).values(values))
            if note is not None:
                self._record(connection, row.events, note)

        self._write(work)

    def deploy(self, deployment: bytes | None) -> None:
        """Note what is in force from now on (JSON); None: nothing."""

        def work(connection: Connection, _row: Row[Any]) -> None:
            text = None if deployment is None else deployment.decode()
            connection.execute(
                update(SERVICES).where(SERVICES.c.name == self.name).values(deployment=text)
            )

        self._write(work)

    def beat(self) -> None:
        """Show others that this orchestrator is at work."""
        self._write(lambda _connection, _row: None)

    def release(self) -> None:
        """Give the service up."""

        def work(connection: Connection, _row: Row[Any]) -> None:
            connection.execute(
                update(SERVICES).where(SERVICES.c.name == self.name).values(holder=None)
            )

        self._write(work)

    def _write(self, work: Callable[[Connection, Row[Any]], T]) -> T:
        with self._database.errors(), self._database.engine.begin() as connection:
            mine = (SERVICES.c.name == self.name) & (SERVICES.c.fence == self.fence)
            beating = update(SERVICES).where(mine).values(beat=SERVICES.c.beat + 1)
            if connection.execute(beating).rowcount == 1:
                return work(connection, connection.execute(select(SERVICES).where(mine)).one())
        raise ClaimedError(f"{self.name}: another orchestrator has taken it over")

    def _record(
        self, connection: Connection, count: int, note: Note, *, root: bool = False
    ) -> None:
        """Keep an event; what was recorded just before it is its cause."""
        prefix = f"{AUTHOR}.{self._life}.{self.name}"
        cause = None if root or count == 0 else f"{prefix}-{count}"
        data = {"service": self.name, **note.data}
        event = Event(f"{prefix}-{count + 1}", self._now(), AUTHOR, note.kind, cause, data)
        connection.execute(
            insert(EVENTS).values(
                service=self.name, seq=count + 1, event=msgspec.json.encode(event).decode()
            )
        )
        connection.execute(
            update(SERVICES).where(SERVICES.c.name == self.name).values(events=count + 1)
        )
