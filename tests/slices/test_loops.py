"""Loops pass goals up, down and beside, and answer for what they take on."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phalanx.bdi.capability import Capability, perceives
from phalanx.bdi.steps import Drop, Note
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.goals import avert, want
from phalanx.domain.messages import Insight, Message, PassedGoal, Performative
from phalanx.domain.predicates import AttackFiltered
from phalanx.slices.loop import ClosedLoop, Gathered
from phalanx.testing import FaultRule, LoopBench
from tests.nightly import examples
from tests.slices.loop_checks import check_loops
from tests.slices.small_slices import Bungler, Healer, loops, small, suffer, trouble


class Ear(Capability):
    """Records what a loop judges together."""

    name = "ear"

    @perceives(Gathered)
    def hear(self, me, gathered):
        yield Note("test.heard", {"values": [[i.entity, i.value] for i in gathered.insights]})


def passed(bench):
    return [(e.agent, e.data["to"], e.data["direction"]) for e in bench.of_kind("loop.passed")]


def test_a_loop_that_can_help_itself_asks_nobody():
    bench = LoopBench(loops(sem_gnb1=("healer",)), Healer)
    suffer(bench, "sem-gnb1")
    bench.run(10)
    assert not bench.sent
    assert [e.data["outcome"] for e in bench.of_kind("goal.ended")] == ["achieved"]


def test_what_cannot_be_done_at_the_function_goes_up_and_down_again():
    bench = LoopBench(loops(nssi_core=("healer",)), Healer)
    suffer(bench, "sem-gnb1")
    bench.run(10)
    assert passed(bench) == [
        ("sem-gnb1", "nssi-ran", "up"),
        ("nssi-ran", "nssi-core", "beside"),
    ]
    relieved = bench.of_kind("loop.relieved")
    assert [(e.agent, e.data["by"]) for e in relieved] == [
        ("nssi-ran", "nssi-core"),
        ("sem-gnb1", "nssi-ran"),
    ]
    assert not bench.of_kind("loop.unrelieved")


def test_what_fails_is_told_to_the_next_loop_and_in_the_end_nothing_helped():
    bench = LoopBench(loops(sem_amf=("bungler",)), Bungler)
    suffer(bench, "sem-gnb1")
    bench.run(20)
    tried = [e.data["tried"] for e in bench.of_kind("loop.passed", to="nsi-s1")]
    assert tried
    assert any("it slipped" in text for text in tried[0])
    (end,) = bench.of_kind("loop.unrelieved")
    assert (end.agent, end.data["entity"]) == ("sem-gnb1", "gnb1")


def test_a_loop_that_dies_while_it_is_asked_leaves_its_duty_to_an_heir():
    bench = LoopBench(loops(nsi_s1=("healer",), sem_smf=("healer",)), Healer)
    bench.crash("nssi-ran")
    suffer(bench, "sem-gnb1")
    bench.run(30)
    (replaced,) = bench.of_kind("loop.replaced", loop="nssi-ran")
    requests = [m for m in bench.sent if m.performative is Performative.REQUEST]
    first = [m.receiver for m in requests if m.conversation == requests[0].conversation]
    assert first[:4] == ["nssi-ran"] * 3 + [replaced.data["by"]]
    assert bench.of_kind("loop.relieved", by=replaced.data["by"])


def test_the_answer_of_a_loop_is_said_again_to_one_that_missed_it():
    lost = FaultRule("lose", 1.0, 0.9, 2.5, agent="sem-gnb1")
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer, faults=(lost,))
    suffer(bench, "sem-gnb1")
    bench.run(30)
    assert bench.of_kind("loop.relieved", by="nssi-ran")
    adopted = bench.of_kind("goal.adopted")
    assert [e.agent for e in adopted] == ["sem-gnb1", "nssi-ran"]


def test_a_goal_that_is_dropped_is_withdrawn_where_it_was_passed_to():
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer, parameters={"heal_s": 50.0})
    one = suffer(bench, "sem-gnb1")
    bench.run(2)
    agent = bench.nodes["sem-gnb1"].agent
    bench.pursue("sem-gnb1", Drop(avert(one)))
    bench.run(5)
    ended = {e.agent: e.data["outcome"] for e in bench.of_kind("goal.ended")}
    assert ended == {"sem-gnb1": "dropped", "nssi-ran": "dropped"}
    assert agent.beliefs.holds(one)  # it goes on there
    assert not bench.nodes["nssi-ran"].agent.beliefs.holds(one)


GOAL = avert(trouble("gnb1"))


@pytest.mark.parametrize(
    ("sender", "receiver", "said", "why"),
    [
        ("sem-gnb1", "nsi-s1", PassedGoal(GOAL, "s1", "", ("sem-gnb1",)), "no loop that may ask"),
        ("sem-gnb1", "nssi-ran", PassedGoal(GOAL, "s2", "", ("sem-gnb1",)), "no loop that may ask"),
        ("x", "nssi-ran", PassedGoal(GOAL, "s1", "", ("x",)), "no loop that may ask"),
        (
            "sem-gnb2",
            "nssi-ran",
            PassedGoal(GOAL, "s1", "", ("sem-gnb2",)),
            "does not look after gnb1",
        ),
        ("sem-gnb1", "nssi-ran", PassedGoal(GOAL, "s1", "", ()), "its trail"),
        (
            "sem-gnb1",
            "nssi-ran",
            PassedGoal(GOAL, "s1", "", ("nssi-ran", "sem-gnb1")),
            "its trail",
        ),
        (
            "sem-gnb1",
            "nssi-ran",
            PassedGoal(avert(trouble("gnb1", "x", "s2")), "s1", "", ("sem-gnb1",)),
            "another slice",
        ),
        (
            "sem-gnb1",
            "nssi-ran",
            PassedGoal(want(AttackFiltered("10.0.0.1", "p", "x")), "s1", "", ("sem-gnb1",)),
            "nothing of a slice",
        ),
    ],
)
def test_what_a_loop_may_not_ask_is_refused_for_good_and_told(sender, receiver, said, why):
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer)
    bench.send(Message("m", Performative.REQUEST, sender, receiver, "c", said, "e"))
    bench.run(5)
    (refused,) = bench.of_kind("loop.refused")
    assert refused.agent == receiver
    assert why in refused.data["reason"]
    (answer,) = [m for m in bench.sent if m.sender == receiver]
    assert answer.performative is Performative.FAILURE
    assert answer.content.final
    assert not bench.of_kind("goal.adopted")


def test_protection_is_not_taken_away_on_an_order_while_a_trouble_stands():
    bench = LoopBench(loops(nssi_ran=("bungler",)), Bungler)
    said = PassedGoal(avert(AttackFiltered("10.0.0.1", "p", "x")), "s1", "", ("nsi-s1",))
    suffer(bench, "nssi-ran", trouble("ran"))
    bench.send(Message("m", Performative.REQUEST, "nsi-s1", "nssi-ran", "c", said, "e"))
    bench.run(0.2)
    (refused,) = bench.of_kind("loop.refused")
    assert "not taken away" in refused.data["reason"]


def test_a_sender_that_is_not_trusted_is_refused():
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer)
    contacts = bench.nodes["nssi-ran"].agent.capability(LoopContacts)
    contacts.trusts = lambda name: name != "sem-gnb1"
    suffer(bench, "sem-gnb1")
    bench.run(5)
    (refused,) = bench.of_kind("loop.refused")
    assert "not trusted" in refused.data["reason"]


def test_insights_are_gathered_for_the_timescale_and_judged_together():
    bench = LoopBench(loops(nssi_ran=("ear",)), Ear)
    for turn, value in enumerate((5.0, 5.1, 9.0)):
        for name in ("gnb1", "gnb2"):
            agent = bench.nodes[f"sem-{name}"].agent
            insight = Insight("s1", name, "signalling-requests", value + turn, "1/s")
            agent.capability(ClosedLoop).share(agent, insight, step=2.0)
            bench.nodes[agent.name].carry_out(agent.settle())
    bench.run(10)
    (heard,) = bench.of_kind("test.heard")
    assert (heard.agent, heard.time) == ("nssi-ran", 2.001)
    assert heard.data["values"] == [["gnb1", 11.0], ["gnb2", 11.0]]
    assert len(bench.sent) == 4  # 5.1 + 1 is within the step


def test_idle_loops_cost_nothing():
    bench = LoopBench(loops())
    bench.run(1)
    events = len(bench.events)
    assert bench.clock.pending == 0
    bench.run(3600)
    assert (len(bench.events), len(bench.sent), bench.clock.pending) == (events, 0, 0)


def test_loops_are_idle_again_once_a_trouble_has_ended():
    bench = LoopBench(loops(nssi_core=("healer",)), Healer)
    suffer(bench, "sem-gnb1")
    bench.run(30)
    events, sent = len(bench.events), len(bench.sent)
    bench.run(3600)
    assert (len(bench.events), len(bench.sent), bench.clock.pending) == (events, sent, 0)


def test_a_goal_that_is_passed_on_already_is_not_taken_from_another():
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer, parameters={"heal_s": 5.0})
    suffer(bench, "sem-gnb1")
    bench.run(1)
    said = PassedGoal(GOAL, "s1", "", ("nssi-ran",))
    bench.send(Message("m", Performative.REQUEST, "nssi-ran", "sem-gnb1", "c", said, "e"))
    bench.run(1)
    (answer,) = [m for m in bench.sent if m.sender == "sem-gnb1" and m.conversation == "c"]
    assert answer.performative is Performative.FAILURE
    assert "passes it on itself, to nssi-ran" in answer.content.reason


def test_a_goal_goes_to_no_loop_twice_and_what_comes_from_above_goes_down_alone():
    able = {"sem_gnb1": ("bungler",), "nssi_ran": ("bungler",), "nssi_core": ("bungler",)}
    bench = LoopBench(loops(**able), Bungler)
    suffer(bench, "sem-gnb1")
    suffer(bench, "nsi-s1", trouble("s1"))
    bench.run(30)
    said = [e for e in bench.of_kind("loop.passed") if "gnb1" in e.data["goal"]]
    asked = [e.data["to"] for e in said]
    assert sorted(asked) == sorted(set(asked))
    assert "sem-gnb1" not in asked
    above = [e for e in bench.of_kind("loop.passed") if "s1, s1" in e.data["goal"]]
    assert {e.data["direction"] for e in above} == {"down"}


@pytest.mark.parametrize(("heal_s", "ends"), [(30.0, "relieved"), (500.0, "returned")])
def test_a_loop_is_waited_for_while_it_works_and_not_for_ever(heal_s, ends):
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer, parameters={"heal_s": heal_s})
    suffer(bench, "sem-gnb1")
    bench.run(400)
    assert not bench.of_kind("loop.replaced")
    first = next(e for e in bench.events if e.kind in ("loop.relieved", "loop.returned"))
    assert first.kind == f"loop.{ends}"
    assert first.time < 130
    assert ("in time" in first.data.get("reason", "")) is (ends == "returned")


@pytest.mark.parametrize("who", ["nssi-ran", "sem-gnb1"])
def test_who_is_back_with_its_memory_goes_on_with_what_was_agreed(who):
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer, parameters={"heal_s": 3.0})
    suffer(bench, "sem-gnb1")
    bench.run(1)
    bench.crash(who)
    bench.run(0.5)
    bench.start(who, remembering=True)
    bench.run(1)
    assert len(bench.nodes["nssi-ran"].agent.capability(ClosedLoop)._taken) == 1
    bench.run(20)
    assert bench.of_kind("loop.relieved", by="nssi-ran")


def test_a_loop_that_did_not_answer_is_passed_over_for_a_while():
    bench = LoopBench(loops(nsi_s1=("healer",), nssi_core=("healer",)), Healer)
    bench.crash("nssi-ran")
    for kind, after_s in (("a", 10), ("b", 40), ("c", 10)):
        suffer(bench, "sem-gnb1", trouble("gnb1", kind))
        bench.run(after_s)
        if kind == "b":
            bench.start("nssi-ran")
    asked = [m.receiver for m in bench.sent if m.performative is Performative.REQUEST]
    heir = bench.of_kind("loop.replaced")[0].data["by"]
    assert asked[:4] == ["nssi-ran"] * 3 + [heir]
    assert [name for name in asked if name.startswith("n")][4:6] == [heir, "nssi-ran"]


@pytest.mark.parametrize("heard", [True, False])
def test_an_heir_is_heeded_only_where_the_loop_itself_was_not_heard_of(heard):
    bench = LoopBench(loops(nssi_ran=("healer",)), Healer)
    if heard:
        suffer(bench, "sem-gnb1")
    bench.run(5)
    said = PassedGoal(avert(trouble("gnb1", "other")), "s1", "", ("nssi-core",))
    bench.send(Message("m", Performative.REQUEST, "nssi-core", "sem-gnb1", "c", said, "e"))
    bench.run(0.01)
    assert bool(bench.of_kind("loop.refused")) is heard


ALL = tuple(loop.name for loop in loops())
SLICE = tuple(name for name in ALL if name.split("-")[0] in ("sem", "nssi", "nsi"))


@settings(max_examples=examples(24), suppress_health_check=list(HealthCheck), deadline=None)
@given(
    at=st.sampled_from(SLICE),
    able=st.sets(st.sampled_from(SLICE), max_size=2),
    clumsy=st.sets(st.sampled_from(SLICE), max_size=2),
    deaths=st.lists(
        st.tuples(
            st.sampled_from(SLICE),
            st.floats(0, 10),
            st.sampled_from((None, 0.5, 4.0, 9.0)),
            st.booleans(),
        ),
        max_size=3,
    ),
    lost=st.sampled_from((0.0, 0.3)),
    doubled=st.sampled_from((0.0, 0.5)),
    late=st.sampled_from((0.0, 0.4)),
    seed=st.integers(0, 1000),
)
def test_a_passed_goal_ends_whatever_is_lost_doubled_or_late_and_whoever_dies(
    at, able, clumsy, deaths, lost, doubled, late, seed
):
    """Every pass ends, no loop waits for ever, and nothing is left to do in the end."""
    given_to = {}
    for name in able | clumsy:
        both = (("healer",) if name in able else ()) + (("bungler",) if name in clumsy else ())
        given_to[name.replace("-", "_")] = both
    faults = [
        FaultRule("lose", lost, end_s=60.0),
        FaultRule("duplicate", doubled, end_s=60.0),
        FaultRule("delay", late, end_s=60.0, delay_s=1.3),
    ]
    bench = LoopBench(loops(small(), **given_to), Healer, Bungler, faults=faults, seed=seed)
    suffer(bench, at)
    crashed = set()

    def die(name):
        if bench.nodes[name].alive:
            crashed.add(name)
            bench.crash(name)

    def live(name, remembering):
        if not bench.nodes[name].alive:
            bench.start(name, remembering=remembering)

    for name, at_s, for_s, remembering in deaths:
        bench.clock.call_at(at_s, lambda name=name: die(name))
        if for_s is not None:
            bench.clock.call_at(at_s + for_s, lambda name=name, r=remembering: live(name, r))
    bench.run(1500)
    assert bench.clock.pending == 0
    check_loops(bench)
    over = {
        e.data["conversation"] for k in ("relieved", "returned") for e in bench.of_kind(f"loop.{k}")
    }
    for event in bench.of_kind("loop.passed"):
        assert event.data["conversation"] in over or event.agent in crashed
    for node in bench.nodes.values():
        if node.alive:
            assert not node.agent.open_goals()
    if able and not deaths and not lost:
        last = bench.of_kind("goal.ended")[-1]
        assert last.agent == at
        reachable = at in able or not clumsy
        if reachable:
            assert last.data["outcome"] == "achieved"
