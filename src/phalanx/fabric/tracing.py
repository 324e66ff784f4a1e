"""Tracing: the log of causes as OpenTelemetry spans, one trace for a whole mitigation.

An event is a span, and hangs below the span of its cause. That says it all: every event names
its cause, whatever brought the cause to who recorded it (a message, an answer of the network, a
goal that was handed over, a memory), so that who reads the whole log needs nothing else that
travels. Nobody else makes spans. Ids are digests of events' ids: who reads the log again comes
to the same spans.

A *life* (of a run, a process, an agent) causes everything in it. If it began the trace, there
would be one that never ends; so each effect of a life begins one. What an agent is there for,
the goals and plans that follow from lives alone, belongs to the life.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Protocol

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event

LIVES = frozenset({"run.started", "process.started", "agent.started", "agent.restored"})
"""Kinds of events that begin a life, whatever caused them."""
PURSUITS = frozenset({"goal.adopted", "plan.started"})
"""Kinds that are part of a life if nothing else caused them: what an agent is there for."""
FIGURES = frozenset({"network.sample"})
"""Kinds that tell how things stand; nothing follows from them, and they are no spans."""
KNOWN = 65_536
"""Events whose place is remembered; that of others is found in the history."""
WAITING = 10_000
"""Events that wait for their cause at most."""
PATIENCE_S = 10.0
"""How long an event waits for its cause, by the clock that stamps their receipt."""


class TracingError(PhalanxError):
    """Tracing was asked for and cannot be had; the text is one line."""


class SpanRef(Struct, frozen=True):
    """The span of an event."""

    trace_id: int
    """128 bits, not 0."""
    span_id: int
    """64 bits, not 0."""


class SpanPosition(Struct, frozen=True):
    """Where an event stands in a trace."""

    spot: SpanRef
    parent_id: int | None = None
    """Span of its cause, in the same trace; None: it begins the trace."""
    origin: SpanRef | None = None
    """Span of its cause, in another trace: the life in which this trace began."""


class Span(Struct, frozen=True):
    """An event that has its place."""

    event: Event
    received: float
    """When the event was received, in seconds since 1970, by one clock for all."""
    place: SpanPosition


class Known(Struct, frozen=True):
    """What is remembered of an event."""

    trace_id: int
    life: bool
    """Whether it is part of a life, and its effects begin traces."""


class Traces:
    """Finds the places of events, causes before effects; no I/O.

    Args:
        domain: whose events they are; in another one, events of the same ids are others.

    """

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._known: OrderedDict[str, Known] = OrderedDict()

    def __contains__(self, event_id: str) -> bool:
        """Whether the place of an event is remembered."""
        return event_id in self._known

    def place(self, event: Event) -> SpanPosition:
        """Return where ``event`` stands, and remember it for its effects.

        One whose cause is not remembered begins a trace.
        """
        cause = None if event.cause is None else self._known.get(event.cause)
        life = event.kind in LIVES or (
            event.kind in PURSUITS and (event.cause is None or (cause is not None and cause.life))
        )
        below = cause is not None and (life or not cause.life)
        trace_id = cause.trace_id if cause is not None and below else self._trace(event.id)
        self._known[event.id] = Known(trace_id, life)
        self._known.move_to_end(event.id)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        spot = SpanRef(trace_id, self._span(event.id))
        if cause is None or event.cause is None:
            return SpanPosition(spot)
        parent_id = self._span(event.cause)
        if below:
            return SpanPosition(spot, parent_id)
        return SpanPosition(spot, origin=SpanRef(cause.trace_id, parent_id))

    def _trace(self, event_id: str) -> int:
        return self._digest("trace", event_id, 16)

    def _span(self, event_id: str) -> int:
        return self._digest("span", event_id, 8)

    def _digest(self, what: str, event_id: str, size: int) -> int:
        text = f"{what}\0{self._domain}\0{event_id}".encode("utf-8", "replace")
        return int.from_bytes(blake2b(text, digest_size=size).digest()) or 1


class Tracer:
    """Makes spans of events that come in any order, each once its cause is known.

    An effect may be received before its cause, since they come from two processes; it waits
    for it. The cause of an event that was received long ago is found in the history. Without
    I/O of its own, and without a clock: the receipts of events tell the time.

    Args:
        domain: whose events they are.
        export: takes the spans.
        history: returns what led to an event, from the root or as far as is known to the event
            itself; nothing if the event is unknown.

    """

    def __init__(
        self,
        domain: str,
        export: Callable[[Span], None],
        history: Callable[[str], Iterable[Event]] = lambda _: (),
    ) -> None:
        self.orphans = 0
        """Events that began a trace because their cause did not come."""
        self._traces = Traces(domain)
        self._export = export
        self._history = history
        self._waiting: OrderedDict[str, tuple[Event, float]] = OrderedDict()
        """(event, receipt) by the event's id, in the order of receipt."""
        self._effects: dict[str, list[str]] = {}
        """Ids of those that wait, by their cause."""

    @property
    def waiting(self) -> int:
        """How many events wait for their cause."""
        return len(self._waiting)

    def take(self, event: Event, received: float) -> None:
        """Make a span of an event, now or once its cause has come.

        Args:
            event: what happened; the same event again is the same span again.
            received: when it was received, in seconds since 1970, by one clock for all.

        """
        if event.kind not in FIGURES:
            if event.cause is None or self._finds(event.cause):
                self._settle(event, received)
            elif event.id not in self._waiting:
                self._waiting[event.id] = event, received
                self._effects.setdefault(event.cause, []).append(event.id)
        while self._waiting:
            _, since = next(iter(self._waiting.values()))
            if len(self._waiting) <= WAITING and received - since <= PATIENCE_S:
                break
            self._give_up()

    def close(self) -> None:
        """Wait for no cause any more."""
        while self._waiting:
            self._give_up()

    def _finds(self, event_id: str) -> bool:
        if event_id not in self._traces:
            for event in self._history(event_id):
                self._traces.place(event)
        return event_id in self._traces

    def _give_up(self) -> None:
        event, received = self._waiting.popitem(last=False)[1]
        assert event.cause is not None
        siblings = self._effects[event.cause]
        siblings.remove(event.id)
        if not siblings:
            del self._effects[event.cause]
        self.orphans += 1
        self._settle(event, received)

    def _settle(self, event: Event, received: float) -> None:
        """Make the spans of an event and of what waited for it."""
        settled = [(event, received)]
        while settled:
            event, received = settled.pop()
            self._export(Span(event, received, self._traces.place(event)))
            for effect in self._effects.pop(event.id, ()):
                settled.append(self._waiting.pop(effect))


class Collector(Protocol):
    """Takes spans."""

    @property
    def lost(self) -> int:
        """Spans that the collector did not take, or for which there was no room."""

    @property
    def trouble(self) -> str | None:
        """Why spans are being lost; None: they are not."""

    def export(self, span: Span) -> None:
        """Send a span, in the background."""

    def close(self) -> None:
        """Send what waits; without effect the second time."""


def open_tracing(domain: str, endpoint: str) -> Collector:
    """Return what exports spans to an OTLP/HTTP collector, in the background.

    Args:
        domain: whose spans they are.
        endpoint: URL of the collector, such as ``http://127.0.0.1:4318/v1/traces``.

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
    return open_telemetry(domain, endpoint)
