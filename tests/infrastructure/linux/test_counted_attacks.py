"""Attacks over real packets, judged by the fixed rules from what the kernel counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from linux_needs import requires
from tests.analytics.findings import anomalous_targets, malicious_flows
from vnf_lab import CLIENTS, OUT, SERVER, Lab, Vnf, exchange

from phalanx.analytics.detectors import SCAN, SLOW
from phalanx.domain.actions import FlowStats

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
