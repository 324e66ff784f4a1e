from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.event
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Engine, create_engine, update
from store_databases import in_postgresql, needs_postgresql, postgresql_schema
from store_events import ROOT, chain, logs
from tests.nightly import examples

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store import EventStore, history
from phalanx.store.history import EventQuery, History
from phalanx.store.schema import SCHEMA
from phalanx.store.sql import SqlEventStore

lasting = pytest.mark.parametrize("url", ["file", in_postgresql], indirect=True, scope="module")
_number = count()


def test_runs_are_apart_and_sorted(store: EventStore) -> None:
    store.append("z", chain(2))
    store.append("a", chain(4))
    store.append("z", chain(3)[3:])
    assert store.runs() == ("a", "z")
    assert list(store.events("z")) == chain(3)
    assert list(store.events("unknown")) == []
    assert list(store.events("a")) == chain(4)


def test_events_are_narrowed(store: SqlEventStore) -> None:
    events = [*chain(6), *(e for e in chain(4, agent="pop2") if e.agent == "pop2")]
    store.append("r", events)

    def ids(**narrowed: Any) -> list[str]:
        found = History(store.database).entries("r", EventQuery(**narrowed))
        return [entry.event.id for entry in found]

    assert ids(agent="pop2") == ["pop2-1", "pop2-2", "pop2-3", "pop2-4"]
    assert ids(kinds=("run.started", "goal.adopted"), agent="pop1") == [
        "pop1-2",
        "pop1-4",
        "pop1-6",
    ]
    assert ids(since=2.0, until=2.5) == ["pop1-4", "pop1-5", "pop2-4"]
    assert ids(since=99.0) == []


def test_a_long_run_is_read_in_pages(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAGE", 3)
    events = chain(6)
    store.append("r", events[:6])
    assert list(store.events("r")) == events[:6], "whole pages"
    reader = store.events("r")
    assert next(reader) == events[0]
    store.append("r", events[6:])
    assert [event.id for event in reader] == [event.id for event in events[1:]]


def causes(store: SqlEventStore, run: str, event_id: str) -> list[Event]:
    return [entry.event for entry in History(store.database).causes(run, event_id).entries]


def test_causes_lead_from_the_root_to_the_event(store: SqlEventStore) -> None:
    events = chain(300)
    branch = Event("pop2-1", 9.0, "pop2", "goal.adopted", "pop1-1", {})
    store.append("other", [Event("first", 0.0, "run", "run.started", None, {}), *chain(2)])
    store.append("r", [*events, branch])
    assert causes(store, "r", "pop1-300") == events
    assert causes(store, "r", "pop2-1") == [*events[:2], branch]
    assert causes(store, "r", "run-1") == [ROOT]
    assert causes(store, "r", "unknown") == []
    assert causes(store, "unknown", "run-1") == []


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (Event("pop1-1", 0.0, "a", "k", None, {}), "'pop1-1': its id is that of another event"),
        (Event("x", float("nan"), "a", "k", None, {}), "event 'x': its time is nan"),
        (Event("x", 0.0, "a", "k", None, {"o": object()}), "event 'x': cannot be written as JSON"),
        (Event("\ud800", 0.0, "a", "k", None, {}), "half a character"),
    ],
)
def test_a_batch_is_kept_whole_or_not_at_all(store: EventStore, wrong: Event, what: str) -> None:
    store.append("r", chain(1))
    with pytest.raises(StoreError, match=what) as caught:
        store.append("r", [*chain(2)[2:], wrong])
    assert "\n" not in str(caught.value)
    assert list(store.events("r")) == chain(1)
    store.append("r", chain(3)[2:])
    assert list(store.events("r")) == chain(3)


def test_no_events_make_no_run(store: EventStore) -> None:
    store.append("a", chain(1))
    store.append("r", [])
    assert store.runs() == ("a",)


def test_a_run_has_a_name(store: EventStore) -> None:
    with pytest.raises(StoreError, match="name of a run must not be empty"):
        store.append("", [ROOT])


@settings(max_examples=examples(16), suppress_health_check=list(HealthCheck))
@given(events=logs())
def test_round_trip(shared: SqlEventStore, events: list[Event]) -> None:
    run = f"example {next(_number)}"
    shared.append(run, events)
    assert list(shared.events(run)) == events
    for event in events:
        assert causes(shared, run, event.id)[-1] == event


def test_another_thread_sees_the_same_store(store: SqlEventStore) -> None:
    store.append("r", chain(2))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: list(store.events("r"))).result() == chain(2)


