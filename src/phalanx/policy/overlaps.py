"""Rules as boxes of packets, boxes as packets, and which rules of a list overlap."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal

import numpy as np
from msgspec.structs import replace

from phalanx.domain.flowspec import PORTS, PROTOCOLS, Spans
from phalanx.policy import boxes
from phalanx.policy.boxes import LINE, V6, VERSIONS, Bits, FieldBox, Rows
from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    WEEK_MINUTES,
    WITH_PORTS,
    PolicyPacket,
    PolicyRule,
    PortRange,
    RuleAction,
    Segment,
)

MOST_OVERLAPS = 500_000
"""Above so many overlapping pairs, conflicts are counted and not listed."""
MOST_COMPARED = 20_000_000
"""Of so many pairs at most is it found out whether they overlap; counts are of those, then."""
GAP = 1 << 32
"""Between the places of two rules, for those that are put between them later."""
NAMES = ((0, V6),)
"""Any slice or PoP: those that rules name are numbered from 1, all others are 0."""
EITHER: Spans = ((0, 2),)
_REST = PROTOCOLS, PORTS, PORTS, EITHER, EITHER, EITHER, ((0, WEEK_MINUTES),)
ANY: FieldBox = (LINE, LINE, *_REST, NAMES, NAMES, NAMES)
"""All packets, by field: source, target, protocol, source port, port, state, encrypted, fragment,
minute, slice, PoP; and the slice at whose function a packet is seen a second time."""
SLICE, SEEN_AGAIN = 9, 11
STATES: tuple[Literal["new"], Literal["established"]] = ("new", "established")
LIKELY = ((0xC0000201,), (0xC6336401,), (6, 17), (40_000,), (443, 80))
"""Values that a witness has if it may: addresses for documentation (RFC 5737), usual ports."""
_LIKELY_V6 = V6 + (0x20010DB8 << 96)


def addresses(segment: Segment) -> Spans:
    """Return the addresses that a segment without slice and labels means."""
    found = boxes.line(segment.addresses) if segment.addresses else LINE
    return boxes.minus(found, boxes.line(segment.outside)) if segment.outside else found


def port_spans(ports: tuple[PortRange, ...]) -> Spans:
    """Return ports as a set; none given: all."""
    return boxes.merged((each.first, each.last + 1) for each in ports) if ports else PORTS


def port_ranges(ports: Spans) -> tuple[PortRange, ...]:
    """Return a set of ports as rules name it; all: none is named."""
    return () if ports == PORTS else tuple(PortRange(a, b - 1) for a, b in ports)


class RuleTranslator:
    """From rules to boxes, and from boxes to packets."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {"": 0}
        self._sets: dict[object, Spans] = {}
        self._rest: dict[object, FieldBox] = {}

    def whole(self, rule: PolicyRule) -> FieldBox:
        """Return what a rule matches, field by field."""
        m, condition, scope = rule.match, rule.condition, rule.scope
        key = m.protocol, m.source_ports, m.ports, condition, rule.schedule, scope
        rest = self._rest.get(key)
        if rest is None:
            rest = self._rest[key] = (
                ANY[2] if m.protocol is None else _only(PROTOCOL_NUMBERS[m.protocol]),
                *(port_spans(m.source_ports), port_spans(m.ports)),
                _flag(condition.state and STATES.index(condition.state)),
                *(_flag(condition.encrypted), _flag(condition.fragment)),
                boxes.merged(rule.schedule.minutes()),
                *(self._named(scope.slices), self._named(scope.pops), NAMES),
            )
        return self._segment(m.source), self._segment(m.target), *rest

    def _segment(self, segment: Segment) -> Spans:
        key = segment.addresses, segment.outside
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = addresses(segment)
        return found

    def _named(self, names: tuple[str, ...]) -> Spans:
        if not names:
            return NAMES
        numbers = [self._names.setdefault(name, len(self._names)) for name in names]
        return boxes.merged((number, number + 1) for number in numbers)

    def narrowed(self, rule: PolicyRule, by: PolicyRule) -> tuple[PolicyRule, ...]:
        """Return rules that match what one matches and another one does not; none: no rules can.

        A rule names one protocol or any, and one span of the day, so not all can be said.
        """
        mine, its = self.whole(rule), self.whole(by)
        apart = [at for at, (a, b) in enumerate(zip(mine, its, strict=True)) if boxes.minus(a, b)]
        pieces = [self._outside(rule, by, at, boxes.minus(mine[at], its[at])) for at in apart]
        if None in pieces or (rule.action.rate_mb_s is not None and len(pieces) > 1):
            return ()  # several rules would permit the rate several times
        return tuple(piece for piece in pieces if piece and boxes.real(self.whole(piece)))

    def _outside(
        self, rule: PolicyRule, by: PolicyRule, field: int, rest: Spans
    ) -> PolicyRule | None:
        """Return a rule for what of it lies outside of another one in one field."""
        match, scope, change = rule.match, rule.scope, {}
        if field in {0, 1}:
            side = ("source", "target")[field]
            segment, its = getattr(match, side), getattr(by.match, side)
            if its.outside:
                return None
            change = {side: replace(segment, outside=(*segment.outside, *its.addresses))}
        elif field in {3, 4} and match.protocol in WITH_PORTS:
            change = {("source_ports", "ports")[field - 3]: port_ranges(rest)}
        if change:
            return replace(rule, match=replace(match, **change))
        if field in {5, 6, 7}:
            value = STATES[rest[0][0]] if field == 5 else bool(rest[0][0])
            name = ("state", "encrypted", "fragment")[field - 5]
            return replace(rule, condition=replace(rule.condition, **{name: value}))
        where = {9: "slices", 10: "pops"}.get(field, "")
        if where and (named := getattr(scope, where)):
            kept = tuple(each for each in named if each not in getattr(by.scope, where))
            return replace(rule, scope=replace(scope, **{where: kept}))
        return None

    def packet(self, box: FieldBox) -> PolicyPacket:
        """Return a packet of a box; of IPv4 and with usual ports, if there is one."""
        whole = VERSIONS[4 if box[0][0][0] < V6 and box[1][0][0] < V6 else 6]
        source, target = (
            str(boxes.address(_pick(boxes.meet(side, whole), (*likely, _LIKELY_V6 + at))))
            for at, (side, likely) in enumerate(zip(box[:2], LIKELY, strict=False), 1)
        )
        protocol = _pick(box[2], LIKELY[2])
        usual = LIKELY[3:] if protocol in PORTED else ((0,), (0,))
        out, to = (_pick(spans, likely) for spans, likely in zip(box[3:5], usual, strict=True))
        state, encrypted, fragment, minute, slice_, pop = map(_pick, box[5:SEEN_AGAIN])
        flags, names = (bool(encrypted), bool(fragment)), list(self._names)
        where = names[slice_], names[pop]
        return PolicyPacket(
            source, target, protocol, out, to, STATES[state], *flags, minute, *where
        )


