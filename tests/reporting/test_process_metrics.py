"""Metrics of a process: counted from its log, bounded, and read by a real Prometheus."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from msgspec.structs import replace
from tests.system.rings import of, ring

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.domain.rules import AllowedSources
from phalanx.fabric.operations import AgentCounters
from phalanx.runtime.environment import open_metrics
from phalanx.runtime.system import System, run_scenario

exposition = pytest.importorskip("prometheus_client.exposition")

DEPLOY = Path(__file__).parents[2] / "deploy"
BINARIES = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="not installed: prometheus (Debian: prometheus)",
)


class StandingClock:
    """A clock that stands still: nothing is called by it."""

    def now(self):
        return 0.0

    def call_at(self, when, call):
        """Call nothing."""


def counted(events):
    metrics = open_metrics("south", StandingClock())
    for event in events:
        metrics(event)
    return metrics, lambda name, **labels: metrics.registry.get_sample_value(name, labels)


def test_they_count_what_the_log_says():
    scenario = ring(strategy="service", duration_s=40)
    result = run_scenario(replace(scenario, allow=(AllowedSources("10.2.0.1", "office"),)))
    _, value = counted(result.events)
    applied, lifted = of(result, "measure.applied"), of(result, "measure.lifted")
    assert value("phalanx_measures_in_force", verdict="drop") == len(applied) - len(lifted) == 1
    assert value("phalanx_events_total", kind="source.spared") == len(of(result, "source.spared"))
    last = of(result, "measures.counted")[-1].data["measures"].values()
    held = value("phalanx_measures_held_bytes_total")
    assert held == pytest.approx(1e6 * sum(each["held_mb"] for each in last))
    assert held > 1e6
    assert value("phalanx_events_total", kind="auction.called") == len(of(result, "auction.called"))
    assert value("phalanx_alarms_total") > 0


def test_a_last_count_after_the_end_of_a_measure_counts_once():
    figures = {"m": {"passed_mb": 1.0, "held_mb": 2.0}}
    data = {"measure": "m", "verdict": "drop", "effect": "x", "pop": "a"}
    log = [
        Event("1", 0.0, "network", "measure.applied", None, data),
        Event("2", 1.0, "network", "measures.counted", None, {"measures": figures}),
        Event("3", 2.0, "network", "measure.lifted", None, data),
        Event("4", 3.0, "network", "measures.counted", None, {"measures": figures}),
    ]
    _, value = counted(log)
    assert value("phalanx_measures_held_bytes_total") == 2e6


def test_no_attacker_can_add_a_series():
    def series(events):
        metrics, _ = counted(events)
        return exposition.generate_latest(metrics.registry).count(b"\nphalanx_")

    def hostile(number):
        about = {"measure": f"m{number}", "verdict": f"v{number}", "sources": [f"10.0.0.{number}"]}
        yield Event(f"a{number}", 0.0, f"agent{number}", "measure.applied", None, about)
        yield Event(f"b{number}", 0.0, f"agent{number}", f"kind{number}", None, {})

    few, many = ([e for n in range(count) for e in hostile(n)] for count in (1, 200))
    assert series(few) == series(many)


def test_a_port_that_is_taken_is_refused_with_a_line():
    metrics = open_metrics("south", StandingClock())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(PhalanxError, match=f"metrics: {port}: Address already in use"):
            metrics.serve(port)


@BINARIES
def test_promtool_takes_the_files_and_the_metrics():
    metrics = open_metrics("x", StandingClock())
    for command, text in (
        (("check", "config", str(DEPLOY / "prometheus.yml")), b""),
        (("check", "rules", str(DEPLOY / "phalanx-alerts.yml")), b""),
        (("check", "metrics"), exposition.generate_latest(metrics.registry)),
    ):
        words = ["promtool", *command]
        done = subprocess.run(words, input=text, capture_output=True, check=False)
        said = [line for line in done.stderr.splitlines() if b"phalanx_" in line]
        assert done.returncode in (0, 3), done.stdout + done.stderr
        assert not said


def test_the_dashboard_has_the_form_that_grafana_imports():
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    assert board["schemaVersion"] >= 36
    variables = {each["name"] for each in board["templating"]["list"]}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in board["panels"]:
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert variables == {"datasource", "instance"}


@pytest.mark.processes
@BINARIES
def test_a_real_prometheus_has_a_value_for_each_expression_of_the_dashboard(tmp_path):
    scenario = ring(strategy="service", duration_s=3600)
    system = System(scenario, realtime=4.0)
    counters = iter(range(1, 10**9))
    metrics = open_metrics("ring", system.clock, lambda: AgentCounters(sent=next(counters)))
    system.log.listen(metrics)
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    ends = metrics.serve(str(ports[0]))
    over = threading.Event()
    run = threading.Thread(target=system.run, kwargs={"should_stop": over.is_set})
    config = tmp_path / "prometheus.yml"
    config.write_text(
        (DEPLOY / "prometheus.yml").read_text().replace("9464", str(ports[0])).replace("5s", "1s")
    )
    shutil.copy(DEPLOY / "phalanx-alerts.yml", tmp_path)
    words = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    words.append(f"--web.listen-address=127.0.0.1:{ports[1]}")
    with (tmp_path / "said").open("w") as said:
        prometheus = subprocess.Popen(words, stdout=said, stderr=said)
    try:
        run.start()
        board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
        exprs = {t["expr"] for panel in board["panels"] for t in panel["targets"]}
        rules = (tmp_path / "phalanx-alerts.yml").read_text()
        alerts = {line.partition("expr: ")[2] for line in rules.splitlines() if "expr: " in line}
        empty, until = exprs, time.monotonic() + 90
        while empty and time.monotonic() < until:
            time.sleep(1)
            empty = {e for e in empty if not asked(ports[1], e.replace("$instance", ".*"))}
        assert not empty, (tmp_path / "said").read_text()[-2000:]
        for alert in alerts:
            assert asked(ports[1], alert) is not None
    finally:
        over.set()
        run.join()
        ends()
        prometheus.terminate()
        prometheus.wait(20)


def asked(port, expr):
    """Return what Prometheus has for an expression; None if it does not answer yet."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': expr})}") as said:
            answer = json.load(said)
    except OSError:
        return None
    assert answer["status"] == "success"
    return answer["data"]["result"]
