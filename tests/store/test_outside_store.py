"""A store from one file outside the package, named by its URL, keeps the port's contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_events import chain
from tests.installed import install

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
    def events(self, run):
        return iter(self.logs.get(run, ()))
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
    assert list(store.events("c")) == []
    store.close()


def test_a_store_from_outside_is_opened_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "shelf", OUTSIDE, "[phalanx.stores]\nshelf = shelf:Shelf\n")
    keeps_the_contract(open_store("shelf:upper"))
    keeps_the_contract(open_store("memory:"))
    keeps_the_contract(open_store(f"sqlite:///{tmp_path / 'events.db'}"))
    with pytest.raises(StoreError, match=r"must be a URL of memory, postgresql, shelf, sqlite$"):
        open_store("shelves://user:secret@host")
