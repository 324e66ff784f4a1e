from __future__ import annotations

import pytest
from store_events import ROOT, chain

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event, Recorder
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


def test_causes_lead_from_the_root_to_the_event() -> None:
    events = chain(4)
    other = Event("pop2-1", 9.0, "pop2", "goal.adopted", "pop1-1", {})
    log = EventLog([*events, other])
    assert log.causes("pop1-4") == events
    assert log.causes("pop2-1") == [events[0], events[1], other]
    assert log.causes("run-1") == [ROOT]
    assert log.causes("unknown") == []


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
