"""Which packets two ordered rule sets decide differently, exactly; boxes of packets.

A box has a set of numbers in each dimension (addresses, protocol, ports, …). ``regions`` cuts the
space along the edges of boxes, one dimension after the other, and goes on with the boxes that are
left in each slice; slices with the same boxes are worked on once (a firewall decision diagram).

Source: Gouda, Liu, "Structured firewall design", Computer Networks 51 (2007), 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Literal, TypeVar

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.policy.rules import (
    LAST_PORT,
    PROTOCOL_NUMBERS,
    WEEK_MINUTES,
    PolicyPacket,
    PolicyRule,
    PortRange,
    RuleAction,
    RuleSet,
    Segment,
)

Ranges = tuple[tuple[int, int], ...]
"""Whole numbers from first to last, both included; in order, with gaps between them."""
Box = tuple[Ranges, ...]
"""A set of numbers in each dimension."""
IpVersion = Literal[4, 6]
VERSIONS: tuple[IpVersion, ...] = (4, 6)
UNIVERSE = {4: "0.0.0.0/0", 6: "::/0"}
MOST_STEPS = 3_000_000
"""Slices and parts of regions after which a comparison is given up (some seconds)."""
_BOTH: Ranges = ((0, 1),)

T = TypeVar("T", bound=Hashable)


class OverlapLimitError(PhalanxError):
    """Rules overlap in too many ways to be worked out exactly."""


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the numbers that are in any of the ranges."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return tuple(found)


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """Return the numbers of ``ranges`` that are not in ``removed``."""
    left: list[tuple[int, int]] = []
    for first, last in ranges:
        for begin, end in removed:
            if end < first or begin > last:
                continue
            if begin > first:
                left.append((first, begin - 1))
            first = end + 1  # noqa: PLW2901  # what is left of the range
        if first <= last:
            left.append((first, last))
    return tuple(left)


def prefix_ranges(prefixes: Iterable[str], version: IpVersion) -> Ranges:
    """Return the addresses of the prefixes of one IP version as numbers."""
    networks = (ip_network(each) for each in prefixes)
    return merged((int(n[0]), int(n[-1])) for n in networks if n.version == version)


def prefixes(ranges: Ranges, version: IpVersion) -> tuple[str, ...]:
    """Return the fewest prefixes with exactly these addresses."""
    make = type(ip_address(UNIVERSE[version][:-2]))
    return tuple(
        str(each)
        for first, last in ranges
        for each in summarize_address_range(make(first), make(last))
    )


def addresses(segment: Segment, version: IpVersion) -> Ranges:
    """Return the addresses that a segment without slice and labels means."""
    listed = segment.addresses or (UNIVERSE[version],)
    inside = prefix_ranges(listed, version)
    return without(inside, prefix_ranges(segment.outside, version))


def port_ranges(ports: Iterable[PortRange]) -> Ranges:
    """Return ports as numbers; none given: all."""
    return merged((each.first, each.last) for each in ports) or ((0, LAST_PORT),)


def regions(
    sets: Sequence[Sequence[Box]], full: Box, leaf: Callable[[tuple[int, ...]], T | None]
) -> tuple[tuple[Box, T], ...]:
    """Return disjoint boxes, with what ``leaf`` says of them; without those of which it says None.

    Args:
        sets: boxes in order.
        full: all there is.
        leaf: given the index of the first box of each set that has the point; its length: none.

    Raises:
        OverlapLimitError: after ``MOST_STEPS``.

    """
    sizes, last = [len(boxes) for boxes in sets], len(full)
    open_from = [
        [next((d + 1 for d in reversed(range(last)) if box[d] != full[d]), 0) for box in boxes]
        for boxes in sets
    ]
    known: dict[tuple[int, tuple[tuple[int, ...], ...]], tuple[tuple[Box, T], ...]] = {}
    steps = 0

    def heads(live: Sequence[set[int]], dim: int) -> tuple[tuple[int, ...], ...]:
        kept = []
        for which, indices in enumerate(live):
            ordered = sorted(indices)
            opens = (at for at, i in enumerate(ordered) if open_from[which][i] <= dim)
            kept.append(tuple(ordered[: next(opens, len(ordered)) + 1]))
        return tuple(kept)

    def walk(dim: int, active: tuple[tuple[int, ...], ...]) -> tuple[tuple[Box, T], ...]:
        nonlocal steps
        if (dim, active) in known:
            return known[dim, active]
        firsts = tuple(a[0] if a else size for a, size in zip(active, sizes, strict=True))
        if all(not a or open_from[w][a[0]] <= dim for w, a in enumerate(active)):
            value = leaf(firsts)
            return () if value is None else ((full[dim:], value),)
        events: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for which, indices in enumerate(active):
            for index in indices:
                for first, end in sets[which][index][dim]:
                    events[first].append((which, index))
                    events[end + 1].append((which, ~index))
        live: list[set[int]] = [set() for _ in sets]
        children: dict[tuple[tuple[Box, T], ...], list[tuple[int, int]]] = defaultdict(list)
        edges = sorted({*events, *(first for first, _ in full[dim])})
        top = full[dim][-1][1]
        for edge, after in zip(edges, (*edges[1:], top + 1), strict=True):
            for which, index in sorted(events[edge], key=lambda each: each[1] >= 0):
                if index < 0:
                    live[which].discard(~index)
                else:
                    live[which].add(index)
            if edge > top or not any(first <= edge <= end for first, end in full[dim]):
                continue
            child = walk(dim + 1, heads(live, dim + 1))
            steps += 1 + len(child) + sum(map(len, live))
            if steps > MOST_STEPS:
                raise OverlapLimitError("the rules overlap in too many ways to be compared exactly")
            children[child].append((edge, after - 1))
        result = tuple(
            ((merged(ranges), *rest), value)
            for child, ranges in children.items()
            for rest, value in child
        )
        known[dim, active] = result
        return result

    return walk(0, heads([set(range(size)) for size in sizes], 0))


class DecisionDifference(Struct, frozen=True):
    """Packets that two rule sets decide differently, as one of them shows."""

    witness: PolicyPacket
    left: RuleAction
    left_rule: str
    """Id of the rule that decides; empty: the set's default."""
    right: RuleAction
    right_rule: str


