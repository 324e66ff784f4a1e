"""What all exports and imports of rules share: files, refusals, and rules in simpler parts.

A rule is exported exactly or not at all: what a target cannot say is refused with the id of the
rule, the field and the reason. Imports refuse what a rule cannot say, likewise.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import cast

import msgspec
import yaml
from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.domain.flowspec import IpVersion
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.loading import Offence, one_line, parse_as, refusal, show
from phalanx.policy.boxes import UNIVERSE, VERSIONS, address, line, meet, prefixes
from phalanx.policy.overlaps import addresses
from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    Protocol,
    RuleAction,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    Segment,
    rule_offences,
)
from phalanx.policy.traffic import PolicedFunction, wire_rules

PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)
MOST_ADDRESSES = 1024
"""Addresses, or ports, up to which they are written out where single ones are needed."""
_PLAIN = PolicyRule("plain", PERMIT)
SYMBOLS = {
    f"match.{side}.{field}": f"is not known there; give the members of each {word} (--members)"
    for side in ("source", "target")
    for field, word in (("slice", "slice"), ("labels", "workload"), ("labels_not_in", "workload"))
}
UNSAID = SYMBOLS | {
    "scope.slices": "is not said there; choose the slice to export for (--slice)",
    "scope.pops": "is not said there; choose the PoP to export for (--pop)",
    "match.source_ports": "source ports are not told apart there",
    "condition.state": "connections are not known there",
    "condition.encrypted": "encryption is not seen there (nftables sees IPsec: --ipsec)",
    "condition.fragment": "fragments are not told apart there",
    "schedule": "there is no timetable there",
    "action.rate_mb_s": "rates are not kept there",
    "action.log": "packets are not recorded there",
}
"""Fields of a rule that some target cannot say, and why."""


class NotExpressibleError(PhalanxError):
    """A target cannot say what a rule says; names the rule, the field and the reason."""


def refuse(rule: PolicyRule | None, field: str, why: str) -> NotExpressibleError:
    """Return the error for a field of a rule, or of the set as a whole."""
    return NotExpressibleError(one_line(f"{f'rule {rule.id}: ' if rule else ''}{field}: {why}"))


def plain_only(rules: RuleSet, target: str, *said: str) -> None:
    """Refuse the first rule that says anything in a field of ``UNSAID``.

    Args:
        rules: to be exported.
        target: what they are exported to, in words.
        said: fields, by their last words, that the target can say, such as ``state``.

    Raises:
        NotExpressibleError: with one line.

    """
    for rule in rules.rules:
        for field, why in UNSAID.items():
            if not field.endswith(said) and attrgetter(field)(rule) != attrgetter(field)(_PLAIN):
                raise refuse(rule, field, f"{target}: {why}")
        ported = rule.match.ports or rule.match.source_ports
        if rule.condition.fragment and ported and "fragment" in said:
            raise refuse(rule, "match.ports", f"{target}: only the first fragment has ports")


class UnsaidError(PhalanxError):
    """What a text in another format says, and no rule can; its reader knows where."""

    def __init__(self, word: str, why: str = "no rule here can say it") -> None:
        super().__init__(f"{show(word)}: {why}")


def parse_rules(text: str, name: str, *, symbolic: bool = True) -> RuleSet:
    """Return the rule set in ``text`` (YAML or JSON); ``name`` stands for it in errors.

    Slices and labels, which need an inventory, are refused unless ``symbolic``.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    rules, tree = parse_as(RuleSet, text, name)
    needing = () if symbolic else _symbols(rules)
    for field, why in (*rule_offences(rules), *needing):
        raise refusal(name, tree, field, why)
    return rules


def _symbols(rules: RuleSet) -> Iterator[Offence]:
    """Yield the segments that no packet can be held against without an inventory."""
    for index, rule in enumerate(rules.rules):
        for side, segment in (("source", rule.match.source), ("target", rule.match.target)):
            if segment.symbolic:
                where = f"rules[{index}].match.{side}"
                yield where, "slices and labels need an inventory; give addresses"


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


