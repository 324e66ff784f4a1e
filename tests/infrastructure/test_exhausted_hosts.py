"""Servers that a flood exhausts without filling any link."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from small_network import SERVER, World, attackers, line, users

from phalanx.analytics.fixed_rules import FixedRules
from phalanx.domain.actions import FlowRecords, Observe
from phalanx.domain.network import HostLimits
from phalanx.domain.series import TrafficWindow
from phalanx.domain.traffic import ACK_FLOOD, SLOW_HTTP, SYN_FLOOD_SPOOFED, Profile

LIMITS = HostLimits(syn_cookies=False)


def world(
    syn_s: float, limits: HostLimits | None, profile: Profile | None = None, end_s: float = 60.0
) -> World:
    """Return eight attackers with ``syn_s`` packets of 60 octets a second in all, from 20 s on."""
    bots = [replace(s, demand_mb_s=syn_s * 60e-6 / 8) for s in attackers(20.0, end_s)]
    bots = [s if profile is None else replace(s, profile=profile) for s in bots]
    network = line(mb_s=100.0)
    host = replace(network.hosts[0], bandwidth_mb_s=100.0, limits=limits)
    return World(replace(network, hosts=(host,)), [*users(), *bots])


def served(made: World, until: float) -> float:
    made.run(until)
    return made.server()["legitimate_mb_s"]


@pytest.mark.parametrize(
    ("syn_s", "limits", "share"),
    [
        (8000.0, None, 1.0),
        (8000.0, LIMITS, 0.0),
        (8000.0, HostLimits(), 1.0),
        (8000.0, HostLimits(backlog=1_000_000, syn_cookies=False), 1.0),
        (50.0, LIMITS, 1.0),
    ],
)
def test_half_open_connections_shut_users_out(
    syn_s: float, limits: HostLimits | None, share: float
) -> None:
    made = world(syn_s, limits)
    assert served(made, 19.0) == pytest.approx(1.0, rel=0.02)
    assert served(made, 45.0) == pytest.approx(share, abs=0.02)
    assert made.server()["wanted_mb_s"] == pytest.approx(1.0)
    assert served(made, 80.0) == pytest.approx(1.0, rel=0.02)


def test_a_weak_flood_takes_its_time_to_fill_the_backlog() -> None:
    made = world(600.0, LIMITS)
    assert served(made, 24.0) == pytest.approx(1.0, rel=0.02)  # 4096 at 600/s: 7 s
    assert served(made, 35.0) == 0.0


def test_the_processor_drops_packets_of_all_alike() -> None:
    made = world(100_000.0, HostLimits(packets_s=50_000.0), ACK_FLOOD)
    assert served(made, 19.0) == pytest.approx(1.0, rel=0.02)
    assert served(made, 50.0) < 0.5
    attack = made.server()["malicious_mb_s"]
    assert attack == pytest.approx(50_000 * 60e-6, rel=0.02)
    assert served(made, 80.0) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(("room", "share"), [(100, 0.0), (101, 1.0)])
def test_slow_clients_hold_the_connections_that_a_host_states(room: int, share: float) -> None:
    slow = replace(attackers(5.0)[0], profile=SLOW_HTTP, demand_mb_s=0.001)
    plain = world(0.0, HostLimits(connections=room))
    made = World(plain.network, [*users(), slow])
    assert served(made, 20.0) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("profile", [None, SYN_FLOOD_SPOOFED])
def test_users_that_are_shut_out_are_seen_to_ask_and_are_not_blamed(
    profile: Profile | None,
) -> None:
    made = world(8000.0, LIMITS, profile)
    made.deploy("pop6", path=("pop6",))
    made.run(30.0)
    answers = made.ask("pop6", Observe("vnf", 10.0, ip=SERVER))
    made.run(40.0)
    (records,) = answers
    assert isinstance(records, FlowRecords)
    asking = [flow for flow in records.flows if flow.source.startswith("10.1.")]
    assert len(asking) > 40
    assert all(flow.syn and not flow.established for flow in asking)
    found = FixedRules().examine(TrafficWindow(10.0, (), records.flows, records.unlisted))
    assert not [f for f in found if f.source and f.source.startswith("10.1.")]
    assert [f for f in found if f.target == SERVER]
