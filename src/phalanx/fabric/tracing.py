"""Tracing: the log of causes as OpenTelemetry spans, one trace for a whole mitigation.

An event is a span. Its span id follows from the event's id, its parent is the span of its cause,
and its trace id follows from the id of the *root cause*, so that processes that never spoke
about tracing agree. The root of a whole run causes everything; if it began the trace there
would be one for ever, so its direct effects begin one each. What travels between processes is
a W3C ``traceparent``, beside the id of the cause.

Without the extra ``tracing`` nothing of OpenTelemetry is imported, and ``NO_TRACING`` does nothing.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event

if TYPE_CHECKING:
    from phalanx.fabric.telemetry import Telemetry

KNOWN = 65_536
"""Events whose trace is remembered; a cause that is older begins a trace anew."""
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")


class TracingError(PhalanxError):
    """Tracing was asked for and cannot be had; the text is one line."""


class Tracing(Protocol):
    """What the fabric asks of tracing."""

    def record(self, event: Event) -> None:
        """Make a span of an event."""

    def traceparent(self, event_id: str | None) -> str | None:
        """Return what to send along with something that an event caused; None: nothing."""

    def heard(self, event_id: str | None, traceparent: object) -> None:
        """Be told of the place of another process's event; what is none is passed over."""

    def close(self) -> None:
        """Export what waits; without effect the second time."""


class _NoTracing:
    """Does nothing."""

    __slots__ = ()

    def record(self, event: Event) -> None:
        """Do nothing."""

    def traceparent(self, event_id: str | None) -> str | None:  # noqa: ARG002  # the protocol's
        """Return None."""
        return None

    def heard(self, event_id: str | None, traceparent: object) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


NO_TRACING: Tracing = _NoTracing()


class Place(Struct, frozen=True):
    """Where an event stands in a trace."""

    trace_id: int
    """128 bits, not 0."""
    span_id: int
    """64 bits, not 0."""
    parent_id: int | None
    """Span of its cause; None: it begins the trace."""


def format_traceparent(trace_id: int, span_id: int) -> str:
    """Return a W3C traceparent, version 00, sampled."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"


def parse_traceparent(text: object) -> tuple[int, int] | None:
    """Return ``(trace id, span id)`` of a W3C traceparent; None if it is none."""
    match = _TRACEPARENT.match(text) if isinstance(text, str) else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    return (trace_id, span_id) if trace_id and span_id else None


class Traces:
    """Finds the places of events; no I/O, and the same in every process of a domain."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._traces: OrderedDict[str, int] = OrderedDict()

    def place(self, event: Event) -> Place:
        """Return where ``event`` stands, and remember it for its effects."""
        if event.cause is None:
            trace = self._root_trace(event.id)
        else:
            trace = self._traces.get(event.id) or self._trace_after(event.cause, event.id)
        self._remember(event.id, trace)
        begins = event.cause is None or trace == self._own_trace(event.id)
        parent = None if begins or event.cause is None else self._span(event.cause)
        return Place(trace, self._span(event.id), parent)

    def traceparent(self, event_id: str) -> str:
        """Return what to send along with something that ``event_id`` caused."""
        trace = self._traces.get(event_id) or self._own_trace(event_id)
        return format_traceparent(trace, self._span(event_id))

    def heard(self, event_id: str, traceparent: object) -> None:
        """Remember the place of another process's event."""
        found = parse_traceparent(traceparent)
        if found is not None and found[1] == self._span(event_id):
            self._remember(event_id, found[0])

    def _trace_after(self, cause: str, event_id: str) -> int:
        trace = self._traces.get(cause)
        if trace is None:  # unknown here: as if the cause were a root cause
            return self._own_trace(cause)
        return self._own_trace(event_id) if trace == self._root_trace(cause) else trace

    def _remember(self, event_id: str, trace: int) -> None:
        self._traces[event_id] = trace
        self._traces.move_to_end(event_id)
        if len(self._traces) > KNOWN:
            self._traces.popitem(last=False)

    def _own_trace(self, event_id: str) -> int:
        return self._digest("trace", event_id, 16)

    def _root_trace(self, event_id: str) -> int:
        return self._digest("run", event_id, 16)

    def _span(self, event_id: str) -> int:
        return self._digest("span", event_id, 8)

    def _digest(self, what: str, event_id: str, size: int) -> int:
        text = f"{what}\0{self._domain}\0{event_id}"
        return (
            int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()) or 1
        )


def open_tracing(domain: str, agent: str, endpoint: str, *, epoch_s: float) -> Telemetry:
    """Return tracing that exports to an OTLP/HTTP collector, in the background.

    Args:
        domain: of the agent.
        agent: whose spans they are (``service.name`` is ``phalanx``, this is its instance).
        endpoint: URL of the collector, such as ``http://127.0.0.1:4318/v1/traces``.
        epoch_s: when the agent's clock was zero, in seconds since 1970.

    Raises:
        TracingError: if the extra ``tracing`` is not installed.

    """
    try:
        from phalanx.fabric.telemetry import open_telemetry  # noqa: PLC0415  # needs the extra
    except ImportError as error:
        missing = (error.name or "opentelemetry").partition(".")[0]
        raise TracingError(
            f"tracing needs {missing}, which is not installed: pip install 'phalanx[tracing]'"
        ) from None
    return open_telemetry(domain, agent, endpoint, epoch_s=epoch_s)
