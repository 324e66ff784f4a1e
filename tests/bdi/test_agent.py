"""The reasoning cycle: rules, filter, plans, fallbacks, waiting steps."""

import pytest
from msgspec import Struct

from phalanx.bdi.agent import Agent, Perform
from phalanx.bdi.capability import (
    Capability,
    Library,
    drains,
    hears,
    instead_of,
    perceives,
    plan,
    recalls,
    remembers,
    starts,
    when,
)
from phalanx.bdi.goals import GoalOutcome
from phalanx.bdi.memory import decode, encode, remember, restore
from phalanx.bdi.steps import (
    Achieve,
    AchieveAll,
    Act,
    Adopt,
    Await,
    Believe,
    Forget,
    Note,
    Pause,
    PlanFailed,
)
from phalanx.domain.actions import Done, Failed, ReadLink
from phalanx.domain.goals import Mode, Predicate, avert, find_out, want
from phalanx.domain.messages import Message, Performative, Verdict
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd


class Fire(Predicate, frozen=True):
    room: str


class Out(Predicate, frozen=True):
    room: str


class Known(Predicate, frozen=True):
    room: str


class Smoke(Predicate, frozen=True):
    room: str


class Hasty(Capability):
    """Trusts what others say."""

    name = "hasty"

    @hears(Verdict)
    def heard(self, me, message):
        yield Believe(Fire("hall"))
        yield Believe(Fire({}[message.content.reason]))


def test_nothing_that_another_says_ends_an_agent():
    agent, events = make(Hasty)
    message = Message("b:1", Performative.AGREE, "b", "a", "x", Verdict("attic"), "root")
    assert agent.receive(message, 1.0) == []
    assert agent.beliefs.holds(Fire("hall"))
    (failed,) = [e for e in events if e.kind == "function.failed"]
    assert failed.data == {"capability": "hasty", "method": "heard", "error": "KeyError('attic')"}


def make(*capabilities, **options):
    events = []
    agent = Agent("a", Library(capabilities), events.append, pop="a", **options)
    agent.start(0.0, "root")
    return agent, events


def kinds(events, *wanted):
    return [
        (e.kind, e.data.get("goal") or e.data.get("belief") or e.data.get("plan"))
        for e in events
        if e.kind in wanted
    ]


def ends(events):
    return [(e.data["goal"], e.data["outcome"]) for e in events if e.kind == "goal.ended"]


class Warden(Capability):
    name = "warden"

    @perceives(str)
    def smell(self, me, percept):
        yield Believe(Fire(percept))

    @when(Fire)
    def react(self, me, fire):
        yield Adopt(find_out(Known(fire.room)), 10, queue=fire.room)
        yield Adopt(want(Out(fire.room)), 20, queue=fire.room)

    @plan(Out)
    def put_out(self, me, goal):
        yield Act(ReadLink("x>y"))
        yield Believe(goal.goal.predicate)
        yield Forget(Fire(goal.goal.predicate.room))

    @plan(Known, Mode.FIND_OUT)
    def look(self, me, goal):
        yield Believe(goal.goal.predicate, value=False)


def test_protects_first_and_finds_out_after():
    agent, events = make(Warden)
    out = agent.perceive("hall", 1.0, "percept")
    assert [type(i) for i in out] == [Perform]
    assert kinds(events, "plan.started") == [("plan.started", "out(hall)")]
    agent.answer(out[0].token, Done(), 2.0)
    assert ends(events) == [("out(hall)", "achieved"), ("?known(hall)", "achieved")]
    assert agent.beliefs.denies(Known("hall"))
    assert agent.beliefs.get(Fire("hall")) is None


def test_every_event_names_a_cause_and_none_is_its_own():
    agent, events = make(Warden)
    out = agent.perceive("hall", 1.0, "percept")
    agent.answer(out[0].token, Failed("no"), 2.0)
    ids = {"root", "percept"}
    for event in events:
        assert event.cause in ids, event
        ids.add(event.id)


def test_a_failed_goal_lets_the_next_priority_go_on():
    agent, events = make(Warden)
    out = agent.perceive("hall", 1.0, "percept")
    agent.answer(out[0].token, Failed("no water"), 2.0)
    assert ends(events) == [("out(hall)", "failed"), ("?known(hall)", "achieved")]
    reasons = [e.data["reason"] for e in events if e.kind == "action.failed"]
    assert reasons == ["no water"]


def test_late_and_doubled_answers_change_nothing():
    agent, events = make(Warden)
    out = agent.perceive("hall", 1.0, "percept")
    agent.answer(out[0].token, Done(), 2.0)
    before = len(events)
    assert agent.answer(out[0].token, Failed("late"), 3.0) == []
    assert len(events) == before


