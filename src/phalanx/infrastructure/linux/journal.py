"""The journal of leases: what the kernel was told to keep, on disk, until when.

After a restart, of the driver or of the machine, it says which rules should still hold and
for how long. The end of a lease is kept by the clock that does not stop while the machine
sleeps (CLOCK_BOOTTIME); after a reboot by the wall clock, and then never longer than the
lease had to run when it was last renewed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

import msgspec
from msgspec import Struct

from phalanx.domain.network import PopId


class Entry(Struct, frozen=True):
    """A measure that was put in force."""

    measure: str
    instance: str
    role: str
    pop: PopId
    body: dict[str, str | float | list[str]]
    """What the VNF was told, without the lease."""


class Remaining(Struct, frozen=True):
    """A measure that should still hold, and for how many seconds."""

    entry: Entry
    seconds: float


_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
  measure TEXT PRIMARY KEY, entry TEXT NOT NULL, ttl_s REAL NOT NULL,
  boot TEXT NOT NULL, until_boottime REAL NOT NULL, until_wall REAL NOT NULL
)
"""


class Journal:
    """Leases on disk; every change is on the disk before it returns."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal at ``path``.

        Raises:
            ValueError: if the file is no journal.

        """
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is no journal of leases: {error}") from error
        path.chmod(0o600)
        self._lock = Lock()
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def put(self, entries: Iterable[tuple[Entry, float]]) -> None:
        """Note that measures are in force, each for so many seconds from now.

        Raises:
            OSError: if the disk does not take it.

        """
        self._write(
            "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?)",
            (
                (entry.measure, msgspec.json.encode(entry).decode(), ttl_s, *self._until(ttl_s))
                for entry, ttl_s in entries
            ),
        )

    def renew(self, measures: list[str], ttl_s: float) -> None:
        """Note that measures are in force for ``ttl_s`` seconds from now.

        Raises:
            OSError: if the disk does not take it.

        """
        until = (ttl_s, *self._until(ttl_s))
        self._write(
            "UPDATE lease SET ttl_s = ?, boot = ?, until_boottime = ?, until_wall = ? "
            "WHERE measure = ?",
            ((*until, measure) for measure in measures),
        )

    def drop(self, measures: list[str]) -> None:
        """Note that measures have ended.

        Raises:
            OSError: if the disk does not take it.

        """
        self._write("DELETE FROM lease WHERE measure = ?", ((name,) for name in measures))

    def remaining(self) -> list[Remaining]:
        """Return the measures that should hold now, and forget those whose lease ran out."""
        boottime, wall = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        found, over = [], []
        rows = self._db.execute("SELECT * FROM lease ORDER BY measure").fetchall()
        for measure, text, ttl_s, boot, until_boottime, until_wall in rows:
            left = until_boottime - boottime if boot == self._boot else until_wall - wall
            left = min(left, ttl_s)
            try:
                entry = msgspec.json.decode(text, type=Entry)
            except msgspec.MsgspecError:  # a damaged line: its rule runs out by itself
                left = 0.0
            if left > 0:
                found.append(Remaining(entry, left))
            else:
                over.append(measure)
        if over:
            self.drop(over)
        return found

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _until(self, ttl_s: float) -> tuple[str, float, float]:
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return self._boot, boottime + ttl_s, time.time() + ttl_s

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Make all changes in one transaction, which costs as much as one change."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(statement, rows)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise OSError(f"the journal of leases cannot be written: {error}") from error
