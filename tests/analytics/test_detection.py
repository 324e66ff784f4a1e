"""Detection from counters: floods are found, crowds are not, few counts prove nothing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from phalanx.analytics.detection import anomalous_targets, malicious_flows, wilson
from phalanx.domain.actions import FlowStats


def flow(
    source, *, target="10.0.0.1", port=80, protocol="tcp", packets=0, syn=0, done=0, replies=0
):
    return FlowStats(source, target, port, protocol, packets, packets * 100, syn, done, replies)


def flooder(source, syn=20_000, **more):
    return flow(source, packets=syn, syn=syn, replies=syn // 2, **more)


def user(source, syn=60, done=50, **more):
    return flow(source, packets=1000, syn=syn, done=done, replies=900, **more)


def test_a_syn_flood_among_users():
    flows = [flooder("6.6.6.1"), flooder("6.6.6.2", port=81), user("1.1.1.1"), user("1.1.1.2")]
    assert [v.source for v in malicious_flows(flows, 10.0)] == ["6.6.6.1", "6.6.6.2"]
    (target,) = anomalous_targets(flows, 10.0)
    assert target.ip == "10.0.0.1"
    assert target.evidence["flooding_sources"] == 2


def test_a_flash_crowd_is_no_attack():
    crowd = [user(f"1.1.{i}.{j}") for i in range(20) for j in range(50)]
    assert malicious_flows(crowd, 10.0) == []
    assert anomalous_targets(crowd, 10.0) == []


def test_users_that_lose_most_of_their_handshakes_are_not_blamed():
    starved = [user(f"1.1.1.{i}", syn=80, done=12) for i in range(30)]
    assert malicious_flows(starved, 10.0) == []


def test_few_counts_prove_nothing():
    assert malicious_flows([flow("6.6.6.6", packets=5, syn=5)], 10.0) == []


def test_flows_to_several_ports_count_together():
    halves = [flooder("6.6.6.6", syn=100, port=p) for p in (80, 81)]
    assert len(malicious_flows(halves, 1.0)) == 1
    assert malicious_flows(halves[:1], 1.0) == []


def test_a_one_way_udp_flood():
    flows = [
        flow("6.6.6.6", protocol="udp", packets=100_000),
        flow("1.1.1.1", protocol="udp", packets=100_000, replies=40_000),
        flow("1.1.1.2", protocol="udp", packets=50),
    ]
    assert [(v.source, v.kind) for v in malicious_flows(flows, 10.0)] == [("6.6.6.6", "udp flood")]


def test_a_target_is_anomalous_only_if_much_of_its_traffic_is():
    flows = [flooder("6.6.6.6", syn=1000)] + [user(f"1.1.1.{i}") for i in range(200)]
    assert malicious_flows(flows, 10.0)
    assert anomalous_targets(flows, 10.0) == []


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_wilson_interval_holds_the_share(hits, misses):
    low, high = wilson(hits, hits + misses)
    assert 0.0 <= low <= high <= 1.0
    if hits + misses:
        assert low - 1e-9 <= hits / (hits + misses) <= high + 1e-9


@given(st.randoms(use_true_random=False))
def test_order_of_flows_does_not_matter(rng: random.Random):
    flows = [flooder(f"6.6.6.{i}") for i in range(5)] + [user(f"1.1.1.{i}") for i in range(20)]
    shuffled = flows[:]
    rng.shuffle(shuffled)
    assert malicious_flows(shuffled, 10.0) == malicious_flows(flows, 10.0)
    assert anomalous_targets(shuffled, 10.0) == anomalous_targets(flows, 10.0)
