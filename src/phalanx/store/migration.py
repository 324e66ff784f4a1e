"""Brings a store of an earlier version to the present tables, in place."""

from __future__ import annotations

import time

from sqlalchemy import Connection, Engine, select, text, update

from phalanx.domain.events import Event
from phalanx.store.derived import scope_of
from phalanx.store.rows import FIELDS, OpenRun
from phalanx.store.schema import CREATOR_LOCK, EVENTS, METADATA, RUNS, SCHEMA, VERSION, version_of

_PAGE = 1_000


def migrate(engine: Engine) -> None:
    """Convert the tables of version 1, in one transaction: all of it happens, or nothing.

    Events get the time of the conversion as that of their receipt: when they came is not
    known, and retention by age shall count from now. Other processes wait meanwhile, those
    that use the old tables with an older version of Phalanx fail afterwards.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: if it failed; the store is as it was.

    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Else dropping the old table would look up the effects of each of its rows. Is
            # ignored inside of a transaction, and lasts as long as the connection.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.commit()
        connection.exec_driver_sql(CREATOR_LOCK[engine.dialect.name])
        if version_of(connection) == 1:
            _from_1(connection, time.time())
        connection.commit()
        connection.invalidate()


def _from_1(connection: Connection, now: float) -> None:
    """Drop the foreign key of causes, add the new columns and tables, and fill them."""
    for column in ("received DOUBLE PRECISION DEFAULT 0", "retired BOOLEAN DEFAULT FALSE"):
        connection.execute(text(f"ALTER TABLE runs ADD COLUMN {column} NOT NULL"))
    connection.execute(text("ALTER TABLE events RENAME TO events_1"))
    for name in ("events_kind", "events_agent", "events_time", "events_cause"):
        connection.execute(text(f"DROP INDEX {name}"))
    METADATA.create_all(connection)
    connection.execute(
        text(
            "INSERT INTO events (run, seq, id, time, agent, kind, cause, data, received) "
            "SELECT run, seq, id, time, agent, kind, cause, data, :now FROM events_1"
        ),
        {"now": now},
    )
    connection.execute(text("DROP TABLE events_1"))
    connection.execute(update(RUNS).values(received=now))
    for name in connection.execute(select(RUNS.c.name)).scalars().all():
        _derive(OpenRun(connection, name, now))
    connection.execute(update(SCHEMA).values(version=VERSION))


def _derive(run: OpenRun) -> None:
    last = -1
    while True:
        query = select(*FIELDS, EVENTS.c.seq).where(EVENTS.c.run == run.key, EVENTS.c.seq > last)
        page = run.connection.execute(query.order_by(EVENTS.c.seq).limit(_PAGE)).all()
        events = [Event(*row[:6]) for row in page]
        run.derive((event, scope_of(event, {})) for event in events)
        if len(page) < _PAGE:
            return
        last = page[-1].seq
