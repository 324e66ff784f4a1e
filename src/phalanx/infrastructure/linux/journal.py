"""The journal of leases, and the batching of rules: what VNFs keep in force, until when.

After a restart, of the driver or of the machine, it says which rules should still hold and
for how long. The end of a lease is kept by the clock that does not stop while the machine
sleeps (CLOCK_BOOTTIME); after a reboot by the wall clock, and then never longer than the
lease had to run when it was last renewed.

A flood has several sources, and all are blocked in the same moment. One request, one transaction
of the kernel and one of the journal cost little more for all of them than for each.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.domain.network import PopId
from phalanx.domain.rules import TrafficRule
from phalanx.infrastructure.linux.routers import Routes
from phalanx.infrastructure.linux.tasks import TaskError, Tasks
from phalanx.infrastructure.linux.vnf.measures import MOST_AT_ONCE
from phalanx.infrastructure.linux.vnf_processes import VnfProcesses


class LeasedMeasure(Struct, frozen=True):
    """A measure that was put in force."""

    measure: str
    instance: str
    role: str
    pop: PopId
    body: dict[str, str | int | float | list[str]]
    """What the VNF enforces, without the lease."""
    rule: TrafficRule | None = None
    """What the agent asked for; None in journals of earlier versions."""
    effect: str = ""
    units: int = 1
    """Of the instance."""
    reason: str = ""
    routes: Routes = {}
    """What routers are told of it."""


class RemainingLease(Struct, frozen=True):
    """A measure that should still hold, and for how many seconds."""

    entry: LeasedMeasure
    seconds: float


_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
  measure TEXT PRIMARY KEY, entry TEXT NOT NULL, ttl_s REAL NOT NULL,
  boot TEXT NOT NULL, until_boottime REAL NOT NULL, until_wall REAL NOT NULL
)
"""


class LeaseJournal:
    """Leases on disk; every change is on the disk before it returns, as long as that takes it.

    What the disk does not take is kept in memory, and written with the next change.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the journal at ``path``.

        Raises:
            ValueError: if the file is no journal.

        """
        self._full: str | None = None
        try:
            self._db = _connect(path)
        except sqlite3.DatabaseError as error:
            if "full" not in str(error):
                raise ValueError(f"{path} is no journal of leases: {error}") from error
            self._full = str(error)
            self._db = _connect(":memory:")
        self.problem = self._full
        """Why the last change is not on the disk; None: it is."""
        if not self._full:
            path.chmod(0o600)
        self._rows = {row[0]: tuple(row[1:]) for row in self._db.execute("SELECT * FROM lease")}
        self._changed: set[str] = set()
        self._lock = Lock()
        self._closed = False
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def put(self, entries: Iterable[tuple[LeasedMeasure, float]]) -> None:
        """Note that measures are in force, each for so many seconds from now.

        Raises:
            OSError: if the journal is closed.

        """
        self._write(
            {
                entry.measure: (msgspec.json.encode(entry).decode(), *self._until(ttl_s))
                for entry, ttl_s in entries
            }
        )

    def renew(self, measures: list[str], ttl_s: float) -> None:
        """Note that measures are in force for ``ttl_s`` seconds from now.

        Raises:
            OSError: if the journal is closed.

        """
        until, rows = self._until(ttl_s), self._rows
        self._write({name: (rows[name][0], *until) for name in measures if name in rows})

    def drop(self, measures: list[str]) -> None:
        """Note that measures have ended.

        Raises:
            OSError: if the journal is closed.

        """
        self._write(dict.fromkeys(measures))

    def remaining(self) -> list[RemainingLease]:
        """Return the measures that should hold now, and forget those whose lease ran out."""
        boottime, wall = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        found, over = [], []
        for measure, (text, ttl_s, boot, until_boottime, until_wall) in sorted(self._rows.items()):
            left = until_boottime - boottime if boot == self._boot else until_wall - wall
            left = min(left, ttl_s)
            try:
                entry = msgspec.json.decode(text, type=LeasedMeasure)
            except msgspec.MsgspecError:  # a damaged line: its rule runs out by itself
                left = 0.0
            if left > 0:
                found.append(RemainingLease(entry, left))
            else:
                over.append(measure)
        if over:
            self.drop(over)
        return found

    def close(self) -> None:
        """Close the file, once what is being written is written."""
        with self._lock:
            self._closed = True
            self._db.close()

    def _until(self, ttl_s: float) -> tuple[float, str, float, float]:
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return ttl_s, self._boot, boottime + ttl_s, time.time() + ttl_s

    def _write(self, rows: Mapping[str, tuple[Any, ...] | None]) -> None:
        """Make all changes in one transaction, which costs as much as one change; None: gone."""
        with self._lock:
            if self._closed:
                raise OSError("the journal of leases is closed")
            self._rows = {m: r for m, r in ({**self._rows, **rows}).items() if r is not None}
            self._changed |= rows.keys()
            gone = [(name,) for name in self._changed if name not in self._rows]
            kept = [(name, *self._rows[name]) for name in self._changed if name in self._rows]
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("DELETE FROM lease WHERE measure = ?", gone)
                self._db.executemany("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?)", kept)
                self._db.execute("COMMIT")
                self._changed.clear()
                self.problem = self._full
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self.problem = str(error)


