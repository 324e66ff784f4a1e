"""Utilities against fixed references: what is not chosen does not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.auction.references import LEAST_TIME_S, for_goal, references
from phalanx.auction.terms import BUILT_IN, BidTerm, rank
from phalanx.domain.bids import Bid
from phalanx.domain.errors import ScenarioError
from phalanx.domain.goals import Constraints, Preferences
from phalanx.domain.network import Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import references_of
from phalanx.runtime.loading import parse_scenario

DDOS = Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml"
SCALE = {"T": 60.0, "C": 80.0, "D": 50.0}
LIMIT = Preferences(0.8, 0.1, 0.1)
TRUST = BidTerm("trust", lambda _: 0.0, higher_is_better=True)


def bid(t: float, c: float, d: float, trust: float = 0.0) -> Bid:
    return Bid("v", 1, {"T": t, "C": c, "D": d, "trust": trust}, ("p",))


figures = st.floats(0, 500)
weights = st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any)


@given(
    st.lists(st.builds(bid, figures, figures, figures, st.floats(0, 1)), min_size=2, max_size=6),
    weights,
    st.data(),
)
def test_leaving_out_a_losing_bid_never_changes_the_winner(
    bids: list[Bid], shares: list[int], data: st.DataObject
) -> None:
    time, cost, decentralisation, trust = (share / sum(shares) for share in shares)
    wanted = Preferences(time, cost, decentralisation, {"trust": trust})
    offers = [(f"agent{number}", offered) for number, offered in enumerate(bids)]
    ranking = rank(offers, wanted, (*BUILT_IN, TRUST), SCALE)
    losers = [ranked.bidder for ranked in ranking[1:]]
    gone = data.draw(st.sets(st.sampled_from(losers)))
    left = rank([o for o in offers if o[0] not in gone], wanted, (*BUILT_IN, TRUST), SCALE)
    assert left == [ranked for ranked in ranking if ranked.bidder not in gone]


def test_by_eq_3_1_a_losing_bid_decides_who_wins() -> None:
    offers = [("a", bid(10, 30, 0)), ("b", bid(25, 10, 0)), ("c", bid(26, 400, 0))]
    wanted = Preferences(0.4, 0.6, 0.0)
    assert rank(offers, wanted)[0].bidder == "a"
    assert rank(offers[:2], wanted)[0].bidder == "b"


def test_milliseconds_do_not_outweigh_cost_and_place() -> None:
    quick, cheap = ("quick", bid(0.001, 60, 10)), ("cheap", bid(0.6, 2, 30))
    assert rank([quick, cheap], LIMIT)[0].bidder == "quick", "eq. 3.1"
    assert rank([quick, cheap], LIMIT, BUILT_IN, SCALE)[0].bidder == "cheap"
    slow = ("slow", bid(90, 2, 30))
    assert rank([quick, slow], LIMIT, BUILT_IN, SCALE)[0].bidder == "quick", "a minute counts"


def test_references_are_the_span_of_the_planned_network() -> None:
    pops = tuple(Pop(name, Resources(2, 2, 2)) for name in "abcd")
    links = (Link("a", "b", 10, 1, 0), Link("b", "c", 5, 20, 0), Link("c", "d", 15, 3, 0))
    found = references(Network(pops, links, (), "a"), [Vnfd("v", Resources(1, 1, 1))])
    assert found == {"T": 500 / 10, "C": 2 * 30, "D": 24}
    native = references(Network(pops[:1], (), (), "a"), [])
    assert native == {"T": LEAST_TIME_S, "C": 1.0, "D": 1.0}


def test_a_deadline_is_the_reference_of_its_goal() -> None:
    assert for_goal(SCALE, Constraints(time_s=5)) == {**SCALE, "T": 5}
    assert for_goal(SCALE, Constraints()) == SCALE
    assert for_goal(None, Constraints(time_s=5)) is None


def test_the_scenario_chooses_prices_and_utility_by_name() -> None:
    text = DDOS.read_text()
    published = parse_scenario(f"{text}\nutility: published\n", "f")
    new = parse_scenario(f"{text}\npricing: scarcity\nutility: reference\n", "f")
    assert (new.pricing, new.utility) == ("scarcity", "reference")
    assert references_of(published, load_catalogue(published)) is None
    found = references_of(new, load_catalogue(new))
    assert found is not None
    assert found["T"] == pytest.approx(500 / 7)
    with pytest.raises(ScenarioError, match="needs published prices"):
        parse_scenario(f"{text}\npricing: scarcity\nbidding: published\n", "f")


def test_a_strategy_brings_its_prices_and_utility() -> None:
    text = DDOS.read_text()
    service = parse_scenario(f"{text}\nstrategy: service\n", "f")
    assert (service.prices(), service.utilities()) == ("scarcity", "reference")
    as_printed = parse_scenario(f"{text}\nstrategy: service\nbidding: published\n", "f")
    assert as_printed.prices() == "published"
    printed = parse_scenario(f"{text}\nstrategy: published\n", "f")
    assert (printed.prices(), printed.utilities()) == ("published", "published")
