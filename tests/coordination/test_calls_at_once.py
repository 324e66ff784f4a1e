"""Several calls at once: who bids, who waits, who is refused, and what is used again."""

from contract_bench import ANALYSE, LIMIT, OTHER, Bench, deployed, nothing_is_left
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.auction.contracts import ContractStage
from phalanx.domain.actions import Deploy, Failed, Rechain, Scale
from phalanx.domain.goals import find_out, want
from phalanx.domain.messages import CallForProposals, Verdict
from phalanx.domain.predicates import AnomalousUsage, IpRateLimited

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


@settings(max_examples=150, deadline=None, derandomize=True)
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
