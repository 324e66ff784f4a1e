"""An attack in real packets: Suricata finds it, the loop decides, and its source is shut out."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from tests.system.conftest import SCENARIOS
from tests.system.linux_runs import Process, lacking, traces

from phalanx.domain.events import Event
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.reporting.event_text import describe
from phalanx.runtime.linux_environment import LinuxEnvironment
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import System
from phalanx.store.jsonl import read_jsonl

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

SERVER = "10.0.6.10"
CLIMBS = f"http://{SERVER}:8000/../../etc/passwd"
PAGE = f"http://{SERVER}:8000/"


@pytest.fixture(autouse=True)
def able() -> None:
    reason = lacking("nginx", "ip", "nft", "curl", "suricata")
    if reason:
        pytest.skip(f"no IDS on real packets here: {reason}")


def plan(folder: Path) -> Path:
    raw = yaml.safe_load((SCENARIOS / "linux" / "udp-flood.yaml").read_text(encoding="utf-8"))
    for group in raw["traffic"]:
        if group["name"] == "attackers":  # its namespace is all that is used
            group |= {"name": "intruder", "count": 1, "at": ["pop2"], "start_s": 90, "end_s": 91}
    raw["functions"] = {"firewall": {"image_mb": 1, "boot_s": 0}, "ids": {"boot_s": 0}}
    raw |= {"monitors": [], "goals": {}, "parameters": {"ids_hold_s": 4}, "duration_s": 22}
    raw["slices"] = {
        "functions": [
            {"name": "web", "kind": "UPF", "host": "server", "capabilities": ["intrusion-guard"]}
        ],
        "subnets": [{"name": "core", "domain": "CN", "functions": ["web"]}],
        "slices": [{"name": "iot", "s_nssai": {"sst": 3}, "subnets": ["core"]}],
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def ask(run: str, url: str, *options: str) -> bool:
    """Ask for a page in the intruder's namespace; whether anything was answered."""
    words = ["ip", "netns", "exec", f"phx-{run}-intruder-1", "curl", "-s", "--path-as-is"]
    done = subprocess.run(
        [*words, "--max-time", "0.7", "-o", "/dev/null", *options, url], check=False
    )
    return done.returncode == 0


def until(seconds: float, *, answered: bool, run: str) -> bool:
    """Ask for a page again and again until it is answered, or not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ask(run, PAGE) is answered:
            return True
        time.sleep(0.1)
    return False


def of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event.kind == kind]


def test_suricata_finds_an_attack_and_the_loop_has_its_source_shut_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with Process(str(plan(tmp_path)), "--log", str(log)) as process:
        run = process.run()
        process.line(rf"inspected\(iot, web, {SERVER}\) is in force at pop6")
        assert until(5, answered=True, run=run)
        assert ask(run, CLIMBS)  # refused by the server itself; the source is found all the same
        assert until(8, answered=False, run=run)
        assert until(10, answered=True, run=run)  # it is let in again after a while
        assert process.wait() == 0, process.text()
    events = list(read_jsonl(log))
    found = of(events, "trouble.diagnosed")
    assert [(e.agent, e.data["detector"], e.data["evidence"]["rule"]) for e in found] == [
        ("pop6", "suricata", 9100001.0)
    ]
    copied, closed = of(events, "measure.applied")
    assert describe(copied).endswith(f"it gets copies of what goes to {SERVER}, and of answers")
    source = found[0].data["reason"].split()[3]
    assert closed.data["effect"] == f"firewalled(iot, web, {SERVER}, , 0, {source})"
    assert found[0].time < closed.time < found[0].time + 5
    passed = [(e.agent, e.data["to"]) for e in of(events, "loop.passed")]
    assert passed == [("sem-web", "pop6"), ("pop6", "sem-web"), ("sem-web", "pop6")]
    assert [e.data["goal"] for e in of(events, "loop.unrelieved")] == []
    assert [e.data for e in events if e.kind in ("driver.failed", "vnf.crashed")] == []
    assert traces(run) == []


def test_suricata_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """Its VNF ends with it, and is deployed anew: a loop wants it for as long as it lives."""
    log = tmp_path / "log.jsonl"
    with Process(str(plan(tmp_path)), "--log", str(log), "--until", "12") as process:
        run = process.run()
        process.line(rf"inspected\(iot, web, {SERVER}\) is in force at pop6")
        (mine,) = suricatas(run)
        os.kill(int(mine), signal.SIGKILL)
        process.line(r"ended unexpectedly: its process ended: exit code")
        assert process.wait() == 0, process.text()
    events = list(read_jsonl(log))
    applied = [e.data["effect"] for e in of(events, "measure.applied")]
    assert applied == [f"inspected(iot, web, {SERVER})"] * 2
    assert traces(run) == []


def suricatas(run: str) -> list[str]:
    """Return the ids of the processes of Suricata in one run."""
    held = f"PHALANX_RUN={run}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes().split(b"\0")[0]
            if name == b"suricata" and held in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_without_suricata_it_is_refused_by_name_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.runtime.linux_environment.tool", lambda _: None)
    scenario = load_scenario(plan(tmp_path))
    with pytest.raises(KernelError, match=r"^functions\.ids: suricata is not installed; "):
        System(scenario, environment=LinuxEnvironment())
