"""A term of the bid from one file outside the package: found, weighed, limited, shown."""

from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.installed import install
from tests.nightly import sample
from tests.published import parse_published

from phalanx.auction.outlook import Assessment
from phalanx.checking import check
from phalanx.domain.errors import ScenarioError
from phalanx.reporting.event_text import describe
from phalanx.runtime.system import System
from phalanx.runtime.whatif import what_if

HERE = Path(__file__).parent
RING = (HERE.parents[1] / "scenarios" / "quickstart-ring.yaml").read_text()
PREFERENCES = "preferences: {time: 0.6, cost: 0.3, decentralisation: 0.1}"
CONSTRAINTS = "constraints: {latency_ms: 100}"


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    entries = "price = price:price\ntrust = price:TRUST\nbroken = price:broken\n"
    source = (HERE / "price.py").read_text()
    install(monkeypatch, tmp_path, "price", source, f"[phalanx.bid_terms]\n{entries}")


def ring(weights="", limits=""):
    """The ring in which all weight is given to ``weights``, if there are any."""
    text = RING
    if weights:
        preferences = f"{{time: 0, cost: 0, decentralisation: 0, terms: {{{weights}}}}}"
        text = text.replace(PREFERENCES, f"preferences: {preferences}")
    if limits:
        text = text.replace(CONSTRAINTS, f"constraints: {{latency_ms: 100, terms: {{{limits}}}}}")
    return parse_published(text, "ring.yaml")


def first_award(scenario, prepare=lambda system: None):
    system = System(replace(scenario, duration_s=60.0))
    prepare(system)
    events = system.run().events
    award = next(e for e in events if e.kind == "auction.awarded")
    return award, [e for e in events if e.data.get("auction") == award.data["auction"]]


def test_price_decides_who_wins_and_the_log_shows_it():
    plain, _ = first_award(ring())
    assert plain.data["winner"] != "west"
    award, events = first_award(ring("price: 1"))
    assert award.data["winner"] == "west"
    prices = {row["agent"]: row["price"] for row in award.data["ranking"]}
    assert prices == {"north": 9.0, "east": 2.0, "south": 5.0, "west": 1.0}
    assert events[0].data["preferences"]["price"] == 1.0
    assert "price 1;" in describe(award)
    assert any("price 9" in describe(e) for e in events if e.kind == "auction.bid")


@pytest.mark.parametrize("utility", ["published", "reference"])
@pytest.mark.parametrize("lie", sample(["price", "trust", "utility", "terms"], 2))
def test_the_checker_works_out_utilities_with_further_terms(utility, lie):
    scenario = replace(ring("price: 0.5, trust: 0.5"), utility=utility, duration_s=60.0)
    system = System(scenario)
    for agent, trust in {"north": 0.9, "east": 0.1}.items():
        told = Assessment(agent, {"trust": trust})
        system.clock.call_at(1.0, partial(system.nodes["south"].tell, told, "run-1"))
    events = system.run().events
    assert check(events) == []
    at = next(
        i
        for i, e in enumerate(events)
        if e.kind == ("auction.called" if lie == "terms" else "auction.awarded")
    )
    data = events[at].data
    if lie == "terms":
        turned = {name: how | {"higher_is_better": True} for name, how in data["terms"].items()}
        data = data | {"terms": turned}
    else:
        best, *others = data["ranking"]
        data = data | {"ranking": [best | {lie: best[lie] + 0.5}, *others]}
    lies = [*events[:at], replace(events[at], data=data), *events[at + 1 :]]
    assert "utilities" in {violation.rule for violation in check(lies)}


def test_a_bid_beyond_the_hard_limit_is_refused():
    award, events = first_award(ring(limits="price: 1.5"))
    assert (award.data["winner"], len(award.data["ranking"])) == ("west", 1)
    refused = {e.agent: e.data["reason"] for e in events if e.kind == "auction.refused"}
    assert refused["north"] == "price 9, at most 1.5 wanted"
    assert events[0].data["constraints"] == {"latency_ms": 100.0, "price": 1.5}


def test_the_auction_sees_how_far_a_bidder_is_trusted():
    def assessed(system):
        for agent, trust in {"north": 0.9, "east": 0.1}.items():
            percept = Assessment(agent, {"trust": trust})
            system.clock.call_at(1.0, lambda p=percept: system.nodes["south"].tell(p, "run-1"))

    award, _ = first_award(ring("trust: 1"), assessed)
    trust = {row["agent"]: row["trust"] for row in award.data["ranking"]}
    assert trust == {"north": 0.9, "south": 0.5, "west": 0.5, "east": 0.1}
    assert award.data["winner"] == "north"
    award, _ = first_award(ring("trust: 1", limits="trust: 0.6"), assessed)
    assert award.data["refusals"]["east"] == "trust 0.1, at least 0.6 wanted"
    assert [row["agent"] for row in award.data["ranking"]] == ["north"]


def test_place_weighs_and_limits_it_too():
    answer = what_if(ring("price: 1", limits="price: 5"), "linkRateLimited", "south")
    assert [r.bidder for r in answer.ranking] == ["west", "east", "south"]
    assert answer.refusals == {"north": "price 9, at most 5 wanted"}


def test_a_fault_in_a_term_refuses_and_ends_nothing():
    answer = what_if(ring("broken: 1"), "linkRateLimited", "south")
    assert answer.ranking == ()
    assert answer.refusals["west"] == "fault in the bid term 'broken': LookupError: west"


def test_an_unknown_term_is_refused_when_the_scenario_is_read():
    with pytest.raises(ScenarioError, match="there is no bid term 'prize'; did you mean 'price'"):
        ring("prize: 1")


def test_weights_must_sum_to_1_with_the_further_terms():
    with pytest.raises(ScenarioError, match=r"decentralisation and price sum to 0\.5"):
        ring("price: 0.5")
