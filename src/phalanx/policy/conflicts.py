"""Conflicts of policy rules, found before anything is enforced: each with a packet and a repair.

Within an ordered set the classes are those of Al-Shaer and Hamed ("Discovery of policy anomalies
in distributed firewalls", INFOCOM 2004). Beside pairs, a rule is found that several others make
idle together. Two sets contradict each other where a packet is decided differently by both.
``docs/policy-conflicts.md`` has the definitions; ``decide`` is what they are held against.

Source: seed 002, II ("conflicts"); seed 004, 3.1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from enum import Enum
from itertools import count, islice
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from phalanx.policy import boxes
from phalanx.policy.boxes import Bits, FieldBox, Rows, Undecided, escape
from phalanx.policy.overlaps import ANY, GAP, OrderedRules, RuleTranslator
from phalanx.policy.rules import PolicyPacket, PolicyRule, RuleSet

MOST_STEPS = 300_000
"""Steps of the search for what several rules leave of another, in one analysis; 5,000 a rule."""

STEPS_A_RULE = 5_000
MINIMISED = 12
"""Rules that make another idle are reduced to those that are needed where they are no more."""


class ConflictKind(Enum):
    """What is wrong between rules."""

    SHADOWING = "shadowing"
    """The rule decides nothing: earlier ones have all its packets, and decide some otherwise."""
    GENERALISATION = "generalisation"
    """The rule has all packets of an earlier one, which decides them otherwise."""
    CORRELATION = "correlation"
    """Each of two rules has packets that the other has not; on those of both they disagree."""
    REDUNDANCY = "redundancy"
    """Without the rule the same would become of every packet, whatever the set's default."""
    VOID = "void"
    """No packet can match the rule."""
    CONTRADICTION = "contradiction"
    """Of two policies each decides a packet, and they disagree."""
    BREACH = "breach"
    """What is deployed, its default included, decides a packet otherwise than the intent."""
    SLICES = "slices"
    """A packet is decided differently at the functions of two slices, by rules of these alone."""
    DEFENCE = "defence"
    """A defence in force drops or limits what a policy permits, or serves what it denies."""


class PolicyRepair(Struct, frozen=True):
    """A change of one rule set that ends one conflict."""

    change: Literal["delete", "move", "narrow", "insert", "lift"]
    rule: str
    """Id of the rule that is deleted, moved, replaced or inserted."""
    before: str = ""
    """Id of the rule before which it is put; empty: at the end."""
    rules: tuple[PolicyRule, ...] = ()
    """What takes its place, or is inserted."""
    effect: str = "no decision changes"
    """What becomes of decisions."""


class PolicyConflict(Struct, frozen=True):
    """One conflict."""

    kind: ConflictKind
    rule: str
    """Id of the rule that is at fault; of two policies the first one's."""
    others: tuple[str, ...]
    """Ids of the rules that it conflicts with; several: together. Empty id: a set's default."""
    witness: PolicyPacket | None
    """A packet that shows it; None only where no packet matches."""
    repairs: tuple[PolicyRepair, ...]
    """What ends it, the least change first."""


class ConflictReport(Struct, frozen=True):
    """What was found in one set or between two."""

    overlaps: int
    """Pairs of rules with packets in common."""
    counts: dict[str, int]
    """Conflicts by kind; of a set with too many overlaps those of two rules alone."""
    conflicts: tuple[PolicyConflict, ...] = ()
    listed: bool = True
    """False: there were too many overlaps, conflicts are only counted."""
    complete: bool = True
    """False: not all pairs were looked at; the counts are those of the pairs that were."""
    undecided: int = 0
    """Questions about several rules that were given up after as many steps as are allowed."""
    worst: tuple[tuple[str, int], ...] = ()
    """Rules in most conflicts, and in how many, where they are only counted."""


_Key = tuple[int, tuple[int, ...], ConflictKind]
"""The rule at fault and those that it conflicts with, by row."""


class _Several(Struct, frozen=True):
    """What several rules together do to one."""

    shadowed: bool
    others: tuple[int, ...]
    witness: FieldBox


_KINDS = (
    ConflictKind.SHADOWING,
    ConflictKind.GENERALISATION,
    ConflictKind.CORRELATION,
    ConflictKind.REDUNDANCY,  # of the later rule
    ConflictKind.REDUNDANCY,  # of the earlier one, if none between them disagrees with it
)
_EARLIER, _NONE = 4, 5
_REACHED = boxes.LOW_BACK | boxes.HIGH_BACK
"""Both corners of a rule may be in others: only then it may be idle."""


