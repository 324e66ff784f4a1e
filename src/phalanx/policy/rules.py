"""Policy rules: which packets may pass, under what condition, when, and where that is enforced.

One model for everything that makes or reads rules: intents, imported files, the analysis of
conflicts, exports, and what agents enforce. A rule set is ordered: the first rule that matches
decides, and the set's default decides about the rest. ``decide`` is that sentence as code.

Source: seed 004, 3.1 (security policies of a slice: isolation, encryption, access control); RFC
3198 (policy: condition and action); RFC 8519 for the fields of a match.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.loading import Name, Offence, show, twice, unknown

IpNetwork = IPv4Network | IPv6Network
Protocol = Literal["tcp", "udp", "sctp", "icmp", "icmpv6", "gre", "esp"]
PROTOCOL_NUMBERS: dict[str, int] = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "icmpv6": 58,
    "sctp": 132,
}
"""IP protocol numbers (IANA) of the protocols that rules can name."""
WITH_PORTS = frozenset({"tcp", "udp", "sctp"})
LAST_PORT = 65_535
WEEK_MINUTES = 7 * 24 * 60

Cidr = Annotated[str, Meta(pattern=r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?\Z", max_length=64)]
"""An IPv4 or IPv6 address, or a prefix such as 10.0.0.0/8 without host bits."""
RuleId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*\Z", max_length=128)]


class PolicyVerdict(Enum):
    """What becomes of a packet that a rule matches."""

    PERMIT = "permit"
    DENY = "deny"


class Segment(Struct, frozen=True, forbid_unknown_fields=True):
    """One side of the traffic: a packet's source or target. Nothing given: any address.

    Everything given must hold: an address in one of ``addresses`` that is in none of ``outside``
    and belongs to a member of ``slice``, or to a workload with all of ``labels`` and without what
    ``labels_not_in`` leaves out.
    """

    addresses: Annotated[tuple[Cidr, ...], Meta(max_length=100_000)] = ()
    """Prefixes, one of them; empty: any."""
    outside: Annotated[tuple[Cidr, ...], Meta(max_length=100_000)] = ()
    """Prefixes that are left out."""
    slice: Annotated[str, Meta(max_length=64)] = ""
    """Name of a network slice, of which the address is a member; empty: any."""
    labels: Annotated[dict[str, str], Meta(max_length=64)] = {}
    """What the workload with the address is labelled with (Kubernetes)."""
    labels_not_in: Annotated[dict[str, tuple[str, ...]], Meta(max_length=64)] = {}
    """By label, values that the workload does not have; a label without values: any workload."""

    @property
    def symbolic(self) -> bool:
        """Whether an inventory is needed to say which addresses are meant."""
        return bool(self.slice or self.labels or self.labels_not_in)


class PortRange(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Ports from ``first`` to ``last``, both included."""

    first: Annotated[int, Meta(ge=0, le=LAST_PORT)]
    last: Annotated[int, Meta(ge=0, le=LAST_PORT)]


class RuleMatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Which packets a rule is about, by their headers. Fields not given: any."""

    source: Segment = Segment()
    target: Segment = Segment()
    protocol: Protocol | None = None
    source_ports: Annotated[tuple[PortRange, ...], Meta(max_length=4096)] = ()
    """One of them; empty: any. Ports need a protocol that has them."""
    ports: Annotated[tuple[PortRange, ...], Meta(max_length=4096)] = ()
    """Ports at the target, one of them; empty: any."""


class RuleCondition(Struct, frozen=True, forbid_unknown_fields=True):
    """What has to hold beside the match. None: either."""

    state: Literal["new", "established"] | None = None
    """Whether the packet begins a connection, or belongs to one that was permitted."""
    encrypted: bool | None = None
    """Whether it is on the wire inside IPsec, WireGuard, TLS or QUIC."""
    fragment: bool | None = None
    """Whether it is a fragment of an IP packet."""


class RuleAction(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of what matches."""

    verdict: PolicyVerdict
    rate_mb_s: Annotated[float, Meta(gt=0)] | None = None
    """At most so much (MB/s) is permitted; None: all of it."""
    log: bool = False
    """Whether each packet is to be recorded."""


