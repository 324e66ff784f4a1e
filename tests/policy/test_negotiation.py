"""Negotiated agreements: rounds, concessions, digests, and parties that fail, lie or die."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json
from msgspec.structs import replace

from phalanx.auction.bidder import Bidder
from phalanx.auction.initiator import Initiator
from phalanx.checking import check as log_check
from phalanx.domain.bids import Bid
from phalanx.domain.events import Event
from phalanx.domain.goals import want
from phalanx.domain.messages import Award, Performative, Result
from phalanx.domain.tagged import reader
from phalanx.policy.assessment import SslaNegotiation
from phalanx.policy.ssla import (
    AgreementFixed,
    AgreementHeld,
    GuaranteeTerm,
    SecurityAgreement,
    SecurityMetric,
    agreement_offences,
    digest_of,
)
from phalanx.reporting.ssla import AgreementsView
from phalanx.runtime.loading import load_scenario, offences
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.system import RunResult, run_scenario
from tests.system.rings import causes, of

PLAN = load_scenario(Path(__file__).parents[2] / "scenarios" / "negotiated-agreement.yaml")
assert PLAN.policy is not None
(CITY,) = PLAN.policy.agreements


@cache
def shipped() -> RunResult:
    return run_scenario(PLAN)


def city(*faults: FaultSpec, agreement: SecurityAgreement = CITY, until: float = 15) -> RunResult:
    assert PLAN.policy is not None
    policy = replace(PLAN.policy, agreements=(agreement,))
    return run_scenario(replace(PLAN, policy=policy, faults=faults), until=until)


def term(name: str, **changes: Any) -> SecurityAgreement:
    """Return the agreement with one term changed."""
    terms = (replace(x, **changes) if x.name == name else x for x in CITY.terms)
    return replace(CITY, terms=tuple(terms))


def held_by(result: RunResult) -> dict[str, set[str]]:
    """Return the agreements that each agent holds at the end, by their names in beliefs."""
    held: dict[str, set[str]] = {}
    for event in of(result, "belief.changed"):
        if event.data["belief"].startswith("agreementFixed("):
            mine = held.setdefault(event.agent, set())
            (mine.add if event.data["value"] else mine.discard)(event.data["belief"])
    return held


def the_agreed(result: RunResult) -> Event:
    (event,) = of(result, "ssla.agreed")
    return event


def test_the_nearest_that_a_provider_can_hold_is_conceded_and_both_sides_hold_the_digest() -> None:
    result = city()
    agreed = the_agreed(result)
    assert agreed.data["provider"] == "north"
    assert agreed.data["asked"] == {"delivery": 2.0, "at-home": 0.0, "isolation": 0.0}
    # 30 MB over 10 MB/s and 0.2 s to start, with a reserve of a fifth
    assert agreed.data["objectives"] == {"delivery": 3.84, "at-home": 0.0, "isolation": 0.0}
    assert agreed.data["rounds"] == 2
    belief = f"agreementFixed(city, {agreed.data['digest']})"
    assert held_by(result) == {"city": {belief}, "north": {belief}}
    won = of(result, "auction.awarded")[-1].data["ranking"][0]
    assert agreed.data["price"] == pytest.approx(won["C"])
    assert not log_check(result.events)


def test_a_refusal_names_requirement_resource_and_nearest_and_the_causes_tell_why() -> None:
    agreed = the_agreed(city())
    chain = causes(city(), agreed)
    kinds = [event.kind for event in chain]
    for kind in ("auction.refused", "auction.failed", "ssla.conceded", "auction.awarded"):
        assert kind in kinds
    failed = next(event for event in chain if event.kind == "auction.failed")
    said = failed.data["refusals"]["north"]
    assert said.startswith(
        "delivery (deploy-delay of cameras): 2 s is asked, and gateway takes 3 s"
    )
    assert said.endswith("the nearest is 3.84 s")
    assert "abroad is in US" in failed.data["refusals"]["abroad"]


def test_a_dead_provider_is_replaced_and_the_same_run_gives_the_same_log() -> None:
    result = shipped()
    first, second = of(result, "ssla.agreed")
    assert (first.data["provider"], second.data["provider"]) == ("north", "south")
    assert second.time > 30
    assert held_by(result)["city"] == {f"agreementFixed(city, {second.data['digest']})"}
    assert not log_check(result.events)
    assert run_scenario(PLAN).events == result.events


def test_the_report_names_what_was_asked_and_agreed_and_the_rounds() -> None:
    view = AgreementsView()
    for event in shipped().events:
        view.add(event)
    delivery = next(each for each in view.result() if each.term == "delivery")
    assert (delivery.provider, delivery.rounds) == ("south", 2)
    assert (delivery.asked, delivery.agreed) == (2.0, 4.74)


def test_a_breach_is_judged_by_the_agreed_objective() -> None:
    watch = GuaranteeTerm(
        "analysis", "cameras", SecurityMetric.ANALYSIS_INTERVAL, 0.5, acceptable=2.0
    )
    blind = FaultSpec(20, "blind", agent="city")
    result = city(blind, agreement=replace(CITY, terms=(watch,)), until=30)
    assert the_agreed(result).data["objectives"] == {"analysis": 1.2}
    breach = of(result, "ssla.breached")[0]
    assert (breach.agent, breach.data["objective"]) == ("nsi-cameras", 1.2)
    assert breach.time > 20


def test_nothing_is_judged_before_it_is_agreed() -> None:
    result = shipped()
    first = of(result, "ssla.agreed")[0]
    assert min(e.time for e in of(result, "ssla.measured") if "term" in e.data) > first.time


def test_what_is_not_acceptable_ends_the_negotiation_for_good() -> None:
    result = city(agreement=term("delivery", acceptable=3.5), until=60)
    assert not of(result, "ssla.agreed")
    assert len(of(result, "auction.called")) == 1
    end = next(e for e in of(result, "goal.ended") if "agreementHeld" in e.data["goal"])
    assert "no provider can hold what is acceptable" in end.data["reason"]


def test_there_are_no_more_rounds_than_the_settings_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that finds something new in each round does not get its way for ever."""
    asked = iter(range(1, 100))

    def harder(self: SslaNegotiation, call: Any) -> tuple[str, dict[str, float]]:
        return "not yet", {"ssla.delivery": 2.0 + next(asked) / 50}

    monkeypatch.setattr(SslaNegotiation, "shortfalls", harder)
    result = city(until=60)
    assert len(of(result, "auction.called")) == 3
    assert not of(result, "ssla.agreed")


