"""Exported rules in a kernel: they load, list as they were, and decide real packets as we do."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.policy.nftables import from_nftables, to_nftables
from phalanx.policy.rules import (
    PolicyPacket,
    PolicyRule,
    PolicyVerdict,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    decide,
)
from tests.infrastructure.linux.linux_needs import requires, requires_root
from tests.policy.forwarding import checksum
from tests.policy.rule_values import SCHEDULES, matches, packets, rule_sets

pytestmark = [pytest.mark.linux, requires_root, requires("nft", "ip", "unshare")]

HEADS = {6: 20, 17: 8, 132: 12, 1: 8, 58: 8}


def _octets(packet: PolicyPacket, tag: bytes) -> bytes:
    """The packet on the wire. What is a fragment is a first one."""
    source, target = ip_address(packet.source), ip_address(packet.target)
    head = bytearray(HEADS.get(packet.protocol, 8))
    if packet.protocol in (6, 17, 132):
        struct.pack_into("!HH", head, 0, packet.source_port, packet.port)
    if packet.protocol == 6:
        head[12:14] = b"\x50\x02"
    if packet.protocol == 17:
        struct.pack_into("!H", head, 4, len(head) + 8)
    if packet.protocol in (1, 58):
        head[0] = 8 if packet.protocol == 1 else 128
    body = bytes(head) + tag
    if source.version == 6:
        kind, start = packet.protocol, b""
        if packet.fragment:
            kind, start = 44, struct.pack("!BBHI", packet.protocol, 0, 1, 7)
        first = struct.pack("!IHBB", 6 << 28, len(start) + len(body), kind, 64)
        return first + source.packed + target.packed + start + body
    flags = 0x2000 if packet.fragment else 0
    ends = source.packed + target.packed
    first = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), 7, flags, 64, packet.protocol)
    return first + struct.pack("!H", checksum(first + b"\0\0" + ends)) + ends + body


def _routable(packet: PolicyPacket) -> bool:
    ends = ip_address(packet.source), ip_address(packet.target)
    return not any(
        e.is_multicast or e.is_unspecified or e.is_loopback or e.is_link_local or e.is_reserved
        or (e.version == 4 and int(e) >> 24 in (0, 255))
        for e in ends
    )  # fmt: skip


def _decided(
    cases: list[tuple[RuleSet, list[PolicyPacket]]],
) -> list[tuple[str, list[bool]]]:
    asked = [
        (
            to_nftables(rules),
            [_octets(p, struct.pack("!II", case, i)).hex() for i, p in enumerate(seen)],
        )
        for case, (rules, seen) in enumerate(cases)
    ]
    done = subprocess.run(
        ["/usr/bin/unshare", "-n", sys.executable, str(Path(__file__).with_name("forwarding.py"))],
        input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [
        (listed, [each[24:] in {came[24:] for came in passed} for each in sent])
        for (_, sent), (listed, passed) in zip(asked, json.loads(done.stdout), strict=True)
    ]  # the time to live is in the first 12 octets


def _random(strategy: st.SearchStrategy, count: int, **fixed: object) -> list:
    """Random rule sets with packets, all at once: one namespace is made for them."""
    found: list[tuple[RuleSet, list[PolicyPacket]]] = []

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data(), strategy)
    def draw(data: st.DataObject, rules: RuleSet) -> None:
        seen = data.draw(st.lists(packets(rules, **fixed), min_size=25, max_size=25))
        found.append((rules, [each for each in seen if _routable(each)]))

    draw()
    return found


def _check(cases: list[tuple[RuleSet, list[PolicyPacket]]]) -> None:
    both = [0, 0]
    for (rules, seen), (listed, passed) in zip(cases, _decided(cases), strict=True):
        if rules.rules:  # what nft itself prints means what we wrote
            assert from_nftables(listed, "listed") == from_nftables(to_nftables(rules), "ours")
        for packet, came in zip(seen, passed, strict=True):
            wanted = decide(rules, packet)[0].verdict is PolicyVerdict.PERMIT
            assert came == wanted, (to_nftables(rules), packet)
            both[came] += 1
    assert min(both) > 100


def test_the_kernel_decides_random_packets_as_the_rules_do() -> None:
    fixed = {"state": "new", "encrypted": False, "fragment": False, "slice": "", "pop": ""}
    at = time.gmtime()
    now = at.tm_wday * 1440 + at.tm_hour * 60 + at.tm_min
    near = st.sampled_from((RuleSchedule(), RuleSchedule((now // 1440,))))
    states = st.builds(RuleCondition, st.sampled_from((None, "new", "established")))
    cases = _random(rule_sets(condition=states, schedule=near), 40, **fixed)
    _check([(rules, [replace(p, minute=now) for p in seen]) for rules, seen in cases])


def test_the_kernel_sees_fragments_as_the_rules_do() -> None:
    fixed = {"state": "new", "encrypted": False, "minute": 0, "slice": "", "pop": ""}
    flags = st.builds(RuleCondition, st.none(), st.none(), st.sampled_from((None, True, False)))
    one = PolicyRule("f", RuleAction(PolicyVerdict.DENY), RuleMatch(), RuleCondition(fragment=True))
    few = matches(("icmp", "gre", "esp", None))
    cases = _random(rule_sets(condition=flags, match=few), 40, **fixed)
    _check([(replace(rules, rules=(*rules.rules, one)), seen) for rules, seen in cases])


def test_every_exported_time_and_rate_loads() -> None:
    rng = random.Random(1)
    rate = st.sampled_from(
        (RuleAction(PolicyVerdict.PERMIT, 2.5), RuleAction(PolicyVerdict.DENY, log=True))
    )
    plain = st.builds(RuleMatch, protocol=st.sampled_from(("tcp", "icmpv6", "sctp")))
    once = SCHEDULES.filter(lambda each: each.start < each.end)
    cases = _random(rule_sets(match=plain, action=rate, schedule=once), 15)
    rng.shuffle(cases)
    for (rules, _), (listed, _) in zip(cases, _decided([(r, []) for r, _ in cases]), strict=True):
        if rules.rules:
            assert from_nftables(listed, "listed") == from_nftables(to_nftables(rules), "ours")
