"""Agents that attest each other, in whole runs on virtual time: what is found, and what follows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.checking import check
from phalanx.domain.bids import Bid
from phalanx.domain.events import Event
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.messages import Award, CallForProposals, Performative
from phalanx.domain.predicates import EntryScreened
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.trust import (
    Deviation,
    Evidence,
    EvidenceReply,
    Measure,
    Suspicion,
    TrustTier,
)
from phalanx.functions.edge_filter import EdgeFilter, _effect
from phalanx.ledger.entries import (
    AgentRetired,
    Attested,
    Entry,
    KeyHandedOut,
    Planned,
    RoundOpened,
)
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import (
    FaultSpec,
    FunctionSpec,
    LinkSpec,
    NetworkSpec,
    PopSpec,
    Scenario,
    TrustSpec,
)
from phalanx.runtime.system import RunResult, System
from phalanx.trust.attestation import Attestation
from phalanx.trust.evidence import signed
from phalanx.trust.keys import KeyKeeping
from phalanx.trust.register import TrustStanding
from tests.nightly import NIGHTLY, at_night, sample
from tests.system.rings import ring

SCENARIOS = Path(__file__).parents[2] / "scenarios"
INFECTED = load_scenario(SCENARIOS / "infected-agent.yaml")
LYING = load_scenario(SCENARIOS / "lying-agent.yaml")
PERIOD_S = 10.0


def quiet(*faults: FaultSpec, until: float = 120, verifiers: int = 3) -> Scenario:
    """Return a run without an attack."""
    trust = TrustSpec(period_s=PERIOD_S, verifiers=verifiers)
    return replace(INFECTED, traffic=(), faults=faults, duration_s=until, trust=trust)


def of(events: Iterable[Event], kind: str, **data: Any) -> list[Event]:
    return [e for e in events if e.kind == kind and data.items() <= e.data.items()]


def shares(result: RunResult, since: float = 0.0, until: float = 1e9) -> list[float]:
    """Return the share of what users want that they get, second by second."""
    seen = (e for e in result.events if e.kind == "network.sample" and since <= e.time < until)
    hosts = (e.data["hosts"]["server"] for e in seen)
    return [h["legitimate_mb_s"] / h["wanted_mb_s"] for h in hosts if h["wanted_mb_s"]]


def standings(system: System) -> dict[str, TrustStanding]:
    assert system.trust is not None
    return {name: member.standing for name, member in system.trust.register.members.items()}


def entries(system: System) -> list[Entry]:
    """Return what the ledger records of a run, filled as it runs."""
    assert system.trust is not None
    found: list[Entry] = []
    ledger = system.trust.ledger.join(bytes([7] * 32))
    ledger.follow(lambda recorded: found.append(recorded.entry))
    return found


def attestation(system: System, agent: str) -> Attestation:
    return system.agents[agent].agent.capability(Attestation)


# -- the two scenarios ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def infected() -> tuple[System, RunResult, list[Entry]]:
    system = System(INFECTED)
    found = entries(system)
    return system, system.run(), found


Ran = tuple[System, RunResult, list[Entry]]


def test_agents_are_verified_in_a_chain_before_anything_else(infected: Ran) -> None:
    _, result, _ = infected
    chain = of(result.events, "attestation.result", round=0)[:6]
    assert [e.data["attester"] for e in chain] == [f"pop{n}" for n in range(1, 7)]
    assert [e.agent for e in chain] == ["secaas", *(f"pop{n}" for n in range(1, 6))]
    assert all(e.data["modelled"] for e in chain)


def test_an_infected_agent_is_found_and_expelled_by_all(infected: Ran) -> None:
    _, result, _ = infected
    infection = of(result.events, "fault.injected", fault="infect")[0].time
    believed = of(result.events, "belief.changed", belief="distrusted(pop1)", value=True)
    others = [e for e in believed if e.agent != "pop1"]
    assert {e.agent for e in others} >= {f"pop{n}" for n in range(2, 7)}
    assert max(e.time for e in others) <= infection + PERIOD_S + 2
    known = max(e.time for e in others)
    awards = [e for e in of(result.events, "auction.awarded") if known < e.time < 122]
    assert awards
    assert all(e.data["winner"] != "pop1" for e in awards if e.agent != "pop1")


def test_what_others_do_about_it_follows_from_the_result_that_found_it(infected: Ran) -> None:
    _, result, _ = infected
    results = {e.id for e in of(result.events, "attestation.result", tier="contraindicated")}
    for belief in of(result.events, "belief.changed", belief="distrusted(pop1)", value=True):
        assert belief.cause in results or any(
            e.id == belief.cause and e.cause in results for e in result.events
        )


def test_its_functions_are_taken_over_and_users_keep_their_service(infected: Ran) -> None:
    _, result, _ = infected
    ended = of(result.events, "measure.lifted", pop="pop1")[0].time
    again = of(result.events, "measure.applied", entry="pop1")
    assert any(ended < e.time < ended + 4 for e in again)
    worse = [share for share in shares(result, 30.0) if share < 0.9]
    assert len(worse) <= 3
    assert sum(shares(result, 30.0)) / len(shares(result, 30.0)) > 0.98


def test_the_others_get_another_key_and_it_does_not(infected: Ran) -> None:
    _, result, found = infected
    handed = [entry for entry in found if isinstance(entry, KeyHandedOut)]
    first, second = ({e.agent for e in handed if e.epoch == epoch} for epoch in (1, 2))
    assert first == {f"pop{n}" for n in range(1, 7)}
    assert "pop1" not in {e.agent for e in handed[6:11]}
    installed = of(result.events, "key.installed", epoch=2)
    assert {e.agent for e in installed if e.time < 100} == {f"pop{n}" for n in range(2, 7)}
    assert second >= {f"pop{n}" for n in range(2, 7)}


def test_all_members_hold_one_secret_and_it_stands_nowhere_in_clear(infected: Ran) -> None:
    system, result, found = infected
    secrets = {a.agent.capability(KeyKeeping).secret for a in system.agents.values()}
    assert len(secrets) == 1
    secret = secrets.pop()
    assert secret is not None
    public = [*(repr(e) for e in result.events), *(repr(e) for e in found)]
    assert not any(secret.hex() in text or repr(secret)[2:-1] in text for text in public)
    assert all(secret not in e.ciphertext for e in found if isinstance(e, KeyHandedOut))


def test_an_agent_that_is_out_verifies_nobody(infected: Ran) -> None:
    _, result, _ = infected
    out = of(result.events, "trust.changed", agent="pop1", standing="quarantined")[0].time
    said = [e for e in of(result.events, "attestation.result") if e.agent == "pop1"]
    assert not [e for e in said if out < e.time < 122]
    assert [e for e in said if e.time > 130]


def test_deployed_anew_it_is_verified_and_works_again(infected: Ran) -> None:
    system, result, _ = infected
    assert set(standings(system).values()) == {TrustStanding.TRUSTED}
    last = [e for e in result.events if e.kind == "measure.applied"][-1]
    assert last.data["pop"] == "pop1"


@at_night
def test_the_same_seed_gives_the_same_log(infected: Ran) -> None:
    _, result, _ = infected
    again = System(INFECTED).run(60)
    first = [event for event in result.events if event.time < 60]
    assert [event for event in again.events if event.time < 60] == first


@at_night
def test_what_an_expelled_agent_watched_is_watched_by_one_heir() -> None:
    result = System(quiet(FaultSpec(20, "infect", agent="pop6"), until=240)).run()
    expelled = [e.time for e in of(result.events, "trust.changed", standing="quarantined")]
    taken = of(result.events, "duty.taken_up", home="pop6")
    assert len({e.agent for e in taken}) == 1
    assert 0 <= taken[0].time - expelled[0] < 1
    assert check(result.events) == []


@pytest.mark.parametrize("seed", sample([1, 3, 6], 3))
def test_a_liar_passes_every_measurement_and_is_found_by_its_deeds(seed: int) -> None:
    system = System(replace(LYING, seed=seed))
    result = system.run()
    won = [e for e in of(result.events, "auction.awarded", winner="pop4") if e.agent != "pop4"]
    assert found(result, "pop4") == {"bid-false"}
    out = of(result.events, "trust.changed", agent="pop4", standing="quarantined")[0]
    assert won[0].time < out.time < won[0].time + 2
    # In some runs it enforces nothing; in others its first filter drops for half a second.
    applied = [e for e in of(result.events, "measure.applied", pop="pop4") if e.time < 120]
    assert all(out.time - 0.5 < e.time < out.time for e in applied)
    assert len(applied) <= 1
    assert min(shares(result, out.time + 4)) > 0.9
    assert standings(system)["pop4"] is TrustStanding.TRUSTED  # deployed anew at 120 s


# -- deeds ----------------------------------------------------------------------------------------


def found(result: RunResult, agent: str) -> set[str]:
    """Return the kinds of what verifiers found of an agent."""
    bad = of(result.events, "attestation.result", attester=agent, tier="contraindicated")
    return {d.split()[0] for e in bad for d in e.data["deviations"]}


def lying(agent: str, how: str, at_s: float = 15.0) -> tuple[System, RunResult]:
    """Run the scenario in which pop1 dies and filters are auctioned, with a liar of some kind."""
    faults = (LYING.faults[0], FaultSpec(at_s, "lie", agent=agent))
    system = System(replace(LYING, faults=faults, duration_s=70))
    trust = system.trust
    assert trust is not None
    corrupt = trust.corrupt
    trust.corrupt = lambda agent, _: corrupt(agent, how)  # type: ignore[method-assign]
    return system, system.run()


@at_night
def test_a_rule_that_is_another_is_found_at_once_by_the_agent_that_had_it_made() -> None:
    """It bids truly, wins, and drops all that goes to the server."""
    _, result = lying("pop6", "lie", 22.1)  # after the awards
    applied = of(result.events, "measure.applied", pop="pop6")[0]
    assert "rule-other" in found(result, "pop6")
    assert of(result.events, "trust.suspected", agent="pop6")[0].time < applied.time + 0.5
    lifted = of(result.events, "measure.lifted", pop="pop6")[0]
    assert lifted.time < applied.time + 2


def test_a_false_bid_that_is_followed_by_honest_work_is_found() -> None:
    system, result = lying("pop4", "bid")
    assert found(result, "pop4") == {"bid-false"}
    assert standings(system)["pop4"] is TrustStanding.QUARANTINED
    others = {name: standing for name, standing in standings(system).items() if name > "pop1"}
    assert {n for n, standing in others.items() if standing is not TrustStanding.TRUSTED} == {
        "pop4"
    }


def test_a_bid_of_which_the_bidders_pop_knows_another_wins_nothing() -> None:
    """Nobody but the auctioneer heard it, so that is no proof for others: no one is expelled."""
    system, result = lying("pop4", "propose")
    taken = [e for e in of(result.events, "auction.awarded", after="pop4") if e.agent == "pop2"]
    assert taken
    assert taken[0].data["reason"] == "its PoP knows of another bid"
    assert not of(result.events, "measure.applied", pop="pop4")
    assert standings(system)["pop4"] is TrustStanding.TRUSTED


def test_who_says_falsely_that_it_keeps_what_is_wanted_wins_nothing() -> None:
    _, result = lying("pop4", "keep")
    won = [e for e in of(result.events, "auction.awarded", winner="pop4") if e.agent != "pop4"]
    assert won
    assert all(row["kept"] for row in won[0].data["ranking"])
    taken = [e for e in of(result.events, "auction.awarded", after="pop4") if e.agent == "pop2"]
    assert {e.data["reason"] for e in taken} == {"what it says that it keeps so is not in force"}
    assert not of(result.events, "measure.applied", pop="pop4")


def test_a_rule_that_was_reported_and_never_put_in_force_is_found() -> None:
    system, result = lying("pop2", "idle")
    assert not of(result.events, "measure.applied", pop="pop2")
    assert found(result, "pop2") == {"rule-missing"}
    assert standings(system)["pop2"] is TrustStanding.QUARANTINED
    out = of(result.events, "trust.changed", agent="pop2", standing="quarantined")[0]
    assert out.time < 22.7 + PERIOD_S + 3


def test_a_rule_that_was_removed_behind_an_agents_back_is_found() -> None:
    system = System(replace(INFECTED, faults=(), duration_s=70))
    measures: Any = system.infrastructure._measures  # type: ignore[attr-defined]

    def remove() -> None:
        name = next(n for n, m in measures._measures.items() if m.instance.pop == "pop2")
        measures._end(name, "the PoP's root removed it", system.cause)

    system.clock.call_at(40.0, remove)
    result = system.run()
    assert found(result, "pop2") == {"rule-missing"}
    bad = of(result.events, "attestation.result", attester="pop2", tier="contraindicated")
    assert 40 < bad[0].time < 40 + PERIOD_S + 3
    assert standings(system)["pop2"] is TrustStanding.QUARANTINED


@at_night
def test_a_rule_that_is_lifted_while_it_is_looked_at_is_no_deviation() -> None:
    """What the agent says it keeps is older than what is read: the second look clears it."""
    system = System(replace(INFECTED, faults=(), duration_s=60))
    late: list[str] = []

    def wrap(attested: Attestation) -> None:
        honest = attested.kept

        def kept(me: Any) -> tuple[str, ...]:
            if me.name in late:
                return honest(me)
            late.append(me.name)
            return (*honest(me), "attackFiltered(lifted just now)")

        attested.kept = kept

    for name in system.agents:
        system.clock.call_at(30.0, partial(wrap, attestation(system, name)))
    result = system.run()
    assert len(late) == 6
    assert not of(result.events, "attestation.result", tier="contraindicated")
    assert set(standings(system).values()) == {TrustStanding.TRUSTED}


def test_false_suspicions_cost_bounded_looks_and_expel_nobody() -> None:
    system = System(quiet(until=60))
    liar = system.agents["pop2"].agent

    def suspect() -> None:
        for victim in system.agents:
            for peer in system.agents:
                liar.tell(Performative.REQUEST, peer, "attestation", Suspicion(victim))
        liar.call_at(liar.now + 0.1, suspect)

    liar.call_at(20.0, suspect)
    asked: Counter[tuple[str, str, int]] = Counter()
    for name in system.agents:
        attested = attestation(system, name)
        honest = attested._ask

        def ask(me: Any, attester: str, look: Any, honest: Any = honest) -> None:
            asked[me.name, attester, look.round] += 1
            honest(me, attester, look)

        attested._ask = ask  # type: ignore[method-assign]
    result = system.run()
    assert max(count for (*_, number), count in asked.items() if number) == 2
    assert not of(result.events, "attestation.result", tier="contraindicated")
    assert set(standings(system).values()) == {TrustStanding.TRUSTED}


def test_who_has_itself_looked_at_early_is_looked_at_again_in_the_round() -> None:
    system = System(quiet(until=60))
    looked: list[tuple[float, bool]] = []
    for name in system.agents:
        attested = attestation(system, name)
        honest = attested._ask

        def ask(me: Any, attester: str, look: Any, honest: Any = honest) -> None:
            if attester == "pop5" and look.round:
                looked.append((me.now, look.in_turn))
            honest(me, attester, look)

        attested._ask = ask  # type: ignore[method-assign]
    agent = system.agents["pop5"].agent

    def early() -> None:
        for peer in attestation(system, "pop5").register.verifiers_of("pop5"):
            agent.tell(Performative.REQUEST, peer, "attestation", Suspicion("pop5"))

    # Right after a round began, before its looks.
    system.clock.call_at(20.4, early)
    system.run()
    assert [at for at, in_turn in looked if not in_turn]
    assert sum(in_turn for _, in_turn in looked) >= 3 * 3


def test_without_a_chain_whoever_enrolled_the_agents_opens_the_rounds() -> None:
    trust = TrustSpec(ledger="witness:", period_s=PERIOD_S)
    system = System(replace(quiet(FaultSpec(30, "infect", agent="pop1")), trust=trust))
    found = entries(system)
    result = system.run(80)
    assert sum(isinstance(entry, RoundOpened) for entry in found) >= 4
    expelled = of(result.events, "trust.changed", agent="pop1", standing="quarantined")
    assert expelled[0].time < 30 + 2 * PERIOD_S
    others = {name: standing for name, standing in standings(system).items() if name != "pop1"}
    assert set(others.values()) == {TrustStanding.TRUSTED}


@at_night
def test_a_rule_that_was_weakened_behind_an_agents_back_is_found() -> None:
    system = System(replace(INFECTED, faults=(), duration_s=70))
    measures: Any = system.infrastructure._measures  # type: ignore[attr-defined]

    def weaken() -> None:
        found = next(m for m in measures._measures.values() if m.instance.pop == "pop2")
        match = replace(found.rule.match, sources=found.rule.match.sources[:1])
        found.rule = replace(found.rule, match=match)

    system.clock.call_at(40.0, weaken)
    result = system.run()
    found = of(result.events, "attestation.result", attester="pop2", tier="contraindicated")
    assert 40 < found[0].time < 40 + PERIOD_S + 3
    assert all(d.startswith("rule-other ") for e in found for d in e.data["deviations"])
    # Whoever did it: an agent that cannot keep its PoP's rules is dealt with no longer.
    assert standings(system)["pop2"] is TrustStanding.QUARANTINED


# -- what cannot be seen --------------------------------------------------------------------------


def test_missed_an_infected_agent_among_verifiers_that_all_vouch_for_it() -> None:
    system = System(quiet(FaultSpec(30, "infect", agent="pop5"), until=90))
    for name in ("pop1", "pop2", "pop3", "pop4", "pop6"):
        vouch(attestation(system, name))
    system.run()
    assert standings(system)["pop5"] is TrustStanding.TRUSTED


def test_missed_an_agent_that_says_that_it_leaves_and_goes_on() -> None:
    system = System(quiet(FaultSpec(30, "infect", agent="pop5"), until=90))
    agent = system.agents["pop5"].agent
    leave = AgentRetired("pop5", "leaves")
    agent.call_at(25.0, lambda: attestation(system, "pop5").submit(agent, leave))
    result = system.run()
    assert standings(system)["pop5"] is TrustStanding.RETIRED
    assert not of(result.events, "attestation.result", attester="pop5", tier="contraindicated")
    assert not of(result.events, "belief.changed", belief="distrusted(pop5)", value=True)
    # Its score is none, so it wins nothing; and it gets no key of the epoch that begins.
    assert system.trust is not None
    assert system.trust.register.members["pop5"].score == 0.0
    assert "pop5" not in system.trust.register.holders


def test_missed_a_filter_of_innocent_sources_that_says_what_it_is() -> None:
    match = TrafficMatch(target="10.0.6.10", sources=("10.1.0.1",))  # a user of the server
    rule = TrafficRule(match, TrafficVerdict.DROP)
    assert EdgeFilter.confirms(str(_effect(rule)), rule)


# -- false alarms -----------------------------------------------------------------------------


@at_night
def test_agents_that_crash_and_come_back_are_never_called_infected() -> None:
    faults = (
        FaultSpec(30, "crash", agent="pop2", for_s=25),
        FaultSpec(50, "crash", agent="pop5", for_s=3, memory=True),
        FaultSpec(60, "crash", agent="pop3", for_s=1),
        FaultSpec(70, "lose", share=0.3, for_s=10),
        FaultSpec(90, "drift", agent="pop4", rate=1.3, for_s=10),
    )
    system = System(quiet(*faults, until=160))
    result = system.run()
    assert not of(result.events, "attestation.result", tier="contraindicated")
    assert set(standings(system).values()) == {TrustStanding.TRUSTED}


def test_an_agent_that_leaves_in_order_is_not_missed() -> None:
    system = System(quiet(FaultSpec(30, "drain", agent="pop2")))
    result = system.run()
    assert standings(system).pop("pop2") is TrustStanding.RETIRED
    assert not of(result.events, "attestation.result", attester="pop2", tier="none")


def test_who_is_cut_off_for_long_is_silent_and_comes_back() -> None:
    alone = ("pop3",)
    system = System(quiet(FaultSpec(20, "partition", groups=(alone,), for_s=50), until=130))
    result = system.run()
    assert of(result.events, "trust.changed", agent="pop3", standing="silent")
    assert set(standings(system).values()) == {TrustStanding.TRUSTED}


@at_night
def test_who_is_silent_for_a_while_still_looks_after_what_it_has_in_force() -> None:
    """Else its filter stayed for good: the goal that watches it failed, and the lease held."""
    alone = FaultSpec(40, "partition", groups=(("pop2",),), for_s=12)
    users, flood = INFECTED.traffic
    traffic = (users, replace(flood, end_s=80))
    result = System(replace(INFECTED, faults=(alone,), traffic=traffic)).run()
    assert of(result.events, "trust.changed", agent="pop2", standing="silent")
    (applied,) = of(result.events, "measure.applied", pop="pop2")
    (lifted,) = of(result.events, "measure.lifted", pop="pop2", measure=applied.data["measure"])
    assert lifted.data["reason"] == "lifted"


def test_who_was_silent_is_genuine_again_as_soon_as_it_answers() -> None:
    """The round in which it was asked in vain goes on for 2.5 s: it does not have to wait."""
    alone = FaultSpec(20, "partition", groups=(("pop2",),), for_s=40.6)
    result = System(quiet(alone, until=70)).run()
    changes = of(result.events, "trust.changed", agent="pop2")
    assert "silent" in {event.data["standing"] for event in changes}
    back = next(event for event in changes if event.time > 60)
    assert back.data["standing"] == "trusted"
    assert back.time < 62.5


def test_who_was_never_enrolled_is_not_listened_to_until_it_is_verified() -> None:
    """It is of the same program, with a place on the bus and at a PoP."""
    system = System(replace(INFECTED, faults=()))
    assert system.trust is not None
    enrolment = system.trust._enrolments.pop("pop2")

    def enrol() -> None:
        assert system.trust is not None
        system.trust._enrolments["pop2"] = enrolment
        system.trust.deployed("pop2", "")

    system.clock.call_at(60.0, enrol)
    result = system.run(until=110)
    first = of(result.events, "attestation.result", round=1)[0].time
    (verified,) = [e.time for e in of(result.events, "trust.changed", agent="pop2")]
    assert 60 < verified < 75
    out = [e for e in result.events if first + 1 < e.time < verified]
    assert not [e for e in of(out, "auction.awarded", winner="pop2") if e.agent != "pop2"]
    assert not of(out, "measure.applied", pop="pop2")
    assert of(out, "measure.applied"), "the others defend"
    again = [e for e in result.events if e.time > verified]
    assert of(again, "measure.applied", pop="pop2"), "and it with them, from then on"


# -- hostile agents with real keys ------------------------------------------------------------


def accuse(verifier: Attestation, victim: str) -> None:
    """Let a verifier find one agent not genuine, whatever that shows."""
    honest = verifier._conclude

    def conclude(me: Any, attester: str, look: Any, *said: Any) -> None:
        untrue = TrustTier.CONTRAINDICATED, (Deviation("text-altered", victim, "no"),)
        honest(me, attester, look, *(untrue if attester == victim else said))

    verifier._conclude = conclude  # type: ignore[method-assign]


def vouch(verifier: Attestation) -> None:
    """Let a verifier find every agent genuine, whatever that shows."""
    honest = verifier._conclude

    def conclude(me: Any, attester: str, look: Any, *said: Any) -> None:
        honest(me, attester, look, TrustTier.AFFIRMING, ())

    verifier._conclude = conclude  # type: ignore[method-assign]


@at_night
def test_one_that_accuses_the_innocent_expels_nobody() -> None:
    system = System(quiet(until=160))
    accuse(attestation(system, "pop2"), "pop5")
    result = system.run()
    assert of(result.events, "attestation.result", attester="pop5", tier="contraindicated")
    assert standings(system)["pop5"] is TrustStanding.TRUSTED
    assert system.trust is not None
    scores = {name: m.score for name, m in system.trust.register.members.items()}
    assert min(scores, key=lambda name: scores[name]) == "pop2"


def test_a_root_of_trust_that_accuses_the_next_agent_of_the_chain_holds_up_nobody() -> None:
    system = System(quiet(until=90))
    accuse(attestation(system, "pop2"), "pop3")
    result = system.run()
    chain = of(result.events, "attestation.result", attester="pop3", round=0)
    assert [(e.agent, e.data["tier"]) for e in chain] == [
        ("pop2", "contraindicated"),
        ("pop4", "affirming"),  # the next root of trust
    ]
    assert {*standings(system).values()} == {TrustStanding.TRUSTED}
    assert system.trust is not None
    assert system.trust.register.round >= 3
    scores = {name: m.score for name, m in system.trust.register.members.items()}
    assert min(scores, key=lambda name: scores[name]) == "pop2"


def test_an_operator_has_all_agents_looked_at_at_once() -> None:
    """By recording the plan anew; the rounds go on as before."""
    system = System(quiet(until=90))
    assert system.trust is not None
    trust, found = system.trust, entries(system)
    again = Planned(PERIOD_S, 3, 0)
    opened: list[float] = []
    trust.ledger.join(bytes([8] * 32)).follow(
        lambda recorded: (
            opened.append(recorded.time_s) if isinstance(recorded.entry, RoundOpened) else None
        )
    )

    def ask() -> None:
        at = system.clock.now()
        trust._secaas.tell(again, trust._cause)

        def looked() -> None:
            number = max(e.round for e in found if isinstance(e, RoundOpened))
            said = Counter(
                e.result.attester
                for e in found
                if isinstance(e, Attested) and e.result.round == number
            )
            assert set(said.values()) == {3}, at
            assert len(said) == 6

        system.clock.call_at(at + 2.5, looked)

    system.clock.call_at(40.0, lambda: system.clock.call_at(opened[-1] + PERIOD_S + 1.5, ask))
    result = system.run()
    assert len([e for e in found if isinstance(e, Planned)]) == 2
    assert max(b - a for a, b in itertools.pairwise(opened)) < PERIOD_S + 3
    assert not of(result.events, "attestation.result", tier="contraindicated")


def test_what_an_auctioneer_sees_alone_expels_nobody() -> None:
    """It says that its winner keeps something in force that is not there."""
    system = System(quiet(until=60))
    accuser = system.agents["pop2"].agent
    said = (Deviation("rule-missing", "attackFiltered(10.0.6.10)", "no"),)
    accuser.call_at(25.0, lambda: attestation(system, "pop2").suspect(accuser, "pop5", said))
    result = system.run()
    assert of(result.events, "trust.suspected", agent="pop5")
    assert not of(result.events, "attestation.result", tier="contraindicated")
    assert standings(system)["pop5"] is TrustStanding.TRUSTED


def test_an_award_that_was_forged_makes_nobody_a_false_bidder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what others say that an agent has bid its PoP is told nothing."""
    monkeypatch.setattr("tests.conftest.check", lambda _: [])  # it shows what was forged
    system = System(quiet(until=60))
    forger = system.agents["pop2"].agent
    bid = Bid("edge-filter", 1, {"T": 0.0, "C": 0.0, "D": 0.0}, ("pop5", "pop1"))
    wanted = want(EntryScreened("10.0.6.10", "pop1"))
    goal = ConstrainedGoal(wanted, Constraints(), Preferences(), tap="pop1")
    award = Award(bid, CallForProposals(goal, 100.0))
    forger.call_at(22.0, lambda: forger.tell(Performative.ACCEPT, "pop5", "pop2.1/forged", award))
    result = system.run()
    assert of(result.events, "hold.granted", pop="pop5", path=["pop5", "pop1"])
    assert not of(result.events, "attestation.result", tier="contraindicated")
    assert standings(system)["pop5"] is TrustStanding.TRUSTED


