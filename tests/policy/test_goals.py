"""Rules as what agents enforce."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.functions.firewall import Firewalled, rule_of
from phalanx.functions.gateway import encryption_of
from phalanx.policy.exchange import (
    NotExpressibleError,
    parse_rules,
    rules_text,
    traffic_rules_of,
)
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

DENY, PERMIT = RuleAction(PolicyVerdict.DENY), RuleAction(PolicyVerdict.PERMIT)
SERVER = Segment(("10.0.6.10",))


NO_CONDITION = RuleCondition()


def _rule(action: RuleAction = DENY, condition: RuleCondition = NO_CONDITION, **match):
    return PolicyRule("r1", action, RuleMatch(**match), condition)


def _made(rule: PolicyRule) -> list[TrafficRule]:
    return traffic_rules_of(RuleSet("a", (rule,)))


def test_a_denial_is_what_the_firewall_does() -> None:
    rule = _rule(
        target=SERVER, source=Segment(("10.0.1.1/32",)), protocol="tcp", ports=(PortRange(22, 22),)
    )
    wanted = rule_of(Firewalled("", "", "10.0.6.10", "tcp", 22, "10.0.1.1"))
    same = replace(wanted.match, source=None, sources=("10.0.1.1/32",))
    assert _made(rule) == [replace(wanted, match=same)]


def test_targets_and_ports_are_written_out() -> None:
    rule = _rule(
        target=Segment(("10.0.6.10/31",)),
        source=Segment(("10.0.1.0/30",), ("10.0.1.2/32",)),
        protocol="udp",
        ports=(PortRange(5, 6),),
    )
    made = _made(rule)
    assert [(r.match.target, r.match.port) for r in made] == [
        (f"10.0.6.{end}", port) for end in (10, 11) for port in (5, 6)
    ]
    assert {(r.match.sources, r.match.outside) for r in made} == {
        (("10.0.1.0/30",), ("10.0.1.2/32",))
    }
    assert all(r.problem([TrafficVerdict.DROP]) is None for r in made)


def test_clear_text_is_encrypted_and_a_rate_is_a_limit() -> None:
    clear = RuleCondition(encrypted=False)
    assert _made(_rule(condition=clear, target=SERVER)) == [encryption_of("10.0.6.10")]
    limited = RuleAction(PolicyVerdict.PERMIT, 2.0)
    wanted = TrafficRule(TrafficMatch(target="10.0.6.10"), TrafficVerdict.LIMIT, {"rate_mb_s": 2.0})
    assert _made(_rule(limited, target=SERVER)) == [wanted]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (_rule(), "match.target.addresses"),
        (_rule(target=Segment(("10.0.0.0/8",))), "match.target.addresses"),
        (_rule(target=Segment(("2001:db8::1",))), "match.target.addresses"),
        (_rule(target=SERVER, protocol="icmp"), "match"),
        (_rule(target=Segment(slice="iot")), "match.target.slice"),
        (_rule(target=SERVER, condition=RuleCondition("new")), "match"),
        (_rule(target=SERVER, condition=RuleCondition(encrypted=True)), "match"),
        (
            _rule(target=SERVER, protocol="tcp", condition=RuleCondition(encrypted=False)),
            "match",
        ),
        (
            _rule(RuleAction(PolicyVerdict.PERMIT, 1.0), target=Segment(("10.0.6.10/31",))),
            "action.rate_mb_s",
        ),
        (_rule(target=SERVER, protocol="tcp", ports=(PortRange(1, 2_000),)), "match"),
    ],
)
def test_what_traffic_rules_cannot_say_is_refused(rule: PolicyRule, field: str) -> None:
    with pytest.raises(NotExpressibleError, match=rf"rule r1: {field}: agents"):
        _made(rule)


def test_what_goes_first_is_left_out() -> None:
    office = _rule(PERMIT, target=SERVER, source=Segment(("10.0.1.0/24",)))
    closed = PolicyRule("closed", DENY, RuleMatch(target=SERVER))
    (made,) = traffic_rules_of(RuleSet("a", (office, closed)))
    assert made.match == TrafficMatch(outside=("10.0.1.0/24",), target="10.0.6.10")
    (made,) = traffic_rules_of(RuleSet("a", (closed, office)))
    assert made.match == TrafficMatch(target="10.0.6.10")
    with pytest.raises(NotExpressibleError, match="default: agents"):
        traffic_rules_of(RuleSet("a", (closed,), PolicyVerdict.DENY))


def test_a_rule_set_is_written_as_it_is_read() -> None:
    rule = PolicyRule(
        "a/1",
        RuleAction(PolicyVerdict.PERMIT, 2.5, True),
        RuleMatch(
            Segment(("10.0.0.0/8",), labels={"a": "b"}), SERVER, "tcp", (), (PortRange(1, 2),)
        ),
        RuleCondition("new", False, True),
        RuleSchedule((0, 6), 5, 3),
        RuleScope(("iot",)),
        "intent",
        "yes",
    )
    rules = RuleSet("all", (rule,), PolicyVerdict.DENY)
    assert parse_rules(rules_text(rules), "x") == rules
    assert parse_rules(rules_text(RuleSet("none")), "x") == RuleSet("none")
