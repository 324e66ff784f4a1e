"""The service strategy: users keep their service, whatever attacks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.bdi.memory import encode, remember
from phalanx.domain.actions import Action, Failed, ReadMeasure
from phalanx.domain.messages import AttackReport, Message, Performative, UsualService
from phalanx.domain.predicates import Threat
from phalanx.functions.edge_filter import EdgeFilter
from phalanx.functions.service_monitor import ServiceMonitor
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import HostLimitsSpec, Scenario, ShapeSpec
from phalanx.runtime.system import RunResult, System, run_scenario
from tests.nightly import at_night, sample
from tests.system.rings import (
    POPS,
    PREFERENCES,
    SERVER,
    attack,
    crash,
    document,
    of,
    pop,
    ring,
    users,
)

START_S, END_S = 10.0, 130.0


def service(**changes: Any) -> RunResult:
    return run_scenario(ring(**{"strategy": "service", "duration_s": 150, **changes}))


def shares(result: RunResult, host: str = "shop", since: float = START_S + 10) -> list[float]:
    """Return the share of what users want that they get, second by second of the attack."""
    samples = (e for e in of(result, "network.sample") if since <= e.time <= END_S)
    seen = (e.data["hosts"][host] for e in samples)
    return [s["legitimate_mb_s"] / s["wanted_mb_s"] for s in seen if s["wanted_mb_s"] > 0]


def filters(result: RunResult) -> Iterator[tuple[str, list[str]]]:
    """Yield the PoP and the sources of each filter."""
    for event in of(result, "measure.applied"):
        yield event.data["pop"], event.data.get("sources", [])


def test_attackers_are_blocked_where_they_enter_and_nobody_else_is() -> None:
    result = service()
    assert min(shares(result)) > 0.9
    assert dict(filters(result)) == {"east": ["10.2.0.1"], "west": ["10.2.0.2"]}
    assert not [e for e in of(result, "instance.started") if e.data["vnf"] == "classifier"]


def feed(mb_s: float, **changes: Any) -> dict[str, Any]:
    """Return a sender of UDP that is not answered: telemetry, or a flood, by what it takes."""
    named: dict[str, Any] = {"name": "feed", "profile": "udp-flood", "count": 1, "at": ["north"]}
    return attack(**{**named, "demand_mb_s": mb_s, **changes})


def test_a_feed_that_nobody_answers_is_left_alone_while_it_takes_nothing_from_users() -> None:
    result = service(traffic=[users(), feed(0.3)])  # of 6 MB/s, 250 packets/s
    assert not of(result, "measure.applied")
    assert min(shares(result)) > 0.9


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("start_s", sample([2, 30], 2))
def test_a_feed_is_left_alone_beside_one_user_and_beside_two(count: int, start_s: float) -> None:
    few = users(count=count, demand_mb_s=0.3)
    result = service(traffic=[few, feed(0.3, profile="udp-fragments", start_s=start_s)])
    assert not list(filters(result))
    assert not of(result, "belief.changed", belief=f"serviceBreached({SERVER})")


SELDOM = [
    ("dns", 10, 0.0005, 60, 0),
    ("dns", 40, 0.0019, 60, 1),
    ("dns", 3, 0.0005, 30, 0),
    ("http", 20, 0.003, 90, 0),
    ("http", 3, 0.003, 30, 0),
]
"""Users of whom a look sees so few packets that what they get varies much by chance."""


@pytest.mark.parametrize(("profile", "count", "mb_s", "start_s", "seed"), sample(SELDOM, 3))
def test_a_feed_is_left_alone_beside_users_who_ask_seldom(profile, count, mb_s, start_s, seed):
    port = 53 if profile == "dns" else 443
    few = users(profile=profile, count=count, demand_mb_s=mb_s, port=port)
    came = feed(0.3, profile="udp-fragments", count=2, start_s=start_s, end_s=None)
    result = service(seed=seed, traffic=[few, came])
    assert not list(filters(result))
    assert not of(result, "belief.changed", belief=f"serviceBreached({SERVER})")


@pytest.mark.parametrize(("profile", "count", "mb_s", "start_s", "seed"), sample(SELDOM, 3))
def test_users_who_ask_seldom_are_helped(profile, count, mb_s, start_s, seed):
    port = 53 if profile == "dns" else 443
    few = users(profile=profile, count=count, demand_mb_s=mb_s, port=port)
    came = feed(2, profile="udp-fragments", count=2, start_s=start_s, end_s=None)
    plan = ring(strategy="service", duration_s=150, seed=seed, traffic=[few, came])
    host = replace(plan.hosts[0], limits=HostLimitsSpec(packets_s=1500))
    result = run_scenario(replace(plan, hosts=[host]))
    assert {source for _, named in filters(result) for source in named} == {"10.2.0.1", "10.2.0.2"}
    assert min(shares(result, since=start_s + 25)) > 0.99


@pytest.mark.parametrize("start_s", sample([11, 30, 70], 3))
def test_much_udp_that_comes_and_takes_a_little_is_blocked(start_s: float) -> None:
    """It takes 22 % from its beginning: no breach at other times."""
    came = feed(0.9, profile="udp-fragments", count=3, start_s=start_s, end_s=None)
    plan = ring(strategy="service", duration_s=150, traffic=[users(), came])
    host = replace(plan.hosts[0], limits=HostLimitsSpec(packets_s=4000))
    result = run_scenario(replace(plan, hosts=[host]))
    sources = {source for _, named in filters(result) for source in named}
    assert sources == {"10.2.0.1", "10.2.0.2", "10.2.0.3"}
    hosts = (e.data["hosts"]["shop"] for e in of(result, "network.sample") if e.time > 110)
    assert min(h["legitimate_mb_s"] / h["wanted_mb_s"] for h in hosts) > 0.99


def test_a_feed_that_users_were_served_beside_is_left_alone_while_others_attack() -> None:
    result = service(traffic=[users(), feed(0.6, start_s=2), attack(at=["north"], name="others")])
    assert dict(filters(result)) == {"north": ["10.3.0.1", "10.3.0.2"]}


def test_a_feed_that_crowds_users_is_blocked_and_so_is_one_of_very_many_packets() -> None:
    result = service(traffic=[users(), feed(0.3, end_s=60), feed(4, name="more", start_s=60)])
    assert [sources for _, sources in filters(result)] == [["10.3.0.1"]]


@pytest.mark.parametrize(("start_s", "mb_s"), sample([(26, 0.75), (34, 0.9)], 2))
def test_others_who_come_soon_after_an_attack_are_blocked_though_they_do_less(start_s, mb_s):
    """They take 9 % and 22 %: no breach at other times, since users want less now and then."""
    swarm = {"profile": "udp-fragments", "count": 3}
    first = attack(20, 42, **swarm, at=["north"], demand_mb_s=1.5)
    others = attack(start_s, **swarm, name="others", demand_mb_s=mb_s)
    plan = ring(strategy="service", duration_s=150, traffic=[users(), first, others])
    host = replace(plan.hosts[0], limits=HostLimitsSpec(packets_s=4000))
    result = run_scenario(replace(plan, hosts=[host]))
    assert min(shares(result, since=start_s + 20.0)) > 0.95


def test_users_who_come_and_ask_for_little_take_nothing_from_those_who_are_there() -> None:
    readers = users(name="readers", count=20, demand_mb_s=0.01, start_s=40)
    viewers = users(name="viewers", profile="video", count=4, demand_mb_s=0.2)
    result = service(traffic=[viewers, readers])
    assert not [e for e in of(result, "belief.changed") if "serviceBreached" in e.data["belief"]]


def asking(count: int, mb_s: float, start_s: float, **changes: Any) -> dict[str, Any]:
    """Return sources of HTTP: a request is some 5 kB."""
    named: dict[str, Any] = {"name": "asking", "profile": "http-flood", "count": count}
    return attack(start_s, **{**named, "demand_mb_s": mb_s, **changes})


@pytest.mark.parametrize(("count", "mb_s", "start_s"), sample([(6, 2, 20), (2, 3, 24)], 2))
def test_who_asks_for_far_too_much_is_blocked_though_no_metric_of_the_service_is_known(
    count: int, mb_s: float, start_s: float
) -> None:
    """Two that just fill the link are served for a look, and none the less did not ask before."""
    result = service(traffic=[users(), asking(count, mb_s, start_s)])
    named = {source for _, sources in filters(result) for source in sources}
    assert named == {f"10.2.0.{number}" for number in range(1, count + 1)}
    assert min(shares(result, since=start_s + 13)) > 0.9


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def honest_blocked(result: RunResult) -> set[str]:
    return {s for _, sources in filters(result) for s in sources if s.startswith("10.1.")}


@pytest.mark.parametrize(
    ("count", "mb_s", "start_s"),
    sample([(1, 40, 30), (1, 40, 10), (20, 0.5, 30), (60, 0.133, 20)], 4),
)
def test_users_who_ask_for_much_are_not_blocked_as_they_come_back(
    count: int, mb_s: float, start_s: float
) -> None:
    """Each of them makes 60 requests/s, and made none while the flood took all."""
    result = service(traffic=[users(count=6, demand_mb_s=0.3), asking(count, mb_s, start_s)])
    assert not honest_blocked(result)
    assert mean(shares(result, since=start_s + 10)) > 0.9


def test_users_who_ask_for_much_are_not_blocked_beside_who_attacks_later_either() -> None:
    waves = [asking(1, 40, 30, end_s=60), asking(2, 10, 90, name="later")]
    result = service(traffic=[users(count=6, demand_mb_s=0.3), *waves])
    assert not honest_blocked(result)
    assert mean(shares(result, since=40)) > 0.9


@at_night
def test_who_asks_for_far_too_much_from_ever_other_addresses_is_blocked_ever_sooner() -> None:
    flood = asking(3, 4, 20, adapt="move")  # until it has used sixteen
    result = service(traffic=[users(count=6, demand_mb_s=0.15), flood])
    assert not honest_blocked(result)
    assert mean(shares(result, since=30)) > 0.5
    assert min(shares(result, since=115)) > 0.9


@at_night
@pytest.mark.parametrize(("count", "mb_s"), sample([(80, 0.08), (100, 0.07), (200, 0.05)], 3))
def test_who_asks_for_little_and_gives_users_no_way_is_held_to_what_they_leave(
    count: int, mb_s: float
) -> None:
    """Each makes 10 to 16 requests/s, as a user may; a crowd of users who do is left alone."""
    swarm = asking(count, mb_s, 30)
    result = service(traffic=[users(), swarm])
    limits = [e for e in of(result, "measure.applied") if e.data["verdict"] == "limit"]
    assert limits
    assert not honest_blocked(result)
    assert limits[0].data["rate_mb_s"] == pytest.approx(0.9 * 6 - 1.0, abs=0.1)
    assert mean(shares(result, since=45)) > 0.95
    assert len(of(result, "auction.called")) < 20, "no other agent is asked to look again and again"
    crowd = service(traffic=[users(), swarm | {"profile": "http"}])
    assert not of(crowd, "measure.applied")


def test_who_asks_for_far_too_much_is_blocked_beside_another_host_of_the_same_agent() -> None:
    bank = {"name": "bank", "at": "south", "address": "10.0.0.11", "bandwidth_mb_s": 6}
    watch = {"link": "south>bank", "at": "south", "threshold_mb_s": 5}
    plan = document()
    hosts, monitors = [*plan["hosts"], bank], [*plan["monitors"], watch]
    others = users(name="others", target="bank")
    traffic = [users(), others, asking(6, 2, 20)]
    result = service(hosts=hosts, monitors=monitors, traffic=traffic)
    named = {source for _, sources in filters(result) for source in sources}
    assert named == {f"10.3.0.{number}" for number in range(1, 7)}


def test_who_asks_for_much_is_left_alone_while_all_are_served_or_others_are_to_blame() -> None:
    proxies = asking(3, 0.4, 20)
    assert not of(service(traffic=[users(), proxies]), "measure.applied")
    result = service(traffic=[users(), asking(3, 0.1, 20), attack(40, count=6)])
    named = {source for _, sources in filters(result) for source in sources}
    assert named == {f"10.3.0.{number}" for number in range(1, 7)}


def test_clients_over_udp_that_are_not_answered_any_more_are_no_strangers() -> None:
    clients = users(profile="dns", port=53, count=60, demand_mb_s=0.002, jitter=0.9)
    flood = attack(profile="udp-flood", start_s=25, count=200, demand_mb_s=0.1)
    named = {
        source for _, sources in filters(service(traffic=[clients, flood])) for source in sources
    }
    assert named
    assert not {source for source in named if source.startswith("10.1.")}


def test_clients_over_udp_suffer_that_get_some_of_their_answers() -> None:
    clients = users(profile="dns", port=53, demand_mb_s=0.002)
    swarm = attack(24, profile="icmp-flood", count=800, demand_mb_s=0.04)
    assert min(shares(service(traffic=[clients, swarm]), since=34)) > 0.9


def test_resets_are_found_where_users_ask_over_udp_alone() -> None:
    clients = users(profile="dns", port=53, demand_mb_s=0.002)
    result = service(traffic=[clients, attack(profile="rst-flood")])
    assert dict(filters(result)) == {"east": ["10.2.0.1"], "west": ["10.2.0.2"]}


FORGED_UDP: dict[str, Any] = {"profile": "udp-flood-spoofed", "demand_mb_s": 6}


def dropped(result: RunResult) -> set[str]:
    """Return in words what each filter drops that names no source."""
    applied = (e.data for e in of(result, "measure.applied") if not e.data.get("sources"))
    return {data["effect"].rpartition(", ")[2].rstrip(")") for data in applied}


@at_night
def test_forged_udp_is_dropped_at_its_port_while_others_are_served_by_udp() -> None:
    asking = users(name="resolver", profile="dns", port=53, demand_mb_s=0.002)
    result = service(traffic=[asking, attack(**FORGED_UDP)])
    assert dropped(result) == {"udp to port 443 that nobody answers"}
    assert min(shares(result)) > 0.9


@at_night
def test_forged_udp_that_goes_to_another_port_is_dropped_whatever_its_port() -> None:
    first = attack(**FORGED_UDP, end_s=40)
    second = attack(**FORGED_UDP, name="again", port=8443, start_s=40)
    result = service(traffic=[users(), first, second])
    assert dropped(result) == {"udp to port 443 that nobody answers", "udp that nobody answers"}
    assert sorted(shares(result))[5] > 0.9  # five seconds, as it changes


@at_night
def test_who_comes_over_udp_later_is_served_beside_forged_udp_to_another_port() -> None:
    late = users(name="resolver", profile="dns", port=53, demand_mb_s=0.002, start_s=60)
    result = service(traffic=[users(), attack(**FORGED_UDP), late])
    assert dropped(result) == {"udp to port 443 that nobody answers"}
    assert min(shares(result)) > 0.9


def narrow_east(**changes: Any) -> RunResult:
    """Run with an attacker in the east, whose link to the shop takes 2 MB/s; the shop's takes 6."""
    links = [{"between": ["east", "south"], "bandwidth_mb_s": 2, "latency_ms": 5}]
    links += [
        {"between": [a, b], "bandwidth_mb_s": 50, "latency_ms": 5}
        for a, b in (("north", "east"), ("south", "west"), ("west", "north"))
    ]
    network = {"repository": "north", "pops": [pop(name) for name in POPS], "links": links}
    return service(network=network, **changes)


