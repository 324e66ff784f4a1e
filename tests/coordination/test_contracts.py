"""A winner and its contracts: late, doubled and forgotten messages, leases, waiting, ends."""

import pytest
from contract_bench import ANALYSE, LIMIT, LIMITED, ME, OTHER, Bench, deployed, nothing_is_left
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.auction.contracts import ContractStage
from phalanx.auction.outlook import Gone
from phalanx.bdi.steps import Adopt, Believe
from phalanx.coordination.lifecycle import NewVersion
from phalanx.domain.actions import (
    Deploy,
    Enforce,
    Failed,
    Hold,
    InstanceLost,
    Lift,
    Prefetch,
    Rechain,
    Release,
    Scale,
    Stop,
)
from phalanx.domain.goals import avert, find_out, want
from phalanx.domain.messages import (
    Award,
    CallForProposals,
    Fact,
    Inventory,
    Performative,
    Proposal,
    Query,
    Refusal,
    Result,
    UndoRequest,
    Verdict,
)
from phalanx.domain.predicates import AnomalousUsage, FlowRecord, IpRateLimited, Monitored
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


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("change", [{"vnf": "nonsense"}, {"vnf": "link-monitor"}])
def test_an_award_of_what_was_not_proposed_begins_nothing(bench, known, change):
    refused = []
    bench.bidder.refused = lambda *about: refused.append(about)
    call, bid = Bench().offer("x")
    if known:
        bench.cfp("x")
    bench.accept("x", call, replace(bid, **change))
    assert refused == [("b", "accept-proposal", f"{change['vnf']}: no bid")]
    assert not deployed(bench)
    bench.accept("x", call, bid)
    assert deployed(bench) == ["rate-limiter"]


def test_an_award_of_more_units_than_were_proposed_begins_nothing(bench):
    call, bid = bench.offer("x")
    bench.accept("x", call, replace(bid, units=3))
    assert not deployed(bench)


def test_a_refusal_is_repeated_and_holds_nothing(bench):
    call = bench.cfp("x", want(FlowRecord("10.0.0.1")))
    bench.hear(Performative.CFP, "x", call)
    assert bench.said("x") == ["refuse", "refuse"]
    assert bench.refusal("x").reason == "no function in the repository can achieve it"
    assert not bench.refusal("x").transient


def test_an_agent_that_has_not_heard_of_its_pop_yet_is_asked_again():
    class Early(Bench):
        def look(self):
            """Perceive nothing: the network's process has not spoken yet."""

    bench = Early()
    bench.cfp("x")
    assert bench.refusal("x").transient
    Bench.look(bench)
    bench.cfp("y")
    assert bench.said("y") == ["propose"]


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


def test_two_contracts_for_one_effect_share_its_measure(bench):
    """As two auctioneers award them that both took over the goal of an agent that died."""
    bench.site.slow.add(Enforce)
    bench.win("x", LIMIT)
    bench.win("y", LIMIT)
    bench.finish(Enforce)
    bench.at(bench.now + 2.0)
    assert [type(action) for action in bench.site.done].count(Enforce) == 1
    assert len(bench.site.measures) == 1
    assert bench.said("x") == bench.said("y") == ["propose", "inform"]


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


def test_what_is_asked_for_twice_is_brought_before_it_is_wanted_again(bench):
    def brought():
        return [action.vnfd.name for action in bench.site.done if isinstance(action, Prefetch)]

    bench.settings.foreseen = ()
    bench.cfp("x")
    assert brought() == []
    bench.cfp("y")
    assert brought() == ["rate-limiter"]
    bench.cfp("z")
    assert brought() == ["rate-limiter"], "one try a minute"


def test_nothing_is_brought_where_nothing_is_foreseen(bench):
    for name in ("x", "y", "z"):
        bench.cfp(name)
    assert not [action for action in bench.site.done if isinstance(action, Prefetch)]


# -- several calls at once: who bids, who waits, who is refused -------------------------------


# -- several auctions at once -------------------------------------------------------------


def test_the_younger_of_two_waits_and_bids_when_the_elder_was_rejected():
    bench = Bench(cores=1)
    bench.cfp("elder", LIMIT, since=1.0)
    bench.cfp("younger", OTHER, since=2.0)
    assert (bench.said("elder"), bench.said("younger")) == (["propose"], [])
    bench.reject("elder")
    assert bench.said("younger") == ["propose"]


def test_the_younger_is_refused_for_good_when_the_elder_took_the_room():
    bench = Bench(cores=1)
    call = bench.cfp("elder", ANALYSE, since=1.0)
    bench.cfp("younger", OTHER, since=2.0)
    bench.accept("elder", call)
    assert bench.refusal("younger").reason == "needs 1 core, 0 free"
    assert not bench.refusal("younger").transient