def test_goal_that_is_already_so_needs_no_plan():
    agent, events = make(Warden)
    agent.do_step(Believe(Out("hall")))
    agent.take_on(Adopt(want(Out("hall"))), 1.0)
    assert ends(events) == [("out(hall)", "achieved")]
    assert kinds(events, "plan.started") == []


def test_hearsay_about_another_agents_measure_does_not_satisfy_a_goal():
    agent, events = make(Warden)
    agent.do_step(Believe(Out("hall"), holder="b"))
    agent.take_on(Adopt(want(Out("hall"))), 1.0)
    assert kinds(events, "plan.started") == [("plan.started", "out(hall)")]


class TwoWays(Capability):
    name = "two-ways"

    @plan(Out, rank=1)
    def second(self, me, goal):
        yield Believe(goal.goal.predicate)

    @plan(Out, rank=0)
    def first(self, me, goal):
        raise PlanFailed("not today")
        yield


def test_a_failed_plan_gives_way_to_the_next_candidate():
    agent, events = make(TwoWays)
    agent.take_on(Adopt(want(Out("hall"))), 0.0)
    assert [e.data["plan"] for e in events if e.kind == "plan.started"] == ["first", "second"]
    assert ends(events) == [("out(hall)", "achieved")]


class Falls(Capability):
    name = "falls"

    @plan(Out)
    def never(self, me, goal):
        raise PlanFailed("no")
        yield

    @plan(Smoke)
    def instead(self, me, goal):
        yield Pause(5.0)
        yield Believe(goal.goal.predicate)

    @instead_of(Out)
    def fallback(self, me, failed):
        return Adopt(want(Smoke(failed.goal.predicate.room)))


def test_a_failed_goal_gives_way_to_its_fallback_and_ends_with_it():
    agent, events = make(Falls)
    agent.take_on(Adopt(want(Out("hall"))), 0.0)
    assert ends(events) == []
    assert agent.next_timer() == 5.0
    agent.tick(5.0)
    assert ends(events) == [("smoke(hall)", "achieved"), ("out(hall)", "achieved")]
    assert agent.beliefs.holds(Out("hall"))


class Faulty(Capability):
    name = "faulty"

    @plan(Out)
    def broken(self, me, goal):
        yield Note("x.note", {})
        raise ZeroDivisionError("oops")


def test_a_fault_in_a_function_fails_its_plan_not_the_agent():
    agent, events = make(Faulty)
    agent.take_on(Adopt(want(Out("hall"))), 0.0)
    assert ends(events) == [("out(hall)", "failed")]
    reason = next(e.data["reason"] for e in events if e.kind == "plan.ended")
    assert "ZeroDivisionError: oops" in reason


class Idle(Capability):
    name = "idle"

    @plan(Out)
    def nothing(self, me, goal):
        return
        yield


def test_a_plan_that_does_not_achieve_its_goal_has_failed():
    agent, events = make(Idle)
    agent.take_on(Adopt(want(Out("hall"))), 0.0)
    assert ends(events) == [("out(hall)", "failed")]


class Parent(Capability):
    name = "parent"

    @plan(Fire)
    def both(self, me, goal):
        ended = yield AchieveAll((Adopt(want(Out("a"))), Adopt(want(Smoke("b")))))
        assert [e.achieved for e in ended] == [True, True]
        single = yield Achieve(Adopt(want(Out("a"))))
        assert single.achieved
        yield Believe(goal.goal.predicate)

    @plan(Out)
    def out(self, me, goal):
        value = yield Await("key")
        assert value == 7
        yield Believe(goal.goal.predicate)

    @plan(Smoke)
    def smoke(self, me, goal):
        yield Pause(1.0)
        yield Believe(goal.goal.predicate)


class Sharing(Capability):
    """Two plans wait for one goal."""

    name = "sharing"

    @plan(Fire)
    @plan(Smoke)
    def wait(self, me, goal):
        yield Achieve(Adopt(want(Out("a"))))
        yield Believe(goal.goal.predicate)

    @plan(Out)
    def out(self, me, goal):
        yield Await("key")


