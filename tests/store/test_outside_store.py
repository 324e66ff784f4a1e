"""A store from one file outside the package, named by its URL, keeps the port's contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_events import chain

from phalanx.domain.errors import StoreError
from phalanx.store import EventStore, open_store

OUTSIDE = """
from phalanx.store.memory import EventLog

class Shelf:
    def __init__(self, url):
        self.logs = {}
    def append(self, run, events):
        log = self.logs.setdefault(run, EventLog())
        for event in events:
            log(event)
    def events(self, run, *, kinds=(), agent=None, since=None, until=None):
        return (
            event for event in self.logs.get(run, ())
            if (not kinds or event.kind in kinds) and agent in (None, event.agent)
            and (since is None or event.time >= since) and (until is None or event.time <= until)
        )
    def causes(self, run, event_id):
        return self.logs[run].causes(event_id) if run in self.logs else []
    def runs(self):
        return tuple(sorted(self.logs))
    def close(self):
        self.logs.clear()
"""


def keeps_the_contract(store: EventStore) -> None:
    events = chain(9)
    store.append("b", events[:4])
    store.append("b", events[4:])
    store.append("a", events[:1])
    assert store.runs() == ("a", "b")
    assert list(store.events("b")) == events
    assert list(store.events("b", kinds=("run.started",))) == events[:1]
    assert list(store.events("b", agent="pop1", since=events[3].time, until=events[5].time)) == [
        e for e in events if e.agent == "pop1" and events[3].time <= e.time <= events[5].time
    ]
    assert store.causes("b", events[-1].id) == events
    assert store.causes("b", "unknown") == store.causes("c", "unknown") == []
    store.close()


def test_a_store_from_outside_is_opened_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shelf.py").write_text(OUTSIDE)
    folder = tmp_path / "shelf-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[phalanx.stores]\nshelf = shelf:Shelf\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    keeps_the_contract(open_store("shelf:upper"))
    keeps_the_contract(open_store("memory:"))
    keeps_the_contract(open_store(f"sqlite:///{tmp_path / 'events.db'}"))
    with pytest.raises(StoreError, match=r"must be a URL of memory, postgresql, shelf, sqlite$"):
        open_store("shelves://user:secret@host")
