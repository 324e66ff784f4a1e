"""The journal of the service orchestrator, in the store: what it is about to do, and what it did.

Before a step its intention is written, after it its result, each in one transaction together
with the event that tells of it. So whatever ends the orchestrator, the next one knows what may
have been done. One orchestrator works on a service at a time: each claim has a higher fencing
number, and a write under an older one is refused. A claim of a process that is dead is free at
once on the same machine; elsewhere, once it has not moved for ``LEASE_S`` of the watcher's time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    false,
    insert,
    select,
    update,
)

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.orchestration import holders
from phalanx.store.database import Database
from phalanx.store.schema import CREATOR_LOCK

METADATA = MetaData()
SERVICES = Table(
    "services",
    METADATA,
    Column("name", String, primary_key=True),
    Column("life", String, nullable=False),  # tells events of two journals apart
    Column("revision", Integer, nullable=False),  # of the latest change
    Column("deployment", String),  # JSON of what is in force; NULL: nothing
    Column("events", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("holder", String),
    Column("beat", Integer, nullable=False),
)
CHANGES = Table(
    "service_changes",
    METADATA,
    Column("service", String, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("request", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("reason", String, nullable=False),
    ForeignKeyConstraint(["service"], ["services.name"], ondelete="CASCADE"),
)
STEPS = Table(
    "service_steps",
    METADATA,
    Column("service", String, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("result", String),
    ForeignKeyConstraint(
        ["service", "revision"],
        ["service_changes.service", "service_changes.revision"],
        ondelete="CASCADE",
    ),
)
EVENTS = Table(
    "service_events",
    METADATA,
    Column("service", String, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("event", String, nullable=False),
    Column("sent", Boolean, nullable=False, server_default=false()),
    ForeignKeyConstraint(["service"], ["services.name"], ondelete="CASCADE"),
)


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


class JournalNote(Struct, frozen=True):
    """What an event shall say; its id, time and cause are the journal's."""

    kind: str
    data: dict[str, Any]