def test_one_that_vouches_for_an_infected_agent_hides_it_from_nobody() -> None:
    system = System(quiet(FaultSpec(30, "infect", agent="pop5"), until=90))
    vouch(attestation(system, "pop2"))
    system.run()
    assert standings(system)["pop5"] is TrustStanding.QUARANTINED


def serve(system: System, agent: str, reply: Any) -> None:
    """Let something else answer for an agent's measurer."""
    services = system.agents[agent].node._services
    honest = services[Measure]
    services[Measure] = partial(reply, honest)  # type: ignore[index]


def test_evidence_that_is_replayed_is_no_evidence() -> None:
    system = System(quiet())
    shown: list[Evidence] = []

    def replayed(honest: Any, action: Measure, cause: str, answer: Any) -> None:
        if not shown:
            honest(action, cause, shown.append)
        answer(shown[0])

    serve(system, "pop6", replayed)
    result = system.run()
    found = of(result.events, "attestation.result", attester="pop6", tier="none")
    assert any("evidence-old" in e.data["deviations"][0] for e in found)
    assert standings(system)["pop6"] is TrustStanding.SILENT


def test_evidence_of_another_agent_is_none() -> None:
    system = System(quiet())
    other = system.agents["pop1"].node._services[Measure]

    def borrowed(_: Any, action: Measure, cause: str, answer: Any) -> None:
        other(action, cause, answer)  # a relayed challenge

    serve(system, "pop6", borrowed)
    result = system.run()
    assert of(result.events, "attestation.result", attester="pop6", tier="none")
    assert TrustStanding.TRUSTED is not standings(system)["pop6"]


