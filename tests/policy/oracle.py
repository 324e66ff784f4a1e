"""Conflicts of rules by their definitions: sets of packets, counted out one by one.

Nothing here is shared with ``phalanx.policy.conflicts``: ``matches`` says which packets of a
universe a rule is about, and the rest is arithmetic of sets. A universe has a packet in every
region that the rules tell apart: the bounds of all prefixes, ranges and times, in all
combinations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_network
from itertools import product

from hypothesis import strategies as st

from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    PolicyPacket,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSchedule,
    RuleScope,
    Segment,
    matches,
)

PREFIXES = (
    "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.7", "10.128.0.0/9", "192.168.0.0/16",
    "0.0.0.0/0", "255.255.255.255", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::1", "::/0",
)  # fmt: skip
RANGES = ((0, 0), (80, 80), (80, 90), (0, 1023), (1024, 65_535), (85, 2000), (65_535, 65_535))
SCHEDULES = (
    RuleSchedule(),
    RuleSchedule(start=22 * 60, end=6 * 60),
    RuleSchedule(days=(0, 1, 2, 3, 4), start=8 * 60, end=18 * 60),
    RuleSchedule(days=(6,)),
    RuleSchedule(days=(6,), start=23 * 60, end=60),
)
ACTIONS = (
    RuleAction(PolicyVerdict.PERMIT),
    RuleAction(PolicyVerdict.DENY),
    RuleAction(PolicyVerdict.DENY, log=True),
    RuleAction(PolicyVerdict.PERMIT, rate_mb_s=5.0),
)
OTHERS = ("protocol", "ports", "source_ports", "state", "encrypted", "fragment", "schedule",
          "slices", "pops")  # fmt: skip


@st.composite
def rule_sets(
    draw: st.DrawFn, most: int = 7, *, least: int = 0, scoped: bool = False
) -> tuple[PolicyRule, ...]:
    """Draw rules over addresses and two more fields; ``scoped``: slices, and one more."""
    pool = draw(st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=4, unique=True))
    varied = set(draw(st.lists(st.sampled_from(OTHERS), max_size=1 if scoped else 2, unique=True)))
    varied |= {"slices"} if scoped else set()
    actions = ACTIONS[: draw(st.sampled_from((2, 2, 4)))]
    count = draw(st.integers(least, most))
    return tuple(draw(_rules(f"r{n}", pool, varied, actions)) for n in range(count))


@st.composite
def _rules(draw, name, pool, varied, actions) -> PolicyRule:
    def some(kind, values):
        return draw(st.sampled_from(values)) if kind in varied else values[0]

    def names(kind, values):
        return tuple(draw(st.sets(st.sampled_from(values), max_size=2))) if kind in varied else ()

    def ranges(kind):
        wanted = kind in varied and protocol in {"tcp", "udp"}
        drawn = draw(st.lists(st.sampled_from(RANGES), max_size=2)) if wanted else []
        return tuple(PortRange(*each) for each in drawn)

    def segment():
        listed = draw(st.lists(st.sampled_from(pool), max_size=2))
        outside = draw(st.lists(st.sampled_from(pool), max_size=1)) if draw(_SELDOM) else []
        return Segment(tuple(listed), tuple(outside))

    ported = {"ports", "source_ports"} & varied
    protocol = (
        draw(st.sampled_from((None, "tcp", "tcp", "udp", "icmp")))
        if ported
        else some("protocol", (None, "tcp", "udp", "gre"))
    )
    return PolicyRule(
        name,
        draw(st.sampled_from(actions)),
        RuleMatch(segment(), segment(), protocol, ranges("source_ports"), ranges("ports")),
        RuleCondition(
            some("state", (None, "new", "established")),
            some("encrypted", (None, True, False)),
            some("fragment", (None, True, False)),
        ),
        some("schedule", SCHEDULES),
        RuleScope(names("slices", ("a", "b", "c")), names("pops", ("p", "q"))),
    )


_SELDOM = st.sampled_from((False, False, True))


def universe(rules: Iterable[PolicyRule]) -> list[PolicyPacket]:
    """Return packets of which each region that the rules tell apart has at least one."""
    rules = list(rules)
    sides = [
        _addresses(
            prefix for rule in rules for prefix in (*side(rule).addresses, *side(rule).outside)
        )
        for side in (lambda rule: rule.match.source, lambda rule: rule.match.target)
    ]
    ends = [(a, b) for a, b in product(*sides) if (":" in a) == (":" in b)]
    named = {PROTOCOL_NUMBERS[rule.match.protocol] for rule in rules if rule.match.protocol}
    scopes = [rule.scope for rule in rules]
    conditions = [rule.condition for rule in rules]
    choices = (
        [*sorted(named), 200],
        _bounds((p.first, p.last + 1) for rule in rules for p in rule.match.source_ports),
        _bounds((p.first, p.last + 1) for rule in rules for p in rule.match.ports),
        ("new", "established") if any(c.state for c in conditions) else ("new",),
        (False, True) if any(c.encrypted is not None for c in conditions) else (False,),
        (False, True) if any(c.fragment is not None for c in conditions) else (False,),
        _bounds(
            m for rule in rules if rule.schedule != RuleSchedule() for m in rule.schedule.minutes()
        ),
        ["", *sorted({name for scope in scopes for name in scope.slices})],
        ["", *sorted({name for scope in scopes for name in scope.pops})],
    )
    return [PolicyPacket(*pair, *rest) for pair in ends for rest in product(*choices)]


def _addresses(prefixes: Iterable[str]) -> list[str]:
    found = {"0.0.0.0", "::"}  # noqa: S104
    for text in prefixes:
        network = ip_network(text)
        found.add(str(network.network_address))
        if network.broadcast_address != ip_address(
            network.broadcast_address.__class__(2**network.max_prefixlen - 1)
        ):
            found.add(str(network.broadcast_address + 1))
    return sorted(found)


def _bounds(spans: Iterable[tuple[int, int]]) -> list[int]:
    ends = {0, *(end for span in spans for end in span)}
    return sorted(end for end in ends if end not in {65_536, 7 * 24 * 60})


@dataclass
class Oracle:
    """What a list of rules matches and decides in a universe of packets."""

    rules: Sequence[PolicyRule]
    packets: Sequence[PolicyPacket]

    def __post_init__(self) -> None:
        self.has = [
            frozenset(n for n, packet in enumerate(self.packets) if matches(rule, packet))
            for rule in self.rules
        ]

    def decided(self) -> list[RuleAction | None]:
        """Return by packet the action of the first rule that matches; None: the default's."""
        return [
            next((r.action for r, has in zip(self.rules, self.has, strict=True) if n in has), None)
            for n in range(len(self.packets))
        ]

    @cached_property
    def pairs(self) -> set[tuple[str, str, str]]:
        """Return (kind, rule at fault, other rule) of the conflicts of two rules."""
        found = set()
        for i, first in enumerate(self.rules):
            for j in range(i + 1, len(self.rules)):
                second, mine, its = self.rules[j], self.has[i], self.has[j]
                if not mine & its:
                    continue
                if first.action != second.action:
                    kind = (
                        "shadowing"
                        if its <= mine
                        else "generalisation"
                        if mine < its
                        else "correlation"
                    )
                    found.add((kind, second.id, first.id))
                elif its <= mine:
                    found.add(("redundancy", second.id, first.id))
                elif (
                    mine < its
                    and first.action.rate_mb_s is None
                    and not any(
                        self.rules[k].action != first.action and self.has[k] & mine
                        for k in range(i + 1, j)
                    )
                ):
                    found.add(("redundancy", first.id, second.id))
        return found | {
            ("void", rule.id, "") for rule, has in zip(self.rules, self.has, strict=True) if not has
        }

    def several(self) -> set[tuple[str, str]]:
        """Return (kind, rule) of what only several rules together make idle."""
        found, pairs = set(), self.pairs
        for j, rule in enumerate(self.rules):
            mine, before = self.has[j], self.has[:j]
            left = mine.difference(*before)
            if not mine or any(mine <= each for each in before):
                continue
            if not left:
                deciders = {self._first(n, 0).action for n in mine}
                found.add(("redundancy" if deciders == {rule.action} else "shadowing", rule.id))
                continue
            later = [self._first(n, j + 1) for n in left]
            same = all(each is not None and each.action == rule.action for each in later)
            reported = any(kind == "redundancy" and r == rule.id for kind, r, _ in pairs)
            if same and rule.action.rate_mb_s is None and not reported:
                found.add(("redundancy", rule.id))
        return found

    def _first(self, packet: int, begin: int) -> PolicyRule | None:
        return next(
            (self.rules[k] for k in range(begin, len(self.rules)) if packet in self.has[k]), None
        )
