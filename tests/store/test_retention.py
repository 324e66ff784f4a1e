"""Retention lets go of what is old, and leaves no chain of causes cut without saying so."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_disk import small_disk
from sqlalchemy import update
from store_databases import forget
from store_events import chain
from tests.nightly import examples

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store import retention
from phalanx.store.causes import CauseBreak
from phalanx.store.database import Database
from phalanx.store.history import History
from phalanx.store.retention import Retention, RetentionPolicy, Retired
from phalanx.store.schema import EVENTS
from phalanx.store.sql import SqlEventStore

DAY = 86_400.0


def filled(store: SqlEventStore, days: int = 10, run: str = "r", each: int = 10) -> list[Event]:
    """Keep a chain of which ``each`` events came every day; the last day is day ``days``."""
    events = chain(days * each - 1)
    for day in range(days):
        clocked = SqlEventStore(store.database, now=lambda day=day: (day + 1) * DAY)
        clocked.append(run, events[day * each : (day + 1) * each])
    return events


def retain(store: SqlEventStore, today: float = 10.0, **policy: float) -> Retired:
    pauses: list[float] = []
    settled = RetentionPolicy(**policy)  # type: ignore[arg-type]
    done = Retention(store.database, settled, now=lambda: today * DAY, pause=pauses.append).run()
    assert all(pause >= 0 for pause in pauses)
    return done


def check_marks(store: SqlEventStore, run: str = "r") -> None:
    """Check that whatever names a cause that is not there says that it was retired."""
    kept = {entry.event.id: entry for entry in History(store.database).entries(run)}
    for entry in kept.values():
        cut = entry.event.cause is not None and entry.event.cause not in kept
        assert entry.cause_retired == cut, entry


def test_by_age_the_oldest_go_and_the_chain_says_where(
    store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 7)
    events = filled(store)
    done = retain(store, events_s=3.5 * DAY)
    assert (done.events, done.marked) == (60, 1)
    assert list(store.events("r")) == events[60:]
    check_marks(store)
    found = History(store.database).causes("r", "pop1-99")
    assert found.broken == CauseBreak("pop1-60", "pop1-59", "retired")
    assert str(found.broken) == "pop1-59, the cause of pop1-60, has been retired"
    (run,) = History(store.database).runs()
    assert (run.events, run.retired) == (40, 60)
    again = retain(store, events_s=3.5 * DAY)
    assert (again.events, again.marked) == (0, 0)


def test_kinds_of_data_have_ages_of_their_own(store: SqlEventStore) -> None:
    kinds = ("goal.adopted", "belief.changed", "network.sample", "goal.ended")
    events = [
        Event(f"{kind}-{day}", 0.0, "a", kind, None, {}) for day in range(10) for kind in kinds
    ]
    for day in range(10):
        clocked = SqlEventStore(store.database, now=lambda day=day: (day + 1) * DAY)
        clocked.append("r", events[day * 4 : day * 4 + 4])
    done = retain(store, events_s=2.5 * DAY, decisions_s=6.5 * DAY, metrics_s=0.5 * DAY)
    kept = [event.kind for event in store.events("r")]
    assert [kept.count(kind) for kind in kinds] == [7, 7, 1, 3]
    assert done.events == 40 - len(kept)
    everything = retain(store, decisions_s=0.0)
    assert everything.events == 12, "what has no age of its own stays without one for events"


def test_by_size_what_came_first_goes_first(store: SqlEventStore) -> None:
    events = filled(store, each=300)
    before = retain(store, octets=1 << 40)
    assert (before.events, before.octets_before) == (0, before.octets_after)
    limit = before.octets_before // 2
    done = retain(store, octets=limit)
    assert done.octets_after <= limit
    assert 0.3 * len(events) < done.events < 0.8 * len(events)
    assert list(store.events("r")) == events[done.events :]
    check_marks(store)
    assert retain(store, octets=0).octets_after < limit
    assert list(store.events("r")) == []


def test_the_oldest_of_all_runs_goes_first(store: SqlEventStore) -> None:
    filled(store, days=4, run="a", each=200)
    new = SqlEventStore(store.database, now=lambda: 9 * DAY)
    new.append("b", chain(100))
    retain(store, octets=retain(store).octets_before * 2 // 3)
    assert len(list(store.events("a"))) < 800
    assert list(store.events("b")) == chain(100)


def test_a_dry_run_touches_nothing(store: SqlEventStore) -> None:
    events = filled(store)
    policy = RetentionPolicy(events_s=3.5 * DAY)
    told = Retention(store.database, policy, now=lambda: 10 * DAY).dry_run()
    assert (told.events, told.marked) == (60, 0)
    sized = Retention(store.database, RetentionPolicy(octets=told.octets_before // 2)).dry_run()
    assert 40 <= sized.events <= 60
    assert list(store.events("r")) == events


def test_a_run_goes_on_after_its_causes_were_retired(store: SqlEventStore) -> None:
    events = filled(store)
    retain(store, events_s=0.5 * DAY)
    late = Event("late", 99.0, "pop1", "goal.ended", events[5].id, {})
    store.append("r", [late])
    assert History(store.database).causes("r", "late").broken == CauseBreak(
        "late", "pop1-5", "missing"
    ), "it went before its effect came"
    store.append("other", chain(1))
    store.append("other", [late])
    assert History(store.database).causes("other", "late").broken == CauseBreak(
        "late", "pop1-5", "missing"
    )


def test_a_retired_event_that_comes_again_mends_the_chain(store: SqlEventStore) -> None:
    events = filled(store)
    retain(store, events_s=3.5 * DAY)
    store.receive("r", events)
    assert History(store.database).causes("r", "pop1-99").broken is None


def test_a_clock_that_was_put_back_makes_nothing_look_old(store: SqlEventStore) -> None:
    events = chain(30)
    times = iter([10 * DAY, 3 * DAY, 10.1 * DAY])
    clocked = SqlEventStore(store.database, now=lambda: next(times))
    for at in range(0, 30, 10):
        clocked.append("r", events[at : at + 10])
    assert retain(store, 10.2, events_s=DAY).events == 0
    assert retain(store, 3.0, events_s=DAY).events == 0, "nor when retention runs meanwhile"


def test_limits_that_are_none_are_refused(store: SqlEventStore) -> None:
    for policy in (
        RetentionPolicy(events_s=-1.0),
        RetentionPolicy(octets=-1),
        RetentionPolicy(metrics_s=float("nan")),
    ):
        with pytest.raises(StoreError, match="at least 0 seconds and 0 octets"):
            Retention(store.database, policy)


@settings(max_examples=examples(6), suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), cut=st.floats(0, 10))
def test_marks_hold_whatever_the_order_of_receipt(
    shared: SqlEventStore, seed: int, cut: float
) -> None:
    for run in shared.runs():
        forget(shared, run)
    order = random.Random(seed)
    events = chain(60) + [
        Event(f"x-{n}", 0.0, "x", "k", f"pop1-{order.randrange(1, 60)}", {}) for n in range(20)
    ]
    order.shuffle(events)
    for day in range(9):
        clocked = SqlEventStore(shared.database, now=lambda day=day: (day + 1) * DAY)
        clocked.receive("r", events[day * 9 : day * 9 + 9])
    retain(shared, events_s=cut * DAY, decisions_s=order.uniform(0, 10) * DAY)
    check_marks(shared)


RETAINER = """
import sys
from phalanx.store import retention
from phalanx.store.database import Database
retention.BATCH = 5
print("ready", flush=True)
policy = retention.RetentionPolicy(events_s=3.5 * 86400)
with Database(sys.argv[1]) as database:
    retention.Retention(database, policy, now=lambda: 10 * 86400, pause=lambda s: None).run()