def test_a_flood_that_fills_a_link_upstream_is_found() -> None:
    """The monitored link never carries more than 2 MB/s, and its threshold is 4.5."""
    flood = attack(at=["east"], count=1, demand_mb_s=20)
    assert min(shares(narrow_east(traffic=[users(at=["east"]), flood]))) > 0.9


def beside_a_swarm(count: int, demand_mb_s: float, profile: str = "udp-flood") -> RunResult:
    """Run clients that come with a swarm, behind the link that it fills, and stay after it."""
    more = {"at": ["east"], "start_s": 25, "count": 20, "demand_mb_s": 0.002}
    clients = users(name="clients", profile="dns", port=53, **more)
    swarm = {"count": count, "demand_mb_s": demand_mb_s, "profile": profile}
    return narrow_east(traffic=[users(), clients, attack(24, 60, at=["east"], **swarm)])


def test_clients_that_come_with_a_swarm_and_send_much_less_are_none_of_it() -> None:
    named = {s for _, sources in filters(beside_a_swarm(250, 0.2)) for s in sources}
    assert named == {f"10.3.0.{n}" for n in range(1, 251)}


@at_night
@pytest.mark.parametrize(("count", "demand_mb_s"), sample([(800, 0.03), (3000, 0.02)], 2))
def test_clients_that_come_with_a_swarm_of_resets_are_none_of_it(count, demand_mb_s) -> None:
    """Some 40 or 7 packets/s of each source pass the link that they fill."""
    result = beside_a_swarm(count, demand_mb_s, "rst-flood")
    named = {s for _, sources in filters(result) for s in sources}
    assert named == {f"10.3.{n // 256}.{n % 256}" for n in range(1, count + 1)}
    assert min(shares(result, since=34)) > 0.9


