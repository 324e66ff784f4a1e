"""The difference of two rule sets: exact, with a witness for each pair of rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.policy import contradictions
from phalanx.policy.boxes import OverlapLimitError
from phalanx.policy.rules import (
    PolicyRule,
    PolicyVerdict,
    RuleAction,
    RuleMatch,
    RuleSet,
    Segment,
    decide,
)
from tests.nightly import examples
from tests.policy.rule_values import CONDITIONS, SCHEDULES, SCOPES, packets, rule_sets

ANY = rule_sets(most=4, condition=CONDITIONS, schedule=SCHEDULES, scope=SCOPES)


@settings(max_examples=examples(8), deadline=None)
@given(st.data(), ANY, ANY)
def test_every_difference_is_found_and_every_witness_is_one(
    data: st.DataObject, left: RuleSet, right: RuleSet
) -> None:
    found = contradictions.differences(left, right)
    pairs = {(each.left_rule, each.right_rule) for each in found}
    assert len(pairs) == len(found)
    for each in found:
        one, two = decide(left, each.witness), decide(right, each.witness)
        assert one[0] == each.left != each.right == two[0]
        assert [rule.id if rule else "" for rule in (one[1], two[1])] == [
            each.left_rule,
            each.right_rule,
        ]
    both = RuleSet("both", (*left.rules, *right.rules))
    for packet in data.draw(st.lists(packets(both), min_size=20, max_size=20)):
        (one, first), (two, second) = decide(left, packet), decide(right, packet)
        named = (first.id if first else "", second.id if second else "")
        assert (one != two) == (named in pairs) or one == two


def test_a_rule_that_is_hidden_by_others_makes_no_difference() -> None:
    deny = RuleAction(PolicyVerdict.DENY)
    halves = [
        PolicyRule(f"h{i}", deny, RuleMatch(Segment((half,))))
        for i, half in enumerate(("10.0.0.0/9", "10.128.0.0/9"))
    ]
    hidden = PolicyRule(
        "hidden", RuleAction(PolicyVerdict.PERMIT), RuleMatch(Segment(("10.0.0.0/8",)))
    )
    assert (
        contradictions.differences(RuleSet("a", (*halves, hidden)), RuleSet("b", tuple(halves)))
        == []
    )


def test_more_overlaps_than_can_be_worked_out_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contradictions, "MOST_COMPARED", 50)
    deny = RuleAction(PolicyVerdict.DENY)
    rules = [
        PolicyRule(f"r{i}", deny, RuleMatch(Segment((f"10.0.0.0/{i}",)))) for i in range(8, 32)
    ]
    with pytest.raises(OverlapLimitError, match="too many ways"):
        contradictions.differences(RuleSet("a", tuple(reversed(rules))), RuleSet("b"))