def of_agent(monkeypatch: pytest.MonkeyPatch, method: str, agent: str, answer: Any) -> None:
    """Have one agent's negotiation answer otherwise."""
    real = getattr(SslaNegotiation, method)

    def other(self: SslaNegotiation, *given: Any) -> Any:
        honest = partial(real, self, *given)
        return answer(self, honest, *given) if self._me.name == agent else honest()

    monkeypatch.setattr(SslaNegotiation, method, other)


def test_a_liar_is_believed_no_more_than_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def boast(_: Any, honest: Any, term: GuaranteeTerm) -> tuple[float, str]:
        return (0.1, "") if term.name == "delivery" else honest()

    of_agent(monkeypatch, "_held", "south", boast)
    result = city()
    failed = of(result, "auction.failed")[0]
    assert failed.data["refusals"]["south"] == "ssla.delivery 3.95, at most 2 wanted"
    assert the_agreed(result).data["provider"] == "north"


def test_a_bid_without_an_objective_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def less(_: Any, honest: Any, goal: Any) -> Any:
        return tuple(each for each in honest() if each.name != "ssla.isolation")

    of_agent(monkeypatch, "terms", "north", less)
    result = city()
    refusals = [e.data["refusals"] for e in of(result, "auction.awarded")]
    assert "north" in refusals[-1]
    assert "'ssla.isolation'" in refusals[-1]["north"]
    assert the_agreed(result).data["provider"] == "south"


