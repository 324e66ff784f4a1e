"""Events as OpenTelemetry spans. Importing this needs the extra ``tracing``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from time import monotonic

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, TraceFlags

from phalanx.domain.version import VERSION
from phalanx.fabric.tracing import Span, SpanRef

ROOM = 20_000
"""Spans that may wait for the collector; further ones are lost."""
ANSWER_S = 3.0
"""How long the collector may take to take a batch, and to be asked again."""
FLUSH_S = 5.0
"""For how long what waits is still sent at the end."""
_SCALARS = (str, int, float, bool)
_LONGEST = 1000
_SCOPE = InstrumentationScope("phalanx", VERSION)
_INT64 = range(-(1 << 63), 1 << 63)


class Telemetry:
    """Makes OpenTelemetry's spans, and exports them in the background.

    Used from one thread.

    Args:
        domain: whose spans they are.
        exporter: takes them, on a thread of its own.

    """

    def __init__(self, domain: str, exporter: SpanExporter) -> None:
        self._domain = domain
        self._made = self._shed = 0
        self._counting = _Counting(exporter)
        self._batches = BatchSpanProcessor(self._counting, max_queue_size=ROOM)
        self._closed = False

    @property
    def lost(self) -> int:
        """Spans that the collector did not take, or for which there was no room."""
        return self._shed + self._counting.failed

    @property
    def trouble(self) -> str | None:
        """Why spans are being lost; None: they are not."""
        return "the collector of traces does not take spans" if self._counting.failing else None

    def export(self, span: Span) -> None:
        """Send a span, in the background."""
        if self._closed or self._made - self._counting.handled >= ROOM:
            self._shed += 1
            return
        self._made += 1
        self._batches.on_end(readable(self._domain, span))

    def close(self) -> None:
        """Send what waits; without effect the second time."""
        if not self._closed:
            self._closed = True
            self._counting.until = monotonic() + FLUSH_S
            self._batches.shutdown()  # type: ignore[no-untyped-call]  # of the library


def readable(domain: str, span: Span) -> ReadableSpan:
    """Return OpenTelemetry's span of an event; it has no length, since an event is a moment.

    Its time is that of its receipt, by the one clock that all receipts have in common: by the
    clocks of two machines an effect may come before its cause.
    """
    event, place = span.event, span.place
    attributes: dict[str, str | int | float | bool] = {
        "phalanx.agent": event.agent,
        "phalanx.event": event.id,
        "phalanx.elapsed_s": event.time,
    }
    for name, value in event.data.items():
        if isinstance(value, str):
            attributes[f"phalanx.{name}"] = value[:_LONGEST]
        elif isinstance(value, _SCALARS) and (isinstance(value, float) or value in _INT64):
            attributes[f"phalanx.{name}"] = value
    parent = None
    if place.parent_id is not None:
        parent = _context(SpanRef(place.spot.trace_id, place.parent_id))
    when = round(span.received * 1e9)
    return ReadableSpan(
        event.kind,
        context=_context(place.spot),
        parent=parent,
        resource=_resource(domain, event.agent),
        attributes=attributes,
        links=() if place.origin is None else (Link(_context(place.origin)),),
        start_time=when,
        end_time=when,
        instrumentation_scope=_SCOPE,
    )


def open_telemetry(domain: str, endpoint: str) -> Telemetry:
    """Return what exports to an OTLP/HTTP collector, in the background."""
    return Telemetry(domain, OTLPSpanExporter(endpoint=endpoint, timeout=ANSWER_S))


class _Counting(SpanExporter):
    """Counts what an exporter took; on the thread of the exporter."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.handled = 0
        """Spans that were given to the exporter, or too late to be."""
        self.failed = 0
        """Those among them that it did not take."""
        self.failing = False
        """Whether it did not take the last ones."""
        self.until: float | None = None
        """When to end trying, by ``monotonic``; None: not yet known."""
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        if self.until is None or monotonic() < self.until:
            result = self._exporter.export(spans)
        self.failing = result is not SpanExportResult.SUCCESS
        if self.failing:
            self.failed += len(spans)
        self.handled += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _context(spot: SpanRef) -> SpanContext:
    return SpanContext(spot.trace_id, spot.span_id, is_remote=True, trace_flags=TraceFlags(1))


@lru_cache(maxsize=4096)
def _resource(domain: str, agent: str) -> Resource:
    """Return whose spans they are."""
    return Resource(
        {
            "service.name": "phalanx",
            "service.namespace": domain,
            "service.instance.id": agent,
        }
    )
