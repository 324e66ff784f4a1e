"""What is led encrypted, to where it goes and by a way around: nobody reads it on any link."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from driver_bench import CLIENT, OTHER, PAYLOAD, POPS, SERVER, Bench, refused
from linux_needs import requires_root

from phalanx.domain.actions import Done, Enforce, Lift, MeasureSample, ReadMeasure
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.functions.gateway import encryption_of
from phalanx.infrastructure.linux.overlay_node import missing

pytestmark = [
    pytest.mark.linux,
    requires_root,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

ETH_ALL = 3
COUNT = 20
LINKS = [(a, b) for a in POPS for b in POPS if a != b]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(encrypted=True)
    try:
        yield made
    finally:
        made.close()


def around(target: str = SERVER, entry: str | None = "pop1", **more: object) -> TrafficRule:
    match = TrafficMatch(target=target, entry=entry, **more)  # type: ignore[arg-type]
    return TrafficRule(match, TrafficVerdict.STEER, {"encrypted": 1.0})


def put(bench: Bench, pop: str, rule: TrafficRule, name: str = "m") -> str:
    instance = bench.deploy(pop, "gateway", *dict.fromkeys((pop, "pop1")))
    outcome = bench.do(pop, Enforce(name, instance, rule, name))
    assert isinstance(outcome, Done), outcome
    return instance


def lift(bench: Bench, pop: str, name: str, there: bool = True) -> None:
    assert isinstance(bench.do(pop, Lift(name)), Done) is there


class Sent:
    """Sends datagrams to a host, and counts what of them can be read on each link."""

    def __init__(self, bench: Bench, host: str = "server", source: str = CLIENT) -> None:
        taps = {}
        for pop, other in LINKS:
            tap = bench.inside[pop].call(
                socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL)
            )
            tap.bind((bench.testbed.device(f"{pop}>{other}"), ETH_ALL))
            tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            tap.setblocking(False)
            taps[pop, other] = tap
        before = {link: bench.sent(*link) for link in LINKS}
        self.arrived = bench.udp(COUNT, source=source, host=host)
        self.used = {x for x in LINKS if bench.sent(*x) - before[x] >= COUNT * PAYLOAD}
        """Links that carried all of it."""
        self.readable = sum(map(readable, taps.values()))


def readable(tap: socket.socket) -> int:
    found = 0
    with tap:
        while True:
            try:
                found += bytes(PAYLOAD) in tap.recv(65535)
            except BlockingIOError:
                return found


def test_a_way_around_that_is_encrypted_is_read_by_nobody(bench: Bench) -> None:
    plain = Sent(bench)
    assert (plain.arrived, plain.used) == (COUNT, {("pop1", "pop3")})
    assert plain.readable >= COUNT
    instance = put(bench, "pop2", around())
    led = Sent(bench)
    assert (led.arrived, led.readable) == (COUNT, 0)
    assert led.used == {("pop1", "pop2"), ("pop2", "pop3")}
    assert bench.measure(instance, "m")["passed_octets"] >= COUNT * PAYLOAD
    assert isinstance(bench.do("pop2", ReadMeasure("m")), MeasureSample)
    assert bench.talks(CLIENT)
    assert bench.talks(OTHER)
    assert Sent(bench, "office").readable >= COUNT  # goes its way as before
    lift(bench, "pop2", "m")
    bench.wait(lambda: Sent(bench).readable >= COUNT)
    assert Sent(bench).used == {("pop1", "pop3")}


@pytest.mark.parametrize("first", ["all", "around"])
def test_what_is_encrypted_anyway_stays_so_with_and_without_a_way_around(
    bench: Bench, first: str
) -> None:
    rules = {"all": ("pop3", encryption_of(SERVER)), "around": ("pop2", around())}
    for name in sorted(rules, key=lambda each: each != first):
        put(bench, *rules[name], name)
        led = Sent(bench)
        assert (led.arrived, led.readable) == (COUNT, 0), name
    assert led.used == {("pop1", "pop2"), ("pop2", "pop3")}
    lift(bench, "pop2", "around")
    bench.wait(lambda: Sent(bench).used == {("pop1", "pop3")})
    direct = Sent(bench)
    assert (direct.arrived, direct.readable) == (COUNT, 0)
    lift(bench, "pop3", "all")
    bench.wait(lambda: Sent(bench).readable >= COUNT)


def test_a_gateway_that_is_shut_out_is_passed_over(bench: Bench) -> None:
    put(bench, "pop2", around())
    assert bench.overlay is not None
    bench.overlay.revoke("pop2")
    led = Sent(bench)
    assert (led.arrived, led.used) == (COUNT, {("pop1", "pop3")})
    assert "not in force any more" in refused(bench.do("pop2", ReadMeasure("m")))


def test_what_removes_the_way_behind_the_agents_backs_shows(bench: Bench) -> None:
    put(bench, "pop2", around())
    assert bench.overlay is not None
    bench.overlay._nodes["pop2"].device.lead_no_more(SERVER, 19_998)
    assert "not in force any more" in refused(bench.do("pop2", ReadMeasure("m")))


def test_what_cannot_be_led_so_is_refused_and_nothing_changes(bench: Bench) -> None:
    gateway = bench.deploy("pop2", "gateway", "pop2", "pop1")
    near = bench.deploy("pop1", "gateway")
    for instance, rule, why in (
        (gateway, around(sources=(CLIENT,)), "all that goes to an address, or what"),
        (gateway, encryption_of(SERVER), "only pop3, where it goes"),
        (near, around(), "pop1 is no way around for what enters there"),
        (gateway, around("10.9.9.9"), "no host has the address"),
    ):
        pop = instance.partition("/")[0]
        assert why in refused(bench.do(pop, Enforce("x", instance, rule, "x")))
    assert bench.overlay is not None
    bench.overlay.revoke("pop2")
    reason = refused(bench.do("pop2", Enforce("x", gateway, around(), "x")))
    assert reason.endswith("pop2: no part of the overlay")
    assert Sent(bench).readable >= COUNT
