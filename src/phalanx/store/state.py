"""What one process keeps on disk: its incarnation, memory, other state, and events to be sent.

One SQLite file for each process, with a write-ahead log and ``synchronous=NORMAL``: what was
written survives a process that is killed at any point; a power failure may cost the latest
writes, but never the count of incarnations. Plain ``sqlite3``: the tables of a whole store would
cost an agent's process 25 MB and a quarter of a second.

A file that is damaged is put aside, and what can still be read of it is taken over.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import StoreError

FILE = "state.db"
"""Name of the file in the folder of its process."""
MAX_OCTETS = 64 * 1024 * 1024
"""Largest memory that is kept."""

_OURS = 0x5048584F
"""What marks a file as such (its ``application_id``); the incarnation is its ``user_version``."""
_TABLES = (
    "CREATE TABLE memory (slot INTEGER PRIMARY KEY, generation INTEGER NOT NULL, "
    "incarnation INTEGER NOT NULL, seal BLOB NOT NULL, octets BLOB NOT NULL)",
    "CREATE TABLE outbox (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, "
    "octets INTEGER NOT NULL, event BLOB NOT NULL)",
)
_OTHER = "CREATE TABLE IF NOT EXISTS other (name TEXT PRIMARY KEY, octets BLOB NOT NULL)"
"""Came later than the rest: a file that has no such table gets it."""
_KEEP = "INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?, ?)"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises: its names and the errors about them are text, too."""


class Recollection(Struct, frozen=True):
    """A memory that was found on disk."""

    octets: bytes
    generation: int
    """Counts what was saved, up from 1."""
    incarnation: int
    """Of the process that saved it."""
    damaged: str | None = None
    """None: it is the newest. Else one line: what is damaged, so that this memory, maybe an
    older one, had to do."""


