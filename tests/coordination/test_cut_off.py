"""An agent that hears nobody for a while: whom it judges, and what it finds out afterwards."""

import pytest
from contract_bench import FUNCTIONS as ALL
from contract_bench import LIMIT, LIMITED, ME, OTHER, Bench
from msgspec.structs import replace

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.contracts import NOTICE
from phalanx.auction.delegations import HEARSAY, HEARSAY_S, LATER, RELIED, TWICE
from phalanx.auction.outlook import Connected, Missed, Outlook
from phalanx.bdi.steps import Adopt, Believe
from phalanx.coordination.duties import Duties
from phalanx.coordination.failover import Failover
from phalanx.coordination.recovery import ASK_S, ASKED, Recovery
from phalanx.domain.actions import Deploy, InstanceLost, LinkSample, ReadMeasure
from phalanx.domain.goals import avert, want
from phalanx.domain.messages import (
    Advertisement,
    Award,
    CallForProposals,
    Digest,
    Fact,
    Heartbeat,
    InstanceInfo,
    Inventory,
    Performative,
    Proposal,
    Query,
    Refusal,
    Result,
    Return,
    UndoRequest,
)
from phalanx.domain.predicates import (
    AnomalousUsage,
    ConnectionFlood,
    LinkRateLimited,
    Monitored,
    OverUsage,
    Quiet,
)

WARD = "c"
"""Whom agent ``a`` covers in the ring of ``a``, ``b`` and ``c``."""


class Talk(Bench):
    """A bench whose agent covers its neighbour, and wins and loses auctions of its own."""

    def __init__(self, **options):
        super().__init__(functions=(*ALL, Duties, Failover, Recovery), **options)

    def beat(self, sender=WARD):
        self.hear(Performative.INFORM, "heartbeat", Heartbeat(1), sender)

    def come_back(self):
        """Have the ward contradict its obituary."""
        self.beat()
        (state,) = self.to(WARD, Advertisement)[-1].content.states
        back = replace(state, alive=True, version=state.version + 1)
        self.hear(Performative.INFORM, "news", Advertisement((back,)), WARD)

    def connected(self, up):
        self.carry_out(self.agent.perceive(Connected(up), self.now, "root"))

    def later(self):
        """Let as much time pass as auctions take."""
        for _ in range(int(LATER * self.settings.deadline_s) + 1):
            self.beat()
            self.at(self.now + 1.0)

    def gone(self):
        return [e.data["pop"] for e in self.events if e.kind == "agent.gone"]

    def to(self, receiver, kind):
        return [m for m in self.sent if m.receiver == receiver and type(m.content) is kind]

    def delegate(self, goal=LIMIT, holder="b", meanwhile=lambda: None):
        """Have ``goal`` achieved by another."""
        self.carry_out(self.agent.take_on(Adopt(goal, 20), self.now))
        call = self.to(holder, CallForProposals)[-1]
        self.cfp("other-work", OTHER)  # what the bids of a rate limiter look like
        (bid,) = self.bids("other-work")
        self.hear(Performative.PROPOSE, call.conversation, Proposal((bid,)), holder)
        for peer in {"a", "b", "c"} - {holder}:
            self.hear(Performative.REFUSE, call.conversation, Refusal("no room"), peer)
        assert self.to(holder, Award)
        meanwhile()
        achieved = Result((Fact(goal.predicate, holder=holder),))
        self.hear(Performative.INFORM, call.conversation, achieved, holder)
        assert self.agent.beliefs.satisfies(goal)


@pytest.fixture
def bench():
    return Talk()


def test_a_silent_ward_is_gone(bench):
    bench.beat()
    bench.at(bench.settings.silence_s + 3.0)
    assert bench.gone() == [WARD]


