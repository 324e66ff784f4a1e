"""Prometheus' HTTP API: what is asked, what is made of answers, and what is refused."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from phalanx.analytics import prometheus as module
from phalanx.analytics.metrics import MetricError
from phalanx.analytics.prometheus import (
    Notes,
    Prometheus,
    load_queries,
)
from phalanx.domain.errors import PhalanxError
from phalanx.identity import files

Reply = Callable[[str, dict[str, str], dict[str, str]], tuple[int, bytes]]


@contextmanager
def serving(reply: Reply, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve ``reply``, which is given path, options and headers; give the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body = reply(parts.path, dict(parse_qsl(parts.query)), dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def matrix(*series: list[list[Any]], **more: Any) -> bytes:
    result = [{"metric": {}, "values": values} for values in series]
    data = {"resultType": "matrix", "result": result}
    return json.dumps({"status": "success", "data": data, **more}).encode()


def vector(*values: list[Any], **more: Any) -> bytes:
    result = [{"metric": {}, "value": value} for value in values]
    data = {"resultType": "vector", "result": result}
    return json.dumps({"status": "success", "data": data, **more}).encode()


def ask(url: str, queries: dict[str, str], last: float = 120.0, **more: Any) -> Any:
    with closing(Prometheus(url, **more)) as server:
        tables = list(server.range(queries, "shop", 100.0, last, 10.0))
    return tables, server.notes


def test_spans_become_rows_and_what_is_not_there_is_a_gap() -> None:
    asked = []

    def reply(path: str, options: dict[str, str], _: Any) -> tuple[int, bytes]:
        asked.append((path, options))
        if options["query"] == "b":
            return 200, matrix()
        return 200, matrix([[100, "1"], [120, "NaN"], [130.0, "+Inf"], [140.0, "-2.5e3"]])

    with serving(reply) as url:
        (table,), notes = ask(f"{url}/under/", {"a": "a", "b": "b"}, 149.9)
    assert asked[0] == (
        "/under/api/v1/query_range",
        {"query": "a", "start": "100.0", "end": "140.0", "step": "10.0"},
    )
    assert table.times.tolist() == [100, 110, 120, 130, 140]
    nan = np.nan
    assert np.array_equal(table.values[:, 0], [1, nan, nan, nan, -2500], equal_nan=True)
    assert np.isnan(table.values[:, 1]).all()
    assert sorted(notes) == [
        "a is infinite at times, which count as gaps",
        "b of shop has no value",
    ]


def test_a_long_span_is_asked_for_in_parts_below_the_servers_limit() -> None:
    asked = []

    def reply(_: str, options: dict[str, str], __: Any) -> tuple[int, bytes]:
        begin, end = float(options["start"]), float(options["end"])
        asked.append((begin, end))
        return 200, matrix(
            [[t / 1000, "1"] for t in range(int(begin * 1000), int(end * 1000) + 1, 500)]
        )

    with serving(reply) as url, closing(Prometheus(url)) as server:
        tables = list(server.range({"a": "a"}, "shop", 1.7e9, 1.7e9 + 12_000, 0.5))
    assert [len(table) for table in tables] == [10_000, 10_000, 4_001]
    assert [int((b - a) / 0.5) + 1 for a, b in asked] == [10_000, 10_000, 4_001]
    times = np.concatenate([table.times for table in tables])
    assert np.array_equal(times, 1.7e9 + np.arange(24_001) * 0.5)
    assert not np.isnan(np.concatenate([table.values for table in tables])).any()


def test_the_name_of_a_service_is_text_and_never_promql() -> None:
    asked = []

    def reply(_: str, options: dict[str, str], __: Any) -> tuple[int, bytes]:
        asked.append(options["query"])
        return 200, matrix()

    with serving(reply) as url, closing(Prometheus(url)) as server:
        query = {"a": 'rate(x{s="$service"}[$window])'}
        list(server.range(query, 'a"} or y{s="\\$window', 0, 10, 300))
        with pytest.raises(MetricError, match="no name of a service"):
            list(server.range(query, "a\nb", 0, 10, 300))
    assert asked == ['rate(x{s="a\\"} or y{s=\\"\\\\$window"}[300000ms])']


def test_warnings_of_partial_answers_are_told() -> None:
    body = matrix([[100, "1"]], warnings=["store 2 did not\nanswer"])
    with serving(lambda *_: (200, body)) as url:
        _, notes = ask(url, {"a": "a"})
    assert notes == {"a: store 2 did not answer": 1}


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, b"", "something else than the API has (HTTP 200)"),
        (200, b"<html>", "something else"),
        (200, b"[" * 100_000, "something else"),
        (200, b"{}", "something else"),
        (200, b'{"status":"success"}', "refuses a (HTTP 200): success"),
        (200, b'{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}', "something"),
        (200, vector([100, "1"]), "something else"),
        (200, matrix([[100, 1.0]]), "something else"),
        (200, matrix([[100, "one"]]), "something else"),
        (200, matrix([["100", "1"]]), "something else"),
        (200, matrix([[100, "1"]], [[100, "2"]]), "a is 2 series; one is expected"),
        (200, matrix([[105, "1"]]), "times not asked for"),
        (200, matrix([[90, "1"]]), "times not asked for"),
        (200, matrix([[130, "1"]]), "times not asked for"),
        (200, matrix([[110, "1"], [100, "1"]]), "times not asked for"),
        (200, matrix([[100, "1"], [100, "2"]]), "times not asked for"),
        (200, matrix([[1e300, "1"]]), "something else"),
        (400, b'{"status":"error","errorType":"bad_data","error":"parse\\nerror"}', "parse error"),
        (503, b"no healthy upstream", "something else than the API has (HTTP 503)"),
        (401, b"Unauthorized", "credentials"),
        (302, b"", "something else than the API has (HTTP 302)"),
        (200, b" " * (9 << 20), "larger than"),
    ],
)
def test_answers_that_are_none_are_one_line(status: int, body: bytes, why: str) -> None:
    with serving(lambda *_: (status, body)) as url, pytest.raises(MetricError) as caught:
        ask(url, {"a": "a"})
    assert why in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 320


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "data", "resultType", "result", "values", "value"]), inner
        )
    ),
    max_leaves=12,
)


@given(octets=st.binary(max_size=40) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_octets_are_points_or_one_line(octets: bytes) -> None:
    try:
        found = module._points((200, octets), "a", Notes())
    except MetricError as error:
        refused = str(error)
    else:
        assert all(isinstance(number, float) for point in found for number in point)
        return
    assert refused.isprintable()


def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    over = Event()

    def drip() -> None:
        wire, _ = listening.accept()
        with wire:
            wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not over.wait(0.02):
                try:
                    wire.sendall(b" ")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(MetricError, match="cannot be reached"):
            ask(f"http://127.0.0.1:{listening.getsockname()[1]}", {"a": "a"})
        over.set()
        thread.join()


def test_a_connection_that_the_server_ended_is_opened_again() -> None:
    served = 0

    def serve() -> None:
        nonlocal served
        while served < 3:
            wire, _ = listening.accept()
            with wire:
                wire.recv(65536)
                body = matrix()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                wire.sendall(head.encode() + body)
                served += 1

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with closing(Prometheus(url)) as server:
            for _ in range(3):
                list(server.range({"a": "a"}, "shop", 0, 10, 10))
                time.sleep(0.05)
        thread.join()
    assert served == 3


def test_nobody_there_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(MetricError, match=r"cannot be reached: .*refused"):
        ask(f"http://127.0.0.1:{port}", {"a": "a"})


@pytest.mark.parametrize(
    ("secret", "sent"),
    [("abc.DEF-1", "Bearer abc.DEF-1"), ("user:pass word", "Basic dXNlcjpwYXNzIHdvcmQ=")],
)
def test_credentials_come_from_a_file(tmp_path: Path, secret: str, sent: str) -> None:
    path = tmp_path / "credentials"
    files.write(path, secret.encode() + b"\n", secret=True)

    def reply(_: str, __: Any, headers: dict[str, str]) -> tuple[int, bytes]:
        return (200, matrix()) if headers.get("Authorization") == sent else (401, b"")

    with serving(reply) as url:
        ask(url, {"a": "a"}, credentials=path)
        with pytest.raises(MetricError, match="are credentials needed"):
            ask(url, {"a": "a"})
    path.chmod(0o644)
    with pytest.raises(PhalanxError, match="others may read this credential"):
        Prometheus("https://host", path)
    path.chmod(0o600)
    with pytest.raises(MetricError, match="over https"):
        Prometheus("http://metrics.example", path)


@pytest.mark.parametrize(
    "url", ["http://", "ftp://host", "http://host:x", "http://u:p@host", "http://host?a=b", "host"]
)
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(MetricError, match="URL"):
        Prometheus(url)


def loopback_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a self-signed certificate of 127.0.0.1, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "metrics")])
    now = datetime.now(UTC)
    address = x509.IPAddress(IPv4Address("127.0.0.1"))
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    own = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(own + pem)
    (folder / "authority.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return folder / "authority.pem", context


def test_a_server_over_tls_is_verified(tmp_path: Path) -> None:
    authority, context = loopback_certificate(tmp_path)
    with serving(lambda *_: (200, matrix()), context) as url:
        ask(url, {"a": "a"}, ca=authority)
        with pytest.raises(MetricError, match="certificate verify failed"):
            ask(url, {"a": "a"})
    (tmp_path / "none.pem").write_text("none")
    for path in (tmp_path / "none.pem", tmp_path / "missing.pem"):
        with pytest.raises(MetricError, match="no certificates of an authority"):
            Prometheus("https://host", ca=path)


# -- which series ---------------------------------------------------------------------------


def test_queries_of_a_file_replace_and_add(tmp_path: Path) -> None:
    path = tmp_path / "queries.toml"
    path.write_text("[service]\ncpu_cores = 'mine'\nload = 'more'\nmemory_bytes = ''\n")
    known, found = load_queries("service"), load_queries("service", path)
    assert found["cpu_cores"] == "mine"
    assert found["load"] == "more"
    assert set(known) - set(found) == {"memory_bytes"}
    assert load_queries("node", path) == load_queries("node")
    assert all("$service" in query for query in {**known, **load_queries("node")}.values())


@pytest.mark.parametrize("text", ["", "[x]\n", "[service]\ncpu = 3\n", "service = 1\n", "[[["])
def test_files_of_queries_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries.toml"
    path.write_text(text)
    with pytest.raises(PhalanxError) as caught:
        load_queries("service", path)
    assert str(caught.value).startswith(str(path))


def test_notes_are_bounded() -> None:
    notes = Notes()
    for number in range(1_000):
        notes.take(f"note {number}\n")
    notes.take("note 3")
    assert len(notes) == 101
    assert notes["note 3"] == 2
    assert notes["other notes"] == 900
