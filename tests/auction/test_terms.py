from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.auction.terms import BUILT_IN, ENERGY, LOAD, BidTerm, Offer, judged, rank
from phalanx.auction.view import NetworkView
from phalanx.domain.agents import AgentState
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.predicates import LinkRateLimited
from phalanx.domain.resources import NOTHING, Resources

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
    ranking = rank([("a", bid(1, 0.0, 1)), ("b", bid(1, 2e-16, 1))], Preferences(0, 1, 0))
    assert [r.utility for r in ranking] == [0.0, 0.0], "what is left of a link that is used up"


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


# -- how full a PoP will be, and what it takes ------------------------------------------------


def offered(
    free: Resources, time_s: float = 0.0, requires: Resources = NOTHING, **known: float
) -> Offer:
    """Return an offer at a PoP of 8 cores and 16 GB, of which this is known."""
    state = AgentState("p", "p", 1, 1, Resources(8, 16, 100), free)
    view = NetworkView.EMPTY.apply(state).described("p", known)
    goal = ConstrainedGoal(want(LinkRateLimited("l")), Constraints(), Preferences(), tap="p")
    return Offer(view, "p", "p", goal, "v", 1, ("p",), time_s, 0.0, 0.0, requires)


HALF = Resources(4, 12, 100)
RISING = {"ahead_s": 20.0, "rx": 0.4, "rx_expected": 0.8}
FALLING = {"ahead_s": 20.0, "rx": 0.8, "rx_expected": 0.4}


def test_without_a_forecast_the_load_is_what_is_allocated_and_added() -> None:
    assert LOAD.value(offered(HALF)) == 0.5
    assert LOAD.value(offered(HALF, requires=Resources(2, 1, 0))) == 0.75


@pytest.mark.parametrize("time_s", [0.0, 10.0, 90.0])
def test_what_grows_counts_as_far_as_the_forecast_looks(time_s: float) -> None:
    assert LOAD.value(offered(HALF, time_s, **RISING)) == pytest.approx(0.8)


@pytest.mark.parametrize(("time_s", "load"), [(0.0, 0.8), (10.0, 0.6), (20.0, 0.5), (90.0, 0.5)])
def test_what_shrinks_counts_from_when_the_function_starts(time_s: float, load: float) -> None:
    assert LOAD.value(offered(HALF, time_s, **FALLING)) == pytest.approx(load)


def test_a_pop_takes_more_power_by_the_cores_that_are_used_and_to_be_woken() -> None:
    more, watts = Resources(2, 1, 0), {"idle_w": 120.0, "busy_w": 280.0}
    assert ENERGY.value(offered(HALF, requires=more, **watts)) == pytest.approx(40.0)
    asleep = offered(Resources(8, 16, 100), requires=more, **watts)
    assert ENERGY.value(asleep) == pytest.approx(160.0)
    assert ENERGY.value(offered(HALF, requires=more)) == pytest.approx(25.0)
    assert ENERGY.value(offered(Resources(8, 16, 100))) == 0.0


WEIGHED = ConstrainedGoal(
    want(LinkRateLimited("l")), Constraints(), Preferences(0, 0, 0, {"x": 1.0}), tap="p"
)


@pytest.mark.parametrize(
    ("higher", "said", "counts"),
    [(False, 0.1, 0.5), (False, 0.7, 0.7), (True, 0.1, 0.1), (True, 0.7, 0.5)],
)
def test_nothing_better_than_can_be_is_believed(higher: bool, said: float, counts: float) -> None:
    term = BidTerm("x", lambda _: said, higher_is_better=higher, least=lambda _: 0.5)
    made = Bid("v", 1, {"T": 1.0, "C": 1.0, "D": 1.0, "x": said}, ("p",))
    taken = judged((*BUILT_IN, term), NetworkView.EMPTY, "p", WEIGHED, made)
    assert isinstance(taken, Bid)
    assert taken.terms["x"] == counts


def test_a_fault_in_what_can_be_believed_refuses_the_bid() -> None:
    term = BidTerm("x", lambda _: 0.0, least=lambda offer: float(offer.vnf))
    made = Bid("v", 1, {"T": 1.0, "C": 1.0, "D": 1.0, "x": 0.0}, ("p",))
    refusal = judged((*BUILT_IN, term), NetworkView.EMPTY, "p", WEIGHED, made)
    assert str(refusal).startswith("fault in the bid term 'x': ValueError")
