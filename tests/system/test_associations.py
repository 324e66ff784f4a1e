"""Service levels between agents that verify each other, in whole runs on virtual time."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import combinations
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.console.report import read_report, render_report
from phalanx.coordination.associations import LEAST, by_chance
from phalanx.domain.actions import Done
from phalanx.domain.messages import Message
from phalanx.domain.trust import EvidenceReply, ServiceLevel, Submit
from phalanx.ledger import RecordedEntry
from phalanx.ledger.entries import Associated, Breached
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, Scenario, TrustSpec
from phalanx.runtime.system import RunResult, System
from phalanx.trust.register import TrustStanding
from tests.nightly import at_night, sample

SCENARIO = load_scenario(Path(__file__).parents[2] / "scenarios" / "infected-agent.yaml")
AGENTS = tuple(f"pop{number}" for number in range(1, 7))
PAIRS = {frozenset(pair) for pair in combinations(AGENTS, 2)}
LEVEL = ServiceLevel(100.0, 0.02)
AROUND = ("pop1", "pop2"), ("pop2", "pop3")
"""All links of pop2."""


def plan(*faults: FaultSpec, until: float = 300, level: ServiceLevel = LEVEL) -> Scenario:
    """Return a run without an attack, in which messages take the links of the network."""
    trust = TrustSpec(period_s=10.0, service_levels=level)
    network = replace(SCENARIO.network, default_link_loss=0.0)
    made = replace(SCENARIO, traffic=(), faults=faults, duration_s=until, trust=trust)
    return replace(made, network=network, control="in-band")


Ran = tuple[System, RunResult, list[RecordedEntry]]


def ran(system: System) -> Ran:
    """Run to the end; return what the ledger holds as well."""
    assert system.trust is not None
    found: list[RecordedEntry] = []
    system.trust.ledger.join(bytes([7] * 32)).follow(found.append)
    return system, system.run(), found


def recorded(run: Ran, kind: type) -> list[Any]:
    return [each.entry for each in run[2] if isinstance(each.entry, kind)]


def pairs(run: Ran) -> set[frozenset[str]]:
    """Return those of which one said that their level is broken."""
    return {frozenset((entry.a, entry.b)) for entry in recorded(run, Breached)}


def events(run: Ran, kind: str) -> list[Any]:
    return [event for event in run[1].events if event.kind == kind]


def scores(run: Ran) -> dict[str, float]:
    assert run[0].trust is not None
    return {name: member.score for name, member in run[0].trust.register.members.items()}


def all_are_trusted(run: Ran) -> bool:
    trust = run[0].trust
    assert trust is not None
    return set(trust.register.with_standing(TrustStanding.TRUSTED)) == set(AGENTS)


@pytest.fixture(scope="module")
def calm() -> Ran:
    return ran(System(plan(until=200)))


def test_each_pair_agrees_once_by_the_word_of_both(calm: Ran) -> None:
    asked = Counter(
        (frozenset((e.entry.a, e.entry.b)), e.author)
        for e in calm[2]
        if isinstance(e.entry, Associated)
    )
    assert {pair for pair, _ in asked} == PAIRS
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * len(PAIRS)
    told = {frozenset((e.agent, e.data["agent"])) for e in events(calm, "association.agreed")}
    assert told == PAIRS


def test_nobody_breaks_a_level_where_nothing_is_wrong(calm: Ran) -> None:
    assert not recorded(calm, Breached)
    assert not events(calm, "ledger.refused")


@at_night
def test_no_message_is_sent_that_would_not_be_sent_without(calm: Ran) -> None:
    bare = plan(until=200)
    assert bare.trust is not None
    other = ran(System(replace(bare, trust=replace(bare.trust, service_levels=None))))
    ours, others = calm[0].bus.contents, other[0].bus.contents
    assert ours.keys() == others.keys()
    assert ours == {kind: pytest.approx(count, rel=0.03, abs=2) for kind, count in others.items()}
    assert not recorded(other, Associated)


@pytest.fixture(scope="module")
def slow() -> Ran:
    """pop2 is far away for a while; the ways of others cross it as long as they are short."""
    faults = (FaultSpec(60, "degrade", link=link, share=1.0, latency_ms=300.0) for link in AROUND)
    return ran(System(plan(*faults)))


@at_night
def test_slow_links_break_the_levels_of_those_that_use_them(slow: Ran) -> None:
    crossing = {frozenset(("pop1", "pop3")), frozenset(("pop3", "pop5"))}
    of_pop2 = {pair for pair in PAIRS if "pop2" in pair}
    assert pairs(slow) >= of_pop2
    assert pairs(slow) <= of_pop2 | crossing
    assert all(entry.latency_ms > LEVEL.max_latency_ms for entry in recorded(slow, Breached))
    assert min(e.time for e in events(slow, "association.breached")) > 60


def test_each_side_records_a_breach_once_as_long_as_it_lasts(slow: Ran) -> None:
    said = Counter((entry.a, entry.b) for entry in recorded(slow, Breached))
    assert set(said.values()) == {1}
    assert not events(slow, "ledger.refused")


def test_a_breach_costs_trust_where_most_are_seen_and_expels_nobody(slow: Ran, calm: Ran) -> None:
    found = scores(slow)
    assert min(found, key=lambda name: found[name]) == "pop2"
    assert found["pop6"] > found["pop2"] > 0.8
    assert all_are_trusted(slow)


def test_breaches_stand_in_the_report_with_the_words_of_who_saw_them(slow: Ran) -> None:
    page = read_report(render_report(slow[1].events)).decode()
    assert "sees that the service level agreed with pop2 is broken: 6" in page


@at_night
def test_lost_messages_break_a_level_and_it_is_kept_again_once_they_arrive() -> None:
    # Of one that loses half it is said that it is silent: what is lost then does not count.
    lost = FaultSpec(60, "lose", agent="pop4", share=0.3, for_s=150)
    run = ran(System(replace(plan(lost, until=500), control="out-of-band")))
    assert pairs(run)
    assert all("pop4" in pair for pair in pairs(run))
    assert all(entry.loss > LEVEL.max_loss for entry in recorded(run, Breached))
    broken = {(e.agent, e.data["agent"]) for e in events(run, "association.breached")}
    kept = {(e.agent, e.data["agent"]) for e in events(run, "association.kept")}
    assert kept == broken
    assert all_are_trusted(run)


@at_night
@pytest.mark.parametrize(
    "fault",
    sample(
        [
            FaultSpec(60, "crash", agent="pop2", for_s=3),
            FaultSpec(60, "crash", agent="pop2", for_s=40, memory=True),
            FaultSpec(60, "drain", agent="pop2"),
            FaultSpec(60, "delay", share=0.03, for_s=100, delay_s=1.0),
            FaultSpec(60, "duplicate", share=0.5, for_s=100),
            FaultSpec(60, "lose", share=0.004),
            FaultSpec(60, "drift", agent="pop2", rate=1.3, jump_s=40.0, for_s=60),
            FaultSpec(60, "infect", agent="pop2"),
        ],
        8,
    ),
    ids=lambda fault: f"{fault.kind} {fault.for_s}",
)
def test_what_is_no_broken_level_is_not_called_one(fault: FaultSpec) -> None:
    """A few messages are slow; agents die, leave or are expelled: that is not the way's fault."""
    run = ran(System(plan(fault)))
    assert not recorded(run, Breached)
    again = Counter(
        (each.entry.a, each.entry.b, each.author)
        for each in run[2]
        if isinstance(each.entry, Associated)
    )
    assert max(again.values()) == 1


