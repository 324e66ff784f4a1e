"""Attacks over real packets, judged by the fixed rules from what the kernel counted."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from linux_needs import requires
from tests.analytics.findings import anomalous_targets, malicious_flows
from vnf_lab import CLIENTS, CLIENTS6, OUT, SERVER, SERVER6, SUBSCRIBER6, Lab, Vnf, exchange

from phalanx.analytics.detectors import (
    ICMP_FLOOD,
    RST_FLOOD,
    SCAN,
    SLOW,
    TCP_FRAGMENTS,
    UDP_FRAGMENTS,
)
from phalanx.domain.actions import FlowStats
from phalanx.testrange import workload

pytestmark = [pytest.mark.linux, requires("ip", "nft", "nsenter")]
BOTH = [{"device": OUT, "hook": hook} for hook in ("egress", "ingress")]


@pytest.fixture
def vnf(lab: Lab, tmp_path: Path) -> Iterator[Vnf]:
    with Vnf(lab, "classifier", tmp_path) as vnf:
        yield vnf


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def recorded(answer: dict[str, Any]) -> list[FlowStats]:
    return msgspec.convert(answer["flows"], list[FlowStats])


@requires("hping3")
def test_a_scan_of_ports_is_named_as_one_and_floods_nobody(lab: Lab, vnf: Vnf) -> None:
    listener = lab.listen()
    scan = lab.start(f"hping3 -S -p ++1000 -i u3000 -c 400 -q {SERVER}")
    for _ in range(20):
        exchange(lab.connect(CLIENTS[1]), lab.accept(listener))
    answer = vnf.ask("POST", "/observations", {"devices": BOTH, "seconds": 0.8})
    scan.wait(10)
    flows = recorded(answer)
    assert len([flow for flow in flows if flow.resets]) > 100
    (found,) = malicious_flows(flows, answer["seconds"])
    assert (found.source, found.target, found.kind) == (CLIENTS[0], SERVER, SCAN)
    assert anomalous_targets(flows, answer["seconds"]) == []


@pytest.mark.parametrize("answered", [False, True])
def test_slow_connections_are_told_from_short_looks_together(
    lab: Lab, vnf: Vnf, pool: ThreadPoolExecutor, *, answered: bool
) -> None:
    """No look sees 19 of them; each counts in the look in which it begins."""
    listener, kept, flows, seconds = lab.listen(), [], [], 0.0
    body = {"devices": BOTH, "seconds": 0.4, "address": SERVER}
    for _ in range(6):
        looking = pool.submit(vnf.ask, "POST", "/observations", body)
        time.sleep(0.15)
        for _ in range(12):
            near, far = lab.connect(), lab.accept(listener)
            near.sendall(b"GET /")
            assert far.recv(5)
            if answered:
                far.sendall(b"200")
            kept.append((near, far))
        answer = looking.result()
        flows += recorded(answer)
        seconds += answer["seconds"]
        assert malicious_flows(recorded(answer), answer["seconds"]) == []
    found = malicious_flows(flows, seconds)
    assert [(f.source, f.kind) for f in found] == ([] if answered else [(CLIENTS[0], SLOW)])


KINDS = {
    "rst": RST_FLOOD,
    "icmp": ICMP_FLOOD,
    "tcp-fragments": TCP_FRAGMENTS,
    "udp-fragments": UDP_FRAGMENTS,
}


@requires("cc")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("origin", ["one", "random"])
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_floods_of_packets_that_ask_for_nothing_are_named(  # fixtures
    lab: Lab,
    vnf: Vnf,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    kind: str,
    origin: str,
    *,
    six: bool,
) -> None:
    server, (user, attacker) = (SERVER6, CLIENTS6[:2]) if six else (SERVER, CLIENTS)
    listener = lab.listen(80, server)
    program, source = tmp_path / "flood", Path(workload.__file__).with_name("flood.c")
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)  # noqa: S607
    exchange(lab.connect(user), lab.accept(listener))
    flood = lab.start(
        f"{program} {attacker if origin == 'one' else origin} {server} 81 4000 2 {kind}"
    )
    time.sleep(0.2)
    body = {"devices": BOTH, "seconds": 1.0, "address": server}
    looking = pool.submit(vnf.ask, "POST", "/observations", body)
    while not looking.done():
        exchange(lab.connect(user), lab.accept(listener))
        time.sleep(0.02)
    answer = looking.result()
    assert flood.wait(10) == 0
    flows = recorded(answer)
    (target,) = anomalous_targets(flows, answer["seconds"])
    assert (target.target, target.kind) == (server, KINDS[kind])
    named = malicious_flows(flows, answer["seconds"])
    if origin == "one":
        subscriber = SUBSCRIBER6 if six else attacker
        assert [(f.source, f.kind) for f in named] == [(subscriber, KINDS[kind])]
    else:
        assert target.spoofed
        assert named == []


def test_echoes_of_users_and_fragments_of_what_is_answered_are_no_attack(
    lab: Lab, vnf: Vnf, pool: ThreadPoolExecutor
) -> None:
    client, server = lab.udp("client", CLIENTS[0]), lab.udp("server", SERVER, 53)
    client.connect((SERVER, 53))
    body = {"devices": BOTH, "seconds": 0.8, "address": SERVER}
    looking = pool.submit(vnf.ask, "POST", "/observations", body)
    time.sleep(0.2)
    for _ in range(100):  # four packets each
        client.send(bytes(5000))
        data, back = server.recvfrom(65_536)
        server.sendto(data[:10], back)
        assert client.recv(10)
    answer = looking.result()
    flows = recorded(answer)
    assert {(f.port, f.fragments > 0, f.replies > 0) for f in flows} == {
        (0, True, False),
        (53, False, True),
    }
    assert malicious_flows(flows, answer["seconds"]) == []
    assert anomalous_targets(flows, answer["seconds"]) == []