def test_whom_it_has_to_watch_again_is_given_the_time_to_tell_this_agent(bench):
    silence_s = bench.settings.silence_s
    bench.beat()
    bench.at(silence_s + 3.0)
    bench.beat("b")  # it covers b now
    bench.come_back()
    for _ in range(40):
        bench.at(bench.now + 1.0)
        bench.beat()
    bench.at(bench.now + silence_s + 3.0)
    assert bench.gone() == [WARD, WARD]
    bench.at(bench.now + silence_s - 2.0)
    assert bench.gone() == [WARD, WARD]
    bench.at(bench.now + 5.0)
    assert bench.gone() == [WARD, WARD, "b"]


def test_who_is_cut_off_judges_nobody_and_listens_anew_afterwards(bench):
    bench.beat()
    bench.connected(False)
    bench.at(60.0)
    assert bench.gone() == []
    bench.connected(True)
    bench.at(60.0 + bench.settings.silence_s)
    assert bench.gone() == []
    bench.at(63.0 + bench.settings.silence_s)
    assert bench.gone() == [WARD]


def test_who_stood_still_judges_nobody_before_it_has_listened(bench):
    bench.beat()
    bench.now = 60.0  # nothing ran in between
    bench.carry_out(bench.agent.tick(bench.now))
    assert bench.gone() == []
    bench.at(63.0 + bench.settings.silence_s)
    assert bench.gone() == [WARD]


def test_after_a_cut_one_peer_is_asked_for_all_news(bench):
    bench.connected(False)
    bench.sent.clear()
    bench.connected(True)
    (question,) = [m for m in bench.sent if type(m.content) is Digest]
    view = bench.agent.capability(Outlook).view
    assert question.content == Digest(view.digest, view.stamps())


@pytest.mark.parametrize(
    "word", [Heartbeat(1), Digest(0), Advertisement(())], ids=["beats", "compares", "tells"]
)
def test_an_obituary_is_shown_to_whoever_speaks_all_the_same(bench, word):
    bench.beat()
    bench.at(bench.settings.silence_s + 3.0)
    bench.sent.clear()
    bench.hear(Performative.INFORM, "word", word, WARD)
    (told, *_) = bench.to(WARD, Advertisement)
    (state,) = told.content.states
    assert (state.pop, state.alive) == (WARD, False)


def test_who_contradicts_its_obituary_is_not_told_of_it_again(bench):
    bench.beat()
    bench.sent.clear()
    bench.beat()
    assert not bench.to(WARD, Advertisement)


# -- what others keep -----------------------------------------------------------------------


def kept(*goals):
    return Inventory((InstanceInfo("b.1/vnf1", "rate-limiter", "1.0", 1, "active", goals, goals),))


def test_holders_are_asked_after_a_cut_and_what_they_lost_is_auctioned_anew(bench):
    bench.delegate()
    bench.connected(False)
    bench.connected(True)
    (asked,) = bench.to("b", Query)
    assert asked.conversation == RELIED
    assert not bench.to("c", Query)
    bench.sent.clear()
    bench.hear(Performative.INFORM, RELIED, kept(), "b")
    assert bench.to("b", CallForProposals)
    assert bench.agent.beliefs.denies(LIMITED)


def test_what_a_holder_still_keeps_stays_as_it_is(bench):
    bench.delegate()
    bench.sent.clear()
    bench.hear(Performative.INFORM, RELIED, kept(str(LIMITED)), "b")
    assert not bench.sent
    assert bench.agent.beliefs.satisfies(LIMIT)


def test_what_another_made_as_well_while_its_agent_was_cut_off_is_undone_and_relied_on(bench):
    bench.delegate()
    bench.connected(False)
    bench.connected(True)
    bench.later()
    assert [m.conversation for m in bench.to("c", Query)] == [TWICE]
    assert [m.conversation for m in bench.to("b", Query)] == [RELIED, TWICE]
    bench.hear(Performative.INFORM, TWICE, kept(str(LIMITED)), "b")
    assert not bench.to("b", UndoRequest)
    bench.sent.clear()
    bench.hear(Performative.INFORM, TWICE, kept(str(LIMITED)), "c")
    (undo,) = bench.to("b", UndoRequest)
    assert bench.agent.beliefs.satisfies(LIMIT), "it is in force until it is undone"
    bench.hear(Performative.INFORM, undo.conversation, Result((Fact(LIMITED, value=False),)), "b")
    assert bench.to("c", CallForProposals)


