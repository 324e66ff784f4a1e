"""What only observes decides everything, enforces nothing, and says what it would have done."""

from __future__ import annotations

from msgspec.structs import replace

from phalanx.checking import check
from phalanx.reporting.event_text import describe
from phalanx.reporting.explanation import explain
from phalanx.reporting.log import Log
from phalanx.reporting.summary import summarise
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import UpdateSpec
from phalanx.runtime.system import run_scenario
from tests.system.conftest import SCENARIOS
from tests.system.rings import SERVER, attack, of, ring, users


def observed(**changes):
    scenario = ring(**{"strategy": "service", "duration_s": 40, **changes})
    return run_scenario(replace(scenario, mode="observe"))


def test_nothing_is_enforced_and_the_attack_arrives():
    result = observed()
    assert not of(result, "measure.applied")
    assert not of(result, "measures.counted")
    late = [e.data["hosts"]["shop"] for e in of(result, "network.sample") if e.time > 20]
    assert max(seen["malicious_mb_s"] for seen in late) > 1
    assert check(result.events) == []


def test_the_same_is_decided_as_where_it_is_enforced():
    would = {(e.data["pop"], *e.data["sources"]) for e in of(observed(), "measure.withheld")}
    does = run_scenario(ring(strategy="service", duration_s=40))
    done = {(e.data["pop"], *e.data["sources"]) for e in of(does, "measure.applied")}
    assert done <= would
    assert {source for _, *sources in would for source in sources} == {"10.2.0.1", "10.2.0.2"}


def test_the_log_and_its_readers_say_what_would_have_been_done():
    result = observed()
    first = of(result, "measure.withheld")[0]
    assert describe(first).endswith("would block 10.2.0.2 at west: syn flood by 1 source")
    answer = explain(Log(result.events), "10.2.0.2")
    assert "only observes" in answer.words[-1]
    assert len(summarise(result.events).withheld) == len(of(result, "measure.withheld"))


def test_what_is_needed_no_more_would_be_lifted():
    parameters = {"hold_s": 10.0}
    traffic = [users(), attack(end_s=25)]
    result = observed(duration_s=90, parameters=parameters, traffic=traffic)
    begun = [e.data["measure"] for e in of(result, "measure.withheld")]
    ended = [e.data["measure"] for e in of(result, "measure.unneeded")]
    assert sorted(begun) == sorted(ended)
    assert all(e.data["lasted_s"] >= 10 for e in of(result, "measure.unneeded"))


def test_agents_that_attest_each_other_do_not_take_what_is_withheld_for_a_lie():
    """Others read the rules of a PoP, and hold them against what its agent says."""
    result = observed(trust={"period_s": 10})
    assert of(result, "measure.withheld")
    assert not of(result, "trust.suspected")


def test_published_strategy_limits_nothing_either():
    result = observed(strategy="published", duration_s=60)
    assert not of(result, "measure.applied")
    said = [describe(e) for e in of(result, "measure.withheld")]
    assert any("would limit south>shop to" in each for each in said)
    assert SERVER in "".join(said)


def test_what_an_updated_function_would_do_goes_on():
    crowd = load_scenario(SCENARIOS / "autoscale-crowd.yaml")
    update = UpdateSpec(48.0, "service-replica", "3.0")
    changed = replace(crowd, mode="observe", updates=(update,), duration_s=90)
    result = run_scenario(changed)
    (replaced,) = of(result, "instance.replaced")
    ended = [e.time for e in of(result, "measure.unneeded")]
    assert of(result, "measure.withheld")[0].time < replaced.time
    assert all(abs(time - replaced.time) > 1 for time in ended)
    assert check(result.events) == []
