"""Duties that no agent can fulfil rest, and are seen to as soon as an agent can."""

from __future__ import annotations

import pytest

from phalanx.checking.fuzz import judge
from phalanx.checking.plans import random_plan
from phalanx.cli.fuzz import run_plan
from phalanx.runtime.system import run_scenario
from tests.nightly import at_night, sample
from tests.system.rings import crash, ring, users

MENDED_S = 250.0


@pytest.mark.parametrize("strategy", ["published", "service"])
def test_a_duty_that_nobody_can_reach_is_seldom_auctioned_until_its_pop_is_linked_again(
    strategy: str,
) -> None:
    cuts = [
        {"at_s": 19, "kind": "link-down", "link": [other, "south"], "for_s": MENDED_S - 19}
        for other in ("east", "west")
    ]
    scenario = ring(
        strategy=strategy, traffic=[users()], faults=[*cuts, crash("south", 20)], duration_s=300
    )
    events = run_scenario(scenario).events
    taken = [e for e in events if e.kind == "duty.taken_up"]
    assert taken
    calls = [
        e.time
        for e in events
        if e.kind == "auction.called" and e.data["goal"] == taken[0].data["goal"]
    ]
    assert 1 <= len([t for t in calls if 100 < t < MENDED_S]) <= (MENDED_S - 100) / 50
    awarded = [e.time for e in events if e.kind == "auction.awarded" and e.time > 20]
    assert MENDED_S < awarded[0] < MENDED_S + 15


@at_night
@pytest.mark.parametrize("seed", sample([20_000_340, 20_000_466], 2))
def test_random_plans_whose_duties_nobody_can_fulfil_come_to_rest(seed: int) -> None:
    assert judge(random_plan(seed, "safety"), "safety", run_plan).failures == ()
