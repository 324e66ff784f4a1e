"""What the allow list has is never blocked or limited, and the log says so where it mattered."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.checking import check
from phalanx.domain.actions import Enforce, Failed
from phalanx.domain.rules import (
    AllowedSources,
    AllowList,
    TrafficMatch,
    TrafficRule,
    TrafficVerdict,
)
from phalanx.reporting.event_text import describe
from phalanx.reporting.explanation import explain
from phalanx.reporting.log import Log
from phalanx.runtime.system import System, run_scenario
from tests.system.rings import SERVER, of, ring
from tests.system.test_forged_sources import forged

OFFICE = AllowedSources("10.2.0.1", "office")


def allowing(*entries, **changes):
    return replace(ring(strategy="service", duration_s=40, **changes), allow=entries)


def named(result):
    return {s for e in of(result, "measure.applied") for s in e.data.get("sources", ())}


def test_an_allowed_attacker_is_not_blocked_and_the_others_are():
    result = run_scenario(allowing(OFFICE))
    assert named(result) == {"10.2.0.2"}
    assert check(result.events) == []


def test_no_auction_is_held_for_one_that_is_allowed():
    result = run_scenario(allowing(OFFICE, AllowedSources("10.2.0.2", "probe")))
    assert not of(result, "measure.applied")
    assert not [e for e in of(result, "auction.called") if "entryScreened" in e.data["goal"]]


def test_the_log_says_where_it_mattered_once_a_minute_and_explain_answers_with_it():
    result = run_scenario(allowing(OFFICE))
    spared = of(result, "source.spared")
    told = [(e.agent, e.data["sources"]) for e in spared]
    assert len(told) == len(set(map(str, told)))
    assert describe(spared[0]).endswith(
        f"10.2.0.1 attacks {SERVER}, and is allowed: 10.2.0.1 is in the allow list (office); "
        "not blocked"
    )
    answer = explain(Log(result.events), "10.2.0.1")
    assert "in the allow list (office)" in "\n".join(answer.words)


@pytest.mark.parametrize("strategy", ["published", "service"])
def test_limits_and_blocks_of_all_leave_out_what_is_allowed(strategy):
    scenario = replace(
        forged(profile="udp-flood-spoofed", strategy=strategy, functions={}, duration_s=60),
        allow=(AllowedSources("10.1.0.0/16", "users"),),
    )
    result = run_scenario(scenario)
    rules = [e for e in of(result, "measure.applied") if e.data.get("verdict") != "proxy"]
    assert rules
    assert {tuple(e.data.get("outside", ())) for e in rules} == {("10.1.0.0/16",)}
    assert check(result.events) == []


def test_the_driver_refuses_what_an_agent_should_not_have_asked_for():
    system = System(allowing(OFFICE))
    answers = []

    def ask(source, sources=()):
        match = TrafficMatch(source=source, sources=sources, target=SERVER)
        rule = TrafficRule(match, TrafficVerdict.DROP)
        instance = "south/installed1/service-monitor"
        action = Enforce(f"south.1:{len(answers)}", instance, rule, "x")
        system.infrastructure.perform("south", action, system.cause, answers.append)

    def asks():
        ask("10.2.0.1")
        ask(None, ("10.2.0.1",))
        ask(None, ("10.2.0.1", "10.2.0.2"))

    system.clock.call_at(1.0, asks)
    with pytest.raises(AssertionError, match=r"by run\.started"):  # a rule without a reason
        system.run(until=2.0)
    assert [isinstance(answer, Failed) for answer in answers] == [True, True, False]
    assert "allow list" in answers[0].reason
    (applied,) = [e for e in system.log.events if e.kind == "measure.applied"]
    assert applied.data["sources"] == ["10.2.0.2"]


def test_the_checker_sees_a_block_of_one_that_is_allowed():
    result = run_scenario(allowing())
    first = result.events[0]
    allowed = replace(first, data={**first.data, "allow": [{"prefix": "10.2.0.0/24"}]})
    broken = check((allowed, *result.events[1:]))
    assert {violation.rule for violation in broken} == {"allowed"}


PREFIXES = st.builds(
    lambda number, length: str(IPv4Network((number, length), strict=False)),
    st.integers(0, 2**32 - 1).map(lambda n: n & 0xFF0F_0F0F),
    st.integers(8, 32),
)


SERVER6 = "2001:db8:6::10"
ADDRESSES6 = st.integers(0, 0xFF).map(lambda n: (0x2001_0DB8 << 96) | n >> 4 << 64 | n & 0xF)
"""Of 16 networks of 64 bits, 16 of each."""
PREFIXES6 = st.builds(
    lambda number, length: str(IPv6Network((number, length), strict=False)),
    ADDRESSES6,
    st.sampled_from([32, 60, 62, 64, 126, 128]),
)
ASKED = [
    (SERVER, PREFIXES, st.integers(0, 2**32 - 1).map(lambda n: n & 0xFF0F_0F0F)),
    (SERVER6, PREFIXES6, ADDRESSES6),
]


@given(
    st.sampled_from(ASKED).flatmap(
        lambda of: st.tuples(st.just(of[0]), st.lists(of[1], max_size=6), of[2])
    ),
    st.lists(PREFIXES | PREFIXES6, max_size=6),
    st.sampled_from([TrafficVerdict.DROP, TrafficVerdict.LIMIT]),
    st.booleans(),
)
def test_a_spared_rule_hits_what_the_rule_hit_but_for_what_is_allowed(asked, allow, verdict, one):
    (target, sources, at), named = asked, {}
    entries = AllowList(AllowedSources(prefix, "test") for prefix in allow)
    named = {"source": sources[0]} if one and sources else {"sources": tuple(sources)}
    rule = TrafficRule(TrafficMatch(target=target, **named), verdict)
    assert rule.problem([verdict]) is None or verdict is TrafficVerdict.LIMIT
    spared, address = entries.spare(rule), str(ip_address(at))
    if one and sources:  # as the drivers match it
        rule = replace(rule, match=replace(rule.match, source=None, sources=(sources[0],)))
        if spared is not None:
            match = replace(spared.match, source=None, sources=(sources[0],))
            spared = replace(spared, match=match)
    hit = rule.match.of_source()(address)
    still = spared is not None and spared.match.of_source()(address)
    assert still == (hit and entries.find(address) is None)
    assert spared is None or entries.spare(spared) == spared
    assert spared is None or {":" in each for each in spared.match.outside} <= {":" in target}


def test_a_rule_is_of_one_family():
    for sources, target in (("10.2.0.1", SERVER6), ("2001:db8::/64", SERVER)):
        for named in ({"sources": (sources,)}, {"source": sources}):
            rule = TrafficRule(TrafficMatch(target=target, **named), TrafficVerdict.DROP)
            assert "nothing goes from IPv4 to IPv6" in rule.problem([TrafficVerdict.DROP])


def test_an_allowed_address_is_left_out_of_a_block_of_its_network():
    entries = AllowList([AllowedSources("2001:db8:7::5", "probe")])
    assert entries.find("2001:db8:7::/64") is None  # the others of it are not allowed
    assert entries.find("2001:db8:7::5").reason == "probe"
    match = TrafficMatch(target=SERVER6, sources=("2001:db8:7::/64", "2001:db8:8::/64"))
    spared = entries.spare(TrafficRule(match, TrafficVerdict.DROP))
    assert spared.match == replace(match, outside=("2001:db8:7::5",))
    wide = AllowList([AllowedSources("2001:db8:7::/48", "office")])
    spared = wide.spare(TrafficRule(match, TrafficVerdict.DROP))
    assert spared.match.sources == ("2001:db8:8::/64",)
