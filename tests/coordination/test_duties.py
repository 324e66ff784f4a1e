"""Duties: whoever dies, some living agent sees to each of them, and in the end one alone."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import convert
from msgspec.structs import replace
from tests.nightly import examples, sample
from tests.system.rings import of, ring

from phalanx.auction.outlook import Outlook
from phalanx.checking.plans import random_plan
from phalanx.coordination.duties import Duties
from phalanx.domain.goals import Duty, want
from phalanx.domain.messages import Message, Performative, Pursued
from phalanx.domain.predicates import Monitored
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.system import System

NAMES = ("north", "east", "south", "west")
HOME = "south"
SILENCE_S, HEARTBEAT_S = 7.0, 2.0


def fault(kind, at_s, agent=None, for_s=None, **more):
    return FaultSpec(at_s=at_s, kind=kind, agent=agent, for_s=for_s, **more)


class Watch:
    """A run of a ring of four; who pursued its one duty is asked twice a second."""

    def __init__(self, *faults, until=120.0, **changes):
        plan = replace(ring(**changes), strategy="service", faults=tuple(faults))
        self.system = System(plan)
        self.seen = {}
        for step in range(int(until * 2)):
            self.system.clock.call_at(step / 2, self.look)
        self.result = self.system.run(until)

    def look(self):
        agents = self.system.agents.items()
        self.seen[self.system.clock.now()] = [
            name
            for name, composed in agents
            if composed.node.alive and composed.agent.capability(Duties).pursued(composed.agent)
        ]

    def unowned(self, start=0.0):
        """Return the moments at which nobody sees to it."""
        return [t for t, owners in self.seen.items() if t > start and not owners]

    @property
    def last(self):
        return list(self.seen.values())[-1]


def test_who_watches_is_the_home_as_long_as_it_lives():
    watch = Watch(until=30)
    assert set(map(tuple, watch.seen.values())) == {(HOME,)}
    assert not of(watch.result, "duty.taken_up")


def test_a_home_that_falls_twice_watches_again():
    watch = Watch(
        fault("crash", 20, HOME, 20, memory=True), fault("crash", 60, HOME, 8, memory=True)
    )
    assert watch.last == [HOME]
    assert not [t for t in watch.unowned() if t > 20 + SILENCE_S + HEARTBEAT_S and t < 60]
    assert not watch.unowned(68 + HEARTBEAT_S)


def test_a_home_and_its_guardian_that_begin_anew_together_watch_again():
    both = [fault("crash", 20, name, 3) for name in (HOME, "west")]
    watch = Watch(*both)
    assert watch.last == [HOME]
    assert not watch.unowned(23 + HEARTBEAT_S)


@pytest.mark.parametrize("later_s", sample([0.0, 4.0, 1.0, 8.0], 2))
def test_a_guardian_that_dies_soon_after_leaves_the_duty_to_a_third(later_s):
    watch = Watch(fault("crash", 20, HOME), fault("crash", 20 + later_s, "west"))
    assert len(watch.last) == 1
    assert watch.last[0] in ("north", "east")
    assert not watch.unowned(20 + later_s + 2 * SILENCE_S + 3 * HEARTBEAT_S)


def test_the_last_agent_alive_sees_to_everything():
    watch = Watch(*(fault("crash", 20, name) for name in ("north", HOME, "west")))
    assert watch.last == ["east"]
    assert not watch.unowned(20 + 3 * SILENCE_S + 4 * HEARTBEAT_S)


@pytest.mark.parametrize("end", ["crash", "drain"])
def test_who_begins_anew_sees_to_the_duties_of_those_that_went_before(end):
    gone = [fault("crash", 10, name) for name in ("north", "west")]
    watch = Watch(*gone, fault(end, 40, HOME), fault("crash", 41, "east", 20))
    assert watch.last == ["east"]
    assert not watch.unowned(61 + 4 * (SILENCE_S + HEARTBEAT_S))


def test_a_duty_is_handed_over_before_its_agent_leaves():
    watch = Watch(fault("drain", 20, HOME))
    assert not watch.unowned()
    assert len(watch.last) == 1
    assert watch.last != [HOME]


def test_in_a_partition_two_watch_and_settle_when_it_has_healed():
    """Messages of all kinds are lost for 30 s, so each agent takes all others for dead."""
    watch = Watch(fault("lose", 20, share=1.0, for_s=30.0))
    assert max(map(len, watch.seen.values())) > 1
    assert not watch.unowned()
    assert watch.last == [HOME]


def test_what_is_said_of_duties_by_whose_they_are_not_changes_nothing():
    plan = replace(ring(), strategy="service")
    system = System(plan)
    goal = next(iter(system.agents[HOME].settings.duties))
    unknown = want(Monitored("north>east", 1.0))

    def lie():
        for sender in ("north", "west"):
            for performative in (Performative.INFORM, Performative.QUERY):
                content = Pursued((goal, unknown))
                system.bus.send(
                    Message(f"lie-{sender}", performative, sender, HOME, "duty", content, "run-1")
                )

    for at_s in (5.0, 15.0, 25.0):
        system.clock.call_at(at_s, lie)
    result = system.run(60.0)
    assert not of(result, "duty.taken_up")
    ended = [e for e in of(result, "goal.ended") if e.data["goal"] == str(goal)]
    assert [e.time for e in ended] == [60.0]


@given(
    agents=st.sets(st.text("abcdef0123456789", min_size=1, max_size=6), min_size=2, max_size=30),
    count=st.integers(1, 40),
    data=st.data(),
)
def test_the_loss_of_an_agent_moves_its_own_duties_only(agents, count, data):
    duties = [Duty(want(Monitored(f"a>{i}", 1.0)), "home", "a") for i in range(count)]
    lost = data.draw(st.sampled_from(sorted(agents)))
    for duty in duties:
        heir = duty.heir(sorted(agents))
        assert heir == duty.heir(sorted(agents, reverse=True))
        if heir != lost:
            assert duty.heir(agents - {lost}) == heir


@settings(max_examples=examples(3), suppress_health_check=list(HealthCheck))
@given(
    deaths=st.lists(
        st.tuples(
            st.sampled_from(NAMES), st.floats(5, 60), st.sampled_from((None, 3.0, 8.0, 25.0))
        ),
        max_size=8,
    ),
    memory=st.booleans(),
    lost=st.sampled_from((0.0, 0.3, 0.8)),
)
def test_any_deaths_in_any_order_leave_one_living_owner(deaths, memory, lost):
    """With 30 % and 80 % of all messages lost for a minute besides."""
    faults = [
        fault("crash", at_s, name, for_s, **({"memory": memory} if for_s else {}))
        for name, at_s, for_s in deaths
    ]
    if lost:
        faults.append(fault("lose", 5.0, share=lost, for_s=60.0))
    watch = Watch(*sorted(faults, key=lambda f: f.at_s), until=180)
    alive = [name for name, composed in watch.system.agents.items() if composed.node.alive]
    late = {tuple(owners) for t, owners in watch.seen.items() if t > 150}
    assert len(late) == 1
    (owners,) = late
    assert len(owners) == min(1, len(alive))
    if HOME in alive:
        assert owners == (HOME,)


@pytest.mark.parametrize("seed", sample([239, 178], 2))
def test_every_duty_of_a_random_plan_has_one_owner_in_the_end(seed):
    plan = convert(random_plan(seed, "liveness"), Scenario)
    system = System(plan)
    counts = []

    def count():
        alive = [c.agent for c in system.agents.values() if c.node.alive]
        counts.append([len(a.capability(Duties).pursued(a)) for a in alive])

    system.clock.call_at(plan.duration_s - 1, count)
    system.run()
    assert sum(counts[0]) == len(plan.monitors)


def test_an_agent_that_dies_before_anyone_heard_of_it_inherits_nothing():
    """It stands in no plan of PoPs: nothing but its own words makes it known to the others."""
    duties = System(replace(ring(), strategy="service")).agents["north"].agent.capability(Duties)
    (duty,) = duties.settings.duties.values()
    rest = [name for name in NAMES if name != HOME]
    apart = next(f"apart{n}" for n in range(99) if duty.heir([*rest, f"apart{n}"])[0] == "a")
    mute = fault("lose", 0, apart, share=1.0)
    watch = Watch(
        mute,
        fault("crash", 1, apart),
        fault("crash", 20, HOME),
        agents=[{"name": apart, "pop": "east"}],
    )
    assert not watch.unowned(20 + 2 * SILENCE_S + 2 * HEARTBEAT_S)
    assert len(of(watch.result, "agent.gone", pop=apart)) <= 1


def test_an_agent_that_is_left_alone_and_is_not_trusted_sees_to_its_duties_itself():
    system = System(replace(ring(), strategy="service"))
    system.run(until=1.0)
    me = system.agents[HOME].agent
    me.capability(Outlook)._distrusted = frozenset(NAMES)
    duty = Duty(want(Monitored("10.0.0.10", 1.0)), "north", HOME)
    assert me.capability(Duties).owner(me, duty) == HOME
