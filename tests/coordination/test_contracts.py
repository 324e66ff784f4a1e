"""A winner and its contracts: late, doubled and forgotten messages, leases, waiting, ends."""

import pytest
from contract_bench import ANALYSE, LIMIT, LIMITED, ME, OTHER, Bench, deployed, nothing_is_left

from phalanx.auction.outlook import Gone
from phalanx.bdi import Adopt, Believe
from phalanx.domain.actions import Deploy, Enforce, Failed, Hold, InstanceLost, Lift, Stop
from phalanx.domain.goals import want
from phalanx.domain.messages import (
    Award,
    CallForProposals,
    Fact,
    Performative,
    Proposal,
    Refusal,
    Result,
    Verdict,
)
from phalanx.domain.predicates import FlowRecord
from phalanx.functions.rate_limiter import RateLimiter

# -- the conversation: doubled, late, forgotten -------------------------------------------


def test_a_call_is_answered_with_a_proposal_that_is_held(bench):
    call, bid = bench.offer("x")
    assert (bid.vnf, bid.units, bid.reuse) == ("rate-limiter", 1, None)
    (hold,) = bench.site.holds.values()
    assert (hold.group, hold.resources) == ("x", RateLimiter.vnfd.requires)
    assert hold.ttl_s == call.deadline + bench.settings.grace_s


def test_a_doubled_call_gets_the_same_proposal_and_holds_nothing_more(bench):
    call = bench.cfp("x")
    bench.hear(Performative.CFP, "x", call)
    assert bench.said("x") == ["propose", "propose"]
    first, second = (m.content for m in bench.sent if m.conversation == "x")
    assert first is second
    assert len(bench.site.holds) == 1


def test_a_doubled_award_is_agreed_to_and_later_answered_with_the_result(bench):
    call, bid = bench.offer("x")
    bench.accept("x", call)
    assert bench.said("x") == ["propose"]
    bench.accept("x", call, bid)
    assert bench.said("x") == ["propose", "agree"]
    bench.finish(Deploy)
    bench.accept("x", call, bid)
    assert bench.said("x") == ["propose", "agree", "inform", "inform"]
    assert bench.facts("x") == Result((Fact(LIMITED, True, ME),))
    assert deployed(bench) == ["rate-limiter"]


def test_a_rejected_proposal_gives_back_what_it_held(bench):
    bench.cfp("x")
    bench.reject("x")
    assert nothing_is_left(bench)
    assert bench.said("x") == ["propose"]


def test_an_award_after_the_rejection_is_tried_all_the_same(bench):
    call, bid = bench.offer("x")
    bench.reject("x")
    bench.accept("x", call, bid)
    bench.finish(Deploy)
    assert bench.facts("x").facts == (Fact(LIMITED, True, ME),)


def test_an_award_after_the_hold_ran_out_is_tried_again(bench):
    call, bid = bench.offer("x")
    bench.site.holds.clear()
    bench.at(8.0)
    assert not bench.bidder.contracts.holding()
    bench.accept("x", call, bid)
    assert len([a for a in bench.site.done if isinstance(a, Hold)]) == 2
    bench.finish(Deploy)
    assert bench.said("x") == ["propose", "inform"]


def test_a_late_award_fails_with_the_reason_where_others_have_the_room_now():
    bench = Bench(cores=1)
    call, bid = bench.offer("x")
    bench.reject("x")
    bench.win("y", OTHER)
    bench.accept("x", call, bid)
    assert bench.last("x") == Verdict("needs 1 core, 0 free")
    assert bench.said("x") == ["propose", "failure"]
    assert list(bench.site.instances) == [instance.id for instance in bench.bidder.inventory]


def test_an_award_for_a_call_never_heard_carries_all_that_is_needed():
    other = Bench()
    call = other.cfp("x")
    bench = Bench()
    bench.accept("x", call, other.bids("x")[0])
    bench.finish(Deploy)
    assert bench.facts("x").facts == (Fact(LIMITED, True, ME),)


def test_a_refusal_is_repeated_and_holds_nothing(bench):
    call = bench.cfp("x", want(FlowRecord("10.0.0.1")))
    bench.hear(Performative.CFP, "x", call)
    assert bench.said("x") == ["refuse", "refuse"]
    assert bench.refusal("x").reason == "no function in the repository can achieve it"
    assert not bench.refusal("x").transient


# -- cancelled, gone, lost ----------------------------------------------------------------


def test_cancelled_during_the_download_everything_is_given_back(bench):
    call = bench.cfp("x")
    bench.accept("x", call)
    assert bench.site.instances
    bench.cancel("x")
    assert nothing_is_left(bench)
    assert bench.last("x") == Verdict("no longer wanted")
    bench.finish(Deploy)  # the answer that comes too late changes nothing
    assert nothing_is_left(bench)


def test_cancelled_while_a_measure_is_being_enforced_it_is_lifted(bench):
    bench.site.slow.add(Enforce)
    bench.win("x", LIMIT)
    assert bench.site.measures
    bench.cancel("x")
    assert not bench.site.measures
    assert isinstance(bench.site.done[-1], Lift)
    bench.finish(Enforce)
    assert not bench.agent.beliefs.holds(LIMITED)


