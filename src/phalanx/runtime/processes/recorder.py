"""The recorder as a process: it keeps what all agents of a domain record, and answers for it."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from phalanx.bus import subjects
from phalanx.bus.client import Stored
from phalanx.clock import Timer
from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.envelope import EnvelopeError, event_of
from phalanx.fabric.registration import END_TO_END
from phalanx.fabric.tracing import Tracer, TracingError
from phalanx.identity.names import Role
from phalanx.runtime.history import serve_history
from phalanx.runtime.processes.process import Process, bundle_of
from phalanx.runtime.processes.spec import RecorderSpec
from phalanx.store.history import History
from phalanx.store.sql import SqlEventStore

if TYPE_CHECKING:
    from phalanx.fabric.telemetry import Telemetry

BATCH = 500
WAIT_S = 0.25
"""How long an event waits for others, to be kept with them."""
AGAIN_S = 2.0
"""Before a database that failed is tried again."""


def open_tracing(domain: str, endpoint: str) -> Telemetry:
    """Return what exports spans to an OTLP/HTTP collector, in the background.

    Args:
        domain: whose spans they are.
        endpoint: URL of the collector, such as ``http://127.0.0.1:4318/v1/traces``.

    Raises:
        TracingError: if the extra ``tracing`` is not installed.

    """
    try:
        from phalanx.fabric.telemetry import open_telemetry  # noqa: PLC0415  # an extra
    except ImportError as error:
        missing = (error.name or "opentelemetry").partition(".")[0]
        raise TracingError(
            f"tracing needs {missing}, which is not installed: pip install 'phalanx[tracing]'"
        ) from None
    return open_telemetry(domain, endpoint)


class Spans:
    """Makes spans of the events of a domain; causes of long ago are found in its history."""

    def __init__(self, domain: str, history: History, collector: Telemetry) -> None:
        """Make spans for ``collector``, which is closed with this."""
        self._domain = domain
        self._history = history
        self._collector = collector
        self._tracer = Tracer(domain, collector.export, self._led_to)

    def make(self, kept: Iterable[tuple[Event, float]]) -> None:
        """Make spans of events, each with its receipt by the broker's clock."""
        for event, received in kept:
            self._tracer.take(event, received)

    def figures(self) -> dict[str, Any]:
        """Return how many spans were lost, and how many have no cause though they name one."""
        return {"spans_lost": self._collector.lost, "spans_orphaned": self._tracer.orphans}

    def close(self) -> None:
        """Send what waits."""
        self._tracer.close()
        self._collector.close()

    def _led_to(self, event_id: str) -> list[Event]:
        try:
            return [entry.event for entry in self._history.causes(self._domain, event_id).entries]
        except StoreError:
            return []  # then its effects wait for it, and begin a trace; no more depends on it


def open_recorder(spec: RecorderSpec) -> RecorderProcess:
    """Return the process that keeps the history of a domain, ready to run.

    Raises:
        PhalanxError: with one line, if a file is not usable or the state is another's.

    """
    bundle = bundle_of(spec, Role.RECORDER)
    domain = bundle.identity.domain
    collector = None if spec.tracing is None else open_tracing(domain, spec.tracing)
    return RecorderProcess(spec, Process(spec, bundle, capabilities=("history",)), collector)


class RecorderProcess:
    """Follows the stream of events and keeps them in a store.

    The stream is told that an event is safe only once the store has it: a recorder that is
    killed, or whose disk is full, loses none, and finds in the stream what it missed.
    Since it alone reads the whole log, it is also who makes spans of it, if that is wanted;
    those are sent once the store has the events, and not kept.
    """

    def __init__(
        self, spec: RecorderSpec, process: Process, collector: Telemetry | None = None
    ) -> None:
        """Compose the process.

        Args:
            spec: what it was started with.
            process: what it shares with every process.
            collector: takes spans; None: none are made.

        Raises:
            StoreError: if the store cannot be opened.

        """
        self.process = process
        self._domain = process.identity.domain
        self._store = SqlEventStore(spec.store)
        self._waiting: list[tuple[Event, Stored]] = []
        self._timer: Timer | None = None
        self._trouble: str | None = None
        process.fabric.checks.add("store", lambda: self._trouble)
        history = History(self._store.database)
        self._spans: Spans | None = None
        if collector is not None:
            self._spans = Spans(self._domain, history, collector)
            process.fabric.checks.add("tracing", lambda: collector.trouble)
            process.figures = self._spans.figures
        for number in (signal.SIGTERM, signal.SIGINT):
            process.on_signal(number, partial(process.end, "interrupted"))
        serve_history(process.fabric.provider, lambda: history, self._domain)
        process.client.follow(subjects.EVENTS, self._stored, durable="history")
        process.clock.call_soon(process.fabric.serving)

    def run(self) -> None:
        """Record until the process is told to end."""
        try:
            self.process.run()
        finally:
            if self._spans is not None:
                self._spans.close()
            self._store.close()

    def _stored(self, stored: Stored) -> None:
        try:
            event = event_of(stored, self._domain)
        except (EnvelopeError, ValueError) as error:
            who = subjects.speaker(stored.subject) or stored.subject
            self.process.fabric.audit(AccessRefusal(who, "record", self._domain, str(error)))
            stored.acknowledge()
            return
        self._waiting.append((event, stored))
        if len(self._waiting) >= BATCH and self._trouble is None:
            self._keep()
        elif self._timer is None:
            self._soon(WAIT_S)

    def _soon(self, pause_s: float) -> None:
        clock = self.process.clock
        self._timer = clock.call_at(clock.now() + pause_s, self._keep)

    def _keep(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = self._waiting
        if not waiting:
            return
        try:
            events = [event for event, _ in waiting]
            receipt = self._store.receive(self._domain, events, scopes=self._scopes())
        except StoreError as error:
            self._trouble = str(error)
            self._soon(AGAIN_S)
            return
        self._trouble, self._waiting = None, []
        for event_id, why in receipt.refused:
            self.process.fabric.audit(AccessRefusal(event_id, "record", self._domain, why))
        if self._spans is not None:
            refused = {event_id for event_id, _ in receipt.refused}
            self._spans.make((e, s.received) for e, s in waiting if e.id not in refused)
        for _, stored in waiting:
            stored.acknowledge()

    def _scopes(self) -> dict[str, str]:
        """Return what the agents look after, as they have registered."""
        return {
            entry.owner: str(entry.registration.area)
            for entry in self.process.fabric.registry.entries()
            if entry.registration.area != END_TO_END
        }
