"""What all exports and imports of rules share: files, refusals, and rules in simpler parts.

A rule is exported exactly or not at all: what a target cannot say is refused with the id of the
rule, the field and the reason. Imports refuse what a rule cannot say, likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from operator import attrgetter

import msgspec
import yaml
from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.loading import one_line, parse_as, refusal
from phalanx.policy.boxes import UNIVERSE, VERSIONS, IpVersion, line, meet, prefixes
from phalanx.policy.contradictions import differences
from phalanx.policy.overlaps import addresses
from phalanx.policy.rules import (
    PolicyRule,
    PolicyVerdict,
    RuleAction,
    RuleSchedule,
    RuleSet,
    Segment,
    rule_offences,
)

PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)
MOST_ADDRESSES = 1024
"""Addresses up to which a prefix is written out where single addresses are needed."""
_PLAIN = PolicyRule("plain", PERMIT)
PLACE = {
    "scope.slices": "is not said there; choose the slice to export for (--slice)",
    "scope.pops": "is not said there; choose the PoP to export for (--pop)",
}
SYMBOLS = {
    f"match.{side}.{field}": f"is not known there; give the members of each {word} (--members)"
    for side in ("source", "target")
    for field, word in (("slice", "slice"), ("labels", "workload"), ("labels_not_in", "workload"))
}


class NotExpressibleError(PhalanxError):
    """A target cannot say what a rule says; names the rule, the field and the reason."""


def refuse(rule: PolicyRule | None, field: str, why: str) -> NotExpressibleError:
    """Return the error for a field of a rule, or of the set as a whole."""
    return NotExpressibleError(one_line(f"{f'rule {rule.id}: ' if rule else ''}{field}: {why}"))


def plain_only(rules: RuleSet, target: str, refused: Mapping[str, str]) -> None:
    """Refuse the first rule that says anything in one of the fields.

    Args:
        rules: to be exported.
        target: what they are exported to, in words.
        refused: the fields, such as ``condition.state``, and why the target cannot say them.

    Raises:
        NotExpressibleError: with one line.

    """
    for rule in rules.rules:
        for field, why in refused.items():
            if attrgetter(field)(rule) != attrgetter(field)(_PLAIN):
                raise refuse(rule, field, f"{target}: {why}")


def parse_rules(text: str, name: str) -> RuleSet:
    """Return the rule set in ``text`` (YAML or JSON); ``name`` stands for it in errors.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    rules, tree = parse_as(RuleSet, text, name)
    for field, why in rule_offences(rules):
        raise refusal(name, tree, field, why)
    return rules


def rules_text(rules: RuleSet) -> str:
    """Return a rule set as YAML that ``parse_rules`` reads, without fields that say nothing."""
    return yaml.safe_dump(_said(rules), sort_keys=False, allow_unicode=True, width=100)


def _said(value: object) -> object:
    if isinstance(value, msgspec.Struct) and not value.__struct_config__.array_like:
        fields = msgspec.structs.fields(value)
        return {f.name: _said(v) for f in fields if (v := getattr(value, f.name)) != f.default}
    if isinstance(value, tuple):
        return [_said(each) for each in value]
    return msgspec.to_builtins(value)


def placed(rules: RuleSet, slice_name: str = "", pop: str = "") -> RuleSet:
    """Return the rules that hold at a slice's functions, or at a PoP; empty: wherever."""
    for field, name in (("slices", slice_name), ("pops", pop)):
        if name:
            held = [r for r in rules.rules if name in (getattr(r.scope, field) or (name,))]
            inner = (replace(r, scope=replace(r.scope, **{field: ()})) for r in held)
            rules = replace(rules, rules=tuple(inner))
    return rules


def simple_rules(rules: RuleSet, target: str, families: bool = False) -> Iterator[PolicyRule]:
    """Yield rules that mean the same together, each about one IP version and one part of the day.

    What neither names addresses nor looks at fragments is about both versions, unless all rules
    are to be split by ``families``. Parts of a rule have its id with a number.

    Raises:
        NotExpressibleError: if a rule with a rate has several parts: each would have the rate.

    """
    taken = {rule.id for rule in rules.rules}
    for rule in rules.rules:
        parts = [part for day in _days(rule) for part in _families(day, families)]
        yield from numbered(rule, parts, taken, target)


def numbered(
    rule: PolicyRule, parts: list[PolicyRule], taken: set[str], target: str
) -> Iterator[PolicyRule]:
    """Yield the parts of a rule under ids that are not taken; as ``simple_rules``."""
    if len(parts) == 1:
        yield parts[0]
        return
    if parts and rule.action.rate_mb_s is not None:
        why = f"{target} needs {len(parts)} rules for it, and each would have the whole rate"
        raise refuse(rule, "action.rate_mb_s", why)
    number = 0
    for part in parts:
        number += 1
        while f"{rule.id}/{number}" in taken:
            number += 1
        taken.add(f"{rule.id}/{number}")
        if len(f"{rule.id}/{number}") > 128:
            raise refuse(rule, "id", f"is too long for the {len(parts)} parts that {target} needs")
        yield replace(part, id=f"{rule.id}/{number}")


def _days(rule: PolicyRule) -> Iterator[PolicyRule]:
    schedule = rule.schedule
    days = tuple(sorted(set(schedule.days))) if len(set(schedule.days)) < 7 else ()
    if schedule.start < schedule.end:
        yield replace(rule, schedule=RuleSchedule(days, schedule.start, schedule.end))
        return
    after = tuple(sorted((day + 1) % 7 for day in days))
    yield replace(rule, schedule=RuleSchedule(days, schedule.start))
    yield replace(rule, schedule=RuleSchedule(after, 0, schedule.end))


