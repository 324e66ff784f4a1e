"""``phalanx guard`` of a host with addresses of both families, over real packets."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from phalanx.infrastructure.linux.kernel import runs
from phalanx.store.jsonl import read_jsonl
from tests.system.guard_lab import (
    ATTACKERS,
    ATTACKERS6,
    GATEWAY,
    GUARDED,
    PORT,
    SERVER6,
    USER,
    USER6,
    Visitors,
    arrived,
    end,
    network,
    of_both_families,
    said,
    until,
)

pytestmark = GATEWAY

FLOOD_S = 9
SETTLED_S = 4
"""After a flood's begin users are served again."""
FORGED = "2001:db8:8:99::/64"


NETWORKS = {network(each) for each in ATTACKERS6}


@pytest.fixture
def lab(tmp_path):
    with of_both_families(tmp_path) as made:
        yield made


def phalanx(lab, *words):
    process = lab.start("gate", sys.executable, "-m", "phalanx", *words, "--site", str(lab.site))
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    return text


def listed(lab):
    return json.loads(phalanx(lab, "measures", "--json"))


def blocked(lab):
    return {source for each in listed(lab) for source in each["rule"]["rule"]["match"]["sources"]}


def neighbour(lab):
    """Return the state of the server's entry among the gateway's neighbours."""
    words = ("ip", "-j", "-6", "neigh", "show", SERVER6, "dev", GUARDED)
    found = json.loads(lab.inside("gate", *words) or "[]")
    return found[0]["state"][0] if found else ""


def attacked(lab, tmp_path, sources, rate, *more):
    """Return the rules put in force, and what was served to users during an attack."""
    lab.serve(USER6)
    lab.serve(USER)
    before = lab.touched()
    log = tmp_path / "log.jsonl"
    guard = lab.guard("--log", str(log))
    said(guard, "second 0 of the log")
    visitors = Visitors(lab, USER6, USER)
    try:
        time.sleep(2)
        lab.flood(FLOOD_S, sources, rate, *more)
        begun = time.monotonic()
        time.sleep(FLOOD_S / 2)
        lab.inside("gate", "ip", "neigh", "flush", "dev", GUARDED)
        time.sleep(FLOOD_S / 2)
    finally:
        visitors.stop()
    assert neighbour(lab) in ("REACHABLE", "DELAY", "STALE", "PROBE")
    end(guard)
    assert lab.touched() == before
    applied = [event.data for event in read_jsonl(log) if event.kind == "measure.applied"]
    served = visitors.served(begun + SETTLED_S)
    assert min(served[USER6], served[USER]) >= 0.95, served
    return applied


@pytest.mark.parametrize("more", [(), ("udp",)], ids=["syn", "udp"])
def test_named_sources_are_blocked_by_their_networks(lab, tmp_path, more):
    applied = attacked(lab, tmp_path, ATTACKERS6, 400, *more)
    assert {data["verdict"] for data in applied} == {"drop"}
    assert {source for data in applied for source in data["sources"]} == NETWORKS
    assert all(SERVER6 in data["effect"] for data in applied)


@pytest.mark.parametrize("more", [(), ("udp",)], ids=["syn", "udp"])
def test_a_flood_forged_out_of_one_network_is_blocked_as_one_source(lab, tmp_path, more):
    applied = attacked(lab, tmp_path, [FORGED], 4000, *more)
    assert {data["verdict"] for data in applied} == {"drop"}
    assert {source for data in applied for source in data["sources"]} == {FORGED}


def test_handshakes_are_answered_where_sources_are_forged_out_of_everywhere(lab, tmp_path):
    lab.serve(USER6)
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    program = lab.folder / "flood"
    lab.flood(0.1, ATTACKERS6[:1])  # makes the program
    visitors = Visitors(lab, USER6)
    try:
        lab.start("street", *(str(program), "random", SERVER6, "8000", "4000", f"{FLOOD_S}"))
        begun = time.monotonic()
        time.sleep(FLOOD_S)
    finally:
        visitors.stop()
    end(guard)
    applied = [e.data for e in read_jsonl(tmp_path / "log.jsonl") if e.kind == "measure.applied"]
    assert "proxy" in {data["verdict"] for data in applied}
    assert visitors.served(begun + SETTLED_S)[USER6] >= 0.95


def test_users_in_a_network_that_attacks_are_served(lab, tmp_path):
    """They are as users behind an IPv4 address that attacks: handshakes are answered instead."""
    applied = attacked(lab, tmp_path, [network(USER6)], 2000)
    assert {data["verdict"] for data in applied} == {"proxy"}


