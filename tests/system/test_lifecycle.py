"""The life of VNFs (dissertation, 7.2): scaled, idle, replaced, asked about."""

import pytest

from phalanx.domain.messages import Inventory, Message, Performative, Query
from phalanx.runtime.system import System, run_scenario
from tests.system.rings import about, arriving, attack, of, pop, ring, users

WIDE = {"hosts": [{"name": "shop", "at": "south", "address": "10.0.0.10", "bandwidth_mb_s": 30}]}
LONG_LOOK = {"analysis_s": 40, "classify_s": 4, "quiet_s": 10, "link_rate_mb_s": 25}
SURGE = [users(), attack(demand_mb_s=2), attack(20, 35, name="surge", demand_mb_s=4)]


def roomy(cores):
    return [pop(name, cores, 2 * cores) for name in ("north", "east", "south", "west")]


def analysis(result):
    return about(result, "analysis.done", "goal", "?anomalousUsage")[0]


# -- scaling ------------------------------------------------------------------------------


def test_an_analyser_grows_with_its_traffic_and_shrinks_with_it():
    result = run_scenario(ring(pops=roomy(12), traffic=SURGE, parameters=LONG_LOOK, **WIDE))
    (started,) = of(result, "instance.started", vnf="anomaly-detector")
    scaled = of(result, "instance.scaled", instance=started.data["instance"])
    units = [started.data["units"], *(e.data["to_units"] for e in scaled)]
    up, down = max(units), units[-1]
    assert units[0] == 3
    assert up == 7
    assert down == 3
    assert units.index(up) < len(units) - 1
    assert analysis(result).data["coverage"] > 0.8
    assert result.summary.returned


def test_without_room_to_grow_it_goes_on_with_a_sample():
    result = run_scenario(ring(pops=roomy(4), traffic=SURGE, parameters=LONG_LOOK, **WIDE))
    assert not [e for e in of(result, "instance.scaled") if e.data["to_units"] > 3]
    refused = of(result, "action.failed", action="Scale")
    assert refused
    assert all("needs" in e.data["reason"] for e in refused)
    assert analysis(result).data["coverage"] < 0.8
    assert analysis(result).data["found"] == ["10.0.0.10"]
    assert result.summary.mitigated


def test_it_grows_by_what_there_is_room_for():
    result = run_scenario(ring(pops=roomy(6), traffic=SURGE, parameters=LONG_LOOK, **WIDE))
    (started,) = of(result, "instance.started", vnf="anomaly-detector")
    scaled = of(result, "instance.scaled", instance=started.data["instance"])
    assert 3 < max(e.data["to_units"] for e in scaled) < 7


# -- end of life --------------------------------------------------------------------------


def test_idle_instances_end_and_all_is_given_back():
    result = run_scenario(ring())
    last_work = {
        "anomaly-detector": analysis(result).time,
        "classifier": about(result, "contract.ended", "goal", "flowRecord(")[0].time,
        "rate-limiter": of(result, "measure.lifted")[-1].time,
    }
    stopped = {e.data["vnf"]: e.time for e in of(result, "instance.stopped")}
    assert stopped.keys() == last_work.keys()
    for vnf, when in stopped.items():
        assert last_work[vnf] + 30 <= when <= last_work[vnf] + 30 + 9
    assert result.summary.returned
    assert of(result, "run.ended")[0].data["leases"] == ["south/installed1/link-monitor"]


# -- another version ----------------------------------------------------------------------


def update(function, at_s):
    return {"updates": [{"at_s": at_s, "function": function, "version": "2.0"}]}


