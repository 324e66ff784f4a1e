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

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event

LIVES = frozenset({"run.started", "process.started", "agent.started", "agent.restored"})
"""Kinds of events that begin a life, whatever caused them."""
PURSUITS = frozenset({"goal.adopted", "plan.started"})
"""Kinds that are part of a life if nothing else caused them: what an agent is there for."""
FIGURES = frozenset({"network.sample", "measures.counted"})
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
        self._domain = domain
        self._known: OrderedDict[str, tuple[int, bool]] = OrderedDict()
        """Trace, and whether it is part of a life so that its effects begin traces, by event."""
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
        if event_id not in self._known:
            for event in self._history(event_id):
                self._place(event)
        return event_id in self._known

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
            self._export(Span(event, received, self._place(event)))
            for effect in self._effects.pop(event.id, ()):
                settled.append(self._waiting.pop(effect))

    def _place(self, event: Event) -> SpanPosition:
        """Return where ``event`` stands, and remember it for its effects.

        An event whose cause is not remembered begins a trace.
        """
        cause = event.cause
        trace_id, of_life = (
            (None, False) if cause is None else self._known.get(cause, (None, False))
        )
        life = event.kind in LIVES or (event.kind in PURSUITS and (cause is None or of_life))
        below = trace_id is not None and (life or not of_life)
        own_id = trace_id if trace_id is not None and below else self._id("trace", event.id, 16)
        self._known[event.id] = own_id, life
        self._known.move_to_end(event.id)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        spot = SpanRef(own_id, self._id("span", event.id, 8))
        if trace_id is None or cause is None:
            return SpanPosition(spot)
        parent_id = self._id("span", cause, 8)
        if below:
            return SpanPosition(spot, parent_id)
        return SpanPosition(spot, origin=SpanRef(trace_id, parent_id))

    def _id(self, what: str, event_id: str, octets: int) -> int:
        text = f"{what}\0{self._domain}\0{event_id}".encode("utf-8", "replace")
        return int.from_bytes(blake2b(text, digest_size=octets).digest()) or 1
