"""Conflicts of rules: all of those of the oracle and no other, each with a packet and a repair."""

from __future__ import annotations

import math
from ipaddress import ip_network
from itertools import combinations, permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.coordination.arbitration import EXCLUDE, PRECEDENCE, StandingClaim
from phalanx.domain.messages import ActionClaim
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.policy.conflicts import (
    ConflictAnalysis,
    ConflictKind,
    PolicyConflict,
    PolicyRepair,
)
from phalanx.policy.contradictions import (
    contradictions,
    defence_conflicts,
    excluded_claims,
    slice_conflicts,
)
from phalanx.policy.rules import (
    PolicyPacket,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    RuleAction,
    RuleMatch,
    RuleScope,
    RuleSet,
    Segment,
    decide,
    matches,
)
from tests.nightly import NIGHTLY, at_night
from tests.policy.oracle import Oracle, rule_sets, universe

PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)
SETS, OTHERS = (10_000, 2_000) if NIGHTLY else (12, 5)


def repaired(rules: RuleSet, repair: PolicyRepair) -> RuleSet:
    """Return a set with a repair made."""
    listed = list(rules.rules)
    ids = [rule.id for rule in listed]
    new = list(repair.rules)
    if repair.change == "insert":
        at = ids.index(repair.before) if repair.before else len(ids)
    else:
        at = ids.index(repair.rule)
        moved = listed.pop(at)
        if repair.change == "move":
            new, at = [moved], ids.index(repair.before)
    listed[at:at] = new
    return replace(rules, rules=tuple(listed))


def check(rules: tuple[PolicyRule, ...]) -> None:
    oracle = Oracle(rules, universe(rules))
    analysis = ConflictAnalysis(RuleSet("set", rules))
    conflicts = list(analysis.conflicts())
    by_id = {rule.id: rule for rule in rules}
    pairs, several = set(), []
    for each in conflicts:
        if is_pair(each, oracle):
            pairs.add((each.kind.value, each.rule, "".join(each.others)))
        else:
            several.append((each.kind.value, each.rule))
    assert pairs == oracle.pairs
    assert sorted(several) == sorted(oracle.several())
    assert len(pairs) + len(several) == len(conflicts) == sum(analysis.counts.values())
    assert analysis.report().undecided == 0
    before = oracle.decided()
    for each in conflicts:
        check_witness(each, rules, by_id, oracle)
        for repair in each.repairs:
            after = repaired(RuleSet("set", rules), repair).rules
            now = Oracle(after, oracle.packets).decided()
            changed = [n for n, (a, b) in enumerate(zip(before, now, strict=True)) if a != b]
            if repair.effect == "no decision changes":
                assert not changed
            else:
                match = by_id[repair.rule]
                assert all(matches(match, oracle.packets[n]) for n in changed)
            left = ConflictAnalysis(RuleSet("set", after)).conflicts()
            assert not [
                c for c in left if (c.kind, c.rule, c.others) == (each.kind, each.rule, each.others)
            ]
            if repair.change == "narrow":
                fault = {rule.id for rule in after} - {rule.id for rule in rules} | {each.rule}
                assert not [
                    r
                    for r in after
                    if r.id in fault
                    and any(
                        matches(r, p) and matches(by_id[each.others[0]], p) for p in universe(after)
                    )
                ]


def is_pair(conflict: PolicyConflict, oracle: Oracle) -> bool:
    """Whether a conflict is one of two rules, by its definition."""
    key = conflict.kind.value, conflict.rule, "".join(conflict.others[:1])
    return conflict.kind is ConflictKind.VOID or (len(conflict.others) == 1 and key in oracle.pairs)


def check_witness(each, rules, by_id, oracle) -> None:
    if each.kind is ConflictKind.VOID:
        assert each.witness is None
        return
    packet, rule = each.witness, by_id[each.rule]
    assert matches(rule, packet)
    if not is_pair(each, oracle):
        _, decider = decide(RuleSet("set", rules), packet)
        idle = decider.id != rule.id
        if idle:
            assert (decider.action != rule.action) == (each.kind is ConflictKind.SHADOWING)
        else:
            without = tuple(r for r in rules if r.id != rule.id)
            assert decide(RuleSet("set", without), packet)[0] == rule.action
        return
    both = [r for r in rules if r.id in {rule.id, *each.others}]
    assert decide(RuleSet("pair", tuple(both)), packet)[1] is both[0]
    assert decide(RuleSet("pair", tuple(both[::-1])), packet)[1] is both[1]
    shared = oracle.has[rules.index(both[0])] & oracle.has[rules.index(both[1])]
    earlier = oracle.has[: rules.index(both[0])]
    if shared.difference(*earlier):
        assert decide(RuleSet("set", rules), packet)[1] is both[0]


