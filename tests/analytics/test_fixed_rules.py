"""Forged sources: random ones are found, crowds of honest users never, whatever they lose."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.analytics.source_rules import aggregate, in_vain
from phalanx.analytics.statistics import confidence, fewest, wilson
from phalanx.domain.actions import FlowStats
from tests.analytics.findings import anomalous_targets, malicious_flows
from tests.nightly import examples

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


def test_forged_udp_at_one_port_is_found_beside_as_many_users_of_another():
    rng = random.Random(1)
    users = [udp(f"1.2.{n >> 8}.{n & 255}", 4, 4) for n in range(1000)]
    flood = [replace(each, port=9000) for each in forged(rng, 1000, udp)]
    (target,) = anomalous_targets([*users, *flood], 1.0)
    assert (target.kind, target.spoofed, target.evidence["port"]) == ("udp flood", True, 9000)
    assert anomalous_targets(users, 1.0) == []
    assert anomalous_targets([*users, *flood[:150]], 1.0) == []  # fewer than 200 a second
    assert len(anomalous_targets(flood, 1.0)) == 1


def test_forged_fragments_are_found_beside_a_few_clients_who_ask_for_much():
    rng = random.Random(2)
    clients = [udp(f"1.2.3.{n}", 1000, 900) for n in range(2)]
    flood = [replace(each, port=0) for each in forged(rng, 1000, udp)]
    (target,) = anomalous_targets([*clients, *flood], 1.0)
    assert (target.kind, target.spoofed) == ("udp fragment flood", True)
    assert anomalous_targets(clients, 1.0) == []


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
def test_a_flash_crowd_is_never_forged(users, window_s, loss, seed):
    flows = crowd(random.Random(seed), users, window_s, loss)
    assert anomalous_targets(flows, window_s) == []
    assert malicious_flows(flows, window_s) == []


@given(st.integers(0, 300), st.integers(0, 2**32))
@settings(max_examples=examples(12))
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
@settings(max_examples=examples(4))
def test_order_does_not_matter(rng: random.Random):
    flows = forged(random.Random(3), 300) + crowd(random.Random(4), 20, 1.0, 0.2)
    shuffled = flows[:]
    rng.shuffle(shuffled)
    assert anomalous_targets(shuffled, 1.0) == anomalous_targets(flows, 1.0)


# -- detection from counters ------------------------------------------------------------------


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


def test_what_gets_no_service_is_in_vain_at_any_rate_once_that_is_certain():
    reset = replace(flow("6.6.6.1", packets=200, replies=200), resets=200)
    vain = [flow("6.6.6.2", packets=200), flow("6.6.6.3", protocol="icmp", packets=9, replies=9)]
    honest = [user("1.1.1.1"), flow("1.1.1.2", packets=100), flow("1.1.1.3", packets=9, syn=9)]
    seen = aggregate([reset, *vain, *honest])
    assert [one.source for one in seen if in_vain(one)] == ["6.6.6.1", "6.6.6.2", "6.6.6.3"]
    assert not any(in_vain(one, 10) for one in seen if one.protocol == "tcp"), "20 samples are few"


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


# -- what is spread, and what is a scan -------------------------------------------------------


def asked(source, target, port, *, syn=1, done=0, replies=1, resets=0):
    return FlowStats(
        source, target, port, "tcp", syn + done, 60 * syn, syn, done, replies, resets=resets
    )


@pytest.mark.parametrize(
    ("network", "prefix"),
    [("198.51.100.{}", "198.51.100.0/24"), ("2001:db8:7::{:x}", "2001:db8:7::/48")],
)
def test_a_flood_of_a_prefix_is_found_where_no_target_gets_much(network, prefix):
    flood = [
        FlowStats(f"6.6.6.{bot}", network.format(last), 0, "udp", 20, 20_000, 0, 0, 0)
        for bot in range(4)
        for last in range(1, 200)
    ]
    found = malicious_flows([*flood, *(user(f"1.1.1.{i}") for i in range(9))], 5.0)
    assert {(f.source, f.prefix) for f in found} == {(f"6.6.6.{bot}", prefix) for bot in range(4)}
    assert {f.target for f in found} == {network.format(last) for last in range(1, 200)}
    assert malicious_flows(flood[:40], 5.0) == []


def test_a_prefix_of_forged_sources_is_told_of_each_target():
    rng = random.Random(1)
    flood = [
        FlowStats(address(rng), f"198.51.100.{i % 250}", 9, "udp", 1, 900, 0, 0, 0)
        for i in range(5000)
    ]
    served = [
        FlowStats(f"1.1.{i >> 8}.{i & 255}", "198.51.100.7", 53, "udp", 1, 80, 0, 0, 1)
        for i in range(3000)
    ]
    found = anomalous_targets(flood + served, 5.0)
    assert {f.target for f in found} == {f"198.51.100.{i}" for i in range(250) if i != 7}
    assert {(f.kind, f.spoofed, f.prefix) for f in found} == {
        ("udp flood", True, "198.51.100.0/24")
    }
    assert {"port", "packet_octets"} <= found[0].evidence.keys()
    assert "to port 9, of length 900" in found[0].reason


@pytest.mark.parametrize(
    "answer", [{"resets": 1}, {"replies": 0, "syn": 2}], ids=["refused", "silent"]
)
def test_a_scan_is_no_flood_and_harms_no_target(answer):
    ports = [asked("6.6.6.6", TARGET, port, **answer) for port in range(1, 300)]
    (found,) = malicious_flows(ports, 5.0)
    assert (found.kind, found.target, found.prefix) == ("scan", TARGET, "")
    assert anomalous_targets(ports, 5.0) == []
    hosts = [asked("6.6.6.6", f"198.51.100.{last}", 22, **answer) for last in range(1, 200)]
    found = malicious_flows(hosts, 5.0)
    assert {(f.kind, f.prefix) for f in found} == {("scan", "198.51.100.0/24")}
    assert len(found) == len(hosts)


def test_a_scan_that_is_not_certain_yet_is_no_flood_either():
    flows = [asked("6.6.6.6", TARGET, port, replies=0) for port in range(1, 400)]
    assert malicious_flows(flows, 0.5) == []
    assert [f.kind for f in malicious_flows(flows, 2.0)] == ["scan"]


def test_services_that_are_asked_again_and_again_are_flooded():
    random_ports = [asked("6.6.6.6", TARGET, p, syn=2, resets=2, replies=2) for p in range(2000)]
    (found,) = malicious_flows(random_ports, 1.0)
    assert found.kind == "syn flood"


@given(
    st.integers(1, 400), st.floats(0.4, 1.0), st.integers(0, 4), st.booleans(),
    st.floats(0.2, 20.0), st.integers(0, 2**32),
)  # fmt: skip
def test_who_looks_after_many_services_is_no_scanner(count, up, tries, resets, seconds, seed):
    """Such as a monitoring host, or a load balancer that resets what is accepted."""
    rng = random.Random(seed)
    flows = []
    for number in range(count):
        target, alive = f"198.51.{number % 3}.{number % 200}", int(rng.random() < up)
        done = 0 if resets else alive
        flows.append(asked("1.1.1.1", target, number, syn=1 + tries, done=done, replies=alive))
    assert [f for f in malicious_flows(flows, seconds) if f.kind == "scan"] == []


def test_who_has_just_begun_to_ask_many_services_is_no_scanner():
    flows = [asked("1.1.1.1", f"198.51.100.{i}", 443, replies=0) for i in range(150)]
    assert malicious_flows(flows, 0.3) == []


@given(st.floats(1, 150), st.floats(0.2, 10.0), st.integers(1, 12), st.integers(0, 2**32))
def test_slow_users_behind_one_address_are_not_slow_attackers(rate, seconds, looks, seed):
    """They upload for up to 8 s, 2 s on average, over looks that are judged together."""
    rng = random.Random(seed)
    begun = [(t, t + rng.choice((0.1, 0.1, 0.5, rng.uniform(0, 8))), rng.random() < 0.5)
             for t in (rng.uniform(-8, seconds) for _ in range(round(rate * (seconds + 8))))
             ]  # fmt: skip
    flows, each = [], seconds / looks
    for look in range(looks):
        since, until = look * each, (look + 1) * each
        alive = [c for c in begun if c[0] < until and (c[1] > since or (c[2] and c[0] > since))]
        held = sum(done > until or keeps for _, done, keeps in alive)
        said = sum(since < done <= until for _, done, _ in alive)
        new = sum(since < at for at, _, _ in alive)
        packets = 9 * len(alive)
        flows.append(
            FlowStats(
                "1.1.1.1", TARGET, 443, "tcp", packets, 900, new, len(alive), packets, said, held
            )
        )
    assert malicious_flows(flows, seconds) == []


def test_resets_and_fragments_are_floods_of_their_own_where_replies_to_others_are_seen():
    resets = FlowStats("6.6.6.6", TARGET, 80, "tcp", 20_000, 10**6, 0, 0, 0, aborts=20_000)
    pieces = FlowStats("6.6.6.7", TARGET, 0, "tcp", 20_000, 10**7, 0, 0, 0)
    others = [user(f"1.1.1.{i}") for i in range(5)]
    found = malicious_flows([resets, pieces, *others], 5.0)
    assert [(f.source, f.kind) for f in found] == [
        ("6.6.6.6", "rst flood"),
        ("6.6.6.7", "tcp fragment flood"),
    ]
    assert malicious_flows([resets, pieces], 5.0) == []
