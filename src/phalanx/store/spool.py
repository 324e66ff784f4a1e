"""The file of an outbox: lines in their order, each under an id.

Plain ``sqlite3``: the tables of a whole store would cost an agent's process 25 MB and a
quarter of a second. The file has a write-ahead log and ``synchronous=NORMAL``: what was
committed survives a process that is killed; a power failure may lose the latest commits.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from phalanx.domain.errors import StoreError

PAGE = 256
"""Lines that are read at a time."""

OVERHEAD = 64
"""Octets that SQLite needs for a line besides its own, about."""

_OURS = 0x5048584F
"""What marks a file as such (its ``application_id``)."""
_TABLE = (
    "CREATE TABLE outbox (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, "
    "octets INTEGER NOT NULL, event BLOB NOT NULL)"
)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Item(Struct, frozen=True):
    """A line, and its place among all."""

    seq: int
    id: str
    line: bytes

    @property
    def octets(self) -> int:
        """What it takes on disk, about."""
        return len(self.line) + OVERHEAD


class Spool:
    """Lines on disk, for one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file; one that is damaged is put aside, neither used nor deleted.

        Raises:
            StoreError: if it cannot be used, another process uses it, or it is another
                program's.

        """
        self.set_aside: Path | None = None
        """Where a damaged file was moved to; None: it was whole."""
        self.rows = 0
        self.octets = 0
        self.last = 0
        """Highest place there is."""
        self._path = path
        with self.errors():
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", None) not in _DAMAGE:
                    raise
                self._put_aside()
                self._connection = self._open()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the file and the disk raise into one line that names the file."""
        try:
            yield
        except (StoreError, sqlite3.Error, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else None
            raise StoreError(f"{self._path}: {said or error}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do what the block does wholly or not at all.

        Raises:
            StoreError: if the disk did not take it; all is as it was.

        """
        before = self.rows, self.octets, self.last
        with self.errors():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self.rows, self.octets, self.last = before
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def add(self, items: Iterable[Item]) -> None:
        """Add items behind all others; one whose id is there is passed over."""
        insert = "INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?)"
        for item in items:
            values = item.seq, item.id, item.octets, item.line
            if self._connection.execute(insert, values).rowcount == 1:
                self.rows += 1
                self.octets += item.octets
                self.last = item.seq

    def delete(self, ids: Iterable[str]) -> None:
        """Take out items by id; ids that are not there are no error."""
        delete = "DELETE FROM outbox WHERE id = ? RETURNING octets"
        for item in ids:
            for (octets,) in self._connection.execute(delete, (item,)).fetchall():
                self.rows -= 1
                self.octets -= octets

    def delete_oldest(self, octets: int) -> list[tuple[str, int]]:
        """Take out the oldest items, at least so many octets of them if there are.

        Returns:
            Id and octets of each, oldest first.

        """
        taken: list[tuple[str, int]] = []
        freed, last = 0, 0
        oldest = self._connection.execute("SELECT seq, id, octets FROM outbox ORDER BY seq")
        while freed < octets and (row := oldest.fetchone()) is not None:
            last, item, size = row
            freed += size
            taken.append((item, size))
        oldest.close()
        self._connection.execute("DELETE FROM outbox WHERE seq <= ?", (last,))
        self.rows -= len(taken)
        self.octets -= freed
        return taken

    def has(self, item: str) -> bool:
        """Whether there is an item of that id."""
        found = self._connection.execute("SELECT 1 FROM outbox WHERE id = ?", (item,)).fetchone()
        return found is not None

    def page(self, after: int) -> list[Item]:
        """Return the next ``PAGE`` items behind the place ``after``."""
        query = "SELECT seq, id, event FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?"
        return [Item(*row) for row in self._connection.execute(query, (after, PAGE))]

    def close(self) -> None:
        """Give the file up."""
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
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
                connection.execute(_TABLE)
                connection.execute("COMMIT")
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                damage = sqlite3.DatabaseError(found)
                damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise damage
            self.rows, self.octets, self.last = connection.execute(
                "SELECT count(*), coalesce(sum(octets), 0), coalesce(max(seq), 0) FROM outbox"
            ).fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self) -> None:
        """Rename the file, with its write-ahead log: somebody may want to look at it."""
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        self._path.rename(aside)
        log = self._path.with_name(f"{self._path.name}-wal")
        if log.exists():
            log.rename(aside.with_name(f"{aside.name}-wal"))
        self.set_aside = aside
