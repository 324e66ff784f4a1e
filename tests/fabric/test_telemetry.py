"""Spans as OpenTelemetry has them, and a collector that does not take them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from phalanx.domain.events import Event
from phalanx.fabric import telemetry
from phalanx.fabric.telemetry import Telemetry, readable
from phalanx.fabric.tracing import Span, SpanPosition, SpanRef

HERE = SpanPosition(SpanRef(5, 6))


def span(place: SpanPosition = HERE, **data: object) -> Span:
    return Span(Event("pop1-2", 12.5, "pop1", "auction.bid", "pop1-1", data), 1e9, place)


def test_a_span_says_what_its_event_says() -> None:
    found = readable(
        "edge", span(goal="x" * 5000, bids=3, cost=0.5, won=True, who=["a"], big=2**70)
    )
    assert found.name == "auction.bid"
    assert (found.start_time, found.end_time) == (10**18, 10**18)
    attributes = dict(found.attributes or {})
    assert attributes.pop("phalanx.goal") == "x" * 1000
    assert attributes == {
        "phalanx.agent": "pop1",
        "phalanx.event": "pop1-2",
        "phalanx.elapsed_s": 12.5,
        "phalanx.bids": 3,
        "phalanx.cost": 0.5,
        "phalanx.won": True,
    }
    assert dict(found.resource.attributes) == {
        "service.name": "phalanx",
        "service.namespace": "edge",
        "service.instance.id": "pop1",
    }


def test_a_span_hangs_below_its_parent_or_tells_where_its_trace_began() -> None:
    below = readable("edge", span(SpanPosition(SpanRef(5, 6), parent_id=7)))
    assert below.context is not None
    assert below.parent is not None
    assert (below.context.trace_id, below.context.span_id) == (5, 6)
    assert (below.parent.trace_id, below.parent.span_id) == (5, 7)
    assert below.links == ()
    begins = readable("edge", span(SpanPosition(SpanRef(5, 6), origin=SpanRef(8, 9))))
    assert begins.parent is None
    (link,) = begins.links
    assert (link.context.trace_id, link.context.span_id) == (8, 9)


def test_what_waits_is_sent_at_the_end() -> None:
    exporter = InMemorySpanExporter()
    tracing = Telemetry("edge", exporter)
    for _ in range(3):
        tracing.export(span())
    tracing.close()
    tracing.close()
    assert len(exporter.get_finished_spans()) == 3
    assert (tracing.lost, tracing.trouble) == (0, None)
    tracing.export(span())
    assert tracing.lost == 1


class Collector(SpanExporter):
    """Takes nothing before it may, and then what it is told to."""

    def __init__(self, result: SpanExportResult) -> None:
        self.may = threading.Event()
        self.result = result
        self.calls = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        assert self.may.wait(20.0)
        return self.result

    def shutdown(self) -> None:
        pass


def test_a_collector_that_takes_nothing_costs_spans_that_are_counted() -> None:
    collector = Collector(SpanExportResult.FAILURE)
    collector.may.set()
    tracing = Telemetry("edge", collector)
    for _ in range(10):
        tracing.export(span())
    tracing.close()
    assert tracing.lost == 10
    assert tracing.trouble is not None


def test_a_collector_that_hangs_costs_no_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry, "ROOM", 1000)
    collector = Collector(SpanExportResult.SUCCESS)
    tracing = Telemetry("edge", collector)
    for _ in range(1500):
        tracing.export(span())
    assert tracing.lost == 500
    collector.may.set()
    tracing.close()
    assert tracing.lost == 500


def test_the_end_does_not_wait_for_what_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_S", -1.0)
    collector = Collector(SpanExportResult.SUCCESS)
    tracing = Telemetry("edge", collector)
    for _ in range(100):
        tracing.export(span())
    tracing.close()
    assert (tracing.lost, collector.calls) == (100, 0)
