"""What agents put in force for a policy drops what the policy denies, and nothing else."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.domain.rules import PrefixSet, TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.policy.rules import (
    PolicyInventory,
    PolicyPacket,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleScope,
    RuleSet,
    Segment,
    decide,
)
from phalanx.policy.traffic import PolicedFunction, held_at, wire_rules

HERE = PolicedFunction("cameras", "nvr", "10.0.1.10", "pop1")
HERE6 = PolicedFunction("cameras", "nvr", "2001:db8:1::10", "pop1")
PREFIXES = ("10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "10.0.0.0/8", "192.0.2.7/32")
PREFIXES += ("2001:db8:7::/64", "2001:db8:7::/48", "2001:db8:8::1/128")
ADDRESSES = ("10.1.0.5", "10.1.2.9", "10.2.3.4", "10.9.9.9", "192.0.2.7", "203.0.113.1")
ADDRESSES6 = ("2001:db8:7::5", "2001:db8:7:1::5", "2001:db8:8::1", "2001:db8:9::1")
PORTS = (80, 443, 8080)
NUMBERS = {"tcp": 6, "udp": 17}

prefixes = st.lists(st.sampled_from(PREFIXES), max_size=2).map(tuple)
segments = st.builds(Segment, addresses=prefixes, outside=prefixes)
targets = st.sampled_from(
    [
        Segment(),
        Segment(("10.0.1.0/24", "2001:db8:1::/64")),
        Segment(("10.0.2.0/24", "2001:db8:2::/64")),
    ]
)
ports = st.lists(
    st.sampled_from([PortRange(80, 80), PortRange(443, 443), PortRange(80, 90)]), max_size=1
).map(tuple)


@st.composite
def matches(draw: st.DrawFn) -> RuleMatch:
    protocol = draw(st.sampled_from([None, "tcp", "udp"]))
    which = draw(ports) if protocol else ()
    return RuleMatch(draw(segments), draw(targets), protocol, ports=which)


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSet:
    verdicts = st.sampled_from(list(PolicyVerdict))
    number = draw(st.integers(0, 5))
    rules = tuple(
        PolicyRule(f"r{n}", RuleAction(draw(verdicts)), draw(matches())) for n in range(number)
    )
    return RuleSet("set", rules, draw(verdicts))


def passes(rule: TrafficRule, source: str, target: str, protocol: str, port: int) -> bool:
    match = rule.match
    hit = (
        match.of_source()(source)
        and match.target == target
        and match.protocol in (None, protocol)
        and match.port in (None, port)
    )
    return not (hit and rule.verdict is TrafficVerdict.DROP)


@given(
    rule_sets(),
    st.sampled_from([*ADDRESSES, *ADDRESSES6]),
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from(PORTS),
)
def test_what_is_in_force_decides_as_the_policy_does(
    rules: RuleSet, source: str, protocol: str, port: int
) -> None:
    here = HERE6 if ":" in source else HERE
    wired = list(wire_rules(rules, here))
    if any(each.why_not for each in wired):
        return  # refused as a whole, when it is loaded
    packet = PolicyPacket(source, here.address, NUMBERS[protocol], port=port)
    permitted = decide(rules, packet)[0].verdict is PolicyVerdict.PERMIT
    on_wire = [traffic for each in wired for traffic in each.traffic]
    assert all(each.problem([TrafficVerdict.DROP]) is None for each in on_wire)
    assert permitted == all(passes(each, source, here.address, protocol, port) for each in on_wire)


@given(st.lists(st.sampled_from(PREFIXES), max_size=4), st.sampled_from(ADDRESSES + ADDRESSES6))
def test_a_set_of_prefixes_holds_what_they_contain(held: list[str], address: str) -> None:
    expected = any(ip_address(address) in ip_network(each) for each in held)
    assert (address in PrefixSet(held)) is expected


DENY, PERMIT = RuleAction(PolicyVerdict.DENY), RuleAction(PolicyVerdict.PERMIT)
OWN = Segment(("10.1.0.0/16",))


@pytest.mark.parametrize(
    ("rule", "before", "why"),
    [
        (PolicyRule("r", DENY, RuleMatch(protocol="sctp")), (), "not sctp"),
        (PolicyRule("r", DENY, condition=RuleCondition(state="new")), (), "states"),
        (
            PolicyRule("r", DENY, RuleMatch(protocol="tcp", source_ports=(PortRange(1, 9),))),
            (),
            "source ports",
        ),
        (
            PolicyRule("r", DENY),
            (
                PolicyRule(
                    "p", PERMIT, RuleMatch(OWN, protocol="tcp", ports=(PortRange(443, 443),))
                ),
            ),
            "p, which goes first, is about a part",
        ),
        (
            PolicyRule("r", DENY, RuleMatch(protocol="tcp", ports=(PortRange(1, 99),))),
            (),
            "more than 16 ports",
        ),
    ],
)
def test_what_cannot_be_said_in_traffic_rules_is_refused_with_the_reason(
    rule: PolicyRule, before: tuple[PolicyRule, ...], why: str
) -> None:
    (wired,) = wire_rules(RuleSet("set", (*before, rule)), HERE)
    assert why in wired.why_not
    assert not wired.traffic


@given(
    st.lists(st.integers(0, 6), max_size=3).map(tuple),
    st.integers(0, 1439),
    st.integers(1, 1440),
    st.integers(0, 7 * 1440 - 1),
)
def test_rules_hold_when_their_schedule_says_so(
    days: tuple[int, ...], start: int, end: int, minute: int
) -> None:
    if start == end:
        return
    rules = RuleSet("s", (PolicyRule("r", DENY, schedule=RuleSchedule(days, start, end)),))
    packet = PolicyPacket("10.1.0.5", HERE.address, minute=minute)
    denied = decide(rules, packet)[0].verdict is PolicyVerdict.DENY
    assert bool([*wire_rules(held_at(rules, minute), HERE)]) is denied


def test_isolation_is_one_rule_however_many_members_a_slice_has() -> None:
    slices = {"cameras": tuple(f"10.1.{n}.0/24" for n in range(200)), "lights": ("10.3.0.0/16",)}
    of = Segment(slice="cameras")
    rules = RuleSet(
        "city",
        (
            PolicyRule("clear", DENY, RuleMatch(target=of), RuleCondition(encrypted=False)),
            PolicyRule("own", PERMIT, RuleMatch(of, of)),
            PolicyRule("isolate", DENY, RuleMatch(target=of)),
            PolicyRule("elsewhere", DENY, scope=RuleScope(pops=("pop9",))),
            PolicyRule("lights", DENY, scope=RuleScope(slices=("lights",))),
        ),
    )
    members = {**slices, "cameras": (*slices["cameras"], HERE.address)}
    clear, isolate = wire_rules(PolicyInventory(members).resolve(rules), HERE)
    assert clear.encrypt
    assert not clear.traffic
    (traffic,) = isolate.traffic
    assert traffic.match == TrafficMatch(
        outside=(*slices["cameras"], f"{HERE.address}/32"), target=HERE.address
    )


@pytest.mark.parametrize("field", ["sources", "outside"])
def test_a_rule_with_what_is_no_prefix_is_refused(field: str) -> None:
    match = TrafficMatch(target="10.0.0.1", **{field: ("10.1.0.0/33",)})
    problem = TrafficRule(match, TrafficVerdict.DROP).problem([TrafficVerdict.DROP])
    assert problem is not None
    assert "10.1.0.0/33" in problem
