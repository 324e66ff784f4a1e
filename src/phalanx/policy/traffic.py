"""Policy rules as traffic rules: what an agent puts in force for what goes to one address.

Agents drop and limit what goes to a function, by source, protocol and port, and lead it encrypted.
A rule that needs more is not approximated: it is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.network import PopId
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.policy.boxes import line, meet, minus
from phalanx.policy.overlaps import addresses, port_spans
from phalanx.policy.rules import (
    PolicyRule,
    PolicyVerdict,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    Segment,
)

MOST_PORTS = 16
"""Ports of one rule, each of which becomes a rule of its own."""
DEFAULT = "default"
"""Name of the rule that a set's default stands for."""


class PolicedFunction(Struct, frozen=True):
    """A function of a slice, whose traffic the policy is about."""

    slice: str
    entity: str
    """Its name."""
    address: str
    pop: PopId


class WireRule(Struct, frozen=True):
    """A policy rule, as it is put in force for one function."""

    rule: PolicyRule
    traffic: tuple[TrafficRule, ...] = ()
    encrypt: bool = False
    """Whether what goes to the function is led there encrypted instead."""
    why_not: str = ""
    """Why agents cannot enforce it; empty: they can."""


def held_at(rules: RuleSet, minute: int) -> RuleSet:
    """Return the rules whose schedule holds at a minute of the week (UTC), without schedules."""
    held = (
        replace(rule, schedule=RuleSchedule())
        for rule in rules.rules
        if any(first <= minute < last for first, last in rule.schedule.minutes())
    )
    return replace(rules, rules=tuple(held))


def wire_rules(
    rules: RuleSet, at: PolicedFunction, most_ports: int = MOST_PORTS
) -> Iterator[WireRule]:
    """Yield what a rule set means for what goes to ``at``, where that is not merely to pass.

    Args:
        rules: without slices, labels (``PolicyInventory.resolve``) and schedules (``held_at``).
        at: the function.
        most_ports: of one rule.

    """
    before: list[PolicyRule] = []
    default = PolicyRule(DEFAULT, RuleAction(rules.default))
    for rule in (*rules.rules, default):
        scope = rule.scope
        here = (not scope.slices or at.slice in scope.slices) and (
            not scope.pops or at.pop in scope.pops
        )
        if not here or not _aimed(rule.match.target, at.address):
            continue
        denies = rule.action.verdict is PolicyVerdict.DENY
        if denies or rule.action.rate_mb_s is not None:
            yield _on_wire(rule, before, at.address, most_ports)
        if not denies:
            before.append(rule)


def _aimed(target: Segment, address: str) -> bool:
    return bool(meet(addresses(target), line((address,))))


def of_version(prefixes: Iterable[str], address: str) -> tuple[str, ...]:
    """Return the prefixes of an address's IP version: nothing else goes to it."""
    return tuple(each for each in prefixes if (":" in each) == (":" in address))


def _on_wire(rule: PolicyRule, before: list[PolicyRule], address: str, most_ports: int) -> WireRule:
    match, why = rule.match, _beyond(rule)
    if rule.condition == RuleCondition(encrypted=False) and not why:
        return WireRule(rule, encrypt=True)
    if rule.condition != RuleCondition():
        why = why or "agents tell neither states of connections nor fragments apart"
    outside = [*of_version(match.source.outside, address)]
    sources = of_version(match.source.addresses, address)
    if match.source.addresses and not sources:
        return WireRule(rule)  # from the other version alone
    for earlier in before:
        if why or not _overlap(earlier.match, match):
            continue
        first = earlier.match.source
        if not _covers(earlier.match, match) or earlier.condition != RuleCondition():
            why = f"{earlier.id}, which goes first, is about a part of its protocols or ports"
        elif first.outside or _beyond(earlier):
            why = f"what {earlier.id}, which goes first, leaves out cannot be told in one rule"
        elif not first.addresses:
            return WireRule(rule)  # nothing is left for it
        else:
            outside += of_version(first.addresses, address)
    ports = [port for each in port_spans(match.ports) for port in range(*each) if match.ports]
    if len(ports) > most_ports:
        why = why or f"it names more than {most_ports} ports"
    if why:
        return WireRule(rule, why_not=why)
    rate = rule.action.rate_mb_s
    verdict = TrafficVerdict.DROP if rate is None else TrafficVerdict.LIMIT
    figures = {} if rate is None else {"rate_mb_s": rate}
    left_out = tuple(dict.fromkeys(outside))
    return WireRule(
        rule,
        tuple(
            TrafficRule(
                TrafficMatch(
                    sources=sources,
                    outside=left_out,
                    target=address,
                    port=port,
                    protocol=match.protocol,
                ),
                verdict,
                figures,
            )
            for port in ports or (None,)
        ),
    )


def _beyond(rule: PolicyRule) -> str:
    """Return what of a rule no traffic rule can say; empty: nothing."""
    match = rule.match
    if match.source_ports:
        return "agents do not tell source ports apart"
    if match.protocol not in (None, "tcp", "udp"):
        return f"agents tell tcp and udp apart, not {match.protocol}"
    return ""


def _overlap(left: RuleMatch, right: RuleMatch) -> bool:
    return len({left.protocol, right.protocol} - {None}) < 2 and bool(
        meet(port_spans(left.ports), port_spans(right.ports))
    )


def _covers(left: RuleMatch, right: RuleMatch) -> bool:
    """Whether ``left`` is about all protocols and ports that ``right`` is about."""
    beyond = minus(port_spans(right.ports), port_spans(left.ports))
    return left.protocol in (None, right.protocol) and not beyond