@pytest.mark.parametrize("first", ["own", "theirs"])
def test_what_it_has_in_force_itself_it_relies_on_no_other_for(bench, first):
    def make():
        bench.accept("own", bench.cfp("own", since=-1.0))
        bench.finish(Deploy)
        assert bench.site.measures

    if first == "own":
        bench.delegate(meanwhile=make)
    else:
        bench.delegate()
        make()
    bench.connected(False)
    bench.connected(True)
    bench.later()
    bench.sent.clear()
    for _ in range(2):
        bench.hear(Performative.INFORM, TWICE, kept(str(LIMITED)), "b")
    (undo,) = bench.to("b", UndoRequest)
    ended = Result((Fact(LIMITED, value=False),))
    bench.hear(Performative.INFORM, undo.conversation, ended, "b")
    bench.hear(Performative.INFORM, NOTICE, ended, "b")
    assert bench.site.measures
    assert bench.agent.beliefs.get(LIMITED).holder == ME
    bench.later()
    assert bench.to("b", Query)[-1].conversation == TWICE
    bench.hear(Performative.INFORM, TWICE, kept(), "b")
    bench.later()
    assert len(bench.to("b", UndoRequest)) == 1
    assert not [m for m in bench.sent if m.conversation == NOTICE]


@pytest.mark.parametrize("holder", ["b", ME])
def test_what_is_over_is_relied_on_no_more(bench, holder):
    """It would be handed over, too, when this agent leaves."""
    bench.delegate(holder=holder)
    relied_on = bench.agent.capability(Auctioneer).delegations.by_effect
    assert relied_on[LIMITED].holder == holder
    bench.carry_out(bench.agent.take_on(Adopt(avert(LIMITED), 20), bench.now))
    if holder == "b":
        (undo,) = bench.to("b", UndoRequest)
        ended = Result((Fact(LIMITED, value=False),))
        bench.hear(Performative.INFORM, undo.conversation, ended, "b")
    assert bench.agent.beliefs.denies(LIMITED)
    assert not relied_on


def test_what_an_agent_heard_of_or_inherited_ends_though_nobody_tells_it(bench):
    def wait():
        bench.sent.clear()
        until = bench.now + HEARSAY_S
        while bench.now < until:
            bench.beat()
            bench.at(min(until, bench.now + 1.0))

    bench.delegate()
    heard, beliefs = OTHER.predicate, bench.agent.beliefs
    bench.agent.do_step(Believe(heard, holder="b"))
    bench.agent.do_step(Believe(LinkRateLimited(LINK), holder=ME))
    wait()
    assert [m.conversation for m in bench.to("b", Query)] == [HEARSAY]
    assert not bench.to(ME, Query)
    bench.hear(Performative.INFORM, HEARSAY, kept(str(heard), str(LIMITED)), "b")
    assert beliefs.holds(heard)
    wait()
    bench.hear(Performative.INFORM, HEARSAY, kept(), "c")
    assert beliefs.holds(heard), "c does not keep it"
    bench.hear(Performative.INFORM, HEARSAY, kept(str(LIMITED)), "b")
    assert beliefs.denies(heard)
    assert beliefs.holds(LIMITED)
    bench.hear(Performative.INFORM, HEARSAY, Inventory((), (str(LIMITED),)), "b")
    assert beliefs.holds(LIMITED), "no instance keeps it so"
    bench.hear(Performative.INFORM, HEARSAY, kept(), "b")
    assert beliefs.denies(LIMITED)
    assert not bench.agent.capability(Auctioneer).delegations.by_effect
    assert not bench.to("c", CallForProposals)


