"""Random rule sets, and packets at the edges of what they name."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    WITH_PORTS,
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
)

PREFIXES = {
    4: ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "192.0.2.128/25", "0.0.0.0/0"),
    6: ("2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::7/128", "::/0"),
}
ALL = (*PREFIXES[4], *PREFIXES[6])
PORTS = ((22, 22), (80, 80), (80, 443), (444, 8080), (50_001, 65_535), (65_535, 65_535))


def segments(listed: tuple[str, ...] = ALL, outside: bool = True) -> st.SearchStrategy[Segment]:
    some = st.lists(st.sampled_from(listed), max_size=2, unique=True).map(tuple)
    holes = some if outside else st.just(())
    return st.one_of(st.just(Segment()), st.builds(Segment, some, holes))


PORT_LISTS = st.lists(st.sampled_from(PORTS).map(lambda p: PortRange(*p)), max_size=2).map(tuple)


@st.composite
def matches(
    draw: st.DrawFn, protocols: tuple[str | None, ...] = (), outside: bool = True
) -> RuleMatch:
    protocol = draw(st.sampled_from(protocols or (None, *PROTOCOL_NUMBERS)))
    sides = segments(outside=outside)
    ports = draw(PORT_LISTS) if protocol in WITH_PORTS else ()
    source_ports = draw(PORT_LISTS) if protocol in WITH_PORTS else ()
    return RuleMatch(draw(sides), draw(sides), protocol, source_ports, ports)


SCHEDULES = st.sampled_from(
    (
        RuleSchedule(),
        RuleSchedule((0, 6)),
        RuleSchedule((), 8 * 60, 18 * 60),
        RuleSchedule((6,), 23 * 60, 60),
        RuleSchedule((5, 2, 2), 0, 1),
    )
)
ACTIONS = st.sampled_from(
    (
        RuleAction(PolicyVerdict.PERMIT),
        RuleAction(PolicyVerdict.DENY),
        RuleAction(PolicyVerdict.PERMIT, log=True),
    )
)
FLAGS = st.sampled_from((None, None, True, False))
CONDITIONS = st.builds(
    RuleCondition, st.sampled_from((None, None, "new", "established")), FLAGS, FLAGS
)
SCOPES = st.sampled_from((RuleScope(), RuleScope(("iot",)), RuleScope((), ("p1",))))


@st.composite
def rule_sets(draw: st.DrawFn, most: int = 6, **fields: st.SearchStrategy) -> RuleSet:
    """Rule sets; of a rule what ``fields`` has a strategy for, and plain actions."""
    fields = {"match": matches(), "action": ACTIONS, **fields}
    made = draw(st.lists(st.fixed_dictionaries(fields), max_size=most))
    rules = tuple(PolicyRule(id=f"r{at}", **each) for at, each in enumerate(made))
    return RuleSet("some", rules, draw(st.sampled_from(PolicyVerdict)))


def edges(rules: RuleSet) -> dict[str, list]:
    """Values at the edges of everything that rules name, and beside them."""
    found: dict[str, set] = {
        "source": {"198.51.100.1", "2001:db9::1"},
        "target": {"198.51.100.2", "2001:db9::2"},
        "port": {0, 5},
        "source_port": {0, 5},
    }
    for rule in rules.rules:
        for side in ("source", "target"):
            segment = getattr(rule.match, side)
            for each in (*segment.addresses, *segment.outside):
                network = ip_network(each)
                top = (1 << network.max_prefixlen) - 1
                for number in (int(network[0]), int(network[-1])):
                    for beside in (number - 1, number, number + 1):
                        if 0 <= beside <= top:
                            found[side].add(str(type(network[0])(beside)))
        for field, ports in (("port", rule.match.ports), ("source_port", rule.match.source_ports)):
            for span in ports:
                for beside in (span.first - 1, span.first, span.last, span.last + 1):
                    if 0 <= beside <= 65_535:
                        found[field].add(beside)
    return {field: sorted(values, key=str) for field, values in found.items()}


@st.composite
def packets(draw: st.DrawFn, rules: RuleSet, **fixed: object) -> PolicyPacket:
    at = edges(rules)
    source = draw(st.sampled_from(at["source"]))
    version = ip_address(source).version
    targets = [each for each in at["target"] if ip_address(each).version == version]
    protocol = draw(st.sampled_from((*PROTOCOL_NUMBERS.values(), 2)))
    ported = protocol in (6, 17, 132)
    packet = PolicyPacket(
        source,
        draw(st.sampled_from(targets)),
        protocol,
        draw(st.sampled_from(at["source_port"])) if ported else 0,
        draw(st.sampled_from(at["port"])) if ported else 0,
        draw(st.sampled_from(("new", "established"))),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from((0, 59, 60, 479, 480, 1079, 1080, 2880, 7200, 8640, 10_019, 10_079))),
        draw(st.sampled_from(("", "iot"))),
        draw(st.sampled_from(("", "p1"))),
    )
    return replace(packet, **fixed)
