"""With ``eager``, a detector that saw all of a flood spares the classifier, and only then."""

from __future__ import annotations

import pytest
from tests.system.rings import about, attack, ring, users

from phalanx.runtime.system import run_scenario

SIZES = {"image_mb": 1, "boot_s": 0.25, "handles_mb_s": 50}
ROLES = ("rate-limiter", "anomaly-detector", "classifier", "load-balancer")


@pytest.mark.parametrize(
    ("parameters", "spared"),
    [
        ({"eager": 1, "classify_s": 0.4}, True),
        ({"eager": 1, "classify_s": 0.8}, False),  # it would look for longer
        ({"eager": 0, "classify_s": 0.4}, False),
    ],
)
def test_who_looks_for_the_attackers(parameters: dict[str, float], spared: bool) -> None:
    result = run_scenario(
        ring(
            functions=dict.fromkeys(ROLES, SIZES),
            traffic=[users(), attack(end_s=25)],
            duration_s=60,
            parameters={"analysis_s": 0.4, "monitor_interval_s": 0.1, "quiet_s": 5, **parameters},
            timing={"tick_s": 0.01, "idle_timeout_s": 10},
        )
    )
    assert bool(about(result, "instance.downloading", "vnf", "classifier")) != spared
    assert result.summary.response.attackers_limited == 2
    assert result.summary.response.users_limited == 0
    # The limits of link and address are lifted once the attackers are blocked.
    blocked = max(e.time for e in about(result, "measure.applied", "effect", "flowRateLimited"))
    for coarse in ("linkRateLimited", "ipRateLimited"):
        lifted = max(e.time for e in about(result, "measure.lifted", "effect", coarse))
        assert lifted < blocked + 2
    assert result.summary.returned