class RuleSchedule(Struct, frozen=True, forbid_unknown_fields=True):
    """When a rule holds, in UTC. Nothing given: always."""

    days: Annotated[tuple[Annotated[int, Meta(ge=0, le=6)], ...], Meta(max_length=7)] = ()
    """Weekdays, 0 is Monday; empty: all."""
    start: Annotated[int, Meta(ge=0, lt=24 * 60)] = 0
    """Minute of the day from which it holds."""
    end: Annotated[int, Meta(gt=0, le=24 * 60)] = 24 * 60
    """Minute of the day until which it holds, not included. Before ``start``: over midnight."""

    def minutes(self) -> Iterator[tuple[int, int]]:
        """Yield the minutes of the week in which it holds, as [first, after last)."""
        for day in sorted(set(self.days)) or range(7):
            begin = day * 1440
            if self.start < self.end:
                yield begin + self.start, begin + self.end
                continue
            yield begin + self.start, begin + 1440
            if self.end and self.start != self.end:
                after = (begin + 1440) % WEEK_MINUTES
                yield after, after + self.end


class RuleScope(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a rule is enforced. Nothing given: everywhere."""

    slices: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()
    """At the functions of these network slices."""
    pops: Annotated[tuple[Name, ...], Meta(max_length=10_000)] = ()
    """At these points of presence."""


class PolicyRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One rule of a policy."""

    id: RuleId
    action: RuleAction
    match: RuleMatch = RuleMatch()
    condition: RuleCondition = RuleCondition()
    schedule: RuleSchedule = RuleSchedule()
    scope: RuleScope = RuleScope()
    intent: Annotated[str, Meta(max_length=128)] = ""
    """Name of the intent that it follows from; empty: none."""
    about: Annotated[str, Meta(max_length=1000)] = ""


class RuleSet(Struct, frozen=True, forbid_unknown_fields=True):
    """Rules in order: the first that matches decides, else ``default``."""

    name: Name
    rules: Annotated[tuple[PolicyRule, ...], Meta(max_length=1_000_000)] = ()
    default: PolicyVerdict = PolicyVerdict.PERMIT


class PolicyPacket(Struct, frozen=True):
    """What rules can see of a packet, and where and when it is seen."""

    source: str
    target: str
    protocol: int = 6
    """IP protocol number."""
    source_port: int = 0
    port: int = 0
    """At the target."""
    state: Literal["new", "established"] = "new"
    encrypted: bool = False
    fragment: bool = False
    minute: int = 0
    """Minute of the week in UTC, 0 is Monday 00:00."""
    slice: str = ""
    """Slice at whose function it is seen; empty: at none."""
    pop: str = ""
    """PoP at which it is seen; empty: not known."""


class LabelledWorkload(Struct, frozen=True, forbid_unknown_fields=True):
    """Something with addresses that a label or a slice can name."""

    name: Name
    addresses: Annotated[tuple[Cidr, ...], Meta(min_length=1, max_length=10_000)]
    labels: Annotated[dict[str, str], Meta(max_length=64)] = {}


class PolicyInventory(Struct, frozen=True, forbid_unknown_fields=True):
    """What symbolic segments stand for: members of slices and workloads, by their addresses."""

    slices: dict[str, tuple[Cidr, ...]] = {}
    """Prefixes of the members of each slice."""
    workloads: tuple[LabelledWorkload, ...] = ()

    def resolve(self, rules: RuleSet) -> RuleSet:
        """Return the rules with addresses in place of slices and labels.

        A symbolic segment that nothing belongs to makes its rule match nothing, so the rule is
        left out.
        """
        resolved = []
        for rule in rules.rules:
            source, target = self._members(rule.match.source), self._members(rule.match.target)
            if source is not None and target is not None:
                resolved.append(
                    replace(rule, match=replace(rule.match, source=source, target=target))
                )
        return replace(rules, rules=tuple(resolved))

    def _members(self, segment: Segment) -> Segment | None:
        if not segment.symbolic:
            return segment
        found: list[IpNetwork] | None = None
        if segment.slice:
            found = [ip_network(each) for each in self.slices.get(segment.slice, ())]
        if segment.labels or segment.labels_not_in:
            wanted, left_out = segment.labels.items(), segment.labels_not_in.items()
            labelled = [
                ip_network(address)
                for workload in self.workloads
                if wanted <= workload.labels.items()
                and not any(workload.labels.get(key) in values for key, values in left_out)
                for address in workload.addresses
            ]
            found = labelled if found is None else list(_common(found, labelled))
        if segment.addresses:
            listed = [ip_network(each) for each in segment.addresses]
            found = list(_common(found or [], listed))
        if not found:
            return None
        return Segment(tuple(str(each) for each in dict.fromkeys(found)), segment.outside)


def decide(rules: RuleSet, packet: PolicyPacket) -> tuple[RuleAction, PolicyRule | None]:
    """Return what becomes of a packet, and the rule that decides; None: the set's default.

    Symbolic segments must have been resolved (``PolicyInventory.resolve``). It reads rule by
    rule: it is the definition that faster readers are held against.
    """
    for rule in rules.rules:
        if matches(rule, packet):
            return rule.action, rule
    return RuleAction(rules.default), None


def matches(rule: PolicyRule, packet: PolicyPacket) -> bool:
    """Whether a rule is about a packet, where and when that is seen."""
    match, condition, scope = rule.match, rule.condition, rule.scope
    return (
        (match.protocol is None or PROTOCOL_NUMBERS[match.protocol] == packet.protocol)
        and _within(match.source, packet.source)
        and _within(match.target, packet.target)
        and _one_of(match.source_ports, packet.source_port)
        and _one_of(match.ports, packet.port)
        and condition.state in (None, packet.state)
        and condition.encrypted in (None, packet.encrypted)
        and condition.fragment in (None, packet.fragment)
        and any(first <= packet.minute < after for first, after in rule.schedule.minutes())
        and (not scope.slices or packet.slice in scope.slices)
        and (not scope.pops or packet.pop in scope.pops)
    )


def rule_offences(rules: RuleSet, slices: Iterable[str] | None = None) -> Iterator[Offence]:
    """Yield everything in a rule set that does not fit together.

    Args:
        rules: typed as the schema has it.
        slices: names of the slices that there are; None: not known here.

    """
    yield from twice("rules", (rule.id for rule in rules.rules), ".id")
    known = None if slices is None else list(slices)
    for index, rule in enumerate(rules.rules):
        for path, why in (*_match_offences(rule.match), *_other_offences(rule)):
            yield f"rules[{index}].{path}", why
        named = [(f"match.{side}.slice", segment.slice) for side, segment in _sides(rule.match)]
        named += [(f"scope.slices[{i}]", name) for i, name in enumerate(rule.scope.slices)]
        for path, name in named:
            if known is not None and name and name not in known:
                yield f"rules[{index}].{path}", unknown("slice", name, known)


def _sides(match: RuleMatch) -> tuple[tuple[str, Segment], ...]:
    return ("source", match.source), ("target", match.target)


def _match_offences(match: RuleMatch) -> Iterator[Offence]:
    for side, segment in _sides(match):
        for kind, listed in (("addresses", segment.addresses), ("outside", segment.outside)):
            for place, text in enumerate(listed):
                if why := _wrong_prefix(text):
                    yield f"match.{side}.{kind}[{place}]", why
    for kind, ports in (("source_ports", match.source_ports), ("ports", match.ports)):
        if ports and match.protocol not in WITH_PORTS:
            yield f"match.{kind}", "ports need the protocol tcp, udp or sctp"
        for place, each in enumerate(ports):
            if each.first > each.last:
                why = f"the first port {each.first} is above the last, {each.last}"
                yield f"match.{kind}[{place}]", why


def _other_offences(rule: PolicyRule) -> Iterator[Offence]:
    if rule.action.verdict is PolicyVerdict.DENY and rule.action.rate_mb_s is not None:
        yield "action.rate_mb_s", "what is denied has no rate; permit it with a rate"
    if rule.schedule.start == rule.schedule.end:
        yield "schedule.end", "a rule that ends when it starts never holds"


def _wrong_prefix(text: str) -> str:
    try:
        ip_network(text)
    except ValueError as error:
        hint = "; host bits are set" if "host bits" in str(error) else ""
        return f"{show(text)} is no IPv4 or IPv6 prefix{hint}"
    return ""


def _common(left: Iterable[IpNetwork], right: Iterable[IpNetwork]) -> Iterator[IpNetwork]:
    """Yield the prefixes that both sides have: of two prefixes one contains the other, or none."""
    others = list(right)
    for one in left:
        for other in others:
            if one.version == other.version and one.overlaps(other):
                yield max(one, other, key=lambda each: each.prefixlen)


_address = lru_cache(maxsize=4096)(ip_address)
_prefix = lru_cache(maxsize=4096)(ip_network)


def _within(segment: Segment, address: str) -> bool:
    at = _address(address)
    if segment.addresses and not any(at in _prefix(each) for each in segment.addresses):
        return False
    return not any(at in _prefix(each) for each in segment.outside)


def _one_of(ranges: tuple[PortRange, ...], port: int) -> bool:
    return not ranges or any(each.first <= port <= each.last for each in ranges)
