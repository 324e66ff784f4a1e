"""The search finds the optimum, and never claims more than is so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from placements import least_cost, random_problem

from phalanx.orchestration.mlfo.bound import Relaxation, forests, stepped
from phalanx.orchestration.mlfo.model import Problem
from phalanx.orchestration.mlfo.search import Effort, SearchResult, solve

WHOLE = Effort(seconds=None)


def fits(problem: Problem, found: SearchResult, least: float) -> None:
    """Hold what was found against the least cost that there is."""
    close = 1e-6 * (1 + abs(least)) if math.isfinite(least) else 0.0
    assert found.bound <= least + close
    if found.places is None:
        assert found.objective == math.inf
        return
    assert found.objective == pytest.approx(problem.cost(found.places))
    assert least - close <= found.objective
    assert found.objective <= least + found.gap * abs(least) + close


@pytest.mark.parametrize("block", range(10))
def test_nothing_is_cheaper_of_all_placements(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        problem = random_problem(seed, most_vnfs=4, most_sites=5)
        least = least_cost(problem)
        found = solve(problem, WHOLE)
        fits(problem, found, least)
        assert found.optimal == math.isfinite(least), seed
        assert math.isinf(found.bound) == math.isinf(least), seed


@pytest.mark.parametrize("block", range(10))
def test_the_integer_program_finds_the_same(block: int) -> None:
    optimum = pytest.importorskip("agents_optimum", reason="scipy is not installed").optimum
    for seed in range(1000 + block * 40, 1000 + block * 40 + 40):
        problem = random_problem(seed)
        best = optimum(problem)
        assert best.proven
        found = solve(problem, WHOLE)
        fits(problem, found, best.objective)
        assert found.optimal == math.isfinite(best.objective), seed


def test_larger_ones_too() -> None:
    optimum = pytest.importorskip("agents_optimum", reason="scipy is not installed").optimum
    for seed in range(10):
        problem = random_problem(seed, most_vnfs=8, most_sites=18)
        best = optimum(problem)
        assert best.proven
        fits(problem, solve(problem, WHOLE), best.objective)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_a_search_that_ends_early_claims_no_more_than_it_has(seed: int, nodes: int) -> None:
    problem = random_problem(seed, most_vnfs=4, most_sites=5)
    fits(problem, solve(problem, Effort(seconds=None, nodes=nodes)), least_cost(problem))


def test_time_ends_the_search() -> None:
    ticks = iter(range(10**6))
    for seed in range(200, 220):
        problem = random_problem(seed, most_vnfs=5, most_sites=5)
        found = solve(problem, Effort(seconds=3.0, now=lambda: float(next(ticks))))
        assert found.nodes <= 3
        fits(problem, found, least_cost(problem))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_any_prices_bound_the_cost_with_each_vnf_held_anywhere(seed: int, other: int) -> None:
    problem = random_problem(seed, most_vnfs=4, most_sites=5)
    allowed = np.isfinite(problem.serving)
    assume(allowed.any(axis=1).all())
    split = forests(len(problem.serving), problem.edges)
    relaxation = Relaxation(problem, split, problem.too_much)
    rng = np.random.default_rng(other)
    prices = relaxation.fresh()
    forced = np.zeros(len(problem.opening), dtype=bool)
    for _ in range(3):
        found = relaxation.evaluate(prices, allowed, forced)
        prices = stepped(prices, found, found.value + rng.uniform(0, 50), 1.0, relaxation.member)
    found = relaxation.evaluate(prices, allowed, forced)
    least = least_cost(problem)
    assert found.value <= least + 1e-6
    for v, s in np.argwhere(allowed):
        held = problem.serving.copy()
        held[v] = math.inf
        held[v, s] = problem.serving[v, s]
        only = Problem(problem.opening, held, problem.pairs, problem.room, problem.edges)
        if math.isfinite(with_it := least_cost(only)):
            assert found.value + found.held[v, s] <= with_it + 1e-6


def test_forests_have_every_pair_once_and_no_cycle() -> None:
    for seed in range(100):
        problem = random_problem(seed, most_vnfs=6)
        split = forests(len(problem.serving), problem.edges)
        links = [tuple(sorted(link)) for forest in split for link in forest.links]
        assert sorted(links) == sorted(problem.edges)
        assert sorted(split[0].members) == list(range(len(problem.serving)))
        for forest in split:
            assert len(forest.links) + len(forest.roots) == len(forest.members)


def test_the_same_problem_has_the_same_answer() -> None:
    for seed in range(20):
        problem = random_problem(seed)
        first, second = solve(problem, WHOLE), solve(problem, WHOLE)
        assert (first.objective, first.bound, first.nodes) == (
            second.objective,
            second.bound,
            second.nodes,
        )
        assert first.places is None or (first.places == second.places).all()
