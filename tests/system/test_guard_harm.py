"""What ``phalanx guard`` costs honest users, with real packets: nothing, or it is taken back."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.domain.events import Event
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.store.jsonl import read_jsonl
from tests.system.guard_lab import (
    ATTACKERS,
    CROWD,
    GATEWAY,
    SERVER,
    USER,
    Lab,
    Visitors,
    end,
    said,
)

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


class Resolver:
    """Answers over UDP at one port of the server, and counts how many askers are answered."""

    PORT, PAUSE_S, PATIENCE_S = 53, 0.02, 0.5

    def __init__(self, lab: Lab) -> None:
        self.heard: list[tuple[float, bool]] = []
        """When each question was asked, and whether it was answered."""
        self._stop = threading.Event()
        with Inside(lab.name("server")) as inside:
            server = inside.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((SERVER, self.PORT))
        server.settimeout(0.2)
        self._threads = [threading.Thread(target=self._answer, args=(server,))]
        for address in CROWD:
            with Inside(lab.name("street")) as inside:
                asker = inside.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
            asker.bind((address, 0))
            asker.connect((SERVER, self.PORT))
            asker.settimeout(self.PATIENCE_S)
            self._threads.append(threading.Thread(target=self._ask, args=(asker,)))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def served(self, since: float) -> float:
        answers = [answered for asked, answered in self.heard if asked >= since]
        return sum(answers) / len(answers)

    def _answer(self, server: socket.socket) -> None:
        with server:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    server.sendto(b"answer", server.recvfrom(100)[1])

    def _ask(self, asker: socket.socket) -> None:
        with asker:
            while not self._stop.wait(self.PAUSE_S):
                asked = time.monotonic()
                asker.send(b"what?")
                try:
                    answered = bool(asker.recv(100))
                except OSError:
                    answered = False
                self.heard.append((asked, answered))


@pytest.mark.skipif(shutil.which("hping3") is None, reason="not installed: hping3")
def test_forged_udp_is_dropped_at_its_port_while_others_are_served_by_udp(
    lab: Lab, tmp_path: Path
) -> None:
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    resolver = Resolver(lab)
    try:
        time.sleep(2)
        pace = f"--udp --rand-source --destport 9000 --data 100 -i u300 -c {FLOOD_S * 3000}"
        lab.start("street", "hping3", "-q", *pace.split(), SERVER)
        begun = time.monotonic()
        time.sleep(FLOOD_S)
    finally:
        resolver.stop()
    end(guard)
    rules = {event.data["effect"].rpartition(", ")[2] for event in applied(tmp_path / "log.jsonl")}
    assert rules == {"udp to port 9000 that nobody answers)"}
    assert resolver.served(begun + SETTLED_S) >= 0.9


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
