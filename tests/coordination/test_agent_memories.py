"""One agent that goes on with its memory, on the bench: what it does, says and lets be."""

import pytest
from contract_bench import LIMIT, LIMITED, ME, OTHER, Bench

from phalanx.auction.outlook import Outlook
from phalanx.bdi.capability import Library
from phalanx.bdi.memory import MemoryUnusable, decode, encode, remember, restore
from phalanx.bdi.steps import Adopt
from phalanx.coordination.drain import Drain
from phalanx.coordination.duties import Duties
from phalanx.coordination.failover import Failover
from phalanx.coordination.recovery import Recovery
from phalanx.domain.actions import Deploy, Enforce, Failed, Lift, ReadMeasure, Renew, Stop
from phalanx.domain.agents import AgentState
from phalanx.domain.goals import avert
from phalanx.domain.messages import (
    Fact,
    Handover,
    Heartbeat,
    OpenGoal,
    Performative,
    Result,
    Return,
    Taken,
    Verdict,
    Welcome,
)
from phalanx.domain.resources import NOTHING
from phalanx.runtime.composition import make_agent

RETURN = f"{ME}.2/return"


class Covered(Bench):
    """A bench whose agent can die and go on with what it remembers."""

    def __init__(self, **options):
        super().__init__(**options)
        capabilities = [
            *self.agent.library.capabilities.values(),
            Duties,
            Failover,
            Drain,
            Recovery,
        ]
        self.library = Library(capabilities)
        self._begin(1)
        self.carry_out(self.agent.start(self.now, "root"))
        self.look()

    def _begin(self, incarnation):
        view = self.agent.capability(Outlook).view
        self.agent = make_agent(
            ME,
            self.library,
            self.settings,
            self.events.append,
            parameters={},
            incarnation=incarnation,
            pop=ME,
        )
        self.bidder = self.agent.capability(type(self.bidder))
        self.agent.capability(Outlook).view = view

    def restart(self, after=1.0, peers=None):
        memory = decode(encode(remember(self.agent)), self.library)
        self.settings.peers = peers or self.settings.peers
        self.waiting.clear()
        self.sent.clear()
        self.site.done.clear()
        self.now += after
        self._begin(self.agent.incarnation + 1)
        self.carry_out(restore(self.agent, memory, self.now, "root"))
        self.look()

    def welcome(self, sender, **content):
        self.hear(Performative.INFORM, RETURN, Welcome(**content), sender)

    def asked(self, receiver):
        """Return what the agent asked ``receiver`` on its return."""
        found = [m for m in self.sent if m.receiver == receiver and type(m.content) is Return]
        return found[-1].content

    def did(self, kind):
        return [action for action in self.site.done if isinstance(action, kind)]


@pytest.fixture
def bench():
    return Covered()


@pytest.fixture
def holder(bench):
    """An agent that holds a limit for another."""
    bench.win("x", LIMIT)
    return bench


@pytest.fixture
def restarted(holder):
    """One that held it when it was restarted."""
    holder.restart()
    return holder


def taken_over(goal, goal_id="b-1", holder=None):
    return OpenGoal(goal_id, goal, 20, "b", 0.0, False, "cause", holder)


def test_leases_are_renewed_and_measures_looked_at_before_anybody_is_asked(restarted):
    (instance,) = restarted.bidder.inventory
    assert restarted.did(Renew)[0].instances == (instance.id,)
    assert restarted.did(ReadMeasure)[0].measure == f"a.1:{LIMITED}"
    assert restarted.bidder.inventory.holder(LIMITED) is instance
    assert restarted.asked("b").measures[0].predicate == LIMITED
    assert restarted.asked("c").measures == ()


def test_who_was_met_before_is_asked_although_no_registry_can_be_read_yet(holder):
    holder.restart(peers=(ME, "d"))
    assert holder.settings.peers == (ME, "b", "c", "d")
    assert holder.asked("b").measures[0].predicate == LIMITED


def test_a_measure_that_is_gone_is_believed_no_more(holder):
    holder.site.refused[ReadMeasure] = "no such measure"
    holder.restart()
    assert holder.bidder.inventory.holder(LIMITED) is None
    assert holder.agent.beliefs.denies(LIMITED)


def test_what_the_infrastructure_ended_meanwhile_is_lost(holder):
    holder.site.instances.clear()
    holder.restart()
    assert len(holder.bidder.inventory) == 0
    assert holder.agent.beliefs.denies(LIMITED)
    assert holder.asked("b").measures == ()


def test_a_contract_that_was_done_is_answered_as_before_and_not_worked_on_again(bench):
    call = bench.win("x", LIMIT)
    bid = bench.bidder.contracts.get("x").bid
    bench.restart()
    bench.accept("x", call, bid)
    assert bench.facts("x") == Result((Fact(LIMITED, True, ME),))
    assert bench.did(Deploy) == bench.did(Enforce) == []


