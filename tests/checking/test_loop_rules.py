"""The rules about loops find what is wrong, and nothing in what loops do."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.slices.loop_checks import broken
from tests.slices.small_slices import Healer, loops, suffer

from phalanx.bdi.steps import Adopt
from phalanx.domain.goals import want
from phalanx.domain.predicates import ClaimHeld
from phalanx.testing import LoopBench


@pytest.fixture(scope="module")
def lab():
    """A trouble that is passed on, and two claims of which one overrules the other."""
    bench = LoopBench(loops(nssi_core=("healer",)), Healer, providers=("p1",))
    suffer(bench, "sem-gnb1")
    for who, action in (("nssi-core", "restart"), ("nsi-s1", "isolate")):
        bench.pursue(who, Adopt(want(ClaimHeld("s1", "amf", action, "", "it is ill"))))
        bench.run(1)
    bench.crash("nsi-s1")
    bench.run(100)
    return bench


def names(events, lab):
    return {violation.rule for violation in broken(events, lab.loops.values())}


def at(lab, kind):
    return next(i for i, event in enumerate(lab.events) if event.kind == kind)


def without(lab, kind):
    return [event for event in lab.events if event.kind != kind]


def changed(lab, kind, time=None, **data):
    i, events = at(lab, kind), [*lab.events]
    old = events[i]
    events[i] = replace(old, time=old.time if time is None else time, data={**old.data, **data})
    return events


def test_what_loops_do_breaks_no_rule(lab):
    assert names(lab.events, lab) == set()


def test_a_pass_that_never_ends(lab):
    late = replace(lab.events[-1], time=500.0)
    assert names([*without(lab, "loop.relieved"), late], lab) == {"passes"}


def test_a_pass_that_ends_and_never_began(lab):
    assert names(changed(lab, "loop.relieved", conversation="x"), lab) == {"passes"}


def test_a_pass_that_lasts_too_long(lab):
    assert names(changed(lab, "loop.relieved", time=400.0), lab) == {"passes"}


def test_a_pass_to_a_loop_of_another_slice(lab):
    assert names(changed(lab, "loop.passed", slice="s2"), lab) == {"slices"}


def test_claims_in_force_that_exclude_each_other(lab):
    assert names(without(lab, "claim.overruled"), lab) == {"claims"}


def test_a_claim_that_outlives_its_holder(lab):
    late = replace(lab.events[0], time=100.0)
    assert names([*without(lab, "claim.ended"), late], lab) == {"lapses"}
