"""Events as OpenTelemetry spans. Importing this needs the extra ``tracing``."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from phalanx.domain.events import Event
from phalanx.fabric.tracing import Place, Traces

_SCALARS = (str, int, float, bool)
_LONGEST = 1000


class _Ids(IdGenerator):
    """Gives the next span the ids that follow from its event."""

    def __init__(self) -> None:
        self.place = Place(1, 1, None)

    def generate_span_id(self) -> int:
        return self.place.span_id

    def generate_trace_id(self) -> int:
        return self.place.trace_id


class Telemetry:
    """Makes a span of each event; implements ``tracing.Tracing``. Used from one thread.

    Args:
        domain: of the agent.
        agent: whose spans they are.
        processor: takes the spans, such as a ``BatchSpanProcessor``.
        epoch_s: when the agent's clock was zero, in seconds since 1970.

    """

    def __init__(
        self, domain: str, agent: str, processor: SpanProcessor, *, epoch_s: float = 0.0
    ) -> None:
        self._traces = Traces(domain)
        self._epoch_s = epoch_s
        self._ids = _Ids()
        resource = Resource(
            {
                "service.name": "phalanx",
                "service.namespace": domain,
                "service.instance.id": agent,
            }
        )
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("phalanx")
        self._closed = False

    def record(self, event: Event) -> None:
        """Make a span of an event; it has no length, since an event is a moment."""
        place = self._ids.place = self._traces.place(event)
        context = None
        if place.parent_id is not None:
            parent = SpanContext(
                place.trace_id, place.parent_id, is_remote=True, trace_flags=TraceFlags(1)
            )
            context = set_span_in_context(NonRecordingSpan(parent))
        when = round((self._epoch_s + event.time) * 1e9)
        attributes: dict[str, str | int | float | bool] = {
            "phalanx.agent": event.agent,
            "phalanx.event": event.id,
        }
        for name, value in event.data.items():
            if isinstance(value, _SCALARS):
                attributes[f"phalanx.{name}"] = (
                    value[:_LONGEST] if isinstance(value, str) else value
                )
        span = self._tracer.start_span(
            event.kind, context=context, attributes=attributes, start_time=when
        )
        span.end(end_time=when)

    def traceparent(self, event_id: str | None) -> str | None:
        """Return what to send along with something that an event caused."""
        return None if event_id is None else self._traces.traceparent(event_id)

    def heard(self, event_id: str | None, traceparent: object) -> None:
        """Be told of the place of another process's event."""
        if event_id is not None:
            self._traces.heard(event_id, traceparent)

    def close(self) -> None:
        """Export what waits; without effect the second time."""
        if not self._closed:
            self._closed = True
            self._provider.shutdown()


def open_telemetry(domain: str, agent: str, endpoint: str, *, epoch_s: float) -> Telemetry:
    """Return what exports to an OTLP/HTTP collector, in the background; see ``open_tracing``."""
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))
    return Telemetry(domain, agent, processor, epoch_s=epoch_s)
