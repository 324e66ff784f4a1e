"""Rules as BGP FlowSpec routes, as text and as octets, and back.

The text is what ExaBGP reads; rates are octets/s. Which route a packet meets first follows from
the routes alone (RFC 8955, 5.1), so rules whose order contradicts that are cut into disjoint ones.

Source: RFC 8955, 4 to 7; RFC 8956 for IPv6.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cmp_to_key
from ipaddress import ip_network
from itertools import islice, product, zip_longest
from typing import cast

from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.domain.flowspec import PORTS, PROTOCOLS, FlowMatch, IpVersion, Spans, limit_text
from phalanx.loading import one_line
from phalanx.policy.boxes import (
    UNIVERSE,
    VERSIONS,
    FieldBox,
    Undecided,
    cut,
    line,
    meet,
    merged,
    minus,
    prefixes,
    real,
)
from phalanx.policy.exchange import (
    DENY,
    PERMIT,
    FreeNames,
    UnsaidError,
    numbered,
    plain_only,
    refuse,
)
from phalanx.policy.overlaps import (
    ANY,
    EITHER,
    OrderedRules,
    RuleTranslator,
    port_ranges,
)
from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    PolicyRule,
    PolicyVerdict,
    Protocol,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSet,
    Segment,
    rule_offences,
)

MOST_ROUTES = 2_000
MOST_STEPS = 300_000
"""Of the search for a packet that rules and routes decide differently; then rules are cut."""
_FILE = re.compile(r"\s*+flow\s*+\{(?P<routes>.*)\}\s*+", re.DOTALL)
_ROUTE = re.compile(
    r"\s*+route\b[ \t]*+(?P<name>[^\s{};]*+)\s*+\{\s*+match\s*+\{(?P<match>[^{}]*+)\}"
    r"\s*+then\s*+\{(?P<then>[^{}]*+)\}\s*+\}\s*+"
)
_OPERATOR = re.compile(r"(>=|<=|!=|=|>|<|)(\w+)", re.ASCII)


class FlowRoute(FlowMatch, frozen=True, kw_only=True):
    """One FlowSpec route."""

    name: str
    action: RuleAction

    def box(self) -> FieldBox:
        """Return the packets that the route is about."""
        ends = (line((end or UNIVERSE[self.version],)) for end in (self.source, self.target))
        flag = EITHER if self.fragment is None else ((int(self.fragment), self.fragment + 1),)
        ports = self.source_ports, self.ports
        return (*ends, self.protocols, *ports, EITHER, EITHER, flag, *ANY[8:])


def precedence(one: FlowRoute, two: FlowRoute) -> int:
    """Return -1 if a packet meets the first route before the second, 1 if after (RFC 8955, 5.1)."""
    for mine, its in zip_longest(one.components(), two.components(), fillvalue=(256, b"")):
        if mine[0] != its[0]:
            return -1 if mine[0] < its[0] else 1
        if mine[1] == its[1]:
            continue
        if mine[0] > 2:
            size = min(len(mine[1]), len(its[1]))
            heads = mine[1][:size], its[1][:size]
            return (
                -1 if heads[0] < heads[1] or (heads[0] == heads[1] and len(mine[1]) > size) else 1
            )
        networks = [ip_network((r.target if mine[0] == 1 else r.source) or "") for r in (one, two)]
        longer = networks[0].prefixlen > networks[1].prefixlen
        lower = networks[0].network_address < networks[1].network_address  # type: ignore[operator]
        return -1 if (longer if networks[0].overlaps(networks[1]) else lower) else 1
    return 0


def flow_routes(rules: RuleSet) -> list[FlowRoute]:
    """Return routes that decide as the rules, in the order in which packets meet them.

    Raises:
        NotExpressibleError: with rule, field and reason.

    """
    plain_only(rules, "flowspec", "source_ports", "fragment", "rate_mb_s")
    for rule in rules.rules:
        if rule.match.protocol == "sctp" and (rule.match.ports or rule.match.source_ports):
            raise refuse(rule, "match.ports", "flowspec: ports are those of tcp and udp")
    rest = () if rules.default is PolicyVerdict.PERMIT else (PolicyRule("default", DENY),)
    translator = RuleTranslator()
    made = [(rule, translator.whole(rule)) for rule in (*rules.rules, *rest)]
    found = [route for whole in VERSIONS.values() for route in _ordered(made, whole)]
    if len(found) > MOST_ROUTES:
        raise refuse(None, "rules", f"flowspec: they need more than {MOST_ROUTES} routes")
    limited = Counter(route.name for route in found if route.action.rate_mb_s is not None)
    for rule in rules.rules:
        octets = (rule.action.rate_mb_s or 0) * 1e6
        if struct.unpack(">f", struct.pack(">f", min(octets, 1e38)))[0] != octets or octets % 1:
            why = f"flowspec: {octets:g} octets/s is no whole number that a float of 32 bit has"
            raise refuse(rule, "action.rate_mb_s", why)
        if limited[rule.id] > 1:
            why = f"flowspec needs {limited[rule.id]} routes, and each would have the whole rate"
            raise refuse(rule, "action.rate_mb_s", why)
    taken, total = FreeNames(), Counter(route.name for route in found)
    for place, route in enumerate(found):
        if total[route.name] > 1 or route.name in taken.taken:
            found[place] = replace(route, name=taken.like(route.name))
        taken.taken.add(found[place].name)
    return found


def _routes(rule: PolicyRule, box: FieldBox) -> Iterator[FlowRoute]:
    fragment = None if box[7] == EITHER else bool(box[7][0][0])
    for version, whole in VERSIONS.items():
        sides = (prefixes(meet(side, whole)) for side in box[:2])
        for source, target in product(*sides):
            ends = _ends(target, source, version)
            numbers = box[2], box[4], box[3]
            yield FlowRoute(version, *ends, *numbers, fragment, name=rule.id, action=rule.action)


def _ends(target: str, source: str, version: IpVersion) -> tuple[str | None, str | None]:
    """Return both prefixes, without one that says nothing; one has to tell the IP version."""
    whole = UNIVERSE[version]
    if source == whole:
        return target, None
    return None if target == whole else target, source


def _ordered(rules: list[tuple[PolicyRule, FieldBox]], version: Spans) -> list[FlowRoute]:
    """Return routes of one IP version in the order in which packets meet them.

    If that decides otherwise than the rules' order, what goes before is cut out of the rules.
    """
    made = [
        (rule, box)
        for rule, (source, *fields) in rules
        if (box := real((meet(source, version), *fields)))
    ]
    routes = _distinct(route for rule, box in made for route in _routes(rule, box))
    ordered = sorted(routes, key=cmp_to_key(precedence))
    if _decide_alike(routes, ordered):
        return ordered
    parts = (
        (rule, part)
        for at, (rule, box) in enumerate(made)
        if rule.action != PERMIT
        for part in cut(
            box,
            (
                earlier
                for other, earlier in made[:at]
                if other.action != rule.action or rule.action.rate_mb_s is not None
            ),
        )
    )
    routes = _distinct(route for rule, part in parts for route in _routes(rule, part))
    if any(r.fragment and (r.ports, r.source_ports) != (PORTS, PORTS) for r in routes):
        raise refuse(None, "order", "flowspec: it would need ports of later fragments")
    return sorted(routes, key=cmp_to_key(precedence))


def _distinct(routes: Iterator[FlowRoute]) -> list[FlowRoute]:
    """Return the first of all routes about the same packets, up to one more than are allowed."""
    found: dict[FieldBox, FlowRoute] = {}
    for route in islice(routes, 10 * MOST_ROUTES):
        found.setdefault(route.box(), route)
    return list(found.values())[: MOST_ROUTES + 1]


def _decide_alike(routes: list[FlowRoute], ordered: list[FlowRoute]) -> bool:
    """Whether routes decide the same in another order; False also where that is hard to say."""
    rank = {route: place for place, route in enumerate(ordered)}
    ranks = [rank[route] for route in routes]
    order = OrderedRules([PolicyRule(r.name, r.action) for r in routes], [r.box() for r in routes])
    turned = [
        (i, j)
        for one, other, _ in order.pairs()
        for i, j in zip(one.tolist(), other.tolist(), strict=True)
        if ranks[i] > ranks[j] and routes[i].action != routes[j].action
    ]
    steps = [MOST_STEPS]

    def met(i: int, j: int) -> bool:
        """Whether a packet meets i first in the one order, and j in the other."""
        return order.decided(i, j, lambda k: k < i or ranks[k] < ranks[j], steps) is not None

    try:
        return order.listed and not any(met(i, j) for i, j in turned)
    except Undecided:
        return False


def to_flowspec(rules: RuleSet) -> str:
    """Return routes for ExaBGP, as ``flow { route NAME { match {…} then {…} } }``.

    Raises:
        NotExpressibleError: as ``flow_routes``.

    """
    return "flow {\n" + "".join(_text(route) for route in flow_routes(rules)) + "}\n"


def _text(route: FlowRoute) -> str:
    then = "discard;" if route.action == DENY else "accept;"
    if route.action.rate_mb_s is not None:
        then = limit_text(int(route.action.rate_mb_s * 1e6))
    return f"  route {route.name} {{\n    match {{{route.text()} }}\n    then {{ {then} }}\n  }}\n"


def from_flowspec(text: str, name: str) -> RuleSet:
    """Return what routes decide, in the order in which packets meet them.

    Raises:
        ScenarioError: with one line; names the route and the words that a rule cannot say.

    """
    file = _FILE.fullmatch(text := re.sub(r"#[^\n]*", "", text))
    if file is None:
        raise ScenarioError(
            f"{name}: flow {{ route NAME {{ match {{…}} then {{…}} }} }} is expected"
        )
    pairs: list[tuple[FlowRoute, list[PolicyRule]]] = []
    at, taken, named = file.start("routes"), FreeNames(), set[str]()
    while text[at : file.end("routes")].strip():
        route = _ROUTE.match(text, at, file.end("routes"))
        if route is None:
            line = text.count("\n", 0, at) + 1
            raise ScenarioError(f"{name}: line {line}: route NAME {{ match … then … }} is expected")
        title = route["name"] or f"route-{len(pairs) + 1}"
        try:
            if title in named:
                raise UnsaidError(title, "another route has this name")
            named.add(title)
            read = _read_route(title, route["match"], route["then"])
            parts = _rules_of(read)
            pairs.append((read, list(numbered(parts[0], parts, taken, "a set of protocols"))))
        except (UnsaidError, ValueError) as error:
            raise ScenarioError(one_line(f"{name}: route {title[:40]}: {error}")) from None
        at = route.end()
    parts_of = {route.name: parts for route, parts in pairs}
    both = ([route for route, _ in pairs if route.version == version] for version in VERSIONS)
    routes = [route for each in both for route in sorted(each, key=cmp_to_key(precedence))]
    rules = RuleSet("flowspec", tuple(rule for each in routes for rule in parts_of[each.name]))
    for _, why in rule_offences(rules):
        raise ScenarioError(f"{name}: {why}")
    return rules


def _read_route(title: str, match: str, then: str) -> FlowRoute:
    if not re.fullmatch(r"[A-Za-z0-9][\w.:/-]{0,119}", title, re.ASCII):
        raise UnsaidError(title, "is no name for a rule")
    said: dict[str, list[str]] = {}
    for term in match.split(";"):
        key, *values = term.strip().replace("[", " ").replace("]", " ").split() or [""]
        if key and (key in said or not values):
            raise UnsaidError(key, "is given twice, or says nothing")
        said |= {"protocol" if key == "next-header" else key: values} if key else {}
    known = "destination", "source", "protocol", "destination-port", "source-port", "fragment"
    for key in said:
        if key not in known:
            raise UnsaidError(key)
    ends = [said.get(key, [""])[0] for key in known[:2]]
    version: IpVersion = 6 if any(":" in end for end in ends) else 4
    ends = [re.sub(r"(/\d+)/0\Z", r"\1", end) if version == 6 else end for end in ends]
    for end in filter(None, ends):
        if ip_network(end).version != version:
            raise UnsaidError(end, "is of the other IP version")
    kinds = ("protocol", PROTOCOLS), ("destination-port", PORTS), ("source-port", PORTS)
    spans = [_numbers(said[key], full) if key in said else full for key, full in kinds]
    if spans[1:] != [PORTS, PORTS] and "protocol" not in said:
        spans[0] = ((6, 7), (17, 18))  # RFC 8955, 4.2.2.5: ports are those of TCP and UDP
    flags = " ".join(sorted("&".join(sorted(e.split("&"))) for e in said.get("fragment", ())))
    fragments = {
        "": None,
        "first-fragment is-fragment": True,
        "!first-fragment&!is-fragment": False,
    }
    if flags not in fragments:
        raise UnsaidError(f"fragment {flags}")
    actions = [each.split() for each in then.split(";") if each.strip()]
    words = actions[0] if len(actions) == 1 else []
    if words[:1] == ["rate-limit"] and len(words) == 2 and words[1].isdecimal():
        rate = int(words[1]) / 1e6
        action = RuleAction(PolicyVerdict.PERMIT, rate) if rate else DENY
    elif words in (["discard"], ["accept"]):
        action = DENY if words == ["discard"] else PERMIT
    else:
        raise UnsaidError(then.strip(), "accept, discard or rate-limit N is read")
    target, source = (str(ip_network(end)) if end else None for end in ends)
    fields = target, source, spans[0], spans[1], spans[2], fragments[flags]
    return FlowRoute(version, *fields, name=title, action=action)


def _rules_of(route: FlowRoute) -> list[PolicyRule]:
    numbers = [n for span in route.protocols for n in range(*span)]
    names = {number: name for name, number in PROTOCOL_NUMBERS.items()}
    if not numbers or (route.protocols != PROTOCOLS and not names.keys() >= set(numbers)):
        raise UnsaidError("protocol", f"known are {', '.join(PROTOCOL_NUMBERS)}")
    chosen = [None] if route.protocols == PROTOCOLS else [names[number] for number in numbers]
    whole = UNIVERSE[route.version]
    target, source = _ends(route.target or whole, route.source or whole, route.version)
    ports = port_ranges(route.source_ports), port_ranges(route.ports)
    sides = (
        Segment((source,)) if source else Segment(),
        Segment((target,)) if target else Segment(),
    )
    condition = RuleCondition(fragment=route.fragment)
    return [
        PolicyRule(
            route.name,
            route.action,
            RuleMatch(*sides, cast(Protocol | None, each), *ports),
            condition,
        )
        for each in chosen
    ]


def _numbers(listed: list[str], full: Spans) -> Spans:
    found, top = cast(Spans, ()), full[0][1]
    for term in listed:
        numbers = full
        for each in term.split("&"):
            operator = _OPERATOR.fullmatch(each)
            text = str(PROTOCOL_NUMBERS.get(operator[2], operator[2])) if operator else ""
            if operator is None or not text.isdecimal() or int(text) >= top:
                raise UnsaidError(each, f"a number up to {top - 1} is expected")
            value, sign = int(text), operator[1]
            first = {">=": value, ">": value + 1, "<": 0, "<=": 0}.get(sign, value)
            after = {"<": value, ">": top, ">=": top}.get(sign, value + 1)
            span = merged(((first, after),))
            numbers = minus(numbers, span) if sign == "!=" else meet(numbers, span)
        found = merged((*found, *numbers))
    return found
