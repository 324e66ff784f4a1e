"""The history of a domain as operations of the fabric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct
from sqlalchemy import delete

from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.fabric import calls
from phalanx.fabric.access import STANDARD_POLICY, Gate, Resource
from phalanx.fabric.calls import CallClient
from phalanx.fabric.operations import Operation
from phalanx.fabric.provider import Provider
from phalanx.fabric.tracing import PATIENCE_S, Span
from phalanx.identity.names import Identity, Role
from phalanx.runtime import history as data
from phalanx.runtime.processes.recorder import Spans
from phalanx.store.history import EventQuery, History
from phalanx.store.schema import RUNS
from phalanx.store.sql import SqlEventStore

EVENTS = [
    Event("pop1-1", 0.0, "pop1", "process.started", None, {}),
    Event(
        "pop1-2", 1.0, "pop1", "belief.changed", "pop1-1", {"belief": "overUsage(l)", "value": True}
    ),
    Event("pop1-3", 1.0, "pop1", "goal.adopted", "pop1-2", {"goal": "linkRateLimited(l)"}),
    Event("pop2-1", 2.0, "pop2", "auction.bid", "pop1-3", {"auction": "a"}),
    Event(
        "net-1",
        3.0,
        "network",
        "network.sample",
        "pop1-1",
        {"hosts": [{"host": "server", "legitimate_mb_s": 1.5, "attack_mb_s": 0.0}]},
    ),
]
SCOPES = {"pop1": "slice:video"}


class Lab:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.hub = MemoryBroker(self.clock)
        self.store = SqlEventStore("sqlite://")
        self.store.receive("edge", EVENTS, scopes=SCOPES)
        gate = Gate(STANDARD_POLICY, lambda: Resource("recorder", "edge"))
        identity = Identity("recorder", Role.RECORDER, "edge")
        provider = Provider(self.hub.join(identity), self.clock, gate.check)
        data.serve_history(provider, lambda: History(self.store.database), "edge")
        asker = self.hub.join(Identity("pop2", Role.AGENT, "edge"))
        self.client = CallClient(asker, self.clock, life="1")

    def ask(self, operation: Operation[Any, Any], request: Struct) -> Any:
        answers: list[Any] = []
        self.client.invoke("recorder", operation, request, answers.append, timeout_s=2.0)
        self.clock.run(self.clock.now() + 1.0)
        (answer,) = answers
        return answer


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.store.close()


def ids(found: data.Entries | data.Causes) -> list[str]:
    return [entry.event.id for entry in found.entries]


def test_events_are_found_by_agent_slice_time_and_kind(lab: Lab) -> None:
    assert ids(lab.ask(data.FIND, data.FindRequest(EventQuery(agent="pop2")))) == ["pop2-1"]
    by_slice = lab.ask(data.FIND, data.FindRequest(EventQuery(scope="slice:video")))
    assert ids(by_slice) == ["pop1-1", "pop1-2", "pop1-3"]
    assert by_slice.entries[0].scope == "slice:video"
    late = data.FindRequest(EventQuery(since=1.5, kinds=("auction.bid",)))
    assert ids(lab.ask(data.FIND, late)) == ["pop2-1"]
    decisions = lab.ask(data.FIND, data.FindRequest(EventQuery(until=2.0), decisions=True))
    assert ids(decisions) == ["pop1-3", "pop2-1"]


def test_who_wants_more_asks_again(lab: Lab) -> None:
    seen: list[str] = []
    after, more = -1, True
    while more:
        answer = lab.ask(data.FIND, data.FindRequest(after=after, limit=2))
        assert len(answer.entries) <= 2
        seen += ids(answer)
        after, more = answer.entries[-1].seq, answer.more
    assert seen == [event.id for event in EVENTS]


def test_causes_and_effects_cross_agents(lab: Lab) -> None:
    why = lab.ask(data.CAUSES, data.CausesRequest("pop2-1"))
    assert ids(why) == ["pop1-1", "pop1-2", "pop1-3", "pop2-1"]
    assert why.broken is None
    after = lab.ask(data.EFFECTS, data.CausesRequest("pop1-2"))
    assert ids(after) == ["pop1-3", "pop2-1"]
    assert ids(lab.ask(data.CAUSES, data.CausesRequest("nobody-1"))) == []


def test_knowledge_is_what_was_last_believed(lab: Lab) -> None:
    (belief,) = lab.ask(data.KNOWLEDGE, data.KnowledgeRequest("pop1")).beliefs
    assert (belief.agent, belief.predicate, belief.value) == ("pop1", "overUsage(l)", True)
    assert lab.ask(data.KNOWLEDGE, data.KnowledgeRequest("pop2")).beliefs == ()


def test_a_run_that_is_not_there_is_said_in_a_line(lab: Lab) -> None:
    with lab.store.database.engine.begin() as connection:
        connection.execute(delete(RUNS))
    answer = lab.ask(data.FIND, data.FindRequest())
    assert isinstance(answer, calls.CallFailed)
    assert "edge" in answer.reason


def test_a_limit_out_of_range_is_refused(lab: Lab) -> None:
    request = data.FindRequest(limit=data.MOST + 1)
    answer = lab.ask(data.FIND, request)
    assert isinstance(answer, calls.CallFailed)
    assert "limit" in answer.reason


# -- the spans of a recorder whose store does not answer --------------------------------------


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