def test_a_goal_that_two_plans_wait_for_is_given_up_with_the_second():
    agent, events = make(Sharing)
    goals = Fire("x"), Smoke("x")
    for goal in goals:
        agent.take_on(Adopt(want(goal)), 0.0)
    agent.end_goal(agent.open_goal(want(goals[0])), GoalOutcome.DROPPED)
    assert agent.open_goal(want(Out("a"))) is not None
    agent.end_goal(agent.open_goal(want(goals[1])), GoalOutcome.DROPPED)
    assert ends(events)[-2:] == [("out(a)", "dropped"), ("smoke(x)", "dropped")]
    assert agent.open_goals() == []


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_goal_of_the_agent_itself_outlives_the_plan_that_waits_for_it_too(first):
    agent, _ = make(Sharing)
    wanted = [want(Out("a")), want(Fire("x"))]
    for goal in wanted if first else reversed(wanted):
        agent.take_on(Adopt(goal), 0.0)
    agent.end_goal(agent.open_goal(want(Fire("x"))), GoalOutcome.DROPPED)
    (left,) = agent.open_goals()
    assert (left.goal, left.child) == (want(Out("a")), False)


def test_waiting_for_several_goals():
    agent, events = make(Parent)
    agent.take_on(Adopt(want(Fire("x"))), 0.0)
    agent.tick(1.0)
    assert ends(events) == [("smoke(b)", "achieved")]
    agent.resume("key", 7)
    agent.tick(2.0)
    assert ends(events)[-1] == ("fire(x)", "achieved")


def test_dropping_a_goal_drops_what_only_it_waits_for():
    agent, events = make(Parent)
    agent.take_on(Adopt(want(Fire("x"))), 0.0)
    goal = agent.open_goals()[0]
    agent.end_goal(goal, GoalOutcome.DROPPED, "enough")
    assert agent.open_goals() == []
    assert {o for _, o in ends(events)} == {"dropped"}
    agent.tick(10.0)
    assert len(ends(events)) == 3


class Vnf(Capability):
    name = "vnf"
    vnfd = Vnfd("vnf", None)

    @plan(Out)
    def out(self, me, goal):
        yield Believe(goal.goal.predicate, holder=me.name)

    @plan(Out, Mode.AVERT)
    def undo(self, me, goal):
        yield Believe(goal.goal.predicate, value=False)

    @when(Fire)
    def only_when_it_runs(self, me, fire):
        yield Believe(Known(fire.room))

    @when(Fire, always=True)
    def always(self, me, fire):
        yield Believe(Smoke(fire.room))


def test_plans_of_a_vnf_serve_goals_that_were_won_and_undo_own_measures():
    agent, events = make(Vnf)
    agent.active.add("vnf")
    agent.take_on(Adopt(want(Out("hall"))), 0.0)
    assert ends(events) == [("out(hall)", "failed")]  # nobody gave this VNF the work
    agent.take_on(Adopt(want(Out("hall")), contract="c", instance="a/1/vnf"), 0.0)
    assert agent.beliefs.get(Out("hall")).holder == "a"
    agent.take_on(Adopt(avert(Out("hall"))), 0.0)
    assert agent.beliefs.denies(Out("hall"))


def test_rules_of_a_vnf_are_asleep_until_it_runs():
    agent, _ = make(Vnf)
    agent.do_step(Believe(Fire("hall")))
    agent.tick(0.0)
    assert agent.beliefs.holds(Smoke("hall"))
    assert not agent.beliefs.holds(Known("hall"))
    agent.active.add("vnf")
    agent.do_step(Believe(Fire("attic")))
    agent.tick(0.0)
    assert agent.beliefs.holds(Known("attic"))


class Standing(Capability):
    name = "standing"

    @plan(Out)
    def short(self, me, goal):
        yield Pause(1.0)


def test_a_standing_goal_is_pursued_again():
    agent, events = make(Standing)
    agent.take_on(Adopt(want(Out("hall")), standing=True), 0.0)
    for t in (1.0, 11.0, 12.0, 22.0):
        agent.tick(t)
    assert len([e for e in events if e.kind == "plan.started"]) == 3
    assert ends(events) == []
    agent.stop(23.0, "root")
    assert ends(events) == [("out(hall)", "dropped")]


class Watching(Capability):
    """Sees room after room, and some of them again, and never comes to an end."""

    name = "watching"

    @plan(Known)
    def watch(self, me, goal):
        yield Believe(Fire("hall"), value=False)
        while True:
            for number in range(600):
                yield Believe(Fire(f"{number}"), value=False)
            yield Believe(Smoke("hall"))
            yield Pause(1.0)
            yield Forget(Smoke("hall"))


def test_what_is_known_does_not_grow_for_ever_and_the_log_says_what_is_forgotten(monkeypatch):
    monkeypatch.setattr("phalanx.bdi.agent.MOST_DENIED", 500)
    agent, events = make(Watching)
    agent.take_on(Adopt(want(Known("all"))), 0.0)
    (goal,) = agent.open_goals()
    sizes = []
    for t in range(1, 20):
        agent.tick(float(t))
        sizes.append((len(agent.beliefs), len(goal.intention.facts)))
    assert sizes == [(501, 602)] * len(sizes)
    known = {}
    for event in events:
        if event.kind == "belief.changed":
            known[event.data["belief"]] = event.data["value"]
    held = {str(predicate): belief.value for predicate, belief in agent.beliefs}
    assert {name: value for name, value in known.items() if value is not None} == held
    assert not agent.beliefs.denies(Fire("hall")), "that was the oldest"