def awarding(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    real = Initiator._accept

    def accept(self: Initiator, ranked: Any) -> Any:
        what, to, award = real(self, ranked)
        return what, to, change(award) if award.digest and to == "north" else award

    monkeypatch.setattr(Initiator, "_accept", accept)


def spoilt(name: str, value: float) -> Any:
    """Return an award of other values, with the digest that fits them."""

    def change(award: Award) -> Award:
        bid: Bid = replace(award.bid, terms={**award.bid.terms, name: value})
        wanted = award.cfp.goal.goal.predicate
        return replace(award, bid=bid, digest=wanted.fixes("north", bid.terms))

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda award: replace(award, digest="0" * 32), "the award fixes 000000"),
        (lambda award: replace(award, digest=""), "the award fixes nothing"),
        (spoilt("ssla.delivery", 0.5), "0.5 s is asked, and gateway takes"),
        (spoilt("C", 0.01), "the award pays 0.01, less than was asked for"),
    ],
)
def test_a_provider_concludes_nothing_else_than_it_offered(
    monkeypatch: pytest.MonkeyPatch, change: Any, why: str
) -> None:
    awarding(monkeypatch, change)
    result = city(until=30)
    ended = [e for e in of(result, "contract.ended") if e.agent == "north"]
    assert ended
    assert all(why in e.data["reason"] and not e.data["fulfilled"] for e in ended)
    assert "north" not in held_by(result)
    assert len(of(result, "auction.called")) <= 3


def test_a_provider_that_says_it_holds_something_else_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Bidder._reply

    def reply(self: Bidder, me: Any, contract: Any, what: Performative, content: Any) -> None:
        if isinstance(content, Result) and me.name == "north":
            facts = tuple(replace(fact, mandate="f" * 32) for fact in content.facts)
            content = replace(content, facts=facts)
        real(self, me, contract, what, content)

    monkeypatch.setattr(Bidder, "_reply", reply)
    result = city(until=30)
    failed = next(e for e in of(result, "auction.failed") if "north failed" in e.data["reason"])
    assert "does not hold what the award has fixed" in failed.data["reason"]
    assert not [e for e in of(result, "ssla.agreed") if e.data["provider"] == "north"]


def test_a_provider_that_dies_at_work_loses_the_award() -> None:
    result = city(FaultSpec(3, "crash", agent="north"), until=40)
    agreed = the_agreed(result)
    assert agreed.data["provider"] == "south"
    assert agreed.data["rounds"] <= 3
    assert not log_check(result.events)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lost_and_doubled_messages_lead_to_one_agreement_that_both_hold(seed: int) -> None:
    noise = (
        FaultSpec(1, "lose", share=0.2, for_s=20),
        FaultSpec(1, "duplicate", share=0.5, for_s=20),
    )
    result = run_scenario(replace(PLAN, faults=noise, seed=seed), until=70)  # holders are asked
    agreed = the_agreed(result)
    belief = f"agreementFixed(city, {agreed.data['digest']})"
    held = held_by(result)
    assert held["city"] == held[agreed.data["provider"]] == {belief}
    assert not log_check(result.events)


def test_a_consumer_that_was_restarted_does_not_negotiate_again() -> None:
    faults = (
        FaultSpec(10, "crash", agent="city"),
        FaultSpec(13, "restart", agent="city", memory=True),
    )
    result = city(*faults, until=40)
    assert the_agreed(result).time < 10
    assert not [
        e for e in of(result, "auction.called") if "agreementHeld" in e.data["goal"] and e.time > 10
    ]


# -- without a run ------------------------------------------------------------------------------


