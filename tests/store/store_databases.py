"""Databases that the tests of the store run in: SQLite, and PostgreSQL if there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy import create_engine, delete, make_url

from phalanx.store.schema import RUNS
from phalanx.store.sql import SqlEventStore

POSTGRESQL = os.environ.get("PHALANX_POSTGRESQL")
"""URL of a database in which the tests may make and drop schemas."""

needs_postgresql = pytest.mark.skipif(
    POSTGRESQL is None, reason="PHALANX_POSTGRESQL names no database to test with"
)
in_postgresql = pytest.param("postgresql", marks=needs_postgresql)
_number = count()


def postgresql_schema() -> Iterator[str]:
    """Make an empty schema, give its URL, and drop it afterwards."""
    assert POSTGRESQL is not None
    base = make_url(POSTGRESQL).set(drivername="postgresql+psycopg")
    engine = create_engine(base)
    name = f"phalanx_test_{os.getpid()}_{next(_number)}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    url = base.update_query_dict({"options": f"-csearch_path={name}"})
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        engine.dispose()


def forget(store: SqlEventStore, run: str) -> None:
    """Delete a run with all that is kept of it."""
    with store.database.engine.begin() as connection:
        connection.execute(delete(RUNS).where(RUNS.c.name == run))
