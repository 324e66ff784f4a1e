"""IPv6: what rules and observations make of it, and that those of IPv4 leave it alone."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from linux_needs import requires
from tests.nightly import examples
from vnf_lab import (
    CLIENTS,
    CLIENTS6,
    OUT,
    SERVER,
    SERVER6,
    SUBSCRIBER6,
    Lab,
    Vnf,
    exchange,
    watching,
)

from phalanx.infrastructure.linux.vnf.nft import Nft
from phalanx.testrange import workload

pytestmark = [pytest.mark.linux, requires("ip", "nft", "nsenter", "cc")]

FAR, NEAR, OTHER = CLIENTS6
"""One client that is alone in its network, and two of one network."""
FAR64 = "2001:db8:9:1::/64"
NUMBERS = itertools.count(20_000)


@pytest.fixture
def limiter(lab: Lab, tmp_path: Path) -> Iterator[Vnf]:
    with Vnf(lab, "rate-limiter", tmp_path) as vnf:
        yield vnf


@pytest.fixture
def watch(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Future[Any]]]:
    with Vnf(lab, "classifier", tmp_path) as vnf, watching(lab, vnf) as begin:
        yield begin


@pytest.fixture
def flood(lab: Lab, tmp_path: Path) -> Callable[..., None]:
    """A function that floods: source, packets a second, seconds, and ``udp``."""
    program = tmp_path / "flood"
    source = Path(workload.__file__).with_name("flood.c")
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)  # noqa: S607

    def run(source: str, rate: int, seconds: float, *more: str) -> None:
        words = [str(program), source, SERVER6, "80", str(rate), str(seconds), *more]
        assert lab.start(" ".join(words)).wait(10) == 0

    return run


def arrives(client: socket.socket, server: socket.socket, words: bytes = b"?") -> bool:
    """Whether a datagram gets through."""
    client.sendto(words, server.getsockname())
    server.settimeout(0.2)
    try:
        return server.recv(65_536) == words
    except TimeoutError:
        return False


@pytest.mark.parametrize("about", [{"address": SERVER6}, {}], ids=["address", "link"])
def test_connections_are_told_apart_by_what_became_of_them(
    lab: Lab, watch: Callable[..., Future[Any]], about: dict[str, str]
) -> None:
    listener = lab.listen(80, SERVER6)
    old, far_old = lab.connect(NEAR), lab.accept(listener)
    seen = watch(**about)
    answered, far = lab.connect(NEAR), lab.accept(listener)
    exchange(answered, far)
    slow, far_slow = lab.connect(NEAR), lab.accept(listener)
    slow.sendall(b"GET /")
    assert far_slow.recv(5)
    ended, far = lab.connect(OTHER), lab.accept(listener)
    exchange(ended, far)
    far.close()
    ended.close()
    old.sendall(b"x")
    assert far_old.recv(1)
    closed = seen.result()
    (flow,) = closed["flows"]  # both clients are one subscriber
    assert (flow["source"], flow["target"], flow["port"]) == (SUBSCRIBER6, SERVER6, 80)
    counted = {name: flow[name] for name in ("syn", "established", "answered", "open")}
    assert counted == {"syn": 3, "established": 4, "answered": 2, "open": 3}
    assert flow["packets"] == closed["packets"]  # what neighbours say is no traffic
    assert closed["unlisted"] == 0


def test_both_families_pass_one_link(lab: Lab, watch: Callable[..., Future[Any]]) -> None:
    servers = [lab.udp("server", address, 53) for address in (SERVER, SERVER6)]
    seen = watch()
    for source, server in zip((CLIENTS[0], NEAR), servers, strict=True):
        client = lab.udp("client", source)
        client.sendto(b"?", server.getsockname())
        server.sendto(b"!", client.getsockname())
    flows = {f["source"]: (f["target"], f["packets"], f["replies"]) for f in seen.result()["flows"]}
    assert flows == {CLIENTS[0]: (SERVER, 1, 1), SUBSCRIBER6: (SERVER6, 1, 1)}


@pytest.mark.parametrize("more", [(), ("udp",)], ids=["syn", "udp"])
def test_a_flood_forged_out_of_one_network_is_one_source(
    lab: Lab, watch: Callable[..., Future[Any]], flood: Callable[..., None], more: tuple[str, ...]
) -> None:
    lab.listen(80, SERVER6)
    seen = watch(address=SERVER6, seconds=4.0)
    flood("2001:db8:9:7::/64", 10_000, 0.5, *more)
    (flow,) = seen.result()["flows"]
    assert flow["source"] == "2001:db8:9:7::/64"
    assert flow["packets"] > 4096  # more than flows that could be listed
    assert flow["established"] == 0


def test_parts_of_the_sources_are_networks(lab: Lab, tmp_path: Path) -> None:
    with Vnf(lab, "load-balancer", tmp_path) as balancer:
        balancer.put("s", verdict="split", devices=[OUT], target=SERVER6, parts=4, part=0)
        for source in (NEAR, OTHER) * 8:
            lab.udp("client", source).sendto(b"?", (SERVER6, 9))
        parts = sorted(part["packets"] for part in balancer.get("s")["parts"])
    assert parts == [0, 0, 0, 16]


def test_a_network_is_blocked_its_connections_end_and_others_go_on(lab: Lab, limiter: Vnf) -> None:
    listener = lab.listen(80, SERVER6)
    attacker, at_attacker = lab.connect(NEAR), lab.accept(listener)
    user, at_user = lab.connect(FAR), lab.accept(listener)
    exchange(attacker, at_attacker)
    probes = [(lab.udp("client", each), lab.udp("server", SERVER6, 9)) for each in (OTHER,)]
    limiter.put("m", verdict="drop", devices=[OUT], sources=[SUBSCRIBER6], target=SERVER6)
    attacker.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        at_attacker.recv(10)
    exchange(user, at_user)
    assert not any(arrives(*probe) for probe in probes)
    limiter.put(
        "m", verdict="drop", devices=[OUT], sources=[SUBSCRIBER6], outside=[OTHER], target=SERVER6
    )
    assert all(arrives(*probe) for probe in probes)  # it is allowed
    limiter.ask("DELETE", "/measures/m")
    attacker2, at_attacker2 = lab.connect(NEAR), lab.accept(listener)
    exchange(attacker2, at_attacker2)


def test_a_limit_of_a_link_is_one_for_both_families(lab: Lab, limiter: Vnf) -> None:
    limiter.put("m", verdict="limit", devices=[OUT], rate_mb_s=0.1)
    begin = time.monotonic()
    for source, server in ((CLIENTS[0], SERVER), (NEAR, SERVER6)):
        client = lab.udp("client", source)
        for _ in range(200):
            client.sendto(bytes(1000), (server, 9))
    seen = limiter.get("m")
    assert seen["passed_packets"] + seen["held_packets"] == 400
    left = 65_000  # of a bucket that was emptied by datagrams of this size; of one, not of two
    assert seen["passed_octets"] <= left + 100_000 * (time.monotonic() - begin)


def test_what_comes_in_by_a_device_is_seen_and_dropped_there(
    lab: Lab, limiter: Vnf, watch: Callable[..., Future[Any]]
) -> None:
    client, server = lab.udp("client", NEAR), lab.udp("server", SERVER6, 9)
    devices = [{"device": "c0", "hook": hook} for hook in ("ingress", "egress")]
    seen = watch(address=SERVER6, devices=devices, enters=True)
    assert arrives(client, server)
    server.sendto(b"!", client.getsockname())
    (flow,) = seen.result()["flows"]
    assert (flow["source"], flow["packets"], flow["replies"]) == (SUBSCRIBER6, 1, 1)
    block = {"verdict": "drop", "hook": "ingress", "target": SERVER6, "sources": [SUBSCRIBER6]}
    limiter.put("m", devices=[OUT], **block)
    assert arrives(client, server)  # it does not come from there
    limiter.put("m", devices=["c0"], **block)
    assert not arrives(client, server)


def test_a_new_process_takes_a_block_over(lab: Lab, tmp_path: Path) -> None:
    client, server = lab.udp("client", NEAR), lab.udp("server", SERVER6, 9)
    with Vnf(lab, "rate-limiter", tmp_path) as first:
        first.put("m", verdict="drop", devices=[OUT], sources=[SUBSCRIBER6], target=SERVER6)
        assert not arrives(client, server)
        table = first.table
    with Vnf(lab, "rate-limiter", tmp_path, table) as second:
        assert not arrives(client, server)
        assert second.get("m")["held_packets"] == 2
        second.ask("POST", "/lease", {"ttl_s": 9})
        assert 8 < second.get("m")["ttl_s"] <= 9
        second.ask("DELETE", "/measures/m")
        assert arrives(client, server)
        assert second.end() == 0
    assert lab.nft("list", "ruleset") == ""


@pytest.mark.parametrize(
    "rule",
    [
        {"verdict": "drop", "target": SERVER6},
        {"verdict": "drop", "sources": ["2001:db8:9:2::/64"], "target": SERVER6},
        {"verdict": "limit", "rate_mb_s": 0},
        {"verdict": "limit", "rate_mb_s": 0, "target": SERVER6},
    ],
    ids=["all", "the network of the link itself", "limit of the link", "limit of the address"],
)
def test_neighbours_are_found_whatever_is_blocked(
    lab: Lab, limiter: Vnf, rule: dict[str, Any]
) -> None:
    """The gateway asks from its address in the network of the link, or from a local one."""
    limiter.put("m", devices=[OUT], **rule)
    for _ in range(3):
        lab.ip("pop", f"neigh flush dev {OUT}")
        lab.udp("pop", "2001:db8:9:2::1").sendto(b"?", (SERVER6, 9))
        lab.udp("client", FAR).sendto(b"?", (SERVER6, 9))
        end = time.monotonic() + 3
        while neighbour(lab) not in ("REACHABLE", "DELAY", "STALE"):
            assert time.monotonic() < end, neighbour(lab)
            time.sleep(0.05)
    assert limiter.get("m")["held_packets"] > 0
    # An entry that is in use is asked for again at the address itself.
    lab.ip("pop", f"neigh change {SERVER6} dev {OUT} nud probe")
    end = time.monotonic() + 3
    while neighbour(lab) != "REACHABLE":
        assert time.monotonic() < end, neighbour(lab)
        time.sleep(0.05)


def neighbour(lab: Lab) -> str:
    listed = json.loads(lab.inside["pop"].call(told, "-6", "neigh", "show", SERVER6, "dev", OUT))
    return str(listed[0]["state"][0]) if listed else ""


def told(*words: str) -> str:
    command = ["ip", "-j", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout or "[]"


def test_from_afar_nobody_speaks_as_a_neighbour(lab: Lab, limiter: Vnf) -> None:
    """What a router has passed on has no hop limit of 255 any more."""
    limiter.put("m", verdict="drop", devices=[OUT], sources=[FAR64], target=SERVER6)
    with lab.inside["client"].call(
        socket.socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6
    ) as afar:
        afar.bind((FAR, 0))
        afar.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        solicitation = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(
            socket.AF_INET6, SERVER6
        )
        afar.sendto(solicitation, (SERVER6, 0))
    assert limiter.get("m")["held_packets"] == 1


def test_fragments_are_of_their_source_and_protocol_and_have_no_ports(
    lab: Lab, limiter: Vnf
) -> None:
    client, server = lab.udp("client", NEAR), lab.udp("server", SERVER6, 9)
    words = b"x" * 4000  # three packets
    assert arrives(client, server, words)
    for match in ({"sources": [SUBSCRIBER6]}, {"protocol": "udp"}, {}):
        limiter.put("m", verdict="drop", devices=[OUT], target=SERVER6, **match)
        assert not arrives(client, server, words)
        assert limiter.get("m")["held_packets"] == 3
    limiter.put("m", verdict="drop", devices=[OUT], target=SERVER6, protocol="udp", port=9)
    assert not arrives(client, server, words)  # the rest alone makes no datagram
    assert limiter.get("m")["held_packets"] == 1


@pytest.mark.parametrize("client", [CLIENTS[0], NEAR], ids=["ipv4", "ipv6"])
def test_later_fragments_are_met_by_themselves(lab: Lab, limiter: Vnf, client: str) -> None:
    server = lab.udp("server", SERVER6 if client == NEAR else SERVER, 9)
    near, (target, *_) = lab.udp("client", client), server.getsockname()
    match = {"target": target, "protocol": "udp", "port": 0}
    limiter.put("m", verdict="drop", devices=[OUT], **match)
    assert arrives(near, server)
    assert not arrives(near, server, b"x" * 4000)
    assert limiter.get("m")["held_packets"] == 2


@pytest.mark.parametrize("match", [{"sources": True}, {"protocol": "icmp"}, {}])
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_errors_of_icmp_pass_and_echoes_do_not(
    lab: Lab, limiter: Vnf, match: dict[str, Any], *, six: bool
) -> None:
    """A connection stalls without *packet too big*."""
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    client, target, network = (
        (NEAR, SERVER6, SUBSCRIBER6) if six else (CLIENTS[0], SERVER, CLIENTS[0])
    )
    error, echo = (2, 128) if six else (3, 8)
    if match.get("sources"):
        match = {"sources": [network]}
    limiter.put("m", verdict="drop", devices=[OUT], target=target, **match)
    counted = "add table netdev probe; add chain netdev probe c { type filter hook egress device"
    kinds = f"icmpv6 type {error}" if six else f"icmp type {error}"
    lab.nft(f"{counted} {OUT} priority 10; }}; add rule netdev probe c {kinds} counter")
    with lab.inside["client"].call(socket.socket, family, socket.SOCK_RAW, protocol) as raw:
        raw.bind((client, 0))
        for _ in range(100):
            for kind in (error, echo):
                head = struct.pack("!BBHI", kind, 0, 0, 1280)
                check = ~sum(struct.unpack("!4H", head)) & 0xFFFF
                raw.sendto(head[:2] + struct.pack("!H", check) + head[4:], (target, 0))
        long = struct.pack("!BBHI", echo, 0, 0, 0) + bytes(3000)  # in three packets
        raw.sendto(long, (target, 0))
    assert "counter packets 100 " in lab.nft("list", "table", "netdev", "probe")
    assert limiter.get("m")["held_packets"] == 103


def test_protocol_and_port_are_found_behind_extension_headers(
    lab: Lab, limiter: Vnf, watch: Callable[..., Future[Any]]
) -> None:
    client, server = lab.udp("client", NEAR), lab.udp("server", SERVER6, 9)
    options = struct.pack("!BBBB4x", 0, 0, 1, 4)
    client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
    client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, options)
    seen = watch(address=SERVER6)
    assert arrives(client, server)
    (flow,) = seen.result()["flows"]
    assert (flow["protocol"], flow["port"]) == ("udp", 9)
    limiter.put("m", verdict="drop", devices=[OUT], target=SERVER6, protocol="tcp")
    assert arrives(client, server)
    limiter.put("m", verdict="drop", devices=[OUT], target=SERVER6, protocol="udp", port=9)
    assert not arrives(client, server)


def test_a_delay_holds_ipv6(lab: Lab, tmp_path: Path) -> None:
    client, server = lab.udp("client", NEAR), lab.udp("server", SERVER6, 9)
    with Vnf(lab, "tarpit", tmp_path) as tarpit:
        tarpit.put("m", verdict="delay", devices=[OUT], target=SERVER6, delay_ms=300.0)
        begin = time.monotonic()
        client.sendto(b"?", (SERVER6, 9))
        server.settimeout(2)
        assert server.recv(1) == b"?"
        assert time.monotonic() - begin >= 0.3
        assert tarpit.get("m")["passed_packets"] == 1


@pytest.mark.parametrize("source", ["2001:db8:9:7::/64", "random"])
def test_a_proxy_answers_and_connections_live_on(
    lab: Lab, tmp_path: Path, flood: Callable[..., None], source: str
) -> None:
    lab.inside["server"].call(count_syns)
    listener = lab.listen(80, SERVER6)
    talks, far_talks = lab.connect(NEAR), lab.accept(listener)
    exchange(talks, far_talks)
    with Vnf(lab, "syn-proxy", tmp_path) as proxy, ThreadPoolExecutor(1) as pool:
        proxy.put("p", verdict="proxy", devices=[], target=SERVER6)
        attack = pool.submit(flood, source, 4000, 0.5)
        for client in (FAR, NEAR, OTHER):
            new = lab.connect(client)
            new.sendall(b"GET")
            far = lab.accept(listener)
            assert far.recv(3) == b"GET"
            exchange(new, far, b"x" * 3000)
            exchange(talks, far_talks)
        attack.result()
        seen = proxy.get("p")
        assert seen["held_packets"] > 1000
        assert seen["passed_packets"] == 3
        assert lab.inside["server"].call(syns) == 4  # one of them before the proxy
        proxy.ask("DELETE", "/measures/p")
        exchange(talks, far_talks)
        exchange(lab.connect(NEAR), lab.accept(listener))


def count_syns() -> None:
    Nft().run(
        "add table ip6 t; add counter ip6 t n;"
        "add chain ip6 t c { type filter hook input priority 0; };"
        "add rule ip6 t c tcp flags & (syn | ack) == syn counter name n"
    )


def syns() -> int:
    listed = Nft().json("list counter ip6 t n")["nftables"]
    return int(next(item["counter"]["packets"] for item in listed if "counter" in item))


@pytest.mark.parametrize(
    "body",
    [
        {"sources": [CLIENTS[0]], "target": SERVER6},
        {"sources": [SUBSCRIBER6], "target": SERVER},
        {"source": NEAR, "target": SERVER},
        {"sources": ["2001:db8::/129"]},
        {"sources": ["2001:db8::zz"]},
    ],
)
def test_what_no_packet_can_be_is_refused(limiter: Vnf, body: dict[str, Any]) -> None:
    asked = {"verdict": "drop", "devices": [OUT], "ttl_s": 1, **body}
    assert limiter.call("PUT", "/measures/m", asked)[0] == 400


FIELDS = st.fixed_dictionaries(
    {"verdict": st.sampled_from(["drop", "limit"])},
    optional={
        "several": st.booleans(),
        "from": st.sampled_from(["one", "network", "everybody"]),
        "outside": st.booleans(),
        "target": st.just(value=True),
        "protocol": st.sampled_from(["udp", "tcp"]),
        "port": st.sampled_from([9, 10]),
        "parts": st.integers(1, 3),
    },
)


@given(fields=FIELDS, six=st.booleans())
@settings(
    max_examples=examples(24),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_rule_of_one_family_never_matches_the_other(
    lab: Lab, tmp_path: Path, fields: dict[str, Any], six: bool
) -> None:
    """Each rule sees a datagram of either family that it would match but for the family."""
    vnf = kept(lab, tmp_path)
    own, foreign = ((NEAR, SERVER6), (CLIENTS[0], SERVER))[:: 1 if six else -1]
    everybody = "::/0" if six else "0.0.0.0/0"
    chosen = {"one": own[0], "network": SUBSCRIBER6 if six else "10.9.1.0/24"}
    body: dict[str, Any] = {"verdict": fields["verdict"], "devices": [OUT]}
    if "from" in fields:
        named = chosen.get(fields["from"], everybody)
        body |= {"sources": [named]} if fields.get("several", True) else {"source": named}
    if fields.get("target"):
        body["target"] = own[1]
    assume("from" in fields or "target" in body)  # else it is about both
    if fields.get("outside"):
        body["outside"] = [foreign[0], own[1]]
    if "protocol" in fields:
        body |= {name: fields[name] for name in ("protocol", "port") if name in fields}
    if "parts" in fields:
        body["parts"] = fields["parts"]
    if body["verdict"] == "limit":
        body["rate_mb_s"] = 0
    name = f"m{next(NUMBERS)}"
    vnf.put(name, **body)
    senders = SENDERS[id(lab)]
    senders[foreign].sendto(b"?", (foreign[1], 9))
    seen = vnf.get(name)
    assert (seen["held_packets"], seen["passed_packets"]) == (0, 0)
    senders[own].sendto(b"?", (own[1], 9))
    seen = vnf.get(name)
    matched = seen["held_packets"] + seen["passed_packets"]
    wanted = body.get("protocol") != "tcp" and body.get("port", 9) == 9
    if body.get("parts", 1) == 1:
        assert matched == wanted
    vnf.ask("DELETE", f"/measures/{name}")


KEPT: dict[int, Vnf] = {}
SENDERS: dict[int, dict[tuple[str, str], socket.socket]] = {}


def kept(lab: Lab, folder: Path) -> Vnf:
    """Return one process for all examples of a test."""
    if id(lab) not in KEPT:
        role = "rate-limiter"
        KEPT[id(lab)] = lab.made.enter_context(Vnf(lab, role, folder))
        pairs = (NEAR, SERVER6), (CLIENTS[0], SERVER)
        SENDERS[id(lab)] = {pair: lab.udp("client", pair[0]) for pair in pairs}
    return KEPT[id(lab)]
