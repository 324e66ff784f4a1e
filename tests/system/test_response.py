"""How the answer to an attack is summed up, and how it gets faster where that is asked for."""

from __future__ import annotations

import pytest

from phalanx.reporting.summary import summarise
from phalanx.runtime.system import run_scenario
from tests.nightly import at_night
from tests.system.rings import about, attack, ring, users

FAST = {"analysis_s": 0.4, "classify_s": 0.4, "monitor_interval_s": 0.1}
SMALL = {"image_mb": 1, "boot_s": 0.25, "handles_mb_s": 50}


def answered(**parameters):
    """Return a run in which an attack is answered with small images and short looks."""
    roles = ("rate-limiter", "anomaly-detector", "classifier", "load-balancer")
    return run_scenario(
        ring(
            functions=dict.fromkeys(roles, SMALL),
            traffic=[users(), attack(end_s=25)],
            duration_s=60,
            parameters={**FAST, "quiet_s": 5, **parameters},
            timing={"tick_s": 0.01, "idle_timeout_s": 10},
        )
    )


@pytest.fixture(scope="module")
def runs():
    """The same attack, answered step by step and at once."""
    return [answered(eager=eager) for eager in (0, 1)]


@at_night
def test_at_once_the_explanation_does_not_wait_for_the_limit(runs):
    for result, waits in zip(runs, (True, False), strict=True):
        (asked,) = about(result, "auction.called", "goal", "?anomalousUsage")
        (limited,) = about(result, "measure.applied", "effect", "linkRateLimited")
        assert (asked.time > limited.time) == waits


def test_at_once_attackers_are_named_sooner_and_nothing_else_differs(runs):
    stepwise, eager = (result.summary.response for result in runs)
    assert eager.named_after_s < stepwise.named_after_s - 0.25
    assert eager.throttle_after_s == pytest.approx(stepwise.throttle_after_s, abs=0.02)
    for result in runs:
        assert result.summary.response.attackers_limited == 2
        assert result.summary.response.users_limited == 0
        assert result.summary.failed_auctions == 0
        assert result.summary.returned


def test_the_aims_are_met_with_images_of_1_mb(runs):
    response = runs[1].summary.response
    assert response.alarm_after_s <= 0.3
    assert response.throttle_after_s <= 0.6
    assert response.blocked_after_s <= 2


def test_a_detector_that_saw_all_of_a_flood_spares_the_classifier(runs):
    for result, spared in zip(
        (*runs, answered(eager=1, classify_s=0.8)), (False, True, False), strict=True
    ):
        assert bool(about(result, "instance.downloading", "vnf", "classifier")) != spared
        assert result.summary.response.attackers_limited == 2
        assert result.summary.response.users_limited == 0
        # The limits of link and address are lifted once the attackers are blocked.
        blocked = max(e.time for e in about(result, "measure.applied", "effect", "flowRateLimited"))
        for coarse in ("linkRateLimited", "ipRateLimited"):
            lifted = max(e.time for e in about(result, "measure.lifted", "effect", coarse))
            assert lifted < blocked + 2
        assert result.summary.returned


def test_times_and_counts_of_the_resilience_scenario(run):
    response, summary = run.summary.response, run.summary
    assert response.alarm_after_s == pytest.approx(summary.alarm_s - 20)
    assert response.throttle_after_s == pytest.approx(summary.first_limit_s - 20)
    assert response.blocked_after_s == pytest.approx(summary.last_limit_s - 20)
    assert response.throttle_after_s < response.named_after_s < response.blocked_after_s
    assert (response.attackers, response.attackers_limited) == (8, 8)
    assert (response.users, response.users_limited) == (55, 0)  # 8 viewers have left by then


def test_users_behind_a_limit_are_counted_while_it_is_in_force(run):
    events = [e for e in run.events if e.time <= 60]  # broken off while the link is limited
    response = summarise(events).response
    assert (response.users, response.users_limited) == (55, 50)  # not those of the office
    assert response.attackers_limited == 0
    assert response.named_after_s is None
    assert response.blocked_after_s is None
