"""Metrics of one process for Prometheus, from its events. Needs the extra ``metrics``.

Labels are of closed sets: kinds of events, verdicts, queues. No address is one: an attacker could
have any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from phalanx.clock import Clock
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import KINDS, Event
from phalanx.domain.rules import TrafficVerdict
from phalanx.domain.version import VERSION
from phalanx.fabric.operations import AgentCounters
from phalanx.reporting.event_text import is_alarm

TICK_S = 1.0
"""How often the lag of the loop is taken, and counters are read."""
MOST_MEASURES = 4096
"""Measures whose hits are remembered: those that were counted last."""
LOOPBACK = "127.0.0.1"
_OTHER = "other"
_VERDICTS = frozenset(verdict.value for verdict in TrafficVerdict)
_LAGS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_AUCTIONS = {f"auction.{end}": end for end in ("called", "awarded", "failed", "waiting")}


class ProcessMetrics:
    """Counts the events of a process, and serves what Prometheus scrapes, on a thread of its own.

    Args:
        name: of the process.
        clock: of the process.
        counters: what went through it; None: nothing that is counted.
        waiting: how many of its events no broker has acknowledged.

    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        counters: Callable[[], AgentCounters] | None = None,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        self._clock, self._counters, self._waiting = clock, counters, waiting
        self._told = AgentCounters()
        self._verdicts: dict[str, str] = {}
        self._hits: dict[str, tuple[float, float]] = {}
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        named: dict[str, Any] = {"namespace": "phalanx", "registry": registry}
        about = Gauge("info", "The process and its version.", ["name", "version"], **named)
        about.labels(name, VERSION).set(1)
        self._events = Counter("events", "Events recorded.", ["kind"], **named)
        self._alarms = Counter("alarms", "Attacks and breaches noticed.", **named)
        self._auctions = Counter("auctions", "Auctions by what became of them.", ["end"], **named)
        self._forces = Gauge("measures_in_force", "Measures in force.", ["verdict"], **named)
        self._passed = Counter("measures_passed_bytes", "Passed by measures.", **named)
        self._held = Counter("measures_held_bytes", "Held back by measures.", **named)
        self._withheld = Counter("measures_withheld", "Decided, not enforced.", **named)
        self._spared = Counter("sources_spared", "Times that the allow list spared.", **named)
        self._expired = Counter("leases_expired", "Leases that were not renewed.", **named)
        self._messages = Counter("messages", "Messages by what became of them.", ["end"], **named)
        self._shed = Counter("shed", "Dropped by a full queue.", ["queue"], **named)
        self._queued = Gauge("events_waiting", "Events not acknowledged yet.", **named)
        self._lag = Histogram("loop_lag_seconds", "Lateness of the loop.", buckets=_LAGS, **named)
        for end in _AUCTIONS.values():
            self._auctions.labels(end)
        for verdict in ("drop", "limit", "proxy"):
            self._forces.labels(verdict)
        for end in ("sent", "delivered", "lost"):
            self._messages.labels(end)

    def __call__(self, event: Event) -> None:
        """Count an event; implements ``Sink``."""
        kind, data = event.kind, event.data
        self._events.labels(kind if kind in KINDS else _OTHER).inc()
        if is_alarm(event):
            self._alarms.inc()
        elif kind in _AUCTIONS:
            self._auctions.labels(_AUCTIONS[kind]).inc()
        elif kind == "measure.applied":
            verdict = data.get("verdict", "limit" if data.get("rate_mb_s") else "drop")
            self._verdicts[data["measure"]] = verdict if verdict in _VERDICTS else _OTHER
            self._forces.labels(self._verdicts[data["measure"]]).inc()
        elif kind == "measure.lifted":
            if (was := self._verdicts.pop(data["measure"], None)) is not None:
                self._forces.labels(was).dec()
        elif kind == "measures.counted":
            for measure, counted in data["measures"].items():
                before = self._hits.get(measure, (0.0, 0.0))
                now = counted["passed_mb"], counted["held_mb"]
                self._passed.inc(max(0.0, now[0] - before[0]) * 1e6)
                self._held.inc(max(0.0, now[1] - before[1]) * 1e6)
                self._hits.pop(measure, None)
                self._hits[measure] = now  # a last count may come after its end
            while len(self._hits) > MOST_MEASURES:
                del self._hits[next(iter(self._hits))]
        elif kind == "measure.withheld":
            self._withheld.inc()
        elif kind == "source.spared":
            self._spared.inc()
        elif kind == "lease.expired":
            self._expired.inc()
        elif kind == "message.shed":
            self._shed.labels("messages").inc()

    def serve(self, address: str) -> Callable[[], None]:
        """Serve at ``PORT`` of loopback or ``HOST:PORT``; return what ends that.

        Raises:
            PhalanxError: with one line, if that cannot be had.

        """
        host, _, port = address.rpartition(":")
        try:
            server, thread = start_http_server(
                int(port), host.strip("[]") or LOOPBACK, registry=self.registry
            )
        except OSError as error:
            raise PhalanxError(f"metrics: {address}: {error.strerror or error}") from None
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
        if self._counters is not None:
            told, self._told = self._told, self._counters()
            for end in ("sent", "delivered", "lost"):
                self._messages.labels(end).inc(getattr(self._told, end) - getattr(told, end))
            for queue, count in self._told.shed.items():
                self._shed.labels(queue).inc(count - told.shed.get(queue, 0))
        self._clock.call_at(now + TICK_S, lambda: self._tick(now + TICK_S))
