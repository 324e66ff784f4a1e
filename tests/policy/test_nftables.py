"""Rules as nftables text, and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.policy.contradictions import differences
from phalanx.policy.exchange import NotExpressibleError, placed
from phalanx.policy.nftables import from_nftables, to_nftables
from phalanx.policy.rules import (
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
)
from tests.nightly import examples
from tests.one_line import taken_or_refused
from tests.policy.rule_values import FLAGS, SCHEDULES, matches, rule_sets

PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)
STATES = st.builds(RuleCondition, st.sampled_from((None, "new", "established")), FLAGS)
FRAGMENTS = st.builds(RuleCondition, st.none(), FLAGS, FLAGS)


@settings(max_examples=examples(10), deadline=None)
@given(
    st.one_of(
        rule_sets(condition=STATES, schedule=SCHEDULES),
        rule_sets(
            condition=FRAGMENTS,
            schedule=SCHEDULES,
            match=matches(("icmp", "gre", None)),
            about=st.sampled_from(("", "so that all is well", 'a "quoted" word', "ü: x")),
        ),
    )
)
def test_what_is_read_back_decides_the_same_and_is_written_the_same(rules: RuleSet) -> None:
    text = to_nftables(rules, ipsec=True)
    read = from_nftables(text, "x.nft")
    assert read.name == rules.name
    assert differences(rules, read) == []
    again = to_nftables(read, ipsec=True)
    assert from_nftables(again, "x.nft") == read


def _one(action: RuleAction = DENY, **fields: object) -> RuleSet:
    match = {k: fields.pop(k) for k in list(fields) if k in RuleMatch.__struct_fields__}
    return RuleSet("one", (PolicyRule("r/1", action, RuleMatch(**match), **fields),))


def test_a_rate_is_what_is_over_it_dropped_and_the_rest_accepted() -> None:
    rules = _one(RuleAction(PolicyVerdict.PERMIT, 2.5, True), protocol="udp")
    text = to_nftables(rules)
    assert 'meta l4proto udp log limit rate over 2500000 bytes/second drop comment "r/1"\n' in text
    assert '    meta l4proto udp accept comment "r/1"\n' in text
    assert from_nftables(text, "x") == rules


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            _one(condition=RuleCondition(encrypted=False)),
            "condition.encrypted: nftables: encryption",
        ),
        (_one(source=Segment(slice="iot")), "match.source.slice: nftables: is not known there"),
        (_one(target=Segment(labels={"a": "b"})), "match.target.labels: nftables"),
        (_one(scope=RuleScope(("iot",))), "scope.slices: nftables"),
        (_one(scope=RuleScope((), ("p1",))), "scope.pops: nftables"),
        (_one(RuleAction(PolicyVerdict.PERMIT, 1e-7)), "action.rate_mb_s: nftables: a rate is"),
        (
            _one(
                RuleAction(PolicyVerdict.PERMIT, 1.0),
                source=Segment(("10.0.0.0/8", "2001:db8::/32")),
            ),
            "action.rate_mb_s: nftables needs 2 rules",
        ),
        (
            _one(
                condition=RuleCondition(fragment=True), protocol="tcp", ports=(PortRange(80, 80),)
            ),
            "match.ports: nftables: only the first fragment",
        ),
        (
            RuleSet(
                "two",
                (
                    PolicyRule("r/1", DENY, condition=RuleCondition(fragment=True)),
                    PolicyRule("b", DENY, condition=RuleCondition(state="new")),
                ),
            ),
            "condition.fragment: nftables: where connections are tracked",
        ),
    ],
)
def test_what_nftables_cannot_say_is_refused_by_rule_and_field(rules: RuleSet, words: str) -> None:
    with pytest.raises(NotExpressibleError) as refused:
        to_nftables(rules)
    assert str(refused.value).startswith(f"rule r/1: {words}")


def test_rules_of_a_place_are_those_that_hold_there() -> None:
    rules = RuleSet(
        "all",
        (
            PolicyRule("a", DENY, scope=RuleScope(("iot",), ("p1", "p2"))),
            PolicyRule("b", DENY, scope=RuleScope((), ("p2",))),
        ),
    )
    assert placed(rules, "iot", "p1").rules == (PolicyRule("a", DENY),)
    assert placed(rules, "video", "p2").rules == (PolicyRule("b", DENY),)
    assert placed(rules) == rules


HAND = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
  # what may come
  set lan {
    type ipv4_addr
    flags interval
    elements = { 10.0.0.0/8,
                 192.168.1.5-192.168.1.8 }
  }
  chain input {
    type filter hook input priority filter; policy drop;
    ct state { established, related } counter packets 3 bytes 180 accept
    ip saddr @lan tcp dport { 22, 80-90, 91 } accept comment "the office"
    ip saddr != 10.0.0.0/8 udp dport != 53 drop
    meta l4proto { tcp, udp } th dport 443 ct state new accept
    ip protocol icmp accept; ip6 daddr 2001:db8::/32 log drop
    meta nfproto ipv6 meta day { "Saturday", 0 } meta hour "20:00"-"21:59:59" drop
  }
}
"""


