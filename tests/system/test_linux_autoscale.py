"""A service on real packets: a flood gets no replica, a crowd a real one at another PoP."""

from __future__ import annotations

from pathlib import Path

import pytest

from phalanx.checking import check
from phalanx.store.jsonl import read_jsonl
from tests.system.linux_runs import Process, lacking, traces

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

ATTACKERS = {f"10.3.0.{n}" for n in range(1, 5)}
SETTLED_S = 5
"""Within this time of a change users are served again."""


def test_a_flood_gets_no_replica_and_a_crowd_gets_a_program_that_answers(tmp_path: Path) -> None:
    reason = lacking("nginx", "curl", "ip", "nft")
    if reason:
        pytest.skip(f"no runs on real packets here: {reason}")
    log = tmp_path / "log.jsonl"
    with Process("linux/autoscale.yaml", "--log", str(log)) as process:
        run = process.run()
        assert process.wait() == 0, process.text()
    assert traces(run) == []
    events = read_jsonl(log)
    assert check(events) == []
    refused = next(e for e in events if e.kind == "scaling.refused")
    assert set(refused.data["sources"]) == ATTACKERS
    applied = [e for e in events if e.kind == "measure.applied"]
    filters = [e.data for e in applied if e.data["verdict"] == "drop"]
    assert {source for data in filters for source in data["sources"]} == ATTACKERS
    changed = [e for e in events if e.kind == "traffic.changed" and e.data["group"] == "crowd"]
    came, left = changed[0].time, changed[-1].time
    (replica,) = [e for e in applied if e.data["verdict"] == "serve"]
    assert came < replica.time < left, "none came for the attackers"
    assert replica.data["pop"] != "south", "there is no room"
    (lifted,) = [e for e in events if e.kind == "measure.lifted" and "replicated" in str(e.data)]
    assert lifted.time > left
    samples = [e for e in events if e.kind == "network.sample"]

    def asked(begin: float, end: float) -> tuple[int, int]:
        hosts = [e.data["hosts"]["shop"] for e in samples if begin < e.time <= end]
        return sum(h["answered"] for h in hosts), sum(h["failed"] for h in hosts)

    assert asked(came, replica.time + 1)[1] > 0, "alone it cannot answer all"
    answered, failed = asked(replica.time + SETTLED_S, left)
    assert failed <= 0.05 * (answered + failed)
    assert answered > 1.2 * 100 * (left - replica.time - SETTLED_S), "more than it can alone"
