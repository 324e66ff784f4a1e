from __future__ import annotations

import pytest
from auction_networks import CATALOGUE, CLASSIFIER, NEEDS, RATE_LIMITER
from hypothesis import given
from hypothesis import strategies as st

from phalanx.auction.cost import (
    can_deploy,
    cons_rsc_util,
    free_rsc_util,
    full,
    rsc_eval,
    rsc_eval_hop,
    smallest,
)
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.vnf import Vnfd

TOTAL = Resources(4, 8, 100)
amounts = st.builds(
    Resources, cores=st.integers(0, 6), memory_gb=st.integers(0, 9), disk_gb=st.integers(0, 30)
)
vnfs = st.builds(Vnfd, name=st.just("v"), requires=amounts)


def test_harmonic_means_of_table_4_2() -> None:
    assert free_rsc_util(TOTAL, TOTAL) == 1.0
    assert free_rsc_util(TOTAL, Resources(2, 4, 50)) == 0.5
    assert free_rsc_util(TOTAL, Resources(1, 8, 100)) == pytest.approx(3 / (4 + 1 + 1))
    assert cons_rsc_util(TOTAL, Resources(1, 1, 2)) == pytest.approx(3 / (4 + 8 + 50))


def test_a_mean_with_a_zero_is_its_limit() -> None:
    assert free_rsc_util(TOTAL, Resources(0, 8, 100)) == 0.0
    assert cons_rsc_util(TOTAL, Resources(1, 1, 0)) == 0.0
    assert free_rsc_util(Resources(4, 8, 0), Resources(4, 8, 0)) == 0.0
    assert cons_rsc_util(Resources(4, 0, 9), Resources(1, 1, 1)) == 0.0


def test_a_full_pop_is_passed_at_no_cost() -> None:
    free = Resources(4, 0.5, 100)
    assert free_rsc_util(TOTAL, free) > 0
    assert full(free, NEEDS)
    assert rsc_eval_hop(TOTAL, free, NEEDS) == 0.0
    assert rsc_eval_hop(TOTAL, Resources(2, 4, 50), NEEDS) == 0.5
    assert full(TOTAL, ()), "without any VNF there is none that could be deployed"


def test_consumed_resources_count_while_something_can_follow() -> None:
    assert can_deploy(TOTAL, CLASSIFIER.requires, NEEDS)
    cost = rsc_eval(TOTAL, TOTAL, CLASSIFIER.requires, NEEDS)
    assert cost == cons_rsc_util(TOTAL, CLASSIFIER.requires)


def test_all_that_is_free_counts_if_the_vnf_bars_others_that_could_follow_another() -> None:
    # Agents 3 and 4 of table 5.8: a classifier fills the PoP, a rate limiter would not.
    total = Resources(2, 4, 1000)
    assert not can_deploy(total, CLASSIFIER.requires, NEEDS)
    assert rsc_eval(total, total, CLASSIFIER.requires, NEEDS) == 1.0


def test_consumed_resources_count_if_one_vnf_is_all_that_fits_anyway() -> None:
    free = Resources(1, 3, 498)
    cost = rsc_eval(Resources(2, 4, 500), free, RATE_LIMITER.requires, NEEDS)
    assert cost == cons_rsc_util(Resources(2, 4, 500), RATE_LIMITER.requires)


def test_only_requirements_that_decide_are_kept() -> None:
    assert smallest(CATALOGUE) == (Resources(1, 1, 2),)
    a, b = Vnfd("a", Resources(1, 4, 1)), Vnfd("b", Resources(2, 1, 1))
    assert smallest((a, b, CLASSIFIER)) == (a.requires, b.requires)
    assert smallest(()) == ()


@given(st.lists(vnfs, max_size=5), amounts, amounts)
def test_the_smallest_requirements_decide_like_all_of_them(
    catalogue: list[Vnfd], free: Resources, required: Resources
) -> None:
    needs, everything = smallest(tuple(catalogue)), tuple(v.requires for v in catalogue)
    assert full(free, needs) == full(free, everything)
    assert can_deploy(free, required, needs) == can_deploy(free, required, everything)
    total = free + Resources(1, 1, 1)
    assert rsc_eval(total, free, required, needs) == rsc_eval(total, free, required, everything)


@given(st.lists(vnfs, min_size=1, max_size=5), amounts, amounts, st.integers(1, 3))
def test_deploying_never_costs_more_than_passing(
    catalogue: list[Vnfd], free: Resources, used: Resources, units: int
) -> None:
    """What lets all bidders of an auction share one search."""
    needs, total = smallest(tuple(catalogue)), free + used
    for vnfd in catalogue:
        required = vnfd.scaled(units)
        assert rsc_eval(total, free, NOTHING, needs) == 0
        if required.within(free):
            cost = rsc_eval(total, free, required, needs)
            assert 0 <= cost <= rsc_eval_hop(total, free, needs) <= 1
