"""What an operator asks of ``phalanx guard``, over real packets: spare, observe, show, release."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from phalanx.infrastructure.linux.kernel import runs
from phalanx.store.jsonl import read_jsonl
from tests.system.guard_lab import ATTACKERS, GATEWAY, SERVER, USER, Lab, end, said, until

pytestmark = GATEWAY

ROOT = Path(__file__).parents[2]
ALLOW = "allow:\n  - prefix: {}\n    reason: office\n"


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()


def phalanx(lab, *words, code=0):
    process = lab.start("gate", sys.executable, "-m", "phalanx", *words, "--site", str(lab.site))
    text, _ = process.communicate(timeout=60)
    assert process.returncode == code, text
    return text


def listed(lab):
    return json.loads(phalanx(lab, "measures", "--json"))


def blocked(lab):
    return {source for each in listed(lab) for source in each["rule"]["rule"]["match"]["sources"]}


def test_an_allowed_attacker_passes_and_entries_added_meanwhile_or_while_none_runs_free_it(lab):
    lab.serve()
    passes = lab.passes()
    first, second = ATTACKERS[:2]
    site = lab.site.read_text()
    lab.site.write_text(site + ALLOW.format(first))
    guard = lab.guard()
    said(guard, "second 0 of the log")
    lab.flood(180)
    assert f"is allowed: {first} is in the allow list (office); not blocked" in said(guard, first)
    until(lambda: blocked(lab) == set(ATTACKERS[1:]), "not all others are blocked")
    assert [passes(address) for address in (first, second, USER)] == [True, False, True]

    lab.site.write_text(site + ALLOW.format(first) + ALLOW.format(second).partition("\n")[2])
    guard.send_signal(signal.SIGHUP)
    said(guard, "the allow list has 2 prefixes now")
    until(lambda: passes(second), "what is allowed now is still blocked")
    until(lambda: blocked(lab) == set(ATTACKERS[2:]), "the others are not blocked any more")
    lab.site.write_text(site + "allow: [{prefix: nonsense, reason: x}]\n")
    guard.send_signal(signal.SIGHUP)
    assert "nonsense is no address or prefix" in said(guard, "the allow list stays as it is")
    assert guard.poll() is None

    guard.kill()
    guard.wait(10)
    assert not passes(ATTACKERS[2])
    lab.site.write_text(site + ALLOW.format("10.8.1.0/28"))
    guard = lab.guard()
    said(guard, "second 0 of the log")
    until(lambda: passes(ATTACKERS[2]), "what was allowed while nobody ran is still blocked", 5)
    assert [passes(address) for address in (ATTACKERS[-1], USER)] == [False, True]

    guard.kill()
    guard.wait(10)
    guard = lab.guard("--observe")
    said(guard, "second 0 of the log")
    until(lambda: passes(ATTACKERS[-1]), "what only observes has taken a block over", 5)
    end(guard)


@pytest.mark.skipif(shutil.which("hping3") is None, reason="not installed: hping3")
def test_a_limit_of_a_port_is_always_in_force_and_of_that_port_alone(lab):
    """125 packets/s of 142 octets are 0.018 MB/s: too few for an attack."""
    limits = "    limits: [{protocol: udp, port: 9000, rate_mb_s: 0.005}]\n"
    lab.site.write_text(lab.site.read_text() + limits)
    guard = lab.guard()
    said(guard, "second 0 of the log")
    until(lambda: len(listed(lab)) == 1, "the limit is not in force")
    match = listed(lab)[0]["rule"]["rule"]["match"]
    assert (match["target"], match["protocol"], match["port"]) == (SERVER, "udp", 9000)

    def passed(port):
        before, begun = arrived(lab), time.monotonic()
        pace = f"--udp --spoof {USER} --destport {port} --data 100 -i u8000 -c 500"
        lab.inside("street", "sh", "-c", f"hping3 -q {pace} {SERVER} || true")  # nothing answers
        return arrived(lab) - before, time.monotonic() - begun

    count, seconds = passed(9000)
    assert count * 142 < 0.005e6 * seconds + 20e3  # and what the bucket holds
    count, _ = passed(9001)
    assert count > 450
    (limit,) = listed(lab)
    assert limit["rule"]["held_mb"] > 0
    end(guard)


def arrived(lab):
    """Return how many packets the server's interface has received."""
    table = lab.inside("server", "cat", "/proc/self/net/dev")
    return int(table.partition("eth:")[2].split()[1])


