"""A real Prometheus of this machine, which scrapes a real node exporter and one of our own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from phalanx.analytics.metrics import MetricError, joined, read_table, resampled
from phalanx.analytics.prometheus import Prometheus, load_queries
from phalanx.cli.main import app

NEEDED = "prometheus", "prometheus-node-exporter", "promtool"
PATHS = {name: path for name in NEEDED if (path := shutil.which(name)) is not None}
MISSING = [name for name in NEEDED if name not in PATHS]
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

SECONDS = 12_000
"""Of history: more points than one answer of the server may have."""
BEGIN = 1_700_000_000
RESET = 7_000
"""Second in which the counter of the history began anew."""


IN_POD = 'namespace="a",pod="cart-7f-x"'
OTHER = 'namespace="b",pod="cart-7f-x"'
CADVISOR = [
    ("container_cpu_usage_seconds_total", f'container="cart",{IN_POD}', 0.25),
    ("container_memory_working_set_bytes", f'container="cart",{IN_POD}', 5e6),
    ("container_network_receive_bytes_total", f'interface="eth0",{IN_POD}', 700.0),
    ("container_network_transmit_bytes_total", f'interface="eth0",{OTHER}', 900.0),
    ("container_fs_reads_bytes_total", f'container="cart",{IN_POD}', 30.0),
]
"""Series as kubelets serve them, with what they grow by in a second."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def counted(second: int) -> int:
    return 3 * (second if second < RESET else second - RESET)


def history(path: Path) -> None:
    """Write 12,000 s: a counter of 3/s that is reset once, a gauge with a gap of 1,000 s."""
    lines = ["# TYPE requests counter"]
    lines += [
        f'requests_total{{service="shop"}} {counted(s)} {BEGIN + s}' for s in range(SECONDS + 1)
    ]
    lines.append("# TYPE queue gauge")
    lines += [
        f'queue{{service="shop"}} {s % 7} {BEGIN + s}'
        for s in range(SECONDS + 1)
        if not 2_000 <= s < 3_000
    ]
    for name, labels, rate in CADVISOR:
        kind = "gauge" if name == "container_memory_working_set_bytes" else "counter"
        lines.append(f"# TYPE {name.removesuffix('_total')} {kind}")
        lines += [
            f"{name}{{{labels}}} {rate * (s if kind == 'counter' else 1)} {BEGIN + s}"
            for s in range(0, 600, 5)
        ]
    path.write_text("\n".join([*lines, "# EOF\n"]))


class Exporter(BaseHTTPRequestHandler):
    scraped = 0

    def do_GET(self) -> None:
        Exporter.scraped += 1
        number = Exporter.scraped
        body = f"# TYPE live counter\nlive_total {100 * number}\nnever NaN\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("prometheus")
    history(folder / "history")
    blocks = [PATHS["promtool"], "tsdb", "create-blocks-from", "openmetrics", "-q"]
    subprocess.run([*blocks, folder / "history", folder / "data"], check=True, capture_output=True)
    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    Thread(target=exporter.serve_forever, daemon=True).start()
    node, port = free_port(), free_port()
    (folder / "config.yml").write_text(
        f"""
global: {{scrape_interval: 250ms}}
scrape_configs:
  - {{job_name: node, static_configs: [{{targets: ["127.0.0.1:{node}"]}}]}}
  - {{job_name: own, static_configs: [{{targets: ["127.0.0.1:{exporter.server_port}"]}}]}}
"""
    )
    own = [
        f"--config.file={folder / 'config.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=50y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    commands = [
        [PATHS["prometheus-node-exporter"], f"--web.listen-address=127.0.0.1:{node}"],
        [PATHS["prometheus"], *own],
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, **quiet) for command in commands]
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with closing(Prometheus(url)) as asked:
                    list(asked.range({"up": "sum(up)"}, "", time.time() - 1, time.time(), 1.0))
                if Exporter.scraped > 3:
                    break
            except MetricError:
                pass
            assert time.monotonic() < until, "the server does not start"
            assert all(process.poll() is None for process in started)
            time.sleep(0.1)
        yield SimpleNamespace(url=url, node=f"127.0.0.1:{node}", exporter=exporter.server_port)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)
        exporter.shutdown()
        exporter.server_close()


RAW = {
    "requests": 'requests_total{service="$service"}',
    "queue": 'max_over_time(queue{service="$service"}[1s])',
}