@pytest.mark.parametrize("image_mb", [50, 1500], ids=["quick", "longer than a lease"])
def test_a_rate_limiter_is_replaced_without_letting_the_attack_through(image_mb):
    # The repository is far from where the limits are, so that images take their time.
    far = [pop("north", 0.5), pop("east", 8, 16), pop("south", 1), pop("west", 0.5)]
    function = {"rate-limiter": {"image_mb": image_mb}}
    scenario = ring(
        pops=far, functions=function, duration_s=420, traffic=[users(), attack(10, 300)],
        **update("rate-limiter", 150),
    )  # fmt: skip
    result = run_scenario(scenario)
    (replaced,) = of(result, "instance.replaced")
    old, new = replaced.data["instance"], replaced.data["by"]
    assert replaced.data["version"] == "2.0"
    (started,) = of(result, "instance.started", instance=new)
    assert started.data["version"] == "2.0"
    (stopped,) = of(result, "instance.stopped", instance=old)
    assert stopped.time == pytest.approx(replaced.time)
    assert (started.time - 150 > 9) is (image_mb > 500)
    lifted = of(result, "measure.lifted")
    assert [e.time for e in lifted if 140 < e.time < 300] == []
    assert len([e for e in lifted if e.time >= 300]) == 2
    assert max(arriving(result, "malicious", 140, 300)) < 0.01
    assert of(result, "instance.stopped", instance=new)
    assert result.summary.mitigated
    assert result.summary.returned


def test_a_version_that_comes_out_during_a_download_replaces_what_was_downloaded():
    far = [pop("north", 0.5), pop("east", 8, 16), pop("south", 1), pop("west", 0.5)]
    slow = {"rate-limiter": {"image_mb": 1000}}
    result = run_scenario(ring(pops=far, functions=slow, **update("rate-limiter", 15)))
    started = of(result, "instance.started", vnf="rate-limiter")
    assert [e.data["version"] for e in started] == ["1.0", "2.0"]
    assert started[0].time > 15
    (replaced,) = of(result, "instance.replaced")
    assert replaced.data["instance"] == started[0].data["instance"]
    assert result.summary.mitigated
    assert result.summary.returned


def test_without_room_for_two_the_old_version_goes_on():
    crowded = [pop("north"), pop("east"), pop("south", 1), pop("west")]
    result = run_scenario(ring(pops=crowded, **update("link-monitor", 5)))
    (ended,) = about(result, "goal.ended", "goal", "updated(")
    assert ended.data["outcome"] == "failed"
    assert ended.data["reason"] == (
        "no room for version 2.0 beside the old one: needs 1 core, 0 free"
    )
    assert not of(result, "instance.replaced")
    assert not of(result, "instance.stopped", vnf="link-monitor")
    assert result.summary.mitigated


def test_an_analyser_is_replaced_in_the_midst_of_its_work():
    looks = {"analysis_s": 4, "classify_s": 20, "quiet_s": 10}
    result = run_scenario(ring(pops=roomy(16), parameters=looks, **update("classifier", 25)))
    (replaced,) = of(result, "instance.replaced")
    (done,) = about(result, "analysis.done", "goal", "flowRecord")
    assert replaced.time == 25
    assert done.data["instance"] == replaced.data["by"]
    assert of(result, "instance.stopped", instance=replaced.data["by"])
    assert result.summary.mitigated
    assert result.summary.returned


def test_a_monitor_is_replaced_and_watches_on():
    result = run_scenario(ring(**update("link-monitor", 5)))
    (replaced,) = of(result, "instance.replaced")
    assert replaced.time < 10
    assert result.summary.mitigated
    assert of(result, "run.ended")[0].data["leases"] == [replaced.data["by"]]


# -- query --------------------------------------------------------------------------------


def test_another_agents_query_is_answered():
    system = System(ring())
    answers = []

    def ask():
        system.bus.detach("west")
        system.bus.attach("west", answers.append)
        query = Message("q", Performative.QUERY, "west", "north", "question", Query(), system.cause)
        system.bus.send(query)

    system.clock.call_at(25.0, ask)
    system.run(until=27.0)
    (inventory,) = (m.content for m in answers if isinstance(m.content, Inventory))
    told = [(i.vnf, i.state) for i in inventory.instances]
    assert told == [("rate-limiter", "busy"), ("anomaly-detector", "idle")]
    assert inventory.instances[0].goals == (
        "flowRateLimited(10.2.0.1, 10.0.0.10)",
        "flowRateLimited(10.2.0.2, 10.0.0.10)",
    )