@at_night
def test_clients_that_were_taken_for_part_of_a_swarm_are_let_in_after_it() -> None:
    result = beside_a_swarm(3000, 0.02)
    assert [s for _, named in filters(result) for s in named if s.startswith("10.2.")]
    assert shares(result)[-1] > 0.99
    assert len(of(result, "measure.lifted")) == len(of(result, "measure.applied"))


@pytest.mark.parametrize("honest", sample([4, 10], 2))
def test_a_swarm_over_udp_that_cuts_off_a_few_of_the_users_is_found(honest: int) -> None:
    """Three of four, or seven of ten, are served as ever, and the shop's link is not half full."""
    swarm = attack(24, at=["east"], count=400, demand_mb_s=0.05, profile="udp-flood")
    result = narrow_east(traffic=[users(count=honest), swarm])
    assert min(shares(result, since=34)) > 0.9
    assert {source for _, named in filters(result) for source in named} == {
        f"10.2.{n // 256}.{n % 256}" for n in range(1, 401)
    }


@pytest.mark.parametrize(
    ("kind", "demand_mb_s"),
    sample([("icmp-flood", 0.04), ("rst-flood", 0.04), ("ack-flood", 0.01)], 3),
)
def test_a_swarm_over_any_protocol_is_found(kind: str, demand_mb_s: float) -> None:
    """Each sends fewer echoes, resets or ACKs than one source may."""
    swarm = attack(24, count=800, demand_mb_s=demand_mb_s, profile=kind)
    result = service(traffic=[users(), swarm])
    assert min(shares(result, since=34)) > 0.9
    named = {source for _, sources in filters(result) for source in sources}
    assert named <= {f"10.2.{n // 256}.{n % 256}" for n in range(1, 801)}
    reasons = {event.data["reason"].partition(" by ")[0] for event in of(result, "measure.applied")}
    assert reasons == {kind.replace("-", " ")}


