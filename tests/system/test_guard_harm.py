"""What ``phalanx guard`` costs honest users, with real packets: nothing, or it is taken back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.domain.events import Event
from phalanx.store.jsonl import read_jsonl
from tests.system.guard_lab import ATTACKERS, CROWD, GATEWAY, USER, Lab, Visitors, end, said

pytestmark = GATEWAY

FLOOD_S = 9
SETTLED_S = 4
"""After a flood's begin users are served again."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()


def applied(log: Path) -> list[Event]:
    return [event for event in read_jsonl(log) if event.kind == "measure.applied"]


def dropped(log: Path) -> set[str]:
    drops = [event.data for event in applied(log) if event.data["verdict"] == "drop"]
    return {source for data in drops for source in data["sources"]}


def test_users_behind_an_address_that_attacks_are_served(lab: Lab, tmp_path: Path) -> None:
    lab.serve()
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    shared = ATTACKERS[0]
    visitors = Visitors(lab, shared, USER)
    try:
        time.sleep(2)
        lab.flood(FLOOD_S)
        begun = time.monotonic()
        time.sleep(FLOOD_S)
    finally:
        visitors.stop()
    end(guard)
    served = visitors.served(begun + SETTLED_S)
    assert min(served[shared], served[USER]) >= 0.9
    assert dropped(tmp_path / "log.jsonl") == set(ATTACKERS[1:])
    verdicts = {event.data["verdict"] for event in applied(tmp_path / "log.jsonl")}
    assert verdicts == {"drop", "proxy"}


def test_a_crowd_that_comes_with_an_attack_is_served(lab: Lab, tmp_path: Path) -> None:
    lab.serve()
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    lab.flood(FLOOD_S)
    begun = time.monotonic()
    visitors = Visitors(lab, *CROWD)
    try:
        time.sleep(FLOOD_S)
    finally:
        visitors.stop()
    end(guard)
    served = visitors.served(begun + SETTLED_S)
    assert set(served) == set(CROWD)
    assert min(served.values()) >= 0.9
    assert dropped(tmp_path / "log.jsonl") == set(ATTACKERS)


def test_a_filter_after_which_nobody_is_served_is_taken_back(lab: Lab, tmp_path: Path) -> None:
    """All users, one behind an attacker's address, leave as handshakes begin to be proxied."""
    lab.serve()
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    visitors = Visitors(lab, ATTACKERS[0], *CROWD)
    try:
        time.sleep(2)
        lab.flood(FLOOD_S)
        said(guard, "clients that complete the handshake pass")
    finally:
        visitors.stop()
    time.sleep(4)
    end(guard)
    events = read_jsonl(tmp_path / "log.jsonl")
    (withdrawn,) = [event for event in events if event.kind == "measure.withdrawn"]
    assert withdrawn.data["after_mb_s"] < withdrawn.data["before_mb_s"] / 2
    (lifted,) = [event for event in events if event.kind == "measure.lifted"]
    assert lifted.data["effect"] == withdrawn.data["effect"]