class ConflictAnalysis:
    """The conflicts of one ordered rule set, kept up while the set changes.

    Args:
        rules: in their order; without slices and labels in segments (``PolicyInventory.resolve``).

    """

    def __init__(self, rules: RuleSet) -> None:
        self._translator = RuleTranslator()
        self._begin(rules)

    # -- all at once --------------------------------------------------------------------

    def _begin(self, rules: RuleSet) -> None:
        self._default, self._name = rules.default, rules.name
        made = [boxes.real(self._translator.whole(each)) for each in rules.rules]
        order = self._set = OrderedRules(rules.rules, made)
        self._rows = {each.id: row for row, each in enumerate(rules.rules)}
        self._sorted = list(range(len(made)))
        self._found: dict[int, dict[int, int]] = {}
        self._several: dict[int, _Several] = {}
        self._undecided: set[int] = set()
        self._reached: set[int] = set()
        self._void = {row for row, box in enumerate(order.boxes) if box is None}
        self._steps = MOST_STEPS
        size = len(order.rules)
        rated = np.array([r.action.rate_mb_s is not None for r in order.rules], np.bool_)
        clash = np.full(size, np.iinfo(np.int64).max)
        before, after = np.zeros((2, size), np.uint8)
        found: list[tuple[Rows, Rows, Rows]] = []
        doubtful: list[tuple[Any, Any]] = []
        self._counts, self._worst = np.zeros(_NONE + 1, np.int64), np.zeros(size, np.int64)
        for i, j, bits in order.pairs():
            codes = self._codes(i, j, bits, rated[i])
            differ = order.action[i] != order.action[j]
            np.minimum.at(clash, i[differ], order.place[j[differ]])
            self._counts += np.bincount(codes, minlength=_NONE + 1)
            sure = codes < _EARLIER
            if order.listed:
                np.bitwise_or.at(before, j, bits)
                alike = ~differ & ~rated[i]
                np.bitwise_or.at(after, i[alike], boxes.seen_back(bits[alike]))
            found = [*found, (i[sure], j[sure], codes[sure])] if order.listed else []
            for side in (i, j):
                self._worst += np.bincount(side[sure], minlength=size)
            doubt = codes == _EARLIER
            doubtful.append((i[doubt].astype(np.int32), j[doubt].astype(np.int32)))
        for i, j in doubtful:
            kept = order.place[j] < clash[i]
            self._counts[_EARLIER] -= len(i) - kept.sum()
            found.append((i[kept], j[kept], np.full(kept.sum(), _EARLIER)))
        if order.listed:
            for i, j, codes in found:
                for one, other, code in zip(i.tolist(), j.tolist(), codes.tolist(), strict=True):
                    self._found.setdefault(one, {})[other] = code
            reach = before | after
            idle = (before & boxes.HOLDS == 0) & (reach & boxes.LOW > 0) & (reach & boxes.HIGH > 0)
            for row in np.nonzero(idle & order.alive[:size])[0].tolist():
                self._look_at_several(row, *order.near(row))

    def _codes(self, i: Rows, j: Rows, bits: Bits, rated: NDArray[np.bool_]) -> Rows:
        """Return by pair what it is, as an index of ``_KINDS``; ``_NONE``: no conflict."""
        differ = self._set.action[i] != self._set.action[j]
        down, up = bits & boxes.HOLDS > 0, bits & boxes.WITHIN > 0
        unlike = np.where(down, 0, np.where(up, 1, 2))
        alike = np.where(down, 3, np.where(up & ~rated, _EARLIER, _NONE))
        return np.where(differ, unlike, alike)

    def _look_at_several(self, row: int, others: Rows, bits: Bits) -> None:
        """Find out whether a rule is idle because of several of those that overlap it."""
        steps = [min(STEPS_A_RULE, self._steps)]
        self._steps -= steps[0]
        try:
            if found := self._idle(row, others, bits, steps):
                self._several[row] = found
        except Undecided:
            self._undecided.add(row)
        self._steps += max(steps[0], 0)

    def _idle(self, row: int, others: Rows, bits: Bits, steps: list[int]) -> _Several | None:
        order, box = self._set, self._set.boxes[row] or ANY
        earlier = order.place[others] < order.place[row]
        alike = order.action[others] == order.action[row]
        reach = int(np.bitwise_or.reduce(bits[earlier], initial=0))
        if reach & boxes.WITHIN:
            return None  # one rule is enough
        beyond = reach | int(np.bitwise_or.reduce(bits[~earlier & alike], initial=0))
        if _REACHED & ~beyond:
            return None
        self._reached.add(row)
        before, unlike = others[earlier].tolist(), set(others[~alike].tolist())
        if _REACHED & ~reach == 0 and escape(box, order.walk(before), steps) is None:
            witness = escape(box, order.walk(before, unlike), steps)
            return _Several(witness is not None, self._needed(box, before, before), witness or box)
        one_is_enough = _EARLIER in self._found.get(row, {}).values()
        rated = order.rules[row].action.rate_mb_s is not None
        if rated or one_is_enough:
            return None
        rows, stops = others.tolist(), unlike.difference(before)
        if escape(box, order.walk(rows, stops), steps) is not None:
            return None
        needed = self._needed(box, rows, others[~earlier & alike].tolist(), stops)
        return _Several(False, needed, escape(box, order.walk(before), steps) or box)

    def _needed(
        self, box: FieldBox, rows: list[int], asked: list[int], stops: Collection[int] = ()
    ) -> tuple[int, ...]:
        """Return which of the rules asked for cannot be left out of a walk that nothing escapes."""
        if len(rows) <= MINIMISED:
            for row in asked:
                rest = [each for each in rows if each != row]
                if escape(box, self._set.walk(rest, stops), [MOST_STEPS]) is None:
                    rows = rest
        return tuple(each for each in rows if each in asked)

    # -- one rule -----------------------------------------------------------------------

    def add(self, rule: PolicyRule, at: int | None = None) -> list[PolicyConflict]:
        """Put a rule at a place, from 0; None: at the end. Return the conflicts that are new.

        Raises:
            ValueError: if there is a rule with this id.

        """
        if rule.id in self._rows:
            raise ValueError(f"there is a rule {rule.id!r} already")
        row = self._rows[rule.id] = self._set.add(rule, boxes.real(self._translator.whole(rule)))
        last = self._put(row, len(self._sorted) if at is None else at)
        return self._changed(row, last, self._set.near(row))

    def remove(self, rule: str) -> list[PolicyConflict]:
        """Remove a rule by its id. Return the conflicts that are new.

        Raises:
            KeyError: if there is none.

        """
        row = self._rows.pop(rule)
        del self._sorted[self._index(row)]
        near = self._set.near(row)
        self._set.overlaps -= len(near[0])
        self._set.alive[row] = False
        found = self._changed(row, int(self._set.place[row]), near)
        if len(self._set.rules) > 2 * len(self._sorted) + 1_000:  # most rows are of rules removed
            self._begin(self.rules)
        return found

    def move(self, rule: str, at: int) -> list[PolicyConflict]:
        """Move a rule to a place, counted without it. Return the conflicts that are new.

        Raises:
            KeyError: if there is none.

        """
        row = self._rows[rule]
        before = int(self._set.place[row])
        del self._sorted[self._index(row)]
        return self._changed(row, max(before, self._put(row, at)), self._set.near(row))

    def _index(self, row: int) -> int:
        place = self._set.place
        return bisect_left(self._sorted, place[row], key=place.__getitem__)

    def _put(self, row: int, at: int) -> int:
        """Put a rule at a place; return its label, or a higher one if all are labelled anew."""
        at = min(max(at, 0), len(self._sorted))
        self._sorted.insert(at, row)
        place = self._set.place
        below = int(place[self._sorted[at - 1]]) if at else -GAP
        last = at + 1 == len(self._sorted)
        above = below + 2 * GAP if last else int(place[self._sorted[at + 1]])
        if not at and not last:
            below = above - 2 * GAP
        place[row] = (below + above) // 2
        if above - below < 2:
            place[self._sorted] = np.arange(len(self._sorted)) * GAP
            return int(place.max())
        return int(place[row])

    def _changed(self, row: int, last: int, near: tuple[Rows, Bits]) -> list[PolicyConflict]:
        """Judge a rule anew, and those of what it overlaps that it can matter to.

        Of a rule behind ``last``, the last place that the changed one had, no pair changes, and
        it is not made idle by one that has no corner of it.
        """
        if not self._set.listed:
            self._begin(self.rules)
            return []
        others, bits = near
        matters = (self._set.place[others] <= last) | (bits & (boxes.LOW | boxes.HIGH) > 0)
        matters |= np.fromiter((each in self._reached for each in others.tolist()), np.bool_)
        self._steps, gained, lost = MOST_STEPS, list[_Key](), set[_Key]()
        for each in [row, *others[matters].tolist()]:
            before, single = self._found.get(each, {}), set(self._single(each))
            self._judge(each)
            after = self._found.get(each, {})
            lost |= {*single, *self._pairs(each, before.items() - after.items())}
            gained += [*self._single(each), *self._pairs(each, after.items() - before.items())]
        return [self._conflict(*key) for key in gained if key not in lost]

    def _judge(self, row: int) -> None:
        order = self._set
        self._found.pop(row, None)
        self._several.pop(row, None)
        self._undecided.discard(row)
        self._reached.discard(row)
        self._void.discard(row)
        if not order.alive[row]:
            if self._rows.get(order.rules[row].id) == row:
                self._void.add(row)
            return
        near = order.near(row)
        later = order.place[near[0]] > order.place[row]
        others, bits = near[0][later], near[1][later]
        rated = np.full(len(others), order.rules[row].action.rate_mb_s is not None)
        codes = self._codes(np.full(len(others), row), others, bits, rated)
        clash = np.nonzero(order.action[others] != order.action[row])[0]
        end = clash[0] if len(clash) else len(others)
        kept = np.nonzero(codes < np.where(np.arange(len(codes)) < end, _NONE, _EARLIER))[0]
        if len(kept):
            self._found[row] = dict(zip(others[kept].tolist(), codes[kept].tolist(), strict=True))
        self._look_at_several(row, *near)

    # -- what was found -----------------------------------------------------------------

    @property
    def rules(self) -> RuleSet:
        """The rules as they are now."""
        rules = tuple(self._set.rules[row] for row in self._sorted)
        return RuleSet(self._name, rules, self._default)

    @property
    def counts(self) -> dict[str, int]:
        """Conflicts by kind."""
        found: Counter[str] = Counter()
        if self._set.listed:
            for _row, _others, kind in self._keys(self._sorted):
                found[kind.value] += 1
        else:
            for kind, number in zip(_KINDS, self._counts.tolist(), strict=False):
                found[kind.value] += number
            found["void"] = len(self._void)
        return {kind.value: found[kind.value] for kind in ConflictKind if found[kind.value]}

    def report(self, most: int = 1_000) -> ConflictReport:
        """Return what was found; ``most`` conflicts of it with their packets and repairs."""
        order, shown = self._set, tuple(islice(self.conflicts(), most))
        worst: tuple[tuple[str, int], ...] = ()
        if not order.listed:
            rows = np.argsort(-self._worst, kind="stable")[:5].tolist()
            worst = tuple((order.rules[row].id, int(self._worst[row])) for row in rows)
        given_up, known = len(self._undecided), (order.listed, order.complete)
        return ConflictReport(order.overlaps, self.counts, shown, *known, given_up, worst)

    def conflicts(self) -> Iterator[PolicyConflict]:
        """Yield all conflicts, by the place of the earlier rule; none if they are only counted."""
        return (self._conflict(*key) for key in self._keys(self._sorted))

    def _keys(self, rows: Iterable[int]) -> Iterator[_Key]:
        for row in rows:
            yield from self._single(row)
            yield from self._pairs(row, self._found.get(row, {}).items())

    def _single(self, row: int) -> Iterator[_Key]:
        """Yield what is wrong with a rule by itself, or because of several others."""
        if row in self._void:
            yield row, (), ConflictKind.VOID
        if several := self._several.get(row):
            yield row, several.others, _KINDS[0 if several.shadowed else 3]

    def _pairs(self, row: int, found: Iterable[tuple[int, int]]) -> Iterator[_Key]:
        """Yield the conflicts of a rule with one later rule each, in the order of these."""
        place = self._set.place
        for other, code in sorted(found, key=lambda each: place[each[0]]):
            fault, against = (row, other) if code == _EARLIER else (other, row)
            yield fault, (against,), _KINDS[code]

    def _conflict(self, row: int, others: tuple[int, ...], kind: ConflictKind) -> PolicyConflict:
        order, several = self._set, self._several.get(row)
        rule, ids = order.rules[row], tuple(order.rules[each].id for each in others)
        repairs, shown = [PolicyRepair("delete", rule.id)], None
        if several and several.others == others:
            shown = several.witness
        elif others:
            shown = self._shown(row, others[0])
            other = order.rules[others[0]]
            if kind is ConflictKind.SHADOWING:
                effect = f"what both match and {other.id} decides now, {rule.id} decides"
                repairs.append(PolicyRepair("move", rule.id, other.id, (), effect))
            elif kind is not ConflictKind.REDUNDANCY:
                names = fresh_ids(rule.id, self._rows)
                pieces = self._translator.narrowed(rule, other)
                parts = tuple(replace(each, id=next(names)) for each in pieces)
                fall = "what {} decides now falls to the rules after it".format
                repairs = [
                    PolicyRepair("delete", each, effect=fall(each)) for each in (*ids, rule.id)
                ]
                repairs = [PolicyRepair("narrow", rule.id, "", parts)] if parts else repairs
        witness = self._translator.packet(shown) if shown else None
        return PolicyConflict(kind, rule.id, ids, witness, tuple(repairs))

    def _shown(self, *pair: int) -> FieldBox:
        """Return packets that two rules match; such that no rule before decides, if there are."""
        place = self._set.place
        first, second = sorted(pair, key=place.__getitem__)
        try:
            found = self._set.decided(
                first, second, lambda k: bool(place[k] < place[first]), [STEPS_A_RULE]
            )
        except Undecided:
            found = None
        return found or self._set.shared(first, second)


def fresh_ids(name: str, taken: Collection[str]) -> Iterator[str]:
    """Yield ids for rules that are made from one: its own, then others like it."""
    yield name
    for number in count(2):
        if (made := f"{name[:110]}.{number}") not in taken:
            yield made
