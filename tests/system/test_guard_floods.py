"""``phalanx guard`` against floods of packets that ask for nothing, over real packets."""

from __future__ import annotations

import time
from itertools import product

import pytest

from phalanx.store.jsonl import read_jsonl
from tests.nightly import sample
from tests.system.guard_lab import (
    ATTACKERS,
    ATTACKERS6,
    GATEWAY,
    PORT,
    SERVER,
    SERVER6,
    USER,
    USER6,
    Visitors,
    arrived,
    end,
    network,
    of_both_families,
    said,
)

pytestmark = GATEWAY

FLOOD_S = 8
SETTLED_S = 4
"""After a flood's begin what is hostile in it does not pass any more, and users are served."""
RATE = 6000
LITTLE = 0.15
"""Share of a flood's rate that may pass: what answers for a host asks it of 500 packets/s."""
KINDS = {
    "rst": ("rst flood", "handshakes never completed"),
    "icmp": ("icmp flood", "icmp but errors"),
    "tcp-fragments": ("tcp fragment flood", "fragments of tcp"),
    "udp-fragments": ("udp fragment flood", "of udp"),
}
"""What each is called, and what is filtered if its sources are forged."""


@pytest.fixture
def lab(tmp_path):
    with of_both_families(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("kind", "forged", "user"), sample(product(KINDS, (True, False), (USER, USER6)), 3)
)
def test_it_is_named_and_stopped_and_users_are_served(lab, tmp_path, kind, user, forged):
    server, attackers = (SERVER6, ATTACKERS6) if user == USER6 else (SERVER, ATTACKERS)
    lab.serve(user)
    before, log = lab.touched(), tmp_path / "log.jsonl"
    guard = lab.guard("--log", str(log))
    said(guard, "second 0 of the log")
    lab.flood(0.1, attackers[:1], 1)  # makes the program
    visitors = Visitors(lab, user)
    try:
        time.sleep(2)
        begun = time.monotonic()
        origins = ("random",) if forged else attackers[:4]
        for origin in origins:
            words = (server, str(PORT), f"{RATE // len(origins)}", f"{FLOOD_S}", kind)
            lab.start("street", str(lab.folder / "flood"), origin, *words)
        time.sleep(SETTLED_S)
        came, at = arrived(lab), time.monotonic()
        time.sleep(2)
        rate = (arrived(lab) - came) / (time.monotonic() - at)
        time.sleep(begun + FLOOD_S - time.monotonic())
    finally:
        visitors.stop()
    end(guard)
    assert lab.touched() == before
    applied = [event.data for event in read_jsonl(log) if event.kind == "measure.applied"]
    name, what = KINDS[kind]
    of = network if user == USER6 else str
    assert any(name in data["reason"] for data in applied), applied
    if forged:
        assert any(what in data["effect"] for data in applied), applied
        assert of(user) not in {source for data in applied for source in data.get("sources", ())}
    else:
        assert {s for d in applied for s in d["sources"]} == {of(each) for each in attackers[:4]}
    assert visitors.served(begun + SETTLED_S)[user] >= 0.95
    assert rate < LITTLE * RATE
