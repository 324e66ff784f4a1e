"""Handshakes answered for a server: what lives on, what gets through, what does not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from linux_needs import requires
from vnf_lab import CLIENTS, SERVER, Lab, Vnf, exchange

from phalanx.infrastructure.linux.vnf.netlink import INET, NetlinkReader
from phalanx.infrastructure.linux.vnf.nft import Nft

pytestmark = [pytest.mark.linux, requires("ip", "nft", "nsenter")]

FLOOD = f"hping3 -S -p 80 --rand-source -i u200 -c 2000 -q {SERVER}"


@pytest.fixture
def proxy(lab: Lab, tmp_path: Path) -> Iterator[Vnf]:
    with Vnf(lab, "syn-proxy", tmp_path) as vnf:
        yield vnf


def test_connections_live_on_when_a_proxy_comes_and_goes(lab: Lab, proxy: Vnf) -> None:
    listener = lab.listen()
    talks, listens = lab.connect(), lab.connect()
    far_talks, far_listens = lab.accept(listener), lab.accept(listener)
    exchange(talks, far_talks)
    proxy.put("p", verdict="proxy", devices=[], target=SERVER)
    exchange(talks, far_talks)  # here the client speaks first
    far_listens.sendall(b"news")  # and here the server
    assert listens.recv(4) == b"news"
    new, far_new = meet(lab, listener)
    exchange(new, far_new, b"x" * 1000)
    exchange(talks, far_talks)
    seen = proxy.get("p")
    assert (seen["passed_packets"], seen["held_packets"]) == (1, 0)
    proxy.ask("DELETE", "/measures/p")
    for client, server in ((new, far_new), (talks, far_talks), (listens, far_listens)):
        exchange(client, server)
    exchange(lab.connect(), lab.accept(listener))
    talks.close()
    assert far_talks.recv(1) == b""


def test_settings_of_the_namespace_come_back_with_the_end_of_the_process(
    lab: Lab, proxy: Vnf
) -> None:
    loose = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
    lab.inside["pop"].call(loose.write_text, "1")
    proxy.put("p", verdict="proxy", devices=[], target=SERVER)
    assert lab.inside["pop"].call(loose.read_text) == "0\n"
    proxy.put("p", verdict="proxy", devices=[], target=SERVER)
    assert proxy.end() == 0
    assert lab.inside["pop"].call(loose.read_text) == "1\n"


@requires("hping3")
def test_a_flood_from_forged_sources_does_not_reach_the_server(lab: Lab, proxy: Vnf) -> None:
    lab.inside["server"].call(count_syns)
    listener = lab.listen()
    before, far = lab.connect(), lab.accept(listener)
    proxy.put("p", verdict="proxy", devices=[], target=SERVER)
    flood = lab.start(FLOOD)
    for source in CLIENTS * 3:
        meet(lab, listener, source)
        exchange(before, far)
        time.sleep(0.03)
    flood.wait(10)
    seen = proxy.get("p")
    assert seen["held_packets"] > 1000
    assert seen["passed_packets"] == 6
    assert lab.inside["server"].call(syns) == 7  # one of them before the proxy


@requires("hping3")
def test_forged_acknowledgements_make_no_connection_known(lab: Lab, proxy: Vnf) -> None:
    lab.listen()
    proxy.put("p", verdict="proxy", devices=[], target=SERVER)
    lab.start(f"hping3 -A -P -d 10 -p 80 --rand-source -i u1000 -c 200 -q {SERVER}").wait(10)
    assert "elements" not in lab.nft("list", "set", "inet", proxy.table, "m70_known")


def test_a_proxy_ends_with_its_lease(lab: Lab, proxy: Vnf) -> None:
    listener = lab.listen()
    proxy.put("p", verdict="proxy", devices=[], target=SERVER, ttl_s=0.1)
    time.sleep(0.2)
    assert proxy.call("GET", "/measures/p")[0] == 404
    exchange(lab.connect(), lab.accept(listener))
    listing = lab.nft("list", "counter", "inet", proxy.table, "m70_asked")
    assert "packets 0" in listing  # nobody answered for the server


def meet(
    lab: Lab, listener: socket.socket, source: str = CLIENTS[0]
) -> tuple[socket.socket, socket.socket]:
    """Connect through the proxy. The client speaks first, as in HTTP."""
    client = lab.connect(source)
    client.sendall(b"GET")
    server = lab.accept(listener)
    assert server.recv(3) == b"GET"
    return client, server


def count_syns() -> None:
    Nft().run(
        "add table inet seen; add counter inet seen syn; "
        "add chain inet seen input { type filter hook input priority 0; }; "
        "add rule inet seen input tcp flags & (syn | ack) == syn counter name syn"
    )


def syns() -> int:
    reader = NetlinkReader()
    try:
        return reader.counter(INET, "seen", "syn")[0]
    finally:
        reader.close()