@settings(max_examples=SETS, deadline=None)
@given(rule_sets())
def test_all_conflicts_of_the_oracle_and_no_other(rules) -> None:
    check(rules)


@at_night
@settings(max_examples=max(3, OTHERS // 5), deadline=None, suppress_health_check=list(HealthCheck))
@given(rule_sets(60, least=40))
def test_pairs_of_larger_sets_are_those_of_the_oracle(rules) -> None:
    oracle = Oracle(rules, universe(rules))
    analysis = ConflictAnalysis(RuleSet("set", rules))
    found = {key(each) for each in analysis.conflicts() if is_pair(each, oracle)}
    assert found == {(kind, rule, (other,) if other else ()) for kind, rule, other in oracle.pairs}
    if not analysis.report().undecided:
        several = [key(c)[:2] for c in analysis.conflicts() if not is_pair(c, oracle)]
        assert sorted(several) == sorted(oracle.several())


@settings(max_examples=OTHERS, deadline=None)
@given(rule_sets(), rule_sets(), st.randoms(use_true_random=False))
def test_an_analysis_that_is_kept_up_equals_a_fresh_one(rules, more, rng) -> None:
    analysis = ConflictAnalysis(RuleSet("set", rules))
    listed = list(rules)
    for number, rule in enumerate(more):
        before = set(seen(analysis))
        step = rng.choice(("add", "add", "remove", "move")) if listed else "add"
        if step == "add":
            at = rng.randint(0, len(listed))
            fresh = replace(rule, id=f"m{number}")
            listed.insert(at, fresh)
            new = analysis.add(fresh, at)
        else:
            taken = listed.pop(rng.randrange(len(listed)))
            if step == "move":
                at = rng.randint(0, len(listed))
                listed.insert(at, taken)
                new = analysis.move(taken.id, at)
            else:
                new = analysis.remove(taken.id)
        assert analysis.rules.rules == tuple(listed)
        whole = ConflictAnalysis(RuleSet("set", tuple(listed)))
        assert sorted(seen(analysis)) == sorted(seen(whole))
        assert analysis.counts == whole.counts
        assert analysis.report().overlaps == whole.report().overlaps
        assert {key(c) for c in new} == set(seen(analysis)) - before


def seen(analysis: ConflictAnalysis):
    return [key(conflict) for conflict in analysis.conflicts()]


def key(conflict: PolicyConflict):
    return conflict.kind.value, conflict.rule, conflict.others


def both_decide(left: Oracle, right: Oracle, packet: int):
    return left._first(packet, 0), right._first(packet, 0)


@pytest.mark.parametrize("deployed", [False, True])
@settings(max_examples=OTHERS, deadline=None)
@given(rule_sets(5), rule_sets(5))
def test_contradictions_are_packets_that_both_sets_decide(deployed, rules, more) -> None:
    more = tuple(replace(rule, id=rule.id.replace("r", "s")) for rule in more)
    left, right = RuleSet("left", rules), RuleSet("right", more, PolicyVerdict.DENY)
    packets = universe((*rules, *more))
    one, other = Oracle(rules, packets), Oracle(more, packets)
    last = PolicyRule("", RuleAction(right.default)) if deployed else None
    expected = set()
    for n in range(len(packets)):
        a, b = one._first(n, 0), other._first(n, 0) or last
        if a and b and what(a) != what(b):
            expected.add((a.id, b.id))
    report = contradictions(left, right, deployed=deployed)
    assert {(c.rule, *c.others) for c in report.conflicts} == expected
    assert len(report.conflicts) == len(expected) == sum(report.counts.values())
    assert report.undecided == 0
    before = [decide(right, packet)[0] for packet in packets]
    for each in report.conflicts:
        (against,) = each.others
        assert decide(left, each.witness)[1].id == each.rule
        decider = decide(right, each.witness)[1]
        assert (decider.id if decider else "") == against
        (repair,) = each.repairs
        mended = repaired(right, repair)
        again = contradictions(left, mended, deployed=deployed)
        assert (each.rule, against) not in {(c.rule, *c.others) for c in again.conflicts}
        (source,) = (rule for rule in rules if rule.id == each.rule)
        for packet, was in zip(packets, before, strict=True):
            if decide(mended, packet)[0] != was:
                assert matches(source, packet)
                assert decide(mended, packet)[0] == source.action


def what(rule: PolicyRule):
    return rule.action.verdict, rule.action.rate_mb_s


@settings(max_examples=OTHERS, deadline=None)
@given(rule_sets(6, scoped=True))
def test_slices_conflict_where_their_own_rules_disagree_about_a_packet(rules) -> None:
    packets = [p for p in universe(rules) if not p.slice]
    names = {name for rule in rules for name in rule.scope.slices}
    at = {s: Oracle(rules, [replace(p, slice=s) for p in packets]) for s in names}
    expected = set()
    for a, b in permutations(names, 2):
        for n in range(len(packets)):
            i, j = both_decide(at[a], at[b], n)
            if i is None or j is None or what(i) == what(j) or rules.index(i) > rules.index(j):
                continue
            if i.scope.slices and j.scope.slices and not {*i.scope.slices} & {*j.scope.slices}:
                expected.add((i.id, j.id))
    report = slice_conflicts(RuleSet("set", rules))
    assert {(c.rule, *c.others) for c in report.conflicts} == expected
    for each in report.conflicts:
        assert decide(RuleSet("set", rules), each.witness)[1].id == each.rule
        (against,) = (rule for rule in rules if rule.id == each.others[0])
        seen_again = [replace(each.witness, slice=name) for name in against.scope.slices]
        assert against in [decide(RuleSet("set", rules), packet)[1] for packet in seen_again]
        mended = slice_conflicts(repaired(RuleSet("set", rules), each.repairs[0]))
        assert (each.rule, *each.others) not in {(c.rule, *c.others) for c in mended.conflicts}


HOSTS = ("10.1.1.7", "10.200.0.1", "192.168.0.1")
DEFENCES = (
    (TrafficVerdict.DROP, {}),
    (TrafficVerdict.LIMIT, {"rate_mb_s": 0.0}),
    (TrafficVerdict.LIMIT, {"rate_mb_s": 3.0}),
    (TrafficVerdict.LIMIT, {"rate_mb_s": 7.0}),
    (TrafficVerdict.SERVE, {"rate_mb_s": 7.0}),
    (TrafficVerdict.MIRROR, {}),
    (TrafficVerdict.DELAY, {"delay_ms": 7.0}),
)


@st.composite
def defences(draw):
    protocol = draw(st.sampled_from((None, "tcp", "udp")))
    source = draw(st.sampled_from((None, *HOSTS)))
    match = TrafficMatch(
        source=source,
        sources=() if source else tuple(draw(st.sets(st.sampled_from(HOSTS), max_size=2))),
        entry=draw(st.sampled_from((None, "p"))),
        target=draw(st.sampled_from(HOSTS)),
        port=draw(st.sampled_from((None, 80))) if protocol else None,
        protocol=protocol,
    )
    return TrafficRule(match, *draw(st.sampled_from(DEFENCES)))


@settings(max_examples=OTHERS, deadline=None)
@given(rule_sets(5), st.lists(defences(), max_size=4))
def test_defences_conflict_with_what_a_policy_decides(rules, given_defences) -> None:
    extra = tuple(
        PolicyRule(
            f"d{n}",
            RuleAction(PolicyVerdict.DENY),
            RuleMatch(
                Segment(match.sources or ((match.source,) if match.source else ())),
                Segment((match.target,)),
                match.protocol,
                (),
                (PortRange(match.port, match.port),) if match.port else (),
            ),
            scope=RuleScope(pops=(match.entry,) if match.entry else ()),
        )
        for n, match in enumerate(each.match for each in given_defences)
    )
    packets = universe((*rules, *extra))
    oracle, expected = Oracle(rules, packets), set()
    for n, packet in enumerate(packets):
        decider = oracle._first(n, 0)
        for number, defence in enumerate(given_defences, 1):
            if decider and meets(defence.match, packet) and hurts(decider.action, defence):
                expected.add((decider.id, f"defence-{number}"))
    report = defence_conflicts(RuleSet("set", rules), given_defences)
    assert {(c.rule, *c.others) for c in report.conflicts} == expected
    for each in report.conflicts:
        defence = given_defences[int(each.others[0].partition("-")[2]) - 1]
        assert decide(RuleSet("set", rules), each.witness)[1].id == each.rule
        assert meets(defence.match, each.witness)
        assert each.repairs[0].change == "lift"


def meets(match: TrafficMatch, packet: PolicyPacket) -> bool:
    sources = match.sources or ((match.source,) if match.source else (packet.source,))
    return (
        packet.source in sources
        and packet.target == match.target
        and match.entry in (None, packet.pop)
        and match.port in (None, packet.port)
        and match.protocol in (None, {6: "tcp", 17: "udp"}.get(packet.protocol))
    )


def hurts(action: RuleAction, defence: TrafficRule) -> bool:
    if action.verdict is PolicyVerdict.DENY:
        return defence.verdict is TrafficVerdict.SERVE
    if defence.verdict not in {TrafficVerdict.DROP, TrafficVerdict.LIMIT}:
        return False
    return defence.rate_mb_s < (action.rate_mb_s or math.inf)


claims = st.builds(
    lambda number, entity, action, until: StandingClaim(
        f"loop{number}", "c", ActionClaim(entity, action, "s", "why"), 0, until
    ),
    st.integers(0, 3),
    st.sampled_from(("amf", "smf", "upf")),
    st.sampled_from(PRECEDENCE),
    st.sampled_from((0.5, 1.0, 5.0, 1e10)),
)


@settings(deadline=None)
@given(st.lists(claims, max_size=8))
def test_claims_exclude_each_other_as_arbitration_has_it(listed) -> None:
    found = excluded_claims(listed, now_s=1.0)
    standing = [each for each in listed if each.until > 1.0]
    expected = [
        (a, b)
        for a, b in combinations(standing, 2)
        if a.claim.entity == b.claim.entity
        and frozenset((a.claim.action, b.claim.action)) in EXCLUDE
    ]
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_a_rule_that_several_earlier_ones_cover_is_shadowed_though_none_does() -> None:
    rules = (
        PolicyRule("low", DENY, RuleMatch(protocol="tcp", ports=(PortRange(0, 1023),))),
        PolicyRule("high", DENY, RuleMatch(protocol="tcp", ports=(PortRange(1000, 65_535),))),
        PolicyRule("web", PERMIT, RuleMatch(protocol="tcp", target=Segment(("192.0.2.1",)))),
    )
    found = list(ConflictAnalysis(RuleSet("set", rules)).conflicts())
    (several,) = (each for each in found if len(each.others) > 1)
    assert (several.kind, several.rule, several.others) == (
        ConflictKind.SHADOWING,
        "web",
        ("low", "high"),
    )
    assert [each.kind for each in found if len(each.others) == 1] == [ConflictKind.CORRELATION] * 2


@at_night
def test_a_million_overlaps_are_counted_and_an_update_counts_anew() -> None:
    size = 1_450
    rules = tuple(
        PolicyRule(
            f"r{n}",
            (PERMIT, DENY)[n % 2],
            RuleMatch(Segment((f"10.{n % 7}.0.0/16",), outside=(f"10.{n % 7}.{n % 250}.0/24",))),
        )
        for n in range(size)
    )
    wide = tuple(replace(rule, match=RuleMatch(protocol="tcp")) for rule in rules)
    assert ConflictAnalysis(RuleSet("few", rules)).report().listed
    analysis = ConflictAnalysis(RuleSet("wide", wide))
    report = analysis.report()
    pairs = size * (size - 1) // 2
    unlike = (size // 2) ** 2
    assert (report.overlaps, report.listed, report.complete) == (pairs, False, True)
    assert report.counts == {"shadowing": unlike, "redundancy": pairs - unlike}
    assert not report.conflicts
    assert report.worst[0][1] == size - 1
    assert not list(analysis.conflicts())
    assert not analysis.remove("r0")
    assert analysis.report().overlaps == (size - 1) * (size - 2) // 2


def test_an_id_is_given_once() -> None:
    analysis = ConflictAnalysis(RuleSet("set", (PolicyRule("a", DENY),)))
    with pytest.raises(ValueError, match="already"):
        analysis.add(PolicyRule("a", PERMIT))
    with pytest.raises(KeyError):
        analysis.remove("b")


def test_new_prefixes_find_room_among_those_of_ipv6() -> None:
    """Labels between two known bounds run out, and all are given anew."""
    analysis, listed = ConflictAnalysis(RuleSet("set", ())), []
    for n in range(300):
        prefix = f"2001:db8:{(1 << 15) - n % 150:x}::/{48 + n % 70}"
        segment = Segment((str(ip_network(prefix, strict=False)),))
        rule = PolicyRule(f"r{n}", (PERMIT, DENY)[n % 2], RuleMatch(segment))
        analysis.add(rule, 0)
        listed.insert(0, rule)
    whole = ConflictAnalysis(RuleSet("set", tuple(listed)))
    assert sorted(seen(analysis)) == sorted(seen(whole))
