"""The small live service: what is measured is what was asked for, and its data set."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import math
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path

import pytest
from scripts import vcdn_data, vcdn_troubles
from tests.infrastructure.linux.linux_needs import requires

import vcdn as vcdn_module
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.testrange.exporter import METRICS
from vcdn import FUNCTIONS, Vcdn

ROOT = Path(__file__).parents[2]
INTRO = vcdn_module._INTRO_OCTETS
HEAD = 400  # octets of an answer's head, at most
LOGGED: Counter[Path] = Counter()
requires_nginx = requires("nginx")


@pytest.fixture
def vcdn(tmp_path: Path) -> Iterator[Vcdn]:
    made = Vcdn(tmp_path / "vcdn")
    try:
        made.start()
        yield made
    finally:
        made.stop()
    assert vcdn_data.left_behind(made.folder) == []


def ask(vcdn: Vcdn, paths: list[str]) -> list[int]:
    """Ask the streamer for pages, one after another, and return the lengths of what comes."""
    connection = HTTPConnection(*vcdn.target, timeout=10)
    got = []
    for path in paths:
        connection.request("GET", path)
        got.append(len(connection.getresponse().read()))
    connection.close()
    return got


def logged(vcdn: Vcdn, function: str, more: int) -> None:
    """Wait until a function has logged so many requests; nginx logs after it has answered."""
    log = vcdn.folder / function / "access.log"
    while (count := log.read_bytes().count(b"\n")) < LOGGED[log] + more:
        time.sleep(0.01)
    LOGGED[log] = count


@pytest.mark.processes
@requires_nginx
def test_the_metrics_of_a_known_load_are_known(vcdn: Vcdn) -> None:
    for function in FUNCTIONS:
        logged(vcdn, function, 0)
    vcdn.sample(0.0)
    assert ask(vcdn, ["/intro"] * 40 + ["/none"] * 5)[:40] == [INTRO] * 40
    logged(vcdn, "streamer", 45)
    logged(vcdn, "cache", 5)
    rows = vcdn.sample(5.0)
    row = rows["streamer"]
    assert row["requests_per_s"] == 8
    assert row["errors_per_s"] == 1
    assert rows["cache"]["requests_per_s"] == 0
    assert rows["cache"]["errors_per_s"] == 1
    sent = row["network_tx_bytes_per_s"] * 5
    assert 40 * INTRO < sent < 40 * (INTRO + HEAD) + 5 * 3 * HEAD
    assert row["disk_read_bytes_per_s"] * 5 > 40 * (INTRO - 4096)  # whole blocks
    assert row["latency_p99_s"] >= row["latency_p50_s"] >= 0


@pytest.mark.processes
@requires_nginx
def test_what_passes_through_both_functions_is_counted_at_both(vcdn: Vcdn) -> None:
    for function in FUNCTIONS:
        logged(vcdn, function, 0)
    vcdn.sample(0.0)
    sizes = ask(vcdn, [f"/live/50000/{number}.ts" for number in (11, 12, 13, 11, 12, 13)])
    assert sizes[:3] == sizes[3:]
    for function in FUNCTIONS:
        logged(vcdn, function, 6)
    rows = vcdn.sample(1.0)
    total, once = sum(sizes), sum(sizes[:3])
    heads = 6 * 2 * HEAD
    for rate, least in (
        (rows["streamer"]["network_tx_bytes_per_s"], total),
        (rows["streamer"]["network_rx_bytes_per_s"], total),
        (rows["cache"]["network_tx_bytes_per_s"], total),
        (rows["cache"]["network_rx_bytes_per_s"], once),  # the second time it has them
    ):
        assert least < rate < least + heads


@pytest.mark.processes
@requires_nginx
def test_open_connections_are_counted_while_none_is_left(vcdn: Vcdn) -> None:
    before = vcdn.sample(0.0)["streamer"]["connections_open"]
    held = [socket.create_connection(vcdn.target, timeout=5) for _ in range(7)]
    assert vcdn.sample(1.0)["streamer"]["connections_open"] == before + 7
    # Heads that never end, on more connections than it has: it serves nobody, and is measured.
    for number in range(300):
        held.append(socket.create_connection(vcdn.target, timeout=5))
        held[-1].send(b"GET / HTTP/1.1\r\nHost: streamer\r\n")
        if number >= 200:
            time.sleep(0.01)  # refused one by one
    with pytest.raises((HTTPException, OSError)):
        ask(vcdn, ["/intro"])
    assert vcdn.sample(2.0)["streamer"]["connections_open"] > 230
    for connection in held:
        connection.close()


@pytest.mark.processes
@requires_nginx
def test_a_dead_worker_is_started_anew_and_a_dead_server_is_told(vcdn: Vcdn) -> None:
    master = vcdn._servers[-1]
    vcdn.sample(0.0)
    (worker,) = _children(master.pid)
    os.kill(worker, 9)
    while not (others := [pid for pid in _children(master.pid) if pid != worker]):
        time.sleep(0.01)
    assert ask(vcdn, ["/intro"]) == [INTRO]
    row = vcdn.sample(1.0)["streamer"]
    assert row["memory_rss_bytes"] > 0
    assert row["cpu_cores"] >= 0
    assert others
    master.signal()
    while not master.ended:
        time.sleep(0.01)
    with pytest.raises(KernelError, match="nginx ended"):
        vcdn.sample(2.0)


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.processes
@requires_nginx
def test_a_delay_of_the_links_is_seen_by_who_waits(vcdn: Vcdn) -> None:
    vcdn.delay(120.0)
    while True:  # until the relays have heard of it
        ask(vcdn, ["/live/10000.m3u8"])
        logged(vcdn, "streamer", 0)
        vcdn.sample(time.monotonic())
        ask(vcdn, ["/live/25000/99.ts"])
        logged(vcdn, "streamer", 1)
        if vcdn.sample(time.monotonic())["streamer"]["latency_p50_s"] >= 0.24:
            break


def test_an_audience_comes_and_goes_as_over_a_day() -> None:
    audience = vcdn_data.Audience(100.0, 0.5, 1000.0, 0.0)
    visits = [*audience.visits(random.Random(1), 0.0, 2000.0)]
    assert sum(begin == 0.0 for begin, _ in visits) == 100

    def there(seconds: float) -> int:
        return sum(begin <= seconds < end for begin, end in visits)

    noon = [there(s) for s in (250, 1250)]
    night = [there(s) for s in (750, 1750)]
    assert all(110 < count < 190 for count in noon)
    assert all(25 < count < 80 for count in night)


def test_troubles_of_a_set_are_drawn_evenly_and_stand_apart() -> None:
    counts: Counter[str] = Counter()
    for number in range(1, 15):
        drawn = vcdn_data.drawn(f"trouble-{number:02d}", 300, 1)
        counts.update(trouble.kind for trouble in drawn)
        edges = [edge for trouble in drawn for edge in (trouble.begin_s, trouble.end_s)]
        assert edges[0] > 0
        assert edges[-1] < 300
        assert all(b - a > 15 for a, b in pairwise(edges))
    assert counts == dict.fromkeys(vcdn_data.KINDS, 6)
    assert vcdn_data.drawn("normal-01", 300, 1) == []


async def _served(kind: str, words: list[str]) -> list[bytes]:
    """Return what a server gets from a trouble: a line for each connection and piece."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while piece := await reader.read(4096):
                got.append(piece)
                if piece.endswith(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await vcdn_troubles.main(kind, ["127.0.0.1", str(port), *words])
    except TimeoutError:
        assert kind == "slow"
    server.close()
    return got


def test_a_flood_asks_for_another_page_each_time_and_is_bounded() -> None:
    got = asyncio.run(_served("flood", ["1.0", "60"]))
    asked = [piece.split()[1] for piece in got]
    assert 10 <= len(asked) <= 60 + vcdn_troubles._THREADS
    assert len(set(asked)) > 0.9 * len(asked)
    assert all(b"Connection: close" in piece for piece in got)


def test_slow_http_never_ends_a_request_and_is_bounded() -> None:
    got = asyncio.run(_served("slow", ["1.2", "20"]))
    begun = [piece for piece in got if piece.startswith(b"GET / ")]
    assert 5 <= len(begun) <= 20
    assert not any(b"\r\n\r\n" in piece for piece in got)


def make(out: Path, *words: str, seconds: int = 4, rootless: bool = False) -> subprocess.Popen[str]:
    prefix = ["unshare", "--user"] if rootless and os.geteuid() == 0 else []
    script = [
        sys.executable,
        str(ROOT / "scripts" / "vcdn_data.py"),
        "--out",
        str(out),
        "--runs",
        "2",
    ]
    return subprocess.Popen(
        [*prefix, *script, "--normal", "1", "--seconds", str(seconds), *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(out: Path) -> None:
    for name in ("normal-01", "trouble-01"):
        told = json.loads((out / f"{name}.json").read_text())
        for function in FUNCTIONS:
            with (out / function / f"{name}.csv").open(newline="") as file:
                header, *rows = csv.reader(file)
            assert tuple(header) == ("time", *METRICS, "label")
            assert 2 <= len(rows) <= 4
            times = [float(row[0]) for row in rows]
            assert times == sorted(set(times))
            kinds = {trouble["kind"] for trouble in told["troubles"]}
            assert {row[-1] for row in rows} <= {"normal", *kinds}
            assert len(kinds) == (name == "trouble-01")


@pytest.mark.processes
@requires_nginx
def test_a_data_set_is_made_without_root_and_not_made_again(tmp_path: Path) -> None:
    out = tmp_path / "set"
    first = make(out, rootless=True)
    assert "normal-01: " in first.communicate(timeout=120)[0]
    assert first.returncode == 0
    check(out)
    assert {path.name for path in out.iterdir()} == {
        *FUNCTIONS, "normal-01.json", "trouble-01.json"
    }  # fmt: skip
    (out / "normal-01.json").unlink()
    again = make(out, rootless=True)
    told = again.communicate(timeout=120)[0]
    assert "normal-01: " in told
    assert "trouble-01: " not in told


@pytest.mark.processes
@requires_nginx
def test_what_a_killed_one_left_is_gone_after_the_next_start(tmp_path: Path) -> None:
    out = tmp_path / "set"
    killed = make(out, seconds=60)
    while len(vcdn_data.left_behind(out)) < 7:  # three masters and relays, a worker
        time.sleep(0.05)
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    assert len(vcdn_data.left_behind(out)) >= 7
    again = make(out)
    assert "normal-01: " in again.communicate(timeout=120)[0]
    assert vcdn_data.left_behind(out) == []
    check(out)


def test_the_page_is_in_prometheus_text_format_and_served_on_loopback() -> None:
    rows = {name: dict.fromkeys(METRICS, 0.5) for name in ("streamer", "cache")}
    rows["cache"]["latency_p99_s"] = math.nan
    server = vcdn_data.serve(lambda: rows)
    try:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200
        connection.request("GET", "/")
        assert connection.getresponse().status == 404
        connection.close()
    finally:
        server.shutdown()
        server.server_close()
    assert text == vcdn_data.page(rows)
    found = re.findall(r'^vcdn_(\w+)\{function="(\w+)"\} (0\.5|NaN)$', text, re.MULTILINE)
    assert len(found) == 2 * len(METRICS)
    assert ("latency_p99_s", "cache", "NaN") in found
    assert len(re.findall(r"^# TYPE vcdn_\w+ gauge$", text, re.MULTILINE)) == len(METRICS)


def test_without_nginx_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    made = Vcdn(tmp_path / "vcdn")
    with pytest.raises(KernelError, match="no nginx here"):
        made.start()
    made.stop()


def test_the_page_names_every_metric_and_trouble() -> None:
    page = (ROOT / "docs" / "vcdn.md").read_text(encoding="utf-8")
    for name in (*METRICS, *vcdn_data.KINDS):
        assert f"`{name}`" in page