def test_a_vnf_that_did_not_run_yet_is_stopped_and_its_contract_fails_at_once(bench):
    call = bench.cfp("x")
    bench.accept("x", call)
    (deploy,) = [action for _, action in bench.waiting]
    bench.restart()
    assert [action.instance for action in bench.did(Stop)] == [deploy.instance]
    assert bench.last("x") == Verdict("its agent was restarted before the VNF ran")
    assert len(bench.bidder.inventory) == 0


def test_a_measure_that_was_not_confirmed_yet_is_lifted_and_made_anew(bench):
    bench.site.slow.add(Enforce)
    bench.win("x", LIMIT)
    bench.restart()
    assert [action.measure for action in bench.did(Lift)] == ["a.1:" + str(LIMITED)]
    bench.welcome("b")
    bench.finish(Enforce)
    assert bench.facts("x") == Result((Fact(LIMITED, True, ME),))
    assert bench.did(Deploy) == []


def test_work_that_the_initiator_gave_to_another_is_left_alone(bench):
    bench.site.slow.add(Enforce)
    bench.win("x", LIMIT)
    bench.restart()
    assert bench.asked("b").contracts == ("x",)
    bench.welcome("b", contracts=("x",))
    assert bench.did(Enforce) == []
    (instance,) = bench.bidder.inventory
    assert not instance.jobs
    assert bench.last("x") == Verdict("b waits for it no longer")


def test_without_an_answer_the_agent_goes_on_after_three_seconds(bench):
    bench.site.slow.add(Enforce)
    bench.win("x", LIMIT)
    bench.restart()
    bench.at(bench.now + 2.9)
    assert bench.did(Enforce) == []
    bench.at(bench.now + 0.2)
    assert len(bench.did(Enforce)) == 1


def test_a_measure_that_another_made_meanwhile_is_lifted(restarted):
    restarted.welcome("b", measures=(LIMITED,))
    assert restarted.bidder.inventory.holder(LIMITED) is None
    assert restarted.agent.beliefs.denies(LIMITED)


def test_a_second_or_stray_welcome_changes_nothing(restarted):
    restarted.hear(Performative.INFORM, f"{ME}.1/return", Welcome(measures=(LIMITED,)), "b")
    restarted.welcome("b")
    restarted.welcome("b", measures=(LIMITED,))
    assert restarted.bidder.inventory.holder(LIMITED) is not None


def test_goals_wait_for_the_answers_and_keep_their_ids(bench):
    bench.carry_out(bench.agent.take_on(Adopt(OTHER), bench.now))
    (goal,) = bench.agent.open_goals()
    bench.restart()
    (again,) = bench.agent.open_goals()
    assert (again.id, again.goal) == (goal.id, goal.goal)
    assert not [m for m in bench.sent if m.performative is Performative.CFP]
    bench.welcome("b")
    bench.welcome("c")
    assert [m for m in bench.sent if m.performative is Performative.CFP]


def test_a_goal_that_a_guardian_has_taken_over_ends(bench):
    bench.carry_out(bench.agent.take_on(Adopt(OTHER), bench.now))
    (goal,) = bench.agent.open_goals()
    bench.restart()
    bench.welcome("b", goals=(goal.id,))
    assert goal.id not in [g.id for g in bench.agent.open_goals()]
    ended = next(e for e in bench.events if e.kind == "goal.ended" and e.agent == ME)
    assert (ended.data["outcome"], ended.data["reason"]) == ("taken over", "by b")


# -- as one of the others -----------------------------------------------------------------


def test_a_guardian_tells_who_is_back_what_it_goes_on_with(bench):
    goals = (taken_over(LIMIT),)
    bench.hear(Performative.INFORM, "heartbeat", Heartbeat(1, goals), "c")
    bench.at(10.0)
    assert [g.goal for g in bench.agent.open_goals()] == [LIMIT]
    bench.hear(Performative.QUERY, "c.2/return", Return(goals), "c")
    assert bench.last("c.2/return") == Welcome(goals=("b-1",))


def test_a_guardian_gives_up_what_its_owner_is_at_work_for_or_had_done_with():
    for back in (Return((taken_over(LIMIT, holder="c"),)), Return(())):
        bench = Covered()
        bench.hear(Performative.INFORM, "heartbeat", Heartbeat(1, (taken_over(LIMIT),)), "c")
        bench.at(10.0)
        bench.hear(Performative.QUERY, "c.2/return", back, "c")
        assert bench.last("c.2/return") == Welcome()
        assert bench.agent.open_goals() == []


def test_an_agent_that_comes_back_with_its_memory_is_not_taken_for_forgetful(bench):
    goals = (taken_over(LIMIT),)
    for incarnation, remembers, forgot in ((1, 0, False), (2, 1, False), (3, 3, True)):
        kept = goals if not forgot else ()
        beat = Heartbeat(incarnation, kept, remembers)
        bench.hear(Performative.INFORM, "heartbeat", beat, "c")
        assert bool(bench.agent.open_goals()) is forgot