# -- hostile agents -------------------------------------------------------------------------------


def every_second(system: System, agent: str, do: Any) -> None:
    """Let a hostile agent do something each second from 60 s on."""
    me = system.agents[agent].agent

    def again() -> None:
        do(me)
        me.call_at(me.now + 1.0, again)

    me.call_at(60.0, again)


@at_night
def test_one_that_reports_false_breaches_expels_nobody_and_costs_others_little(calm: Ran) -> None:
    """Each second of all others, with figures as bad as they can be."""
    system = System(plan())
    answers: list[object] = []

    def accuse(me: Any) -> None:
        for name in AGENTS[1:]:
            me.perform(Submit(Breached("pop1", name, 1e6, 1.0)), answers.append)

    every_second(system, "pop1", accuse)
    run = ran(system)
    assert answers.count(Done()) > 1000
    assert all_are_trusted(run)
    assert run[0].trust is not None
    found = scores(run)
    assert min(found, key=lambda name: found[name]) == "pop1"
    assert all(found[name] > 0.85 for name in AGENTS[1:])
    assert found["pop1"] > 0.6  # and no one falls below what bids need, by this alone


@at_night
def test_one_that_takes_its_word_back_each_second_makes_others_write_once_a_round() -> None:
    system = System(plan())
    levels = iter(range(1, 100_000))

    def waver(me: Any) -> None:
        me.perform(Submit(Associated("pop1", "pop2", float(next(levels)), 0.5)), lambda _: None)

    every_second(system, "pop1", waver)
    run = ran(system)
    assert run[0].trust is not None
    account = run[0].trust.register.members["pop2"].account
    said = [e for e in run[2] if isinstance(e.entry, Associated) and e.author == account]
    assert len(said) <= 4 + run[0].trust.register.round
    assert not recorded(run, Breached)
    assert all_are_trusted(run)


@pytest.mark.parametrize("held_s", sample([nan, inf, -inf, -1e308, 1e308], 5))
def test_nonsense_about_the_time_of_an_answer_breaks_nothing(held_s: float) -> None:
    system = System(plan(until=150))
    node: Any = system.agents["pop3"].node
    honest = node._bus

    class Liar:
        def __getattr__(self, name: str) -> Any:
            return getattr(honest, name)

        def send(self, message: Message) -> None:
            content = message.content
            if isinstance(content, EvidenceReply):
                message = replace(message, content=replace(content, held_s=held_s))
            honest.send(message)

    node._bus = Liar()
    run = ran(system)
    assert not recorded(run, Breached)
    assert all_are_trusted(run)


# -- what is certain ------------------------------------------------------------------------------


@given(st.integers(1, 12), st.floats(0.01, 0.9), st.data())
def test_the_probability_of_losses_is_that_of_all_outcomes(
    count: int, share: float, data: st.DataObject
) -> None:
    lost = data.draw(st.integers(0, count))
    total = 0.0
    for outcome in range(2**count):
        ones = outcome.bit_count()
        if ones >= lost:
            total += share**ones * (1 - share) ** (count - ones)
    assert by_chance(lost, count, share) == pytest.approx(total, abs=1e-9)


def test_one_loss_is_never_a_breach_however_little_may_be_lost() -> None:
    few = partial(by_chance, 1, 2 * LEAST)
    assert few(0.001) > 1e-2
