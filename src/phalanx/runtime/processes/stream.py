"""Events on their way from the process that recorded them to the stream that keeps them."""

from __future__ import annotations

from functools import partial

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient
from phalanx.clock import Clock, Timer
from phalanx.domain.events import Event
from phalanx.fabric.envelope import from_event, to_json
from phalanx.store.outbox import Outbox, Waiting

IN_FLIGHT = 256
"""Events that are sent and not acknowledged at a time."""
PAUSE_S = 0.5
"""Before what was not taken is sent again, in real seconds."""


class EventStream:
    """A ``Sink``: each event waits in the outbox until the stream EVENTS has acknowledged it.

    What an earlier life of the process left in the outbox goes first. The stream knows an
    event by its id, so that one sent twice is kept once.
    """

    def __init__(
        self,
        exchange: BrokerClient,
        outbox: Outbox,
        clock: Clock,
        *,
        epoch_s: float,
        pause_s: float,
    ) -> None:
        """Begin to send what waits.

        Args:
            exchange: of the identity that records.
            outbox: of this process alone.
            clock: makes the turns.
            epoch_s: when ``clock`` showed zero, in seconds since 1970.
            pause_s: as ``PAUSE_S``, in seconds of ``clock``.

        """
        self._exchange = exchange
        self._outbox = outbox
        self._clock = clock
        self._epoch_s = epoch_s
        self._pause_s = pause_s
        self._after = 0
        self._in_flight: dict[str, int] = {}
        self._kept: list[str] = []
        self._failed_from: int | None = None
        """The first place of what was not taken: sending goes back to it."""
        self._turning = False
        self._pause: Timer | None = None
        self._unwritten: Timer | None = None
        exchange.on_change(self._changed)
        self._soon()

    def __call__(self, event: Event) -> None:
        """Take an event; it is on disk, and sent, at the end of this turn of the clock."""
        self._outbox(event)
        self._soon()

    @property
    def waiting(self) -> int:
        """How many events are not acknowledged yet."""
        return len(self._outbox) - len(self._kept)

    def _soon(self) -> None:
        if not self._turning:
            self._turning = True
            self._clock.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self._kept:
            kept, self._kept = self._kept, []
            self._outbox.acknowledge(kept)
        if not self._outbox.flush() and self._unwritten is None:  # there may be room later
            self._unwritten = self._clock.call_at(self._clock.now() + self._pause_s, self._write)
        if not self._exchange.connected or self._pause is not None:
            return
        if self._failed_from is not None and not self._in_flight:
            self._after, self._failed_from = self._failed_from - 1, None
        if self._failed_from is None:
            self._send()

    def _send(self) -> None:
        room = IN_FLIGHT - len(self._in_flight)
        if room <= 0:
            return
        for waiting in self._outbox.pending(self._after):
            self._append(waiting)
            room -= 1
            if room == 0:
                break

    def _append(self, waiting: Waiting) -> None:
        event, self._after = waiting.event, waiting.seq
        domain = self._exchange.identity.domain
        subject = subjects.event(domain, self._exchange.identity.name, event.kind)
        payload = to_json(from_event(event, domain, epoch_s=self._epoch_s))
        self._in_flight[event.id] = waiting.seq
        self._exchange.append(subject, payload, event.id, partial(self._done, event.id))

    def _done(self, event_id: str, refusal: str | None) -> None:
        seq = self._in_flight.pop(event_id)
        if refusal is None:
            self._kept.append(event_id)
            self._soon()
            return
        self._failed_from = seq if self._failed_from is None else min(seq, self._failed_from)
        if self._pause is None:
            self._pause = self._clock.call_at(self._clock.now() + self._pause_s, self._go_on)

    def _write(self) -> None:
        self._unwritten = None
        self._soon()

    def _go_on(self) -> None:
        self._pause = None
        self._soon()

    def _changed(self, connected: bool) -> None:
        if connected:
            self._soon()
