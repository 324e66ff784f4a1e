"""Slow HTTP, seen by the number of open connections; and a crowd that only looks like it."""

from __future__ import annotations

import pytest

from phalanx.runtime.system import run_scenario
from tests.published import load_published
from tests.system.conftest import SCENARIOS
from tests.system.rings import USERS_MB_S, about, arriving, attack, of, ring, users


@pytest.fixture(scope="module")
def result():
    return run_scenario(load_published(SCENARIOS / "slow-http.yaml"))


def test_the_server_starves_although_its_link_is_almost_empty(result):
    assert max(arriving(result, "legitimate", 17, 25)) == 0
    assert max(arriving(result, "malicious", 17, 25)) < 0.01
    assert not about(result, "belief.changed", "belief", "overUsage")
    assert about(result, "belief.changed", "belief", "connectionFlood")


def test_no_limit_on_octets_is_asked_for(result):
    wanted = {e.data["goal"].partition("(")[0] for e in of(result, "goal.adopted")}
    assert not wanted & {"linkRateLimited", "ipRateLimited"}


def test_the_slow_are_blocked_while_they_last_and_the_users_served(result):
    response = result.summary.response
    assert (response.attackers, response.attackers_limited) == (8, 8)
    assert (response.users, response.users_limited) == (10, 0)
    assert min(arriving(result, "legitimate", 60, 104)) >= 0.99 * USERS_MB_S
    lifted = about(result, "measure.lifted", "effect", "flowRateLimited")
    assert len(lifted) == 8
    assert all(e.time > 105 for e in lifted)
    assert result.summary.mitigated
    assert result.summary.returned


def test_a_crowd_of_connections_is_looked_at_and_left_alone():
    crowd = attack(name="crowd", profile="http", count=600, demand_mb_s=0.002)
    watched = {"link": "south>shop", "at": "south", "threshold_mb_s": 4.5, "connections": 400}
    result = run_scenario(ring(traffic=[users(), crowd], monitors=[watched]))
    alarms = [
        (e.time, e.data["value"])
        for e in about(result, "belief.changed", "belief", "connectionFlood")
    ]
    assert alarms[0] == (pytest.approx(11), True)
    assert alarms[-1] == (pytest.approx(131), None)
    assert about(result, "belief.changed", "belief", "anomalousUsage")
    assert not of(result, "measure.applied")
    assert min(arriving(result, "legitimate", 20, 129)) >= 2.1
