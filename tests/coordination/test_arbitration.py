"""Claims: what goes first is settled by what was declared, never by what came last."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.nightly import examples
from tests.slices.loop_checks import check_loops
from tests.slices.small_slices import loops

from phalanx.bdi.capability import Capability, plan, when
from phalanx.bdi.steps import Adopt, Believe, Drop, Note, Pause, PlanFailed
from phalanx.coordination.arbitration import (
    EXCLUDE,
    PRECEDENCE,
    StandingClaim,
    order_of,
    settle,
    while_claimed,
)
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.goals import Mode, Predicate, want
from phalanx.domain.messages import ActionClaim, Message, Performative
from phalanx.domain.predicates import AttackLoad, ClaimHeld
from phalanx.testing import FaultRule, LoopBench

LEVELS = {"nssi-core": 1, "nsi-s1": 2, "domain-CN": 3, "sem-smf": 0, "p1": 0}


class Wanted(Predicate, frozen=True):
    pass


class Analyst(Capability):
    """Knows what makes the load."""

    name = "analyst"
    attacked = False

    @plan(AttackLoad, Mode.FIND_OUT)
    def tell(self, me, goal):
        yield Believe(goal.goal.predicate, value=self.attacked)


class Victim(Analyst):
    name = "victim"
    attacked = True


class Unsure(Capability):
    name = "unsure"

    @plan(AttackLoad, Mode.FIND_OUT)
    def tell(self, me, goal):
        yield Pause(0.1)
        raise PlanFailed("too little seen")


def bench(analyst=Analyst, faults=(), precedence=(), seed=1):
    found = [
        replace(x, pop="p1", precedence=precedence) if x.name == "sem-amf" else x for x in loops()
    ]
    return LoopBench(found, analyst, faults=faults, providers=("p1",), seed=seed)


def held(action, effect="", because="it is loaded"):
    return ClaimHeld("s1", "amf", action, effect, because)


def claim(lab, who, action, effect=""):
    one = held(action, effect)
    lab.pursue(who, Adopt(want(one)))
    return one


def in_force(lab):
    """Return (holder, action) of what the log says is in force at the end."""
    found = set()
    for event in lab.events:
        if event.kind.startswith("claim."):
            key = event.data["holder"], event.data["action"]
            if event.kind == "claim.granted":
                found.add(key)
            elif event.kind in ("claim.overruled", "claim.ended"):
                found.discard(key)
    return found


claims = st.lists(
    st.builds(
        lambda holder, action: StandingClaim(
            holder, holder, ActionClaim("amf", action, "s1", "x"), LEVELS[holder], 0.0
        ),
        st.sampled_from(sorted(LEVELS)),
        st.sampled_from(PRECEDENCE),
    ),
    unique_by=lambda each: (each.holder, each.claim.action),
    max_size=4,
)


@given(claims, st.permutations(PRECEDENCE), st.booleans(), st.randoms())
def test_the_outcome_depends_on_the_claims_alone(some, order, attacked, random):
    outcome = settle(some, order, attacked=attacked)
    shuffled = random.sample(some, len(some))
    assert settle(shuffled, order, attacked=attacked) == outcome
    for each, against in outcome.items():
        if against is None:
            rivals = [o for o in outcome if outcome[o] is None and o != each]
            for other in rivals:
                assert frozenset((each.claim.action, other.claim.action)) not in EXCLUDE
        elif against is not each:
            assert outcome[against] is None
            assert against.rank(order) < each.rank(order)


def test_a_precedence_that_names_some_actions_leaves_the_rest_as_it_is():
    assert order_of(("scale",)) == ("scale", "isolate", "block", "throttle", "restart")


WISHES = (("nssi-core", "scale"), ("nsi-s1", "isolate"), ("sem-smf", "restart"))


@pytest.mark.parametrize("order", list(permutations(WISHES)))
def test_any_order_of_arrival_leaves_the_same_in_force(order):
    lab = bench()
    for who, action in order:
        claim(lab, who, action)
        lab.run(1)
    lab.run(5)
    assert in_force(lab) == {("nsi-s1", "isolate")}


@pytest.mark.parametrize("order", list(permutations(WISHES)))
def test_a_declared_precedence_goes_before_the_default(order):
    lab = bench(precedence=("scale",))
    for who, action in order:
        claim(lab, who, action)
        lab.run(1)
    lab.run(5)
    assert in_force(lab) == {("nssi-core", "scale")}


@settings(max_examples=examples(16), suppress_health_check=list(HealthCheck), deadline=None)
@given(
    order=st.permutations((*WISHES, ("p1", "block"), ("domain-CN", "scale"))),
    gaps=st.lists(st.sampled_from((0.0, 0.0005, 0.5, 2.0)), min_size=5, max_size=5),
    lost=st.sampled_from((0.0, 0.4)),
    doubled=st.sampled_from((0.0, 0.5)),
    seed=st.integers(0, 1000),
)
def test_the_same_is_in_force_whatever_came_last_was_lost_or_doubled(
    order, gaps, lost, doubled, seed
):
    """What is not in force is given up; who wants it still claims it again."""
    faults = [FaultRule("lose", lost, end_s=40.0), FaultRule("duplicate", doubled, end_s=40.0)]
    lab = bench(faults=faults, seed=seed)
    for (who, action), gap in zip(order, gaps, strict=True):
        claim(lab, who, action)
        lab.run(gap)
    lab.run(60)
    for who, action in WISHES[1:2]:  # its messages may all have been lost: it wants it still
        if lab.nodes[who].agent.open_goal(want(held(action))) is None:
            claim(lab, who, action)
    lab.run(60)
    assert in_force(lab) == {("nsi-s1", "isolate"), ("p1", "block")}
    overlap(lab)
    check_loops(lab)


def overlap(lab):
    """Hold that at no time two claims that exclude each other were in force at the SEM."""
    now = {}
    for event in lab.events:
        if event.kind == "claim.granted":
            now[event.data["holder"], event.data["action"]] = event.time
        elif event.kind in ("claim.overruled", "claim.ended"):
            now.pop((event.data["holder"], event.data["action"]), None)
        actions = [action for _, action in now]
        for holder, action in now:
            rest = [a for h, a in now if (h, a) != (holder, action)]
            assert not [a for a in rest if frozenset((a, action)) in EXCLUDE], (event, actions)


def test_who_dies_loses_its_claim_with_its_lease_and_the_next_has_its_turn():
    lab = bench()
    claim(lab, "nsi-s1", "isolate")
    lab.run(1)
    claim(lab, "nssi-core", "scale")
    lab.run(1)
    assert in_force(lab) == {("nsi-s1", "isolate")}
    lab.crash("nsi-s1")
    lab.run(20)
    (ended,) = lab.of_kind("claim.ended", holder="nsi-s1")
    assert "lease" in ended.data["reason"]
    claim(lab, "nssi-core", "scale")
    lab.run(2)
    assert in_force(lab) == {("nssi-core", "scale")}


def test_what_is_given_back_ends_and_nothing_is_left_to_do():
    lab = bench()
    one = claim(lab, "nssi-core", "scale")
    lab.run(30)
    assert in_force(lab) == {("nssi-core", "scale")}
    lab.pursue("nssi-core", Drop(want(one)))
    lab.run(60)
    assert in_force(lab) == set()
    assert lab.clock.pending == 0


@pytest.mark.parametrize(
    ("analyst", "why"),
    [(Victim, "attackers make the load"), (Unsure, "nobody can tell what makes the load")],
)
def test_a_wish_to_scale_is_refused_where_attackers_make_the_load(analyst, why):
    lab = bench(analyst)
    claim(lab, "domain-CN", "scale")
    lab.run(5)
    assert not lab.of_kind("claim.granted")
    assert why in lab.of_kind("claim.refused")[0].data["reason"]


def physical(found, **changes):
    return [replace(x, form="PNF", **changes) if x.name == "sem-amf" else x for x in found]


@pytest.mark.parametrize("who", ["p1", "sem-smf", "nssi-core", "nsi-s1", "domain-CN"])
def test_a_physical_function_is_never_scaled_and_all_else_is_as_ever(who):
    lab = LoopBench(physical(loops(), pop="p1", precedence=("scale",)), Analyst, providers=("p1",))
    claim(lab, who, "scale")
    lab.run(5)
    (refused,) = lab.of_kind("claim.refused")
    assert refused.data["reason"] == "amf is a physical function: it cannot be scaled"
    claim(lab, "nssi-core", "restart")
    lab.run(5)
    assert in_force(lab) == {("nssi-core", "restart")}


def test_what_the_pop_itself_wants_it_has_looked_at_itself():
    lab = bench(Victim)
    claim(lab, "p1", "scale")
    lab.run(5)
    assert in_force(lab) == {("p1", "scale")}


@pytest.mark.parametrize(("action", "goes_on"), [("scale", False), ("block", True)])
def test_without_its_sem_nothing_is_scaled_and_what_protects_stays(action, goes_on):
    lab = bench()
    lab.crash("sem-amf")
    one = claim(lab, "p1", action)
    lab.run(10)
    agent = lab.nodes["p1"].agent
    assert (agent.open_goal(want(one)) is not None) is goes_on
    lab.start("sem-amf")
    lab.run(20)
    assert in_force(lab) == ({("p1", "block")} if goes_on else set())


@pytest.mark.parametrize("remembering", [True, False])
def test_a_sem_that_is_back_knows_what_is_in_force(remembering):
    lab = bench()
    claim(lab, "nsi-s1", "isolate")
    lab.run(1)
    lab.crash("sem-amf")
    lab.run(3)
    lab.start("sem-amf", remembering=remembering)
    lab.run(10)
    claim(lab, "nssi-core", "scale")
    lab.run(3)
    assert lab.of_kind("claim.refused", holder="nssi-core")


def test_a_claim_that_comes_and_goes_is_held_down_longer_each_time():
    lab = bench()
    until = []
    for _ in range(2):
        while not lab.of_kind("claim.held")[len(until) :]:
            one = claim(lab, "nssi-core", "scale")
            lab.run(2)
            lab.pursue("nssi-core", Drop(want(one)))
            lab.run(2)
        granted = len(lab.of_kind("claim.granted"))
        began = lab.clock.now()
        while len(lab.of_kind("claim.granted")) == granted:
            one = claim(lab, "nssi-core", "scale")
            lab.run(5)
        until.append(lab.clock.now() - began)
    assert 55 <= until[0] <= 70
    assert 115 <= until[1] <= 130
    assert "held down" in lab.of_kind("claim.refused")[0].data["reason"]


@pytest.mark.parametrize(
    ("sender", "what", "why"),
    [
        ("sem-x", ActionClaim("amf", "scale", "s1", "x"), "nothing to do with amf"),
        ("nssi-core", ActionClaim("amf", "scale", "s2", "x"), "nothing to do with amf"),
        ("nssi-core", ActionClaim("smf", "scale", "s1", "x"), "not the loop of smf"),
        ("nssi-core", ActionClaim("amf", "delete", "s1", "x"), "no action"),
    ],
)
def test_what_nobody_may_claim_is_refused(sender, what, why):
    lab = bench()
    lab.send(Message("m", Performative.REQUEST, sender, "sem-amf", "c", what, "e"))
    lab.run(1)
    assert why in lab.of_kind("claim.refused")[0].data["reason"]


def test_a_level_that_a_loop_makes_up_counts_for_nothing():
    lab = bench()
    claim(lab, "nssi-core", "scale")
    lab.run(1)
    near = ActionClaim("amf", "scale", "s1", "x", level=-5)
    lab.send(Message("m", Performative.REQUEST, "domain-CN", "sem-amf", "c", near, "e"))
    lab.run(1)
    (refused,) = lab.of_kind("claim.refused")
    assert refused.data["holder"] == "domain-CN"
    assert in_force(lab) == {("nssi-core", "scale")}


class Scaler(Capability):
    """Scales while it may, and notes that it may not any more."""

    name = "scaler"

    @plan(Wanted)
    def scale(self, me, goal):
        sem = me.capability(LoopContacts).settings.loops["sem-amf"]
        yield from while_claimed(me, [sem], "scale", "it is loaded", self.work())

    def work(self):
        yield Note("test.scales", {})
        yield Pause(100.0)
        yield Believe(Wanted())

    @when(ClaimHeld, value=False)
    def overruled(self, me, held):
        yield Note("test.overruled", {})


def scaling(analyst=Analyst, change=lambda found: found):
    found = [replace(x, pop="p1") if x.name == "sem-amf" else x for x in loops()]
    found = [replace(x, capabilities=("scaler",)) if x.name == "nssi-core" else x for x in found]
    lab = LoopBench(change(found), analyst, Scaler, providers=("p1",))
    lab.pursue("nssi-core", Adopt(want(Wanted())))
    lab.run(1)
    return lab


def test_a_refusal_for_good_is_asked_for_once():
    lab = scaling(change=physical)
    for _ in range(3):
        lab.pursue("nssi-core", Adopt(want(Wanted())))
        lab.run(10)
    ended = lab.of_kind("goal.ended", goal=str(want(Wanted())))
    reasons = {event.data["reason"] for event in ended}
    assert (len(ended), len(reasons)) == (4, 1)
    assert reasons.pop().endswith("amf is a physical function: it cannot be scaled")
    assert len(lab.of_kind("claim.refused")) == 1


def test_what_was_granted_and_is_overruled_is_told_and_what_was_refused_is_not():
    lab = scaling()
    assert lab.of_kind("test.scales")
    claim(lab, "nsi-s1", "isolate")
    lab.run(1)
    assert len(lab.of_kind("test.overruled")) == 1
    lab = scaling(Victim)
    (ended,) = lab.of_kind("goal.ended", goal=str(want(Wanted())))
    assert "attackers make the load" in ended.data["reason"]
    assert not lab.of_kind("test.overruled")


def test_a_claim_ends_with_the_plan_that_made_it_also_over_a_crash():
    lab = scaling()
    lab.crash("nssi-core")
    lab.start("nssi-core", remembering=True)
    lab.run(0.0005)
    agent = lab.nodes["nssi-core"].agent
    assert next(g.goal.predicate for g in agent.open_goals()) == Wanted()
    lab.run(1)
    assert len([g for g in agent.open_goals() if isinstance(g.goal.predicate, ClaimHeld)]) == 1
    lab.run(200)
    assert in_force(lab) == set()


def test_a_refusal_is_recorded_once_while_it_stands():
    lab = bench()
    claim(lab, "nsi-s1", "isolate")
    lab.run(1)
    raw = ActionClaim("amf", "restart", "s1", "x")
    lab.send(Message("m", Performative.REQUEST, "nssi-core", "sem-amf", "c", raw, "e"))
    lab.run(1)
    claim(lab, "p1", "block")
    lab.run(1)
    assert len(lab.of_kind("claim.refused")) == 1


def test_what_protects_and_comes_and_goes_counts_as_in_force_until_it_settles():
    lab = bench()
    for _ in range(4):
        one = claim(lab, "nsi-s1", "isolate")
        lab.run(1)
        lab.pursue("nsi-s1", Drop(want(one)))
        lab.run(1)
    (kept,) = lab.of_kind("claim.held")
    claim(lab, "nssi-core", "scale")
    lab.run(2)
    assert not lab.of_kind("claim.granted", holder="nssi-core")
    lab.run(70)
    claim(lab, "nssi-core", "scale")
    lab.run(2)
    (granted,) = lab.of_kind("claim.granted", holder="nssi-core")
    assert granted.time > kept.time + 60


def test_a_sem_that_is_back_with_its_memory_waits_for_no_renewal():
    lab = bench()
    claim(lab, "nsi-s1", "isolate")
    lab.run(1)
    lab.crash("sem-amf")
    lab.start("sem-amf", remembering=True)
    claim(lab, "p1", "scale")
    lab.run(1)
    assert lab.of_kind("claim.refused", holder="p1")


def test_an_attack_that_was_found_before_does_not_refuse_a_pop_that_looked_itself():
    lab = bench(Victim)
    claim(lab, "domain-CN", "scale")
    lab.run(2)
    claim(lab, "p1", "scale")
    lab.run(2)
    assert in_force(lab) == {("p1", "scale")}
