from __future__ import annotations

from typing import Any

import pytest
from store_events import ROOT, chain

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event, Recorder
from phalanx.store.causes import CauseIndex, unfold
from phalanx.store.memory import EventLog


def test_it_keeps_what_a_recorder_tells_in_order() -> None:
    log = EventLog()
    recorder = Recorder("pop1", log, lambda: 2.5)
    first = recorder.record("agent.started", None, incarnation=1)
    recorder.record("goal.adopted", first, goal="g")
    assert [event.id for event in log] == ["pop1-1", "pop1-2"]
    assert log.events[0] == Event(first, 2.5, "pop1", "agent.started", None, {"incarnation": 1})
    assert len(log) == 2


def test_the_list_is_a_copy() -> None:
    log = EventLog([ROOT])
    log.events.clear()
    assert log.events == [ROOT]


def test_listeners_hear_what_comes_after_them_in_their_order() -> None:
    log = EventLog([ROOT])
    heard: list[tuple[str, Event]] = []
    log.listen(lambda event: heard.append(("first", event)))
    log.listen(lambda event: heard.append(("second", event)))
    _, event = chain(1)
    log(event)
    assert heard == [("first", event), ("second", event)]


def test_a_listener_finds_the_event_in_the_log_and_may_append() -> None:
    log = EventLog([ROOT])
    events = chain(2)

    def follow(event: Event) -> None:
        assert log.causes(event.id)[-1] is event
        if event is events[1]:
            log(events[2])

    log.listen(follow)
    log(events[1])
    assert log.events == events


def test_an_id_is_there_once() -> None:
    log = EventLog([ROOT])
    with pytest.raises(LogError, match="'run-1' is in the log already"):
        log(ROOT)
    assert len(log) == 1


def test_a_bounded_log_forgets_the_oldest() -> None:
    log = EventLog(keep=3)
    for number in range(10):
        log(Event(f"e{number}", float(number), "a", "run.started", None, {}))
    assert [event.id for event in log] == ["e7", "e8", "e9"]
    assert log.causes("e0") == []


@pytest.mark.parametrize("keep", [-1, 0, 1.5, True, "9"])
def test_how_many_events_are_kept_is_a_whole_number(keep: Any) -> None:
    with pytest.raises(ValueError, match="a whole number from 1 on, or None for all"):
        EventLog(keep=keep)


# -- the walker of the log of causes ----------------------------------------------------------


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


def test_effects_in_a_circle_are_told_once() -> None:
    below = {"a": [event("b", "a")], "b": [event("a", "b")]}
    assert [effect.id for _, effect in unfold("a", below.__getitem__)] == ["b"]