def test_more_points_than_an_answer_may_have_are_all_there(server: SimpleNamespace) -> None:
    prometheus = Prometheus(server.url)
    parts = list(prometheus.range(RAW, "shop", BEGIN, BEGIN + SECONDS, 1.0))
    prometheus.close()
    assert [len(part) for part in parts] == [10_000, 2_001]
    times = np.concatenate([part.times for part in parts])
    assert times.tolist() == [BEGIN + s for s in range(SECONDS + 1)]
    values = np.concatenate([part.values for part in parts])
    assert values[:, 0].tolist() == [counted(s) for s in range(SECONDS + 1)]
    gap = np.isnan(values[:, 1])
    assert set(np.flatnonzero(gap)) >= set(range(2_001, 3_000))
    assert gap.sum() <= 1_001
    assert not prometheus.notes


def test_a_reset_is_counted_as_the_server_counts_it(server: SimpleNamespace) -> None:
    prometheus = Prometheus(server.url)
    (span,) = prometheus.range(RAW, "shop", BEGIN + RESET - 1_000, BEGIN + RESET + 1_000, 10.0)
    asked = [span.columns(("requests",))]
    own = joined(resampled(asked, 10.0, counters=("requests",), hold_s=10.0))
    # The same increments, by the server: exact, since the readings stand on the grid.
    queries = {"grown": 'increase(requests_total{service="$service"}[10s]) * 10 / 10'}
    (theirs,) = prometheus.range(queries, "shop", BEGIN + RESET - 990, BEGIN + RESET + 1_000, 10.0)
    prometheus.close()
    rates = own.values[:-1, 0]
    assert len(rates) == len(theirs) == 200
    assert np.isclose(rates, 3.0).sum() == 199
    lost = 3.0 * 10  # what was added between the last reading before the reset and the reset
    assert rates.sum() * 10 == pytest.approx(2 * 3 * 1_000 - lost)
    assert np.nansum(theirs.values) == pytest.approx(rates.sum() * 10, rel=0.05)


def test_the_defaults_find_what_kubelets_serve(server: SimpleNamespace) -> None:
    with closing(Prometheus(server.url)) as prometheus:
        span = BEGIN + 300, BEGIN + 500
        (table,) = prometheus.range(load_queries("service"), "cart", *span, 10.0)
    found = {
        name: round(float(table.values[0, column]), 6)
        for column, name in enumerate(table.names)
        if np.ptp(table.values[:, column]) < 1e-6
    }
    assert found == {
        "cpu_cores": 0.25,
        "memory_bytes": 5e6,
        "receive_bytes_s": 700.0,
        "disk_read_bytes_s": 30.0,
    }
    # The other pod is of another namespace, and no container writes.
    assert sorted(prometheus.notes) == [
        "disk_write_bytes_s of cart has no value",
        "transmit_bytes_s of cart has no value",
    ]


def test_the_defaults_find_the_node_exporter(server: SimpleNamespace) -> None:
    prometheus = Prometheus(server.url)
    time.sleep(1.0)
    now = time.time()
    (table,) = prometheus.range(load_queries("node"), server.node, now - 1, now, 1.0)
    prometheus.close()
    assert table.names[:2] == ("cpu_cores", "memory_bytes")
    last = dict(zip(table.names, table.values[-1], strict=True))
    assert last["memory_bytes"] > 1e6
    assert last["load1"] >= 0
    assert last["receive_bytes_s"] >= 0 or "receive_bytes_s of" in str(prometheus.notes)


@pytest.mark.parametrize("query", ["sum(", "up", "time() and", "label_replace(up, 1, 2)"])
def test_a_refusal_of_the_server_is_one_line(server: SimpleNamespace, query: str) -> None:
    now = time.time()
    with closing(Prometheus(server.url)) as prometheus, pytest.raises(MetricError) as caught:
        list(prometheus.range({"odd": query}, "shop", now - 1, now, 1.0))
    assert "odd" in str(caught.value)
    assert str(caught.value).isprintable()


def test_collect_writes_what_the_server_has(server: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "queries.toml").write_text(
        "[service]\n"
        + "".join(f"{name} = ''\n" for name in load_queries("service"))
        + "".join(f"{name} = '{query}'\n" for name, query in RAW.items())
    )
    output = tmp_path / "shop.csv"
    arguments = ["collect", server.url, output, "--service", "shop", "--step", 5]
    arguments += ["--from", "2023-11-14T22:13:20+00:00", "--to", "2023-11-14T22:23:20+00:00"]
    arguments += ["--queries", tmp_path / "queries.toml"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert "121 rows of 2 metrics" in done.stdout
    table = read_table(output)
    assert table.times[0] == BEGIN
    assert table.values[:, 0].tolist() == [15 * row for row in range(121)]
