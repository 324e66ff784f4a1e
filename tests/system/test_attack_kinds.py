"""Attacks without a handshake and servers that they exhaust, against the service strategy."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import HostLimitsSpec, Scenario, ShapeSpec
from phalanx.runtime.system import System

RING = load_scenario(Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml")
LIMITS = HostLimitsSpec(syn_cookies=False)


def attacked(profile: str, seed: int = 1, **more: object) -> Scenario:
    users, bots = RING.traffic
    bots = replace(bots, profile=profile, count=8, demand_mb_s=1.0, jitter=0.2, **more)
    hosts = (replace(RING.hosts[0], limits=LIMITS),)
    return replace(RING, strategy="service", seed=seed, hosts=hosts, traffic=(users, bots))


def service(plan: Scenario) -> list[float]:
    """Return the share of what users want that they get, for each second of the attack."""
    result = System(plan).run()
    samples = [event for event in result.events if event.kind == "network.sample"]
    shop = [event.data["hosts"]["shop"] for event in samples if 15 < event.time <= 105]
    return [figures["legitimate_mb_s"] / figures["wanted_mb_s"] for figures in shop]


@pytest.mark.parametrize(
    "profile",
    [
        "syn-flood-spoofed",
        "dns-reflection",
        "ntp-reflection",
        "ack-flood",
        "ack-flood-spoofed",
        "syn-ack-flood",
        "syn-ack-flood-spoofed",
    ],
)
def test_users_are_served_again_within_ten_seconds(profile: str) -> None:
    shares = service(attacked(profile))
    assert min(shares) < 0.9, "the attack does harm"
    assert min(shares[10:]) > 0.95


def test_pulses_and_attackers_that_move_do_less_and_less_harm() -> None:
    plain = service(attacked("syn-flood", shape=ShapeSpec(on_s=20.0, off_s=10.0)))
    assert sum(plain[30:]) / len(plain[30:]) > 0.95
    moving = service(attacked("ack-flood", adapt="move"))
    assert sum(moving) / len(moving) > 0.5


def test_another_seed_is_another_run() -> None:
    one, two = (service(attacked("dns-reflection", seed)) for seed in (1, 2))
    assert one == service(attacked("dns-reflection", 1))
    assert one != two
