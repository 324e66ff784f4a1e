"""The tables of the event store, and who may use them."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import OperationalError

from phalanx.domain.errors import StoreError

VERSION = 1
"""Version of the tables that this code reads and writes."""

METADATA = MetaData()

SCHEMA = Table("phalanx_schema", METADATA, Column("version", Integer, primary_key=True))

RUNS = Table(
    "runs",
    METADATA,
    Column("run", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("length", Integer, nullable=False),
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
    Column("cause", String),
    Column("data", JSON, nullable=False),
    UniqueConstraint("run", "id"),
    ForeignKeyConstraint(["run", "cause"], ["events.run", "events.id"]),
    CheckConstraint("cause <> id"),
)
Index("events_kind", EVENTS.c.run, EVENTS.c.kind, EVENTS.c.seq)
Index("events_agent", EVENTS.c.run, EVENTS.c.agent, EVENTS.c.seq)
Index("events_time", EVENTS.c.run, EVENTS.c.time)
Index("events_cause", EVENTS.c.run, EVENTS.c.cause)

# What keeps two processes from making the tables of one database at the same time. The
# number is arbitrary: that of all makers of a store.
_CREATOR_LOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(1346914392)",
}


def prepare(engine: Engine) -> None:
    """Check that the database is one of this version, or empty: then make the tables.

    Raises:
        StoreError: if it belongs to another program or to another version of Phalanx.
        sqlalchemy.exc.SQLAlchemyError: if it cannot be read or written.

    """
    with engine.connect() as connection:
        found = _is_ours(connection)
    if not found:
        with engine.begin() as connection:
            connection.exec_driver_sql(_CREATOR_LOCK[engine.dialect.name])
            if not _is_ours(connection):
                METADATA.create_all(connection)
                connection.execute(insert(SCHEMA).values(version=VERSION))
    if engine.dialect.name == "sqlite":
        # Stays with the file. SQLite does not wait for others here: where several processes
        # open a new store at once, the last one succeeds, and that is enough.
        with suppress(OperationalError), engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _is_ours(connection: Connection) -> bool:
    """Whether the tables are there; False if the database is empty."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return False
    if SCHEMA.name not in tables:
        raise StoreError("holds the tables of another program; Phalanx needs a database of its own")
    version = connection.execute(select(SCHEMA.c.version)).scalar()
    if version != VERSION:
        raise StoreError(f"is a store of schema {version}; this version of Phalanx reads {VERSION}")
    return True
