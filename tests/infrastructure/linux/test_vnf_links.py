"""Counters of a link and of the connections towards its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linux_needs import requires
from vnf_lab import CLIENTS, OUT, SERVER, Lab, Vnf, exchange, lab_in

from phalanx.infrastructure.linux.vnf.links import COUNT_EVERY_S

pytestmark = [pytest.mark.linux, requires("ip", "nft", "nsenter")]


@pytest.fixture
def lab(netns: Callable[[str], str]) -> Iterator[Lab]:
    with lab_in(netns) as made:
        yield made


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
    assert monitor.end() == 0
    assert lab.nft("list", "ruleset") == ""