def differences(left: RuleSet, right: RuleSet) -> list[DecisionDifference]:
    """Return where two rule sets differ: one witness for each pair of rules that decide.

    Symbolic segments must have been resolved. Exact: nothing returned means that every packet has
    the same action in both.

    Raises:
        OverlapLimitError: if there are too many overlaps.

    """
    both = left, right
    slices, pops = (
        ["", *sorted({n for rules in both for r in rules.rules for n in getattr(r.scope, field)})]
        for field in ("slices", "pops")
    )

    def action(which: int, index: int) -> tuple[RuleAction, str]:
        rules = both[which]
        if index == len(held[which]):
            return RuleAction(rules.default), ""
        return held[which][index].action, held[which][index].id

    def leaf(firsts: tuple[int, ...]) -> tuple[int, int] | None:
        same = action(0, firsts[0])[0] == action(1, firsts[1])[0]
        return None if same else (firsts[0], firsts[1])

    found: dict[tuple[str, str], DecisionDifference] = {}
    for version in VERSIONS:
        full = _space(version, slices, pops)
        boxed = [
            [(r, box) for r in rules.rules if all(box := _box(r, full, version, slices, pops))]
            for rules in both
        ]
        held = [[rule for rule, _ in rules] for rules in boxed]
        for box, pair in regions([[b for _, b in rules] for rules in boxed], full, leaf):
            (one, one_id), (two, two_id) = action(0, pair[0]), action(1, pair[1])
            witness = _packet([ranges[0][0] for ranges in box], version, slices, pops)
            found.setdefault(
                (one_id, two_id), DecisionDifference(witness, one, one_id, two, two_id)
            )
    return list(found.values())


def _space(version: IpVersion, slices: list[str], pops: list[str]) -> Box:
    top = (1 << (32 if version == 4 else 128)) - 1
    ports = LAST_PORT
    lasts = (top, top, 255, ports, ports, 1, 1, 1, WEEK_MINUTES - 1, len(slices) - 1, len(pops) - 1)
    return tuple(((0, last),) for last in lasts)


def _box(
    rule: PolicyRule, full: Box, version: IpVersion, slices: list[str], pops: list[str]
) -> Box:
    match, condition, scope = rule.match, rule.condition, rule.scope
    number = None if match.protocol is None else PROTOCOL_NUMBERS[match.protocol]
    new = None if condition.state is None else condition.state == "established"
    flags = (new, condition.encrypted, condition.fragment)
    minutes = merged((first, after - 1) for first, after in rule.schedule.minutes())
    return (
        addresses(match.source, version),
        addresses(match.target, version),
        full[2] if number is None else ((number, number),),
        port_ranges(match.source_ports),
        port_ranges(match.ports),
        *(_BOTH if flag is None else ((int(flag), int(flag)),) for flag in flags),
        minutes,
        merged((slices.index(n), slices.index(n)) for n in scope.slices) or full[9],
        merged((pops.index(n), pops.index(n)) for n in scope.pops) or full[10],
    )


def _packet(
    point: Sequence[int], version: IpVersion, slices: list[str], pops: list[str]
) -> PolicyPacket:
    source, target, protocol, source_port, port, state, encrypted, fragment, minute, at, pop = point
    make = type(ip_address(UNIVERSE[version][:-2]))
    return PolicyPacket(
        str(make(source)),
        str(make(target)),
        protocol,
        source_port,
        port,
        "established" if state else "new",
        bool(encrypted),
        bool(fragment),
        minute,
        slices[at],
        pops[pop],
    )
