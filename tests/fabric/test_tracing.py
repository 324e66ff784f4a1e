"""A trace follows the causes, over processes; without tracing nothing is imported or sent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from fabric_lab import DOMAIN, Lab
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from phalanx.domain.events import Event
from phalanx.fabric.access import Decision
from phalanx.fabric.client import Client
from phalanx.fabric.envelope import from_json, to_json
from phalanx.fabric.event_envelopes import from_event, to_event
from phalanx.fabric.invocation import Call, Provider
from phalanx.fabric.operations import STATUS, StatusAnswer, StatusRequest
from phalanx.fabric.registration import Health, State
from phalanx.fabric.telemetry import Telemetry
from phalanx.fabric.tracing import (
    NO_TRACING,
    Traces,
    TracingError,
    format_traceparent,
    open_tracing,
    parse_traceparent,
)


class Process:
    """One process with its own tracing, whose spans the test reads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.exporter = InMemorySpanExporter()
        self.tracing = Telemetry(DOMAIN, name, SimpleSpanProcessor(self.exporter), epoch_s=1e9)
        self._count = 0

    def event(self, kind: str, cause: str | None, **data: object) -> str:
        self._count += 1
        event = Event(
            f"{self.name}-{self._count}", float(self._count), self.name, kind, cause, data
        )
        self.tracing.record(event)
        return event.id

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


@pytest.fixture
def pop1() -> Iterator[Process]:
    process = Process("pop1")
    yield process
    process.tracing.close()


@pytest.fixture
def pop2() -> Iterator[Process]:
    process = Process("pop2")
    yield process
    process.tracing.close()
    process.tracing.close()


def test_one_mitigation_over_two_processes_is_one_trace(pop1: Process, pop2: Process) -> None:
    root = pop1.event("run.started", None)
    alarm = pop1.event("belief.changed", root, belief="overloaded(x)", rate_mb_s=9.5)
    called = pop1.event("auction.called", alarm)
    pop2.tracing.heard(called, pop1.tracing.traceparent(called))
    bid = pop2.event("auction.bid", called)
    pop1.tracing.heard(bid, pop2.tracing.traceparent(bid))
    pop1.event("auction.awarded", bid)
    other = pop1.event("belief.changed", root)
    spans = {span.name: span for span in (*pop1.spans[:-1], *pop2.spans)}
    traces = {name: span.context.trace_id for name, span in spans.items()}
    assert len({trace for name, trace in traces.items() if name != "run.started"}) == 1
    assert traces["run.started"] != traces["belief.changed"]  # else a run were one trace
    chain = ["belief.changed", "auction.called", "auction.bid", "auction.awarded"]
    for before, after in pairwise(chain):
        parent = spans[after].parent
        assert parent is not None
        assert parent.span_id == spans[before].context.span_id
    assert spans["belief.changed"].parent is None
    assert pop1.spans[-1].context.trace_id not in traces.values()
    attributes = spans["belief.changed"].attributes
    assert attributes is not None
    assert attributes["phalanx.event"] == alarm != other
    assert attributes["phalanx.rate_mb_s"] == 9.5
    assert spans["belief.changed"].start_time == (10**9 + 2) * 10**9
    assert spans["belief.changed"].resource.attributes["service.instance.id"] == "pop1"


def test_who_hears_of_a_root_begins_a_trace_of_its_own(pop1: Process, pop2: Process) -> None:
    root = pop1.event("run.started", None)
    pop2.tracing.heard(root, pop1.tracing.traceparent(root))
    pop2.event("belief.changed", root)
    pop2.event("belief.changed", root)
    ids = {span.context.trace_id for span in (*pop1.spans, *pop2.spans)}
    assert len(ids) == 3


def test_a_reader_of_envelopes_finds_the_same_traces_in_any_order(pop1: Process) -> None:
    traces = Traces(DOMAIN)
    events = [Event("r", 0.0, "a", "run.started", None, {})]
    events += [Event(f"e{i}", 1.0, "a", "x", ["r", "e1", "e2"][i - 1], {}) for i in (1, 2, 3)]
    places = {event.id: traces.place(event) for event in events}
    reader = Traces(DOMAIN)
    for event in reversed(events):
        envelope = from_event(event, DOMAIN, traceparent=traces.traceparent(event.id))
        found = from_json(to_json(envelope))
        reader.heard(event.id, found.extensions.get("traceparent"))
        assert reader.place(to_event(found)) == places[event.id]


def test_a_call_carries_its_trace(pop1: Process, pop2: Process) -> None:
    lab = Lab()
    heard: list[Call[StatusRequest, StatusAnswer]] = []
    provider = Provider(
        lab.join("pop2"), lab.clock, lambda *_: Decision(True, ""), tracing=pop2.tracing
    )

    def status(call: Call[StatusRequest, StatusAnswer]) -> None:
        heard.append(call)
        pop2.event("status.asked", call.cause)
        call.done(StatusAnswer("pop2", 1, State.SERVING, Health(), 1.0))

    provider.serve(STATUS, status)
    root = pop1.event("run.started", None)
    cause = pop1.event("agent.suspected", root)
    client = Client(lab.join("pop1"), lab.clock, life="1", tracing=pop1.tracing)
    answers: list[object] = []
    client.invoke("pop2", STATUS, StatusRequest(), answers.append, timeout_s=1, cause=cause)
    lab.run()
    assert len(answers) == len(heard) == 1
    assert pop2.spans[0].context.trace_id == pop1.spans[1].context.trace_id
    assert pop2.spans[0].parent is not None
    assert pop2.spans[0].parent.span_id == pop1.spans[1].context.span_id


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1))
def test_traceparents_come_back(trace_id: int, span_id: int) -> None:
    assert parse_traceparent(format_traceparent(trace_id, span_id)) == (trace_id, span_id)


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        "",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01-x",
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01\n",
    ],
)
def test_what_is_no_traceparent_is_passed_over(text: object) -> None:
    assert parse_traceparent(text) is None
    Traces(DOMAIN).heard("e1", text)


def test_a_later_version_of_traceparent_is_read() -> None:
    assert parse_traceparent(f"01-{'1' * 32}-{'2' * 16}-01-more") == (
        int("1" * 32, 16),
        int("2" * 16, 16),
    )


def test_a_forged_traceparent_moves_no_event_into_another_trace() -> None:
    traces = Traces(DOMAIN)
    traces.heard("e1", format_traceparent(7, 7))
    assert traces.place(Event("e2", 0.0, "a", "x", "e1", {})).trace_id != 7


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.fabric.tracing.KNOWN", 10)
    traces = Traces(DOMAIN)
    for number in range(100):
        traces.place(Event(f"e{number}", 0.0, "a", "x", "r", {}))
    assert len(traces._traces) == 10


def test_without_tracing_nothing_of_it_is_imported_or_sent() -> None:
    assert NO_TRACING.traceparent("e1") is None
    code = (
        "import sys; import phalanx.fabric.tracing, phalanx.fabric.client, "
        "phalanx.fabric.invocation, phalanx.fabric.announcements; "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_extra_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "phalanx.fabric.telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(TracingError, match=r"pip install 'phalanx\[tracing\]'"):
        open_tracing(DOMAIN, "pop1", "http://127.0.0.1:1", epoch_s=0)
