"""What a winner reports to its auctioneer and signs: others hold it against it if it is not so."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.auction.bidder import Bidder
from phalanx.coordination.conduct import Conduct
from phalanx.domain.events import Event
from phalanx.domain.messages import Message, Performative, Result
from phalanx.domain.trust import SignedReport, Suspicion
from phalanx.ledger.ethereum import Account
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, Scenario, TrustSpec
from phalanx.runtime.system import RunResult, System
from phalanx.trust.attestation import ATTESTATION, Attestation
from phalanx.trust.register import TrustStanding
from tests.nightly import sample
from tests.published import load_published
from tests.system.test_trust_fuzz import accidents

SCENARIOS = Path(__file__).parents[2] / "scenarios"
LYING = load_scenario(SCENARIOS / "lying-agent.yaml")
PUBLISHED = replace(
    load_published(SCENARIOS / "lying-agent.yaml"),
    functions=load_scenario(SCENARIOS / "ddos-resilience.yaml").functions,
)
QUIET = replace(LYING, faults=(LYING.faults[0],), duration_s=60)
"""pop1 dies before the attack, so its entry is auctioned; nobody lies."""
UNSIGNED = "it does not stand by what it reports"
RUNS = 60 if "PHALANX_PLANS" in os.environ else 1


def of(result: RunResult, kind: str, **data: Any) -> list[Event]:
    return [e for e in result.events if e.kind == kind and data.items() <= e.data.items()]


def kinds(result: RunResult) -> set[str]:
    """Return the kinds of what verifiers found of anybody."""
    bad = of(result, "attestation.result", tier="contraindicated")
    return {found.split()[0] for e in bad for found in e.data["deviations"]}


def attestation(me: Any) -> Attestation:
    found: Attestation = me.capability(Attestation)
    return found


def accuse(me: Any, agent: str, report: SignedReport | None) -> None:
    """Have the verifiers of an agent look at it, with what it reported."""
    for verifier in attestation(me).register.verifiers_of(agent):
        me.tell(Performative.REQUEST, verifier, ATTESTATION, Suspicion(agent, report))


Told = Callable[[Any, str, SignedReport], None]


def on_report(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    """Call with the auctioneer, the winner and the report of each result that is heard."""
    honest = Conduct.heard_result

    def heard(self: Conduct, me: Any, message: Message) -> None:
        result = message.content
        assert isinstance(result, Result)
        if result.report is not None and message.sender != me.name:
            told(me, message.sender, result.report)
        honest(self, me, message)

    monkeypatch.setattr(Conduct, "heard_result", heard)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return whether each report that comes to a verifier is one, filled as a run goes on."""
    found: list[bool] = []
    honest = Attestation.is_signed

    def signed(self: Attestation, agent: str, report: SignedReport, *rounds: int) -> bool:
        good = honest(self, agent, report, *rounds)
        if not rounds:
            found.append(good)
        return good

    monkeypatch.setattr(Attestation, "is_signed", signed)
    return found


def idle(scenario: Scenario, *, hides: bool) -> System:
    """Return a run in which pop6 has won, reports what it does not do, and perhaps hides it."""
    faults = (LYING.faults[0], FaultSpec(22.1, "lie", agent="pop6"))
    system = System(replace(scenario, faults=faults))
    trust = system.trust
    assert trust is not None
    corrupt = trust.corrupt

    def lie(agent: str, _: str) -> None:
        corrupt(agent, "idle")
        if hides:
            attestation(system.agents[agent].agent).kept = lambda _: ()

    trust.corrupt = lie  # type: ignore[method-assign]
    return system


def test_an_agent_that_tells_its_auctioneer_and_its_verifiers_different_things_is_found() -> None:
    system = idle(QUIET, hides=True)
    result = system.run()
    assert not of(result, "measure.applied", pop="pop6")
    assert kinds(result) == {"report-false"}
    assert system.trust is not None
    assert system.trust.register.standing("pop6") is TrustStanding.QUARANTINED
    suspected = of(result, "trust.suspected", agent="pop6")[0]
    out = of(result, "trust.changed", agent="pop6", standing="quarantined")[0]
    assert out.time < suspected.time + 3


def end(system: System, agent: str, report: SignedReport) -> list[str]:
    """Let an agent end what it has reported, as it may at any time; return what that was."""
    ended = []
    measures: Any = system.infrastructure._measures  # type: ignore[attr-defined]
    for instance in system.agents[agent].agent.capability(Bidder).inventory:
        for effect, measure in list(instance.measures.items()):
            if str(effect) in report.effects:
                del instance.measures[effect]
                measures.lift(measure, agent, system.cause)
                ended.append(str(effect))
    return ended


# -- nobody is accused who is honest --------------------------------------------------------------