class Claim:
    """The right to change one service, until ``release`` or a takeover by another orchestrator.

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

    def begin(self, kind: str, request: bytes, note: JournalNote) -> int:
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
        note: JournalNote | None = None,
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
        self, revision: int, stage: ChangeStage, reason: str = "", note: JournalNote | None = None
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
        self, connection: Connection, count: int, note: JournalNote, *, root: bool = False
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


LEASE_S = 30.0
"""A claim of another machine that has not moved for so long is free."""


class StepRecord(Struct, frozen=True):
    """A step as the journal has it."""

    place: int
    name: str
    stage: StepStage
    result: Raw | None = None
    """What it came to (JSON), once it is done."""


class ChangeRecord(Struct, frozen=True):
    """A change of a service: its deployment, a reconfiguration, its removal."""

    revision: int
    """Counts the changes of the service, also of earlier lives of its name."""
    kind: str
    request: Raw
    """What was asked (JSON)."""
    stage: ChangeStage
    reason: str = ""
    """Why it is taken back."""
    steps: tuple[StepRecord, ...] = ()
    """In the order in which they were begun."""

    @property
    def open(self) -> bool:
        """Whether there is something left to be done for it."""
        return self.stage in (ChangeStage.OPEN, ChangeStage.UNDOING)


class ServiceRecord(Struct, frozen=True):
    """A service as the journal has it."""

    name: str
    deployment: Raw | None
    """What is in force (JSON); None: nothing, it was removed or never came to be."""
    change: ChangeRecord
    """The latest."""
    holder: str | None
    """Who works on it."""


class ServiceJournal:
    """The journals of all services of a store."""

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the journal's tables if they are not there.

        Args:
            database: the store.
            now: the time of events, in seconds since 1970.
            monotonic: the time by which claims of other machines are watched.
            sleep: waits while they are.

        Raises:
            StoreError: if they cannot be made.

        """
        self._database = database
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        with database.errors(), database.engine.connect() as connection:
            connection.exec_driver_sql(CREATOR_LOCK[database.dialect])
            METADATA.create_all(connection)
            connection.commit()

    def names(self) -> tuple[str, ...]:
        """Return the names of all services that there ever were, sorted."""
        with self._database.errors(), self._database.engine.connect() as connection:
            found = connection.execute(select(SERVICES.c.name)).scalars().all()
        return tuple(sorted(found))

    def read(self, name: str) -> ServiceRecord | None:
        """Return a service; None if there never was one of that name."""
        with self._database.errors(), self._database.engine.connect() as connection:
            row = connection.execute(select(SERVICES).where(SERVICES.c.name == name)).first()
            if row is None or row.revision == 0:
                return None
            return ServiceRecord(
                name, _raw(row.deployment), _change(connection, name, row.revision), row.holder
            )

    def claim(self, name: str) -> Claim:
        """Return the right to change a service, which is made if there is none of that name.

        Raises:
            ClaimedError: if another orchestrator works on it.
            StoreError: if the store failed.

        """
        me = holders.me()
        watched: tuple[int, int] | None = None
        since = self._monotonic()
        while True:
            with self._database.errors(), self._database.engine.begin() as connection:
                row = self._row(connection, name)
                seen = (row.fence, row.beat)
                free = row.holder in (None, me) or holders.is_dead(row.holder)
                if free or (watched == seen and self._monotonic() - since >= LEASE_S):
                    # The row is locked since it was read: nobody else can have taken it.
                    connection.execute(
                        update(SERVICES)
                        .where(SERVICES.c.name == name)
                        .values(holder=me, fence=row.fence + 1, beat=row.beat + 1)
                    )
                    return Claim(self._database, name, row.fence + 1, row.life, self._now)
            if holders.is_here(row.holder) or watched not in (None, seen):
                raise ClaimedError(f"{name}: {holders.words(row.holder)} works on it")
            watched = seen
            self._sleep(1.0)

    def unsent(self, limit: int = 200) -> list[Event]:
        """Return events that nobody has acknowledged yet, those of a service in order."""
        query = (
            select(EVENTS.c.event)
            .where(EVENTS.c.sent == false())
            .order_by(EVENTS.c.service, EVENTS.c.seq)
        )
        with self._database.errors(), self._database.engine.connect() as connection:
            lines = connection.execute(query.limit(limit)).scalars().all()
        return [msgspec.json.decode(line, type=Event) for line in lines]

    def sent(self, events: list[Event]) -> None:
        """Note that events have arrived where they should."""
        with self._database.errors(), self._database.engine.begin() as connection:
            for event in events:
                seq = int(event.id.rpartition("-")[2])
                of_it = (EVENTS.c.service == event.data["service"]) & (EVENTS.c.seq == seq)
                connection.execute(update(EVENTS).where(of_it).values(sent=True))

    def events(self, name: str) -> list[Event]:
        """Return all events of a service, in order."""
        query = select(EVENTS.c.event).where(EVENTS.c.service == name).order_by(EVENTS.c.seq)
        with self._database.errors(), self._database.engine.connect() as connection:
            lines = connection.execute(query).scalars().all()
        return [msgspec.json.decode(line, type=Event) for line in lines]

    def _row(self, connection: Connection, name: str) -> Row[Any]:
        # A statement that writes comes first, so that SQLite waits for other writers.
        own = SERVICES.c.name == name
        connection.execute(update(SERVICES).where(own).values(beat=SERVICES.c.beat))
        row = connection.execute(select(SERVICES).where(own)).first()
        if row is None:
            connection.execute(
                insert(SERVICES).values(
                    name=name, life=secrets.token_hex(4), revision=0, events=0, fence=0, beat=0
                )
            )
            row = connection.execute(select(SERVICES).where(own)).one()
        return row


def _change(connection: Connection, name: str, revision: int) -> ChangeRecord:
    of_it = (CHANGES.c.service == name) & (CHANGES.c.revision == revision)
    row = connection.execute(select(CHANGES).where(of_it)).one()
    of_steps = (STEPS.c.service == name) & (STEPS.c.revision == revision)
    steps = connection.execute(select(STEPS).where(of_steps).order_by(STEPS.c.place)).all()
    return ChangeRecord(
        revision,
        row.kind,
        Raw(row.request.encode()),
        ChangeStage(row.stage),
        row.reason,
        tuple(
            StepRecord(step.place, step.name, StepStage(step.stage), _raw(step.result))
            for step in steps
        ),
    )


def _raw(text: str | None) -> Raw | None:
    return None if text is None else Raw(text.encode())
