"""Forged sources: random ones are found, crowds of honest users never, whatever they lose."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.domain.actions import FlowStats
from tests.analytics.findings import anomalous_targets, malicious_flows

TARGET = "10.0.0.1"
RTO_S = 1.0


def tcp(source, syn=1, done=0, packets=None, target=TARGET):
    count = syn if packets is None else packets
    return FlowStats(source, target, 80, "tcp", count, count * 60, syn, done, syn)


def udp(source, packets=1, replies=0, octets=1200):
    return FlowStats(source, TARGET, 53, "udp", packets, packets * octets, 0, 0, replies)


def address(rng):
    return ".".join(str(rng.randrange(1, 255)) for _ in range(4))


def forged(rng, count, make=tcp):
    return [make(address(rng)) for _ in range(count)]


def crowd(rng, users, window_s, loss, rtt_s=0.02):
    """Users that each begin once in the window; SYN, SYN-ACK and ACK are lost independently."""
    flows = []
    for user in range(users):
        at, syn, done = rng.uniform(0, window_s), 0, 0
        while at < window_s and not done:
            syn += 1
            arrives = rng.random() >= loss and rng.random() >= loss
            done = int(arrives and at + rtt_s < window_s)
            at += RTO_S * 2 ** (syn - 1)
        flows.append(tcp(f"1.{user >> 16}.{user >> 8 & 255}.{user & 255}", syn, done))
    return flows


@pytest.mark.parametrize("seconds", [0.2, 1.0, 10.0])
def test_random_sources_are_forged(seconds):
    rng = random.Random(1)
    flows = forged(rng, round(3000 * seconds)) + crowd(rng, 20, seconds, 0.5)
    assert malicious_flows(flows, seconds) == []
    (target,) = anomalous_targets(flows, seconds, unlisted=7)
    assert (target.target, target.kind, target.spoofed) == (TARGET, "syn flood", True)
    assert target.evidence["silent_sources"] >= 3000 * seconds
    assert target.evidence["unlisted"] == 7
    assert target.certainty > 0.998


@given(st.integers(0, 2000), st.floats(0.2, 10.0), st.floats(0.0, 0.5), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_flash_crowd_is_never_forged(users, window_s, loss, seed):
    flows = crowd(random.Random(seed), users, window_s, loss)
    assert anomalous_targets(flows, window_s) == []
    assert malicious_flows(flows, window_s) == []


@given(st.integers(0, 300), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_users_starved_by_a_flood_of_real_sources_do_not_make_it_forged(users, seed):
    rng = random.Random(seed)
    starved = crowd(rng, users, 1.0, 1.0)
    flood = [tcp(f"6.6.6.{i}", syn=3000) for i in range(8)]
    assert len(malicious_flows(flood + starved, 1.0)) == 8
    (target,) = anomalous_targets(flood + starved, 1.0)
    assert not target.spoofed


def test_few_silent_sources_prove_nothing():
    assert anomalous_targets(forged(random.Random(1), 81), 0.2) == []
    assert anomalous_targets(forged(random.Random(1), 82), 0.2)


def test_background_noise_is_left_alone():
    assert anomalous_targets(forged(random.Random(1), 1000), 10.0) == []


def test_a_full_list_does_not_make_a_flood_slow():
    listed = forged(random.Random(1), 1000)
    (target,) = anomalous_targets(listed, 10.0, unlisted=99_000)
    assert target.evidence["forged_s"] == 10_000


def test_eight_real_sources_are_not_forged_however_short_the_window():
    assert anomalous_targets([tcp(f"6.6.6.{i}", syn=16) for i in range(8)], 0.01) == []


def test_each_target_is_judged_by_itself():
    rng = random.Random(1)
    other = [tcp(f"1.1.{i >> 8}.{i & 255}", done=1, target="10.0.0.2") for i in range(5000)]
    (target,) = anomalous_targets(forged(rng, 1000) + other, 1.0)
    assert target.target == TARGET


def test_random_udp_sources_are_forged():
    (target,) = anomalous_targets(forged(random.Random(1), 1000, udp), 1.0)
    assert (target.kind, target.spoofed) == ("udp flood", True)


@given(st.integers(0, 2000), st.floats(0.0, 0.5), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_crowd_that_asks_by_udp_is_not_forged(users, loss, seed):
    rng = random.Random(seed)
    flows = []
    for i in range(users):
        replied = int(rng.random() >= loss and rng.random() >= loss)
        flows.append(udp(f"1.1.{i >> 8}.{i & 255}", replies=replied, octets=80))
    assert anomalous_targets(flows, 0.5) == []


def test_one_way_streams_are_not_forged():
    streams = [udp(f"1.1.1.{i}", packets=50) for i in range(200)]
    assert anomalous_targets(streams, 1.0) == []


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=10)
def test_order_does_not_matter(rng: random.Random):
    flows = forged(random.Random(3), 300) + crowd(random.Random(4), 20, 1.0, 0.2)
    shuffled = flows[:]
    rng.shuffle(shuffled)
    assert anomalous_targets(shuffled, 1.0) == anomalous_targets(flows, 1.0)
