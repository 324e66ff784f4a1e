"""A trace follows the causes, whoever recorded them and in whatever order they are heard of."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from phalanx.domain.events import Event
from phalanx.fabric import telemetry, tracing
from phalanx.fabric.telemetry import Telemetry, readable
from phalanx.fabric.tracing import PATIENCE_S, Span, SpanPosition, SpanRef, Tracer, TracingError
from phalanx.runtime.processes.recorder import open_tracing

DOMAIN = "edge"


def event(event_id: str, cause: str | None, kind: str = "belief.changed") -> Event:
    return Event(event_id, 0.0, event_id.partition("-")[0], kind, cause, {})


MITIGATION = (
    event("pop1-1", None, "process.started"),
    event("pop1-2", "pop1-1", "agent.started"),
    event("pop1-3", "pop1-1", "goal.adopted"),
    event("pop1-4", "pop1-3", "plan.started"),
    event("pop1-5", "pop1-4"),
    event("pop1-6", "pop1-5", "goal.adopted"),
    event("pop1-7", "pop1-6", "auction.called"),
    event("pop2-1", None, "process.started"),
    event("pop2-2", "pop1-7", "auction.bid"),
    event("pop1-8", "pop2-2", "auction.awarded"),
    event("pop2-3", "pop1-8", "goal.adopted"),
    event("pop2-4", "pop2-3", "plan.started"),
    event("net-1", None, "process.started"),
    event("net-2", "pop2-4", "instance.started"),
    event("pop2-5", "net-2", "analysis.done"),
    event("pop3-1", "pop2-5", "measure.applied"),
    event("pop1-9", "pop1-4"),
    event("pop1-10", "pop1-9", "goal.ended"),
)
"""A mitigation that began as a monitor saw something; later it sees something else."""
SETTING = {"pop1-1", "pop1-2", "pop1-3", "pop1-4"}
SECOND = {"pop1-9", "pop1-10"}
LIVES = {"pop2-1", "net-1"}


def traced(events: Iterable[Event], **tracer: object) -> dict[str, Span]:
    """Return the spans by the ids of their events, all received at once."""
    spans: list[Span] = []
    made = Tracer(DOMAIN, spans.append, **tracer)  # type: ignore[arg-type]  # tests know
    for one in events:
        made.take(one, 0.0)
    made.close()
    assert made.waiting == 0
    return {span.event.id: span for span in spans}


def trace_ids(spans: dict[str, Span], names: Iterable[str]) -> set[int]:
    return {spans[name].place.spot.trace_id for name in names}


def test_a_mitigation_over_agents_and_network_is_one_trace() -> None:
    spans = traced(MITIGATION)
    mitigation = spans.keys() - SETTING - SECOND - LIVES
    assert len(trace_ids(spans, mitigation)) == 1
    assert {spans[name].event.agent for name in mitigation} == {"pop1", "pop2", "pop3", "net"}
    for name in mitigation - {"pop1-5"}:
        span = spans[name]
        assert span.event.cause is not None
        assert span.place.parent_id == spans[span.event.cause].place.spot.span_id
        assert span.place.origin is None
    assert len({span.place.spot.span_id for span in spans.values()}) == len(spans)


def test_a_life_begins_no_trace_that_never_ends() -> None:
    spans = traced(MITIGATION)
    for name in ("pop1-5", "pop1-9"):  # what a monitor sees begins a trace, each time
        place = spans[name].place
        assert place.parent_id is None
        assert place.origin == spans["pop1-4"].place.spot
    assert len(trace_ids(spans, SETTING)) == 1  # what it is there for belongs to its life
    assert len(trace_ids(spans, SECOND)) == 1
    assert len(trace_ids(spans, {"pop1-1", "pop1-5", "pop1-9", *LIVES})) == 5


def test_a_life_that_something_caused_is_in_that_trace_and_its_effects_are_not() -> None:
    asked = event("op-1", None, "service.requested")
    began = event("pop9-1", "op-1", "process.started")
    goal = event("pop9-2", "pop9-1", "goal.adopted")
    saw = event("pop9-3", "pop9-2")
    done = event("op-2", "op-1", "service.deployed")
    spans = traced((asked, began, goal, saw, done))
    assert len(trace_ids(spans, ("op-1", "op-2", "pop9-1", "pop9-2"))) == 1
    assert spans["pop9-3"].place.origin == spans["pop9-2"].place.spot
    assert len(trace_ids(spans, ("op-1", "pop9-3"))) == 2


def test_figures_are_no_spans() -> None:
    assert traced([event("net-1", None, "network.sample")]) == {}


@given(st.permutations(MITIGATION))
def test_the_order_in_which_events_are_heard_of_is_the_same_to_it(order: Sequence[Event]) -> None:
    spans: list[Span] = []
    tracer = Tracer(DOMAIN, spans.append)
    for number, one in enumerate(order):
        tracer.take(one, number * 0.1)
    assert (tracer.waiting, tracer.orphans) == (0, 0)
    assert {span.event.id: span.place for span in spans} == {
        name: span.place for name, span in traced(MITIGATION).items()
    }
    heard: set[str] = set()
    for span in spans:
        assert span.event.cause is None or span.event.cause in heard
        heard.add(span.event.id)


@given(st.integers(0, len(MITIGATION)), st.data())
def test_who_begins_again_finds_the_same_places_in_the_history(
    cut: int, data: st.DataObject
) -> None:
    before, after = MITIGATION[:cut], MITIGATION[max(0, cut - data.draw(st.integers(0, 3))) :]
    kept = {one.id: one for one in MITIGATION[:cut]}

    def history(event_id: str) -> list[Event]:
        found: list[Event] = []
        at = kept.get(event_id)
        while at is not None:
            found.append(at)
            at = None if at.cause is None else kept.get(at.cause)
        return found[::-1]

    spans = traced(before) | traced(after, history=history)
    assert {name: span.place for name, span in spans.items()} == {
        name: span.place for name, span in traced(MITIGATION).items()
    }


# -- what does not come, and what should not -----------------------------------------------------


def test_a_cause_that_does_not_come_is_waited_for_and_then_done_without() -> None:
    spans: list[Span] = []
    tracer = Tracer(DOMAIN, spans.append)
    tracer.take(event("a-2", "a-1"), 100.0)
    tracer.take(event("a-3", "a-2"), 100.0)
    tracer.take(event("b-1", None), 100.0 + PATIENCE_S)
    assert [span.event.id for span in spans] == ["b-1"]
    tracer.take(event("b-2", None, "network.sample"), 100.5 + PATIENCE_S)
    assert [span.event.id for span in spans] == ["b-1", "a-2", "a-3"]
    assert (tracer.orphans, tracer.waiting) == (1, 0)
    assert spans[1].place.parent_id is None
    assert spans[2].place.parent_id == spans[1].place.spot.span_id
    tracer.take(event("a-1", None), 200.0)
    assert len(spans) == 4


def test_how_many_wait_and_are_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "WAITING", 10)
    monkeypatch.setattr(tracing, "KNOWN", 10)
    tracer = Tracer(DOMAIN, lambda _: None)
    for number in range(100):
        tracer.take(event(f"a-{number}", f"gone-{number % 7}"), 0.0)
    assert (tracer.waiting, tracer.orphans) == (10, 90)
    assert sum(map(len, tracer._effects.values())) == 10
    assert len(tracer._known) == 10
    tracer.close()
    assert (tracer.waiting, len(tracer._effects)) == (0, 0)


def test_events_that_name_each_other_as_their_cause_end_as_well() -> None:
    spans = traced([event("a-1", "a-2"), event("a-2", "a-1"), event("b-1", "b-1")])
    assert spans.keys() == {"a-1", "a-2", "b-1"}


@given(st.lists(st.tuples(st.text(max_size=20), st.none() | st.text(max_size=20)), max_size=20))
def test_whatever_events_call_themselves_or_their_causes(
    garbage: Sequence[tuple[str, str | None]],
) -> None:
    """What others record changes the place of nothing but itself and what follows from it."""
    others = [Event(f"x{name}", 0.0, "x", "noise", cause, {}) for name, cause in garbage]
    genuine = traced(MITIGATION)
    spans = traced((*MITIGATION[:9], *others, *MITIGATION[9:]))
    assert spans.keys() == genuine.keys() | {one.id for one in others}
    assert {name: spans[name].place for name in genuine} == {
        name: span.place for name, span in genuine.items()
    }


def test_an_event_that_comes_again_is_the_same_span() -> None:
    spans: list[Span] = []
    tracer = Tracer(DOMAIN, spans.append)
    for one in (*MITIGATION, *MITIGATION):
        tracer.take(one, 1.0)
    first, second = spans[: len(MITIGATION)], spans[len(MITIGATION) :]
    assert first == second
    for _ in range(2):
        tracer.take(event("late-1", "not yet"), 1.0)
    assert tracer.waiting == 1


def test_two_domains_have_no_trace_in_common() -> None:
    spans: list[Span] = []
    for domain in ("edge", "core"):
        Tracer(domain, spans.append).take(MITIGATION[0], 0.0)
    assert spans[0].place != spans[1].place


# -- without the extra ---------------------------------------------------------------------------


def test_whoever_makes_no_spans_imports_nothing_of_it() -> None:
    code = (
        "import sys; import phalanx.fabric.tracing, phalanx.runtime.processes.agent, "
        "phalanx.runtime.processes.recorder; "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_extra_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "phalanx.fabric.telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(TracingError, match=r"pip install 'phalanx\[tracing\]'"):
        open_tracing(DOMAIN, "http://127.0.0.1:1")


# -- spans as OpenTelemetry has them, and a collector that does not take them -----------------


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
