"""Captures of each kind of attack: every attacker is named with its kind, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from attack_captures import KINDS, make
from bench_captures import score
from phalanx.analytics.capture import analyse
from tests.nightly import sample

SEED = 20
CASES = [(name, 4 + 2 * (number % 2), SEED + number) for number, name in enumerate(KINDS)]


@pytest.mark.parametrize(("name", "family", "seed"), sample(CASES, 24))
def test_attackers_are_named_and_nobody_else(
    tmp_path: Path, name: str, family: int, seed: int
) -> None:
    made = make(name, family, seed, scale=0.5, seconds=10.0)
    file = tmp_path / "some.pcap"
    made.write(file)
    found = analyse(str(file))
    seen = score(made, found, KINDS[name][0])
    assert seen.named == seen.attackers
    assert (seen.others, seen.wrong) == (frozenset(), frozenset())
    assert found.skipped == {}


def test_a_capture_is_the_same_for_the_same_seed() -> None:
    first, again, other = (make("carpet, UDP", 6, seed, 0.2, 4.0) for seed in (1, 1, 2))
    assert first == again
    assert first != other
