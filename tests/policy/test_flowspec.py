"""Rules as FlowSpec routes, and back; ExaBGP, where it is installed, reads text and octets."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from phalanx.domain.errors import ScenarioError
from phalanx.policy.contradictions import differences
from phalanx.policy.exchange import NotExpressibleError
from phalanx.policy.flowspec import FlowRoute, flow_routes, from_flowspec, precedence, to_flowspec
from phalanx.policy.rules import (
    PolicyRule,
    PolicyVerdict,
    PortRange,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    Segment,
    decide,
)
from tests.nightly import examples
from tests.one_line import taken_or_refused
from tests.policy.rule_values import matches, packets, rule_sets

EXABGP = shutil.which("exabgp", path=str(Path(sys.executable).parent)) or shutil.which("exabgp")
PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)
ACTIONS = st.sampled_from((PERMIT, DENY))
PORTED = rule_sets(
    most=4, match=matches(("tcp", "udp", "icmp", "gre", None), outside=False), action=ACTIONS
)
FLAGS = st.builds(RuleCondition, st.none(), st.none(), st.sampled_from((None, True, False)))
FRAGMENTS = rule_sets(
    most=4, match=matches(("icmp", "esp", None), outside=False), action=ACTIONS, condition=FLAGS
)
OUTSIDE = rule_sets(most=3, match=matches(("tcp", None)), action=ACTIONS)


def _met_first(routes: list[FlowRoute], packet) -> RuleAction:
    """The action of the first route that a packet meets, read from the components alone."""
    for route in routes:
        ends = (route.target, packet.target), (route.source, packet.source)
        fields = (
            (route.protocols, packet.protocol),
            (route.ports, packet.port),
            (route.source_ports, packet.source_port),
        )
        if (
            ip_address(packet.source).version == route.version
            and all(p is None or ip_address(a) in ip_network(p) for p, a in ends)
            and all(any(a <= n < b for a, b in spans) for spans, n in fields)
            and route.fragment in (None, packet.fragment)
        ):
            return route.action
    return PERMIT


@settings(max_examples=examples(6), deadline=None, phases=[Phase.generate])
@given(st.data(), st.one_of(PORTED, FRAGMENTS, OUTSIDE))
def test_routes_in_their_own_order_decide_as_the_rules(data: st.DataObject, rules: RuleSet) -> None:
    try:
        routes = flow_routes(rules)
    except NotExpressibleError as refusal:
        assert re.search("order|2000 routes", str(refusal))  # noqa: PT017
        return
    for one, two in pairwise(routes):
        assert one.version < two.version or precedence(one, two) < 0
    assert len({route.nlri() for route in routes}) == len(routes)
    for packet in data.draw(st.lists(packets(rules), min_size=25, max_size=25)):
        assert _met_first(routes, packet) == decide(rules, packet)[0]


@settings(max_examples=examples(5), deadline=None, phases=[Phase.generate])
@given(st.one_of(PORTED, FRAGMENTS, OUTSIDE))
def test_routes_are_read_back_and_written_the_same(rules: RuleSet) -> None:
    text = taken_or_refused(NotExpressibleError, lambda: to_flowspec(rules))
    if text is None:
        return
    read = taken_or_refused(ScenarioError, lambda: from_flowspec(text, "x"))
    if read is None:  # cut rules can be about all protocols but some
        assert re.search(r"(protocol|next-header) \[.*>=", text)
        return
    assert differences(read, rules) == []
    assert from_flowspec(to_flowspec(read), "x") == read


def _prefix(target: str, **more: object) -> FlowRoute:
    return FlowRoute(6 if ":" in target else 4, target, name="r", action=DENY, **more)


def test_precedence_is_that_of_the_rfc() -> None:
    ordered = [
        _prefix("10.0.0.0/24"),
        _prefix("10.0.0.0/8", source="192.0.2.0/24"),
        _prefix("10.0.0.0/8", protocols=((6, 7),), ports=((80, 81),)),
        _prefix("10.0.0.0/8", protocols=((6, 7),)),
        _prefix("10.0.0.0/8", protocols=((17, 18),)),
        _prefix("10.0.0.0/8"),
        _prefix("11.0.0.0/24"),
        FlowRoute(4, None, "10.0.0.0/8", name="r", action=DENY),
    ]
    for place, one in enumerate(ordered):
        assert precedence(one, one) == 0
        for two in ordered[place + 1 :]:
            assert (precedence(one, two), precedence(two, one)) == (-1, 1)


def test_octets_are_those_of_the_rfc() -> None:
    # RFC 8955, 4.3.1 and 4.3.2
    one = _prefix("192.0.2.0/24", source="203.0.113.0/24", protocols=((6, 7),), ports=((25, 26),))
    assert one.nlri().hex() == "100118c000020218cb0071038106058119"
    two = _prefix("192.0.2.0/24", ports=((137, 140), (8080, 8081)))
    assert two.nlri().hex() == "0d0118c00002050389458b911f90"
    # RFC 8956, 3.8.2, with an offset of 0
    assert _prefix("2001:db8::/32").nlri().hex() == "0701200020010db8"


def _one(action: RuleAction = DENY, **fields: object) -> RuleSet:
    match = {k: fields.pop(k) for k in list(fields) if k in RuleMatch.__struct_fields__}
    return RuleSet("one", (PolicyRule("r1", action, RuleMatch(**match), **fields),))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (_one(condition=RuleCondition(state="new")), "condition.state: flowspec"),
        (_one(condition=RuleCondition(encrypted=True)), "condition.encrypted: flowspec"),
        (_one(schedule=RuleSchedule((1,))), "schedule: flowspec"),
        (_one(RuleAction(PolicyVerdict.DENY, log=True)), "action.log: flowspec"),
        (_one(protocol="sctp", ports=(PortRange(1, 2),)), "match.ports: flowspec: ports are"),
        (_one(RuleAction(PolicyVerdict.PERMIT, 1.0)), "action.rate_mb_s: flowspec needs 2"),
        (
            _one(RuleAction(PolicyVerdict.PERMIT, 16.777217), target=Segment(("10.0.0.0/8",))),
            "action.rate_mb_s: flowspec: 1.67772e",
        ),
        (
            _one(condition=RuleCondition(fragment=True), protocol="tcp", ports=(PortRange(1, 2),)),
            "match.ports: flowspec: only the first",
        ),
    ],
)
def test_what_routes_cannot_say_is_refused_by_rule_and_field(rules: RuleSet, words: str) -> None:
    with pytest.raises(NotExpressibleError) as refused:
        to_flowspec(rules)
    assert re.match(rf"rule r1[/\d]*: {re.escape(words)}", str(refused.value))


def test_rules_whose_order_contradicts_are_cut_into_disjoint_ones() -> None:
    wide = PolicyRule("wide", PERMIT, RuleMatch(target=Segment(("10.0.0.0/8",)), protocol="tcp"))
    near = PolicyRule("near", DENY, RuleMatch(target=Segment(("10.1.0.0/16",))))
    routes = flow_routes(RuleSet("a", (wide, near)))
    assert {route.name for route in routes} == {"near"}
    assert routes[0].protocols == ((0, 6), (7, 256))
    assert [r.name for r in flow_routes(RuleSet("a", (near, wide)))] == ["near", "wide"]


def test_a_limit_is_read_in_octets_a_second() -> None:
    rules = _one(RuleAction(PolicyVerdict.PERMIT, 5.0), target=Segment(("10.0.0.0/8",)))
    text = to_flowspec(rules)
    assert "then { rate-limit 5000000; }" in text
    assert from_flowspec(text, "x").rules == rules.rules
    assert from_flowspec(text.replace("5000000", "0"), "x").rules[0].action == DENY


@pytest.mark.parametrize(
    ("match", "then", "words"),
    [
        ("destination 10.0.0.0/8; dscp [ =5 ];", "discard;", "'dscp'"),
        ("tcp-flags [ syn ];", "discard;", "'tcp-flags'"),
        ("destination 10.0.0.1/8;", "discard;", "host bits"),
        ("destination 2001:db8::/32/8;", "discard;", "IPv"),
        ("destination 10.0.0.0/8; source 2001:db8::/32/0;", "discard;", "other IP version|IPv4"),
        ("destination-port [ =99999 ];", "discard;", "up to 65535"),
        ("protocol [ =89 ];", "discard;", "known are"),
        ("fragment [ last-fragment ];", "discard;", "fragment"),
        ("destination 10.0.0.0/8;", "redirect 65000:1;", "redirect"),
        ("destination 10.0.0.0/8; destination 10.0.0.0/8;", "discard;", "given twice"),
        ("protocol [ >5&<6 ];", "discard;", "known are"),
    ],
)
def test_what_a_rule_cannot_say_is_refused_with_its_route(
    match: str, then: str, words: str
) -> None:
    text = f"flow {{ route a {{ match {{ {match} }} then {{ {then} }} }} }}"
    with pytest.raises(ScenarioError, match=words) as refused:
        from_flowspec(text, "x.conf")
    assert str(refused.value).startswith("x.conf: route a: ")


SIGNS = ("flow", "{", "}", "route", "a", "match", "then", "discard", ";", "[", "]", "=80", "&")
MORE = ("#x\n", "destination", "10.0.0.0/8", "protocol", "=6", "fragment", "rate-limit", "9", "й")
WORDS = st.lists(st.sampled_from(SIGNS + MORE), max_size=30).map(" ".join)
INNER = WORDS.map(lambda w: f"flow {{ route a {{ match {{ {w} }} then {{ accept; }} }} }}")


@settings(max_examples=examples(24), deadline=None)
@given(st.one_of(WORDS, INNER))
def test_no_text_is_more_than_refused_in_a_line(text: str) -> None:
    rules = taken_or_refused(ScenarioError, lambda: from_flowspec(text, "x"))
    if rules is not None:
        assert from_flowspec(to_flowspec(rules), "x") == rules


@pytest.mark.skipif(EXABGP is None, reason="not installed: exabgp")
def test_exabgp_reads_the_text_and_makes_the_same_octets(tmp_path: Path) -> None:
    found: list[RuleSet] = []

    @settings(
        max_examples=12, database=None, deadline=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(PORTED, FRAGMENTS))
    def draw(rules: RuleSet) -> None:
        found.append(rules)

    draw()
    limit = RuleAction(PolicyVerdict.PERMIT, 2.5)
    found.append(_one(limit, target=Segment(("10.0.0.0/8",)), protocol="udp"))
    routes, texts = [], []
    for rules in found:
        try:
            made = flow_routes(rules)
        except NotExpressibleError:
            continue
        if len(made) < 40:
            routes += made
            texts.append(to_flowspec(rules).removeprefix("flow {\n").removesuffix("}\n"))
    file = tmp_path / "flow.conf"
    body = "".join(texts)
    file.write_text(
        "neighbor 127.0.0.1 { router-id 1.2.3.4; local-address 127.0.0.1; local-as 1; peer-as 1;\n"
        f"family {{ ipv4 flow; ipv6 flow; }}\nflow {{\n{body}}}\n}}\n"
    )
    told = subprocess.run([str(EXABGP), "--help"], capture_output=True, text=True, check=False)
    # ExaBGP 4 has options, 5 commands.
    words = ("-d", "--test") if "--test" in told.stdout + told.stderr else ("validate", "-nrv")
    done = subprocess.run(
        [str(EXABGP), *words, str(file)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    octets = {
        bytes.fromhex(each.replace(" ", ""))
        for each in re.findall(r"NLRI      ipv[46] flow .*payload ([0-9A-F ]+)", said)
    }
    assert len(routes) > 20
    assert {route.nlri() for route in routes} == octets
    assert "rate-limit:2500000" in said