def simple_rules(rules: RuleSet, target: str) -> Iterator[PolicyRule]:
    """Yield rules that mean the same together, each about one IP version and one part of the day.

    What neither names addresses nor looks at fragments is about both versions. Parts of a rule
    have its id with a number.

    Raises:
        NotExpressibleError: if a rule with a rate has several parts: each would have the rate.

    """
    taken = FreeNames(rule.id for rule in rules.rules)
    for rule in rules.rules:
        parts = [part for day in _days(rule) for part in _families(day)]
        yield from numbered(rule, parts, taken, target)


def numbered(
    rule: PolicyRule, parts: list[PolicyRule], taken: FreeNames, target: str
) -> Iterator[PolicyRule]:
    """Yield the parts of a rule under ids that are not taken; as ``simple_rules``."""
    if len(parts) == 1:
        yield parts[0]
        return
    if parts and rule.action.rate_mb_s is not None:
        why = f"{target} needs {len(parts)} rules for it, and each would have the whole rate"
        raise refuse(rule, "action.rate_mb_s", why)
    for part in parts:
        name = taken.like(rule.id)
        if len(name) > 128:
            raise refuse(rule, "id", f"is too long for the {len(parts)} parts that {target} needs")
        yield replace(part, id=name)


class FreeNames:
    """Names that are taken, and free ones like them."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken, self._given = set(taken), Counter[str]()

    def like(self, stem: str, sign: str = "/") -> str:
        """Return the first of stem/1, stem/2, … that is not taken; it is, then."""
        while True:
            self._given[stem] += 1
            if (name := f"{stem}{sign}{self._given[stem]}") not in self.taken:
                self.taken.add(name)
                return name


def _days(rule: PolicyRule) -> Iterator[PolicyRule]:
    schedule = rule.schedule
    days = tuple(sorted(set(schedule.days))) if len(set(schedule.days)) < 7 else ()
    if schedule.start < schedule.end:
        yield replace(rule, schedule=RuleSchedule(days, schedule.start, schedule.end))
        return
    after = tuple(sorted((day + 1) % 7 for day in days))
    yield replace(rule, schedule=RuleSchedule(days, schedule.start))
    yield replace(rule, schedule=RuleSchedule(after, 0, schedule.end))


def _families(rule: PolicyRule) -> Iterator[PolicyRule]:
    match = rule.match
    sides = match.source, match.target
    named = any(side.addresses or side.outside for side in sides)
    if not named and rule.condition.fragment is None:
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


def traffic_rules_of(rules: RuleSet) -> list[TrafficRule]:
    """Return what agents enforce for a rule set, for each address that its rules protect or limit.

    Traffic rules have no order: all of them hold. A denial of what is in the clear, without more,
    is kept by encrypting all of it.

    Raises:
        NotExpressibleError: with rule, field and reason.

    """
    said = "source_ports", "state", "encrypted", "fragment", "rate_mb_s"
    plain_only(rules, "agents", *said)
    if rules.default is not PolicyVerdict.PERMIT:
        raise refuse(None, "default", "agents: what no rule names passes; it has to be permit")
    targets = [each for rule in rules.rules if rule.action != PERMIT for each in _targets(rule)]
    made: list[tuple[PolicyRule, TrafficRule]] = []
    for target in dict.fromkeys(targets):
        encrypted = TrafficRule(
            TrafficMatch(target=target), TrafficVerdict.STEER, {"encrypted": 1.0}
        )
        for wire in wire_rules(rules, PolicedFunction("", "", target, ""), MOST_ADDRESSES):
            if wire.why_not:
                raise refuse(wire.rule, "match", f"agents: {wire.why_not}")
            if wire.encrypt and wire.rule.match != RuleMatch(target=wire.rule.match.target):
                raise refuse(wire.rule, "match", "agents: a target has all or nothing encrypted")
            made += ((wire.rule, each) for each in (*wire.traffic, *[encrypted] * wire.encrypt))
    for rule_id, number in Counter(r.id for r, _ in made if r.action.rate_mb_s).items():
        if number > 1:
            why = "agents: each target and port would have the rate"
            raise NotExpressibleError(f"rule {rule_id}: action.rate_mb_s: {why}")
    return [each for _, each in made]


def _targets(rule: PolicyRule) -> list[str]:
    found = addresses(rule.match.target)
    if sum(after - first for first, after in found) > MOST_ADDRESSES or meet(found, VERSIONS[6]):
        why = f"agents: single targets of IPv4 are needed, at most {MOST_ADDRESSES}"
        raise refuse(rule, "match.target.addresses", why)
    return [str(address(place)) for span in found for place in range(*span)]


CSV_COLUMNS = ["protocol", "src", "s_port", "dst", "d_port", "action"]
CSV_ACTIONS = {
    "accept": PolicyVerdict.PERMIT,
    "permit": PolicyVerdict.PERMIT,
    "allow": PolicyVerdict.PERMIT,
    "deny": PolicyVerdict.DENY,
    "drop": PolicyVerdict.DENY,
}
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?", re.ASCII)


def read_csv_rules(text: str, name: str) -> RuleSet:
    """Return the rules of a CSV text, named r1, r2, … in the order of its lines.

    These are firewall rules in order: protocol,src,s_port,dst,d_port,action. ``ip`` is any
    protocol, and ``any`` any port. Nothing else is read into a line: what a field does not say
    plainly is refused.

    ``name`` stands for the file in errors. What no rule matches is denied.

    Raises:
        ScenarioError: with one line ``FILE: line N: what is wrong; what is allowed``.

    """
    rules: list[PolicyRule] = []
    reader = csv.reader(text.splitlines(), skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            fields = [cell.strip() for cell in cells]
            if reader.line_num == 1 and fields != CSV_COLUMNS:
                raise ValueError(f"the first line has to be {','.join(CSV_COLUMNS)}")
            if not any(fields) or reader.line_num == 1:
                continue
            rules.append(_csv_rule(f"r{len(rules) + 1}", fields))
            for path, why in rule_offences(RuleSet("line", (rules[-1],))):
                raise ValueError(f"{path.partition('.')[2]}: {why}")
    except (csv.Error, ValueError) as error:
        raise ScenarioError(one_line(f"{name}: line {reader.line_num}: {error}")) from None
    return RuleSet("csv", tuple(rules), PolicyVerdict.DENY)


def _csv_rule(name: str, fields: list[str]) -> PolicyRule:
    if len(fields) != len(CSV_COLUMNS):
        raise ValueError(f"has {len(fields)} fields; {len(CSV_COLUMNS)} expected")
    protocol, source, source_port, target, port, action = fields
    if protocol != "ip" and protocol not in PROTOCOL_NUMBERS:
        raise ValueError(
            f"no protocol {protocol[:40]!a}; known are ip, {', '.join(PROTOCOL_NUMBERS)}"
        )
    if action not in CSV_ACTIONS:
        raise ValueError(f"no action {action[:40]!a}; known are {', '.join(CSV_ACTIONS)}")
    match = RuleMatch(
        _csv_segment(source),
        _csv_segment(target),
        None if protocol == "ip" else cast("Protocol", protocol),
        _csv_ports(source_port),
        _csv_ports(port),
    )
    return PolicyRule(name, RuleAction(CSV_ACTIONS[action]), match)


def _csv_segment(text: str) -> Segment:
    if text == "any":
        return Segment()
    if _ADDRESS.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!a} is no address or prefix; any is allowed, too")
    return Segment((text,))


def _csv_ports(text: str) -> tuple[PortRange, ...]:
    if text == "any":
        return ()
    found = _PORTS.fullmatch(text)
    if found is None or max(first := int(found[1]), last := int(found[2] or found[1])) > 65_535:
        raise ValueError(f"{text[:40]!a} is no port such as 80 or 80-90; any is allowed, too")
    return (PortRange(first, last),)
