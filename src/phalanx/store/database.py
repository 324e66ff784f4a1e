"""Connections of the event store: which databases, how they are opened, how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import msgspec
from sqlalchemy import (
    URL,
    Engine,
    create_engine,
    event,
    insert,
    make_url,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from phalanx.domain.errors import StoreError
from phalanx.store.schema import CREATOR_LOCK, METADATA, SCHEMA, VERSION, is_made

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


class Database:
    """One store, open: what writes events, asks for them and retires them shares it.

    ``engine`` is used under ``errors()``, which turns what the database raises into one line
    that names the store and never a password.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Open the store.

        Args:
            url: as ``SqlEventStore`` takes it.
            create: make the tables if the database is empty; else that is an error.

        Raises:
            StoreError: if that is no such URL, the database cannot be opened, or it belongs
                to another program or to another version of Phalanx.

        """
        parsed = parse_url(url)
        self.label = label(parsed)
        self.engine = make_engine(parsed)
        self.dialect = parsed.get_backend_name()
        """``sqlite`` or ``postgresql``."""
        try:
            with self.errors():
                if not create and _is_missing(parsed):
                    raise StoreError("there is no such store")
                _prepare(self.engine, create=create)
        except StoreError:
            self.engine.dispose()
            raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the database raises into one line that names the store."""
        try:
            yield
        except (StoreError, SQLAlchemyError, ValueError, msgspec.DecodeError) as error:
            raise StoreError(f"{self.label}: {in_one_line(error)}") from error

    def close(self) -> None:
        """Give back what is held open; the store must not be used afterwards."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def parse_url(url: str) -> URL:
    """Return ``url`` in parts, with the driver that Phalanx uses.

    Raises:
        StoreError: if it is none of a database that Phalanx can use. The text does not
            repeat the URL, which may hold a password.

    """
    try:
        parsed = make_url("sqlite://" if url == "memory:" else url)
        driver = _DRIVERS.get(parsed.drivername)
    except (ArgumentError, ValueError):
        driver = None
    # Options of SQLite's URLs would be ignored, not refused, by its driver.
    if driver is None or (driver == "sqlite+pysqlite" and parsed.query):
        raise StoreError(
            "the store must be sqlite:///PATH or "
            "postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    return parsed.set(drivername=driver)


def label(url: URL) -> str:
    """Return what to call the database of ``url`` in an error: no user, no password."""
    if url.get_backend_name() == "sqlite":
        return url.database or "store in memory"
    port = "" if url.port is None else f":{url.port}"
    return f"{url.host or 'localhost'}{port}/{url.database or ''}"


def make_engine(url: URL) -> Engine:
    """Return an engine for ``url``; it connects later.

    Raises:
        StoreError: if the driver of PostgreSQL is not installed.

    """
    if url.get_backend_name() == "sqlite":
        # All of a database in memory is one connection: another would see an empty one.
        in_memory = url.database in (None, "", ":memory:")
        engine = (
            _create(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
            if in_memory
            else _create(url)
        )
        event.listen(engine, "connect", _set_pragmas)
        return engine
    try:
        # A server in the C locale keeps bytes as they come; without this it would return them so.
        return _create(url, pool_pre_ping=True, connect_args={"client_encoding": "utf8"})
    except ModuleNotFoundError as error:
        raise StoreError("PostgreSQL needs an extra: pip install 'phalanx[postgresql]'") from error


def in_one_line(error: Exception) -> str:
    """Return what an error of the database says, without the statement and its values."""
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _is_missing(url: URL) -> bool:
    """Whether ``url`` is of a file that is not there."""
    path = url.database
    return url.get_backend_name() == "sqlite" and bool(path) and not Path(str(path)).exists()


def _create(url: URL, **options: object) -> Engine:
    # Data comes as JSON already, so that what is none is refused with the event's name.
    return create_engine(url, json_serializer=str, json_deserializer=msgspec.json.decode, **options)


def _set_pragmas(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _prepare(engine: Engine, *, create: bool = True) -> None:
    """See to it that the database holds the tables of this version; an empty one gets them.

    Args:
        engine: of the database.
        create: make the tables if the database is empty; else that is an error.

    Raises:
        StoreError: if it belongs to another program or to another version of Phalanx.
        sqlalchemy.exc.SQLAlchemyError: if it cannot be read or written.

    """
    with engine.connect() as connection:
        made = is_made(connection)
    if not made and not create:
        raise StoreError("is empty: no store of Phalanx")
    if not made:
        _make_tables(engine)
    if engine.dialect.name == "sqlite":
        # Stays with the file. SQLite does not wait for others here: where several processes
        # open a new store at once, the last one succeeds, and that is enough.
        with suppress(OperationalError), engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _make_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Before the first table: lets retention give space back to the file system.
            connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
        connection.commit()
        connection.exec_driver_sql(CREATOR_LOCK[engine.dialect.name])
        if not is_made(connection):
            METADATA.create_all(connection)
            connection.execute(insert(SCHEMA).values(version=VERSION))
        connection.commit()