PORTED = frozenset(PROTOCOL_NUMBERS[name] for name in WITH_PORTS)


def _only(value: int) -> Spans:
    return ((value, value + 1),)


def _flag(value: int | None) -> Spans:
    return ANY[5] if value is None else _only(int(value))


def _pick(spans: Spans, likely: Iterable[int] = ()) -> int:
    for value in likely:
        if any(first <= value < after for first, after in spans):
            return value
    return spans[0][0]


class OrderedRules:
    """Rules in order by row, what they match, and which of them overlap."""

    def __init__(self, rules: Iterable[PolicyRule], made: Iterable[FieldBox | None]) -> None:
        self.rules, self.boxes = list(rules), list(made)
        self._actions: dict[RuleAction, int] = {}
        self.action = np.array([self._number(each.action) for each in self.rules], np.int64)
        self.place = np.arange(len(self.rules), dtype=np.int64) * GAP
        self.alive = np.array([box is not None for box in self.boxes], np.bool_)
        self._table = boxes.BoxTable([box or ANY for box in self.boxes], len(ANY))
        self._pairs: list[Rows] = [np.zeros(0, np.int64)] * 2
        self._bits: Bits = np.zeros(0, np.uint8)
        self._fresh: dict[int, dict[int, int]] = {}
        self.overlaps, self.listed, self.complete = 0, True, True

    def _number(self, action: RuleAction) -> int:
        return self._actions.setdefault(action, len(self._actions))

    def pairs(self) -> Iterator[tuple[Rows, Rows, Bits]]:
        """Yield all pairs that overlap, the earlier rule first, and how it stands to the later.

        They are kept as well, for ``near``, unless there are more than may be listed.
        """
        kept: list[tuple[Rows, Rows, Bits]] = []
        compared = self.overlaps = 0
        for i, j in self._table.candidates(np.nonzero(self.alive)[0]):
            compared += len(i)
            if compared > MOST_COMPARED:
                self.complete = False
                break
            turned = self.place[i] > self.place[j]
            found = self._table.compare(np.where(turned, j, i), np.where(turned, i, j))
            self.overlaps += len(found[0])
            self.listed = self.overlaps <= MOST_OVERLAPS
            kept = [*kept, found] if self.listed else []
            yield found
        self.listed &= self.complete
        if kept and self.listed:
            i, j, bits = (np.concatenate(each) for each in zip(*kept, strict=True))
            one, other = np.concatenate((i, j)), np.concatenate((j, i))
            order = np.argsort(one * len(self.rules) + other)  # rows are in order at first
            self._pairs = [one[order], other[order]]
            self._bits = np.concatenate((bits, boxes.seen_back(bits)))[order]

    def _degree(self, row: int) -> int:
        begin, end = np.searchsorted(self._pairs[0], (row, row + 1))
        return int(end - begin) + len(self._fresh.get(row, ()))

    def near(self, row: int) -> tuple[Rows, Bits]:
        """Return the rules that overlap one, in order, and how that one stands to each."""
        begin, end = np.searchsorted(self._pairs[0], (row, row + 1))
        others, bits = self._pairs[1][begin:end], self._bits[begin:end]
        if fresh := self._fresh.get(row):
            others = np.append(others, np.fromiter(fresh, np.int64))
            bits = np.append(bits, np.fromiter(fresh.values(), np.uint8))
        order = np.argsort(self.place[others], kind="stable")  # quick where most are in order
        order = order[self.alive[others[order]]]
        return others[order], bits[order]

    def add(self, rule: PolicyRule, box: FieldBox | None) -> int:
        """Append a rule, without a place; return its row."""
        row = len(self.rules)
        self.rules.append(rule)
        self.boxes.append(box)
        if row == len(self.place):
            for name in ("place", "action", "alive"):
                old = getattr(self, name)
                setattr(self, name, np.append(old, np.zeros(row + 64, old.dtype)))
        self.action[row] = self._number(rule.action)
        self._table.put(row, box or ANY)
        if box is not None:
            others, bits = self._table.beside(row, np.nonzero(self.alive)[0])
            self._fresh[row] = dict(zip(others.tolist(), bits.tolist(), strict=True))
            for other, back in zip(others.tolist(), boxes.seen_back(bits).tolist(), strict=True):
                self._fresh.setdefault(other, {})[row] = back
            self.overlaps += len(others)
            self.listed &= self.overlaps <= MOST_OVERLAPS
        self.alive[row] = box is not None
        return row

    def decided(
        self, i: int, j: int, earlier: Callable[[int], bool], steps: list[int]
    ) -> FieldBox | None:
        """Return packets that two rules match and no earlier one does; None: there is none."""
        both = self.near(min(i, j, key=self._degree))[0].tolist()
        return boxes.escape(self.shared(i, j), self.walk(filter(earlier, both)), steps)

    def shared(self, i: int, j: int) -> FieldBox:
        """Return the packets of two rules that overlap."""
        return boxes.common(self.boxes[i] or ANY, self.boxes[j] or ANY) or ANY

    def walk(self, rows: Iterable[int], stops: Collection[int] = ()) -> boxes.Walk:
        """Return rules as ``escape`` walks them; some stop what meets them."""
        return [(self.boxes[row] or ANY, row in stops) for row in rows]