def test_what_people_write_by_hand_is_read() -> None:
    rules = from_nftables(HAND, "hand.nft")
    assert (rules.name, rules.default) == ("filter", PolicyVerdict.DENY)
    by_id = {rule.id: rule for rule in rules.rules}
    assert list(by_id)[:2] == ["rule-1", "rule-2"]
    assert by_id["rule-1"].condition == RuleCondition("established")
    office = by_id["rule-2"]
    assert office.about == "the office"
    assert office.match.source.addresses == (
        "10.0.0.0/8",
        "192.168.1.5/32",
        "192.168.1.6/31",
        "192.168.1.8/32",
    )
    assert office.match.ports == (PortRange(22, 22), PortRange(80, 91))
    others = by_id["rule-3"]
    assert others.match.source == Segment(("0.0.0.0/0",), ("10.0.0.0/8",))
    assert others.match.ports == (PortRange(0, 52), PortRange(54, 65_535))
    assert [by_id[f"rule-4/{n}"].match.protocol for n in (1, 2)] == ["tcp", "udp"]
    weekend = rules.rules[-1]
    assert weekend.schedule == RuleSchedule((5, 6), 20 * 60, 22 * 60)
    assert weekend.match.source == Segment(("::/0",))
    assert from_nftables(to_nftables(rules), "x") == rules


def test_a_table_of_one_version_leaves_the_other_alone() -> None:
    text = (
        "table ip t { chain c { type filter hook forward priority 0; policy drop;"
        " tcp dport 80 accept }}"
    )
    rules = from_nftables(text, "x")
    assert rules.default is PolicyVerdict.PERMIT
    assert rules.rules[-1].match.source == Segment(("0.0.0.0/0",))
    assert rules.rules[-1].action == DENY
    assert from_nftables(to_nftables(rules), "x") == rules


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('iifname "lo" accept', "iifname"),
        ("ct state invalid drop", "ct state invalid"),
        ("ct state established accept", "new, or established,related"),
        ("tcp dport vmap { 22 : accept, 80 : drop }", "vmap"),
        ("ip saddr 10.0.0.0/8 jump other", "jump"),
        ("ip saddr 10.0.0.1/8 drop", "without host bits"),
        ("ip saddr 2001:db8::/32 drop", "one IP version"),
        ("tcp dport http accept", "a port is a number"),
        ("tcp dport 99999 accept", "a port is a number"),
        ("reject", "reject"),
        ("limit rate 5 mbytes/second accept", "limit"),
        ("limit rate over 5 bytes/second drop", "has to follow"),
        ('log prefix "x" accept', "prefix"),
        ('meta hour "08:00"-"18:00" drop', "whole minutes"),
        ("meta l4proto ospf drop", "known are .*tcp"),
        ("ip saddr 10.0.0.0/8 ip6 daddr ::/0 drop", "one of them"),
        ("tcp dport 5 udp dport 6 drop", "its own protocol"),
        ("tcp dport 5 tcp dport 6 drop", "given twice"),
        ("meta nfproto ipv5 drop", "known are ipv4"),
        ("ip saddr { } drop", "has no value"),
        ("ip saddr { 10.0.0.0/8, ::/0 } drop", "one IP version"),
        ("meta day Someday drop", "Someday"),
        ("tcp dport 5", "has no verdict"),
        ("ip saddr @nowhere drop", "no such set"),
        ("exthdr frag what drop", "what"),
        ("ip saddr drop drop", "drop"),
        ("}", "no rule here"),
    ],
)
def test_what_a_rule_cannot_say_is_refused_with_its_line(line: str, word: str) -> None:
    text = f"table inet t {{\n chain c {{\n type filter hook input priority 0;\n {line}\n }}\n}}\n"
    with pytest.raises(ScenarioError, match=word) as refused:
        from_nftables(text, "x.nft")
    assert str(refused.value).isprintable()
    assert str(refused.value).startswith("x.nft: ")


SIGNS = ("{", "}", ";", ",", "-", "!=", "=", "#", "\\", "@s", '"x"', "10.0.0.0/8", "80", "0", "й")
KEYS = "table inet t chain c set s elements type filter hook input priority policy ip saddr tcp"
MORE = "accept drop comment limit rate over 5 bytes/second meta day hour ct state new".split()  # noqa: SIM905
WORDS = st.lists(st.sampled_from([*SIGNS, "\n", *KEYS.split(), *MORE]), max_size=40).map(" ".join)
BODY = WORDS.map(
    lambda w: f"table inet t {{ chain c {{ type filter hook input priority 0; {w}\n}} }}"
)


@settings(max_examples=examples(24), deadline=None)
@given(st.one_of(WORDS, BODY))
def test_no_text_is_more_than_refused_in_a_line(text: str) -> None:
    rules = taken_or_refused(ScenarioError, lambda: from_nftables(text, "x.nft"))
    if rules is not None:
        again = from_nftables(to_nftables(rules, ipsec=True), "x.nft")
        assert replace(again, name=rules.name) == rules


def test_a_long_table_is_read_in_time_and_told_in_a_line() -> None:
    head = "table inet a { chain b { type filter hook input priority 0; policy accept;\n"
    rules = from_nftables(head + "drop\n" * 2_000 + "}}", "x").rules
    assert len({rule.id for rule in rules}) == 2_000
    with pytest.raises(ScenarioError, match="line 2002: 'jump c'"):
        from_nftables(head + "drop\n" * 2_000 + "jump c\n}}", "x")
