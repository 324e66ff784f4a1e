"""Routes of measures at routers: each under a lease, whatever dies, hangs or is cut off."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_model import ROUTER, TTL_S, VICTIM, World

from phalanx.domain.network import link_id
from phalanx.domain.rules import (
    AllowedSources,
    AllowList,
    TrafficMatch,
    TrafficRule,
    TrafficVerdict,
)
from phalanx.infrastructure.linux import routers
from phalanx.infrastructure.linux.announcer import MOST_ROUTES, Announcer
from phalanx.infrastructure.linux.routers import NoRouteError, RouterSpec, routes_of

HOP = "192.0.2.254"
VICTIM6 = "2001:db8::10"
BLACKHOLE = RouterSpec("edge", ROUTER.socket, "blackhole", HOP)


def drop(*sources: str, **more: object) -> TrafficRule:
    link = link_id("gate", "web")
    return TrafficRule(TrafficMatch(link, sources=sources, **more), TrafficVerdict.DROP)


def limit(rate_mb_s: float, *sources: str) -> TrafficRule:
    match = TrafficMatch(link_id("gate", "web"), sources=sources)
    return TrafficRule(match, TrafficVerdict.LIMIT, {"rate_mb_s": rate_mb_s})


def texts(rule: TrafficRule, router: RouterSpec = ROUTER) -> list[str]:
    return [route.text() for route in routes_of(rule, VICTIM, router)]


# -- what a rule says, or cannot say -------------------------------------------------------


def test_routes_say_what_a_rule_says() -> None:
    begin = f"flow route {{ match {{ destination {VICTIM}/32; source 198.51.100.7/32;"
    assert texts(drop("198.51.100.7")) == [f"{begin} }} then {{ discard; }} }}"]
    assert texts(drop("198.51.100.7", protocol="udp", port=53)) == [
        f"{begin} protocol [ =17 ]; destination-port [ =53 ]; }} then {{ discard; }} }}"
    ]
    assert texts(limit(2.5, "198.51.100.7")) == [f"{begin} }} then {{ rate-limit 2500000; }} }}"]
    assert texts(limit(0, "198.51.100.7")) == texts(drop("198.51.100.7"))
    assert texts(limit(1.0)) == [
        f"flow route {{ match {{ destination {VICTIM}/32; }} then {{ rate-limit 1000000; }} }}"
    ]
    assert texts(drop("198.51.100.6", "198.51.100.7"), BLACKHOLE) == [
        f"route 198.51.100.{n}/32 next-hop {HOP} community [ 65535:666 65535:65281 ]"
        for n in (6, 7)
    ]


def test_routes_of_ipv6_say_what_a_rule_says() -> None:
    def said(rule: TrafficRule) -> list[str]:
        return [route.text() for route in routes_of(rule, VICTIM6, ROUTER)]

    begin = f"flow route {{ match {{ destination {VICTIM6}/128/0; source 2001:db8:7::/64/0;"
    assert said(drop("2001:db8:7::/64")) == [f"{begin} }} then {{ discard; }} }}"]
    assert said(drop("2001:db8:7::/64", protocol="udp", port=53)) == [
        f"{begin} next-header [ =17 ]; destination-port [ =53 ]; }} then {{ discard; }} }}"
    ]
    (limited,) = said(limit(2.5))
    assert f"destination {VICTIM6}/128/0; }} then {{ rate-limit 2500000; }}" in limited
    spared = drop("2001:db8:7::/64", outside=("2001:db8:7::/66", "198.51.100.0/24"))
    named = [text.split("source ")[1].split(";")[0] for text in said(spared)]
    assert named == ["2001:db8:7:0:4000::/66/0", "2001:db8:7:0:8000::/65/0"]
    sent: list[str] = []
    request = {"agent": "gate", "life": 1, "turn": 1}
    request["routes"] = [[text, 5.0] for text in said(spared)]
    assert Announcer(sent.append, lambda _: None).request(request, 0.0) == ""
    assert sent == [f"announce {said(spared)[0]}"]  # the next one when this is confirmed


@pytest.mark.parametrize(
    ("rule", "router", "why"),
    [
        (drop("2001:db8:7::/64", target=VICTIM6), BLACKHOLE, "only addresses of IPv4"),
        (drop(target=VICTIM6), ROUTER, "cut off 2001:db8::10 from everyone"),
        (drop(), ROUTER, "cut off 192.0.2.10 from everyone; victim: true"),
        (drop(), BLACKHOLE, "cut off 192.0.2.10 from everyone; victim: true"),
        (limit(0), ROUTER, "cut off 192.0.2.10 from everyone; victim: true"),
        (limit(5, "198.51.100.1", "198.51.100.9"), ROUTER, "2 routes, and each would have the"),
        (limit(5, "198.51.100.1"), BLACKHOLE, "drops all that comes from an address"),
        (limit(2e6), ROUTER, "more than a route can say"),
        (drop("198.51.100.1", protocol="udp"), BLACKHOLE, "drops all that comes from an address"),
        (drop("198.51.100.0/24"), BLACKHOLE, "more than 100 routes"),
        (drop("198.51.100.1", part=0, parts=2), ROUTER, "no shares of sources"),
        (drop("198.51.100.1", entry="gate"), ROUTER, "no other places of entry"),
        (drop("198.51.100.1", outside=("198.51.100.0/24",)), ROUTER, "no source"),
        (drop(*(f"198.51.{n}.1" for n in range(101))), ROUTER, "more than 100 routes"),
        (TrafficRule(TrafficMatch(target=VICTIM), TrafficVerdict.PROXY), ROUTER, "cannot proxy"),
    ],
)
def test_what_routes_cannot_say_is_refused(rule, router, why) -> None:
    with pytest.raises(NoRouteError, match=why):
        routes_of(rule, rule.match.target or VICTIM, router)


def test_whole_addresses_are_cut_off_where_the_operator_says_so() -> None:
    yes = RouterSpec("edge", ROUTER.socket, victim=True)
    assert texts(drop(), yes) == [
        f"flow route {{ match {{ destination {VICTIM}/32; }} then {{ discard; }} }}"
    ]
    yes = RouterSpec("edge", ROUTER.socket, "blackhole", HOP, victim=True)
    assert texts(drop(), yes)[0].startswith(f"route {VICTIM}/32 next-hop {HOP}")


def test_what_is_allowed_is_never_told_to_routers() -> None:
    """Agents and driver leave allowed sources out of their rules."""
    allowed = AllowList([AllowedSources("198.51.100.8/29", "office")])
    assert allowed.spare(drop("198.51.100.9")) is None
    spared = allowed.spare(drop("198.51.100.0/28"))
    assert [text.split("source ")[1].split(";")[0] for text in texts(spared)] == ["198.51.100.0/29"]
    yes = RouterSpec("edge", ROUTER.socket, "blackhole", HOP, victim=True)
    for router, why in ((ROUTER, "cut off"), (yes, "allowed sources too")):
        with pytest.raises(NoRouteError, match=why):
            texts(allowed.spare(drop()), router)


PREFIXES = st.builds(
    lambda number, bits: str(IPv4Network((number & -1 << 32 - bits, bits))),
    st.integers(0xC6336400, 0xC63364FF),
    st.integers(24, 32),
)


@given(
    st.lists(PREFIXES, min_size=1, max_size=6),
    st.lists(PREFIXES, max_size=4),
    st.integers(0xC6336400, 0xC63364FF),
)
def test_routes_have_exactly_the_sources_of_the_rule(sources, outside, number) -> None:
    rule = drop(*sources, outside=tuple(outside))
    try:
        found = texts(rule, RouterSpec("edge", "x", most=1000))
    except NoRouteError:
        found = []
    address = str(IPv4Address(number))
    named = [text.split("source ")[1].split(";")[0] for text in found]
    hits = [prefix for prefix in named if IPv4Address(address) in IPv4Network(prefix)]
    assert len(hits) == rule.match.of_source()(address)


@given(st.floats(0, 1e6))
def test_a_limit_is_never_rounded_up(rate_mb_s) -> None:
    (route,) = routes_of(limit(rate_mb_s, "198.51.100.1"), VICTIM, ROUTER)
    assert rate_mb_s * 1e6 * (1 - 2**-23) - 1 <= route.rate <= rate_mb_s * 1e6


# -- the life of a route ----------------------------------------------------------------


def test_a_route_lives_as_long_as_its_measure() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1", "198.51.100.9"))
    world.run(1)
    assert len(world.peer.routes) == 2
    world.run(10 * TTL_S)
    assert len(world.peer.routes) == 2
    world.lift("m1")
    world.run(1)
    assert world.peer.routes == {}
    assert world.kinds() == ["route.announced", "route.withdrawn"]


def test_routes_of_a_killed_guard_end_with_their_leases() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1"))
    world.run(2)
    world.kill_guard()
    world.run(TTL_S / 2)
    assert len(world.peer.routes) == 1
    world.run(TTL_S)
    assert world.peer.routes == {}


def test_a_guard_that_is_back_within_the_lease_leaves_no_gap() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1"))
    world.run(2)
    world.kill_guard()
    world.run(5)
    world.start_guard()
    for _ in range(200):
        world.run(0.1)
        assert len(world.peer.routes) == 1


def test_a_guard_that_stops_withdraws_all_at_once(monkeypatch) -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1"))
    world.run(2)

    def ask(_: str, request: object, __: float) -> None:
        world.announcer.request(request, world.clock.now())

    monkeypatch.setattr(routers, "ask", ask)
    world.routers.close()
    world.routers = None
    world.run(0.5)
    assert world.peer.routes == {}


def test_a_killed_announcer_withdraws_what_it_noted() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1"))
    world.run(2)
    world.kill_guard()
    world.start_announcer()
    world.run(1)
    assert world.peer.routes == {}


def test_a_restarted_exabgp_is_told_again() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1"))
    world.run(2)
    world.start_exabgp()
    assert world.peer.routes == {}
    world.run(3)
    assert len(world.peer.routes) == 1


def test_a_rule_that_ended_while_the_line_was_cut_does_not_come_back() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1"))
    world.enforce("m2", limit(1.0, "198.51.100.2"))
    world.run(2)
    world.cut()
    world.run(20)
    assert "no BGP session with 10.0.0.2" in world.events[-1].data["reason"]
    world.lift("m1")
    for rate in (2.0, 1.0):  # ExaBGP keeps these grouped by rate, in another order
        world.lift("m2")
        world.enforce("m2", limit(rate, "198.51.100.2"))
        world.run(0.5)
    world.lift("m2")
    world.run(5)
    world.join()
    world.run(5)
    assert world.peer.routes == {}
    assert world.events[-1].data["up"]


@pytest.mark.parametrize("lifted", [(), ("m1",)])
def test_what_exabgp_kept_in_another_order_is_put_right(lifted) -> None:
    world = World()
    world.run(3)
    world.cut()
    world.run(20)
    world.enforce("m1", limit(2.0, "198.51.100.2"))
    world.run(0.5)
    for _ in range(2):
        world.enforce("m2", limit(1.0, "198.51.100.2"))
        world.run(0.5)
        world.lift("m2")
        world.run(0.5)
    for name in lifted:
        world.lift(name)
    world.run(1)
    world.join()
    stale = dict(world.peer.routes)
    world.run(5)
    assert world.peer.routes == world.wanted() != stale


def test_the_lower_of_two_rates_is_in_force_while_both_are_wanted() -> None:
    world = World()
    world.enforce("m1", limit(2.0, "198.51.100.1"))
    world.enforce("m2", limit(1.0, "198.51.100.1"))
    world.run(1)
    assert "rate-limit 1000000" in str(world.peer.routes)
    world.lift("m2")
    world.run(1)
    assert "rate-limit 2000000" in str(world.peer.routes)


def test_what_enters_here_is_what_these_routers_pass_on() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1", entry="gate"))
    world.enforce("m2", drop("198.51.100.2", entry="elsewhere"))
    world.run(1)
    assert len(world.peer.routes) == 1
    assert "other places of entry" in world.events[0].data["reason"]


def test_the_cap_is_held_and_said() -> None:
    world = World(RouterSpec("edge", ROUTER.socket, most=2))
    world.enforce("m1", drop("198.51.100.1", "198.51.100.9"))
    world.enforce("m2", drop("198.51.100.20"))
    world.run(1)
    assert len(world.peer.routes) == 2
    assert world.events[0].kind == "route.refused"
    assert world.events[0].data["reason"] == "the cap of 2 rules is reached"
    world.lift("m1")
    world.lift("m2")
    world.enforce("m3", drop("198.51.100.20"))
    world.run(1)
    assert len(world.peer.routes) == 1


def test_addresses_that_nobody_guards_are_no_destinations() -> None:
    world = World()
    assert world.routers.plan("m1", drop("198.51.100.1"), "203.0.113.1", "cause") == {}
    assert world.routers.plan("m2", drop("198.51.100.1"), None, "cause") == {}
    world.spec = BLACKHOLE
    world.kill_guard()
    world.start_guard()
    assert world.routers.plan("m3", drop(VICTIM), VICTIM, "cause") == {}
    assert "guarded here" in world.events[-1].data["reason"]


def test_nothing_is_announced_that_could_not_be_noted() -> None:
    world = World()
    world.disk_full = True
    world.enforce("m1", drop("198.51.100.1"))
    world.run(10)
    assert world.peer.routes == {}
    world.disk_full = False
    world.run(10)
    assert len(world.peer.routes) == 1


def test_lost_requests_and_answers_cost_time_alone() -> None:
    world = World()
    world.lose_requests = world.lose_answers = 1
    world.enforce("m1", drop("198.51.100.1"))
    world.run(30)
    assert len(world.peer.routes) == 1
    assert [e.data["up"] for e in world.events if e.kind == "router.changed"] == [False, True]


def test_an_exabgp_that_hangs_is_said_and_loses_nothing() -> None:
    world = World()
    world.enforce("m1", drop("198.51.100.1"))
    world.run(2)
    world.exabgp.hangs = True
    world.lift("m1")
    world.enforce("m2", drop("198.51.100.2"))
    world.run(100)
    assert world.peer.routes == {}  # the session is over for its router
    world.exabgp.hangs = False
    world.run(10)
    assert world.peer.routes == world.wanted()
    assert len(world.peer.routes) == 1


def test_an_exabgp_that_never_answers_is_told_of_one_route_alone() -> None:
    world = World()
    world.exabgp.mute = 10**6
    world.enforce("m1", drop(*(f"198.51.100.{n}" for n in range(1, 99, 2))))
    world.run(30)
    assert len(world.peer.routes) == 1


STEPS = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 3)),
    st.tuples(st.just("limit"), st.integers(0, 3)),
    st.tuples(st.just("lift"), st.integers(0, 3)),
    st.tuples(st.just("lose"), st.integers(1, 2)),
    st.tuples(st.just("run"), st.sampled_from((0.01, 0.3, 2.0, 12.0, 40.0))),
    st.tuples(
        st.sampled_from(
            ("guard dies", "guard starts", "announcer dies", "exabgp dies", "cut", "join", "hang",
             "go on", "disk full", "disk free")
        ),
        st.just(0),
    ),
)  # fmt: skip


def _step(world: World, what: str, n: float) -> None:  # noqa: PLR0912
    source = f"198.51.100.{int(n) // 2 + 1}"
    match what:
        case "drop":
            world.enforce(f"m{n}", drop(source))
        case "limit":
            world.enforce(f"m{n}", limit(1.0 + n, source))
        case "lift":
            world.lift(f"m{n}")
        case "lose":
            world.lose_requests, world.lose_answers = int(n), int(n)
        case "run":
            world.run(n)
        case "guard dies":
            world.kill_guard()
        case "guard starts" if world.routers is None:
            world.start_guard()
        case "announcer dies":
            world.start_announcer()
        case "exabgp dies":
            world.start_exabgp()
        case "cut":
            world.cut()
        case "join":
            world.join()
        case "hang" | "go on":
            world.exabgp.hangs = what == "hang"
        case "disk full" | "disk free":
            world.disk_full = what == "disk full"


@given(st.lists(STEPS, max_size=25))
def test_what_is_announced_is_what_is_in_force_after_any_faults(steps) -> None:
    world = World()
    for what, n in steps:
        _step(world, what, n)
        world.check()
    world.exabgp.hangs = world.disk_full = False
    world.lose_requests = world.lose_answers = 0
    world.join()
    if world.routers is None:
        world.start_guard()
    world.run(60)
    assert world.peer.routes == world.wanted()
    world.kill_guard()
    world.run(60)
    assert world.peer.routes == {}
    assert world.exabgp.cache == {}
    assert world.note == {}


# -- what an announcer is asked ----------------------------------------------------------

GOOD = texts(drop("198.51.100.1"))[0]
MATCH = GOOD.split("match {")[1].split(" } then")[0]


@pytest.mark.parametrize(
    "route",
    [
        "route 0.0.0.0/0 next-hop 192.0.2.1",
        "route 198.51.100.1/32 next-hop self community [ 65535:666 65535:65281 ]",
        GOOD.replace("discard", "redirect 65000:1"),
        GOOD.replace("discard", "accept"),
        f"{GOOD}\nshutdown",
        GOOD.replace("destination 192.0.2.10/32; ", ""),
        GOOD.replace("192.0.2.10", "992.0.2.10"),
        GOOD.replace("192.0.2.10/32", "2001:db8::zz/128/0"),
        GOOD.replace("192.0.2.10/32", "2001:db8::1/64/0"),
        GOOD.replace("198.51.100.1/32", "2001:db8::1::/64/0"),
        f"{GOOD} }}",
        "",
        7,
    ],
)
def test_an_announcer_announces_drops_and_limits_alone(route) -> None:
    sent: list[str] = []
    announcer = Announcer(sent.append, lambda _: None)
    request = {"agent": "gate", "life": 1, "turn": 1, "routes": [[route, 5.0]]}
    assert announcer.request(request, 0.0)
    announcer.tick(1.0)
    assert sent == []
    request["routes"] = [[GOOD, 5.0]]
    assert announcer.request(request, 1.0) == ""
    assert sent == [f"announce {GOOD}"]


def test_an_announcer_serves_one_agent_and_its_latest_request() -> None:
    announcer = Announcer(lambda _: None, lambda _: None)
    request = {"agent": "gate", "life": 2, "turn": 5, "routes": [[GOOD, 5.0]]}
    assert announcer.request(request, 0.0) == ""
    assert "later request" in announcer.request(request | {"turn": 4}, 1.0)
    assert "later request" in announcer.request(request | {"life": 1, "turn": 9}, 1.0)
    assert "gate has routes here" in announcer.request(request | {"agent": "other"}, 1.0)
    assert announcer.request(request | {"agent": "other"}, 6.0) == ""
    too_many = [[GOOD.replace("100.1", f"{n >> 8}.{n & 255}"), 5.0] for n in range(1001)]
    assert "the cap of 1000 rules" in announcer.request(request | {"routes": too_many}, 20.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9)
    | st.sampled_from((GOOD, MATCH)),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)  # fmt: skip


@given(st.lists(JSON, max_size=2), JSON, JSON, st.lists(st.text(max_size=40), max_size=3))
def test_hostile_requests_and_lines_are_refused(rows, whole, row, lines) -> None:
    sent: list[str] = []
    announcer = Announcer(sent.append, lambda _: None)
    base = {"agent": "gate", "life": 1, "turn": 1, "routes": [*rows, row]}
    for message in (whole, base, base | {"routes": whole}, base | {"turn": whole}):
        assert isinstance(announcer.request(message, 0.0), str)
    for line in (*lines, "done", "error", json.dumps({"neighbor": whole})):
        announcer.heard(line, 0.0)
    assert announcer.waiting <= MOST_ROUTES
    json.dumps(announcer.state())
    assert all(command in (f"announce {GOOD}", f"withdraw {GOOD}") for command in sent)