def test_cancelled_before_the_award_arrives_nothing_is_begun(bench):
    call, bid = bench.offer("x")
    bench.cancel("x")
    bench.accept("x", call, bid)
    assert nothing_is_left(bench)
    assert deployed(bench) == []
    assert bench.said("x") == ["propose", "failure"]


def test_cancelled_while_a_late_hold_is_asked_for_it_is_given_back(bench):
    call, bid = bench.offer("x")
    bench.reject("x")
    bench.site.slow.add(Hold)
    bench.accept("x", call, bid)
    bench.cancel("x")
    bench.finish(Hold)
    assert nothing_is_left(bench)
    assert deployed(bench) == []


def test_nobody_works_for_the_dead(bench):
    bench.win("x", ANALYSE)
    assert bench.waiting
    bench.agent.do_step(Believe(Gone("b")))
    bench.at(0.1)
    bench.look()
    (instance,) = bench.bidder.inventory
    assert not instance.jobs
    (ended,) = (e for e in bench.events if e.kind == "contract.ended")
    assert ended.data["reason"] == "b is gone"


def test_work_is_given_up_when_its_initiator_is_silent_for_long(bench):
    call = bench.win("x", ANALYSE)
    bid = bench.bidder.contracts.get("x").bid
    silence = bench.settings.probe_s * (bench.settings.probes + 2)
    bench.at(silence - 1)
    bench.accept("x", call, bid)
    bench.at(2 * silence - 2)
    assert bench.said("x") == ["propose", "agree"]
    bench.at(2 * silence + bench.settings.probe_s)
    assert bench.said("x")[-1] == "failure"
    assert bench.last("x") == Verdict("b is silent")


def test_a_refused_deployment_leaves_no_hold_behind(bench):
    bench.site.refused[Deploy] = "the repository is away"
    call = bench.cfp("x")
    bench.accept("x", call)
    assert bench.last("x") == Verdict("the repository is away")
    assert nothing_is_left(bench)


def test_a_lost_instance_fails_its_work_and_ends_what_it_kept_true(bench):
    bench.win("x", LIMIT)
    bench.win("y", ANALYSE)
    limiter, detector = bench.bidder.inventory
    for instance in (limiter, detector):
        bench.site.perform(Stop(instance.id))
        lost = InstanceLost(instance.id, "crashed", "root")
        bench.carry_out(bench.agent.perceive(lost, bench.now))
    assert bench.last("y") == Verdict("its VNF is lost: crashed")
    assert bench.last("notice") == Result((Fact(LIMITED, value=False),))
    assert bench.agent.beliefs.denies(LIMITED)
    assert not {"rate-limiter", "anomaly-detector"} & bench.agent.active


@pytest.mark.parametrize("final", [False, True])
def test_a_final_failure_of_the_infrastructure_is_told_as_final(bench, final):
    bench.site.refused[Enforce] = Failed("no driver tarpits", final=final)
    bench.win("x", LIMIT)
    assert bench.last("x") == Verdict("no driver tarpits", final)


@pytest.mark.parametrize(("final", "awarded"), [(False, ["b", "c"]), (True, ["b"])])
def test_a_final_failure_ends_the_auction_without_a_next_best_bid_or_a_second_one(
    bench, final, awarded
):
    ends = []
    bench.cfp("other-work", OTHER)  # what the bids of a rate limiter look like
    (bid,) = bench.bids("other-work")
    bench.agent.adopt(Adopt(LIMIT)).waiters.append(ends.append)
    bench.carry_out(bench.agent.take_on(Adopt(LIMIT), bench.now))
    call = next(m for m in bench.sent if isinstance(m.content, CallForProposals))
    for sender in ("b", "c"):
        bench.hear(Performative.PROPOSE, call.conversation, Proposal((bid,)), sender)
    bench.hear(Performative.REFUSE, call.conversation, Refusal("no room"), ME)
    bench.hear(Performative.FAILURE, call.conversation, Verdict("no driver can", final), "b")
    assert [m.receiver for m in bench.sent if isinstance(m.content, Award)] == awarded
    bench.at(60.0)
    auctions = {m.conversation for m in bench.sent if isinstance(m.content, CallForProposals)}
    assert (len(auctions) == 1) == final
    assert [(end.achieved, end.final) for end in ends] == [(False, final)]


# -- agents that are no PoPs ----------------------------------------------------------------


def test_an_agent_without_a_pop_calls_auctions_and_refuses_work_that_needs_a_place():
    bench = Bench(name="slice-1", pop=None)
    bench.settings.peers = ("b", "c", "slice-1")
    bench.cfp("x")
    assert bench.refusal("x").reason == "slice-1 has no PoP"
    bench.carry_out(bench.agent.take_on(Adopt(LIMIT, tap="b"), bench.now))
    called = [m for m in bench.sent if isinstance(m.content, CallForProposals)]
    assert [m.receiver for m in called] == ["b", "c", "slice-1"]
    assert {m.content.goal.tap for m in called} == {"b"}


def test_a_second_agent_of_a_pop_bids_with_a_path_from_that_pop():
    bench = Bench(name="a-2", pop=ME)
    bench.cfp("x")
    (bid,) = bench.bids("x")
    assert bid.path == (ME,)