"""


@settings(max_examples=examples(3), suppress_health_check=list(HealthCheck))
@given(pause=st.floats(0, 0.12))
def test_killed_in_the_middle_no_chain_is_cut_without_saying_so(
    tmp_path_factory: pytest.TempPathFactory, pause: float
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('retained') / 'events.db'}"
    with SqlEventStore(url) as store:
        events = filled(store, each=40)
    command = [sys.executable, "-c", RETAINER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as retainer:
        assert retainer.stdout is not None
        assert retainer.stdout.readline() == b"ready\n"
        time.sleep(pause)
        retainer.kill()
    with SqlEventStore(url) as store:
        check_marks(store)
        retain(store, events_s=3.5 * DAY)
        check_marks(store)
        assert list(store.events("r")) == events[240:]


def test_a_store_on_a_full_disk_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4 << 20) as disk:
        filler = disk / "filler"
        filler.write_bytes(b"x" * (2 << 20))
        events = chain(20_000)
        with SqlEventStore(f"sqlite:///{disk / 'events.db'}", now=lambda: DAY) as store:
            batches = (events[at : at + 50] for at in range(0, len(events), 50))
            with pytest.raises(StoreError, match=r"disk is full$|disk I/O error$"):
                deque(map(partial(store.append, "r"), batches), maxlen=0)
            kept = list(store.events("r"))
            assert kept
            assert kept == events[: len(kept)]
            filler.unlink()
            store.append("r", events[: len(kept) + 50])
            assert list(store.events("r")) == events[: len(kept) + 50]
            done = retain(store, events_s=DAY)
            assert done.events == len(kept) + 50
            assert done.octets_after < done.octets_before / 2


def test_a_file_becomes_smaller(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with SqlEventStore(f"sqlite:///{path}") as store:
        filled(store, each=1_000)
        retain(store, events_s=0.0, today=99.0)
    assert path.stat().st_size < 200_000


def test_writers_are_not_held_up(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'events.db'}"
    with Database(url) as database, SqlEventStore(url) as writer:
        filled(SqlEventStore(database), each=200)
        written = 0

        def write(_seconds: float) -> None:
            nonlocal written
            written += 1
            writer.append("r", [Event(f"new-{written}", 0.0, "a", "k", None, {})])

        Retention(
            database, RetentionPolicy(events_s=DAY), now=lambda: 10.5 * DAY, pause=write
        ).run()
        assert written > 3
        new = [e.id for e in writer.events("r") if e.agent == "a"]
        assert new == [f"new-{n}" for n in range(1, written + 1)]


def test_all_events_of_a_table_have_a_place(store: SqlEventStore) -> None:
    """Where all stamps are the same, it is by size the order of receipt that counts."""
    events = filled(store, each=100)
    with store.database.engine.begin() as connection:
        connection.execute(update(EVENTS).values(received=5.0))
    done = retain(store, octets=retain(store).octets_before * 2 // 3)
    assert 0 < done.events < 1_000
    assert list(store.events("r")) == events[done.events :]
