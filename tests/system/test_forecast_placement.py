"""Functions are placed by what PoPs are going to be, judged by what users get and by power."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Any

import pytest
from msgspec import json
from msgspec.structs import replace

from phalanx.auction.outlook import Outlook
from phalanx.auction.terms import judged, load_terms
from phalanx.checking import check
from phalanx.domain.bids import Bid
from phalanx.domain.events import Event
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.predicates import Replicated
from phalanx.fabric.calls import CallFailed
from phalanx.fabric.operations import FORECAST, ForecastRequest
from phalanx.reporting.event_text import describe
from phalanx.reporting.explanation import explain
from phalanx.reporting.summary import EnergyMeter
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import GoalSpec, PreferencesSpec, Scenario, TrafficSpec
from phalanx.runtime.system import RunResult, System, run_scenario
from tests.nightly import NIGHTLY, at_night
from tests.system.conftest import SCENARIOS
from tests.system.rings import causes, of

UNTIL = 220
"""Until then the crowd is there."""
PLAIN = {"default": GoalSpec(PreferencesSpec(0.6, 0.3, 0.1))}


def plan() -> Scenario:
    return load_scenario(SCENARIOS / "forecast-placement.yaml")


def by_now(scenario: Scenario) -> Scenario:
    assert scenario.forecast is not None
    return replace(scenario, forecast=replace(scenario.forecast, ahead=0))


def flood(scenario: Scenario, **changes: Any) -> Scenario:
    *users, unseen = scenario.traffic
    return replace(scenario, traffic=(*users, replace(unseen, **changes)))


@cache
def shipped() -> RunResult:
    return run_scenario(plan(), until=None if NIGHTLY else UNTIL)


def placed(result: RunResult) -> Event:
    awards = of(result, "auction.awarded")
    return next(e for e in awards if e.data["goal"].startswith("replicated"))


def served(result: RunResult) -> float:
    """Return the share of what users wanted of the shop while the crowd was there."""
    seen = [e.data["hosts"]["shop"] for e in of(result, "network.sample") if 105 < e.time <= UNTIL]
    return float(sum(s["legitimate_mb_s"] for s in seen) / sum(s["wanted_mb_s"] for s in seen))


def energy(result: RunResult) -> float:
    """Return what the PoPs took while the crowd was there, in Wh."""
    view = EnergyMeter()
    for event in result.events:
        if event.time <= UNTIL:
            view.add(event)
    found = view.result()
    assert found is not None
    return found


@at_night
def test_users_get_more_than_by_what_is_now_and_no_pop_is_woken_for_it() -> None:
    now = run_scenario(by_now(plan()), until=UNTIL)
    plain = run_scenario(replace(plan(), goals=PLAIN, forecast=None), until=UNTIL)
    where = [placed(result).data["winner"] for result in (shipped(), now, plain)]
    assert where == ["west", "east", "annex"]
    assert served(shipped()) > 0.98
    assert served(now) < 0.8
    assert served(plain) - served(shipped()) < 0.01
    assert energy(shipped()) < energy(now) + 0.1
    assert energy(shipped()) < 0.9 * energy(plain)
    assert check(shipped().events) == []
    assert shipped().summary.returned
    assert shipped().summary.energy_wh > energy(shipped())


def test_the_log_tells_what_the_bids_rest_on() -> None:
    award = placed(shipped())
    (called,) = [e for e in causes(shipped(), award) if e.kind == "auction.called"]
    assert called.data["bounded"] == ["load"]
    assert describe(called).endswith("an anomaly is unlikely here (0%): as usual")
    loads = {row["agent"]: row["load"] for row in award.data["ranking"]}
    told = [e for e in of(shipped(), "workload.forecast") if e.time < award.time]
    east = [e for e in told if e.data["subject"] == "east"][-1]
    (rx,) = [each for each in east.data["indicators"] if each["name"] == "rx"]
    assert rx["now"] < loads["west"] < rx["expected"] == loads["east"]
    assert rx["skill"] > 0
    text = r"expects of east in 20 s: rx will be \d\d%, usually 8% at most; advises to scale"
    assert re.match(text, describe(east))


@pytest.mark.skipif(not NIGHTLY, reason="four runs: make nightly")
@pytest.mark.parametrize("end_s", [104.0, 50.5])
def test_a_forecast_that_is_wrong_or_has_nothing_to_tell_costs_users_nothing(end_s: float) -> None:
    """The traffic ends when the replica was placed for fear of it; or is never there."""
    wrong = run_scenario(flood(plan(), end_s=end_s), until=UNTIL)
    now = run_scenario(by_now(flood(plan(), end_s=end_s)), until=UNTIL)
    assert placed(wrong).data["winner"] == ("west" if end_s > 100 else "east")
    assert served(wrong) > served(now) - 0.01
    assert energy(wrong) < energy(now) + 0.1


@at_night
def test_without_forecasts_a_term_tells_what_is_allocated_and_nothing_looks() -> None:
    bare = run_scenario(replace(plan(), forecast=None), until=110)
    assert not of(bare, "workload.forecast")
    assert {row["load"] for row in placed(bare).data["ranking"]} == {0.125, 0.1875}
    assert served(shipped()) > 0.98


@at_night
def test_an_auctioneer_that_is_under_attack_prefers_room_to_power() -> None:
    attack = TrafficSpec("attackers", "syn-flood", 8, ("north",), "shop", 443, 0.3, 97)
    result = run_scenario(replace(plan(), traffic=(*plan().traffic, attack)), until=110)
    award = placed(result)
    (called,) = [e for e in causes(result, award) if e.kind == "auction.called"]
    assert called.data["weighed"] == "an anomaly is likely here (88%): for resilience"
    assert called.data["preferences"]["load"] == 0.7
    assert award.data["winner"] == "annex"
    told = [
        e for e in of(result, "workload.forecast") if e.time < called.time and e.agent == "south"
    ]
    assert told[-1].data["advice"] == "throttle"
    assert told[-1].data["reason"] == "underAttack(10.0.0.10) explains it"
    told_of = [describe(line.event) for line in explain(result.events, award.id).lines]
    assert any(line.endswith(called.data["weighed"]) for line in told_of)


def test_a_bidder_that_says_it_is_empty_counts_as_full_as_it_advertised() -> None:
    system, terms = System(plan()), load_terms(["load", "energy"])
    goal = ConstrainedGoal(
        want(Replicated("10.0.0.10", 1, 2)),
        Constraints(),
        Preferences(0, 0, 0, {"load": 0.5, "energy": 0.5}),
        tap="south",
    )
    answers: list[Bid | str] = []

    def look() -> None:
        view = system.agents["south"].agent.capability(Outlook).view
        vnfds = system.catalogue.vnfds
        for load in (0.0, 0.7):
            said = {"T": 2.0, "C": 20.0, "D": 8.0, "load": load}
            bid = Bid("service-replica", 2, said, ("west", "north", "south"))
            answers.append(judged(terms, view, "west", goal, bid, vnfds))

    system.clock.call_at(20.0, look)
    system.run(21.0)
    liar, honest = answers
    assert isinstance(liar, Bid)
    assert isinstance(honest, Bid)
    # 0.5 of 8 cores are allocated there, and 2 more would be, at 120 W over 8 cores.
    assert liar.terms["load"] == pytest.approx(2.5 / 8)
    assert honest.terms["load"] == 0.7
    assert liar.terms["energy"] == honest.terms["energy"] == pytest.approx(30.0)


def test_an_agent_answers_what_it_expects_to_who_asks() -> None:
    system, answers = System(plan()), []
    client = system.calls()
    ask = partial(client.invoke, "east", FORECAST, ForecastRequest(), answers.append, timeout_s=1.0)
    system.clock.call_at(20.0, ask)
    system.clock.call_at(60.0, ask)
    events = system.run(61.0).events
    early, late = answers
    assert early == CallFailed("too little seen")
    said = [e for e in events if e.kind == "workload.forecast" and e.data["subject"] == "east"][-1]
    assert json.decode(json.encode(late)) == said.data


def test_an_agent_whose_plan_asks_for_no_forecast_says_so() -> None:
    system, answers = System(replace(plan(), forecast=None)), []
    client = system.calls()
    ask = partial(client.invoke, "east", FORECAST, ForecastRequest(), answers.append, timeout_s=1.0)
    system.clock.call_at(5.0, ask)
    system.run(6.0)
    assert answers == [CallFailed("its plan asks for no forecasts")]