def test_evidence_signed_with_another_key_is_none() -> None:
    system = System(quiet())
    assert system.trust is not None
    key = system.trust._keys["pop1"]

    def forged(honest: Any, action: Measure, cause: str, answer: Any) -> None:
        honest(action, cause, lambda evidence: answer(signed(evidence, key)))

    serve(system, "pop6", forged)
    result = system.run()
    found = of(result.events, "attestation.result", attester="pop6", tier="none")
    assert any("signature-wrong" in e.data["deviations"][0] for e in found)


def test_evidence_of_other_software_that_nothing_was_seen_of_before_expels_its_agent() -> None:
    """Nothing of its measurement is looked at, so nothing is told of how it runs."""
    system = System(quiet())
    assert system.trust is not None
    key = system.trust._keys["pop6"]

    def other(honest: Any, action: Measure, cause: str, answer: Any) -> None:
        def altered(evidence: Evidence) -> None:
            changed = replace(evidence, software="another 1", modelled=False)
            answer(signed(changed, key))

        honest(action, cause, altered)

    serve(system, "pop6", other)
    result = system.run()
    found = of(result.events, "attestation.result", attester="pop6", tier="contraindicated")
    assert any("software-other" in e.data["deviations"][0] for e in found)
    assert not any("activity" in e.data for e in found)
    assert standings(system)["pop6"] is TrustStanding.QUARANTINED