def test_it_does_not_bid_for_what_it_has_auctioned_before_and_says_so_first(bench):
    heard = []

    def call_as_well():
        bench.sent.clear()
        bench.cfp("younger", since=bench.now + 1.0)
        bench.cfp("younger", since=bench.now + 1.0)
        heard.extend((m.performative, m.conversation) for m in bench.sent if m.receiver == "b")

    bench.delegate(holder="c", meanwhile=call_as_well)
    (elder,) = {name for _, name in heard} - {"younger"}
    told = [(Performative.CFP, elder), (Performative.REFUSE, "younger")]
    assert heard == told * 2, "the last answer may end an auction"
    assert bench.refusal("younger").transient
    bench.cfp("after", OTHER)
    assert bench.bids("after"), "and for all else"


def test_that_another_keeps_it_as_well_undoes_nothing_unless_it_was_asked(bench):
    bench.delegate()
    bench.sent.clear()
    for _ in range(2):
        bench.hear(Performative.INFORM, TWICE, kept(str(LIMITED)), "c")
    assert not bench.sent


def test_who_comes_back_is_asked_what_became_of_things_though_another_never_answered(bench):
    bench.carry_out(bench.agent.perceive(Missed(), bench.now, "root"))
    bench.at(bench.now + ASK_S * (ASKED + 1))
    assert len(bench.to("b", Return)) == ASKED  # b never answers
    bench.beat()
    bench.at(bench.now + bench.settings.silence_s + 3.0)
    assert bench.gone() == [WARD]
    asked = len(bench.to(WARD, Return))
    bench.come_back()
    assert len(bench.to(WARD, Return)) == asked + 1


def test_whoever_asks_while_it_waits_for_answers_asks_each_peer_once_at_a_time(bench):
    for _ in range(3):
        bench.carry_out(bench.agent.perceive(Missed(), bench.now, "root"))
    bench.at(bench.now + ASK_S * (ASKED + 1))
    assert len(bench.to("b", Return)) == ASKED + 1


def test_an_inventory_of_somebody_else_says_nothing_about_it(bench):
    bench.delegate()
    bench.sent.clear()
    bench.hear(Performative.INFORM, RELIED, kept(), "c")
    assert not bench.sent
    assert bench.agent.beliefs.satisfies(LIMIT)


def test_a_measure_lost_by_mishap_is_auctioned_anew_and_one_that_was_lifted_is_not():
    for performative, again in ((Performative.FAILURE, True), (Performative.INFORM, False)):
        bench = Talk()
        bench.delegate()
        bench.sent.clear()
        bench.hear(performative, NOTICE, Result((Fact(LIMITED, value=False),)), "b")
        assert bool(bench.to("b", CallForProposals)) is again
        assert bench.agent.beliefs.denies(LIMITED)


def test_a_late_word_of_its_own_does_not_end_what_an_agent_keeps_true_since(bench):
    bench.win("x", LIMIT)
    assert bench.agent.beliefs.get(LIMITED).holder == ME
    for performative in (Performative.INFORM, Performative.FAILURE):
        bench.hear(performative, NOTICE, Result((Fact(LIMITED, value=False),)), ME)
        assert bench.agent.beliefs.satisfies(LIMIT)


def test_who_loses_a_vnf_tells_those_who_rely_on_its_measures(bench):
    bench.win("x", LIMIT)
    (instance,) = bench.bidder.inventory
    bench.carry_out(bench.agent.perceive(InstanceLost(instance.id, "it died", "event"), bench.now))
    (notice,) = [m for m in bench.sent if m.conversation == NOTICE]
    assert (notice.performative, notice.receiver) == (Performative.FAILURE, "b")
    assert notice.content == Result((Fact(LIMITED, value=False),))


