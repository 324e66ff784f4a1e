"""The door of a function: what is refused, and that nothing brings it down."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linux_needs import requires
from vnf_lab import OUT, Vnf, lab_in

from phalanx.infrastructure.linux.vnf.http import (
    LARGEST_BODY,
    LARGEST_HEAD,
    Fields,
    RefusedError,
    converse,
)

MEASURE = {"verdict": "limit", "devices": [OUT], "rate_mb_s": 1, "ttl_s": 1}
BAD_MEASURES: list[Any] = [
    None,
    [],
    "x",
    {**MEASURE, "verdict": "magic"},
    {**MEASURE, "verdict": ["limit"]},
    {**MEASURE, "rate_mb_s": -1},
    {**MEASURE, "rate_mb_s": True},
    {**MEASURE, "rate_mb_s": "1"},
    {**MEASURE, "ttl_s": 1e9},
    {**MEASURE, "ttl_s": 0},
    {**MEASURE, "devices": []},
    {**MEASURE, "devices": ['s0" }; flush ruleset; #']},
    {**MEASURE, "devices": [7]},
    {**MEASURE, "more": 1},
    {**MEASURE, "delay_ms": 1},
    {**MEASURE, "verdict": "drop"},
    {**MEASURE, "target": "10.0.0.1; drop"},
    {**MEASURE, "target": "10.0.0.1\0"},
    {**MEASURE, "target": "fe80::1%lo"},
    {**MEASURE, "target": "2001:db8::1; drop"},
    {**MEASURE, "target": "2001:db8::/64"},
    {**MEASURE, "port": 80},
    {**MEASURE, "protocol": "tcp; drop"},
    {**MEASURE, "protocol": "tcp", "port": 65_536},
    {**MEASURE, "part": 2, "parts": 2},
]
OFFERED = {
    "link-monitor": {"links"},
    "rate-limiter": {"measures"},
    "load-balancer": {"measures"},
    "syn-proxy": {"measures"},
    "anomaly-detector": {"observations"},
    "classifier": {"observations"},
    "classifier-lite": {"observations"},
}


def talk(data: bytes) -> list[tuple[int, Any]]:
    """Return what comes back for ``data``, from a server that repeats what it is asked."""
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rb") as stream, ThreadPoolExecutor(2) as pool:
        ours.settimeout(5)
        pool.submit(serve, theirs)
        pool.submit(send, ours, data)
        answers = []
        try:
            while status := stream.readline():
                fields = dict(line.split(b": ") for line in iter(stream.readline, b"\r\n"))
                raw = stream.read(int(fields.get(b"Content-Length", 0)))
                answers.append((int(status.split()[1]), json.loads(raw)))
        except ConnectionResetError:
            pass  # it closed while we were still sending
        return answers


def send(to: socket.socket, data: bytes) -> None:
    try:
        to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # refused before all was sent


def serve(connection: socket.socket) -> None:
    with connection:
        converse(connection, lambda *asked: (200, asked))


def request(body: bytes, head: bytes = b"") -> bytes:
    return b"PUT /a HTTP/1.1\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), head, body)


def test_one_connection_carries_many_requests() -> None:
    data = request(b'{"b": 1}') + request(b"") + request(b"[2]", b"Connection: close\r\n")
    told = [["PUT", "/a", {"b": 1}], ["PUT", "/a", None], ["PUT", "/a", [2]]]
    assert talk(data + request(b"3")) == [(200, one) for one in told]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * LARGEST_HEAD), 431),
        (b"GET / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 1), 413),
        (request(b"{"), 400),
        (request(b"[" * LARGEST_BODY), 400),
        (request(b"\xff\xfe"), 400),
    ],
)
def test_a_senseless_request_gets_one_line(data: bytes, status: int) -> None:
    ((got, answer),) = talk(data)
    assert got == status
    assert "\n" not in answer["error"]


@given(st.binary(max_size=400))
def test_no_octets_bring_the_server_down(noise: bytes) -> None:
    for _, answer in talk(noise) + talk(b"PUT /a HTTP/1.1\r\n" + noise):
        assert answer is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_a_field_is_what_it_must_be_or_refused(value: object) -> None:
    fields = Fields({"x": value}, ("x",))
    checks: list[Callable[[], object]] = [
        lambda: fields.number("x", 0, 9),
        lambda: fields.whole("x", 0, 9),
        lambda: fields.flag("x"),
        lambda: fields.address("x"),
        lambda: fields.choice("x", ("a",)),
        lambda: fields.devices("x", 3),
    ]
    for check in checks:
        refused = refusal(check)
        assert refused is None or refused.status in (400, 409)
        assert "\n" not in str(refused)


def refusal(check: Callable[[], object]) -> RefusedError | None:
    try:
        check()
    except RefusedError as refused:
        return refused
    return None


@pytest.mark.linux
@requires("ip", "nft", "nsenter")
def test_bad_measures_are_refused_and_leave_nothing(
    netns: Callable[[str], str], tmp_path: Path
) -> None:
    with lab_in(netns) as lab, Vnf(lab, "rate-limiter", tmp_path) as vnf:
        assert stat.S_IMODE(vnf.path.stat().st_mode) == 0o600
        for body in BAD_MEASURES:
            status, answer = vnf.call("PUT", "/measures/m", body)
            assert (status, "\n" in answer["error"]) == (400, False), body
        assert vnf.call("PUT", "/measures/" + "x" * 101, MEASURE)[0] == 400
        assert vnf.call("PUT", "/measures/m", {**MEASURE, "verdict": "proxy"})[0] == 400
        assert vnf.call("GET", "/nothing")[0] == 404
        assert vnf.call("POST", "/measures/m", MEASURE)[0] == 405
        assert lab.nft("list", "ruleset") == ""


@pytest.mark.linux
@requires("ip", "nft", "nsenter")
@pytest.mark.parametrize("role", OFFERED)
def test_a_role_offers_what_it_needs_and_no_more(
    netns: Callable[[str], str], tmp_path: Path, role: str
) -> None:
    with lab_in(netns) as lab, Vnf(lab, role, tmp_path) as vnf:
        health = vnf.ask("GET", "/health")
        assert (health["vnf"], health["version"]) == (role, "1.0")
        asked = {
            "links": vnf.call("GET", "/links/x")[0],
            "measures": vnf.call("GET", "/measures/x")[0],
            "observations": vnf.call("POST", "/observations", {})[0],
        }
        assert {room for room, status in asked.items() if status != 403} == OFFERED[role]
        assert (vnf.call("POST", "/lease", {"ttl_s": 1})[0] != 403) == ("measures" in OFFERED[role])