def test_answers_that_nobody_asked_for_and_nonsense_change_nothing() -> None:
    system = System(quiet(until=60))
    agent = system.agents["pop2"].agent

    def shout() -> None:
        for peer in system.agents:
            reply = EvidenceReply("00" * 16, None, "x" * 1000)
            agent.tell(Performative.INFORM, peer, "attestation", reply)
        agent.call_at(agent.now + 0.5, shout)

    agent.call_at(5.0, shout)
    result = system.run()
    assert not of(result.events, "attestation.result", tier="contraindicated")
    assert set(standings(system).values()) == {TrustStanding.TRUSTED}


def test_an_agent_that_is_altered_beyond_measure_is_expelled_all_the_same() -> None:
    """What was found of it would be more than the ledger takes."""
    system = System(quiet(until=60))
    for name in system.agents:
        verifier = attestation(system, name)
        honest = verifier._conclude
        found = tuple(Deviation("code-altered", f"{n}" * 300, "x" * 4000) for n in range(50))
        bad = TrustTier.CONTRAINDICATED, found

        def conclude(
            me: Any, attester: str, look: Any, *said: Any, honest: Any = honest, bad: Any = bad
        ) -> None:
            honest(me, attester, look, *(bad if attester == "pop5" and look.round else said))

        verifier._conclude = conclude  # type: ignore[method-assign]
    result = system.run()
    assert not of(result.events, "ledger.refused")
    assert standings(system)["pop5"] is TrustStanding.QUARANTINED


