"""Which VNF: two that achieve the same goal compete. And what happens where nobody attacks."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.runtime.system import run_scenario
from tests.nightly import at_night
from tests.published import load_published
from tests.system.rings import about, of, pop, ring

SCENARIOS = Path(__file__).parents[2] / "scenarios"
POPS = [pop("north", 4), *(pop(name, 12, 24) for name in ("east", "south", "west"))]
"""The traffic is tapped in the north, which has no room: bids differ by paths and resources."""
LITE = {"classifier-lite": {"image_mb": 400}}
"""Cheaper to run than the classifier, but slower to fetch."""
TIME = {"time": 1.0, "cost": 0.0, "decentralisation": 0.0}
COST = {"time": 0.0, "cost": 1.0, "decentralisation": 0.0}


def classifiers(result):
    return {e.data["vnf"] for e in of(result, "instance.started") if "classif" in e.data["vnf"]}


def selected(preferences, **constraints):
    goals = {
        "FlowRecord": {"preferences": preferences, "constraints": constraints},
        "default": {"preferences": TIME},
    }
    return run_scenario(ring(pops=POPS, functions=LITE, goals=goals))


@pytest.mark.parametrize(
    ("preferences", "constraints", "chosen"),
    [
        (TIME, {}, "classifier"),
        (COST, {}, "classifier-lite"),
        (COST, {"accuracy": 0.9}, "classifier-lite"),
        (COST, {"accuracy": 0.95}, "classifier"),
    ],
    ids=["time", "cost", "accurate enough", "not accurate enough"],
)
def test_preferences_and_constraints_choose_the_vnf(preferences, constraints, chosen):
    result = selected(preferences, **constraints)
    assert classifiers(result) == {chosen}
    (award,) = about(result, "auction.awarded", "goal", "flowRecord")
    offered = {row["vnf"] for row in award.data["ranking"]}
    excluded = constraints.get("accuracy", 0) > 0.9
    assert offered == ({"classifier"} if excluded else {"classifier", "classifier-lite"})
    assert award.data["ranking"][0]["vnf"] == chosen
    assert result.summary.mitigated


@pytest.fixture(scope="module")
def selection():
    return load_published(SCENARIOS / "selection.yaml")


@at_night
def test_the_lite_classifier_wins_where_it_is_accurate_enough(selection):
    result = run_scenario(selection)
    assert classifiers(result) == {"classifier-lite"}
    assert not of(result, "auction.failed")
    assert result.summary.mitigated
    assert result.summary.returned


@at_night
def test_only_the_least_accuracy_differs_and_the_full_classifier_wins(selection):
    goal = selection.goals["FlowRecord"]
    stricter = replace(goal, constraints=replace(goal.constraints, accuracy=0.95))
    result = run_scenario(replace(selection, goals={**selection.goals, "FlowRecord": stricter}))
    assert classifiers(result) == {"classifier"}
    (failed,) = of(result, "auction.failed")
    assert "accuracy 0.9, at least 0.95 wanted" in failed.data["refusals"]["pop1"]
    assert result.summary.mitigated
    assert result.summary.returned


def test_a_flash_crowd_is_served_and_nobody_is_blocked():
    result = run_scenario(load_published(SCENARIOS / "flash-crowd.yaml"))
    effects = {e.data["effect"] for e in of(result, "measure.applied")}
    assert effects == {"linkRateLimited(pop6>server)"}
    assert all(e.data["found"] == [] for e in of(result, "analysis.done"))
    applied, lifted = of(result, "measure.applied"), of(result, "measure.lifted")
    assert len(applied) == len(lifted)
    assert max(e.time for e in lifted) < 180
    alarms = [e for e in about(result, "belief.changed", "belief", "overUsage") if e.data["value"]]
    assert 1 <= len(alarms) <= 3, "an all-clear holds for a while"
    limited = sum(up.time - down.time for down, up in zip(applied, lifted, strict=True))
    assert limited < 120
    served = [
        e.data["hosts"]["server"]["legitimate_mb_s"]
        for e in of(result, "network.sample")
        if lifted[0].time + 10 < e.time < applied[1].time - 1
    ]
    assert min(served) > 0.9 * 6, "the whole link is theirs once the all-clear is given"
    (host,) = (h for h in result.summary.hosts if h.host == "server")
    assert host.after_mb_s == pytest.approx(host.wanted_after_mb_s, rel=0.02)
    response = result.summary.response
    assert (response.alarm_after_s, response.attackers) == (None, 0)
    assert (response.users, response.users_limited) == (55, 0)
    assert result.summary.returned
