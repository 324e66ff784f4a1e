"""The tables of the orchestrator's journal, beside those of the events."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    false,
)

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
