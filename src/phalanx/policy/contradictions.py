"""Conflicts between rule sets: of two policies, intent and network, slices, defences, loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil, inf
from operator import ne
from sys import maxsize
from typing import cast

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from phalanx.coordination.arbitration import EXCLUDE, StandingClaim
from phalanx.domain.rules import TrafficRule, TrafficVerdict
from phalanx.policy import boxes
from phalanx.policy.boxes import OverlapLimitError, Undecided
from phalanx.policy.conflicts import (
    MOST_STEPS,
    ConflictKind,
    ConflictReport,
    PolicyConflict,
    PolicyRepair,
    fresh_ids,
)
from phalanx.policy.overlaps import NAMES, SLICE, OrderedRules, RuleTranslator
from phalanx.policy.rules import (
    PolicyPacket,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    Protocol,
    RuleAction,
    RuleMatch,
    RuleScope,
    RuleSet,
    Segment,
)

MOST_COMPARED = 3_000_000
"""Steps of the search for packets that two sets decide differently (some seconds)."""


def contradictions(
    left: RuleSet, right: RuleSet, *, deployed: bool = False, most: int = 1_000
) -> ConflictReport:
    """Find packets that a rule of one set decides, and a rule of another one otherwise.

    Neither set comes before the other. What a set leaves to its default it does not decide.

    Args:
        left: without slices and labels in segments, as ``right``.
        right: the other policy.
        deployed: ``left`` is what is intended and ``right`` what is in force, whose default
            counts as well.
        most: how many conflicts are told with their packets and repairs.

    """
    ours, theirs = left.rules, right.rules
    if deployed:
        theirs = (*theirs, PolicyRule("", RuleAction(right.default)))
    kind = ConflictKind.BREACH if deployed else ConflictKind.CONTRADICTION
    return _between(ours, theirs, kind, _disagree, most=most)


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
    ours, theirs = ((*s.rules, PolicyRule("", RuleAction(s.default))) for s in (left, right))
    found = _between(
        ours, theirs, ConflictKind.CONTRADICTION, ne, most=maxsize, steps=MOST_COMPARED
    )
    if found.undecided or not found.listed:
        raise OverlapLimitError("the rules overlap in too many ways to be compared exactly")
    mine, its = ({rule.id: rule.action for rule in rules} for rules in (ours, theirs))
    return [
        DecisionDifference(each.witness, mine[each.rule], each.rule, its[other], other)
        for each in found.conflicts
        for other in each.others
        if each.witness
    ]


def slice_conflicts(rules: RuleSet, *, most: int = 1_000) -> ConflictReport:
    """Find packets that are decided differently at the functions of two slices of a PoP.

    By rules that name slices, and none in common: a rule for all slices, or for both, is no
    matter between them.
    """

    def clash(one: PolicyRule, other: PolicyRule) -> bool:
        mine, its = {*one.scope.slices}, {*other.scope.slices}
        return bool(mine and its) and not mine & its and _disagree(one, other)

    if not any(rule.scope.slices for rule in rules.rules):
        return ConflictReport(0, {})
    return _between(rules.rules, rules.rules, ConflictKind.SLICES, clash, again=True, most=most)


def defence_conflicts(
    rules: RuleSet, defences: Iterable[TrafficRule], *, most: int = 1_000
) -> ConflictReport:
    """Find packets that a policy permits and a defence in force drops or limits, or serves denied.

    Links and shares of sources are not seen in a packet: a defence is taken to meet all packets
    that agree with the rest of its match. Defences are numbered from 1, as given.
    """
    given = [_defence(number, each) for number, each in enumerate(defences, 1)]
    theirs = [each for each in given if each is not None]

    def clash(policy: PolicyRule, defence: PolicyRule) -> bool:
        if policy.action.verdict is PolicyVerdict.DENY:
            return defence.action == RuleAction(PolicyVerdict.PERMIT)
        least = defence.action.rate_mb_s or inf
        dropped = defence.action.verdict is PolicyVerdict.DENY
        return dropped or least < (policy.action.rate_mb_s or inf)

    return _between(rules.rules, theirs, ConflictKind.DEFENCE, clash, ordered=False, most=most)


_PASSES = {TrafficVerdict.SERVE, TrafficVerdict.STEER, TrafficVerdict.PROXY, TrafficVerdict.ENLARGE}


def _defence(number: int, rule: TrafficRule) -> PolicyRule | None:
    """Return what a defence makes of packets as a rule; None: it leaves them as they are."""
    match, rate = rule.match, rule.parameters.get("rate_mb_s")
    action = RuleAction(PolicyVerdict.DENY)
    if rule.verdict in _PASSES:
        action = RuleAction(PolicyVerdict.PERMIT)
    elif rule.verdict is not TrafficVerdict.DROP and rate != 0:
        if rate is None:
            return None
        action = RuleAction(PolicyVerdict.PERMIT, rate)
    source = Segment(match.sources or ((match.source,) if match.source else ()))
    target = Segment((match.target,) if match.target else ())
    ports = (PortRange(match.port, match.port),) if match.port else ()
    protocol = cast("Protocol | None", match.protocol)
    scope = RuleScope(pops=(match.entry,) if match.entry else ())
    about = RuleMatch(source, target, protocol, (), ports)
    return PolicyRule(f"defence-{number}", action, about, scope=scope)


def _disagree(one: PolicyRule, other: PolicyRule) -> bool:
    """Whether other things become of packets; what is recorded of them is no matter here."""
    mine, its = one.action, other.action
    return (mine.verdict, mine.rate_mb_s) != (its.verdict, its.rate_mb_s)


def _between(
    left: Sequence[PolicyRule],
    right: Sequence[PolicyRule],
    kind: ConflictKind,
    clash: Callable[[PolicyRule, PolicyRule], bool],
    *,
    ordered: bool = True,
    again: bool = False,
    most: int,
    steps: int = MOST_STEPS,
) -> ConflictReport:
    """Find the pairs of rules, one a side, that clash and decide a packet in common, each on its.

    Args:
        left: rules of one side, in order.
        right: rules of the other side.
        kind: what the conflicts are.
        clash: whether two rules are at odds, where they meet.
        ordered: whether the first rule decides on the right; else each rule holds by itself.
        again: the slices of the right side's rules are those where packets are seen again; the
            rules are the same on both sides.
        most: how many conflicts are told with their packets.
        steps: of the search for packets, in all.

    """
    translator, split = RuleTranslator(), len(left)
    made = [translator.whole(rule) for rule in (*left, *right)]
    if again:
        made[split:] = [(*b[:SLICE], NAMES, b[SLICE + 1], b[SLICE]) for b in made[split:]]
    taken = {rule.id for rule in right}
    order = OrderedRules((*left, *right), map(boxes.real, made))
    met: list[tuple[int, int]] = []
    overlaps = clashes = 0
    for i, j, _ in order.pairs():
        across = (i < split) & (j >= split) & ((j - split > i) | (not again))
        overlaps += int(across.sum())
        across &= order.action[i] != order.action[j]
        found = [
            (a, b)
            for a, b in zip(i[across].tolist(), j[across].tolist(), strict=True)
            if clash(order.rules[a], order.rules[b])
        ]
        clashes += len(found)
        met = [*met, *found] if order.listed else []
    conflicts: list[PolicyConflict] = []
    open_steps, decided, undecided = [steps], 0, 0
    for a, b in sorted(met):

        def earlier(k: int, a: int = a, b: int = b) -> bool:
            return k < a or (split <= k < b and ordered)

        try:
            shown = order.decided(a, b, earlier, open_steps)
        except Undecided:
            undecided += 1
            continue
        if shown is None:
            continue
        decided += 1
        if len(conflicts) < most:
            one, other = order.rules[a], order.rules[b]
            which = other.id or "the default"
            effect = f"what {one.id} matches and {which}, or a rule after it, decides, it decides"
            inserted = (
                replace(one, scope=replace(one.scope, slices=other.scope.slices)) if again else one
            )
            name = next(each for each in fresh_ids(one.id, taken) if each not in taken)
            repair = PolicyRepair("insert", name, other.id, (replace(inserted, id=name),), effect)
            if not ordered:
                repair = PolicyRepair("lift", other.id, effect="the defence ends")
            witness = translator.packet(shown)
            conflicts.append(PolicyConflict(kind, one.id, (other.id,), witness, (repair,)))
    counts = {kind.value: decided if order.listed else clashes}
    return ConflictReport(
        overlaps,
        {k: n for k, n in counts.items() if n},
        tuple(conflicts),
        order.listed,
        order.complete,
        undecided,
    )


def excluded_claims(
    claims: Sequence[StandingClaim], now_s: float
) -> list[tuple[StandingClaim, StandingClaim]]:
    """Return the pairs of claims that exclude each other: two boxes of entity and time overlap.

    Args:
        claims: as they stand at a loop, or at several.
        now_s: the time in seconds; a claim whose lease ended has no time left.

    """
    entities = {claim.claim.entity: at for at, claim in enumerate(claims)}
    standing = [each for each in claims if each.until > now_s]
    made = [
        (((at := entities[each.claim.entity], at + 1),), ((0, ceil(1000 * (each.until - now_s))),))
        for each in standing
    ]
    table = boxes.BoxTable(made, 2)
    found = []
    for parts in table.candidates(np.arange(len(made))):
        i, j, _ = table.compare(*parts)
        for a, b in zip(i.tolist(), j.tolist(), strict=True):
            one, other = standing[min(a, b)], standing[max(a, b)]
            if frozenset((one.claim.action, other.claim.action)) in EXCLUDE:
                found.append((one, other))
    return found
