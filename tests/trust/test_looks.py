"""Looks keep to their budget, and miss as often as the formula says."""

from random import Random

import pytest

from looks import Looks


def times(looks: Looks, until_s: float) -> list[tuple[float, bool]]:
    at_s, found = 0.0, []
    while True:
        drawn = looks.draw()
        at_s += drawn.after_s
        if at_s > until_s:
            return found
        found.append((at_s, drawn.thin))


def test_the_budget_is_kept() -> None:
    looks = Looks(0.02, full_s=0.04, thin_s=0.002, random=Random(1))
    drawn = times(looks, 100_000)
    spent = sum(0.002 if thin else 0.04 for _, thin in drawn)
    assert spent / 100_000 == pytest.approx(0.02, rel=0.05)
    assert sum(thin for _, thin in drawn) * 0.002 / spent == pytest.approx(0.1, rel=0.1)


def test_costs_are_learned() -> None:
    looks = Looks(0.02, full_s=1.0)
    for _ in range(50):
        looks.took(0.04, thin=False)
    assert looks.rate() == pytest.approx(0.02 * 0.9 / 0.04, rel=0.01)
    assert looks.found_within_s() < 11


@pytest.mark.parametrize("duty", [0.5, 0.1, 0.01])
def test_what_comes_and_goes_is_missed_as_often_as_the_formula_says(duty: float) -> None:
    random, period_s, passed_s, runs = Random(2), 0.05, 60.0, 2000
    looks = Looks(0.02, full_s=0.2, random=random)
    missed = 0
    for _ in range(runs):
        phase_s = random.random() * period_s
        missed += not any(
            (at_s + phase_s) % period_s < duty * period_s
            for at_s, thin in times(looks, passed_s)
            if not thin
        )
    expected = looks.missed(duty, passed_s)
    assert missed / runs == pytest.approx(expected, abs=4 * (expected / runs) ** 0.5 + 0.002)


def test_a_change_that_stays_is_found_within_the_time_told() -> None:
    looks = Looks(0.02, full_s=0.04, random=Random(3))
    limit_s = looks.found_within_s()
    late = sum(not any(not thin for _, thin in times(looks, limit_s)) for _ in range(5000))
    assert late / 5000 == pytest.approx(0.01, abs=0.005)


def test_draws_cannot_be_repeated() -> None:
    assert [Looks(0.02).draw() for _ in range(4)] != [Looks(0.02).draw() for _ in range(4)]
