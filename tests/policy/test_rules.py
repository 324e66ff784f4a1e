"""The model of policy rules: which rule decides about a packet, and what is refused."""

from __future__ import annotations

from phalanx.policy.rules import (
    LabelledWorkload,
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
    rule_offences,
)

PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)


def _rule(name: str, action: RuleAction, **fields) -> PolicyRule:
    match = {k: fields.pop(k) for k in list(fields) if k in RuleMatch.__struct_fields__}
    return PolicyRule(name, action, RuleMatch(**match), **fields)


def _decides(rules: RuleSet, packet: PolicyPacket) -> str:
    _, rule = decide(rules, packet)
    return "default" if rule is None else rule.id


def test_the_first_rule_that_matches_decides() -> None:
    web = _rule("web", PERMIT, protocol="tcp", ports=(PortRange(80, 80), PortRange(443, 443)))
    lan = _rule("lan", DENY, source=Segment(("10.0.0.0/8",), outside=("10.1.0.0/16",)))
    rules = RuleSet("edge", (lan, web), PolicyVerdict.DENY)
    assert _decides(rules, PolicyPacket("10.2.0.1", "192.0.2.1", port=80)) == "lan"
    assert _decides(rules, PolicyPacket("10.1.0.1", "192.0.2.1", port=443)) == "web"
    assert _decides(rules, PolicyPacket("10.1.0.1", "192.0.2.1", port=81)) == "default"
    assert _decides(rules, PolicyPacket("2001:db8::1", "192.0.2.1", protocol=17)) == "default"
    assert decide(rules, PolicyPacket("10.1.0.1", "192.0.2.1", port=81))[0] == DENY


def test_conditions_scopes_and_schedules_are_part_of_the_match() -> None:
    clear = _rule("clear", DENY, condition=RuleCondition(encrypted=False, state="new"))
    night = _rule("night", DENY, schedule=RuleSchedule(days=(6,), start=23 * 60, end=60))
    core = _rule("core", DENY, scope=RuleScope(slices=("iot",), pops=("pop1",)))
    rules = RuleSet("all", (clear, night, core))
    packet = PolicyPacket("10.0.0.1", "10.0.0.2", encrypted=True)
    assert _decides(rules, PolicyPacket("10.0.0.1", "10.0.0.2")) == "clear"
    assert (
        _decides(rules, PolicyPacket("10.0.0.1", "10.0.0.2", state="established", minute=1440))
        == "default"
    )
    for day, hour, decided in (
        (6, 23, "night"),
        (0, 0, "night"),
        (0, 1, "default"),
        (6, 22, "default"),
    ):
        at = day * 1440 + hour * 60
        moved = PolicyPacket("10.0.0.1", "10.0.0.2", encrypted=True, minute=at)
        assert _decides(rules, moved) == decided
    assert _decides(rules, packet) == "night"  # Monday 00:00 is still Sunday's night
    noon = PolicyPacket("::1", "::2", encrypted=True, minute=720, slice="iot", pop="pop1")
    assert _decides(rules, noon) == "core"


def test_an_inventory_puts_addresses_in_place_of_names() -> None:
    inventory = PolicyInventory(
        {"cameras": ("10.1.0.0/16", "2001:db8::/32")},
        (
            LabelledWorkload("db", ("10.1.7.9",), {"app": "db", "tier": "back"}),
            LabelledWorkload("web", ("10.2.0.1",), {"app": "web"}),
        ),
    )
    both = _rule("both", DENY, source=Segment(slice="cameras", labels={"app": "db"}))
    narrowed = _rule("narrowed", DENY, target=Segment(("10.1.9.0/24",), slice="cameras"))
    nobody = _rule("nobody", DENY, source=Segment(labels={"app": "mail"}))
    resolved = inventory.resolve(RuleSet("all", (both, narrowed, nobody)))
    assert [rule.id for rule in resolved.rules] == ["both", "narrowed"]
    assert resolved.rules[0].match.source == Segment(("10.1.7.9/32",))
    assert resolved.rules[1].match.target == Segment(("10.1.9.0/24",))


def test_what_does_not_fit_together_is_said_with_its_place() -> None:
    rules = RuleSet(
        "wrong",
        (
            _rule(
                "a", RuleAction(PolicyVerdict.DENY, rate_mb_s=1.0), source=Segment(("10.0.0.1/8",))
            ),
            _rule("a", PERMIT, ports=(PortRange(9, 8),), target=Segment(slice="camera")),
            _rule("c", PERMIT, schedule=RuleSchedule(start=5, end=5), scope=RuleScope(("iot",))),
        ),
    )
    found = dict(rule_offences(rules, ["cameras"]))
    assert "host bits are set" in found["rules[0].match.source.addresses[0]"]
    assert "has no rate" in found["rules[0].action.rate_mb_s"]
    assert "already" in found["rules[1].id"]
    assert "need the protocol" in found["rules[1].match.ports"]
    assert "above the last" in found["rules[1].match.ports[0]"]
    assert "did you mean 'cameras'" in found["rules[1].match.target.slice"]
    assert "never holds" in found["rules[2].schedule.end"]
    assert "rules[2].scope.slices[0]" in found
    assert len(found) == 8
