"""Detection from counters: floods are found, crowds are not, few counts prove nothing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from phalanx.analytics.statistics import confidence, fewest, wilson
from phalanx.domain.actions import FlowStats
from tests.analytics.findings import anomalous_targets, malicious_flows


def flow(
    source,
    *,
    target="10.0.0.1",
    port=80,
    protocol="tcp",
    packets=0,
    syn=0,
    done=0,
    replies=0,
    answered=0,
    held=0,
):
    octets = packets * 100
    return FlowStats(
        source, target, port, protocol, packets, octets, syn, done, replies, answered, held
    )


def flooder(source, syn=20_000, **more):
    return flow(source, packets=syn, syn=syn, replies=syn // 2, **more)


def user(source, syn=60, done=50, **more):
    return flow(source, packets=1000, syn=syn, done=done, replies=900, **more)


def test_a_syn_flood_among_users():
    flows = [flooder("6.6.6.1"), flooder("6.6.6.2", port=81), user("1.1.1.1"), user("1.1.1.2")]
    assert [v.source for v in malicious_flows(flows, 10.0)] == ["6.6.6.1", "6.6.6.2"]
    (target,) = anomalous_targets(flows, 10.0)
    assert target.target == "10.0.0.1"
    assert target.evidence["flooding_sources"] == 2
    assert (target.kind, target.spoofed) == ("syn flood", False)


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


@given(st.floats(0.01, 0.99))
def test_fewest_is_where_certainty_begins(threshold):
    few = fewest(threshold)
    assert wilson(0, few * 0.999)[1] > threshold
    assert wilson(0, few * 1.001)[1] < threshold


@given(st.floats(0.01, 0.99), st.integers(1, 10**6), st.floats(0, 1))
def test_confidence_and_interval_agree(threshold, trials, share):
    low, high = wilson(share * trials, trials)
    certain = high < threshold - 1e-9 or low > threshold + 1e-9
    if certain:
        assert confidence(share * trials, trials, threshold) > 0.9986
    assert 0.5 <= confidence(share * trials, trials, threshold) <= 1.0


def slow(source, held, answered=0, new=0, **more):
    """The target acknowledges what it gets, and says nothing else."""
    packets = held * 2
    return flow(
        source, packets=packets, done=new, replies=packets, held=held, answered=answered, **more
    )


def test_connections_that_are_held_open_and_never_answered():
    flows = [slow("6.6.6.6", 300), user("1.1.1.1")]
    (verdict,) = malicious_flows(flows, 10.0)
    assert (verdict.source, verdict.kind) == ("6.6.6.6", "slow connections")
    assert verdict.certainty > 0.9999
    (target,) = anomalous_targets(flows, 10.0)
    assert (target.kind, target.spoofed) == ("slow connections", False)
    assert verdict.reason.startswith("holds 300 connections open, 0 of them answered")
    assert (
        target.reason == "100 % of its open connections are held by 1 source that it never answers"
    )


def test_slow_connections_show_in_a_short_window_too():
    assert malicious_flows([slow("6.6.6.6", 80, new=80)], 0.4)


def test_some_slow_answers_to_a_slow_attacker_do_not_hide_it():
    assert malicious_flows([slow("6.6.6.6", 600, answered=30)], 10.0)


@given(st.integers(0, 18), st.floats(0.2, 20.0))
def test_an_honest_user_has_few_slow_connections(held, seconds):
    assert malicious_flows([slow("1.1.1.1", held, new=held)], seconds) == []


def test_starving_users_are_not_slow_attackers():
    starved = [slow(f"1.1.1.{i}", 6, new=6) for i in range(200)]
    assert malicious_flows(starved, 1.0) == []
    assert anomalous_targets(starved, 1.0) == []


@given(st.integers(0, 5000), st.floats(0.0, 0.5), st.integers(0, 2**32))
def test_a_crowd_behind_one_address_is_not_slow(held, loss, seed):
    rng = random.Random(seed)
    answered = sum(rng.random() >= loss for _ in range(held))
    assert malicious_flows([slow("1.1.1.1", held, answered=answered)], 2.0) == []


def test_a_flow_recorded_in_several_turns_holds_its_connections_once():
    turns = [slow("1.1.1.1", 12)] * 4
    assert malicious_flows(turns, 4.0) == []
    ports = [slow("6.6.6.6", 12, port=port) for port in (80, 443, 8080, 8443)]
    assert len(malicious_flows(ports, 4.0)) == 1


def test_a_target_under_two_attacks_is_named_once():
    flows = [flooder("6.6.6.1"), slow("6.6.6.2", 300)]
    (target,) = anomalous_targets(flows, 10.0)
    assert target.kind == "syn flood"
    assert {"flooded_share", "held_share"} <= target.evidence.keys()


@given(
    st.lists(
        st.builds(
            FlowStats,
            st.sampled_from(["1.1.1.1", "1.1.1.2"]),
            st.sampled_from(["10.0.0.1", "10.0.0.2"]),
            st.integers(0, 3),
            st.sampled_from(["tcp", "udp"]),
            *[st.integers(0, 10**6)] * 7,
        )
    ),
    st.floats(0.001, 100),
    st.integers(0, 10**9),
)
def test_no_counts_upset_the_detectors(flows, seconds, unlisted):
    for verdict in malicious_flows(flows, seconds):
        assert verdict.reason
    for target in anomalous_targets(flows, seconds, unlisted):
        assert target.reason
