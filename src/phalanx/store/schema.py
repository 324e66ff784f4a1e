"""The tables of the event store, and who may use them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    false,
    inspect,
    select,
)

from phalanx.domain.errors import StoreError

VERSION = 2
"""Version of the tables that this code reads and writes."""

METADATA = MetaData()

SCHEMA = Table("phalanx_schema", METADATA, Column("version", Integer, primary_key=True))

RUNS = Table(
    "runs",
    METADATA,
    Column("run", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("length", Integer, nullable=False),  # events ever kept: the next one's seq
    Column("received", Double, nullable=False, server_default="0"),  # when the last one came
    Column("retired", Boolean, nullable=False, server_default=false()),  # whether any were
)

EVENTS = Table(
    "events",
    METADATA,
    Column("run", ForeignKey(RUNS.c.run, ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False),
    Column("time", Double, nullable=False),
    Column("agent", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("cause", String),  # may come after its effect, or never
    Column("data", JSON, nullable=False),
    Column("scope", String),
    Column("received", Double, nullable=False),
    Column("cause_retired", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("run", "id"),
)
Index("events_kind", EVENTS.c.run, EVENTS.c.kind, EVENTS.c.seq)
Index("events_agent", EVENTS.c.run, EVENTS.c.agent, EVENTS.c.seq)
Index("events_time", EVENTS.c.run, EVENTS.c.time)
Index("events_cause", EVENTS.c.run, EVENTS.c.cause)
Index("events_received", EVENTS.c.received, EVENTS.c.run, EVENTS.c.seq)
# Most events of most runs belong to no scope, and cost nothing here.
Index(
    "events_scope",
    EVENTS.c.run,
    EVENTS.c.scope,
    EVENTS.c.seq,
    sqlite_where=EVENTS.c.scope.is_not(None),
    postgresql_where=EVENTS.c.scope.is_not(None),
)

# What keeps two processes from making the tables of one database at the same time. The
# number is arbitrary: that of all makers of a store.
CREATOR_LOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(1346914392)",
}


def is_made(connection: Connection) -> bool:
    """Whether the tables of this version are there; False if the database is empty.

    Raises:
        StoreError: if they are those of another program, or of another version.

    """
    tables = inspect(connection).get_table_names()
    if not tables:
        return False
    if SCHEMA.name not in tables:
        raise StoreError("holds the tables of another program; Phalanx needs a database of its own")
    version: int | None = connection.execute(select(SCHEMA.c.version)).scalar()
    if version != VERSION:
        raise StoreError(f"is a store of schema {version}; this version of Phalanx reads {VERSION}")
    return True
