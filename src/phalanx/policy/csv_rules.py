"""Firewall rules as lines of CSV, in order: protocol,src,s_port,dst,d_port,action.

``ip`` is any protocol, and ``any`` any port. Nothing else is read into a line: what a field does
not say plainly is refused.
"""

from __future__ import annotations

import csv
import re
from typing import cast

from phalanx.domain.errors import ScenarioError
from phalanx.loading import one_line
from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    Protocol,
    RuleAction,
    RuleMatch,
    RuleSet,
    Segment,
    rule_offences,
)

COLUMNS = ["protocol", "src", "s_port", "dst", "d_port", "action"]
ACTIONS = {
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

    ``name`` stands for the file in errors. What no rule matches is denied.

    Raises:
        ScenarioError: with one line ``FILE: line N: what is wrong; what is allowed``.

    """
    rules: list[PolicyRule] = []
    reader = csv.reader(text.splitlines(), skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            fields = [cell.strip() for cell in cells]
            if reader.line_num == 1 and fields != COLUMNS:
                raise ValueError(f"the first line has to be {','.join(COLUMNS)}")
            if not any(fields) or reader.line_num == 1:
                continue
            rules.append(_rule(f"r{len(rules) + 1}", fields))
            for path, why in rule_offences(RuleSet("line", (rules[-1],))):
                raise ValueError(f"{path.partition('.')[2]}: {why}")
    except (csv.Error, ValueError) as error:
        raise ScenarioError(one_line(f"{name}: line {reader.line_num}: {error}")) from None
    return RuleSet("csv", tuple(rules), PolicyVerdict.DENY)


def _rule(name: str, fields: list[str]) -> PolicyRule:
    if len(fields) != len(COLUMNS):
        raise ValueError(f"has {len(fields)} fields; {len(COLUMNS)} expected")
    protocol, source, source_port, target, port, action = fields
    if protocol != "ip" and protocol not in PROTOCOL_NUMBERS:
        raise ValueError(
            f"no protocol {protocol[:40]!a}; known are ip, {', '.join(PROTOCOL_NUMBERS)}"
        )
    if action not in ACTIONS:
        raise ValueError(f"no action {action[:40]!a}; known are {', '.join(ACTIONS)}")
    match = RuleMatch(
        _segment(source),
        _segment(target),
        None if protocol == "ip" else cast("Protocol", protocol),
        _ports(source_port),
        _ports(port),
    )
    return PolicyRule(name, RuleAction(ACTIONS[action]), match)


def _segment(text: str) -> Segment:
    if text == "any":
        return Segment()
    if _ADDRESS.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!a} is no address or prefix; any is allowed, too")
    return Segment((text,))


def _ports(text: str) -> tuple[PortRange, ...]:
    if text == "any":
        return ()
    found = _PORTS.fullmatch(text)
    if found is None or max(first := int(found[1]), last := int(found[2] or found[1])) > 65_535:
        raise ValueError(f"{text[:40]!a} is no port such as 80 or 80-90; any is allowed, too")
    return (PortRange(first, last),)
