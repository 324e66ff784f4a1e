"""Attacks on the contracts, carried out: who may do what, and what the rules make of a result.

Where an attack is named in ``docs/ledger.md``, its test is here.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_group import Group, digest, result
from tests.nightly import examples

from phalanx.domain.trust import TrustTier
from phalanx.ledger.election import agent_key, assigned, commitment
from phalanx.ledger.entries import (
    AgentRetired,
    Associated,
    Attested,
    AuditAnchored,
    Breached,
    Drawn,
    Enrolled,
    Faulted,
    KeyHandedOut,
    Planned,
    Revealed,
    Revoked,
    Rotated,
    RoundOpened,
)

BAD, NONE, SOUND = TrustTier.CONTRAINDICATED, TrustTier.NONE, TrustTier.AFFIRMING


@pytest.fixture
def group() -> Group:
    return Group(6).verified()


def key(agent: str, epoch: int, by: str) -> KeyHandedOut:
    return KeyHandedOut(agent, epoch, bytes(64), by)


# -- accounts ----------------------------------------------------------------------------------


def test_an_account_that_is_not_registered_can_do_nothing(group):
    group.ledgers["mallory"] = group.node.join(bytes(31) + b"\x07")
    mine = group.ledgers["mallory"].account
    for entry in (
        Enrolled("mallory", mine, "operator", "", ""),
        Planned(1.0, 1),
        RoundOpened(1),
        Drawn(1, "a0", digest("x")),
        result("a1", "a0", 1),
        result("a1", "mallory", 1),
        Faulted(1, "a0", "a1", "silent"),
        Associated("a0", "a1", 1.0, 0.0),
        key("mallory", 1, "mallory"),
        Rotated(2, ""),
        Revoked("a0", "because"),
        AgentRetired("a0", "because"),
    ):
        assert group.refuse("mallory", entry)


def test_an_agent_cannot_do_what_operators_do(group):
    for entry in (
        group.enrolment("mallory"),
        Enrolled("a0", group.ledgers["a0"].account, "operator", "", ""),
        Planned(1.0, 1),
        Revoked("a1", "because"),
        AgentRetired("a1", "because"),
    ):
        assert "operator" in group.refuse("a0", entry)


def test_an_agent_cannot_speak_for_another(group):
    group.open(1)
    verifier = group.elected("a1")[0]
    thief = next(name for name in group.names if name not in group.elected("a1"))
    assert "another agent's" in group.refuse(thief, result("a1", verifier, 1))
    assert "another agent's" in group.refuse(thief, Drawn(2, verifier, digest("x")))
    assert "another agent's" in group.refuse(thief, key("a1", 1, verifier))


def test_two_agents_cannot_share_an_account(group):
    shared = group.ledgers["a0"].account
    assert "another agent's" in group.refuse("secaas", Enrolled("a9", shared, "agent", "", ""))


def test_a_second_operator_has_the_rights_of_the_first_until_it_is_revoked(group):
    group.ledgers["noc"] = group.node.join(bytes(31) + b"\x09")
    mine = group.ledgers["noc"].account
    group.accept("secaas", Enrolled("noc", mine, "operator", "", ""))
    group.accept("noc", Planned(5.0, 1))
    group.accept("secaas", Revoked("noc", "left"))
    assert "operator" in group.refuse("noc", Planned(5.0, 1))
    assert "founder" in group.refuse("secaas", Revoked("secaas", "by mistake"))


# -- the chain of trust ------------------------------------------------------------------------


def test_the_initial_chain_goes_from_each_verified_agent_to_the_next():
    group = Group(4)
    group.accept("secaas", *(group.enrolment(name) for name in group.names))
    early = group.refuse("a1", result("a2", "a1", root="secaas"))
    assert "not verified" in early  # an agent that was not verified verifies nobody
    group.accept("secaas", result("a0", "secaas", root="secaas"))
    group.accept("a0", result("a1", "a0", root="a0"))
    assert "turn" in group.refuse("a0", result("a2", "a0", root="a1"))
    assert "root of trust" in group.refuse("a1", result("a2", "a1", root="a0"))
    assert "already" in group.refuse("a1", result("a0", "a1", root="a1"))
    assert "not enrolled" in group.refuse("a1", result("stranger", "a1", root="a1"))
    assert "itself" in group.refuse("a1", result("a1", "a1", root="a1"))


def test_an_agent_that_an_operator_finds_altered_at_first_is_removed_until_enrolled_anew():
    group = Group(2)
    group.accept("secaas", *(group.enrolment(name) for name in group.names))
    group.accept("secaas", result("a0", "secaas", tier=BAD))
    assert "not verified" in group.refuse("a0", result("a1", "a0", root="a0"))
    assert "not verified" in group.refuse("secaas", key("a0", 2, "secaas"))
    assert "not enrolled" in group.refuse("secaas", result("a0", "secaas"))
    group.accept("secaas", group.enrolment("a0"), result("a0", "secaas"), key("a0", 2, "secaas"))


def test_the_root_of_trust_alone_keeps_nobody_out_of_the_chain():
    group = Group(3)
    group.accept("secaas", *(group.enrolment(name) for name in group.names))
    group.accept("secaas", result("a0", "secaas"))
    group.accept("a0", result("a1", "a0", root="a0", tier=BAD))
    group.accept("secaas", result("a1", "secaas", root="a0"))
    group.accept("a1", result("a2", "a1", root="a1"))


# -- rounds and their seeds --------------------------------------------------------------------


def test_a_round_opens_once_in_order_and_not_before_its_time(group):
    assert "not over" in group.refuse("a0", RoundOpened(1))
    group.wait(group.period_s)
    assert "next round" in group.refuse("a0", RoundOpened(2))
    group.accept("a0", RoundOpened(1))
    assert "next round" in group.refuse("a1", RoundOpened(1))
    assert "not over" in group.refuse("a1", RoundOpened(2))


def test_without_a_plan_there_are_no_rounds():
    group = Group(2)
    group.accept("secaas", group.enrolment("a0"))
    assert "no plan" in group.refuse("secaas", RoundOpened(1))


def test_plans_have_bounds(group):
    """The contract counts no further: beyond, one accusation would be enough."""
    assert "verifier" in group.refuse("secaas", Planned(10.0, 0))
    assert "verifier" in group.refuse("secaas", Planned(10.0, 131_072))
    assert "misses" in group.refuse("secaas", Planned(10.0, 3, 256))
    assert "second" in group.refuse("secaas", Planned(0.99, 3))


def test_shares_are_committed_before_they_are_shown(group):
    share = digest("mine")
    other = commitment("a1", 1, share)
    assert "too early" in group.refuse("a0", Revealed(1, "a0", share))
    group.accept("a0", Drawn(1, "a0", commitment("a0", 1, share)))
    group.accept("a2", Drawn(1, "a2", other))  # a commitment that is not its own
    assert "already" in group.refuse("a0", Drawn(1, "a0", digest("another")))
    group.wait(group.period_s / 2)
    assert "over" in group.refuse("a1", Drawn(1, "a1", other))
    assert "committed" in group.refuse("a0", Revealed(1, "a0", digest("other")))
    assert "committed" in group.refuse("a2", Revealed(1, "a2", share))
    group.accept("a0", Revealed(1, "a0", share))
    assert "already" in group.refuse("a0", Revealed(1, "a0", share))


def test_every_share_changes_the_seed():
    seeds = []
    for text in ("one", "other"):
        group = Group(4).verified()
        share = digest(text)
        group.accept("a0", Drawn(1, "a0", commitment("a0", 1, share)))
        group.wait(group.period_s / 2)
        group.accept("a0", Revealed(1, "a0", share))
        seeds.append(group.open(1))
    assert seeds[0] != seeds[1]


def test_an_agent_that_keeps_its_share_back_is_recorded(group):
    group.draw(1, "a0")
    group.wait(group.period_s)
    group.accept("a0", RoundOpened(1))
    group.accept("a1", Drawn(2, "a1", digest("x")))
    group.open(2)
    assert "before this one" in group.refuse("a2", Faulted(2, "", "a1", "withheld"))
    group.open(3)
    group.accept("a2", Faulted(2, "", "a1", "withheld"))
    assert "already" in group.refuse("a3", Faulted(2, "", "a1", "withheld"))
    assert "withheld nothing" in group.refuse("a3", Faulted(2, "", "a0", "withheld"))


# -- elections ---------------------------------------------------------------------------------


def test_only_elected_verifiers_are_heard_once_and_in_the_open_round(group):
    group.open(1)
    elected = group.elected("a1")
    for name in group.names:
        if name not in (*elected, "a1"):
            assert "not elected" in group.refuse(name, result("a1", name, 1))
    assert "not open" in group.refuse(elected[0], result("a1", elected[0], 2))
    group.accept(elected[0], result("a1", elected[0], 1))
    assert "already" in group.refuse(elected[0], result("a1", elected[0], 1))
    group.open(2)
    assert "not open" in group.refuse(elected[1], result("a1", elected[1], 1))


def test_what_a_verifier_finds_later_in_a_round_counts_and_is_not_taken_back(group):
    group.open(1)
    one, other = group.elected("a1")[:2]
    group.accept(one, result("a1", one, 1))
    group.accept(one, result("a1", one, 1, BAD))
    for tier in (SOUND, BAD):
        assert "already" in group.refuse(one, result("a1", one, 1, tier))
    assert not [e for e in group.entries if isinstance(e, Revoked)]  # one alone expels nobody
    group.accept(other, result("a1", other, 1))
    group.accept(other, result("a1", other, 1, BAD))
    assert [e.agent for e in group.entries if isinstance(e, Revoked)] == ["a1"]


@given(
    seed=st.binary(min_size=32, max_size=32).map(bytes.hex),
    members=st.sets(st.text(max_size=9), min_size=1, max_size=12),
    verifiers=st.integers(1, 14),
)
def test_an_election_chooses_as_many_as_there_are_and_never_the_attester(seed, members, verifiers):
    attester = min(members)
    elected = assigned(seed, attester, members, verifiers)
    assert len(elected) == len(set(elected)) == min(verifiers, len(members) - 1)
    assert attester not in elected
    assert set(elected) <= members
    assert assigned(seed, attester, sorted(members, reverse=True), verifiers) == elected


@settings(max_examples=examples(10))
@given(data=st.data())
def test_the_contract_elects_whom_python_elects(data):
    """Of groups of any size, with agents that leave and come back between rounds and in them."""
    verifiers = data.draw(st.integers(1, 5))
    group = Group(data.draw(st.integers(3, 7))).verified(verifiers)
    some = st.sets(st.sampled_from(group.names), max_size=2)
    present = set(group.names)

    def leave_or_return(names: set[str]) -> None:
        for name in sorted(names):
            if name in present:
                group.accept("secaas", Revoked(name, "drawn"))
            else:
                root = names_by_key[group.last_verified()]
                group.accept("secaas", group.enrolment(name), result(name, "secaas", root=root))
            present.symmetric_difference_update({name})

    names_by_key = {agent_key(name): name for name in [*group.names, "secaas"]}
    for number in (1, 2, 3):
        leave_or_return(data.draw(some))
        members = set(present)
        seed = group.open(number, "secaas")
        leave_or_return(data.draw(some))
        for attester in group.names:
            chosen = assigned(seed, attester, members, verifiers) if attester in members else ()
            found = {name for name in group.names if group.is_elected(number, attester, name)}
            assert found == set(chosen)


# -- what verifiers find -----------------------------------------------------------------------


def test_one_verifier_that_accuses_the_innocent_expels_nobody():
    for verifiers in (1, 2, 3):
        group = Group(5).verified(verifiers)
        group.open(1)
        liar, *others = group.elected("a1", verifiers)
        group.accept(liar, result("a1", liar, 1, BAD))
        for name in others:
            group.accept(name, result("a1", name, 1))
        assert not any(isinstance(entry, Revoked) for entry in group.entries)
        group.accept("secaas", key("a1", 1, "secaas"))


def test_a_majority_of_the_elected_expels_at_once_and_opens_an_epoch(group):
    group.accept("secaas", key("a1", 1, "secaas"))
    group.open(1)
    first, second, third = group.elected("a1")
    group.accept(first, result("a1", first, 1, BAD))
    group.accept(second, result("a1", second, 1, BAD))
    assert group.entries[-1] == Revoked("a1", "contraindicated by a majority of its verifiers", 2)
    assert "not enrolled" in group.refuse(third, result("a1", third, 1))
    assert "verified agent" in group.refuse("a1", RoundOpened(2))
    assert "has left" in group.refuse("a1", result("a0", "a1", 1))


def test_an_agent_without_evidence_is_expelled_after_so_many_rounds():
    group = Group(5).verified(misses=2)
    for number, tier in ((1, NONE), (2, SOUND), (3, NONE), (4, NONE)):
        group.open(number)
        for name in group.elected("a1")[:2]:
            assert not any(isinstance(entry, Revoked) for entry in group.entries)
            group.accept(name, result("a1", name, number, tier))
    assert group.last(Revoked).agent == "a1"


def test_verifiers_that_were_silent_or_lied_are_recorded_by_anybody_and_only_if_it_is_true(group):
    group.open(1)
    one, two, liar = group.elected("a1")
    group.accept(one, result("a1", one, 1))
    group.accept(two, result("a1", two, 1))
    group.accept(liar, result("a1", liar, 1, BAD))
    silent = group.elected("a2")[0]
    claim = Faulted(1, "a2", silent, "silent")
    assert "before this one" in group.refuse("a0", claim)
    group.open(2)
    group.accept("a0", claim, Faulted(1, "a1", liar, "contradicts"))
    for entry, why in (
        (claim, "already"),
        (Faulted(1, "a1", one, "silent"), "not silent"),
        (Faulted(1, "a1", one, "contradicts"), "did not contradict"),
        (Faulted(1, "a1", one, "ugly"), "no such fault"),
        (Faulted(1, "a1", "a1", "silent"), "not elected"),
        (Faulted(0, "a1", one, "silent"), "before this one"),
    ):
        assert why in group.refuse("a0", entry)


# -- keys --------------------------------------------------------------------------------------


def test_no_key_is_handed_out_after_revocation_and_none_of_an_old_epoch(group):
    group.accept("secaas", key("a1", 1, "secaas"), Revoked("a1", "infected"))
    assert group.last(Revoked).epoch == 2
    assert "has left" in group.refuse("secaas", key("a1", 2, "secaas"))
    assert "present epoch" in group.refuse("secaas", key("a2", 1, "secaas"))
    assert "present epoch" in group.refuse("secaas", key("a2", 3, "secaas"))
    group.accept("secaas", key("a2", 2, "secaas"))


def test_one_agent_hands_out_the_keys_of_an_epoch_and_an_operator_may_take_over(group):
    group.accept("a1", key("a2", 1, "a1"))
    assert "another agent" in group.refuse("a2", key("a3", 1, "a2"))
    group.accept("secaas", key("a2", 1, "secaas"))
    assert "another agent" in group.refuse("a1", key("a3", 1, "a1"))
    assert "hands out" in group.refuse("a1", Rotated(2, "mine"))
    group.accept("secaas", Rotated(2, "routine"))
    group.accept("a1", key("a2", 2, "a1"))
    assert "next epoch" in group.refuse("a1", Rotated(2, "again"))
    assert "no ciphertext" in group.refuse("a1", KeyHandedOut("a2", 2, b"in clear", "a1"))


def test_an_expelled_agent_hands_out_no_keys(group):
    group.accept("a1", key("a2", 1, "a1"))
    group.accept("secaas", Revoked("a1", "infected"))
    assert "verified agent" in group.refuse("a1", key("a1", 2, "a1"))
    group.accept("a2", key("a3", 2, "a2"))


def test_an_agent_that_was_expelled_rejoins_by_a_new_initial_attestation(group):
    group.accept("secaas", Revoked("a1", "infected"), group.enrolment("a1"))
    assert "not verified" in group.refuse("secaas", key("a1", 2, "secaas"))
    group.accept("a5", result("a1", "a5", root="a5"))
    group.accept("secaas", key("a1", 2, "secaas"))


# -- audit trails ------------------------------------------------------------------------------


def test_an_agent_anchors_its_own_trail_alone_and_more_of_it_each_time(group):
    head = "5e" * 32
    group.accept("a1", AuditAnchored("a1", "audit.1", 5, head))
    assert "another agent's" in group.refuse("a2", AuditAnchored("a1", "audit.1", 9, head))
    assert "another agent's" in group.refuse("secaas", AuditAnchored("a1", "audit.1", 9, head))
    for events in (0, 4, 5):
        why = group.refuse("a1", AuditAnchored("a1", "audit.1", events, "00" * 32))
        assert "anchored already" in why
    group.accept("a1", AuditAnchored("a1", "audit.2", 1, head))  # another life of it
    group.accept("a2", AuditAnchored("a2", "audit.1", 1, head))
    group.accept("secaas", AuditAnchored("secaas", "audit", 1, head))
    group.accept("a1", AuditAnchored("a1", "audit.1", 6, head))
    group.accept("secaas", Revoked("a1", "infected"))
    assert group.refuse("a1", AuditAnchored("a1", "audit.1", 7, head))


# -- associations ------------------------------------------------------------------------------


def test_a_breach_needs_a_level_that_both_agreed_to_and_figures_that_break_it(group):
    level = Associated("a0", "a1", 20.0, 0.01)
    breach = Breached("a0", "a1", 25.0, 0.0)
    group.accept("a0", level)
    assert "no service level" in group.refuse("a0", breach)
    assert "one of the two" in group.refuse("a2", level)
    group.accept("a1", Associated("a1", "a0", 20.0, 0.01))
    assert "agreed already" in group.refuse("a0", level)
    assert "is kept" in group.refuse("a0", Breached("a1", "a0", 20.0, 0.01))
    assert "one of the two" in group.refuse("a2", breach)
    group.accept("a1", breach)
    group.accept("a0", Associated("a0", "a1", 99.0, 1.0))  # one alone does not widen it ...
    assert "no service level" in group.refuse("a1", breach)  # ... but ends what was agreed
    assert "two agents" in group.refuse("a0", Associated("a0", "a0", 1.0, 0.0))
    assert "a share" in group.refuse("a0", Associated("a0", "a1", 1.0, 1.5))


def test_the_number_of_a_round_is_bound_to_the_result(group):
    group.open(1)
    verifier = group.elected("a1")[0]
    entry = result("a1", verifier, 1)
    group.accept(verifier, entry)
    assert group.entries[-1] == Attested(entry.result)