class StateFile:
    """The state of one process; only one process at a time can use it.

    The operating system ends the claim of a process that dies. Of the memory the two latest
    generations are kept, each sealed with a checksum, so that damage is never taken for a
    memory.
    """

    def __init__(self, folder: Path) -> None:
        """Open ``state.db`` in ``folder``; both are made if need be.

        Raises:
            StoreError: if it cannot be used, another process uses it, or it is another
                program's.

        """
        self.set_aside: Path | None = None
        """Where a damaged file was moved to; None: it was whole, or was put aside earlier."""
        self.damaged: str | None = None
        """None: the memory is whole. Else one line."""
        self.path = folder / FILE
        self._incarnation: int | None = None
        self._newest: Recollection | None = None
        self._slot = 0
        with self.errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self.connection = self._open()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", None) not in _DAMAGE:
                    raise
                self._put_aside()
                self.connection = self._open()

    # -- life and memory --------------------------------------------------------------------------

    def begin(self, at_least: int = 0) -> int:
        """Begin a new life and return its incarnation, which no earlier life had.

        It is on the disk before this returns. A folder that was restored from a copy cannot
        know of lives after the copy was made: a caller that can ask others (the registry,
        peers) passes the last incarnation that they saw as ``at_least``.

        Raises:
            StoreError: if it could not be written; or if the count is damaged and
                ``at_least`` does not say either which number is free.

        """
        with self.errors():
            last: int = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if last == 0 and self.damaged is not None and at_least < 1:
            raise StoreError(
                f"{self.path}: {self.damaged}: which incarnation comes next is not known; say "
                "which one others saw last, or remove that file"
            )
        remembered = 0 if self._newest is None else self._newest.incarnation
        # What is damaged may have been of a later life: one number is left out.
        incarnation = max(last + (self.damaged is not None), remembered, at_least) + 1
        with self.transaction():
            self.connection.execute(f"PRAGMA user_version={incarnation:d}")
        with self.errors():
            # Syncs the log, and then the file itself, which has the number from now on.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._incarnation = incarnation
        return incarnation

    def save(self, octets: bytes) -> int:
        """Keep ``octets`` instead of the memory that is there; return its generation.

        Raises:
            StoreError: if there are too many, no life has begun, or they could not be
                written: what was there is still there, and it can be tried again.

        """
        if self._incarnation is None:
            raise StoreError(f"{self.path}: nothing can be saved before a life has begun")
        if len(octets) > MAX_OCTETS:
            raise StoreError(
                f"{self.path}: a memory of {len(octets)} octets is too large, "
                f"at most {MAX_OCTETS} can be kept"
            )
        with self.transaction():
            query = "SELECT coalesce(max(generation), 0) FROM memory"
            last: int = self.connection.execute(query).fetchone()[0]
            seal = _seal(last + 1, self._incarnation, octets)
            row = 1 - self._slot, last + 1, self._incarnation, seal, octets
            self.connection.execute(_KEEP, row)
        self._slot, self.damaged = row[0], None
        self._newest = Recollection(octets, last + 1, self._incarnation)
        return last + 1

    def load(self) -> Recollection | None:
        """Return the newest memory that is whole; None if nothing was ever saved.

        Raises:
            StoreError: if there was one, and all that is left is damaged.

        """
        if self._newest is None and self.damaged is not None:
            raise StoreError(f"{self.path}: {self.damaged}, and there is no other memory")
        return self._newest

    def put(self, name: str, octets: bytes) -> None:
        """Keep ``octets`` under a name, beside the memory; what was there stays if it fails.

        Raises:
            StoreError: if they could not be written.

        """
        with self.transaction():
            query = "INSERT OR REPLACE INTO other VALUES (?, ?)"
            self.connection.execute(query, (name, octets))

    def get(self, name: str) -> bytes | None:
        """Return what was kept under a name, unchecked; None: nothing.

        Raises:
            StoreError: if the file cannot be read.

        """
        with self.errors():
            query = "SELECT octets FROM other WHERE name = ?"
            found = self.connection.execute(query, (name,)).fetchone()
        return None if found is None else bytes(found[0])

    # -- parts ------------------------------------------------------------------------------------

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the file and the disk raise into one line that names the file."""
        try:
            yield
        except (StoreError, sqlite3.Error, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else None
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                said = "another process uses it"
            raise StoreError(f"{self.path}: {said or error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do what the block does wholly or not at all.

        Raises:
            StoreError: if the disk did not take it; all is as it was.

        """
        with self.errors():
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Give the file up."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables and mark != _OURS:
                raise StoreError("is the database of another program")
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA journal_size_limit=1048576")
            if not tables:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"PRAGMA application_id={_OURS}")
                for table in _TABLES:
                    connection.execute(table)
                self._salvage(connection)
                connection.execute("COMMIT")
            connection.execute(_OTHER)
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise _damage(found)
            self._remember(connection)
        except UnicodeDecodeError as error:
            connection.close()
            raise _damage(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _remember(self, connection: sqlite3.Connection) -> None:
        """Take the newest memory that is whole."""
        for slot, *rest in connection.execute("SELECT * FROM memory ORDER BY generation"):
            generation, incarnation, seal, octets = rest
            if seal == _seal(generation, incarnation, octets):
                self._slot, self._newest = slot, Recollection(octets, generation, incarnation)
            else:
                self.damaged = f"a memory in {FILE} is damaged"
        if self._newest is not None:
            self._newest = replace(self._newest, damaged=self.damaged)

    def _put_aside(self) -> None:
        """Rename the file, with its write-ahead log, for a person to look at."""
        self.set_aside = self.path.with_name(f"{FILE}.damaged-{len(self._asides()) + 1}")
        self.path.rename(self.set_aside)
        with suppress(FileNotFoundError):
            self.path.with_name(f"{FILE}-wal").rename(f"{self.set_aside}-wal")

    def _asides(self) -> list[Path]:
        found = self.path.parent.glob(f"{FILE}.damaged-*")
        return sorted(path for path in found if not path.name.endswith("-wal"))

    def _salvage(self, connection: sqlite3.Connection) -> None:
        """Take over into a new file what can be read of the one that was put aside last."""
        if not (asides := self._asides()):
            return
        self.damaged = f"{asides[-1].name} is damaged"
        aside = sqlite3.connect(f"file:{asides[-1]}?immutable=1", uri=True)
        with closing(aside), suppress(*_UNREADABLE):
            (incarnation,) = aside.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version={max(incarnation, 0):d}")
            for slot in (0, 1):
                with suppress(*_UNREADABLE):
                    found = aside.execute("SELECT * FROM memory WHERE slot = ?", (slot,))
                    connection.executemany(_KEEP, found.fetchall())


def _damage(text: str) -> sqlite3.DatabaseError:
    damage = sqlite3.DatabaseError(text)
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return damage


def _seal(generation: object, incarnation: object, octets: object) -> bytes:
    """Return the checksum of a memory: against damage, not against forgery."""
    digest = hashlib.blake2b(f"{generation} {incarnation} ".encode(), digest_size=16)
    digest.update(octets if isinstance(octets, bytes) else b"damaged")
    return digest.digest()
