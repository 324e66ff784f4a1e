"""The measuring client, as a program of its own against a small server on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from phalanx.testrange import users

PAGE = b"x" * 500


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.client_address, self.path))  # type: ignore[attr-defined]
        if self.server.silent:  # type: ignore[attr-defined]
            time.sleep(0.4)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    served.daemon_threads = True
    served.seen, served.silent = [], False  # type: ignore[attr-defined]
    thread = threading.Thread(target=served.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


def run(
    server: Any,
    enough: Callable[[list[dict[str, Any]]], bool],
    timeout_s: float = 10.0,
    **user: Any,
) -> list[dict[str, Any]]:
    """Return the lines that the client writes for one user until there are enough."""
    told = {
        "address": "127.0.0.7",
        "target": "127.0.0.1",
        "port": server.server_port,
        "profile": "http",
        "mb_s": 0.01,
        "start_s": 0.0,
        "end_s": None,
        "phase": 0.5,
    }
    plan = {
        "users": [told | user],
        "page_octets": len(PAGE),
        "timeout_s": timeout_s,
        "sample_s": 0.1,
    }
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(users._CLIENT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{json.dumps(plan)}\n{time.monotonic()!r}\n")
            client.stdin.flush()
            read: list[dict[str, Any]] = []
            while not enough(read):
                read.append(json.loads(client.stdout.readline()))
                assert len(read) < 600
            client.stdin.close()
            assert client.wait(60) == 0  # it ends when its input does
        finally:
            client.kill()
    return read


def total(read: list[dict[str, Any]], what: str) -> int:
    return sum(line[what] for line in read)


def test_a_user_reads_pages_from_its_own_address(server: Any) -> None:
    lines = run(server, lambda read: total(read, "ok") > 2)
    answered = total(lines, "ok")
    assert sum(line["octets"] for line in lines) == answered * len(PAGE)
    assert {address for (address, _), _ in server.seen} == {"127.0.0.7"}
    assert {path for _, path in server.seen} == {"/"}
    assert all(line["waited_s"] >= line["slowest_s"] > 0 for line in lines if line["ok"])


def test_a_user_takes_a_fresh_connection_now_and_then(server: Any) -> None:
    run(server, lambda _: len(server.seen) > 10, mb_s=0.02)
    requests = [port for (_, port), _ in server.seen]
    assert max(map(requests.count, requests)) == 5


def test_what_is_late_has_failed(server: Any) -> None:
    server.silent = True
    lines = run(server, lambda read: total(read, "failed") > 0, timeout_s=0.2)
    assert sum(line["ok"] for line in lines) == 0


def test_a_user_that_is_over_asks_no_more(server: Any) -> None:
    lines = run(server, lambda read: len(read) == 8, end_s=0.0)
    assert sum(line["ok"] + line["failed"] for line in lines) == 0
    assert server.seen == []


def test_a_stream_is_asked_for_at_its_rate(server: Any) -> None:
    run(server, lambda read: total(read, "octets") >= len(PAGE), profile="video", mb_s=0.0125)
    assert server.seen[0][1] == "/stream?rate=12500"


def test_a_viewer_asks_for_a_clip_and_for_each_segment_once(server: Any) -> None:
    playlist, segment = "/live/10000.m3u8", f"/live/{PAGE.decode()}"
    run(server, lambda _: len(server.seen) > 3, profile="live", mb_s=0.01)
    paths = [path for _, path in server.seen]
    assert paths[:4] == ["/intro", playlist, segment, playlist]
    assert paths.count(segment) == 1