def test_an_agreement_means_the_same_after_a_message() -> None:
    agreed = CITY.asked().agreed(
        "north",
        {"ssla.delivery": 1 / 3, "ssla.at-home": 0.0, "ssla.isolation": 0.0, "C": 0.1 + 0.2},
    )
    fact = AgreementFixed(agreed)
    goal = want(AgreementHeld(CITY.asked()))
    assert reader(type(goal))(json.encode(goal)) == goal
    assert digest_of(json.decode(json.encode(agreed), type=SecurityAgreement)) == digest_of(agreed)
    assert str(fact) == f"agreementFixed(city, {digest_of(agreed)})"
    assert 'acceptable":5' not in json.encode(goal).decode(), "providers are not told what will do"


VALUES = st.floats(0, 10, allow_nan=False) | st.sampled_from([float("inf"), float("nan"), -1.0])


@given(
    st.dictionaries(
        st.sampled_from(["north", "south", "dead"]),
        st.dictionaries(st.sampled_from(["ssla.a", "ssla.b", "ssla.up", "other"]), VALUES),
    ),
    st.integers(1, 4),
)
def test_a_concession_is_what_one_living_provider_can_hold_and_never_more_than_acceptable(
    nearest: dict[str, dict[str, float]], turn: int
) -> None:
    terms = (
        GuaranteeTerm("a", "s", SecurityMetric.DEPLOY_DELAY, 2.0, acceptable=5.0),
        GuaranteeTerm("b", "s", SecurityMetric.PATCH_DELAY, 3.0),
        GuaranteeTerm("up", "s", SecurityMetric.AVAILABILITY, 0.9, acceptable=0.5),
    )
    own = SecurityAgreement("x", terms, negotiated_with=())
    part = SimpleNamespace(negotiated=(own,))
    parts: Any = SimpleNamespace(part=part, alive=lambda: ("north", "south"))
    me: Any = SimpleNamespace(capability=lambda _: parts, record=lambda *_, **__: "e", cause="")
    negotiation = SslaNegotiation()
    negotiation._me, negotiation.settings = me, SimpleNamespace(rounds=3)  # type: ignore[assignment]
    goal = want(AgreementHeld(own.asked()))
    why = negotiation.concede(goal, nearest, turn)
    limits = negotiation.call(goal)[0].constraints.terms
    first = {each.bid_term: each.objective for each in terms}
    if why or not nearest:
        assert limits == first
        return
    assert turn < 3
    for each in terms:
        assert not each.worse(
            limits[each.bid_term], each.objective if each.acceptable is None else each.acceptable
        )
        assert not each.worse(each.objective, limits[each.bid_term])
    moved = {name: value for name, value in limits.items() if value != first[name]}
    assert moved
    assert any(moved.items() <= nearest.get(agent, {}).items() for agent in ("north", "south"))


@pytest.mark.parametrize(
    ("agreement", "path", "why"),
    [
        (replace(CITY, negotiated_with=None), "terms[0].acceptable", "negotiated_with alone"),
        (term("delivery", acceptable=1.0), "terms[0].acceptable", "better than the objective 2"),
        (term("delivery", acceptable=float("nan")), "terms[0].acceptable", "no such value"),
        (term("at-home", slice="lights"), "terms[1].slice", "for one slice, here cameras"),
    ],
)
def test_what_cannot_be_negotiated_is_refused_with_its_place(
    agreement: SecurityAgreement, path: str, why: str
) -> None:
    assert why in dict(agreement_offences(agreement))[path]


def test_unknown_providers_and_slices_without_a_judge_are_refused() -> None:
    def wrong(**changes: Any) -> dict[str, str]:
        assert PLAN.policy is not None
        policy = replace(PLAN.policy, agreements=(replace(CITY, **changes),))
        plan: Scenario = replace(PLAN, policy=policy)
        return dict(offences(plan))

    found = wrong(negotiated_with=("nort",))
    assert "did you mean 'north'" in found["policy.agreements[0].negotiated_with"]
    found = wrong(negotiated_with=("nsi-cameras",))  # a loop provides nothing
    assert "policy.agreements[0].negotiated_with" in found