def _connect(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(_SCHEMA)
    return database


class _Order(Struct, eq=False):
    entry: LeasedMeasure
    ttl_s: float
    done: asyncio.Future[None]

    def refuse(self, reason: str) -> None:
        """Fail it."""
        if not self.done.done():
            self.done.set_exception(TaskError(reason))


class RuleBatcher:
    """Puts measures in force, those asked together in one request, and notes them on disk."""

    def __init__(self, tasks: Tasks, processes: VnfProcesses, journal: LeaseJournal) -> None:
        """Begin without any request."""
        self._tasks = tasks
        self._processes = processes
        self._journal = journal
        self._waiting: dict[str, list[_Order]] = {}

    async def put(self, entry: LeasedMeasure, ttl_s: float) -> None:
        """Put a measure in force for ``ttl_s`` seconds, and note that on disk.

        Raises:
            TaskError: if its VNF refuses or does not answer.

        """
        order = _Order(entry, ttl_s, asyncio.get_running_loop().create_future())
        if entry.instance in self._waiting:
            self._waiting[entry.instance].append(order)
        else:
            self._begin(entry.instance, [order])
        await order.done

    def _begin(self, instance: str, orders: list[_Order]) -> None:
        """Begin a request, which takes along what comes until its turn has come."""
        self._waiting[instance] = orders
        taken: list[_Order] = []

        def failed(reason: str) -> None:
            for order in taken or self._take(instance):
                order.refuse(reason)

        self._tasks.start(self._tell(instance, taken), lambda _: None, failed)

    async def _tell(self, instance: str, taken: list[_Order]) -> None:
        def measures() -> dict[str, object]:
            taken.extend(self._take(instance))
            return {o.entry.measure: {**o.entry.body, "ttl_s": o.ttl_s} for o in taken}

        answer = await self._processes.change(instance, "PUT", "/measures", measures)
        refused = answer["refused"]
        kept = [order for order in taken if order.entry.measure not in refused]
        if kept:
            noted = [(order.entry, order.ttl_s) for order in kept]
            await self._tasks.thread(self._journal.put, noted)
        for order in taken:
            if order.entry.measure in refused:
                order.refuse(refused[order.entry.measure])
            elif not order.done.done():  # else its caller has given up
                order.done.set_result(None)

    def _take(self, instance: str) -> list[_Order]:
        """Return what goes into one request, and begin another for the rest."""
        waiting = self._waiting.pop(instance)
        if waiting[MOST_AT_ONCE:]:
            self._begin(instance, waiting[MOST_AT_ONCE:])
        return waiting[:MOST_AT_ONCE]