@lasting
def test_two_writers_of_one_run(url: str) -> None:
    run = "two writers"
    with SqlEventStore(url) as one, SqlEventStore(url) as two:
        one.append(run, chain(1))
        two.append(run, chain(3)[2:])
        one.append(run, chain(4)[4:])
        assert list(two.events(run)) == chain(4)


RECEIVER = """
import random, sys
from phalanx.domain.events import Event
from phalanx.store.causes import CauseBreak
from phalanx.store.history import EventQuery, History
from phalanx.store.sql import SqlEventStore
url, run, seed = sys.argv[1:]
events = [
    Event(f"e-{n}", 0.0, "a", "belief.changed", f"e-{n - 1}" if n else None,
          {"belief": f"b{n % 7}", "value": True})
    for n in range(300)
]
random.Random(seed).shuffle(events)
with SqlEventStore(url) as store:
    print(sum(store.receive(run, events[at : at + 10]).kept for at in range(0, 300, 10)))
"""


@lasting
def test_processes_that_receive_the_same_events_keep_them_once(url: str) -> None:
    run = "received by three"
    command = [sys.executable, "-c", RECEIVER, url, run]
    receivers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    kept = [int(receiver.communicate()[0]) for receiver in receivers]
    assert sum(kept) == 300
    with SqlEventStore(url) as store:
        assert len(list(store.events(run))) == 300
        assert len(causes(store, run, "e-299")) == 300
        assert len(list(History(store.database).knowledge(run))) == 7


@lasting
@pytest.mark.parametrize("version", [1, 99])
def test_a_store_of_another_schema_is_refused(url: str, version: int) -> None:
    SqlEventStore(url).close()
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(update(SCHEMA).values(version=version))
        with pytest.raises(
            StoreError, match=rf"schema {version}; this version of Phalanx reads 2$"
        ):
            SqlEventStore(url)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE phalanx_schema SET version = 2")
        engine.dispose()


@needs_postgresql
def test_the_tables_of_another_program_are_left_alone_in_postgresql() -> None:
    schemas = postgresql_schema()
    url = next(schemas)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE accounts (name text)")
    engine.dispose()
    with pytest.raises(StoreError, match="holds the tables of another program"):
        SqlEventStore(url)
    assert next(schemas, None) is None


def test_data_can_be_asked_for_with_the_databases_own_means(store: SqlEventStore) -> None:
    store.append("r", [ROOT])
    query = {
        "sqlite": "SELECT data ->> '$.scenario' FROM events",
        "postgresql": "SELECT data ->> 'scenario' FROM events",
    }[store.database.dialect]
    with store.database.engine.connect() as connection:
        assert connection.exec_driver_sql(query).scalar() == "ddos"


def test_a_missing_driver_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'phalanx\[postgresql\]'$"):
        SqlEventStore("postgresql+psycopg://user:secret@localhost/phalanx")


def test_a_server_that_is_not_there_is_one_line_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"^127\.0\.0\.1:1/phalanx: connection failed") as caught:
        SqlEventStore("postgresql://user:secret@127.0.0.1:1/phalanx")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "events.db",
        "mysql://user:secret@host/db",
        "postgresql+asyncpg://user:secret@host/db",
        "postgresql://user:secret@host:port/db",
        "sqlite:///events.db?mode=ro",
    ],
)
def test_a_url_of_no_store_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError, match=r"^the store must be sqlite:///PATH or ") as caught:
        SqlEventStore(url)
    assert "secret" not in str(caught.value)


# -- what the disk can do to a store in a file ------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def opened(path: Path) -> SqlEventStore:
    return SqlEventStore(f"sqlite:///{path}")


def test_a_full_disk_refuses_a_batch_and_keeps_the_others(path: Path) -> None:
    events = chain(2_000)

    def shrink(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count=40")

    sqlalchemy.event.listen(Engine, "connect", shrink)
    try:
        with opened(path) as store:
            batches = [events[at : at + 50] for at in range(0, len(events), 50)]
            with pytest.raises(StoreError, match=f"^{path}: database or disk is full$"):
                deque(map(partial(store.append, "r"), batches), maxlen=0)
    finally:
        sqlalchemy.event.remove(Engine, "connect", shrink)
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

    sqlalchemy.event.listen(Engine, "connect", be_impatient)
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
        sqlalchemy.event.remove(Engine, "connect", be_impatient)
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
