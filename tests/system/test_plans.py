"""Whatever breaks: nothing is over-committed, every lease and every goal ends, nothing hangs."""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.runtime.system import System, run_scenario
from tests.system.plans import FAULTS_END_S, LATE_ATTACK_ENDS_S, random_plan, service_plan

PLANS = int(os.environ.get("PHALANX_PLANS", "60"))
MANY_EVENTS = 60_000
STANDING = ("monitored(", "contractFulfilled(")


@settings(
    max_examples=PLANS,
    deadline=None,
    derandomize=True,
    print_blob=False,
    phases=[Phase.explicit, Phase.generate],  # a smaller seed is not a simpler plan
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(0, 2**32 - 1))
def test_random_plan(seed):
    check_plan(seed)


def check_plan(seed):
    system = System(random_plan(seed))
    result = system.run(on_progress=lambda _: system.infrastructure.check())
    system.infrastructure.check()
    events = result.events
    assert len(events) < MANY_EVENTS, "it never comes to rest"
    check_causes(events)
    check_goals(events)
    check_end(events, system)


def check_causes(events):
    seen = set()
    for event in events:
        if event.kind == "run.started":
            assert event.cause is None
        else:
            assert event.cause in seen, f"{event.id} {event.kind}: cause {event.cause!r} unknown"
        assert event.id not in seen
        seen.add(event.id)


def check_goals(events):
    open_goals = {}
    for event in events:
        if event.kind == "goal.adopted":
            assert event.data["instance_id"] not in open_goals
            open_goals[event.data["instance_id"]] = event
        elif event.kind == "goal.ended":
            adopted = open_goals.pop(event.data["instance_id"])
            assert event.data["outcome"] in ("achieved", "failed", "dropped", "taken over")
            if event.data.get("reason") == "the run ended":
                # Only standing work is left: all else had the time to end by itself.
                goal = event.data["goal"]
                assert goal.startswith(STANDING) or adopted.time > FAULTS_END_S + 200, goal
        elif event.kind == "plan.ended":
            assert "fault in the plan" not in event.data.get("reason", ""), event.data
    assert not open_goals


def check_end(events, system):
    end = events[-1]
    assert end.kind == "run.ended"
    assert end.time == system.scenario.duration_s
    held = [lease for lease in end.data["leases"] if not lease.endswith("/link-monitor")]
    assert held == [], "leases that never end"
    bus = system.bus
    accounted = bus.delivered + bus.lost_detached + sum(bus.shed.values()) + bus.queued
    assert sum(bus.sent.values()) == accounted, "messages vanished uncounted"


@pytest.mark.parametrize("seed", [*range(PLANS // 3), 77, 78])
def test_service_returns_once_the_faults_are_over(seed):
    """Users get, under attack, nearly what they get in the same network without one."""
    plan = service_plan(seed)
    if len(plan.traffic) == 1:
        return  # nobody attacks
    lasting = {f.agent for f in plan.faults if f.kind == "crash" and f.for_s is None}
    if lasting >= {pop.name for pop in plan.network.pops}:
        return  # nobody is left to defend
    result = run_scenario(plan)
    ends = [e for e in result.events if e.kind == "goal.ended"]
    orphaned = [e for e in ends if "nobody took it over" in e.data.get("reason", "")]
    if any(e.data["goal"].startswith("monitored(") for e in orphaned):
        pytest.xfail("all who knew of the duty to watch died, or could not be heard")
    peace = run_scenario(replace(plan, traffic=plan.traffic[:1]))
    assert late_share(result) > 0.9 * late_share(peace)


def late_share(result):
    """Return the share of what users want that they get in the attack's last 30 s."""
    samples = [e for e in result.events if e.kind == "network.sample"]
    late = [e.data["hosts"]["server"] for e in samples if e.time > LATE_ATTACK_ENDS_S - 30]
    return sum(h["legitimate_mb_s"] for h in late) / sum(h["wanted_mb_s"] for h in late)


@pytest.mark.parametrize("seed", [15619800, 40085, 100326, 100467, 200023, 200129, 400584])
def test_plans_that_once_failed(seed):
    check_plan(seed)
