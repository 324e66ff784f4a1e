"""Limits, blocks and splits in the kernel, seen from real sockets."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from linux_needs import requires
from vnf_lab import CLIENTS, CLIENTS6, OUT, SERVER, SERVER6, SUBSCRIBER6, Lab, Vnf, exchange

from phalanx.infrastructure.linux.vnf.measures import MOST_AT_ONCE

pytestmark = [pytest.mark.linux, requires("ip", "nft", "nsenter")]


@pytest.fixture
def limiter(lab: Lab, tmp_path: Path) -> Iterator[Vnf]:
    with Vnf(lab, "rate-limiter", tmp_path) as vnf:
        yield vnf


def arrives(client: socket.socket, server: socket.socket) -> bool:
    """Whether a datagram gets through."""
    client.sendto(b"?", server.getsockname())
    ready, _, _ = select.select([server], [], [], 0.2)
    if ready:
        server.recv(1)
    return bool(ready)


@pytest.mark.parametrize(
    "match",
    [
        {},
        {"target": SERVER},
        {"source": CLIENTS[0], "target": SERVER, "protocol": "udp"},
        {"target": SERVER6},
        {"source": SUBSCRIBER6, "target": SERVER6, "protocol": "udp"},
    ],
)
def test_a_limit_holds_from_its_first_moment(lab: Lab, limiter: Vnf, match: dict[str, str]) -> None:
    rate, datagram = 1_000_000, bytes(1000)
    server = match.get("target", SERVER)
    with lab.udp("client", CLIENTS[0] if server == SERVER else CLIENTS6[1]) as client:
        limiter.put("a limit/1", verdict="limit", devices=[OUT], rate_mb_s=rate / 1e6, **match)
        begin = time.monotonic()
        for _ in range(3000):
            client.sendto(datagram, (server, 9))
        seen = limiter.get("a limit/1")
        elapsed = time.monotonic() - begin
    assert 0 < seen["passed_octets"] <= rate * (0.05 + elapsed) + 2000
    assert seen["passed_packets"] + seen["held_packets"] >= 3000
    assert seen["held_octets"] > 0
    assert 0 < seen["ttl_s"] <= 20


def test_measures_that_come_together_stand_or_fall_alone(lab: Lab, limiter: Vnf) -> None:
    block = {"verdict": "drop", "target": SERVER, "devices": [OUT], "ttl_s": 20}
    bodies = {f"block {address}": {**block, "source": address} for address in CLIENTS[:2]}
    assert limiter.ask("PUT", "/measures", bodies) == {"refused": {}}
    assert all(limiter.get(name)["ttl_s"] > 0 for name in bodies)
    again = {"verdict": "limit", "target": SERVER, "devices": [OUT], "rate_mb_s": 1, "ttl_s": 20}
    mixed = {"limit": again, "wrong": {**again, "ttl_s": -1}, **bodies, "x" * 101: again}
    refused = limiter.ask("PUT", "/measures", mixed)["refused"]
    assert sorted(refused) == ["wrong", "x" * 101]
    assert "ttl_s" in refused["wrong"]
    assert limiter.get("limit")["held_octets"] == 0
    for wrong in (None, {}, [again], {str(n): again for n in range(MOST_AT_ONCE + 1)}):
        assert limiter.call("PUT", "/measures", wrong)[0] == 400
    with lab.udp("client", CLIENTS[0]) as client, lab.udp("server", SERVER, 9) as server:
        assert not arrives(client, server)
        for name in bodies:
            limiter.ask("DELETE", f"/measures/{quote(name, safe='')}")
        assert arrives(client, server)


def test_an_address_is_blocked_and_others_are_not(lab: Lab, limiter: Vnf) -> None:
    lab.ip("server", "addr add 10.9.2.3/24 dev e0")
    client = lab.udp("client", CLIENTS[0])
    blocked, other = lab.udp("server", SERVER, 9), lab.udp("server", "10.9.2.3", 9)
    assert arrives(client, blocked)
    limiter.put("m", verdict="limit", devices=[OUT], target=SERVER, rate_mb_s=0)
    assert not arrives(client, blocked)
    assert arrives(client, other)
    assert limiter.get("m")["held_packets"] == 1
    assert limiter.ask("GET", "/measures")["m"]["held_packets"] == 1
    assert limiter.ask("DELETE", "/measures/m")["held_packets"] == 1
    assert arrives(client, blocked)
    assert limiter.call("GET", "/measures/m")[0] == 404
    assert limiter.call("DELETE", "/measures/m") == (200, {})


@pytest.mark.parametrize(
    ("match", "kept_out"),
    [
        ({"outside": [f"{CLIENTS[0]}/32", "10.200.0.0/16"]}, CLIENTS[1]),
        ({"outside": ["10.9.1.0/31", "10.9.1.2"]}, CLIENTS[1]),
        ({"outside": ["10.9.0.0/16"]}, None),
        ({"sources": ["10.9.1.3/32"]}, CLIENTS[1]),
        ({"sources": ["10.9.1.0/24"], "outside": [CLIENTS[1]]}, CLIENTS[0]),
    ],
)
def test_prefixes_say_who_is_kept_out(
    lab: Lab, limiter: Vnf, match: dict[str, list[str]], kept_out: str | None
) -> None:
    limiter.put("m", verdict="drop", devices=[OUT], target=SERVER, **match)
    with lab.udp("server", SERVER, 9) as server:
        for address in CLIENTS:
            with lab.udp("client", address) as client:
                assert arrives(client, server) is (address != kept_out)
    held = limiter.get("m")["held_packets"]
    assert held == (kept_out is not None)


@pytest.mark.parametrize("wrong", ["10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "10.0.0.0/8/8", "/8"])
def test_what_is_no_prefix_is_refused(limiter: Vnf, wrong: str) -> None:
    body = {"verdict": "drop", "devices": [OUT], "target": SERVER, "ttl_s": 20, "outside": [wrong]}
    status, answer = limiter.call("PUT", "/measures/m", body)
    assert status == 400
    assert "outside" in str(answer)


def test_a_rule_that_was_removed_from_outside_hinders_no_other(lab: Lab, limiter: Vnf) -> None:
    rule = {"verdict": "drop", "devices": [OUT], "target": SERVER}
    limiter.put("m", outside=["10.200.0.0/16"], **rule)
    lab.nft("delete", "table", "netdev", limiter.table)
    assert limiter.call("GET", "/measures/m")[0] >= 400
    limiter.put("n", outside=["10.200.0.0/16"], **rule)
    with lab.udp("client", CLIENTS[0]) as client, lab.udp("server", SERVER, 9) as server:
        assert not arrives(client, server)


def test_thousands_of_sources_make_one_rule(lab: Lab, limiter: Vnf) -> None:
    listed = [f"10.{n >> 8}.{n & 255}.7" for n in range(5000)]
    rule = {"verdict": "drop", "devices": [OUT], "target": SERVER}
    limiter.put("m", sources=[*listed, CLIENTS[0]], **rule)
    chains = lab.nft("list", "chain", "netdev", limiter.table, f"m{b'm'.hex()}_chain")
    assert chains.count("@m6d_sources") == 2  # to reset connections, and to drop the rest
    with (
        lab.udp("client", CLIENTS[0]) as client,
        lab.udp("client", CLIENTS[1]) as user,
        lab.udp("server", SERVER, 9) as server,
    ):
        assert not arrives(client, server)
        assert arrives(user, server)
        assert limiter.get("m")["held_packets"] == 1
        limiter.put("m", sources=[*listed, CLIENTS[1]], **rule)
        assert arrives(client, server)
        assert not arrives(user, server)
        limiter.ask("DELETE", "/measures/m")
        assert arrives(user, server)
    for wrong in ([], ["10.0.0.1", "nobody"], "10.0.0.1", ["10.0.0.1"] * 20_000):
        body = {**rule, "ttl_s": 20, "sources": wrong}
        assert limiter.call("PUT", "/measures/m", body)[0] == 400


def test_what_comes_in_by_a_device_can_be_dropped_there(lab: Lab, limiter: Vnf) -> None:
    client, server = lab.udp("client", CLIENTS[0]), lab.udp("server", SERVER, 9)
    limiter.put("m", verdict="drop", devices=["s0"], hook="ingress", target=SERVER)
    assert arrives(client, server)  # it does not come from there
    limiter.put("m", verdict="drop", devices=["c0"], hook="ingress", target=SERVER)
    assert not arrives(client, server)
    assert limiter.call(
        "PUT", "/measures/n", {"verdict": "limit", "hook": "forward", "devices": ["c0"], "ttl_s": 1}
    ) == (400, {"error": "hook must be one of egress, ingress"})


@pytest.mark.parametrize("words", [b"x", b"X-a: b\r\n" * 100])
def test_blocking_a_flow_resets_its_connections_at_the_server(
    lab: Lab, limiter: Vnf, words: bytes
) -> None:
    listener = lab.listen()
    attacker, at_attacker = lab.connect(CLIENTS[0]), lab.accept(listener)
    user, at_user = lab.connect(CLIENTS[1]), lab.accept(listener)
    exchange(attacker, at_attacker)
    limiter.put("m", verdict="drop", devices=[OUT], source=CLIENTS[0], target=SERVER)
    attacker.sendall(words)
    with pytest.raises(ConnectionResetError):
        at_attacker.recv(10_000)
    exchange(user, at_user)
    listener.settimeout(0.3)
    with lab.inside["client"].call(socket.socket) as fresh:
        fresh.bind((CLIENTS[0], 0))
        fresh.setblocking(False)
        fresh.connect_ex((SERVER, 80))
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_split_counts_every_source_in_one_part(lab: Lab, tmp_path: Path) -> None:
    for last in range(10, 26):
        lab.ip("client", f"addr add 10.9.1.{last}/24 dev e0")
    with Vnf(lab, "load-balancer", tmp_path) as vnf:
        vnf.put("s", verdict="split", devices=[OUT], parts=2, part=0)
        for last in range(10, 26):
            with lab.udp("client", f"10.9.1.{last}") as client:
                client.sendto(b"?", (SERVER, 9))
        seen = vnf.get("s")
    parts = [part["packets"] for part in seen["parts"]]
    assert sum(parts) == seen["passed_packets"] == 16
    assert min(parts) > 0


def test_a_delay_holds_each_packet_and_lets_no_more_pass_than_its_rate(
    lab: Lab, tmp_path: Path
) -> None:
    with (
        Vnf(lab, "tarpit", tmp_path) as vnf,
        lab.udp("client", CLIENTS[0]) as client,
        lab.udp("server", SERVER, 9) as server,
        lab.udp("server", SERVER, 10) as other,
    ):
        held = {"target": SERVER, "protocol": "udp", "port": 9, "delay_ms": 300}
        vnf.put("m", verdict="delay", devices=[OUT], **held)
        begin = time.monotonic()
        client.sendto(b"1", (SERVER, 9))
        client.sendto(b"2", (SERVER, 9))
        assert arrives(client, other)
        assert time.monotonic() - begin < 0.3
        assert (server.recv(1), server.recv(1)) == (b"1", b"2")
        assert 0.3 <= time.monotonic() - begin < 1.0
        seen = vnf.get("m")
        assert (seen["passed_packets"], seen["held_packets"]) == (2, 0)
        vnf.put("m", verdict="delay", devices=[OUT], **held, rate_mb_s=0.001)
        for _ in range(50):
            client.sendto(bytes(100), (SERVER, 9))
        assert len(server.recv(200)) == 100
        seen = vnf.get("m")
        assert 0 < seen["passed_packets"] <= 2
        assert seen["held_packets"] >= 45
        vnf.ask("DELETE", "/measures/m")
        assert "phd" not in lab.inside["pop"].call(Path("/proc/thread-self/net/dev").read_text)
        assert arrives(client, server)


def test_a_lease_ends_by_itself_after_kill_and_a_renewed_one_holds(
    lab: Lab, tmp_path: Path
) -> None:
    with lab.udp("client", CLIENTS[0]) as client, lab.udp("server", SERVER, 9) as server:
        with Vnf(lab, "rate-limiter", tmp_path) as vnf:
            vnf.put("m", verdict="limit", devices=[OUT], rate_mb_s=0, ttl_s=0.4)
            for _ in range(3):  # 0.2 s each
                assert vnf.ask("POST", "/lease", {"ttl_s": 0.6}) == {"measures": 1}
                assert not arrives(client, server)
            vnf.end(signal.SIGKILL)
            assert not arrives(client, server)
        time.sleep(0.6)
        assert arrives(client, server)


def test_no_packet_slips_through_while_a_lease_is_renewed(lab: Lab, limiter: Vnf) -> None:
    with lab.udp("client", CLIENTS[0]) as client, lab.udp("server", SERVER, 9) as server:
        limiter.put("m", verdict="limit", devices=[OUT], rate_mb_s=0)
        until = time.monotonic() + 1
        sending = lab.inside["client"].submit(_send_until, client, until)
        while time.monotonic() < until:
            limiter.ask("POST", "/lease", {"ttl_s": 20})
        assert sending.result() > 1000
        assert select.select([server], [], [], 0.1)[0] == []


def _send_until(client: socket.socket, until: float) -> int:
    sent = 0
    while time.monotonic() < until:
        client.sendto(b"?", (SERVER, 9))
        sent += 1
    return sent


def test_a_new_process_takes_over_what_the_killed_one_kept(lab: Lab, tmp_path: Path) -> None:
    with lab.udp("client", CLIENTS[0]) as client, lab.udp("server", SERVER, 9) as server:
        with Vnf(lab, "rate-limiter", tmp_path) as first:
            first.put("mine/é", verdict="limit", devices=[OUT], rate_mb_s=0)
            assert not arrives(client, server)
        assert first.process.returncode == -signal.SIGKILL
        with Vnf(lab, "rate-limiter", tmp_path, first.table) as second:
            assert second.get("mine/é")["held_packets"] == 1
            assert not arrives(client, server)
            second.ask("DELETE", "/measures/mine%2F%C3%A9")
            assert arrives(client, server)


def test_a_function_that_is_asked_to_end_leaves_nothing(lab: Lab, limiter: Vnf) -> None:
    limiter.put("m", verdict="limit", devices=[OUT], rate_mb_s=1)
    assert limiter.table in lab.nft("list", "tables")
    assert limiter.end() == 0
    assert lab.nft("list", "ruleset") == ""
    assert not limiter.path.exists()


def test_a_refused_measure_leaves_nothing_half_done(lab: Lab, limiter: Vnf) -> None:
    status, answer = limiter.call(
        "PUT",
        "/measures/m",
        {"verdict": "limit", "devices": ["nowhere"], "rate_mb_s": 1, "ttl_s": 1},
    )
    assert status == 409
    assert "\n" not in answer["error"]
    assert lab.nft("list", "ruleset") == ""
    assert limiter.call("GET", "/measures/m")[0] == 404
    limiter.put("m", verdict="limit", devices=[OUT], rate_mb_s=1)
    limiter.put("m", verdict="limit", devices=["c0"], rate_mb_s=2)  # instead of the first
    assert lab.nft("list", "ruleset").count("\tchain ") == 1
