"""Metrics of one process for Prometheus, from its events. Needs the extra ``metrics``.

Labels are of closed sets: kinds of events, verdicts, queues. No address is one: an attacker could
have any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.process_collector import ProcessCollector

from phalanx.clock import Clock
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.domain.rules import TrafficVerdict
from phalanx.domain.version import VERSION
from phalanx.fabric.operations import AgentCounters
from phalanx.reporting.event_text import KINDS, is_alarm

TICK_S = 1.0
"""How often the lag of the loop is taken, and counters are read."""
MOST_MEASURES = 4096
"""Measures whose hits are remembered: those that were counted last."""
_OTHER = "other"
_VERDICTS = [verdict.value for verdict in TrafficVerdict]
_ENDS = ("sent", "delivered", "lost")
_LAGS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class ProcessMetrics:
    """Counts the events of a process, and serves what Prometheus scrapes, on a thread of its own.

    Args:
        name: of the process.
        clock: of the process.
        counters: what went through it.
        waiting: how many of its events no broker has acknowledged.

    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        counters: Callable[[], AgentCounters] = AgentCounters,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        self._clock, self._counters, self._waiting = clock, counters, waiting
        self._told = AgentCounters()
        self._verdicts: dict[str, str] = {}
        self._hits: dict[str, tuple[float, float]] = {}
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        to: dict[str, Any] = {"namespace": "phalanx", "registry": self.registry}
        Gauge("info", "The process.", ["name", "version"], **to).labels(name, VERSION).set(1)
        self._events = Counter("events", "Events recorded, by kind.", ["kind"], **to)
        self._alarms = Counter("alarms", "Attacks and breaches noticed.", **to)
        self._forces = Gauge("measures_in_force", "Measures in force.", ["verdict"], **to)
        self._passed = Counter("measures_passed_bytes", "Passed by measures.", **to)
        self._held = Counter("measures_held_bytes", "Held back by measures.", **to)
        self._messages = Counter("messages", "Messages by what became of them.", ["end"], **to)
        self._shed = Counter("shed", "Dropped by a full queue.", ["queue"], **to)
        self._queued = Gauge("events_waiting", "Events not acknowledged yet.", **to)
        self._lag = Histogram("loop_lag_seconds", "Lateness of the loop.", buckets=_LAGS, **to)
        # What is there from the start is seen to rise when it happens for the first time.
        for counted, labels in (
            (self._events, KINDS),
            (self._forces, _VERDICTS),
            (self._messages, _ENDS),
        ):
            for label in labels:
                counted.labels(label)

    def __call__(self, event: Event) -> None:
        """Count an event; implements ``Sink``."""
        kind, data = event.kind, event.data
        self._events.labels(kind if kind in KINDS else _OTHER).inc()
        if is_alarm(event):
            self._alarms.inc()
        elif kind == "measure.applied":
            verdict = data.get("verdict", "limit" if data.get("rate_mb_s") else "drop")
            verdict = verdict if verdict in _VERDICTS else _OTHER
            self._verdicts[data["measure"]] = verdict
            self._forces.labels(verdict).inc()
        elif kind == "measure.lifted" and data["measure"] in self._verdicts:
            self._forces.labels(self._verdicts.pop(data["measure"])).dec()
        elif kind == "measures.counted":
            for measure, counted in data["measures"].items():
                before = self._hits.pop(measure, (0.0, 0.0))  # a last count comes after the end
                now = self._hits[measure] = counted["passed_mb"], counted["held_mb"]
                self._passed.inc(max(0.0, now[0] - before[0]) * 1e6)
                self._held.inc(max(0.0, now[1] - before[1]) * 1e6)
            while len(self._hits) > MOST_MEASURES:
                del self._hits[next(iter(self._hits))]

    def serve(self, address: str) -> Callable[[], None]:
        """Serve at ``PORT`` of loopback or ``HOST:PORT``; return what ends that.

        Raises:
            PhalanxError: with one line, if that cannot be had.

        """
        host, _, port = address.rpartition(":")
        try:
            at = int(port), host.strip("[]") or "127.0.0.1"
            server, thread = start_http_server(*at, registry=self.registry)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise PhalanxError(f"metrics: {address}: {why}") from None
        self._tick(self._clock.now())

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end

    def _tick(self, due: float) -> None:
        now = self._clock.now()
        self._lag.observe(max(0.0, now - due))
        self._queued.set(self._waiting())
        before, self._told = self._told, self._counters()
        for end in _ENDS:
            self._messages.labels(end).inc(getattr(self._told, end) - getattr(before, end))
        for queue, count in self._told.shed.items():
            self._shed.labels(queue).inc(count - before.shed.get(queue, 0))
        self._clock.call_at(now + TICK_S, lambda: self._tick(now + TICK_S))
