"""The auctioneer's machine: counts, ties to time, winners that fail, doubled messages."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.auction.initiator import Awarded, Exhausted, Fulfilled, Initiator
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal, Constraints, Predicate, Preferences, want
from phalanx.domain.messages import CallForProposals, Fact, Performative


class Thing(Predicate, frozen=True):
    name: str


def bid(time_s, cost=1.0, latency_ms=1.0):
    return Bid("vnf", 1, {"T": time_s, "C": cost, "D": latency_ms}, ("x", "y"))


def auction(count, **options):
    goal = ConstrainedGoal(want(Thing("t")), Constraints(), Preferences(1.0, 0.0, 0.0))
    names = [f"p{i:04}" for i in range(count)]
    return Initiator(CallForProposals(goal, 2.0), names, **options), names


@pytest.mark.parametrize("count", [1, 2, 6, 24, 96, 1000])
def test_a_negotiation_takes_3n_plus_1_messages(count):
    machine, names = auction(count)
    sent = machine.begin()
    received = 0
    for number, name in enumerate(names):
        out, decision = machine.on_proposal(name, (bid(float(number)),), 0.1)
        sent += out
        received += 1
    assert isinstance(decision, Awarded)
    assert decision.winner.bidder == names[0]
    machine.on_result(names[0], ())
    received += 1
    assert len(sent) + received == 3 * count + 1
    verdicts = [(p, r) for p, r, _ in sent if p is not Performative.CFP]
    assert verdicts.count((Performative.ACCEPT, names[0])) == 1
    assert sorted(r for p, r in verdicts if p is Performative.REJECT) == names[1:]


def test_silent_bidders_are_not_waited_for_longer_than_the_deadline():
    machine, names = auction(3)
    machine.begin()
    assert machine.on_proposal(names[1], (bid(5.0),), 0.1) == ([], None)
    assert machine.on_time(1.9) == ([], None)
    _, decision = machine.on_time(2.0)
    assert decision.winner.bidder == names[1]
    assert decision.silent == (names[0], names[2])
    late, nothing = machine.on_proposal(names[0], (bid(0.0),), 2.1)
    assert [(p, r) for p, r, _ in late] == [(Performative.REJECT, names[0])]
    assert nothing is None


def test_all_refuse_and_a_new_auction_would_not_help():
    machine, names = auction(2)
    machine.on_refusal(names[0], "full", 0.1)
    _, decision = machine.on_refusal(names[1], "no plan", 0.1)
    assert decision == Exhausted(
        "all bidders refused", {"p0000": "full", "p0001": "no plan"}, (), retry=False
    )


def test_nobody_answers_and_a_new_auction_may_help():
    machine, _ = auction(2)
    _, decision = machine.on_time(2.0)
    assert isinstance(decision, Exhausted)
    assert decision.retry


def test_a_winner_that_fails_gives_way_to_the_next_best():
    machine, names = auction(3)
    for number, name in enumerate(names):
        machine.on_proposal(name, (bid(float(number)),), 0.1)
    out, decision = machine.on_failure(names[0], "disk full", 1.0)
    assert decision.winner.bidder == names[1]
    assert (decision.after, decision.why) == (names[0], "disk full")
    assert [(p, r) for p, r, _ in out] == [
        (Performative.CANCEL, names[0]),
        (Performative.ACCEPT, names[1]),
    ]
    machine.on_failure(names[1], "no", 1.1)
    _, decision = machine.on_failure(names[2], "no", 1.2)
    assert isinstance(decision, Exhausted)
    assert decision.retry
    assert machine.over


def test_what_an_agent_keeps_so_already_is_not_made_again_by_a_better_bid():
    machine, names = auction(3)
    keeper = replace(bid(9.0), kept=True)
    for name, offered in zip(names, (bid(0.0), keeper, bid(1.0)), strict=True):
        _, decision = machine.on_proposal(name, (offered,), 0.1)
    assert (decision.winner.bidder, len(decision.ranking)) == (names[1], 1)
    assert decision.refusals == dict.fromkeys((names[0], names[2]), f"{names[1]} keeps it so")
    _, decision = machine.on_failure(names[1], "it was lifted", 1.0)
    assert [ranked.bidder for ranked in decision.ranking] == [names[0], names[2]]
    assert (decision.winner.bidder, decision.refusals) == (names[0], {names[1]: "failed"})
    _, decision = machine.on_failure(names[0], "disk full", 1.1)
    assert decision.winner.bidder == names[2]


def test_a_failure_that_all_would_share_is_not_passed_on():
    machine, names = auction(3)
    for number, name in enumerate(names):
        machine.on_proposal(name, (bid(float(number)),), 0.1)
    out, decision = machine.on_failure(names[0], "nobody limits", 1.0, final=True)
    assert out == []
    assert isinstance(decision, Exhausted)
    assert not decision.retry
    assert machine.over


def test_a_silent_winner_is_asked_and_then_given_up():
    machine, names = auction(2, probe_s=5.0, probes=2)
    machine.on_proposal(names[0], (bid(0.0),), 0.0)
    machine.on_proposal(names[1], (bid(1.0),), 0.0)
    for time in (5.0, 10.0):
        out, decision = machine.on_time(time)
        assert [(p, r) for p, r, _ in out] == [(Performative.ACCEPT, names[0])]
        assert decision is None
    machine.on_agree(names[0], 11.0)
    for time in (16.0, 21.0):
        assert machine.on_time(time)[1] is None
    _, decision = machine.on_time(26.0)
    assert decision.winner.bidder == names[1]


def test_result_only_counts_from_the_winner():
    machine, names = auction(2)
    for name in names:
        machine.on_proposal(name, (bid(1.0),), 0.0)
    fact = Fact(Thing("t"), True, names[0])
    assert machine.on_result(names[1], (fact,)) == ([], None)
    assert machine.on_result("stranger", (fact,)) == ([], None)
    assert machine.on_result(names[0], (fact,)) == ([], Fulfilled(names[0], (fact,), bid(1.0)))
    assert machine.on_result(names[0], (fact,)) == ([], None)


def react(machine, what, who, now):
    match what:
        case "bid":
            return machine.on_proposal(who, (bid(float(len(who))),), now)
        case "refuse":
            return machine.on_refusal(who, "no", now)
        case "agree":
            return machine.on_agree(who, now)
        case "result":
            return machine.on_result(who, ())
        case "fail":
            return machine.on_failure(who, "broken", now)
        case _:
            return machine.on_time(now)


@given(st.data())
def test_whatever_arrives_there_is_one_end_and_nobody_is_accepted_twice_in_a_row(data):
    machine, names = auction(3, probe_s=5.0, probes=1)
    sent = machine.begin()
    now, ends = 0.0, []
    everyone = [*names, "stranger"]
    for _ in range(data.draw(st.integers(0, 30))):
        if machine.over:
            break
        who = data.draw(st.sampled_from(everyone))
        what = data.draw(st.sampled_from(["bid", "refuse", "agree", "result", "fail", "time"]))
        if what == "time":
            now += data.draw(st.floats(0.0, 6.0))
        reaction = react(machine, what, who, now)
        sent += reaction[0]
        if isinstance(reaction[1], Fulfilled | Exhausted):
            ends.append(reaction[1])
    for step in itertools.count():
        if machine.over:
            break
        assert step < 100, "the auction hangs"
        now = machine.due
        out, decision = machine.on_time(now)
        sent += out
        if isinstance(decision, Fulfilled | Exhausted):
            ends.append(decision)
    assert len(ends) == 1
    assert all(receiver in names for _, receiver, _ in sent)
    failed = set()
    for performative, receiver, _ in sent:
        if performative is Performative.CANCEL:
            failed.add(receiver)
        elif performative is Performative.ACCEPT:
            assert receiver not in failed
    assert machine.cancel("late") == []
