"""What the disk can do to a store in a file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from store_events import ROOT, chain

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store.sql import SqlEventStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def opened(path: Path) -> SqlEventStore:
    return SqlEventStore(f"sqlite:///{path}")


WRITER = """
import sys
from phalanx.domain.events import Recorder
from phalanx.store import StoreSink
from phalanx.store.sql import SqlEventStore
sink = StoreSink(SqlEventStore(f"sqlite:///{sys.argv[1]}"), "r", batch=10)
recorder = Recorder("pop1", sink, lambda: 0.0)
cause = None
for number in range(1_000_000):
    cause = recorder.record("goal.adopted", cause, number=number)
    if number == 1_000:
        print("writing", flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_batches(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        writer.kill()
    with opened(path) as store:
        events = list(store.events("r"))
        assert len(events) >= 1_000
        assert len(events) % 10 == 0
        assert [e.data["number"] for e in events] == list(range(len(events)))
        last = events[-1]
        store.append("r", [Event("next", 0.0, "pop1", "goal.ended", last.id, {})])
        assert len(store.causes("r", "next")) == len(events) + 1


def test_a_full_disk_refuses_a_batch_and_keeps_the_others(path: Path) -> None:
    events = chain(2_000)

    def shrink(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count=40")

    event.listen(Engine, "connect", shrink)
    try:
        with opened(path) as store:
            batches = [events[at : at + 50] for at in range(0, len(events), 50)]
            with pytest.raises(StoreError, match=f"^{path}: database or disk is full$"):
                deque(map(partial(store.append, "r"), batches), maxlen=0)
    finally:
        event.remove(Engine, "connect", shrink)
    with opened(path) as store:
        kept = list(store.events("r"))
        assert len(kept) % 50 == 0
        assert kept == events[: len(kept)]
        assert kept
        store.append("r", events[len(kept) : len(kept) + 1])
        assert len(list(store.events("r"))) == len(kept) + 1


def test_bytes_that_are_no_database(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be read as the head of one" * 40)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"^{path}: file is not a database$"):
        opened(path)
    assert path.read_bytes() == before


def test_a_database_that_was_damaged(path: Path) -> None:
    with opened(path) as store:
        store.append("r", chain(500))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\xff"))
    with opened(path) as store, pytest.raises(StoreError, match=f"^{path}: database disk image"):
        list(store.events("r"))


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE accounts (name)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"^{path}: holds the tables of another program"):
        opened(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with opened(path) as store:
        store.append("r", [ROOT])
    with opened(path) as store:
        assert list(store.events("r")) == [ROOT]


@pytest.mark.parametrize("name", ["", "nowhere/events.db"], ids=["folder", "missing folder"])
def test_a_path_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(StoreError, match=f"^{path}: unable to open database file$"):
        opened(path)


def test_a_store_that_another_process_holds_is_refused_in_one_line(path: Path) -> None:

    def be_impatient(connection: Any, _: object) -> None:
        connection.execute("PRAGMA busy_timeout=1")

    event.listen(Engine, "connect", be_impatient)
    other: sqlite3.Connection | None = None
    try:
        with opened(path) as store:
            other = sqlite3.connect(path)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match=f"^{path}: database is locked$"):
                store.append("r", [ROOT])
            other.rollback()
            store.append("r", [ROOT])
            assert list(store.events("r")) == [ROOT]
    finally:
        event.remove(Engine, "connect", be_impatient)
        if other is not None:
            other.close()


MAKER = """
import sys
from phalanx.domain.events import Event
from phalanx.store.sql import SqlEventStore
print("ready", flush=True)
sys.stdin.readline()
store = SqlEventStore(f"sqlite:///{sys.argv[1]}")
store.append(sys.argv[2], [Event("a", 0.0, "run", "run.started", None, {})])
store.close()
"""


def test_processes_that_make_a_store_at_the_same_time(path: Path) -> None:
    names = ["a", "b", "c"]
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, path, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    said = [maker.communicate()[1] for maker in makers]
    assert said == ["", "", ""]
    with opened(path) as store:
        assert store.runs() == ("a", "b", "c")
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_can_be_read(path: Path) -> None:
    with opened(path) as store:
        store.append("r", [ROOT])
    path.chmod(0o444)
    with opened(path) as store:
        assert list(store.events("r")) == [ROOT]
        with pytest.raises(StoreError, match=f"^{path}: attempt to write a readonly database$"):
            store.append("r", chain(1)[1:])