@pytest.mark.parametrize(
    ("remembers", "earlier", "forgot"), [(0, 2, True), (2, 2, False), (2, 1, True), (1, 2, False)]
)
def test_what_a_state_says_of_its_memory(remembers, earlier, forgot):
    state = AgentState("c", "c", 3, 1, NOTHING, NOTHING, (), remembers=remembers)
    assert state.forgets(earlier) is forgot


def test_a_handover_that_is_doubled_is_taken_once(bench):
    for _ in range(2):
        bench.hear(Performative.REQUEST, "handover", Handover((taken_over(LIMIT),)), "c")
        assert bench.last("handover") == Taken(("b-1",))
    assert len([e for e in bench.events if e.kind == "goal.taken_over"]) == 1


def test_who_leaves_itself_takes_nothing_over(holder):
    holder.carry_out(holder.agent.drain(holder.now, "root"))
    holder.hear(Performative.REQUEST, "handover", Handover((taken_over(OTHER),)), "c")
    assert holder.last("handover") == Taken(declined=("b-1",))


def test_a_measure_is_kept_until_another_holds_it(holder):
    holder.carry_out(holder.agent.drain(holder.now, "root"))
    (goal,) = next(m for m in holder.sent if type(m.content) is Handover).content.goals
    assert (goal.goal, goal.holder) == (LIMIT, ME)
    holder.hear(Performative.INFORM, "handover", Taken(under_way=(goal.id,)), "b")
    holder.at(holder.now + 60)
    assert holder.bidder.inventory.holder(LIMITED) is not None
    holder.hear(Performative.INFORM, "handover", Taken((goal.id,)), "b")
    assert holder.bidder.inventory.holder(LIMITED) is None
    holder.at(holder.now + 1)
    assert holder.agent.drained
    assert len(holder.site.instances) == 0
    assert holder.events[-1].kind == "agent.left"


def test_who_relies_on_a_measure_learns_who_keeps_it_though_another_was_asked_before(holder):
    holder.carry_out(holder.agent.drain(holder.now, "root"))
    (goal,) = next(m for m in holder.sent if type(m.content) is Handover).content.goals
    holder.hear(Performative.INFORM, "handover", Taken((goal.id,)), "c")
    assert holder.bidder.inventory.holder(LIMITED) is not None
    holder.sent.clear()
    holder.at(holder.now + 1)
    (asked,) = (m for m in holder.sent if type(m.content) is Handover)
    assert (asked.receiver, asked.content.goals) == ("b", (goal,))
    holder.hear(Performative.INFORM, "handover", Taken((goal.id,)), "b")
    assert holder.bidder.inventory.holder(LIMITED) is None


def test_after_its_time_an_agent_leaves_whatever_is_still_with_it(holder):
    holder.carry_out(holder.agent.drain(holder.now, "root"))
    holder.at(holder.now + holder.settings.drain_s + 1)
    assert holder.agent.drained
    assert holder.events[-1].data["ended"] == [str(LIMIT)]
    assert holder.site.measures == {}


# -- octets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [b"", b"{}", b"\xff\x00", b"[" * 3000, b'{"version":1}', b'{"version":9,"agent":"a"}'],
    ids=range(6),
)
def test_octets_that_are_no_memory_are_refused_in_one_line(octets):
    with pytest.raises(MemoryUnusable) as refusal:
        decode(octets, Covered().library)
    assert "\n" not in str(refusal.value)


def test_a_later_form_and_another_predicate_are_refused(holder):
    octets = encode(remember(holder.agent))
    with pytest.raises(MemoryUnusable, match="version 3, not 2"):
        decode(octets.replace(b'"version":2,', b'"version":3,'), holder.library)
    with pytest.raises(MemoryUnusable, match="no predicate 'Unheard'"):
        decode(octets.replace(b'"IpRateLimited"', b'"Unheard"'), holder.library)


def test_what_belongs_to_an_unknown_capability_is_passed_over(holder):
    bare = Library([c for c in holder.library.capabilities.values() if c is not Failover])
    memory = decode(encode(remember(holder.agent)), bare)
    assert "failover" not in memory.parts
    assert "bidder" in memory.parts


def test_another_agents_memory_is_refused(bench):
    memory = remember(bench.agent)
    with pytest.raises(ValueError, match="incarnation 1 of a is no earlier one of a"):
        restore(bench.agent, memory, 1.0, "root")


def test_an_infrastructure_that_does_not_answer_the_renewal_ends_nothing(holder):
    holder.site.refused[Renew] = "not reached"
    holder.restart()
    assert holder.bidder.inventory.holder(LIMITED) is not None
    assert holder.asked("b").measures[0].predicate == LIMITED
    assert isinstance(holder.site.perform(Renew((), 1.0)), Failed)


def test_undoing_works_in_the_next_life(restarted):
    restarted.carry_out(restarted.agent.take_on(Adopt(avert(LIMITED)), restarted.now))
    assert [action.measure for action in restarted.did(Lift)] == ["a.1:" + str(LIMITED)]
    assert restarted.last("notice") == Result((Fact(LIMITED, False),))
