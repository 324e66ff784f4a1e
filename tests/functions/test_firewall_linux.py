"""The firewall over real packets: nftables drops what is closed, and nothing else."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
import yaml
from tests.system.conftest import SCENARIOS
from tests.system.linux_runs import Process, lacking, traces

from phalanx.store.jsonl import read_jsonl

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

CLOSING = Path(__file__).parent / "closing.py"


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    reason = lacking("nginx", "ip", "nft")
    if reason:
        pytest.skip(f"no runs on real packets here: {reason}")


def test_a_port_is_closed_over_real_packets_and_opened_again(tmp_path: Path) -> None:
    raw = yaml.safe_load((SCENARIOS / "linux" / "udp-flood.yaml").read_text(encoding="utf-8"))
    raw["traffic"] = [group for group in raw["traffic"] if group["name"] != "attackers"]
    for group, demand in zip(raw["traffic"], (0.015, 0.0025), strict=True):
        group["demand_mb_s"] = demand
    raw["functions"] = {"firewall": {"image_mb": 1, "boot_s": 0}, "gateway": {}}
    raw |= {"monitors": [], "goals": {}, "parameters": {}, "duration_s": 18}
    raw["agents"] = [{"name": "closing", "pop": "pop6", "capabilities": ["closing"]}]
    plan, log = tmp_path / "plan.yaml", tmp_path / "log.jsonl"
    plan.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with Process(str(plan), "--log", str(log), "--function", f"{CLOSING}:Closing") as process:
        mark = process.run()
        assert process.wait() == 0, process.text()
    events = read_jsonl(log)
    effects = {e.data["effect"]: e for e in events if e.kind == "measure.applied"}
    assert effects.keys() == {"firewalled(, , 10.0.6.10, tcp, 8080, )", "encrypted(, , 10.0.6.10)"}
    applied = effects["firewalled(, , 10.0.6.10, tcp, 8080, )"]
    (lifted,) = [e for e in events if e.kind == "measure.lifted" and e.time < 15]
    got: dict[bool, list[float]] = {True: [], False: []}
    for sample in (e for e in events if e.kind == "network.sample" and e.time > 3):
        closed = applied.time + 1 < sample.time < lifted.time
        if closed or not applied.time <= sample.time <= lifted.time + 2:
            got[closed].append(sample.data["hosts"]["server"]["legitimate_mb_s"])
    share = fmean(got[True]) / fmean(got[False])
    assert 0.2 < share < 0.7  # of 0.2 MB/s, 0.12 go to the port that was closed
    assert [e.data for e in events if e.kind in ("driver.failed", "vnf.crashed")] == []
    assert traces(mark) == []