def test_the_elder_does_not_wait_for_the_younger():
    bench = Bench(cores=1)
    bench.cfp("younger", LIMIT, since=2.0)
    bench.cfp("elder", OTHER, since=1.0)
    assert bench.refusal("elder").transient
    assert bench.refusal("elder").reason == "needs 1 core, 0 free beside other proposals"


def test_who_waits_is_answered_before_the_deadline():
    bench = Bench(cores=1)
    bench.cfp("elder", LIMIT, since=1.0)
    call = bench.cfp("younger", OTHER, since=2.0)
    bench.at(0.7 * call.deadline)
    assert bench.said("younger") == []
    bench.at(0.8 * call.deadline)
    assert bench.refusal("younger").transient


@given(
    st.integers(1, 4),
    st.permutations(range(6)),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["accept", "reject", "cancel"]))),
)
def test_waiting_never_goes_in_circles(cores, arrivals, decisions):
    bench = Bench(cores=cores)
    calls: dict[int, CallForProposals] = {}

    def check():
        contracts = [bench.bidder.contracts.get(str(age)) for age in calls]
        holding = [c.age for c in contracts if c.holds]
        for contract in contracts:
            if contract.stage is ContractStage.WAITING:
                assert min(holding, default=contract.age) < contract.age, "waits for no elder"
        assert not bench.site.unheld.lacking(bench.site.total)
        assert bench.site.unheld.cores >= 0

    for age in arrivals:
        goal = ANALYSE if age % 2 else want(IpRateLimited(f"10.0.0.{age}"))
        calls[age] = bench.cfp(str(age), goal, since=float(age))
        check()
    for age, decision in decisions:
        contract = bench.bidder.contracts.get(str(age))
        if contract.stage is ContractStage.PROPOSED:
            if decision == "accept":
                bench.accept(str(age), calls[age], contract.bids[0])
            else:
                getattr(bench, decision)(str(age))
            check()
    bench.at(2.0)
    for age in calls:
        assert bench.said(str(age)), "left without an answer"


# -- what is at hand is used again --------------------------------------------------------


def test_an_idle_instance_is_offered_to_one_auction_at_a_time():
    bench = Bench(cores=2)
    bench.win("x", ANALYSE)
    bench.observe()
    (instance,) = bench.bidder.inventory
    bench.cfp("elder", ANALYSE, since=1.0)
    bench.cfp("younger", find_out(AnomalousUsage("a>c")), since=2.0)
    assert bench.bids("elder")[0].reuse == instance.id
    assert bench.bids("elder")[0].terms["T"] == 0
    assert bench.bids("younger")[0].reuse is None


def test_an_offered_instance_is_waited_for_where_there_is_no_room_for_another():
    bench = Bench(cores=1)
    bench.win("x", ANALYSE)
    bench.observe()
    (instance,) = bench.bidder.inventory
    bench.cfp("elder", ANALYSE, since=1.0)
    bench.cfp("younger", find_out(AnomalousUsage("a>c")), since=2.0)
    assert bench.said("younger") == []
    bench.reject("elder")
    assert bench.bids("younger")[0].reuse == instance.id


def test_an_instance_used_again_gets_the_path_and_the_units_of_the_new_goal(bench):
    bench.win("x", ANALYSE, traffic_mb_s=2.0)
    bench.observe()
    (instance,) = bench.bidder.inventory
    call = bench.cfp("y", ANALYSE, traffic_mb_s=6.0)
    assert bench.bids("y")[0].units == 3
    bench.accept("y", call)
    again = [a for a in bench.site.done if isinstance(a, Rechain | Scale)]
    assert [type(a) for a in again] == [Rechain, Scale]
    assert (instance.units, again[1].units, again[1].mb_s) == (3, 3, 6.0)
    assert not bench.site.holds


def test_awards_that_come_during_the_download_share_the_instance(bench):
    first, second = bench.cfp("x", LIMIT), bench.cfp("y", OTHER)
    bench.accept("x", first)
    bench.accept("y", second)
    assert deployed(bench) == ["rate-limiter"]
    assert not bench.site.holds
    bench.cfp("z", want(IpRateLimited("10.0.0.3")))
    (bid,) = bench.bids("z")
    (instance,) = bench.bidder.inventory
    assert bid.reuse == instance.id
    assert bid.terms["T"] == instance.due > 0
    bench.finish(Deploy)
    assert bench.said("x") == bench.said("y") == ["propose", "inform"]
    assert len(bench.site.measures) == 2