def test_a_swarm_of_echoes_is_found_before_anybody_suffers_and_a_few_are_left_alone() -> None:
    few = attack(name="few", count=8, demand_mb_s=0.02, profile="icmp-flood")
    many = attack(50, name="many", count=100, demand_mb_s=0.02, profile="icmp-flood")
    assert not list(filters(service(traffic=[users(), few])))
    assert len({s for _, named in filters(service(traffic=[users(), many])) for s in named}) == 100


def test_who_takes_over_the_watch_in_an_attack_knows_who_attacks() -> None:
    swarm = attack(24, at=["south"], count=150, demand_mb_s=0.06, profile="udp-flood")
    honest = users(at=["north", "east", "west"])
    result = service(traffic=[honest, swarm], faults=[crash("south", 80)])
    assert min(shares(result, since=85)) < 0.7, "nobody watches, and the filter has ended"
    assert min(shares(result, since=92)) > 0.9


def test_a_flood_larger_than_the_inner_links_does_not_reach_them() -> None:
    result = service(traffic=[users(), attack(demand_mb_s=80)])
    assert min(shares(result)) > 0.9


def test_the_same_source_is_blocked_in_its_next_pulse_before_it_costs_anything() -> None:
    on_off = [attack(start_s=t, end_s=t + 15, name=f"attackers{t}") for t in (10, 45)]
    result = service(traffic=[users(), on_off[0], {**on_off[1], "count": 2}])
    assert min(shares(result, since=50)) > 0.9


