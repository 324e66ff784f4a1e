"""Connections that never end, forged sources, and the proxy that tells them from users."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from small_network import SERVER, World, attackers, drop, line, users

from phalanx.domain.actions import (
    FlowRecords,
    LinkSample,
    MeasureSample,
    Observe,
    ReadLink,
    ReadMeasure,
)
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.traffic import SLOW_HTTP, SYN_FLOOD_SPOOFED, UDP_FLOOD_SPOOFED, Source
from phalanx.infrastructure.simulated.flows import ROOM as CONNECTIONS
from phalanx.infrastructure.simulated.observations import ROOM, record


def slow(count: int) -> list[Source]:
    return [
        Source(f"s{i}", "slow", "pop1", f"10.3.0.{i}", SERVER, 8000, SLOW_HTTP, 0.001)
        for i in range(count)
    ]


def connections(world: World) -> int:
    sample = world.do("pop6", ReadLink("pop6>server"))
    assert isinstance(sample, LinkSample)
    return sample.connections


@pytest.mark.parametrize(("attackers", "served"), [(5, True), (6, False)])
def test_users_starve_once_slow_clients_hold_all_the_room(attackers: int, served: bool) -> None:
    world = World(line(), [*users(), *slow(attackers)])
    world.run(20.0)
    assert (attackers * SLOW_HTTP.connections < CONNECTIONS) == served
    assert (world.server()["legitimate_mb_s"] > 0.9) == served
    assert world.server()["wanted_mb_s"] == pytest.approx(1.0)
    assert connections(world) == attackers * 100 + (50 if served else 0)


def test_blocking_the_slow_gives_the_users_their_room_back() -> None:
    world = World(line(), [*users(), *slow(6)])
    world.deploy("pop5")
    world.run(20.0)
    world.enforce("block", drop("10.3.0.0", SERVER))
    world.run(30.0)
    assert world.server()["legitimate_mb_s"] > 0.9
    assert connections(world) == 5 * 100 + 50
    held = world.do("pop5", ReadMeasure("block"))
    assert isinstance(held, MeasureSample)
    assert held.held_back_mb_s == pytest.approx(0.001)


def flooded() -> World:
    forging = [replace(s, profile=SYN_FLOOD_SPOOFED) for s in attackers(0.0)]
    world = World(line(mb_s=30.0), [*users(), *forging, *slow(1)])
    world.deploy("pop6", path=("pop6",), mb_s=20.0)
    world.run(10.0)
    return world


def test_a_proxy_holds_back_only_who_completes_no_handshake() -> None:
    world = flooded()
    assert world.server()["malicious_mb_s"] > 4.0
    world.enforce(
        "proxy", TrafficRule(TrafficMatch(target=SERVER), TrafficVerdict.PROXY), pop="pop6"
    )
    world.run(30.0)
    assert world.server()["legitimate_mb_s"] == pytest.approx(1.0, rel=0.01)
    assert world.server()["malicious_mb_s"] == pytest.approx(0.001)  # slow, but no forger
    sample = world.do("pop6", ReadMeasure("proxy"))
    assert isinstance(sample, MeasureSample)
    assert sample.passed_mb_s == 0
    assert sample.held_back_mb_s == pytest.approx(6.0)


def test_nearly_every_forged_packet_is_a_flow_and_the_list_is_bounded() -> None:
    world = flooded()
    answers = world.ask("pop6", Observe("vnf", 1.0, ip=SERVER))
    world.run(11.0)
    (records,) = answers
    assert isinstance(records, FlowRecords)
    true = {s.address for s in world.sources}
    fresh = [f for f in records.flows if f.source not in true]
    assert ROOM - len(attackers()) <= len(records.flows) <= ROOM
    assert len(records.flows) - len(fresh) == 51
    assert len({f.source for f in fresh}) > 0.99 * len(fresh)
    assert {(f.packets, f.syn, f.established, f.open) for f in fresh} == {(1, 1, 0, 0)}
    assert len(fresh) + records.unlisted == pytest.approx(6e6 / 60, rel=0.02)


def test_few_forged_packets_are_all_listed() -> None:
    source = replace(attackers()[0], profile=UDP_FLOOD_SPOOFED)
    flows, unlisted = record(np.random.default_rng(1), [(source, 1.2, 1.0)], 1.0)
    assert len(flows) == pytest.approx(1000, rel=0.15)
    assert unlisted == 0
    assert {(f.protocol, f.syn, f.replies) for f in flows} == {("udp", 0, 0)}


def test_what_is_answered_and_open_tells_slow_clients_from_users() -> None:
    seen = [(users(1)[0], 0.4, 1.0), (slow(1)[0], 0.001, 1.0)]
    (user, idler), _ = record(np.random.default_rng(1), seen, 1.0)
    assert user.answered == user.established > 50
    assert user.open == 1
    assert (idler.open, idler.answered) == (100, 0)
