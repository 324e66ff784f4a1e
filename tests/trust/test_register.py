"""The register: whom to trust, as it follows from the ledger's entries alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.domain.trust import AttestationResult, Deviation, TrustTier
from phalanx.ledger import RecordedEntry
from phalanx.ledger.entries import (
    AgentRetired,
    Associated,
    Attested,
    Breached,
    Enrolled,
    Entry,
    KeyHandedOut,
    Planned,
    Revoked,
    Rotated,
    RoundOpened,
)
from phalanx.trust.register import TrustRegister, TrustStanding, unseen

AGENTS = tuple(f"a{number}" for number in range(7))
GOOD, BAD, NONE, WARNING = (
    TrustTier.AFFIRMING,
    TrustTier.CONTRAINDICATED,
    TrustTier.NONE,
    TrustTier.WARNING,
)


class Ledger:
    """Entries one after the other into a register."""

    def __init__(self, verifiers: int = 3, agents: tuple[str, ...] = AGENTS) -> None:
        self.register = TrustRegister()
        self.agents = agents
        self.position = 0
        self.add(Enrolled("secaas", "0x0", "operator", "", ""))
        for name in agents:
            self.add(Enrolled(name, f"0x{name}", "agent", "phalanx 1", ""))
        self.add(Planned(10.0, verifiers))

    def add(self, entry: Entry, author: str = "") -> None:
        self.position += 1
        account = f"0x{author}"
        self.register.apply(RecordedEntry(self.position, float(self.position), account, entry))

    def attest(self, attester: str, verifier: str, tier: TrustTier, number: int = 0) -> None:
        found = (Deviation("text-altered", "agent", "other"),) if tier is BAD else ()
        root = self.register.root
        result = AttestationResult(attester, verifier, tier, number, 0.0, "", root, found)
        self.add(Attested(result))

    def chain(self) -> None:
        verifier = "secaas"
        for name in self.agents:
            self.attest(name, verifier, GOOD)
            verifier = name

    def open(self, number: int) -> None:
        self.add(RoundOpened(number, f"{number:064x}"))

    def round(self, number: int, of: str, *tiers: TrustTier | None) -> tuple[str, ...]:
        """Open a round in which the verifiers of one agent say this; all others are genuine."""
        self.open(number)
        for attester in AGENTS:
            said = tiers if attester == of else [GOOD] * 3
            for verifier, tier in zip(self.register.verifiers_of(attester), said, strict=False):
                if tier is not None:
                    self.attest(attester, verifier, tier, number)
        return self.register.verifiers_of(of)

    def standing(self, agent: str) -> TrustStanding | None:
        return self.register.standing(agent)


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.chain()
    return made


def test_the_chain_makes_each_agent_the_root_of_trust_for_the_next(ledger: Ledger) -> None:
    assert ledger.register.with_standing(TrustStanding.TRUSTED) == AGENTS
    assert ledger.register.root == AGENTS[-1]


def test_an_agent_that_nobody_verified_vouches_for_nobody() -> None:
    ledger = Ledger()
    ledger.attest("a1", "a0", GOOD)
    assert ledger.standing("a1") is TrustStanding.ENROLLED


def test_the_word_of_the_root_against_an_agent_is_not_enough_and_an_operators_decides() -> None:
    ledger = Ledger()
    ledger.attest("a0", "secaas", GOOD)
    ledger.attest("a1", "a0", BAD)
    assert ledger.standing("a1") is TrustStanding.ENROLLED
    before = ledger.register.members["a0"].score
    ledger.attest("a1", "secaas", GOOD)
    assert ledger.standing("a1") is TrustStanding.TRUSTED
    assert ledger.register.root == "a1"
    assert ledger.register.members["a0"].score < before
    ledger.attest("a2", "a1", BAD)
    ledger.attest("a2", "secaas", BAD)
    assert ledger.standing("a2") is TrustStanding.QUARANTINED
    ledger.attest("a3", "a0", BAD)  # it is another agent's turn
    ledger.attest("a3", "a1", GOOD)
    assert ledger.standing("a3") is TrustStanding.TRUSTED
    assert ledger.register.verified_by("a3") == {"a1"}


@pytest.mark.parametrize(
    ("said", "standing"),
    [
        ((BAD, BAD, GOOD), TrustStanding.QUARANTINED),
        ((BAD, GOOD, GOOD), TrustStanding.TRUSTED),
        ((BAD, None, None), TrustStanding.TRUSTED),
        ((NONE, NONE, GOOD), TrustStanding.SILENT),
        ((NONE, NONE, NONE), TrustStanding.SILENT),
        ((NONE, BAD, GOOD), TrustStanding.TRUSTED),
        ((WARNING, WARNING, WARNING), TrustStanding.TRUSTED),
    ],
)
def test_the_majority_of_the_elected_decides(
    ledger: Ledger, said: tuple[TrustTier | None, ...], standing: TrustStanding
) -> None:
    ledger.round(1, "a3", *said)
    ledger.open(2)
    assert ledger.standing("a3") is standing


def test_where_most_are_silent_it_is_not_they_who_are_at_fault(ledger: Ledger) -> None:
    for number in range(1, 4):
        ledger.open(number)
        for attester in AGENTS:
            for verifier in ledger.register.verifiers_of(attester):
                ledger.attest(attester, verifier, NONE, number)
    assert ledger.register.with_standing(TrustStanding.TRUSTED) == AGENTS


def test_who_was_not_elected_has_no_say(ledger: Ledger) -> None:
    ledger.open(1)
    others = set(AGENTS) - {"a3", *ledger.register.verifiers_of("a3")}
    for verifier in others:
        ledger.attest("a3", verifier, BAD, 1)
    assert ledger.standing("a3") is TrustStanding.TRUSTED


def test_a_result_of_an_earlier_round_says_nothing(ledger: Ledger) -> None:
    elected = ledger.round(1, "", GOOD)
    elected = ledger.register.verifiers_of("a3")
    ledger.open(2)
    for verifier in elected:
        ledger.attest("a3", verifier, BAD, 1)
    assert ledger.standing("a3") is TrustStanding.TRUSTED


def test_a_silent_agent_is_trusted_again_once_a_majority_has_seen_it(ledger: Ledger) -> None:
    ledger.round(1, "a3", NONE, NONE, NONE)
    ledger.open(2)
    assert ledger.standing("a3") is TrustStanding.SILENT
    ledger.round(3, "a3", GOOD, GOOD, GOOD)
    assert ledger.standing("a3") is TrustStanding.TRUSTED


def test_agents_that_are_silent_themselves_silence_nobody(ledger: Ledger) -> None:
    # As after a partition: whoever is cut off finds all others silent, and is found so by them.
    for number in range(1, 30):
        ledger.open(number)
        for attester in AGENTS:
            for verifier in ledger.register.verifiers_of(attester):
                ledger.attest(attester, verifier, NONE, number)
    assert len(ledger.register.with_standing(TrustStanding.TRUSTED)) >= 2
    for number in range(30, 90):  # it heals: those that were left bring all others back
        ledger.open(number)
        for attester in AGENTS:
            for verifier in ledger.register.verifiers_of(attester):
                ledger.attest(attester, verifier, GOOD, number)
    assert ledger.register.with_standing(TrustStanding.TRUSTED) == AGENTS


def test_one_agent_that_is_left_brings_back_the_others_and_removes_none(ledger: Ledger) -> None:
    left, dead, *others = AGENTS

    def rounds(first: int, last: int, *speakers: str, tier: TrustTier) -> None:
        for number in range(first, last):
            ledger.open(number)
            for attester in AGENTS:
                for verifier in ledger.register.verifiers_of(attester):
                    if verifier in speakers and (tier is GOOD or attester not in speakers):
                        ledger.attest(attester, verifier, tier, number)

    rounds(1, 20, left, dead, tier=NONE)  # all but two fail, then one of these
    assert set(ledger.register.with_standing(TrustStanding.TRUSTED)) < set(AGENTS)
    rounds(20, 40, left, tier=BAD)
    assert not ledger.register.with_standing(TrustStanding.QUARANTINED)
    rounds(40, 60, left, *others, tier=GOOD)  # they are back
    assert {left, *others} <= {*ledger.register.with_standing(TrustStanding.TRUSTED)}


def test_an_expelled_agent_stays_out_until_it_is_enrolled_anew(ledger: Ledger) -> None:
    ledger.round(1, "a3", BAD, BAD, BAD)
    ledger.round(2, "a3", GOOD, GOOD, GOOD)
    assert ledger.standing("a3") is TrustStanding.QUARANTINED
    ledger.add(Enrolled("a3", "0xnew", "agent", "phalanx 1", ""))
    assert ledger.standing("a3") is TrustStanding.ENROLLED
    ledger.attest("a3", ledger.register.root, GOOD)
    assert ledger.standing("a3") is TrustStanding.TRUSTED


def test_an_accuser_of_the_innocent_loses_trust(ledger: Ledger) -> None:
    accuser = ""
    for number in range(1, 9):
        ledger.open(number)
        for attester in AGENTS:
            for verifier in ledger.register.verifiers_of(attester):
                accuser = accuser or verifier
                ledger.attest(attester, verifier, BAD if verifier == accuser else GOOD, number)
    scores = {name: member.score for name, member in ledger.register.members.items()}
    honest = [score for name, score in scores.items() if name != accuser]
    assert set(ledger.register.with_standing(TrustStanding.TRUSTED)) >= {*AGENTS} - {accuser}
    assert scores[accuser] < 0.35
    assert min(honest) > 0.8


def test_a_verifier_that_says_nothing_loses_trust(ledger: Ledger) -> None:
    mute = AGENTS[2]
    for number in range(1, 10):
        ledger.open(number)
        for attester in AGENTS:
            for verifier in ledger.register.verifiers_of(attester):
                if verifier != mute:
                    ledger.attest(attester, verifier, GOOD, number)
    scores = {name: member.score for name, member in ledger.register.members.items()}
    assert scores[mute] < 0.25
    assert min(score for name, score in scores.items() if name != mute) > 0.8


def test_of_two_agents_one_that_was_gone_is_soon_trusted_as_before() -> None:
    here, gone = AGENTS[:2]
    ledger = Ledger(verifiers=2, agents=(here, gone))
    ledger.chain()
    score = []
    for number in range(1, 41):
        away = 10 <= number < 20
        ledger.open(number)
        ledger.attest(gone, here, NONE if away else GOOD, number)
        if not away:
            ledger.attest(here, gone, GOOD, number)
        score.append(ledger.register.members[gone].score)
    assert score[9] > 0.8
    assert 0.3 < min(score) < 0.45
    assert score[30] > 0.6
    assert ledger.register.standing(gone) is TrustStanding.TRUSTED


def test_nobody_is_blamed_for_a_round_that_the_ledger_missed(ledger: Ledger) -> None:
    for number in range(1, 10):
        ledger.open(number)
    scores = {member.score for member in ledger.register.members.values()}
    assert min(scores) > 0.6


def test_the_root_of_trust_is_the_contracts_also_while_it_is_silent(ledger: Ledger) -> None:
    # The ledger takes results of the chain for the agent that it holds to be the root alone.
    root = ledger.register.root
    ledger.round(1, root, NONE, NONE, NONE)
    ledger.open(2)
    assert ledger.standing(root) is TrustStanding.SILENT
    assert ledger.register.root == root
    ledger.add(Revoked(root, "is deployed anew"))
    assert ledger.register.root == "secaas"


def test_an_epoch_of_keys_ends_when_an_agent_leaves_or_is_expelled(ledger: Ledger) -> None:
    register = ledger.register
    ledger.add(KeyHandedOut("a1", 1, b"", "a0"))
    assert (register.epoch, register.keeper, {*register.holders}) == (1, "a0", {"a1"})
    ledger.add(Revoked("a3", "found out", 2))
    assert (register.epoch, register.keeper, {*register.holders}) == (2, "", set())
    ledger.add(AgentRetired("a4", "leaves"))
    assert register.epoch == 3
    assert register.standing("a4") is TrustStanding.RETIRED


TIERS = st.sampled_from([GOOD, BAD, NONE, WARNING])
WORDS = st.tuples(st.sampled_from(AGENTS), st.sampled_from(AGENTS), TIERS, st.integers(0, 3))


_NAMES = st.sampled_from([*AGENTS, "secaas", "stranger"])
ENTRIES = st.one_of(
    st.builds(Enrolled, _NAMES, st.just("0x1"), st.just("agent"), st.just("a 2"), st.just("")),
    st.builds(AgentRetired, _NAMES, st.just("leaves")),
    st.builds(Revoked, _NAMES, st.just("found out"), st.integers(0, 9)),
    st.builds(KeyHandedOut, _NAMES, st.integers(0, 4), st.binary(max_size=4), _NAMES),
    st.builds(Rotated, st.integers(0, 9), st.just("routine")),
    st.builds(Associated, _NAMES, _NAMES, st.sampled_from([5.0, 9.0]), st.just(0.1)),
    st.builds(Breached, _NAMES, _NAMES, st.floats(0.0, 99.0), st.just(0.0)),
    st.builds(Planned, st.floats(1.0, 60.0), st.integers(0, 5)),
    WORDS,
    st.just(None),
)


@given(st.lists(ENTRIES, max_size=60), st.data())
def test_who_goes_on_with_a_register_ends_in_the_one_of_who_reads_everything(
    entries: list[Entry | tuple[str, str, TrustTier, int] | None], data: st.DataObject
) -> None:
    whole, ledger = Ledger(), Ledger()
    stop, number = data.draw(st.integers(0, len(entries))), 0
    for each in (whole, ledger):
        each.chain()
        number = 0
        for place, entry in enumerate(entries):
            if each is ledger and place == stop:
                before = ledger.register
                ledger.register = before.copied()
                assert ledger.register == before
            if entry is None:
                number += 1
                each.open(number)
            elif isinstance(entry, tuple):
                each.attest(*entry)
            else:
                each.add(entry)
    assert ledger.register == whole.register
    assert [*ledger.register.members] == [*whole.register.members]  # in one order
    assert ledger.register.copied() == whole.register


@given(st.lists(st.one_of(WORDS, st.just(None)), max_size=60))
def test_whatever_is_said_all_readers_agree_and_nobody_expels_alone(
    said: list[tuple[str, str, TrustTier, int] | None],
) -> None:
    first, second = Ledger(), Ledger()
    number = 0
    for ledger in (first, second):
        ledger.chain()
        number = 0
        for word in said:
            if word is None:
                number += 1
                ledger.open(number)
            else:
                ledger.attest(*word)
    assert {n: (m.standing, m.score) for n, m in first.register.members.items()} == {
        n: (m.standing, m.score) for n, m in second.register.members.items()
    }
    accusers: dict[str, set[str]] = {}
    for word in said:
        if word is not None and word[2] is BAD:
            accusers.setdefault(word[0], set()).add(word[1])
    for name, member in first.register.members.items():
        assert 0.0 <= member.score <= 1.0
        if member.standing is TrustStanding.QUARANTINED:
            assert len(accusers[name]) >= 2


@pytest.mark.parametrize("infected", [1, 3, 6, 9])
def test_how_long_an_infected_group_stays_unseen_is_as_the_formula_says(infected: int) -> None:
    random, members, verifiers, rounds = Random(7), 20, 3, 2
    trials, unfound = 4000, 0
    for _ in range(trials):
        unfound += all(
            sum(v >= infected for v in random.sample(range(1, members), verifiers)) < 2
            for _ in range(rounds)
        )
    expected = unseen(members, infected, verifiers, rounds)
    assert unfound / trials == pytest.approx(expected, abs=0.025)


# -- service levels -------------------------------------------------------------------------------

LEVEL = Associated("a0", "a1", 20.0, 0.01)
BREACH = Breached("a1", "a0", 25.0, 0.0)


def agree(ledger: Ledger, *pairs: tuple[str, str]) -> None:
    for pair in pairs:
        for by in pair:
            ledger.add(Associated(*pair, 20.0, 0.01), by)


def broken(ledger: Ledger, agent: str = "a0", other: str = "a1") -> dict[str, int]:
    """Return how many breaches each of two says that it saw."""
    found = ledger.register.association(agent, other)
    return {} if found is None else {by: count for by, (count, _) in found.breaches.items()}


def test_a_service_level_holds_once_both_have_said_the_same(ledger: Ledger) -> None:
    ledger.add(LEVEL, "a0")
    ledger.add(LEVEL, "a0")
    ledger.add(BREACH, "a1")
    assert not broken(ledger)
    ledger.add(Associated("a1", "a0", 20.0, 0.01), "a1")
    ledger.add(BREACH, "a1")
    assert broken(ledger) == {"a1": 1}
    ledger.add(Associated("a0", "a1", 9.0, 0.01), "a1")  # a word taken back ends it
    ledger.add(BREACH, "a1")
    assert broken(ledger) == {"a1": 1}


@pytest.mark.parametrize(
    ("entry", "author"),
    [
        (Breached("a1", "a0", 20.0, 0.01), "a1"),  # it is kept
        (BREACH, "a2"),
        (BREACH, "nobody"),
        (Breached("a0", "a0", 25.0, 0.0), "a0"),
        (Breached("a0", "a2", 25.0, 0.0), "a0"),
        (Breached("a0", "nobody", 25.0, 0.0), "a0"),
    ],
)
def test_no_breach_counts_but_of_what_was_agreed_and_by_one_of_the_two(
    ledger: Ledger, entry: Breached, author: str
) -> None:
    """Some ledgers take it all the same."""
    agree(ledger, ("a0", "a1"))
    ledger.add(entry, author)
    ledger.round(1, "a0", *[GOOD] * 3)
    ledger.open(2)
    assert not broken(ledger)
    assert len({member.score for member in ledger.register.members.values()}) == 1


def test_an_agent_that_is_not_trusted_says_nothing_of_levels(ledger: Ledger) -> None:
    agree(ledger, ("a0", "a1"))
    ledger.add(Revoked("a1", "altered"))
    ledger.add(BREACH, "a1")
    assert not broken(ledger)


def test_a_breach_counts_against_both_and_once_a_round_however_often_it_is_said(
    ledger: Ledger,
) -> None:
    agree(ledger, *((AGENTS[0], other) for other in AGENTS[1:]))
    ledger.round(1, "a2", *[GOOD] * 3)
    for _ in range(50):
        ledger.add(BREACH, "a1")
    ledger.open(2)
    against = {
        name: sum(found.against for found in member.seen.values())
        for name, member in ledger.register.members.items()
    }
    assert against["a0"] == pytest.approx(0.5 / 6)  # one of its associations of six
    assert against["a1"] == pytest.approx(0.5)  # its only one
    assert not any(against[name] for name in AGENTS[2:])


@given(st.lists(st.sampled_from(AGENTS[1:]), max_size=6))
def test_however_many_say_so_breaches_leave_a_genuine_agent_what_bids_need(
    liars: list[str],
) -> None:
    ledger = Ledger()
    ledger.chain()
    agree(ledger, *((AGENTS[0], other) for other in AGENTS[1:]))
    for number in range(1, 40):
        ledger.round(number, "a0", *[GOOD] * 3)
        for liar in liars:
            ledger.add(Breached("a0", liar, 1e6, 1.0), liar)
    ledger.open(40)
    assert ledger.register.members["a0"].score > 0.6
    assert ledger.register.with_standing(TrustStanding.TRUSTED) == AGENTS
