"""Stores of schema version 1 go on as those of the present version."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import version_1
from sqlalchemy import Engine, create_engine, event, inspect
from store_databases import in_postgresql, postgresql_schema
from store_events import chain

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store.database import Database
from phalanx.store.history import History
from phalanx.store.schema import METADATA
from phalanx.store.sql import SqlEventStore

SAMPLE = Event(
    "network-1", 3.0, "network", "network.sample", "run-1",
    {"hosts": {"shop": {"legitimate_mb_s": 0.5}}, "links": {}, "downloads": 1},
)  # fmt: skip
BELIEF = Event(
    "pop1.1-9", 4.0, "pop1", "belief.changed", "network-1", {"belief": "b", "value": True}
)
LOG = [*chain(1_500), SAMPLE, BELIEF]


@pytest.fixture(params=["file", in_postgresql])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of an empty database."""
    if request.param == "file":
        yield f"sqlite:///{tmp_path / 'events.db'}"
    else:
        yield from postgresql_schema()


def tables(url: str) -> dict[str, set[str]]:
    engine = create_engine(url)
    found = inspect(engine)
    shapes = {t: {c["name"] for c in found.get_columns(t)} for t in found.get_table_names()}
    indices = {t: {str(i["name"]) for i in found.get_indexes(t)} for t in shapes}
    engine.dispose()
    # PostgreSQL lists those of unique constraints as well.
    return {t: s | {i for i in indices[t] if "_key" not in i} for t, s in shapes.items()}


def test_a_store_of_version_1_is_converted_in_place(old: str, tmp_path: Path) -> None:
    version_1.make(old, {"a": LOG, "b": chain(2)})
    before = time.time()
    with SqlEventStore(old) as store:
        assert list(store.events("a")) == LOG
        assert list(store.events("b")) == chain(2)
        assert store.causes("a", "pop1-300") == chain(300)
        history = History(store.database)
        assert [m.sample.value for m in history.metrics("a", "host.legitimate_mb_s")] == [0.5]
        assert [k.predicate for k in history.knowledge("a")] == ["b"]
        assert all(before <= entry.received <= time.time() for entry in history.entries("a"))
        store.append("a", [Event("next", 5.0, "pop1", "goal.ended", "pop1.1-9", {})])
        store.receive("b", [Event("late", 5.0, "pop1", "goal.ended", "not yet", {})])
    with SqlEventStore(old) as store:
        assert len(list(store.events("a"))) == len(LOG) + 1
    new = f"sqlite:///{tmp_path / 'new.db'}"
    Database(new).close()
    assert tables(old) == tables(new)


def test_a_conversion_for_which_the_disk_is_too_small_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    version_1.make(f"sqlite:///{path}", {"a": LOG})
    pages = path.stat().st_size // 4096

    def shrink(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 20}")

    event.listen(Engine, "connect", shrink)
    try:
        with pytest.raises(StoreError, match=f"^{path}: database or disk is full$"):
            SqlEventStore(f"sqlite:///{path}")
    finally:
        event.remove(Engine, "connect", shrink)
    assert "events_1" not in tables(f"sqlite:///{path}")
    with SqlEventStore(f"sqlite:///{path}") as store:
        assert list(store.events("a")) == LOG


OPENER = """
import sys
from phalanx.store.sql import SqlEventStore
print("ready", flush=True)
SqlEventStore(f"sqlite:///{sys.argv[1]}").close()
"""


def test_a_conversion_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    version_1.make(f"sqlite:///{path}", {"a": LOG})
    for pause in (0.0, 0.02, 0.05):
        with subprocess.Popen([sys.executable, "-c", OPENER, path], stdout=subprocess.PIPE) as one:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
            time.sleep(pause)
            one.kill()
    with SqlEventStore(f"sqlite:///{path}") as store:
        assert list(store.events("a")) == LOG
    assert tables(f"sqlite:///{path}").keys() == set(METADATA.tables)


def test_processes_that_convert_a_store_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    version_1.make(f"sqlite:///{path}", {"a": LOG})
    openers = [
        subprocess.Popen([sys.executable, "-c", OPENER, path], stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [opener.wait() for opener in openers] == [0, 0, 0]
    with SqlEventStore(f"sqlite:///{path}") as store:
        assert list(store.events("a")) == LOG
