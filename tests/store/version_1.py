"""The tables of schema version 1 as that version made them, for tests of the migration."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import create_engine, text

from phalanx.domain.events import Event

TABLES = (
    "CREATE TABLE phalanx_schema (version INTEGER NOT NULL, PRIMARY KEY (version))",
    "CREATE TABLE runs (run {serial}, name VARCHAR NOT NULL, length INTEGER NOT NULL, "
    "PRIMARY KEY (run), UNIQUE (name))",
    "CREATE TABLE events (run INTEGER NOT NULL, seq INTEGER NOT NULL, id VARCHAR NOT NULL, "
    "time {double} NOT NULL, agent VARCHAR NOT NULL, kind VARCHAR NOT NULL, cause VARCHAR, "
    "data JSON NOT NULL, PRIMARY KEY (run, seq), UNIQUE (run, id), "
    "FOREIGN KEY(run, cause) REFERENCES events (run, id), CHECK (cause <> id), "
    "FOREIGN KEY(run) REFERENCES runs (run) ON DELETE CASCADE)",
    "CREATE INDEX events_agent ON events (run, agent, seq)",
    "CREATE INDEX events_cause ON events (run, cause)",
    "CREATE INDEX events_kind ON events (run, kind, seq)",
    "CREATE INDEX events_time ON events (run, time)",
    "INSERT INTO phalanx_schema (version) VALUES (1)",
)


def make(url: str, runs: dict[str, Iterable[Event]]) -> None:
    """Make a store of version 1 in an empty database, with these runs."""
    engine = create_engine(url)
    serial = "SERIAL NOT NULL" if engine.dialect.name == "postgresql" else "INTEGER NOT NULL"
    insert = text(
        "INSERT INTO events VALUES (:run, :seq, :id, :time, :agent, :kind, :cause, :data)"
    )
    with engine.begin() as connection:
        for statement in TABLES:
            connection.execute(text(statement.format(serial=serial, double="DOUBLE PRECISION")))
        for name, events in runs.items():
            rows = [
                msgspec.structs.asdict(event)
                | {"seq": seq, "data": msgspec.json.encode(event.data).decode()}
                for seq, event in enumerate(events)
            ]
            key = connection.execute(
                text("INSERT INTO runs (name, length) VALUES (:name, :n) RETURNING run"),
                {"name": name, "n": len(rows)},
            ).scalar_one()
            connection.execute(insert, [row | {"run": key} for row in rows])
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    engine.dispose()