def test_two_victims_are_served_at_once() -> None:
    hosts = [
        {"name": "shop", "at": "south", "address": SERVER, "bandwidth_mb_s": 6},
        {"name": "bank", "at": "west", "address": "10.0.0.20", "bandwidth_mb_s": 6},
    ]
    result = service(
        hosts=hosts,
        traffic=[
            users(),
            users(name="clients", target="bank"),
            attack(),
            attack(name="robbers", target="bank", at=["north", "south"]),
        ],
        monitors=[
            {"link": "south>shop", "at": "south", "threshold_mb_s": 4.5},
            {"link": "west>bank", "at": "west", "threshold_mb_s": 4.5},
        ],
    )
    assert min(shares(result)) > 0.9
    assert min(shares(result, "bank")) > 0.9


@at_night
@pytest.mark.parametrize("start_s", sample([17.0, 24.0], 2))
def test_a_flood_of_several_hosts_leaves_no_link_full_though_most_of_them_are_unharmed(
    start_s: float,
) -> None:
    """The flood fills a link behind which the shop has one user of five, and the others none."""
    hosts = dict.fromkeys(["shop", "bank", "mill", "farm"], "south")
    result = narrow_east(
        hosts=[
            {"name": name, "at": at, "address": f"10.0.0.{n}", "bandwidth_mb_s": 10}
            for n, (name, at) in enumerate(hosts.items(), 10)
        ],
        traffic=[
            users(count=5, at=[*POPS, "north"], demand_mb_s=0.011, profile="video"),
            *(users(name=f"of-{h}", count=20, target=h, at=["west"]) for h in hosts if h != "shop"),
            attack(start_s, at=["east"], target=[*hosts], count=40, demand_mb_s=0.2)
            | {"profile": "icmp-flood"},
        ],
        monitors=[
            {"link": f"{at}>{name}", "at": at, "threshold_mb_s": 7.5} for name, at in hosts.items()
        ],
    )
    got = shares(result, since=start_s + 25)
    assert sum(got) / len(got) > 0.95
    blocked = {one for _, named in filters(result) for one in named}
    assert {one.split(".")[1] for one in blocked} == {"5"}


