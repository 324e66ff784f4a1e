"""Questions to a store, in SQLite and in PostgreSQL."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_events import ROOT, chain, logs
from tests.nightly import examples

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.store import history
from phalanx.store.causes import CauseBreak
from phalanx.store.derived import Sample
from phalanx.store.history import DECISIONS, EventQuery, History
from phalanx.store.sql import Receipt, SqlEventStore

_number = count()


@pytest.fixture
def asked(store: SqlEventStore) -> History:
    return History(store.database)


def event(name: str, cause: str | None, kind: str = "k", **data: Any) -> Event:
    return Event(name, 1.0, name.partition(".")[0], kind, cause, data)


# -- what comes late, twice, or never ------------------------------------------------------


@settings(max_examples=examples(12), suppress_health_check=list(HealthCheck))
@given(events=logs(), seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 4), max_size=20))
def test_events_in_any_order_and_doubled_are_all_kept_once(
    shared: SqlEventStore, events: list[Event], seed: int, sizes: list[int]
) -> None:
    run = f"received {next(_number)}"
    waiting = events * 2
    random.Random(seed).shuffle(waiting)
    kept = doubled = 0
    while waiting:
        size = sizes.pop() if sizes else 3
        receipt = shared.receive(run, waiting[:size])
        assert receipt.refused == ()
        kept, doubled = kept + receipt.kept, doubled + receipt.doubled
        waiting = waiting[size:]
    assert kept == doubled == len(events)
    by_id = {e.id: e for e in shared.events(run)}
    assert by_id == {e.id: e for e in events}
    asked = History(shared.database)
    for each in events:
        found = asked.causes(run, each.id)
        assert found.broken is None
        assert found.entries[-1].event == each
        assert found.entries[0].event.cause is None


def test_an_event_is_not_lost_because_its_cause_is_late(
    store: SqlEventStore, asked: History
) -> None:
    events = chain(3)
    assert store.receive("r", events[2:]) == Receipt(2)
    found = asked.causes("r", "pop1-3")
    assert [entry.event for entry in found.entries] == events[2:]
    assert found.broken == CauseBreak("pop1-2", "pop1-1", "missing")
    assert str(found.broken) == "pop1-1, the cause of pop1-2, is not in the store"
    store.receive("r", events[:2])
    whole = asked.causes("r", "pop1-3")
    assert [entry.event for entry in whole.entries] == events
    assert whole.broken is None


def test_another_event_of_the_same_id_is_refused_alone(store: SqlEventStore) -> None:
    store.receive("r", chain(1))
    other = event("pop1-1", None)
    receipt = store.receive("r", [other, event("n", None), event("n", "x"), ROOT])
    assert (receipt.kept, receipt.doubled) == (1, 1)
    assert receipt.refused == (
        ("n", "its id is that of another event"),
        ("pop1-1", "its id is that of another event"),
    )
    assert [e.id for e in store.events("r")] == ["run-1", "pop1-1", "n"]


def test_what_cannot_be_kept_does_not_hold_up_the_others(store: SqlEventStore) -> None:
    bad = [
        event("n\0", None),
        event("a", None, kind="\ud800"),
        Event("b", float("nan"), "a", "k", None, {}),
        event("c", None, what=object()),
        event("d", None, "belief.changed", belief="b\0", value=True),
    ]
    receipt = store.receive("r", [*bad, ROOT])
    assert receipt.kept == 2
    assert [name for name, _ in receipt.refused] == ["n\0", "a", "b", "c"]
    assert [k.predicate for k in History(store.database).knowledge("r")] == ["b\0"]


def test_the_same_batch_may_be_appended_again(store: SqlEventStore) -> None:
    store.append("r", chain(3))
    store.append("r", chain(5))
    assert list(store.events("r")) == chain(5)


def test_causes_in_a_circle_are_followed_once(store: SqlEventStore, asked: History) -> None:
    store.receive("r", [event("a", "b"), event("b", "a"), event("c", "c")])
    found = asked.causes("r", "a")
    assert [entry.event.id for entry in found.entries] == ["b", "a"]
    assert found.broken == CauseBreak("b", "a", "circle")
    assert asked.causes("r", "c").broken == CauseBreak("c", "c", "circle")
    assert [e.entry.event.id for e in asked.effects("r", "a").effects] == ["b"]
    assert asked.effects("r", "c").effects == ()


def test_a_long_chain_is_followed_in_parts_and_to_an_end(
    store: SqlEventStore, asked: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_CLIMB", 7)
    store.append("r", chain(50))
    assert [e.event for e in asked.causes("r", "pop1-50").entries] == chain(50)
    short = asked.causes("r", "pop1-50", longest=10)
    assert [e.event for e in short.entries] == chain(50)[-10:]
    assert short.broken == CauseBreak("pop1-41", "pop1-40", "length")


# -- questions -----------------------------------------------------------------------------


def test_entries_by_scope_agent_time_and_receipt(store: SqlEventStore) -> None:
    times = iter([100.0, 200.0, 150.0])
    clocked = SqlEventStore(store.database, now=lambda: next(times))
    clocked.receive("r", [event("a.1-1", None, scope="video"), event("b.1-1", None)])
    clocked.receive("r", [event("a.1-2", None)], scopes={"a": "voice"})
    clocked.receive("r", [event("b.1-2", None, scope=7)], scopes={"b": "voice"})
    asked = History(store.database)

    def ids(**narrowed: Any) -> list[str]:
        return [e.event.id for e in asked.entries("r", EventQuery(**narrowed))]

    assert ids(scope="video") == ["a.1-1"]
    assert ids(scope="voice") == ["a.1-2", "b.1-2"]
    assert ids(scope="voice", agent="b") == ["b.1-2"]
    assert ids(received_since=150.0) == ["a.1-2", "b.1-2"]
    assert ids(received_until=150.0) == ["a.1-1", "b.1-1"]
    received = [e.received for e in asked.entries("r")]
    assert received == [100.0, 100.0, 200.0, 200.0], "a clock that is put back is not followed"
    with pytest.raises(StoreError, match="holds no run named 'x'"):
        list(asked.entries("x"))


def test_decisions_and_what_caused_each(store: SqlEventStore, asked: History) -> None:
    log = [
        ROOT,
        event("a.1-1", "run-1", "belief.changed", belief="b", value=True),
        event("a.1-2", "a.1-1", "goal.adopted", scope="video"),
        event("a.1-3", "a.1-2", "plan.started", scope="video"),
        event("b.1-1", "a.1-2", "auction.bid", scope="video"),
        event("a.1-4", "gone", "auction.awarded", scope="video"),
        event("a.1-5", "a.1-4", "plan.ended", scope="video"),
    ]
    store.receive("r", log)
    found = list(asked.decisions("r", EventQuery(agent="a", scope="video", since=0.5, until=1.5)))
    assert [d.entry.event.id for d in found] == ["a.1-2", "a.1-3", "a.1-4"]
    assert [[e.event.id for e in d.chain.entries] for d in found] == [
        ["run-1", "a.1-1", "a.1-2"],
        ["run-1", "a.1-1", "a.1-2", "a.1-3"],
        ["a.1-4"],
    ]
    assert [d.chain.broken for d in found] == [None, None, CauseBreak("a.1-4", "gone", "missing")]
    assert [d.entry.event.id for d in asked.decisions("r", EventQuery(kinds=("plan.ended",)))] == [
        "a.1-5"
    ]
    assert "plan.ended" not in DECISIONS


def test_effects_are_a_tree_and_bounded(store: SqlEventStore, asked: History) -> None:
    log = [ROOT, event("a", "run-1"), event("b", "run-1"), event("c", "a"), event("d", "c")]
    store.receive("r", [*reversed(log), event("e", "lost")])

    def tree(of: str, limit: int = 100) -> list[tuple[int, str]]:
        return [(e.depth, e.entry.event.id) for e in asked.effects("r", of, limit).effects]

    assert tree("run-1") == [(1, "b"), (1, "a"), (2, "c"), (3, "d")]
    assert tree("a") == [(1, "c"), (2, "d")]
    assert tree("lost") == [(1, "e")]
    assert tree("unknown") == []
    assert tree("run-1", 3) == [(1, "b"), (1, "a"), (2, "c")]
    assert asked.effects("r", "run-1", 3).more
    assert not asked.effects("r", "run-1", 4).more


def sampled(number: int, mb_s: object) -> Event:
    data = {
        "hosts": {"shop": {"legitimate_mb_s": mb_s}, "odd": 3},
        "links": {"a>b": {"mb_s": 1, "queue_ms": True}},
        "downloads": 2,
    }
    return Event(f"network-{number}", float(number), "network", "network.sample", None, data)


def test_metrics_are_what_events_tell_as_they_came(
    store: SqlEventStore, asked: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE", 2)
    events = [sampled(n, n / 2) for n in range(5)]
    store.receive("r", [*events[2:], *events[:2]], scopes={"network": "video"})
    store.receive("r", [*events, sampled(9, "many"), sampled(10, float("inf"))])
    figures = [m.sample for m in asked.metrics("r", "host.legitimate_mb_s")]
    assert figures == [
        Sample("network", "host.legitimate_mb_s", n, n / 2, "MB/s", {"host": "shop"}, "video")
        for n in (2, 3, 4, 0, 1)
    ]
    assert [s.name for s in asked.series("r") if s.scope == "video"] == [
        "host.legitimate_mb_s",
        "link.mb_s",
        "network.downloads",
    ]
    narrow = EventQuery(since=1.0, until=3.0)
    found = asked.metrics("r", "host.legitimate_mb_s", narrow, host="shop")
    assert [m.sample.value for m in found] == [1.0, 1.5, 0.5]
    assert list(asked.metrics("r", "host.legitimate_mb_s", host="odd")) == []


def believed(number: int, belief: str, value: bool | None, incarnation: int = 1) -> Event:
    name = f"pop1.{incarnation}-{number}"
    data: dict[str, Any] = {"belief": belief, "value": value, "holder": "pop2"}
    return Event(name, float(number), "pop1", "belief.changed", "run-1", data)


@pytest.mark.parametrize("turn", [1, -1])
def test_knowledge_is_what_is_known_last_in_whatever_order_it_came(
    store: SqlEventStore, asked: History, turn: int
) -> None:
    log = [
        believed(1, "a", True),
        believed(2, "a", False),
        believed(3, "b", True),
        believed(4, "b", None),
        believed(9, "c", True),
        believed(10, "c", False),
        believed(2, "c", True, incarnation=2),
    ]
    for each in log[::turn]:
        store.receive("r", [each])
    store.receive("s", log[::turn], scopes={"pop1": "video"})
    for run, scope in (("r", None), ("s", "video")):
        known = list(asked.knowledge(run, scope=scope))
        assert [(k.predicate, k.value, k.since, k.event, k.holder, k.cause) for k in known] == [
            ("a", False, 2.0, "pop1.1-2", "pop2", "run-1"),
            ("c", True, 2.0, "pop1.2-2", "pop2", "run-1"),
        ]
        assert list(asked.knowledge(run, agent="pop2")) == []


def test_runs_are_told_with_their_figures(store: SqlEventStore) -> None:
    clocked = SqlEventStore(store.database, now=iter([10.0, 20.0, 30.0]).__next__)
    clocked.append("old", chain(3))
    clocked.append("new", chain(1))
    clocked.append("old", chain(4)[4:])
    new, old = History(store.database).runs()
    assert (new.name, new.events, new.retired, new.agents) == ("new", 2, 0, 2)
    assert (old.name, old.events, old.began, old.ended) == ("old", 5, 10.0, 30.0)
