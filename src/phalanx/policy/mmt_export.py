"""Policy rules as rules of MMT-Security: a property for what a rule denies, found by monitoring.

MMT-Security watches and blocks nothing by itself, so what is exported is what shall not be seen:
an ATTACK whose only event is a packet that the policy denies, with the id of the rule that
decides it. What an earlier rule decides is left out. Addresses are compared in their order.

Source: Montimage/mmt-security, ``doc/rule.md``; seed 004, 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from phalanx.domain.flowspec import PORTS, PROTOCOLS, Spans
from phalanx.policy.boxes import VERSIONS, FieldBox, address, cut, meet, minus, real
from phalanx.policy.exchange import DENY, plain_only, refuse
from phalanx.policy.mmt import (
    LONGEST,
    MmtEvent,
    MmtOperator,
    MmtRule,
    parse_expression,
    write_mmt,
)
from phalanx.policy.overlaps import RuleTranslator
from phalanx.policy.rules import PolicyRule, PolicyVerdict, RuleAction, RuleSet

MOST_PROPERTIES = 10_000
_SEEN = dict(zip((6, 17, 132), ("tcp.src_port", "udp.src_port", "sctp.src_port"), strict=True))
_SEEN |= {1: "icmp.type", 47: "gre.flags", 58: "icmpv6.type"}
"""By protocol, an attribute that a packet has in which it stands, wherever that is."""


def to_mmt(rules: RuleSet) -> str:
    """Return a file of rules that find each packet which the policy denies, once.

    Raises:
        NotExpressibleError: with rule, field and reason.

    """
    plain_only(rules, "mmt", "source_ports", "log")
    translator, made, before = RuleTranslator(), list[MmtRule](), list[FieldBox]()
    rest = () if rules.default is PolicyVerdict.PERMIT else (PolicyRule("default", DENY),)
    for rule in (*rules.rules, *rest):
        box = real(translator.whole(rule))
        if rule.action == RuleAction(PolicyVerdict.PERMIT, log=True):
            raise refuse(rule, "action.log", "mmt: what is permitted is not recorded")
        if box is None:
            continue
        denied = cut(box, before) if rule.action.verdict is PolicyVerdict.DENY else ()
        for text in (each for part in denied for each in _expressions(rule, part)):
            if len(text) > LONGEST or len(made) == MOST_PROPERTIES:
                why = f"mmt: over {LONGEST} characters, or {MOST_PROPERTIES} properties in all"
                raise refuse(rule, "match", why)
            event = MmtEvent(1, parse_expression(text))
            root = MmtOperator("COMPUTE", event, description=f"{rule.id}: denied")
            made.append(MmtRule(len(made) + 1, "ATTACK", root))
        before.append(box)
    return write_mmt(made)


def _expressions(rule: PolicyRule, box: FieldBox) -> Iterator[str]:
    """Yield what packets of a box are like, by IP version and, where it has ports, by protocol."""
    for (version, whole), ip in zip(VERSIONS.items(), ("ip", "ipv6"), strict=True):
        sides = [meet(side, whole) for side in box[:2]]
        if not all(sides):
            continue
        parts = [f"{ip}.version == {version}"]
        for name, side in zip(("src", "dst"), sides, strict=True):
            if side != whole:
                parts.append(_within(f"{ip}.{name}", side, lambda at: f"'{address(at)}'"))
        numbers, others = (
            [n for span in s for n in range(*span)] for s in (box[2], minus(PROTOCOLS, box[2]))
        )
        if box[3:5] != (PORTS, PORTS):
            for name in (_SEEN[number].partition(".")[0] for number in numbers):
                ports = (f"{name}.src_port", box[3]), (f"{name}.dest_port", box[4])
                yield " && ".join((*parts, *(_within(*each) for each in ports if each[1] != PORTS)))
            continue
        if version == 4 and others:
            parts.append(_within("ip.proto_id", box[2]))
        elif others:  # what stands behind headers of extension is found by what it has
            positive = len(numbers) < len(others)
            few = numbers if positive else others
            if not _SEEN.keys() >= set(few):
                raise refuse(rule, "match.protocol", "mmt: is not found behind headers of IPv6")
            found = (f"#is_exist({_SEEN[number]}) == {positive:d}" for number in few)
            parts.append(f"({(' || ' if positive else ' && ').join(found)})")
        yield " && ".join(parts)


def _within(name: str, spans: Spans, text: Callable[[int], str] = str) -> str:
    found = (
        f"{name} == {text(first)}"
        if first + 1 == after
        else f"({name} >= {text(first)} && {name} <= {text(after - 1)})"
        for first, after in spans
    )
    return f"({' || '.join(found)})"