def test_a_failed_download_fails_all_who_share_it(bench):
    calls = {name: bench.cfp(name, goal) for name, goal in (("x", LIMIT), ("y", OTHER))}
    for name, call in calls.items():
        bench.accept(name, call)
    bench.finish(Deploy, Failed("the link broke"))
    assert bench.last("x") == Verdict("the link broke")
    assert bench.last("y") == Verdict("the instance that was to be shared did not start")
    assert nothing_is_left(bench)


def test_what_fails_before_it_can_be_waited_for_fails_who_would_share_it(bench):
    bench.site.slow.add(Release)
    calls = {name: bench.cfp(name, goal) for name, goal in (("x", LIMIT), ("y", OTHER))}
    for name, call in calls.items():
        bench.accept(name, call)
    bench.finish(Deploy, Failed("the link broke"))
    bench.finish(Release)
    assert bench.last("y") == Verdict("the instance that was to be shared did not start")


def test_what_is_in_force_is_offered_to_the_next_who_wants_it_though_no_room_is_left():
    bench = Bench(cores=1)
    bench.win("x", LIMIT, traffic_mb_s=1.0)
    (instance,) = bench.bidder.inventory
    call = bench.cfp("y", LIMIT, traffic_mb_s=1e6)
    (bid,) = bench.bids("y")
    assert (bid.kept, bid.reuse, bid.terms["T"], bid.units) == (True, instance.id, 0, 1)
    assert not bench.site.holds
    bench.accept("y", call)
    assert bench.facts("y") == Result((Fact(LIMITED, True, ME),))
    assert [type(a) for a in bench.site.done].count(Enforce) == 1
    assert (len(bench.site.measures), deployed(bench)) == (1, ["rate-limiter"])


def test_what_was_lifted_since_it_was_offered_is_not_taken_for_kept(bench):
    bench.win("x", LIMIT)
    call, bid = bench.offer("y")
    assert bid.kept
    bench.carry_out(bench.agent.take_on(Adopt(avert(LIMITED)), bench.now))
    bench.accept("y", call, bid)
    assert bench.last("y") == Verdict("the instance that was offered is gone or busy")


# -- the instances of an agent: idle, replaced, lifted, told of -------------------------------


def test_an_idle_instance_is_ended_and_its_resources_given_back(bench):
    bench.win("x", ANALYSE)
    bench.observe()
    bench.at(bench.settings.idle_s - 1)
    assert bench.site.instances
    bench.at(bench.settings.idle_s + bench.settings.lease_s)
    assert nothing_is_left(bench)


def test_an_instance_that_keeps_something_true_is_not_idle(bench):
    bench.win("x", LIMIT)
    bench.at(3 * bench.settings.idle_s)
    assert len(bench.site.measures) == 1


def test_who_shares_a_new_version_in_its_download_keeps_what_it_got_when_the_old_one_ends(bench):
    bench.win("x", LIMIT)
    (old,) = bench.bidder.inventory
    newest = replace(RateLimiter.vnfd, version="2.0")
    bench.settings.catalogue["rate-limiter"] = newest
    bench.carry_out(bench.agent.perceive(NewVersion(newest), bench.now))
    call = bench.cfp("y", OTHER)
    bench.accept("y", call)
    assert deployed(bench) == ["rate-limiter", "rate-limiter"]
    bench.finish(Deploy)
    (new,) = bench.bidder.inventory
    assert (new.vnfd.version, old.id in bench.site.instances) == ("2.0", False)
    assert set(new.measures) == {LIMITED, OTHER.predicate}
    assert {m.instance for m in bench.site.measures.values()} == {new.id}
    assert len(bench.site.measures) == 2
    assert bench.said("y") == ["propose", "inform"]
    bench.hear(Performative.REQUEST, "undo", UndoRequest(avert(LIMITED)))
    assert len(bench.site.measures) == 1


def test_a_measure_that_is_answered_after_its_instance_was_replaced_is_kept_by_the_new_one(bench):
    bench.site.slow.add(Enforce)
    bench.win("x", LIMIT)
    newest = replace(RateLimiter.vnfd, version="2.0")
    bench.settings.catalogue["rate-limiter"] = newest
    bench.carry_out(bench.agent.perceive(NewVersion(newest), bench.now))
    bench.finish(Deploy)
    (new,) = bench.bidder.inventory
    assert {m.instance for m in bench.site.measures.values()} == {new.id}
    bench.finish(Enforce)
    assert set(new.measures) == {LIMITED}
    bench.hear(Performative.REQUEST, "undo", UndoRequest(avert(LIMITED)))
    assert not bench.site.measures