# -- the plan ---------------------------------------------------------------------------------


@at_night
def test_every_agent_is_verified_as_often_as_the_plan_says() -> None:
    system = System(quiet(until=300))
    found = entries(system)
    system.run()
    rounds = max(e.round for e in found if isinstance(e, RoundOpened))
    assert rounds >= 20
    said: dict[tuple[int, str], set[str]] = {}
    for entry in found:
        if isinstance(entry, Attested) and 0 < entry.result.round < rounds:
            key = entry.result.round, entry.result.attester
            said.setdefault(key, set()).add(entry.result.verifier)
    assert len(said) == 6 * (rounds - 1)
    assert {len(verifiers) for verifiers in said.values()} == {3}
    assert all(attester not in verifiers for (_, attester), verifiers in said.items())


@at_night
def test_a_group_is_verified_whole_and_then_as_often_as_the_plan_says() -> None:
    """At night a hundred agents and an hour; else fewer, and as many rounds."""
    count, period_s = (100, 60.0) if NIGHTLY else (16, 30.0)
    until = period_s * 60 if NIGHTLY else period_s * 8
    names = [f"p{number:02}" for number in range(count)]
    around = zip(names, [*names[1:], names[0]], strict=True)
    network = NetworkSpec(
        tuple(PopSpec(name, 4, 8, 100) for name in names),
        names[0],
        tuple(LinkSpec(ends, 10, 2) for ends in around),
    )
    trust = TrustSpec(period_s=period_s)
    plan = Scenario("group", until, network, {"rate-limiter": FunctionSpec()}, trust=trust)
    system = System(plan, keep_events=1000)
    found = entries(system)
    system.run()
    assert set(standings(system).values()) == {TrustStanding.TRUSTED}
    first = [e.result.attester for e in found if isinstance(e, Attested) and e.result.round == 0]
    assert sorted(first) == names
    rounds = max(e.round for e in found if isinstance(e, RoundOpened))
    assert rounds >= 0.7 * until / period_s - 3  # the chain takes a second an agent
    said = Counter(
        (e.result.round, e.result.attester)
        for e in found
        if isinstance(e, Attested) and 0 < e.result.round < rounds
    )
    assert len(said) == count * (rounds - 1)
    assert set(said.values()) == {3}


def test_without_trust_nothing_of_it_is_there() -> None:
    result = System(ring()).run(20)
    assert not [e for e in result.events if e.kind.startswith(("trust.", "attestation.", "key."))]