def test_both_addresses_are_guarded_spared_taken_over_shown_and_released(lab):
    passes = lab.passes()
    lab.serve(USER6)
    lab.serve(USER)
    site = lab.site.read_text()
    spared, other = ATTACKERS6[0], ATTACKERS6[1]
    lab.site.write_text(f"{site}allow: [{{prefix: '{spared}', reason: office}}]\n")
    guard = lab.guard()
    said(guard, "second 0 of the log")
    lab.flood(120, (*ATTACKERS6, *ATTACKERS), 300)
    want = NETWORKS | set(ATTACKERS)
    until(lambda: blocked(lab) == want, "not all are blocked")
    until(lambda: sum(m["rule"]["held_mb"] for m in listed(lab)) > 0.1, "its hits are not counted")
    assert [passes(each) for each in (spared, USER6, USER)] == [True, True, True]
    assert [passes(each) for each in (other, ATTACKERS[0])] == [False, False]
    page = phalanx(lab, "measures")
    assert max(map(len, page.splitlines())) <= 80
    assert "2001:db8:8:1" in page

    one = next(m for m in listed(lab) if m["rule"]["rule"]["match"]["target"] == SERVER6)
    phalanx(lab, "release", one["id"], "--pause")
    until(lambda: passes(other), "it is blocked still")
    assert not passes(ATTACKERS[0])
    phalanx(lab, "release", "--resume", "gate")
    until(lambda: not passes(other), "the attack goes on, and is not blocked again")

    guard.send_signal(signal.SIGKILL)
    guard.wait(10)
    assert [passes(each) for each in (other, ATTACKERS[0], USER6)] == [False, False, True]
    guard = lab.guard()
    said(guard, "still in force")
    said(guard, "second 0 of the log")
    assert [passes(each) for each in (other, spared, USER6)] == [False, True, True]

    run = lab.run
    end(guard)
    assert not runs.find(run).processes
    assert "phx_" not in lab.inside("gate", "nft", "list", "ruleset")


@pytest.mark.parametrize("port", [PORT, PORT + 1])
def test_a_standing_limit_is_of_its_port(lab, port):
    limits = f"    limits: [{{protocol: udp, port: {port}, rate_mb_s: 0.02}}]\n"
    lab.site.write_text(lab.site.read_text() + limits)
    guard = lab.guard()
    said(guard, "second 0 of the log")
    until(lambda: len(listed(lab)) == 1, "the limit is not in force")
    match = listed(lab)[0]["rule"]["rule"]["match"]
    assert (match["target"], match["protocol"], match["port"]) == (SERVER6, "udp", port)
    before, begun = arrived(lab), time.monotonic()
    lab.flood(4, [USER6], 100, "udp")  # too few for an attack
    until(lambda: arrived(lab) > before, "nothing comes")
    time.sleep(4)
    count, seconds = arrived(lab) - before, time.monotonic() - begun
    if port == PORT:
        assert count * 1062 < 0.02e6 * seconds + 70e3  # and what the bucket holds
    else:
        assert count > 350
    end(guard)


def test_under_the_published_strategy(lab, tmp_path):
    lab.serve(USER6)
    lab.site.write_text(f"{lab.site.read_text()}strategy: published\n")
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    lab.flood(10, ATTACKERS6)
    for _ in ATTACKERS6:
        said(guard, "nothing passes")
    assert lab.reachable(USER6)
    end(guard)
    effects = [
        e.data["effect"] for e in read_jsonl(tmp_path / "log.jsonl") if e.kind == "measure.applied"
    ]
    found = {effect.split("(")[1].split(",")[0] for effect in effects if "flowRate" in effect}
    assert found == NETWORKS


def test_an_address_is_written_as_packets_are_told(lab):
    site = Path(lab.site)
    text = site.read_text()
    for wrong, why in (
        ("2001:db8:8:0002::2", "as 2001:db8:8:2::2"),
        ("fe80::1", "an address of a host"),
        ("ff02::1", "an address of a host"),
        ("2001:db8::1::2", "2001:db8::1::2"),
    ):
        site.write_text(text.replace(SERVER6, f"'{wrong}'"))
        guard = lab.guard("--dry-run")
        said_, _ = guard.communicate(timeout=30)
        assert guard.returncode == 2
        assert why in said_
        assert "site.yaml: guards[1].address (line " in said_
