"""The walker of the log of causes."""

from __future__ import annotations

from store_events import ROOT, chain

from phalanx.domain.events import Event
from phalanx.store.causes import CauseBreak, CauseIndex, climb, unfold


def event(name: str, cause: str | None) -> Event:
    return Event(name, 1.0, "pop1", "k", cause, {})


def test_an_index_grows_event_by_event_and_is_walked_both_ways() -> None:
    index = CauseIndex([ROOT])
    branch = event("pop2-1", "pop1-1")
    for each in (*chain(3)[1:], branch):
        index.add(each)
    last = index.get("pop1-3")
    assert last is not None
    assert [cause.id for cause in index.causes(last)] == ["pop1-2", "pop1-1", "run-1"]
    assert [(depth, e.id) for depth, e in index.below("pop1-1")] == [
        (1, "pop1-2"),
        (2, "pop1-3"),
        (1, "pop2-1"),
    ]


def test_a_cause_that_comes_late_or_twice_is_none() -> None:
    early, late = event("a", "b"), event("b", "a")
    index = CauseIndex([early, late, event("a", "b")])
    assert index.cause(early) is None
    assert index.cause(late) is early
    assert not index.effects("b")
    assert index.place(index.events[2]) == 0, "the first of an id counts"


def test_chains_end_at_circles_and_gaps() -> None:
    events = {"a": event("a", "b"), "b": event("b", "a"), "c": event("c", "x")}
    found = climb("a", lambda name: [events[name]] if name in events else [])
    assert ([e.id for e in found.entries], found.broken) == (
        ["b", "a"],
        CauseBreak("b", "a", "circle"),
    )
    assert climb("c", lambda name: [events[name]] if name in events else []).broken == CauseBreak(
        "c", "x", "missing"
    )
    below = {"a": [events["b"]], "b": [events["a"]]}
    assert [e.id for _, e in unfold("a", lambda name: below.get(name, []))] == ["b"]
