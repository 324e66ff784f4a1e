"""The recorder as a process: it keeps what all agents of a domain record."""

from __future__ import annotations

import signal
from functools import partial

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, Stored
from phalanx.clock import Timer
from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.envelope import EnvelopeError, from_json, speaker, to_event
from phalanx.fabric.registration import END_TO_END
from phalanx.fabric.tracing import Collector, open_tracing
from phalanx.identity.names import Role
from phalanx.runtime.processes.data import serve_history
from phalanx.runtime.processes.shell import Shell
from phalanx.runtime.processes.spans import Spans
from phalanx.runtime.processes.spec import RecorderSpec
from phalanx.runtime.processes.start import bundle_of, shell_of
from phalanx.store.history import History
from phalanx.store.sql import SqlEventStore

BATCH = 500
WAIT_S = 0.25
"""How long an event waits for others, to be kept with them."""
AGAIN_S = 2.0
"""Before a database that failed is tried again."""


def event_of(stored: Stored | Delivery, domain: str) -> Event:
    """Return the event that a stream keeps, or somebody publishes.

    Raises:
        EnvelopeError: if it is none, or of another than who sent it.

    """
    envelope = from_json(stored.payload)
    said_by = subjects.speaker(stored.subject)
    if speaker(envelope.source) != (domain, said_by):
        raise EnvelopeError(f"its source is {envelope.source!r}, but {said_by!r} sent it")
    return to_event(envelope)


def open_recorder(spec: RecorderSpec) -> RecorderProcess:
    """Return the process that keeps the history of a domain, ready to run.

    Raises:
        PhalanxError: with one line, if a file is not usable or the state is another's.

    """
    bundle = bundle_of(spec, Role.RECORDER)
    domain = bundle.identity.domain
    collector = None if spec.tracing is None else open_tracing(domain, spec.tracing)
    return RecorderProcess(spec, shell_of(spec, bundle, capabilities=("history",)), collector)


class RecorderProcess:
    """Follows the stream of events and keeps them in a store.

    The stream is told that an event is safe only once the store has it: a recorder that is
    killed, or whose disk is full, loses none, and finds in the stream what it missed.
    Since it alone reads the whole log, it is also who makes spans of it, if that is wanted;
    those are sent once the store has the events, and not kept.
    """

    def __init__(
        self, spec: RecorderSpec, shell: Shell, collector: Collector | None = None
    ) -> None:
        """Compose the process.

        Args:
            spec: what it was started with.
            shell: what it shares with every process.
            collector: takes spans; None: none are made.

        Raises:
            StoreError: if the store cannot be opened.

        """
        self.shell = shell
        self._domain = shell.identity.domain
        self._store = SqlEventStore(spec.store)
        self._waiting: list[tuple[Event, Stored]] = []
        self._timer: Timer | None = None
        self._trouble: str | None = None
        shell.checks.add("store", lambda: self._trouble)
        history = History(self._store.database)
        self._spans: Spans | None = None
        if collector is not None:
            self._spans = Spans(self._domain, history, collector)
            shell.checks.add("tracing", lambda: collector.trouble)
            shell.figures = self._spans.figures
        for number in (signal.SIGTERM, signal.SIGINT):
            shell.on_signal(number, partial(shell.end, "interrupted"))
        serve_history(shell.provider, history, self._domain)
        shell.exchange.follow(subjects.EVENTS, self._stored, durable="history")
        shell.clock.call_soon(shell.serving)

    def run(self) -> None:
        """Record until the process is told to end."""
        try:
            self.shell.run()
        finally:
            if self._spans is not None:
                self._spans.close()
            self._store.close()

    def _stored(self, stored: Stored) -> None:
        try:
            event = event_of(stored, self._domain)
        except (EnvelopeError, ValueError) as error:
            who = subjects.speaker(stored.subject) or stored.subject
            self.shell.audit(AccessRefusal(who, "record", self._domain, str(error)))
            stored.acknowledge()
            return
        self._waiting.append((event, stored))
        if len(self._waiting) >= BATCH and self._trouble is None:
            self._keep()
        elif self._timer is None:
            self._soon(WAIT_S)

    def _soon(self, pause_s: float) -> None:
        clock = self.shell.clock
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
            self.shell.audit(AccessRefusal(event_id, "record", self._domain, why))
        if self._spans is not None:
            refused = {event_id for event_id, _ in receipt.refused}
            self._spans.make((e, s.received) for e, s in waiting if e.id not in refused)
        for _, stored in waiting:
            stored.acknowledge()

    def _scopes(self) -> dict[str, str]:
        """Return what the agents look after, as they have registered."""
        return {
            entry.owner: str(entry.registration.area)
            for entry in self.shell.registry.entries()
            if entry.registration.area != END_TO_END
        }
