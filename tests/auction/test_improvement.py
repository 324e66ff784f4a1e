"""Improvement of placements by the bench: it never interrupts, promises twice or gives up."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest
from tests.nightly import sample

from phalanx.domain.resources import NOTHING
from placement import Path, Problem, Sequence, cheapest, problem


def overbooked(case: Problem, running: list[tuple[int, Path]]) -> list[str]:
    """Return the PoPs and links that carry more than they have."""
    needed = defaultdict(lambda: NOTHING)
    carried: defaultdict[frozenset[str], float] = defaultdict(float)
    for number, path in running:
        request = case.requests[number]
        needed[path[0]] += request.vnfd.requires
        for edge in pairwise(path):
            carried[frozenset(edge)] += request.mb_s
    pops = [s.agent for s in case.states if not needed[s.agent].within(s.total)]
    links = [
        f"{a}-{b}"
        for (a, b), mb_s in case.bandwidth.items()
        if carried[frozenset((a, b))] > mb_s + 1e-6
    ]
    return pops + links


@pytest.mark.parametrize("seed", sample(range(8), 4))
def test_what_moves_runs_at_its_new_place_before_the_old_one_stops(seed: int) -> None:
    case = problem(random.Random(seed), 8, 10)
    sequence = Sequence(case)
    placed = dict(sequence.run(cheapest, "scarcity"))
    first = set(placed)
    before, messages = case.cost(placed), sequence.messages
    sequence.improve(3, unbroken=True)
    assert messages < sequence.messages < 4 * messages
    for number, path in sequence.moves:
        moving = list(placed.items())
        if number not in placed or placed[number][0] != path[0]:
            moving.append((number, path))
        assert not overbooked(case, moving)
        placed[number] = path
        assert not overbooked(case, list(placed.items()))
    assert placed == sequence.placed
    assert placed.keys() >= first
    if placed.keys() == first:
        assert case.cost(placed) <= before + 0.05, "0.05: traffic settles between equal costs"


def test_two_that_took_each_other_s_place_are_exchanged() -> None:
    gains = []
    for seed in range(12):
        case = problem(random.Random(f"pairs/{seed}"), 6, 6)
        alone, pairs = Sequence(case), Sequence(case)
        for sequence, most in ((alone, 1), (pairs, 3)):
            sequence.run(cheapest, "scarcity")
            sequence.improve(most, unbroken=False)
        assert case.cost(pairs.placed) <= case.cost(alone.placed) + 1e-6
        gains.append(case.cost(alone.placed) - case.cost(pairs.placed))
    assert max(gains) > 1
