"""A signalling storm at a slice: who is throttled, who is scaled, and who decided it."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import perceives, starts
from phalanx.bdi.steps import Adopt, Believe, Steps
from phalanx.checking import check
from phalanx.coordination.arbitration import ISOLATE
from phalanx.coordination.measures import PROTECT
from phalanx.domain.goals import avert, want
from phalanx.domain.messages import ActionClaim, Insight, PassedGoal, Performative
from phalanx.domain.predicates import ClaimHeld, EntityTrouble
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.runtime.system import RunResult, run_scenario
from phalanx.slices.loop import Gathered
from phalanx.slices.signalling import SIGNALLING_STORM, SignallingGuard
from tests.nightly import NIGHTLY
from tests.system.conftest import SCENARIOS
from tests.system.rings import about, causes, of

BEGAN, ENDED = 95.0, 170.0
UNTIL = None if NIGHTLY else 131.0
"""By day the storm is left before it ends."""
RAN, SLICE = "nssi-ran", "nsi-machines"
PLAN = load_scenario(SCENARIOS / "signalling-storm.yaml")
night = pytest.mark.skipif(not NIGHTLY, reason="takes some seconds each: make nightly")


def without(*groups: str, **changes: Any) -> Scenario:
    return replace(PLAN, traffic=tuple(g for g in PLAN.traffic if g.name not in groups), **changes)


def faulty(*faults: FaultSpec) -> Scenario:
    return replace(PLAN, faults=faults)


@cache
def shipped() -> RunResult:
    return run_scenario(PLAN, until=UNTIL)


def served(result: RunResult, start: float, end: float, host: str = "amf") -> float:
    """Return the share of what legitimate devices asked for that was answered."""
    seen = [e.data["hosts"][host] for e in of(result, "network.sample") if start < e.time <= end]
    return sum(s["legitimate_mb_s"] for s in seen) / sum(s["wanted_mb_s"] for s in seen)


def blocked(result: RunResult) -> set[str]:
    filters = about(result, "measure.applied", "effect", "attackFiltered")
    return {source for event in filters for source in event.data["sources"]}


def replicas(result: RunResult) -> list[Any]:
    return about(result, "measure.applied", "effect", "replicated")


def storm(plan: Scenario = PLAN) -> set[str]:
    return {source.address for source in plan.to_sources() if source.group == "storm"}


def test_devices_are_served_and_the_storm_is_throttled_where_it_enters() -> None:
    result = shipped()
    assert served(result, BEGAN - 5, BEGAN) > 0.95
    for start in range(105, int(UNTIL or ENDED) - 10, 12):  # each has a burst of meters
        assert served(result, start, start + 12) > 0.95
    left = storm() - blocked(result)  # so few ask for less than a tenth: nobody reports them
    assert blocked(result) <= storm()
    assert len(left) < 0.1 * len(storm())
    filters = about(result, "measure.applied", "effect", "attackFiltered")
    assert {event.data["pop"] for event in filters} == {"ran1", "ran2", "ran3", "ran4"}
    assert check(result.events) == []


def test_the_sum_shows_the_storm_and_the_loops_pass_it_on() -> None:
    result = shipped()
    found = of(result, "trouble.diagnosed", trouble=SIGNALLING_STORM)
    assert [event.agent for event in found] == [RAN]  # and no gNB alone
    assert BEGAN < found[0].time < BEGAN + 8
    passed = [(e.agent, e.data["to"]) for e in of(result, "loop.passed", direction="down")]
    assert {(RAN, "sem-gnb-3"), ("sem-gnb-3", "ran3"), (SLICE, "nssi-cn")} <= {*passed}
    assert {("nssi-cn", "sem-amf-1"), ("nssi-cn", "sem-smf-1")} <= {*passed}
    (asked, *_) = [e for e in of(result, "loop.passed", to="nssi-cn") if e.agent == SLICE]
    assert found[0].id in {event.id for event in causes(result, asked)}


def test_what_wants_more_without_knowing_of_attacks_is_refused_with_the_reason() -> None:
    refused = of(shipped(), "claim.refused", holder="mano", action="scale")
    assert {event.data["entity"] for event in refused} == {"amf-1", "smf-1"}
    assert {event.data["reason"] for event in refused} == {"attackers make the load"}
    applied = [e.time for e in replicas(shipped())]
    assert applied  # for users, before the storm and once its devices are throttled
    assert not [time for time in applied if BEGAN < time < BEGAN + 15]


@night
def test_nothing_is_scaled_that_the_storm_alone_asks_for() -> None:
    plan = without("newcomers")
    result = run_scenario(plan)
    assert not replicas(result)
    assert not [e for e in of(result, "instance.started") if e.data["vnf"] == "service-replica"]
    assert len(blocked(result)) > 0.97 * len(storm(plan))
    assert blocked(result) <= storm(plan)
    assert of(result, "claim.refused", holder="mano")


@night
@pytest.mark.parametrize("began", [103.0, 105.0, 115.0, 117.0])
def test_a_storm_that_begins_within_a_look_is_not_taken_for_usual(began: float) -> None:
    traffic = (
        replace(group, start_s=began) if group.name == "storm" else group
        for group in without("newcomers").traffic
    )
    result = run_scenario(replace(PLAN, traffic=tuple(traffic)), until=began + 8)
    (found,) = of(result, "trouble.diagnosed", trouble=SIGNALLING_STORM)
    assert found.agent == RAN


@night
def test_the_same_bytes_again() -> None:
    again = run_scenario(PLAN)
    assert msgspec.json.encode(list(again.events)) == msgspec.json.encode(list(shipped().events))


@night
def test_devices_that_come_back_after_an_outage_are_no_storm() -> None:
    """Everybody asks at once, more than ever before, and nobody more often than allowed."""
    calm = without("storm", "newcomers")
    hosts = tuple(
        replace(h, limits=replace(h.limits, requests_s=1000.0)) if h.limits else h
        for h in calm.hosts
    )
    cut = tuple(FaultSpec(90.0, "link-down", link=("agg", x), for_s=30.0) for x in ("core", "edge"))
    result = run_scenario(replace(calm, hosts=hosts, faults=cut))
    back = [e.data["hosts"]["amf"] for e in of(result, "network.sample") if 119 < e.time < 124]
    usual = [e.data["hosts"]["amf"] for e in of(result, "network.sample") if 62 < e.time < 65]
    assert max(s["legitimate_mb_s"] for s in back) > 1.5 * max(s["legitimate_mb_s"] for s in usual)
    assert not of(result, "trouble.diagnosed", trouble=SIGNALLING_STORM)
    assert not blocked(result)


@night
@pytest.mark.parametrize(
    "fault",
    [
        FaultSpec(98.0, "crash", agent=SLICE),
        FaultSpec(
            96.0,
            "partition",
            groups=(("core", "edge", "mano", "nssi-cn", "sem-amf-1", "sem-smf-1"),),
            for_s=40.0,
        ),
    ],
    ids=["the slice's loop dies in the middle", "RAN and CN are apart"],
)
def test_what_fails_in_the_middle_costs_devices_little(fault: FaultSpec) -> None:
    result = run_scenario(faulty(fault))
    assert served(result, BEGAN + 15, ENDED) > 0.95
    assert len(blocked(result) & storm()) > 0.95 * len(storm())
    assert blocked(result) <= storm()
    assert of(result, "claim.refused", holder="mano", action="scale")
    assert check(result.events) == []


class Lying(SignallingGuard):
    """Base of RAN loops that lie."""

    def lies(self, me: Agent) -> Steps:
        raise NotImplementedError

    @starts
    def begin(self, me: Agent) -> None:
        if me.name == RAN:
            me.call_at(80.0, lambda: self.lies(me))


class Invents(Lying):
    """Reports a storm that is not there."""

    name = "signalling-guard"

    def lies(self, me: Agent) -> Steps:
        trouble = EntityTrouble("machines", "ran", SIGNALLING_STORM)
        self._tell(me, Insight("machines", "ran", SIGNALLING_STORM, 1.0, "", "so it says"))
        yield Believe(trouble)
        yield Adopt(avert(trouble), PROTECT)


class Denies(Lying):
    """Passes nothing on."""

    name = "signalling-guard"

    def lies(self, me: Agent) -> Steps:
        yield from ()

    @perceives(Gathered)
    def judge(self, me: Agent, gathered: Gathered) -> Steps:
        if me.name != RAN:
            yield from super().judge(me, gathered)


class Isolates(Lying):
    """Has the core network take its AMF away."""

    name = "signalling-guard"

    def lies(self, me: Agent) -> Steps:
        held = ClaimHeld("machines", "amf-1", ISOLATE, "", "it is compromised")
        said = PassedGoal(want(held), "machines", "it is compromised", (me.name,))
        me.tell(Performative.REQUEST, "nssi-cn", "lie1", said)
        claim = ActionClaim("amf-1", ISOLATE, "machines", "it is compromised", 0)
        me.tell(Performative.REQUEST, "sem-amf-1", "lie2", claim)
        yield from ()


@night
def test_a_storm_that_is_not_there_throttles_nobody_and_scales_nothing() -> None:
    result = run_scenario(without("storm", "newcomers"), functions=(Invents,))
    back = of(result, "loop.returned", by="sem-gnb-1")
    assert "no device here asks more often than its timers allow" in back[0].data["reason"]
    assert not blocked(result)
    assert not replicas(result)


@night
def test_a_storm_that_is_denied_is_throttled_all_the_same() -> None:
    """The agent beside the AMF names those that it sees there."""
    plan = without("newcomers")
    result = run_scenario(plan, functions=(Denies,))
    assert not of(result, "trouble.diagnosed", service="ran")
    assert served(result, BEGAN + 15, ENDED) > 0.95
    assert len(blocked(result)) > 0.7 * len(storm(plan))
    assert blocked(result) <= storm(plan)
    assert not [e.time for e in replicas(result) if e.time < BEGAN + 20]


@night
def test_the_core_network_isolates_nothing_for_the_loop_of_another_subnet() -> None:
    result = run_scenario(without("storm", "newcomers"), functions=(Isolates,))
    (refused,) = of(result, "loop.refused", sender=RAN)
    assert refused.agent == "nssi-cn"
    assert not of(result, "claim.granted", holder=RAN)
    assert of(result, "claim.refused", holder=RAN, action=ISOLATE)
    assert served(result, 80, 220) > 0.99
