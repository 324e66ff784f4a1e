"""Policy rules as rules of MMT-Security: what these find is what the policy denies."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.policy.exchange import NotExpressibleError
from phalanx.policy.mmt import read_mmt, write_mmt
from phalanx.policy.mmt_export import to_mmt
from phalanx.policy.mmt_monitor import MmtMonitor
from phalanx.policy.rules import (
    PolicyPacket,
    PolicyRule,
    PolicyVerdict,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    Segment,
    decide,
)
from tests.analytics.captures import ethernet, ip4, ip6, tcp, udp
from tests.nightly import examples
from tests.policy.rule_values import matches, packets, rule_sets

DENY = RuleAction(PolicyVerdict.DENY)
ACTIONS = st.sampled_from((RuleAction(PolicyVerdict.PERMIT), DENY, replace(DENY, log=True)))
SETS = rule_sets(
    most=5, action=ACTIONS, match=matches(("tcp", "udp", "sctp", "icmp", "icmpv6", "gre", None))
)


def frame(packet: PolicyPacket) -> bytes:
    bodies = {
        6: tcp(packet.source_port, packet.port, 2),
        17: udp(packet.source_port, packet.port),
        132: udp(packet.source_port, packet.port) + bytes(8),
    }
    body = bodies.get(packet.protocol, bytes(16))
    if ip_address(packet.source).version == 4:
        return ethernet(ip4(packet.source, packet.target, packet.protocol, body))
    if packet.minute % 2:  # behind options for the destination
        options = bytes((packet.protocol, 0, 1, 4, 0, 0, 0, 0))
        return ethernet(ip6(packet.source, packet.target, 60, options + body))
    return ethernet(ip6(packet.source, packet.target, packet.protocol, body))


@settings(max_examples=examples(10), deadline=None, phases=[Phase.generate])
@given(st.data(), SETS)
def test_what_is_denied_is_found_once_under_the_rule_that_decides(
    data: st.DataObject, rules: RuleSet
) -> None:
    text = to_mmt(rules)
    read = read_mmt(text)
    assert write_mmt(read) == text
    watch = MmtMonitor(read)
    for at, packet in enumerate(data.draw(st.lists(packets(rules), min_size=25, max_size=25))):
        action, rule = decide(rules, packet)
        denied = action.verdict is PolicyVerdict.DENY
        found = [(v.verdict, v.description) for v in watch.packet(frame(packet), float(at))]
        name = rule.id if rule else "default"
        assert found == [("detected", f"{name}: denied")] * denied, (packet, text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"action": RuleAction(PolicyVerdict.PERMIT, log=True)}, "action.log: mmt"),
        ({"condition": RuleCondition("new")}, "condition.state: mmt"),
        ({"condition": RuleCondition(encrypted=True)}, "condition.encrypted: mmt"),
        ({"condition": RuleCondition(fragment=True)}, "condition.fragment: mmt"),
        ({"schedule": RuleSchedule((1,))}, "schedule: mmt"),
        ({"match": RuleMatch(Segment(slice="a"))}, "match.source.slice: mmt"),
        ({"match": RuleMatch(protocol="esp")}, "match.protocol: mmt: is not found behind"),
        (
            {"match": RuleMatch(Segment(tuple(f"10.{n // 256}.{n % 256}.1" for n in range(600))))},
            "match: mmt: over 10000 characters",
        ),
    ],
)
def test_what_mmt_cannot_say_is_refused_by_rule_and_field(fields: dict, words: str) -> None:
    with pytest.raises(NotExpressibleError) as refused:
        to_mmt(RuleSet("one", (PolicyRule(**{"id": "r1", "action": DENY, **fields}),)))
    assert str(refused.value).startswith(f"rule r1: {words}")
