"""Counters of a link and of the connections towards its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from linux_needs import requires
from vnf_lab import CLIENTS, OUT, SERVER, Lab, Vnf, exchange

from phalanx.infrastructure.linux.vnf.links import COUNT_EVERY_S, MOST_HELD

pytestmark = [pytest.mark.linux, requires("ip", "nft", "nsenter")]


@pytest.fixture
def monitor(lab: Lab, tmp_path: Path) -> Iterator[Vnf]:
    with Vnf(lab, "link-monitor", tmp_path) as vnf:
        yield vnf


def test_what_leaves_by_a_link_is_counted(lab: Lab, monitor: Vnf) -> None:
    client, server = lab.udp("client", CLIENTS[0]), lab.udp("server", SERVER, 9)
    client.sendto(b"x", (SERVER, 9))
    assert server.recv(10) == b"x"  # so that both ends know their neighbours
    monitor.ask("PUT", "/links/pop%3Eserver", {"device": OUT, "connections": False})
    before = monitor.ask("GET", "/links/pop%3Eserver")
    for _ in range(10):
        client.sendto(bytes(100), (SERVER, 9))
        server.recv(200)
    after = monitor.ask("GET", "/links/pop%3Eserver")
    assert after["packets"] - before["packets"] == 10
    assert after["octets"] - before["octets"] == 10 * (100 + 8 + 20 + 14)
    assert after["time"] > before["time"]
    assert after["connections"] == 0


def test_an_answer_is_held_back_until_the_rate_changes(lab: Lab, monitor: Vnf) -> None:
    client, server = lab.udp("client", CLIENTS[0]), lab.udp("server", SERVER, 9)
    client.sendto(b"x", (SERVER, 9))
    server.recv(10)
    monitor.ask("PUT", "/links/a", {"device": OUT, "connections": False})
    calm = {"seconds": 0.05, "told": 0.0, "band": 10_000.0, "hold_s": 5.0}
    assert monitor.ask("POST", "/links/a", {"seconds": 0.05}) == {"rate": 0.0, "connections": 0}

    def flood() -> float:
        time.sleep(0.3)
        began = time.monotonic()
        for _ in range(100):
            client.sendto(bytes(958), (SERVER, 9))
        return began

    with ThreadPoolExecutor(1) as threads:
        flooded = threads.submit(flood)
        found = monitor.ask("POST", "/links/a", calm)
        answered = time.monotonic()
    assert 0 < answered - flooded.result() < 2
    assert found["rate"] > calm["band"]
    while monitor.ask("POST", "/links/a", {"seconds": 0.05})["rate"]:
        pass  # the last of the flood
    told = {**calm, "told": 1e9, "band": 1e9, "hold_s": 0.2}
    begin = time.monotonic()
    # A neighbour may be asked for its address meanwhile: that is a packet, too.
    assert monitor.ask("POST", "/links/a", told)["rate"] < calm["band"]
    assert time.monotonic() - begin >= 0.2


def test_only_so_many_answers_are_held_back(lab: Lab, monitor: Vnf) -> None:
    monitor.ask("PUT", "/links/a", {"device": OUT, "connections": False})
    hold_s, more = 2.0, 3

    def took_s(_: int) -> float:
        begin = time.monotonic()
        monitor.ask("POST", "/links/a", {"seconds": 0.1, "band": 1e9, "hold_s": hold_s})
        return time.monotonic() - begin

    with ThreadPoolExecutor(MOST_HELD + more) as threads:
        took = list(threads.map(took_s, range(MOST_HELD + more)))
    assert sum(seconds < hold_s for seconds in took) == more


def test_open_connections_are_counted_until_either_side_ends_them(lab: Lab, monitor: Vnf) -> None:
    monitor.ask("PUT", "/links/a", {"device": OUT, "connections": True})
    listener = lab.listen()
    pairs = [(lab.connect(), lab.accept(listener)) for _ in range(4)]
    for client, server in pairs:
        exchange(client, server)

    def becomes(number: int) -> bool:
        """Whether that many are counted, once the kernel has cleared away what ended."""
        until = time.monotonic() + 5
        while monitor.ask("GET", "/links/a")["connections"] != number:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    assert becomes(4)
    for first, second in (pairs[0], reversed(pairs[1])):  # the client first, the server first
        first.close()
        assert second.recv(1) == b""
        second.close()
    assert becomes(2)
    exchange(*pairs[2])
    time.sleep(COUNT_EVERY_S)
    assert becomes(2)


def test_a_link_is_counted_in_one_way_only(lab: Lab, monitor: Vnf) -> None:
    body = {"device": OUT, "connections": True}
    assert monitor.call("PUT", "/links/a", body)[0] == 201
    assert monitor.call("PUT", "/links/a", body)[0] == 201
    assert monitor.call("PUT", "/links/a", {"device": "c0", "connections": True})[0] == 409
    assert monitor.call("PUT", "/links/b", {"device": "nowhere"})[0] == 409
    assert monitor.call("GET", "/links/b")[0] == 404
    assert monitor.call("POST", "/links/b", {"seconds": 1})[0] == 404
    for wrong in ({}, {"seconds": 0}, {"seconds": 1, "hold_s": 1e9}, {"seconds": 1, "band": -1}):
        assert monitor.call("POST", "/links/a", wrong)[0] == 400
    assert monitor.call("DELETE", "/links/a")[0] == 405
    assert monitor.end() == 0
    assert lab.nft("list", "ruleset") == ""
