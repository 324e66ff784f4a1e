"""Traces of a domain of processes over NATS, as a collector gets them."""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from phalanx.domain.events import Event
from phalanx.fabric.registration import Health, HealthStatus
from phalanx.fabric.tracing import FIGURES
from tests.system.process_lab import Lab, processes
from tests.system.process_plan import NETWORK, plan

pytestmark = processes()

RECORDER = "recorder"
ATTACKERS = 2
"""Of each host."""


ATTACKED = {"south": "10.0.0.10", "north": "10.0.0.20"}
"""The address of the host that is attacked, by the PoP that sees it."""


def two_attacks() -> dict[str, Any]:
    """Return the plan with a second host, in the north, that is attacked at the same time."""
    document = plan()
    document["hosts"].append(
        {"name": "till", "at": "north", "address": ATTACKED["north"], "bandwidth_mb_s": 6}
    )
    document["traffic"].append(
        document["traffic"][1] | {"name": "raiders", "at": ["south", "west"], "target": "till"}
    )
    document["monitors"].append({"link": "north>till", "at": "north", "threshold_mb_s": 4.5})
    return document


def alarm(event: Event) -> bool:
    """Whether an agent sees that a link is overused: what a mitigation begins with."""
    found = str(event.data.get("belief", "")).startswith("overUsage")
    return event.kind == "belief.changed" and found and event.data["value"] is True


class Told(Struct, frozen=True):
    """A span as the collector got it."""

    trace: bytes
    span: bytes
    parent: bytes
    """Empty: it begins its trace."""
    agent: str
    event: str


class Collector:
    """An OTLP/HTTP collector on the loopback."""

    def __init__(self) -> None:
        self.spans: dict[str, Told] = {}
        """By the id of the event."""
        self.working = True
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if collector.working:
                    collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200 if collector.working else 400)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            whose = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    said = {a.key: a.value.string_value for a in span.attributes}
                    told = Told(
                        span.trace_id,
                        span.span_id,
                        span.parent_span_id,
                        whose["service.instance.id"],
                        said["phalanx.event"],
                    )
                    self.spans[told.event] = told

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    made = Collector()
    yield made
    made.close()


def record(lab: Lab, collector: Collector) -> None:
    """Start the recorder, with traces."""
    store = f"sqlite:///{lab.folder / 'history.db'}"
    lab.testbed.start(RECORDER, RECORDER, {"store": store, "tracing": collector.url})
    lab.until(lambda: lab.serving(RECORDER), "the recorder serves")


def blocks(lab: Lab) -> dict[str, str]:
    """Return who is blocked, by the ids of the events that say so."""
    return {
        h.event.id: h.event.data["effect"]
        for h in lab.of("measure.applied")
        if h.event.data["effect"].startswith("flowRateLimited")
    }


def test_each_attack_is_one_trace_over_its_agents(tmp_path: Path, collector: Collector) -> None:
    """Also if a clock is an hour off, and if the recorder and an agent begin a second life."""
    with Lab(tmp_path, document=two_attacks()) as lab:
        record(lab, collector)
        lab.start_all(east=-3600.0)
        lab.until(lambda: len(blocks(lab)) >= 2 * ATTACKERS, "all attackers are blocked")
        blocked = blocks(lab)
        lab.testbed.signal(RECORDER, signal.SIGTERM)
        lab.until(lambda: not lab.testbed.lives(RECORDER), "the recorder has ended")
        lab.testbed.kill("west")
        lab.restart("west")
        record(lab, collector)
        wanted = {h.event.id for h in lab.heard if h.event.kind not in FIGURES}
        lab.until(lambda: collector.spans.keys() >= wanted, "the collector has every span")
        heard = {h.event.id: h.event for h in lab.heard}

    spans = {event: told for event, told in collector.spans.items() if event in heard}
    traces: dict[bytes, list[Told]] = defaultdict(list)
    for event, told in spans.items():
        traces[told.trace].append(told)
        assert told.agent == heard[event].agent
        if told.parent:
            cause = heard[event].cause
            assert cause is not None
            assert (told.trace, told.parent) == (spans[cause].trace, spans[cause].span)
    assert all([told.parent for told in trace].count(b"") == 1 for trace in traces.values())
    for pop, host in ATTACKED.items():
        alarms = {spans[e].trace for e in spans if alarm(heard[e]) and heard[e].agent == pop}
        (trace,) = {spans[event].trace for event, effect in blocked.items() if host in effect}
        assert trace in alarms
        assert len({told.agent for told in traces[trace]} - {NETWORK}) >= 3


def test_a_collector_that_is_away_costs_spans_and_no_events(
    tmp_path: Path, collector: Collector
) -> None:
    def health() -> Health:
        found = lab.registry.get(RECORDER)
        assert found is not None
        return found.registration.health

    collector.working = False
    with Lab(tmp_path) as lab:
        record(lab, collector)
        lab.until(lambda: health().status is HealthStatus.DEGRADED, "it says that spans are lost")
        assert "collector" in str(health())
        collector.working = True
        lab.start("north")
        lab.until(lambda: health().status is HealthStatus.OK, "the recorder is well again")
        lab.testbed.signal(RECORDER, signal.SIGTERM)
        lab.until(lambda: lab.of("process.ended", agent=RECORDER), "the recorder has ended")
        (ended,) = lab.of("process.ended", agent=RECORDER)
        assert ended.event.data["spans_lost"] > 0
        lab.until(lambda: not lab.testbed.lives(RECORDER), "its process, too")
        assert lab.testbed.ended()[RECORDER] == 0