@pytest.mark.parametrize("profile", sample(["udp-flood", "udp-flood-spoofed"], 2))
def test_forged_and_udp_floods_are_filtered_at_the_entries(profile: str) -> None:
    result = service(traffic=[users(), attack(profile=profile)])
    assert min(shares(result)) > 0.9
    assert {place for place, _ in filters(result)} == {"east", "west"}


def test_slow_connections_are_filtered() -> None:
    slow = attack(profile="slow-http", count=6, demand_mb_s=0.004)
    result = service(traffic=[users(), slow])
    assert min(shares(result)) > 0.9


def test_a_crowd_is_left_alone() -> None:
    crowd = users(name="crowd", count=60, start_s=20, end_s=90)
    result = service(traffic=[users(), crowd])
    assert not list(filters(result))


def test_an_entry_without_room_is_covered_by_another_pop() -> None:
    pops = [pop(n, cores=0.05 if n == "east" else 4) for n in POPS]
    result = service(pops=pops)
    assert min(shares(result)) > 0.9
    covering = {source: place for place, sources in filters(result) for source in sources}
    assert covering["10.2.0.1"] != "east"


def test_an_entry_whose_agent_is_dead_is_covered() -> None:
    result = service(faults=[crash("east", 2)])
    assert min(shares(result, since=START_S + 25)) > 0.9


def test_lost_messages_delay_and_do_not_prevent() -> None:
    result = service(faults=[{"at_s": 1, "kind": "lose", "share": 0.3}])
    assert min(shares(result, since=START_S + 30)) > 0.9


def test_the_repository_is_not_needed() -> None:
    result = service(faults=[{"at_s": 1, "kind": "repository-away"}])
    assert min(shares(result)) > 0.9


def test_a_false_report_blocks_no_honest_source() -> None:
    """An agent with a real name says that all users attack."""
    system = System(ring(strategy="service", traffic=[users()], duration_s=40))
    sources = tuple(f"10.1.0.{i}" for i in range(1, 11))
    report = AttackReport(SERVER, ("syn flood",), sources)

    liar = system.agents["south"]

    def lie() -> None:
        liar.agent.cause = system.cause
        for name in POPS:
            liar.agent.tell(Performative.INFORM, name, "attack", report)
        liar.node.carry_out(liar.agent.settle())

    system.clock.call_at(20.0, lie)
    result = system.run()
    assert of(result, "analysis.done")
    assert not list(filters(result))


@at_night
def test_a_filter_after_which_nobody_is_served_is_taken_back() -> None:
    """Users of one entry leave in the moment in which its filter begins."""
    forged = attack(profile="syn-flood-spoofed")
    traffic = [users(at=["north"]), users(name="leaving", at=["east"], end_s=12.6), forged]
    result = service(traffic=traffic, duration_s=80)
    (withdrawn,) = of(result, "measure.withdrawn")
    assert withdrawn.data["after_mb_s"] < withdrawn.data["before_mb_s"] / 2
    assert of(result, "measure.lifted", effect=withdrawn.data["effect"])
    assert min(shares(result, since=START_S + 15)) > 0.9, "filtered elsewhere meanwhile"


def test_a_filter_that_is_cut_off_does_not_take_silence_for_peace() -> None:
    cut = {"at_s": 20, "kind": "link-down", "for_s": 90}
    links = (["north", "east"], ["east", "south"])
    result = service(faults=[{**cut, "link": link} for link in links])
    assert not of(result, "measure.lifted", pop="east")
    assert of(result, "measure.applied", pop="east")


def test_filters_end_after_the_attack_and_all_is_given_back() -> None:
    system = System(ring(strategy="service", duration_s=400))
    result = system.run()
    believed = (p for agent in system.agents.values() for p, _ in agent.agent.beliefs)
    assert not [p for p in believed if isinstance(p, Threat)], "nothing is kept of what is over"
    assert result.summary.returned
    assert len(of(result, "measure.applied")) == len(of(result, "measure.lifted"))


def test_filters_end_although_what_they_hold_back_cannot_be_read_for_a_while() -> None:
    """As where the VNF is killed in the middle of a reading, and started again."""
    system = System(ring(strategy="service", duration_s=400))
    perform = system.infrastructure.perform

    def deaf(pop: str, action: Action, cause: str, answer: Callable[[Any], None]) -> None:
        if isinstance(action, ReadMeasure) and 40 <= system.clock.now() <= 60:
            answer(Failed("it does not answer"))
        else:
            perform(pop, action, cause, answer)

    system.infrastructure.perform = deaf  # type: ignore[method-assign]
    result = system.run()
    assert of(result, "action.failed", action="ReadMeasure")
    assert {e.data["pop"] for e in of(result, "measure.applied") if e.time < 40} == {"east", "west"}
    assert result.summary.returned
    assert not [e for e in of(result, "measure.lifted") if e.time < END_S]