@pytest.mark.parametrize(("again", "times"), [(False, 6), (True, 2)])
def test_that_a_measure_ended_is_told_again_in_case_it_was_lost_unless_it_is_made_again(
    bench, again, times
):
    bench.win("x", LIMIT)
    (instance,) = bench.bidder.inventory
    bench.carry_out(bench.agent.perceive(InstanceLost(instance.id, "it died", "event"), bench.now))
    bench.at(6.0)
    if again:
        bench.win("y", LIMIT)
    for second in range(7, 200, 5):
        bench.at(float(second))
    told = [(m.performative, m.receiver) for m in bench.sent if m.conversation == NOTICE]
    assert told == [(Performative.FAILURE, "b")] * times


def test_a_measure_that_is_relied_on_alone_waits_for_its_quiet_from_now_on():
    bench = Talk(parameters={"quiet_s": 20.0})
    bench.site.slow.add(ReadMeasure)
    bench.win("x", LIMIT)
    quiet = want(Quiet(LIMITED))
    before = bench.agent.open_goal(quiet)
    assert before is not None
    bench.hear(Performative.INFORM, NOTICE, Result((Fact(LIMITED, holder="c"),)))
    assert bench.agent.open_goal(quiet) is before, "that is said of another's measure"
    bench.hear(Performative.INFORM, NOTICE, Result((Fact(LIMITED, holder=ME),)))
    after = bench.agent.open_goal(quiet)
    assert after is not None
    assert after is not before


# -- an all-clear ---------------------------------------------------------------------------

LINK = "a>b"


def watching(rate_mb_s):
    """Return a bench whose agent watches a link and has found its traffic honest just now."""
    bench = Talk(parameters={"verdict_valid_s": 60.0, "alarm_repeat_s": 3.0})
    bench.win("x", want(Monitored(LINK, 5.0, 0)))
    bench.now += 1.0
    sample(bench, rate_mb_s)
    while calls := bench.to("b", CallForProposals):  # what an alarm asks for fails
        bench.sent.clear()
        for peer in ("a", "b", "c"):
            bench.hear(Performative.REFUSE, calls[-1].conversation, Refusal("no room"), peer)
    bench.agent.do_step(Believe(AnomalousUsage(LINK), value=False))
    bench.carry_out(bench.agent.tick(bench.now))
    bench.now += 10.0
    return bench


def sample(bench, rate_mb_s):
    percept = LinkSample(LINK, rate_mb_s, 10.0)
    bench.carry_out(bench.agent.perceive(percept, bench.now, "root"))


def test_an_alarm_ends_with_the_last_watch_of_its_link():
    bench = Talk()
    bench.win("x", want(Monitored(LINK, 5.0, 9)))
    bench.win("y", want(Monitored(LINK, 4.0, 9)))
    bench.carry_out(bench.agent.perceive(LinkSample(LINK, 8.0, 10.0, 99), bench.now, "root"))
    beliefs, alarms = bench.agent.beliefs, (OverUsage(LINK), ConnectionFlood(LINK))
    bench.cancel("x")
    assert [beliefs.holds(alarm) for alarm in alarms] == [True, True]
    bench.cancel("y")
    assert [beliefs.get(alarm) for alarm in alarms] == [None, None]


def alarms(bench):
    return [
        m
        for m in bench.to("b", CallForProposals)
        if isinstance(m.content.goal.goal.predicate, LinkRateLimited)
    ]


def test_heavy_traffic_that_was_found_honest_raises_no_alarm_for_a_while():
    bench = watching(rate_mb_s=8.0)
    sample(bench, 8.0)
    assert not alarms(bench)
    bench.now += 60.0
    sample(bench, 8.0)
    assert alarms(bench)


def test_a_link_that_was_calm_when_it_was_looked_at_is_not_cleared_for_what_comes_later():
    bench = watching(rate_mb_s=1.0)
    sample(bench, 8.0)
    assert alarms(bench)