def test_what_only_observes_says_what_it_would_do_and_drops_nothing(lab, tmp_path):
    lab.serve()
    passes = lab.passes()
    guard = lab.guard("--observe", "--log", str(tmp_path / "log.jsonl"))
    said(guard, "nothing is enforced")
    said(guard, "second 0 of the log")
    lab.flood(120)
    assert "at gate: syn flood by" in said(guard, "would block 10.8.1.")
    until(lambda: blocked(lab) == set(ATTACKERS), "not all would be blocked")
    assert "would block" in phalanx(lab, "measures")
    assert all(passes(address) for address in ATTACKERS)
    rules = lab.inside("gate", "nft", "list", "ruleset")
    assert "phx_" in rules  # what observes is real
    assert not re.search(r"\b(drop|reject|reset|synproxy)\b", rules)
    end(guard)
    kinds = {event.kind for event in read_jsonl(tmp_path / "log.jsonl")}
    assert "measure.withheld" in kinds
    assert "measure.applied" not in kinds


def test_measures_are_shown_and_released(lab):
    lab.serve()
    passes = lab.passes()
    guard = lab.guard()
    said(guard, "second 0 of the log")
    assert "nothing is in force at 1 agent" in phalanx(lab, "measures")
    lab.flood(180)
    until(lambda: blocked(lab) == set(ATTACKERS), "not all are blocked")
    until(lambda: sum(m["rule"]["held_mb"] for m in listed(lab)) > 0.1, "its hits are not counted")
    page = phalanx(lab, "measures")
    assert max(map(len, page.splitlines())) <= 80
    assert "flood" in page
    one = listed(lab)[0]
    assert one["rule"]["reason"] == "syn flood by 8 sources"
    assert 0 < one["lease_left_s"] <= 15
    assert one["rule"]["age_s"] > 0

    assert "bids for nothing" in phalanx(lab, "release", one["id"], "--pause")
    attacker = one["rule"]["rule"]["match"]["sources"][0]
    until(lambda: passes(attacker), "it is blocked still")
    assert "root" in said(guard, "does what operator")
    assert one["id"] not in {each["id"] for each in listed(lab)}
    assert "no measure" in phalanx(lab, "release", one["id"], code=2)
    assert "bids again" in phalanx(lab, "release", "gate", "--resume")
    until(lambda: not passes(attacker), "the attack goes on, and is not blocked again")

    path = runs.folder(lab.run) / "control"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for hostile in (b"\n", b"{}\n", b'{"operation": "drain", "request": {}}\n', b"\xff" * 70_000):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(10)
            caller.connect(str(path))
            caller.sendall(hostile)
            caller.shutdown(socket.SHUT_WR)
            assert b"not understood" in caller.makefile("rb").readline()
    assert blocked(lab) == set(ATTACKERS)
    end(guard)
    assert "no guard runs with the state" in phalanx(lab, "measures", code=2)
    assert SERVER not in lab.inside("gate", "nft", "list", "ruleset")


def test_the_commands_of_the_page_run_as_they_stand(lab, tmp_path):
    """Only paths differ: the site file's, and the program's, which is that of this checkout."""
    pytest.importorskip("prometheus_client", reason="not installed: the extra metrics")
    page = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- run beside a guard -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert [word in "".join(blocks) for word in ("measures", "release", "metrics")] == [True] * 3
    program = tmp_path / "bin" / "phalanx"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m phalanx "$@"\n')
    program.chmod(0o755)
    script = f"PATH={program.parent}:$PATH\n" + "".join(blocks)
    script = script.replace("/etc/phalanx/site.yaml", str(lab.site))
    lab.site.write_text(lab.site.read_text() + 'metrics: "9464"\n')
    lab.inside("gate", "ip", "link", "set", "lo", "up")
    lab.serve()
    guard = lab.guard()
    said(guard, "second 0 of the log")
    lab.flood(180)
    until(lambda: blocked(lab) == set(ATTACKERS), "not all are blocked")
    told = lab.inside("gate", "sh", "-ec", script)
    assert "block 10.8.1.11" in told
    assert "takes it back" in told
    assert 'phalanx_measures_in_force{verdict="drop"}' in told
    end(guard)
