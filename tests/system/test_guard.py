"""``phalanx guard`` on a gateway, with real packets: what it does, touches and leaves."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from phalanx.infrastructure.linux.journal import LeaseJournal
from phalanx.infrastructure.linux.kernel import runs
from phalanx.store.jsonl import read_jsonl
from tests.system.guard_lab import ATTACKERS, GATEWAY, GUARDED, SERVER, USER, Lab, end, said, until

pytestmark = GATEWAY


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_flood_under_the_published_strategy(lab, tmp_path):
    lab.serve()
    before = lab.touched()
    lab.site.write_text(f"{lab.site.read_text()}strategy: published\n")
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    lab.flood(10)
    for _ in ATTACKERS:
        said(guard, "nothing passes")

    assert lab.reachable()
    rules = lab.inside("gate", "nft", "list", "ruleset")
    assert set(re.findall(r'devices? (?:= )?\{? ?"?(\w+)"?', rules)) == {GUARDED}
    assert all(name.startswith("phx_") for name in re.findall(r"^table \w+ (\w+)", rules, re.M))
    for name, found in lab.touched().items():
        assert name in ("rules", "processes") or found == before[name], name

    run = lab.run
    assert "rules and processes are gone" in end(guard)
    assert lab.touched() == before
    assert not runs.find(run).processes
    assert not runs.folder(run).exists()
    journal = LeaseJournal(lab.state / "leases.db")
    assert journal.remaining() == []  # a later guard has nothing to take up
    journal.close()
    applied = [
        e.data["effect"] for e in read_jsonl(tmp_path / "log.jsonl") if e.kind == "measure.applied"
    ]
    blocked = {effect.split("(")[1].split(",")[0] for effect in applied if "flowRate" in effect}
    assert blocked == set(ATTACKERS)


def test_flood(lab, tmp_path):
    lab.serve()
    before = lab.touched()
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    lab.flood(10)
    said(guard, "nothing passes")

    assert lab.reachable()
    rules = lab.inside("gate", "nft", "list", "ruleset")
    assert set(re.findall(r'devices? (?:= )?\{? ?"?(\w+)"?', rules)) == {GUARDED}
    end(guard)
    assert lab.touched() == before
    applied = [e.data for e in read_jsonl(tmp_path / "log.jsonl") if e.kind == "measure.applied"]
    assert {data["verdict"] for data in applied} == {"drop"}
    blocked = {source for data in applied for source in data["sources"]}
    assert blocked
    assert blocked <= set(ATTACKERS)


def test_dry_run_touches_nothing(lab):
    before = lab.touched()
    guard = lab.guard("--dry-run")
    plan, _ = guard.communicate(timeout=20)
    assert guard.returncode == 0
    assert f"counters on {GUARDED}" in plan
    assert lab.touched() == before
    assert not lab.state.exists()


@pytest.mark.parametrize("rebooted", [False, True])
def test_two_blocks_survive_a_kill_and_end_in_time(lab, tmp_path, rebooted):
    passes = lab.passes()
    first, second = ATTACKERS[:2]
    script = Path(__file__).with_name("guard_driver.py")
    leases = f"{first}:6", f"{second}:9"
    killed = lab.start("gate", sys.executable, str(script), str(lab.site), SERVER, *leases)
    told = [json.loads(said(killed, "until")) for _ in range(2)]
    assert all(line["outcome"].startswith("Done") for line in told)
    until_when = {line["source"]: line["until"] for line in told}
    assert not passes(first)
    assert passes(USER)

    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [passes(address) for address in (first, second, USER)] == [False, False, True]
    if rebooted:
        runs.kill(lab.run)
        lab.inside("gate", "nft", "flush", "ruleset")
        assert passes(first)

    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "still in force")
    said(guard, "second 0 of the log")
    assert [passes(address) for address in (first, second, USER)] == [False, False, True]
    for address in (first, second):
        until(lambda a=address: passes(a), f"{address} is blocked for ever")
        assert time.monotonic() == pytest.approx(until_when[address], abs=1.0)

    end(guard)
    recovered = [
        e.data["measure"] for e in read_jsonl(tmp_path / "log.jsonl") if e.kind == "lease.recovered"
    ]
    assert sorted(recovered) == [f"block {first}", f"block {second}"]