@pytest.mark.parametrize("number", range(RUNS))
def test_no_honest_report_is_held_against_who_made_it(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others send each report to the verifiers again and again, whatever happens to agents.

    Messages are lost, doubled and late; agents crash and begin again, with their memory or not;
    filters are lifted as the flood comes and goes, and by their agents at any time.
    """
    random, ended = Random(f"report {number}"), list[str]()

    def told(me: Any, agent: str, report: SignedReport) -> None:
        def ending() -> None:
            ended.extend(end(system, agent, report))

        if random.random() < 0.5:
            late_s = random.uniform(0.0, 5.0)
            me.call_at(me.now + late_s, ending)
        for late_s in (0.0, *(random.uniform(0.0, 15.0) for _ in range(4))):
            me.call_at(me.now + late_s, partial(accuse, me, agent, report))

    on_report(monkeypatch, told)
    users, flood = LYING.traffic
    pauses = tuple(
        replace(flood, name=f"attackers{n}", start_s=at_s, end_s=at_s + 7.0, at=("pop1", "pop2"))
        for n, at_s in enumerate((20.0, 32.0, 44.0))
    )
    trust = TrustSpec(period_s=random.uniform(6.0, 14.0), verifiers=random.randint(2, 4))
    system = System(
        replace(
            random.choice((LYING, PUBLISHED)),
            seed=random.randrange(10_000),
            traffic=(users, *pauses),
            faults=(FaultSpec(10, "crash", agent="pop1", for_s=25), *accidents(random)),
            trust=trust,
            duration_s=110,
        )
    )
    result = system.run()
    assert not kinds(result)
    if not ended:  # what has ended since is no success any more, when the report comes again
        assert not of(result, "auction.awarded", reason=UNSIGNED)


def test_what_was_lifted_after_the_report_was_no_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(QUIET)
    ended: list[str] = []

    def told(me: Any, agent: str, report: SignedReport) -> None:
        me.call_at(me.now + 0.1, lambda: ended.extend(end(system, agent, report)))
        me.call_at(me.now + 0.3, partial(accuse, me, agent, report))

    on_report(monkeypatch, told)
    seen = taken(monkeypatch)
    result = system.run()
    assert ended
    assert any(seen)
    assert not kinds(result)


def test_a_pop_that_remembers_too_little_is_no_witness() -> None:
    """Its driver began anew in this round: what was there before is not known."""
    system = idle(QUIET, hides=True)
    measures: Any = system.infrastructure._measures  # type: ignore[attr-defined]

    def begin() -> None:
        measures._began = system.clock.now()
        system.clock.call_at(system.clock.now() + 1.0, begin)

    system.clock.call_at(20.0, begin)
    result = system.run()
    assert of(result, "trust.suspected", agent="pop6")
    assert not kinds(result)


# -- forged reports -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", sample(["unsigned", "another's", "altered", "old", "nonsense"], 2))
def test_a_report_that_the_agent_did_not_make_lately_proves_nothing(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(replace(QUIET, traffic=(), faults=()))
    seen = taken(monkeypatch)
    forger = system.agents["pop2"].agent
    trust = system.trust
    assert trust is not None

    def forge() -> None:
        number = attestation(forger).register.round - 3 * (how == "old")
        report = SignedReport("pop2.1/auction1", ("attackFiltered(10.0.6.10)",), number)
        key = Account(trust._secret("pop2" if how == "another's" else "pop5", "account"))
        signature = key.sign(attestation(forger)._digest("pop5", report)).hex()
        match how:
            case "unsigned":
                signature = ""
            case "altered":
                report = replace(report, effects=("attackFiltered(10.0.6.11)",))
            case "nonsense":
                signature = "zz" * 65
        accuse(forger, "pop5", replace(report, signature=signature))

    forger.call_at(25.0, forge)
    result = system.run()
    assert seen
    assert not any(seen)
    assert not kinds(result)
    assert trust.register.standing("pop5") is TrustStanding.TRUSTED


def test_reports_cause_bounded_looks_even_if_their_agent_signs_as_many_as_it_likes() -> None:
    """It and another of its kind, that sends them."""
    system = System(replace(QUIET, traffic=(), faults=()))
    forger, trust = system.agents["pop2"].agent, system.trust
    assert trust is not None
    asked = {"count": 0}
    for name in system.agents:
        attested = attestation(system.agents[name].agent)
        honest = attested._ask

        def ask(me: Any, attester: str, look: Any, honest: Any = honest) -> None:
            asked["count"] += attester == "pop5" and not look.in_turn
            honest(me, attester, look)

        attested._ask = ask  # type: ignore[method-assign]
    key = Account(trust._secret("pop5", "account"))
    began = attestation(forger).register

    def flood(number: int = 0) -> None:
        report = SignedReport("c", (f"attackFiltered({number})",), began.round)
        report = replace(
            report, signature=key.sign(attestation(forger)._digest("pop5", report)).hex()
        )
        accuse(forger, "pop5", report)
        if number < 100:
            forger.call_at(forger.now + 0.05, partial(flood, number + 1))

    forger.call_at(25.0, flood)
    system.run()
    assert trust.register.standing("pop5") is TrustStanding.QUARANTINED  # it signed untruth
    assert asked["count"] <= 3 * 2 * 9


@pytest.mark.parametrize(
    "how", sample(["unsigned", "of another effect", "old", "of the future"], 2)
)
def test_a_winner_that_does_not_stand_by_its_report_has_failed(how: str) -> None:
    """So nobody escapes by saying what cannot be shown to others."""
    system = idle(QUIET, hides=True)
    liar = system.agents["pop6"].agent
    attested = attestation(liar)
    honest = attested.stand_by

    def stand_by(me: Any, conversation: str, effects: Any) -> SignedReport | None:
        if how == "unsigned":
            return None
        if how == "of another effect":
            return honest(me, conversation, ("attackFiltered(10.0.6.99)",))
        number = attested.register.round
        attested.register.round += -3 if how == "old" else 2
        report = honest(me, conversation, effects)
        attested.register.round = number
        return report

    attested.stand_by = stand_by  # type: ignore[method-assign]
    result = system.run()
    passed = of(result, "auction.awarded", after="pop6")
    assert passed
    assert all(e.data["reason"] == UNSIGNED for e in passed)
    assert of(result, "measure.applied", pop=passed[0].data["winner"])
