from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.auction.terms import BUILT_IN, judged, rank
from phalanx.auction.view import NetworkView
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.predicates import LinkRateLimited

ALIKE = Preferences()


def bid(t: float, c: float, d: float, vnf: str = "v", accuracy: float = 1.0) -> Bid:
    return Bid(vnf, 1, {"T": t, "C": c, "D": d}, ("p",), accuracy=accuracy)


def order(ranking: list[RankedBid]) -> list[str]:
    return [ranked.bidder for ranked in ranking]


figures = st.floats(0, 100)
offers = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.builds(bid, figures, figures, figures, st.sampled_from(("v", "w"))),
    ),
    max_size=6,
    unique_by=lambda offer: (offer[0], offer[1].vnf),
)


def test_components_are_normalised_over_all_bids() -> None:
    ranking = rank(
        [("a", bid(10, 1, 5)), ("b", bid(20, 3, 10)), ("c", bid(15, 2, 0))],
        Preferences(0.5, 0.3, 0.2),
    )
    assert [(r.bidder, r.utility) for r in ranking] == [
        ("a", pytest.approx(0.2 * 0.5)),
        ("c", pytest.approx(0.5 * 0.5 + 0.3 * 0.5 + 0.2)),
        ("b", pytest.approx(0.5 + 0.3)),
    ]


def test_without_bids_there_is_no_ranking() -> None:
    assert rank([], ALIKE) == []


def test_a_lone_bid_has_utility_0() -> None:
    assert rank([("a", bid(9, 9, 0))], ALIKE) == [RankedBid("a", bid(9, 9, 0), 0.0)]


def test_a_component_in_which_all_are_equal_adds_nothing() -> None:
    equal_times = [("a", bid(50, 1, 3)), ("b", bid(50, 2, 3))]
    assert [r.utility for r in rank(equal_times, Preferences(0.8, 0.1, 0.1))] == [0.0, 0.1]


def test_arithmetic_noise_is_no_difference() -> None:
    noisy = 0.1 + 0.2
    assert noisy != 0.3
    ranking = rank([("a", bid(1, noisy, 1)), ("b", bid(1, 0.3, 1))], Preferences(0, 1, 0))
    assert [r.utility for r in ranking] == [0.0, 0.0]


def test_ties_go_to_time_cost_decentralisation_accuracy_name() -> None:
    indifferent = Preferences(0, 0, 0)
    assert order(rank([("a", bid(2, 1, 1)), ("b", bid(1, 9, 1))], indifferent)) == ["b", "a"]
    assert order(rank([("a", bid(1, 2, 9)), ("b", bid(1, 1, 1))], indifferent)) == ["b", "a"]
    assert order(rank([("a", bid(1, 1, 1)), ("b", bid(1, 1, 2))], indifferent)) == ["b", "a"]
    vague = bid(1, 1, 1, accuracy=0.5)
    assert order(rank([("a", vague), ("b", bid(1, 1, 1))], indifferent)) == ["b", "a"]
    assert order(rank([("b", bid(1, 1, 1)), ("a", bid(1, 1, 1))], indifferent)) == ["a", "b"]
    twins = [("a", bid(1, 1, 1, "w")), ("a", bid(1, 1, 1, "v"))]
    assert [r.bid.vnf for r in rank(twins, indifferent)] == ["v", "w"]


@given(st.data(), offers)
def test_the_order_of_arrival_does_not_matter(
    data: st.DataObject, received: list[tuple[str, Bid]]
) -> None:
    shuffled = data.draw(st.permutations(received))
    assert rank(received, ALIKE) == rank(shuffled, ALIKE)


@given(offers)
def test_utilities_are_ordered_and_between_0_and_1(received: list[tuple[str, Bid]]) -> None:
    utilities = [r.utility for r in rank(received, ALIKE)]
    assert utilities == sorted(utilities)
    assert all(0 <= u <= 1 for u in utilities)


def test_a_bid_whose_path_leads_elsewhere_is_refused() -> None:
    goal = ConstrainedGoal(want(LinkRateLimited("a>b")), Constraints(), Preferences(), tap="x")
    there, elsewhere = replace(bid(1, 1, 1), path=("b", "x")), replace(bid(1, 1, 1), path=("b",))
    assert judged(BUILT_IN, NetworkView.EMPTY, "b", goal, there) == there
    for wrong in (elsewhere, replace(there, path=())):
        refusal = judged(BUILT_IN, NetworkView.EMPTY, "b", goal, wrong)
        assert refusal == "its path does not lead to x"
