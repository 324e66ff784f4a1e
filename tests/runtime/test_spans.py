"""The spans of a recorder whose store does not answer."""

from __future__ import annotations

import pytest

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.fabric.tracing import PATIENCE_S, Span
from phalanx.runtime.processes.recorder import Spans
from phalanx.store.history import History
from phalanx.store.sql import SqlEventStore

ALARM = Event("a-1", 1.0, "a", "belief.changed", None, {})
BID = Event("b-1", 2.0, "b", "auction.bid", "a-2", {})


class Kept:
    """Takes spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.lost = 3
        self.trouble: str | None = None

    def export(self, span: Span) -> None:
        self.spans.append(span)

    def close(self) -> None:
        pass


@pytest.fixture
def store() -> SqlEventStore:
    return SqlEventStore("sqlite://")


def test_a_store_that_does_not_answer_costs_a_trace_its_beginning(
    store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(History, "causes", fails)
    kept = Kept()
    spans = Spans("edge", History(store.database), kept)
    spans.make([(BID, 20.0), (ALARM, 21.0 + PATIENCE_S)])
    assert [span.event.id for span in kept.spans] == ["a-1", "b-1"]
    assert kept.spans[1].place.parent_id is None
    assert spans.figures()["spans_orphaned"] == 1
