"""Flows and connections counted in the kernel, against what real sockets did."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from linux_needs import requires
from vnf_lab import BOTH, CLIENTS, OUT, SERVER, Lab, Vnf, exchange, watching

pytestmark = [pytest.mark.linux, requires("ip", "nft", "nsenter")]


MIRRORED = [{"device": "m1", "hook": "ingress"}]


def mirror(lab: Lab) -> None:
    """Copy both directions of what passes ``OUT`` to one device."""
    lab.ip("pop", "link add name m0 type veth peer name m1")
    for device in ("m0", "m1"):
        lab.ip("pop", f"link set dev {device} up")
    lab.nft("add table netdev mirror")
    for hook in ("egress", "ingress"):
        kind = f"type filter hook {hook} device {OUT} priority 1"
        lab.nft(f"add chain netdev mirror {hook} {{ {kind}; }}")
        lab.nft(f"add rule netdev mirror {hook} meta l4proto {{ tcp, udp }} dup to m0")


@pytest.fixture
def classifier(lab: Lab, tmp_path: Path) -> Iterator[Vnf]:
    with Vnf(lab, "classifier", tmp_path) as vnf:
        yield vnf


@pytest.fixture
def watch(lab: Lab, classifier: Vnf) -> Iterator[Callable[..., Future[Any]]]:
    with watching(lab, classifier) as begin:
        yield begin


@pytest.mark.parametrize("about", [{"address": SERVER}, {}], ids=["address", "link"])
def test_connections_are_told_apart_by_what_became_of_them(
    lab: Lab, watch: Callable[..., Future[Any]], about: dict[str, str]
) -> None:
    listener = lab.listen()
    old, far_old = lab.connect(), lab.accept(listener)
    seen = watch(**about)
    answered, far = lab.connect(), lab.accept(listener)
    exchange(answered, far)
    slow, far_slow = lab.connect(), lab.accept(listener)
    slow.sendall(b"GET /")
    assert far_slow.recv(5)
    ended, far = lab.connect(), lab.accept(listener)
    exchange(ended, far)
    far.close()
    ended.close()
    old.sendall(b"x")
    assert far_old.recv(1)
    closed = seen.result()
    (flow,) = closed["flows"]
    assert (flow["source"], flow["target"], flow["port"]) == (CLIENTS[0], SERVER, 80)
    assert flow["protocol"] == "tcp"
    # The server attests the old connection too; of those it answered, one has ended.
    counted = {name: flow[name] for name in ("syn", "established", "answered", "open")}
    assert counted == {"syn": 3, "established": 4, "answered": 2, "open": 3}
    assert 0 < flow["replies"] < 40
    assert flow["packets"] == closed["packets"]
    assert flow["octets"] == closed["octets"]
    assert closed["unlisted"] == 0
    assert closed["seconds"] >= 0.8


@requires("hping3")
def test_a_flood_completes_nothing(lab: Lab, watch: Callable[..., Future[Any]]) -> None:
    lab.listen()
    seen = watch(address=SERVER)
    lab.start(f"hping3 -S -p 80 -i u1000 -c 100 -q {SERVER}").wait(10)
    (flow,) = seen.result()["flows"]
    assert flow["syn"] > 50
    assert (flow["established"], flow["answered"], flow["open"]) == (0, 0, 0)
    assert flow["replies"] > 50


def test_datagrams_and_replies(lab: Lab, watch: Callable[..., Future[Any]]) -> None:
    client, server = lab.udp("client", CLIENTS[1]), lab.udp("server", SERVER, 53)
    seen = watch(address=SERVER)
    for _ in range(3):
        client.sendto(b"?", (SERVER, 53))
    server.sendto(b"!", client.getsockname())
    (flow,) = seen.result()["flows"]
    assert (flow["source"], flow["port"], flow["protocol"]) == (CLIENTS[1], 53, "udp")
    assert (flow["packets"], flow["octets"], flow["replies"]) == (3, 3 * (14 + 20 + 8 + 1), 1)


def test_the_parts_of_the_sources_are_those_of_a_split(lab: Lab, tmp_path: Path) -> None:
    sources = [f"10.9.1.{last}" for last in range(10, 26)]
    for source in sources:
        lab.ip("client", f"addr add {source}/24 dev e0")
    found: list[set[str]] = []
    with (
        Vnf(lab, "anomaly-detector", tmp_path) as vnf,
        Vnf(lab, "load-balancer", tmp_path) as balancer,
        ThreadPoolExecutor(2) as pool,
    ):
        balancer.put("s", verdict="split", devices=[OUT], parts=2, part=0)
        bodies = [
            {"devices": BOTH, "seconds": 0.8, "address": SERVER, "part": part, "parts": 2}
            for part in range(2)
        ]
        seen = [pool.submit(vnf.ask, "POST", "/observations", body) for body in bodies]
        time.sleep(0.3)
        for source in sources:
            lab.udp("client", source).sendto(b"?", (SERVER, 9))
        found = [{flow["source"] for flow in part.result()["flows"]} for part in seen]
        split = [part["packets"] for part in balancer.get("s")["parts"]]
    assert sorted(found[0] | found[1]) == sorted(sources)
    assert not found[0] & found[1]
    assert split == [len(part) for part in found]


def test_a_mirror_of_both_directions_is_sorted_by_who_opens(
    lab: Lab, watch: Callable[..., Future[Any]]
) -> None:
    listener = lab.listen()
    mirror(lab)
    seen = watch(devices=MIRRORED)
    exchange(lab.connect(), lab.accept(listener))
    (flow,) = seen.result()["flows"]
    assert (flow["source"], flow["target"], flow["port"]) == (CLIENTS[0], SERVER, 80)
    assert (flow["syn"], flow["established"], flow["answered"], flow["open"]) == (1, 1, 1, 1)


def test_a_mirrored_packet_counts_once(lab: Lab, watch: Callable[..., Future[Any]]) -> None:
    client, server = lab.udp("client", CLIENTS[1]), lab.udp("server", SERVER, 53)
    mirror(lab)
    seen = watch(devices=MIRRORED)
    for _ in range(3):
        client.sendto(b"?", (SERVER, 53))
    assert server.recv(1)
    server.sendto(b"!", client.getsockname())
    (flow,) = seen.result()["flows"]
    assert (flow["packets"], flow["replies"]) == (3, 1)


def test_answers_that_a_target_asked_for_have_their_question_among_the_replies(
    lab: Lab, watch: Callable[..., Future[Any]]
) -> None:
    resolver = lab.udp("client", CLIENTS[0], 53)
    askers = [lab.udp("server", SERVER) for _ in range(3)]
    seen = watch(address=SERVER)
    for asker in askers:
        asker.sendto(b"?", (CLIENTS[0], 53))
        resolver.recv(1)
        resolver.sendto(b"!" * 600, asker.getsockname())
    asked = seen.result()["flows"]
    assert [(f["source_port"], f["packets"], f["replies"]) for f in asked] == [(53, 1, 1)] * 3
    seen = watch(address=SERVER)
    for asker in askers:
        resolver.sendto(b"!" * 600, asker.getsockname())
    unasked = seen.result()["flows"]
    assert [(f["source_port"], f["packets"], f["replies"]) for f in unasked] == [(53, 1, 0)] * 3


@requires("hping3")
@pytest.mark.parametrize("flags", ["-A", "-SA"])
def test_packets_of_no_connection_are_answered_by_resets(
    lab: Lab, watch: Callable[..., Future[Any]], flags: str
) -> None:
    lab.listen()
    seen = watch(address=SERVER)
    lab.start(f"hping3 {flags} -s 443 -k -p 80 -i u1000 -c 100 -q {SERVER}").wait(10)
    (flow,) = seen.result()["flows"]
    assert flow["packets"] > 50
    assert flow["resets"] == flow["replies"] > 50
    assert flow["syn_acks"] == (flow["packets"] if flags == "-SA" else 0)
    assert (flow["source_port"], flow["syn"], flow["established"]) == (443, 0, 0)


def test_who_accepts_a_connection_that_the_target_asked_for_sends_no_syn_ack_flood(
    lab: Lab, watch: Callable[..., Future[Any]]
) -> None:
    listener = lab.made.enter_context(
        lab.inside["client"].call(socket.create_server, (CLIENTS[0], 8080))
    )
    seen = watch(address=SERVER)
    for _ in range(3):
        near = lab.inside["server"].call(socket.create_connection, (CLIENTS[0], 8080), 5)
        lab.made.enter_context(near)
        far, _ = listener.accept()
        lab.made.enter_context(far)
    flows = seen.result()["flows"]
    assert [(f["source_port"], f["syn_acks"], f["resets"]) for f in flows] == [(8080, 0, 0)] * 3


@requires("hping3")
def test_a_flood_of_random_sources_stays_bounded(
    lab: Lab, watch: Callable[..., Future[Any]]
) -> None:
    seen = watch(address=SERVER, seconds=2.0)
    lab.start(f"hping3 --udp -p 9 --rand-source -i u50 -c 12000 -q {SERVER}").wait(10)
    record = seen.result()
    assert len(record["flows"]) == 4096
    listed = sum(flow["packets"] for flow in record["flows"])  # a random source may come twice
    assert record["unlisted"] == record["packets"] - listed > 0


def test_sampling_looks_at_a_share(lab: Lab, watch: Callable[..., Future[Any]]) -> None:
    client = lab.udp("client", CLIENTS[0])
    seen = watch(sampling=0.25)
    for _ in range(1000):
        client.sendto(b"?", (SERVER, 9))
    assert 150 < seen.result()["packets"] < 350


def test_nothing_is_left_after_an_observation_or_a_kill(
    lab: Lab, classifier: Vnf, watch: Callable[..., Future[Any]], tmp_path: Path
) -> None:
    watch(seconds=0.1).result()
    assert lab.nft("list", "ruleset") == ""
    pending = watch(seconds=5)
    classifier.end()
    with pytest.raises((OSError, HTTPException)):
        pending.result()
    assert lab.nft("list", "ruleset") == ""


def gtp(teid: int, subscriber: str, flags: int = 0x30, kind: int = 255, more: bytes = b"") -> bytes:
    """Return a G-PDU (3GPP TS 29.281) with an IPv4 packet of a subscriber in it."""
    inner = bytes([0x45]) + bytes(11) + socket.inet_aton(subscriber) + socket.inet_aton("10.60.0.9")
    body = more + inner
    header = bytes([flags, kind]) + len(body).to_bytes(2) + teid.to_bytes(4)
    return header + body


PDU_SESSION = bytes([0, 0, 0, 0x85]) + bytes([1, 0x10, 9, 0])
"""Sequence number and N-PDU number, and the extension header of 5G with a QoS flow."""


def test_tunnels_of_each_subscriber_are_counted_by_the_packets_in_them(
    lab: Lab, watch: Callable[..., Future[Any]]
) -> None:
    with lab.udp("client", CLIENTS[0]) as gnb, lab.udp("server", SERVER, 2152):
        seen = watch(address=SERVER)
        for teid in (1, 2, 3, 3):
            gnb.sendto(gtp(teid, "10.60.0.1"), (SERVER, 2152))
        for teid in (7, 8):
            gnb.sendto(gtp(teid, "10.60.0.2", 0x34, more=PDU_SESSION), (SERVER, 2152))
        gnb.sendto(gtp(5, "10.60.0.3", 0x32, more=bytes(4)), (SERVER, 2152))
        gnb.sendto(gtp(0, "10.60.0.4", kind=1), (SERVER, 2152))  # an echo request
        gnb.sendto(gtp(9, "10.60.0.5"), (SERVER, 2153))  # another port
        gnb.sendto(b"\x30\xff", (SERVER, 2152))  # cut short
        found = seen.result()["tunnels"]
    assert found == {"10.60.0.1": 3, "10.60.0.2": 2, "10.60.0.3": 1}


def test_packets_are_in_the_clear_that_come_in_readable_over_a_link_that_is_not_trusted(
    lab: Lab, watch: Callable[..., Future[Any]]
) -> None:
    with lab.udp("client", CLIENTS[0]) as client, lab.udp("server", SERVER, 9):
        seen = watch(address=SERVER, untrusted=["c0"])
        for _ in range(3):
            client.sendto(b"x", (SERVER, 9))
        (flow,) = seen.result()["flows"]
        assert (flow["packets"], flow["clear"]) == (3, 3)
        seen = watch(address=SERVER)
        client.sendto(b"x", (SERVER, 9))
        (flow,) = seen.result()["flows"]
        assert flow["clear"] == 0