def test_a_lift_is_asked_for_and_told(bench):
    bench.win("x", LIMIT)
    (fact,) = bench.last("x").facts
    request = UndoRequest(avert(LIMITED), fact.mandate)
    bench.hear(Performative.REQUEST, "undo", request, sender="c")
    assert bench.facts("undo") == Result((Fact(LIMITED, value=False),))
    assert bench.facts("notice") == Result((Fact(LIMITED, value=False),))
    assert not bench.site.measures
    bench.hear(Performative.REQUEST, "again", UndoRequest(avert(LIMITED)), sender="c")
    assert bench.facts("again") == Result((Fact(LIMITED, value=False),))


def test_who_did_not_hear_of_a_limit_hears_that_it_was_lifted_since(bench):
    call, bid = bench.offer("x")
    bench.accept("x", call, bid)
    bench.finish(Deploy)
    bench.carry_out(bench.agent.take_on(Adopt(avert(LIMITED)), bench.now))
    bench.accept("x", call, bid)
    (fact,) = bench.last("x").facts
    assert (fact.predicate, fact.value) == (LIMITED, False)


def test_a_lift_is_refused_to_agents_without_a_mandate(bench):
    refused = []
    bench.bidder.refused = lambda *data: refused.append(data)
    bench.win("x", LIMIT)
    for wrong in ("", "guessed"):
        bench.hear(Performative.REQUEST, "undo", UndoRequest(avert(LIMITED), wrong), sender="c")
        assert bench.last("undo").final
    bench.hear(Performative.CANCEL, "x", Verdict("stop"), sender="c")
    assert [data[:2] for data in refused] == [("c", "undo"), ("c", "undo"), ("c", "cancel")]
    assert len(bench.site.measures) == 1
    bench.hear(Performative.REQUEST, "mine", UndoRequest(avert(LIMITED)), sender="b")
    assert not bench.site.measures
    assert len(refused) == 3


def test_proposals_and_work_are_stopped_by_their_auctioneer_alone(bench):
    refused = []
    bench.bidder.refused = lambda *data: refused.append(data[:2])
    call, bid = bench.offer("x")
    bench.hear(Performative.REJECT, "x", Verdict("no"), sender="c")
    bench.hear(Performative.ACCEPT, "x", Award(bid, call), sender="c")
    assert bench.said("x") == ["propose"]
    assert len(bench.site.holds) == 1
    bench.accept("x", call, bid)
    bench.hear(Performative.CANCEL, "x", Verdict("stop"), sender="c")
    bench.finish(Deploy)
    assert bench.said("x") == ["propose", "inform"]
    assert refused == [("c", "reject-proposal"), ("c", "accept-proposal"), ("c", "cancel")]


def test_a_query_is_answered_with_the_inventory(bench):
    bench.win("x", LIMIT)
    bench.win("y", ANALYSE, traffic_mb_s=3.0)
    bench.cfp("z", want(Monitored("a>b", 1.0)))
    bench.accept("z", bench.bidder.contracts.get("z").call)
    bench.hear(Performative.QUERY, "q", Query(), sender="c")
    answer = bench.last("q")
    assert isinstance(answer, Inventory)
    told = [(i.vnf, i.version, i.units, i.state, i.goals) for i in answer.instances]
    assert told == [
        ("rate-limiter", "1.0", 1, "busy", ("ipRateLimited(10.0.0.1)",)),
        ("anomaly-detector", "1.0", 2, "busy", ("?anomalousUsage(a>b, 0, 1)",)),
        ("link-monitor", "1.0", 1, "deploying", ("monitored(a>b, 1.0, 0)",)),
    ]
    assert bench.sent[-1].receiver == "c"


def test_what_was_held_and_is_not_needed_is_released_before_the_work_begins(bench):
    bench.win("x", LIMIT)
    call = bench.cfp("y", OTHER)
    assert bench.site.holds
    bench.accept("y", call)
    assert not bench.site.holds
    assert [type(a) for a in bench.site.done if isinstance(a, Release | Enforce)][-2:] == [
        Release,
        Enforce,
    ]
    assert bench.said("y") == ["propose", "inform"]


@pytest.mark.parametrize("decided", [True, False], ids=["is decided", "ends with its initiator"])
def test_what_it_is_asked_for_already_it_asks_others_for_once_that(bench, decided):
    called = bench.now
    bench.offer("theirs")
    bench.carry_out(bench.agent.take_on(Adopt(LIMIT, 20), bench.now))
    bench.at(called + 0.9 * bench.settings.deadline_s)
    assert not [m for m in bench.sent if m.performative is Performative.CFP]
    if decided:
        bench.hear(Performative.REJECT, "theirs", Verdict("another bid was better"))
    bench.at(called + 2 * bench.settings.deadline_s)
    assert bench.site.holds or decided, "the offer still stands: whoever waited for that waits long"
    assert [m for m in bench.sent if m.performative is Performative.CFP]
