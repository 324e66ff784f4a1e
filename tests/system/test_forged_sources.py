"""Floods whose sources are forged: to block by source would be useless, so nobody tries."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from phalanx.checking import check as log_check
from phalanx.functions import anomaly_detector
from phalanx.functions.classifier import examine
from phalanx.reporting.event_text import describe
from phalanx.runtime.system import run_scenario
from tests.nightly import at_night, sample
from tests.published import load_published
from tests.system.conftest import SCENARIOS
from tests.system.rings import (
    PREFERENCES,
    SERVER,
    USERS_MB_S,
    about,
    arriving,
    attack,
    causes,
    of,
    pop,
    ring,
    users,
)

PROXY = {"syn-proxy": {"image_mb": 50}}
AT_THE_TAP = {
    "default": {"preferences": PREFERENCES},
    "HandshakesProxied": {"preferences": PREFERENCES, "constraints": {"hops": 0}},
}


def forged(profile="syn-flood-spoofed", **changes):
    traffic = [users(), attack(profile=profile)]
    return ring(**{"traffic": traffic, "functions": PROXY, "goals": AT_THE_TAP, **changes})


def in_force(result, effect, time):
    applied = {e.data["measure"]: e for e in about(result, "measure.applied", "effect", effect)}
    lifted = {e.data["measure"]: e.time for e in of(result, "measure.lifted")}
    return any(e.time <= time < lifted.get(m, time + 1) for m, e in applied.items())


@pytest.fixture(scope="module")
def result():
    return run_scenario(load_published(SCENARIOS / "forged-flood.yaml"))


def test_the_proxy_stands_where_the_server_is(result):
    (proxied,) = about(result, "measure.applied", "effect", "handshakesProxied")
    assert (proxied.data["effect"], proxied.data["pop"]) == (
        f"handshakesProxied({SERVER})",
        "south",
    )
    assert describe(proxied).endswith("clients that complete the handshake pass")


def test_it_is_chosen_because_the_sources_are_believed_forged(result):
    (proxied,) = about(result, "measure.applied", "effect", "handshakesProxied")
    (reason,) = (e for e in causes(result, proxied) if e.kind == "analysis.done")
    assert reason.data["forged"] == [SERVER]
    assert f"the sources that flood {SERVER} are forged" in describe(reason)
    (first, *_) = about(result, "belief.changed", "belief", "spoofed")
    assert first.cause == reason.id
    assert first.time <= proxied.time


def test_nobody_is_blocked_or_looked_for_by_source(result):
    assert not about(result, "goal.adopted", "goal", "flowRateLimited")
    assert not about(result, "goal.adopted", "goal", "flowRecord")


def test_users_are_served_and_no_coarse_limit_is_left_while_the_flood_lasts(result):
    summary = result.summary
    assert summary.mitigated
    assert min(arriving(result, "legitimate", 60, 105)) >= 0.99 * USERS_MB_S
    assert in_force(result, "linkRateLimited", 20)
    assert in_force(result, "ipRateLimited", 27)
    assert not in_force(result, "linkRateLimited", 60)
    assert not in_force(result, "ipRateLimited", 60)
    response = summary.response
    assert (response.attackers, response.attackers_limited) == (2, 2)
    assert (response.users, response.users_limited) == (10, 0)
    assert 0 < response.alarm_after_s <= response.throttle_after_s < response.named_after_s
    assert response.named_after_s < response.blocked_after_s < 30


def test_the_proxy_goes_once_the_flood_is_over(result):
    (lifted,) = about(result, "measure.lifted", "effect", "handshakesProxied")
    assert 105 + 20 <= lifted.time <= 105 + 30
    assert result.summary.returned
    assert not log_check(result.events)


def test_where_another_pop_wins_it_the_goal_is_passed_on_to_the_tap():
    roomy = [pop(name, 8, 16) for name in ("north", "east", "south", "west")]
    result = run_scenario(
        forged(pops=roomy, goals={"default": {"preferences": PREFERENCES}}, duration_s=60)
    )
    winners = [
        e.data["winner"] for e in about(result, "auction.awarded", "goal", "handshakesProxied")
    ]
    assert winners[-1] == "south"
    (proxied,) = about(result, "measure.applied", "effect", "handshakesProxied")
    assert proxied.data["pop"] == "south"


def test_without_a_proxy_the_limit_of_the_address_is_the_defence():
    scenario = forged()
    functions = {n: f for n, f in scenario.functions.items() if n != "syn-proxy"}
    parameters = {**scenario.parameters, "review_s": 20.0}
    result = run_scenario(replace(scenario, functions=functions, parameters=parameters))
    (limit,) = about(result, "measure.applied", "effect", "ipRateLimited")
    (lifted,) = about(result, "measure.lifted", "effect", "ipRateLimited")
    assert limit.time < 20
    assert lifted.time > 130  # not given up by the review, since the sources are known to be forged
    assert len(about(result, "auction.called", "goal", "ipRateLimited")) == 1
    assert not about(result, "goal.adopted", "goal", "flowRecord")
    assert result.summary.response.users_limited == 10
    assert result.summary.returned


@pytest.fixture(scope="module")
def datagrams():
    parameters = {"analysis_s": 4, "classify_s": 4, "quiet_s": 10, "review_s": 20}
    return run_scenario(forged("udp-flood-spoofed", parameters=parameters))


def test_forged_datagrams_are_limited_by_their_target(datagrams):
    assert not about(datagrams, "goal.adopted", "goal", "handshakesProxied")
    assert in_force(datagrams, "ipRateLimited", 129)
    assert max(arriving(datagrams, "malicious", 40, 129)) <= 2.0
    (lifted,) = about(datagrams, "measure.lifted", "effect", "ipRateLimited")
    assert lifted.time > 130
    assert datagrams.summary.response.attackers_limited == 0
    assert datagrams.summary.returned


def test_the_search_for_who_sends_them_ends_and_says_why(datagrams):
    calls = about(datagrams, "auction.called", "goal", "flowRecord")
    ends = about(datagrams, "goal.ended", "goal", "flowRecord")
    assert len(calls) == 1
    assert {e.data["outcome"] for e in ends} == {"achieved"}
    assert not about(datagrams, "goal.adopted", "goal", "split")
    (said,) = about(datagrams, "analysis.done", "goal", "flowRecord")
    assert said.data["found"] == []
    assert describe(said).endswith(f"; the sources that flood {SERVER} are forged")


@at_night
@pytest.mark.parametrize("parts", sample([1, 2], 2))
def test_a_classifier_that_finds_them_forged_has_them_proxied_too(monkeypatch, parts):
    def blind(*seen, **more):
        return [replace(found, spoofed=False) for found in examine(*seen, **more)]

    monkeypatch.setattr(anomaly_detector, "examine", blind)
    cores = 8 if parts == 1 else 3  # too few for a classifier of the whole
    pops = [pop(name, cores, 16) for name in ("north", "east", "south", "west")]
    many = attack(profile="syn-flood-spoofed", count=8, demand_mb_s=0.75)
    result = run_scenario(forged(pops=pops, traffic=[users(), many]))
    assert len(about(result, "goal.adopted", "goal", "split")) >= parts - 1
    (proxied,) = about(result, "measure.applied", "effect", "handshakesProxied")
    assert proxied.data["pop"] == "south"
    assert not in_force(result, "ipRateLimited", proxied.time + 1)
    assert not about(result, "goal.adopted", "goal", "flowRateLimited")
    assert result.summary.mitigated
    assert result.summary.returned
