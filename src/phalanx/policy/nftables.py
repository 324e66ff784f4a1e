"""Rules as nftables, and back: one table with one chain, whose rules carry ids as comments.

Text for ``nft -f``; what ``nft list ruleset`` prints of it is read, too, and so is what people
write within the same words. Times of the day are in UTC: nft reads and prints them in the zone of
its environment, so it has to run with ``TZ=UTC``.

Source: nft(8), 1.0.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Literal, TypeVar, get_args

from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.domain.flowspec import PORTS, IpVersion, Spans
from phalanx.loading import one_line
from phalanx.policy.boxes import UNIVERSE, merged, minus
from phalanx.policy.exchange import (
    DENY,
    PERMIT,
    FreeNames,
    NotExpressibleError,
    UnsaidError,
    collapsed,
    numbered,
    plain_only,
    refuse,
    simple_rules,
)
from phalanx.policy.overlaps import port_ranges, port_spans
from phalanx.policy.rules import (
    LAST_PORT,
    PROTOCOL_NUMBERS,
    WITH_PORTS,
    PolicyRule,
    PolicyVerdict,
    Protocol,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    Segment,
)

PREFIX = "policy_"
"""Before the name of a set, in that of its table: a name of ours may begin with a digit."""
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_STATES = {"new": "new", "established": "established,related"}
_NAMES: dict[str, Protocol] = {
    **{str(PROTOCOL_NUMBERS[name]): name for name in get_args(Protocol)},
    **{name: name for name in get_args(Protocol)},
    "ipv6-icmp": "icmpv6",
}
_PERMIT = PolicyVerdict.PERMIT
_T = TypeVar("_T")
_VERDICTS = {"accept": _PERMIT, "drop": PolicyVerdict.DENY}
_UNITS = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20}
_FAMILIES: dict[str, IpVersion | None] = {"inet": None, "ip": 4, "ip6": 6}
_FRAGMENT = "ip frag-off & 0x3fff"
_ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:/-]*)(?:: (.*))?")
_COMMENT = re.compile(r'("[^"\n]*")|#[^\n]*|\\(?=\n)')
_FILE = re.compile(
    r"\s*+(?:(?:add|delete|destroy|flush) (?:table|ruleset)[^\n]*+\n\s*+)*+"
    r"table\s++(?:(?P<family>inet|ip6?)\s++)?(?P<name>(?:policy_)?[A-Za-z0-9][\w.-]{0,63})\s*+\{\s*+"
    r"(?P<sets>(?:set\s++[^\s{}]++\s*+\{[^{}]*+\{[^{}]*+\}[^{}]*+\}\s*+)*+)"
    r"chain\s++[^\s{}]++\s*+\{\s*+type filter hook [^;{}]*+;\s*+"
    r"(?:policy (?P<policy>accept|drop)\s*+;)?(?P<rules>.*)\}\s*+\}\s*+",
    re.DOTALL | re.ASCII,
)
_SET = re.compile(
    r"set\s++([^\s{}]++)\s*+\{\s*+"
    r"(?:(?:type(?:of)? [\w ]++|flags (?:interval|constant)|auto-merge)[;\n]\s*+)*+"
    r"elements\s*+=\s*+(\{[^{}]*+\})"
)
_STATEMENT = re.compile(r'(?:\{[^{}]*+\}|"[^"\n]*+"|[^;\n{}"])++|[{}"]')
_TERM = re.compile(
    r"(?:(?P<key>ip6? [sd]addr|(?:tcp|udp|sctp|th) [sd]port|ip frag-off & 0x3fff|ip protocol"
    r"|meta (?:l4proto|nfproto|secpath|day|hour)|exthdr frag|ct state|limit rate over|comment)"
    r'(?: (?P<no>[!=]=))? (?P<value>\d+ [km]?bytes/second|\{[^{}]*\}|"[^"]*"(?:-"[^"]*")?'
    r'|(?!vmap)[^\s{}"]+)'
    r"|(?P<word>log|counter(?: packets \d+ bytes \d+)?|accept|drop))(?: |\Z)"
)
_NEGATED = re.compile(r"ip6? [sd]addr|\w+ [sd]port|ip frag-off & 0x3fff")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::00)?-([01]\d|2[0-3]):([0-5]\d):59", re.ASCII)
_PORT = re.compile(r"\d{1,5}(-\d{1,5})?", re.ASCII)


def to_nftables(rules: RuleSet, ipsec: bool = False) -> str:
    """Return a rule set as text for ``TZ=UTC nft -f``; symbols and scopes must be resolved.

    A rate is two rules: the kernel's bucket begins full, so in the first second up to twice the
    rate may pass. Fragments are seen before connection tracking puts them together.

    Args:
        rules: to be exported.
        ipsec: what is encrypted there is so by IPsec that ends at this host, and nothing else is.

    Raises:
        NotExpressibleError: with rule, field and reason.

    """
    said = "source_ports", "state", "fragment", "schedule", "rate_mb_s", "log"
    plain_only(rules, "nftables", *said, *["encrypted"] * ipsec)
    fragments = [rule for rule in rules.rules if rule.condition.fragment is not None]
    if fragments and any(rule.condition.state for rule in rules.rules):
        why = "nftables: where connections are tracked (condition.state) no fragment is seen"
        raise refuse(fragments[0], "condition.fragment", why)
    hook = "prerouting priority -450" if fragments else "forward priority 0"
    policy = "accept" if rules.default is PolicyVerdict.PERMIT else "drop"
    table = f"inet {PREFIX}{rules.name}"
    lines = [line for rule in simple_rules(rules, "nftables") for line in _lines(rule)]
    body = "".join(f"    {line}\n" for line in lines)
    return (
        f"# Times are in UTC: TZ=UTC nft -f FILE\n"
        f"add table {table}\ndelete table {table}\ntable {table} {{\n  chain rules {{\n"
        f"    type filter hook {hook}; policy {policy};\n{body}  }}\n}}\n"
    )


def _lines(rule: PolicyRule) -> Iterator[str]:
    match, condition, action = rule.match, rule.condition, rule.action
    terms = list(_where(rule))
    if match.protocol:
        terms.append(
            f"meta l4proto {'ipv6-icmp' if match.protocol == 'icmpv6' else match.protocol}"
        )
    for field, ports in (("sport", match.source_ports), ("dport", match.ports)):
        if ports:
            spans = (f"{a}-{b - 1}" if a < b - 1 else str(a) for a, b in port_spans(ports))
            terms.append(f"{match.protocol} {field} {_set(list(spans))}")
    if condition.state:
        terms.append(f"ct state {_STATES[condition.state]}")
    if condition.encrypted is not None:
        terms.append(f"meta secpath {'exists' if condition.encrypted else 'missing'}")
    days, start, end = rule.schedule.days, rule.schedule.start, rule.schedule.end
    if days:
        terms.append(f"meta day {_set([chr(34) + _DAYS[day] + chr(34) for day in days])}")
    if (start, end) != (0, 1440):
        last = end - 1
        terms.append(
            f'meta hour "{start // 60:02}:{start % 60:02}:00"-"{last // 60:02}:{last % 60:02}:59"'
        )
    about = f"{rule.id}: {rule.about}"
    fits = rule.about.isprintable() and '"' not in about and len(about.encode()) <= 127
    comment = f'comment "{about if rule.about and fits else rule.id}"'
    log = ["log"] if action.log else []
    if action.rate_mb_s is not None:
        octets = action.rate_mb_s * 1e6
        if not octets.is_integer() or octets >= 1 << 63:
            raise refuse(rule, "action.rate_mb_s", "nftables: a rate is a whole number of octets")
        over = f"limit rate over {int(octets)} bytes/second"
        yield " ".join((*terms, *log, over, "drop", comment))
        log = []
    verdict = "accept" if action.verdict is PolicyVerdict.PERMIT else "drop"
    yield " ".join((*terms, *log, verdict, comment))


def _where(rule: PolicyRule) -> Iterator[str]:
    sides = ("saddr", rule.match.source), ("daddr", rule.match.target)
    listed = [each for _, side in sides for each in (*side.addresses, *side.outside)]
    if not listed:
        return
    version = 6 if ":" in listed[0] else 4
    ip, whole = {4: "ip", 6: "ip6"}[version], UNIVERSE[version]
    if set(listed) == {whole}:
        yield f"{ip} saddr {whole}"  # nft does not list every meta nfproto that it was given
    for field, side in sides:
        if side.addresses and side.addresses != (whole,):
            yield f"{ip} {field} {_set(list(side.addresses))}"
        if side.outside:
            yield f"{ip} {field} != {_set(list(side.outside))}"
    if (fragment := rule.condition.fragment) is not None:
        if version == 4:
            yield f"ip frag-off & 0x3fff {'!=' if fragment else '=='} 0"
        else:
            yield f"exthdr frag {'exists' if fragment else 'missing'}"


def _set(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{{ {', '.join(values)} }}"


def from_nftables(text: str, name: str) -> RuleSet:
    """Return what a table with one chain decides; ``name`` stands for the text in errors.

    Raises:
        ScenarioError: with one line; names the line and the words that a rule cannot say.

    """
    text = _COMMENT.sub(lambda found: found[1] or " " * len(found[0]), text)
    file = _FILE.fullmatch(text)
    if file is None:
        raise ScenarioError(f"{name}: one table with sets and one chain with a hook is expected")
    sets = {each[1]: each[2] for each in _SET.finditer(file["sets"])}
    version: IpVersion | None = _FAMILIES[file["family"] or "ip"]
    default = _VERDICTS[file["policy"] or "accept"]
    rules: list[PolicyRule] = []
    held: PolicyRule | None = None
    taken = FreeNames()
    statement = None
    try:
        for statement in _STATEMENT.finditer(text, file.start("rules"), file.end("rules")):
            if not statement[0].isspace():
                held = _take(_terms(statement[0], sets), version, rules, taken, held)
        if held:
            raise UnsaidError("limit", "the same with accept has to follow")
    except (UnsaidError, NotExpressibleError) as error:
        line = text.count("\n", 0, statement.end() if statement else 0) + 1
        raise ScenarioError(one_line(f"{name}: line {line}: {error}")) from None
    if version and default is PolicyVerdict.DENY:  # what is of the other version passes
        rest = RuleMatch(source=Segment((UNIVERSE[version],)))
        rules, default = (
            [*rules, PolicyRule(taken.like("default", "-"), DENY, rest)],
            _PERMIT,
        )
    return RuleSet(file["name"].removeprefix(PREFIX), tuple(rules), default)


def _terms(text: str, sets: dict[str, str]) -> dict[str, list[str]]:
    """Return what a rule says, by words such as ``ip saddr !=``, with the values of each."""
    text = (
        " ".join(text.split()).replace("& 16383", "& 0x3fff").replace("meta ipsec", "meta secpath")
    )
    said: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None or ("verdict" in said and found["key"] != "comment"):
            raise UnsaidError(" ".join(text[at:].split()[:3]))
        key, value, word = found["key"], found["value"] or "", found["word"]
        if found["no"] == "!=":
            if not _NEGATED.fullmatch(key):
                raise UnsaidError(f"{key} !=")
            key += " !="
        if word and not word.startswith("counter"):
            key, value = ("log", "log") if word == "log" else ("verdict", word)
        if value.startswith("@"):
            if value[1:] not in sets:
                raise UnsaidError(value, "there is no such set with its elements")
            value = sets[value[1:]]
        if key in said:
            raise UnsaidError(key, "is given twice")
        if key == "comment":
            said[key] = [value.strip('"')]
        elif key:
            values = value.strip("{}").replace('"', "").replace(" - ", "-").split(",")
            said[key] = [each.strip() for each in values if each.strip()]
            if not said[key]:
                raise UnsaidError(key, "has no value")
        at = found.end()
    if "verdict" not in said:
        raise UnsaidError("rule", "has no verdict; accept and drop are read")
    return said


def _take(
    said: dict[str, list[str]],
    version: IpVersion | None,
    rules: list[PolicyRule],
    taken: FreeNames,
    held: PolicyRule | None,
) -> PolicyRule | None:
    """Add a rule to ``rules``; return one with a rate whose second half has to follow."""
    comment = said.get("comment", [""])[0]
    ids = _ID.fullmatch(comment)
    named, about = (ids[1], ids[2] or "") if ids and ids[1] not in taken.taken else ("", comment)
    log, limit = "log" in said, said.get("limit rate over")
    action = RuleAction(_VERDICTS[said["verdict"][0]], log=log)
    versions: set[IpVersion]
    versions = {6 if key[:3] in ("ip6", "ext") else 4 for key in said if key[:2] in ("ip", "ex")}
    versions |= set(_picked("meta nfproto", said, {"ipv4": 4, "ipv6": 6}))
    versions |= {version} if version else set()
    if len(versions) > 1:
        raise UnsaidError("ip and ip6", "one rule is about one of them")
    flags = {"exists": True, "1": True, "missing": False, "0": False}
    hidden, fragment = (
        _picked(key, said, flags)[0] if key in said else None
        for key in ("meta secpath", "exthdr frag")
    )
    for key in (_FRAGMENT, f"{_FRAGMENT} !="):
        if key in said:
            fragment = _picked(key, said, {"0": key.endswith("!=")})[0]
    states = sorted(said.get("ct state", []))
    if states not in ([], ["new"], ["established", "related"]):
        raise UnsaidError(f"ct state {','.join(states)}", "new, or established,related, is read")
    state: Literal["new", "established"] | None
    state = None if not states else "new" if len(states) == 1 else "established"
    protocols, match = _match(said, min(versions, default=None))
    condition = RuleCondition(state, hidden, fragment)
    title = named or (held.id if held else taken.like("rule", "-"))
    rule = PolicyRule(title, action, match, condition, _schedule(said), about=about)
    if limit:
        number, _, unit = limit[0].removesuffix("/second").partition(" ")
        if not number.isdecimal() or unit not in _UNITS:
            raise UnsaidError(f"limit rate over {limit[0]}", "N bytes/second is read")
        rate = int(number) * _UNITS[unit] / 1e6
        if held or action.verdict is _PERMIT or len(protocols) > 1:
            raise UnsaidError("limit", "limit rate over … drop is read, then the same with accept")
        held_action = RuleAction(_PERMIT, rate, log)
        return replace(rule, match=replace(match, protocol=protocols[0]), action=held_action)
    parts = [replace(rule, match=replace(match, protocol=each)) for each in protocols]
    if held:
        same = replace(parts[0], id=held.id, about=held.about, action=held.action)
        if same != held or action != PERMIT:
            raise UnsaidError("limit", "the same with accept has to follow")
        parts = [held]
    rules += numbered(rule, parts, taken, "a set of protocols")
    taken.taken.add(rules[-1].id)
    return None


def _picked(key: str, said: dict[str, list[str]], known: Mapping[str, _T]) -> list[_T]:
    for value in said.get(key, ()):
        if value not in known:
            raise UnsaidError(f"{key} {value}", f"known are {', '.join(known)}")
    return [known[value] for value in said.get(key, ())]


def _match(
    said: dict[str, list[str]], version: IpVersion | None
) -> tuple[list[Protocol | None], RuleMatch]:
    sides, ports, protocols = [], [], said.get("meta l4proto", said.get("ip protocol", []))
    for field in ("saddr", "daddr"):
        inside, outside = (
            tuple(_prefixes(said.get(f"ip {field}{no}", said.get(f"ip6 {field}{no}", [])), version))
            for no in ("", " !=")
        )
        pinned = (UNIVERSE[version],) if version and outside else ()
        sides.append(Segment(inside or pinned, outside))
    if version and not (sides[0].addresses or sides[1].addresses):
        sides[0] = Segment((UNIVERSE[version],))
    for field in ("sport", "dport"):
        spans: Spans = PORTS
        for key in [key for key in said if f" {field}" in key]:
            layer = key.split()[0]
            if layer != "th" and [_NAMES.get(p) for p in protocols or [layer]] != [layer]:
                raise UnsaidError(key, "needs its own protocol")
            protocols = protocols or [layer]
            found = _spans(said[key])
            spans = minus(PORTS, found) if key.endswith("!=") else found
        ports.append(port_ranges(spans))
    known: list[Protocol | None] = [*_picked("protocol", {"protocol": protocols}, _NAMES)] or [None]
    if any(ports) and not WITH_PORTS.issuperset(known):
        raise UnsaidError("th", "ports need the protocol tcp, udp or sctp")
    return known, RuleMatch(sides[0], sides[1], None, ports[0], ports[1])


def _schedule(said: dict[str, list[str]]) -> RuleSchedule:
    numbers = {str((day + 1) % 7): day for day in range(7)}
    named = {name: day for day, name in enumerate(_DAYS)}
    days = _picked("meta day", said, {**numbers, **named})
    hours = said.get("meta hour", ["00:00-23:59:59"])[0]
    found = _HOURS.fullmatch(hours)
    if found is None:
        raise UnsaidError(f"meta hour {hours}", 'whole minutes such as "08:00"-"17:59:59" are read')
    first, minute, last, end = map(int, found.groups())
    return RuleSchedule(tuple(sorted(set(days))), first * 60 + minute, last * 60 + end + 1)


def _prefixes(values: list[str], version: IpVersion | None) -> Iterator[str]:
    try:
        ends = [[ip_address(end) for end in value.split("-")] for value in values if "-" in value]
        spans = [str(n) for first, last in ends for n in summarize_address_range(first, last)]
        listed = [*spans, *(str(ip_network(value)) for value in values if "-" not in value)]
        if any((":" in each) != (version == 6) for each in listed):
            raise UnsaidError(", ".join(values), "one rule is about one IP version")
        found = collapsed(listed, version or 4)
    except (ValueError, TypeError):
        raise UnsaidError(", ".join(values), "prefixes without host bits are expected") from None
    yield from found


def _spans(values: list[str]) -> Spans:
    for value in values:
        if not _PORT.fullmatch(value) or any(int(end) > LAST_PORT for end in value.split("-")):
            raise UnsaidError(value, "a port is a number up to 65535")
    ends = [[int(end) for end in value.split("-")] for value in values]
    return merged((each[0], each[-1] + 1) for each in ends)