# -- attacks without a handshake and servers that they exhaust --------------------------------


RING = load_scenario(Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml")
NO_COOKIES = HostLimitsSpec(syn_cookies=False)


def attacked(profile: str, seed: int = 1, **more: object) -> Scenario:
    users, bots = RING.traffic
    bots = replace(bots, profile=profile, count=8, demand_mb_s=1.0, jitter=0.2, **more)
    hosts = (replace(RING.hosts[0], limits=NO_COOKIES),)
    return replace(RING, strategy="service", seed=seed, hosts=hosts, traffic=(users, bots))


def served(plan: Scenario) -> list[float]:
    """Return the share of what users want that they get, for each second of the attack."""
    result = System(plan).run(106)  # the attack goes on for a second
    samples = [event for event in result.events if event.kind == "network.sample"]
    shop = [event.data["hosts"]["shop"] for event in samples if 15 < event.time <= 105]
    return [figures["legitimate_mb_s"] / figures["wanted_mb_s"] for figures in shop]


@pytest.mark.parametrize(
    "profile",
    sample(
        [
            "ack-flood",
            "ntp-reflection",
            "dns-reflection",
            "ack-flood-spoofed",
            "syn-flood-spoofed",
            "syn-ack-flood",
            "syn-ack-flood-spoofed",
            "rst-flood",
            "rst-flood-spoofed",
            "udp-fragments",
            "udp-fragments-spoofed",
            "icmp-flood",
            "icmp-flood-spoofed",
        ],
        14,
    ),
)
def test_users_are_served_again_within_ten_seconds(profile: str) -> None:
    shares = served(attacked(profile))
    assert min(shares) < 0.9, "the attack does harm"
    assert min(shares[10:]) > 0.95


def test_the_hold_down_of_an_attack_that_always_returns_stays_finite() -> None:
    me: Any = SimpleNamespace(now=0.0, parameter=lambda *_: 10.0)
    edge = EdgeFilter()
    for _ in range(2_000):  # 2.0**1024 is no float
        me.now += 20.0
        edge._count_relapse(me, AttackReport(SERVER, (), ("10.2.0.1",)))
    assert edge._hold_s(me, SERVER) == 160.0


def test_users_who_get_less_for_unknown_reasons_are_no_relapse_of_an_attack() -> None:
    me: Any = SimpleNamespace(now=0.0, parameter=lambda *_: 10.0)
    edge = EdgeFilter()
    for _ in range(10):
        me.now += 20.0
        edge._count_relapse(me, AttackReport(SERVER))
    assert edge._hold_s(me, SERVER) == 10.0


@pytest.mark.parametrize(("by", "held"), [("south", {"10.1.0.1"}), ("east", set())])
def test_nobody_is_held_to_a_rate_by_the_word_of_another_agent(by: str, held: set[str]) -> None:
    system = System(ring(strategy="service", traffic=[users()], duration_s=25))
    report = AttackReport(SERVER, ("http flood",), crowd=("10.1.0.1",), rest_mb_s=0.01)
    speaker = system.agents[by]

    def say() -> None:
        speaker.agent.cause = system.cause
        speaker.agent.tell(Performative.INFORM, "south", "attack", report)
        speaker.node.carry_out(speaker.agent.settle())

    system.clock.call_at(20.0, say)
    system.run()
    edge: EdgeFilter = system.agents["south"].agent.capability(EdgeFilter)
    assert edge._report(SERVER).crowd == held


def test_all_agents_know_what_is_usual_at_each_link_that_another_watches() -> None:
    hosts = [
        {"name": name, "at": "south", "address": address, "bandwidth_mb_s": 6}
        for name, address in (("shop", SERVER), ("forum", "10.0.0.11"))
    ]
    links = [
        {"link": f"south>{host['name']}", "at": "south", "threshold_mb_s": 4.5} for host in hosts
    ]
    traffic = [users(), users(name="readers", target="forum", count=4)]
    plan = ring(strategy="service", hosts=hosts, monitors=links, traffic=traffic, duration_s=30)
    system = System(plan)
    system.run()
    for name in set(POPS) - {"south"}:
        monitor = system.agents[name].agent.capability(ServiceMonitor)
        known = {target: len(each.goodput.served) for target, each in monitor._targets.items()}
        assert known == {SERVER: 10, "10.0.0.11": 4}
        assert all(each.goodput.usual_kb_s > 50 for each in monitor._targets.values())


def test_an_agent_that_forgot_hears_what_is_usual_from_the_next_one_at_once() -> None:
    system = System(
        ring(strategy="service", traffic=[users()], duration_s=30, faults=[crash("south", 20, 3)])
    )
    sent: list[Message] = []
    send = system.bus.send
    system.bus.send = lambda message: (sent.append(message), send(message))  # type: ignore[method-assign,func-returns-value]
    system.run()
    told = [m for m in sent if m.receiver == "south" and isinstance(m.content, UsualService)]
    assert [m.sender for m in told] == ["west"]
    assert len(told[0].content_as(UsualService).served) == 10


def test_what_others_say_is_usual_is_bounded_and_changes_no_watch() -> None:
    system = System(ring(strategy="service", traffic=[users()], duration_s=30))
    south, east = (system.agents[name].agent for name in ("south", "east"))
    many = tuple((f"10.9.{number}.1", 9e9) for number in range(999))

    def lie() -> None:
        for number, target in enumerate((SERVER, *(f"10.{n}.0.1" for n in range(9_000)))):
            usual = UsualService(target, (9e9,) * 99, many)
            message = Message(str(number), Performative.INFORM, "west", "", "usual", usual, "")
            for me in south, east:
                me.capability(ServiceMonitor).heard_usual(me, message)

    system.clock.call_at(25.0, lie)
    system.run()
    for me in south, east:
        known = me.capability(ServiceMonitor)._targets
        assert len(known) == 500
        assert max(len(target.goodput.served) for target in known.values()) <= 200
        assert len(encode(remember(me))) < 10_000, "what others watch is theirs to remember"
    goodput = south.capability(ServiceMonitor)._targets[SERVER].goodput
    assert goodput.usual_kb_s < 200
    assert len(goodput.served) == 10


def test_attackers_that_attack_in_turns_are_one_attack() -> None:
    """One half is quiet while the other attacks; the hold-down grows for both."""
    pulses = {"shape": {"on_s": 5, "off_s": 40}, "count": 1, "end_s": 260}
    turns = [
        attack(15, name="first", at=["east"], **pulses),
        attack(37, name="second", at=["west"], **pulses),
    ]
    plan = ring(
        strategy="service", traffic=[users(), *turns], duration_s=260, parameters={"hold_s": 10}
    )
    result = run_scenario(plan)
    assert len(of(result, "measure.applied", pop="east")) <= 3
    assert len(of(result, "measure.applied", pop="west")) == 2, "the third comes to a filter"


def test_a_filter_stays_while_its_attackers_pause_for_less_than_the_hold_down() -> None:
    pulses = attack(15, 220, at=["east"], count=1, shape={"on_s": 7.0, "off_s": 8.5})
    plan = ring(
        strategy="service", traffic=[users(), pulses], duration_s=220, parameters={"hold_s": 10}
    )
    result = run_scenario(plan)
    assert of(result, "measure.applied", pop="east")
    assert not of(result, "measure.lifted", pop="east", reason="lifted")


@at_night
def test_short_pulses_are_filtered_before_the_host_if_they_cannot_be_where_they_enter() -> None:
    """Each is over before the patience is; together they are one attack."""
    pops = [pop(name, *((0, 0.5) if name == "east" else (4, 8))) for name in POPS]
    slow = attack(
        15, 150, profile="slow-http", at=["east"], count=30, demand_mb_s=0.001,
        shape={"on_s": 2.1, "off_s": 13.8},
    )  # fmt: skip
    near = {"default": {"constraints": {"hops": 0}, "preferences": PREFERENCES}}
    limits = HostLimitsSpec(connections=64)
    hosts = [{"name": "shop", "at": "south", "address": SERVER, "bandwidth_mb_s": 6}]
    plan = ring(strategy="service", pops=pops, traffic=[users(), slow], hosts=hosts, goals=near)
    plan = replace(plan, hosts=[replace(plan.hosts[0], limits=limits)])
    result = run_scenario(plan)
    assert min(shares(result, since=20.0)) < 0.5, "the attack does harm"
    assert min(shares(result, since=80.0)) > 0.9
    assert {e.data["pop"] for e in of(result, "measure.applied")} == {"south"}


@at_night
def test_pulses_and_attackers_that_move_do_less_and_less_harm() -> None:
    plain = served(attacked("syn-flood", shape=ShapeSpec(on_s=20.0, off_s=10.0)))
    assert sum(plain[30:]) / len(plain[30:]) > 0.95
    moving = served(attacked("ack-flood", adapt="move"))
    assert sum(moving) / len(moving) > 0.5