def test_what_the_agent_keeps_true_itself_is_neither_forgotten_nor_overridden():
    agent, _ = make(Warden)
    agent.do_step(Believe(Out("hall"), holder="a"))
    agent.do_step(Forget(Out("hall")))
    agent.do_step(Believe(Out("hall"), holder="b"))
    assert agent.beliefs.get(Out("hall")).holder == "a"
    agent.do_step(Believe(Out("hall"), value=False))
    assert agent.beliefs.denies(Out("hall"))


# -- what capabilities declare, and mistakes in a function ------------------------------------


class Ready(Predicate, frozen=True):
    what: str


class Count(Struct, frozen=True):
    seen: int


class Counter(Capability):
    name = "counter"

    def __init__(self):
        self.seen = 0
        self.moments = []

    @perceives(int)
    def count(self, me, percept):
        self.seen += percept
        me.changes += 1

    @starts
    def welcome(self, me):
        self.moments.append("starts")
        yield Believe(Ready("counter"))

    @drains
    def farewell(self, me):
        self.moments.append("drains")

    @remembers(Count)
    def kept(self, me):
        return Count(self.seen)

    @recalls
    def go_on(self, me, part, shift):
        self.seen = part.seen

    def begin(self, me):
        raise AssertionError("a method of this name means nothing")

    drain = remember = recall = begin


def test_hooks_are_declared_and_no_name_of_a_method_means_anything():
    agent = Agent("a", Library([Counter]), [].append)
    agent.start(0.0, "root")
    agent.perceive(3, 1.0)
    agent.drain(2.0, "root")
    assert agent.capability(Counter).moments == ["starts", "drains"]
    assert agent.beliefs.holds(Ready("counter"))
    memory = decode(encode(remember(agent)), agent.library)
    later = Agent("a", Library([Counter]), [].append, incarnation=2)
    restore(later, memory, 5.0, "root")
    assert later.capability(Counter).seen == 3
    assert later.capability(Counter).moments == ["starts"]


def test_a_taken_name_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match=r"Greedy\.plans: the name is taken by Capability"):

        class Greedy(Capability):
            plans = ()


def test_two_memories_are_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="one and two both say @remembers"):

        class Torn(Capability):
            @remembers(Count)
            def one(self, me):
                return None

            @remembers(Count)
            def two(self, me):
                return None


class Clumsy(Capability):
    """A network function of a beginner."""

    name = "clumsy"
    vnfd = Vnfd("clumsy", Resources(1, 1, 1))

    @perceives(int)
    def divide(self, me, percept):
        yield Believe(Ready(str(1 // percept)))

    @hears(str)
    def listen(self, me, message):
        return 42

    @when(Ready)
    def doubt(self, me, ready):
        yield ready

    @plan(Ready, local=True)
    def mumble(self, me, goal):
        yield "what is this?"


def clumsy():
    events = []
    agent = Agent("a", Library([Clumsy]), events.append)
    agent.start(0.0, "root")
    agent.active.add("clumsy")
    return agent, events


def failures(events):
    return [e.data for e in events if e.kind == "function.failed"]


def test_an_error_in_a_functions_rule_is_told_and_ends_nothing():
    agent, events = clumsy()
    agent.perceive(0, 1.0)
    assert [(f["capability"], f["method"]) for f in failures(events)] == [("clumsy", "divide")]
    agent.perceive(1, 2.0)
    assert agent.beliefs.holds(Ready("1"))
    assert [f["method"] for f in failures(events)] == ["divide", "doubt"]
    assert "is no step that a rule can take" in failures(events)[1]["error"]


def test_a_plan_that_yields_no_step_fails_with_a_reason():
    agent, events = clumsy()
    agent.take_on(Adopt(want(Ready("soon"))), 1.0)
    reason = next(e.data["reason"] for e in events if e.kind == "plan.ended")
    assert reason == "fault in the plan: it yielded 'what is this?', which is no step"
    assert [(f["capability"], f["method"]) for f in failures(events)] == [("clumsy", "mumble")]
    assert [e.data["outcome"] for e in events if e.kind == "goal.ended"] == ["failed"]


def test_an_agent_needs_no_pop():
    agent = Agent("slice", Library([]), [].append)
    assert agent.pop is None
    agent.start(0.0, "root")
    goal = agent.adopt(Adopt(want(Ready("x"))))
    assert goal.tap == ""
