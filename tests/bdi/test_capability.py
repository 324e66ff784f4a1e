"""What capabilities declare, and what becomes of mistakes in a function's code."""

import pytest
from msgspec import Struct

from phalanx.bdi import (
    Agent,
    Believe,
    Capability,
    Library,
    drains,
    hears,
    perceives,
    plan,
    recalls,
    remembers,
    starts,
    when,
)
from phalanx.bdi.memory import decode, encode, remember, restore
from phalanx.bdi.steps import Adopt
from phalanx.domain.goals import Predicate, want
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd


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