def _families(rule: PolicyRule, always: bool) -> Iterator[PolicyRule]:
    match = rule.match
    sides = match.source, match.target
    split = always or rule.condition.fragment is not None
    if not (split or any(side.addresses or side.outside for side in sides)):
        yield rule
        return
    for version in VERSIONS:
        if all(meet(addresses(side), VERSIONS[version]) for side in sides):
            source, target = (_pinned(side, version) for side in sides)
            if not (source.addresses or target.addresses):
                source = Segment((UNIVERSE[version],))
            yield replace(rule, match=replace(match, source=source, target=target))


def _pinned(segment: Segment, version: IpVersion) -> Segment:
    listed, outside = collapsed(segment.addresses, version), collapsed(segment.outside, version)
    return Segment(listed or ((UNIVERSE[version],) if outside else ()), outside)


def collapsed(listed: Iterable[str], version: IpVersion) -> tuple[str, ...]:
    """Return the fewest prefixes for those of one IP version."""
    return prefixes(meet(line(listed), VERSIONS[version]))


def traffic_rules(rule: PolicyRule) -> list[TrafficRule]:
    """Return what agents enforce for a rule: drop, limit, or lead through an encrypted tunnel.

    A denial of what is in the clear, without more, is kept by encrypting all of it.

    Raises:
        NotExpressibleError: if no traffic rules say it; a permit without a rate needs none.

    """
    agents = "agents"
    clear = rule.condition.encrypted is False and rule.action == DENY
    refused = {
        **SYMBOLS,
        **PLACE,
        "match.source.outside": "a traffic rule leaves no address out",
        "match.target.outside": "a traffic rule leaves no address out",
        "match.source_ports": "a traffic rule knows no source ports",
        "condition.state": "a traffic rule knows no connections",
        "condition.fragment": "a traffic rule knows no fragments",
        "schedule": "a goal has no timetable",
        "action.log": "a traffic rule records no packets",
    } | ({} if clear else {"condition.encrypted": "only a denial of all clear text is kept so"})
    plain_only(RuleSet("one", (rule,)), agents, refused)
    match, rate = rule.match, rule.action.rate_mb_s
    if rule.action == PERMIT:
        raise refuse(rule, "action.verdict", "agents: a traffic rule permits nothing")
    if match.protocol not in (None, "tcp", "udp"):
        raise refuse(rule, "match.protocol", "agents: a traffic rule knows tcp and udp")
    sources, targets = (
        _each(rule, side, getattr(match, side).addresses) for side in ("source", "target")
    )
    if not targets:
        raise refuse(rule, "match.target.addresses", "agents: a traffic rule needs a target")
    spans = (range(each.first, each.last + 1) for each in match.ports)
    ports: list[int | None] = [port for span in spans for port in span] or [None]
    if len(ports) * len(targets) > MOST_ADDRESSES or ports == [0]:
        raise refuse(rule, "match.ports", f"agents: at most {MOST_ADDRESSES} rules, from port 1")
    if rate is not None and len(ports) * len(targets) > 1:
        raise refuse(rule, "action.rate_mb_s", "agents: each target and port would have the rate")
    verdict, parameters = TrafficVerdict.DROP, {}
    if clear:
        verdict, parameters = TrafficVerdict.STEER, {"encrypted": 1.0}
        if sources or match.protocol:
            raise refuse(rule, "match", "agents: a target has all or nothing encrypted")
    elif rate is not None:
        verdict, parameters = TrafficVerdict.LIMIT, {"rate_mb_s": rate}
    one, several = (sources[0], ()) if len(sources) == 1 else (None, tuple(sources))
    return [
        TrafficRule(
            TrafficMatch(
                source=one, sources=several, target=to, port=port, protocol=match.protocol
            ),
            verdict,
            parameters,
        )
        for to in targets
        for port in ports
    ]


def traffic_rules_of(rules: RuleSet) -> list[TrafficRule]:
    """Return what agents enforce for a rule set. Traffic rules have no order: all of them hold.

    Raises:
        NotExpressibleError: if the order of the rules matters, or one of them cannot be said.

    """
    if rules.default is not PolicyVerdict.PERMIT:
        raise refuse(None, "default", "agents: what no rule names passes; it has to be permit")
    found = [rule for rule in rules.rules if rule.action != PERMIT]
    made = [each for rule in found for each in traffic_rules(rule)]
    drops = [rule for rule in found if rule.action.rate_mb_s is None]
    limits = [rule for rule in found if rule.action.rate_mb_s is not None]
    for order in (limits, limits[::-1]):
        for each in differences(rules, RuleSet("unordered", (*drops, *order))):
            rule = next((r for r in rules.rules if r.id in (each.left_rule, each.right_rule)), None)
            raise refuse(rule, "order", f"agents: traffic rules have no order ({each.right_rule})")
    return made


def _each(rule: PolicyRule, side: str, listed: tuple[str, ...]) -> list[str]:
    networks = [ip_network(each) for each in listed]
    if sum(n.num_addresses for n in networks) > MOST_ADDRESSES:
        why = f"agents: single addresses are needed, at most {MOST_ADDRESSES}"
        raise refuse(rule, f"match.{side}.addresses", why)
    return list(dict.fromkeys(str(address) for n in networks for address in n))
