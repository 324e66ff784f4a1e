"""Nothing of a slice reaches a loop that does not serve it, whatever slices share."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from phalanx.bdi.steps import Adopt
from phalanx.coordination.arbitration import PRECEDENCE
from phalanx.domain.goals import want
from phalanx.domain.messages import Insight, Refusal, TroubleReport
from phalanx.domain.predicates import ClaimHeld, OfEntity
from phalanx.slices.loop import ClosedLoop
from phalanx.slices.model import LoopIndex, NetworkSlice, SlicesSpec, SNssai, loops_of
from phalanx.testing import FaultRule, LoopBench
from tests.nightly import examples
from tests.slices.descriptors import slices_specs
from tests.slices.loop_checks import check_loops
from tests.slices.small_slices import Bungler, Healer, loops, small, suffer, trouble

POPS = {"host1": "p1", "host2": "p2", "host3": "p2"}


def words(value):
    """Return every name that a message holds, in whatever field or text."""
    if isinstance(value, str):
        return {*re.findall(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*", value)}
    if isinstance(value, dict):
        return set().union(*map(words, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(words, value))
    return set()


@settings(max_examples=examples(24), suppress_health_check=list(HealthCheck), deadline=None)
@given(spec=slices_specs(), data=st.data(), seed=st.integers(0, 100))
def test_no_message_and_no_belief_reaches_a_loop_that_may_not_know_the_slice(spec, data, seed):
    hosts = {each.name: POPS[each.host] for each in spec.functions}
    found = [replace(x, pop=hosts.get(x.entity)) for x in loops_of(spec)]
    names = [loop.name for loop in found]
    able = data.draw(st.sets(st.sampled_from(names), max_size=3))
    clumsy = data.draw(st.sets(st.sampled_from(names), max_size=3))
    given_to = {n: ("healer",) * (n in able) + ("bungler",) * (n in clumsy) for n in names}
    found = [replace(loop, capabilities=given_to[loop.name]) for loop in found]
    faults = [FaultRule("lose", 0.1), FaultRule("duplicate", 0.1)]
    bench = LoopBench(found, Healer, Bungler, faults=faults, providers=("p1", "p2"), seed=seed)
    below = [loop for loop in found if loop.scope in ("network-function", "sub-slice", "slice")]
    for loop in data.draw(st.lists(st.sampled_from(below), min_size=1, max_size=4)):
        which = data.draw(st.sampled_from(loop.slices))
        suffer(bench, loop.name, trouble(loop.entity, "overloaded", which))
        agent = bench.nodes[loop.name].agent
        insight = Insight(which, loop.entity, "requests", 5.0)
        agent.capability(ClosedLoop).share(agent, insight)
        bench.nodes[loop.name].carry_out(agent.settle())
    for sem in (loop for loop in found if loop.scope == "network-function"):
        for which in sem.slices if len(sem.slices) > 1 else ():
            action = data.draw(st.sampled_from(PRECEDENCE))
            held = ClaimHeld(which, sem.entity, action, "", f"{which} wants it")
            bench.pursue(f"nsi-{which}", Adopt(want(held)))
    victim = data.draw(st.none() | st.sampled_from(below))
    if victim is not None:
        bench.crash(victim.name)
    bench.run(400)
    check_loops(bench)

    index = LoopIndex(found)
    slices = {loop.name: {*loop.slices} for loop in found}
    known = {name: {*index.known_to(name)} for name in names}
    every = {*names, *(each.name for each in spec.slices)}
    for message in bench.sent:
        to = message.receiver
        if to in slices and slices[to] != set().union(*slices.values()):
            allowed = known[to] | slices[to]
            said = words(to_builtins(message.content)) | {message.sender}
            assert not (said & every) - allowed, message
    for name in names:
        for predicate, _ in bench.nodes[name].agent.beliefs:
            if isinstance(predicate, OfEntity):
                assert predicate.slice in slices[name]


def test_who_gives_way_to_another_slice_is_not_told_to_which():
    spec = small(sharing="shared")
    other = NetworkSlice("s2", SNssai(2), ("core",), "shared")
    bench = LoopBench(loops(SlicesSpec(spec.functions, spec.subnets, (*spec.slices, other))))
    for slice_name, action in ("s1", "isolate"), ("s2", "restart"):
        held = ClaimHeld(slice_name, "amf", action, "", f"{slice_name} is ill")
        bench.pursue(f"nsi-{slice_name}", Adopt(want(held)))
        bench.run(1)
    (said,) = [m.content.reason for m in bench.sent if isinstance(m.content, Refusal)]
    assert said == "isolate of another slice goes first"


def test_a_shared_loop_escalates_to_the_slice_in_trouble_alone():
    spec = small(sharing="shared")
    other = NetworkSlice("s2", SNssai(2), ("core",), "shared")
    bench = LoopBench(loops(SlicesSpec(spec.functions, spec.subnets, (*spec.slices, other))))
    suffer(bench, "sem-amf", trouble("amf", "overloaded", "s2"))
    bench.run(30)
    asked = [(e.agent, e.data["to"]) for e in bench.of_kind("loop.passed")]
    assert asked == [("sem-amf", "nssi-core"), ("nssi-core", "nsi-s2")]
    reports = [m for m in bench.sent if isinstance(m.content, TroubleReport)]
    others = {m.receiver for m in bench.sent if m not in reports}
    assert others == {"sem-amf", "nssi-core", "nsi-s2"}
    assert {m.receiver for m in reports} == {"domain-CN", "e2e"}
