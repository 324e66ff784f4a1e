"""Short observations: one look where there is much room, a brief one first where there is not."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import cast

import pytest

from phalanx.auction.contracts import VnfInstance
from phalanx.bdi.agent import Agent
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, Step
from phalanx.coordination.scaling import BRIEF, fit_to_traffic
from phalanx.domain.actions import FlowRecords, Observe
from phalanx.domain.goals import find_out
from phalanx.domain.predicates import AnomalousUsage
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

SECONDS = 0.4
LOOKS = [BRIEF * SECONDS, (1 - BRIEF) * SECONDS]
DETECTOR = Vnfd("anomaly-detector", Resources(1, 1, 1), handles_mb_s=10.0)


@pytest.mark.parametrize(
    ("traffic_mb_s", "units", "tap", "looks"),
    [
        (2.4, 1, "here", [SECONDS]),
        (2.6, 1, "here", LOOKS),
        (2.4, 2, "here", LOOKS),  # it may be too large
        (2.4, 1, "there", LOOKS),  # the path may be too narrow
        (0.0, 1, "here", LOOKS),  # nobody has measured it
    ],
)
def test_a_brief_look_is_spared_where_there_is_much_room(
    traffic_mb_s: float, units: int, tap: str, looks: list[float]
) -> None:
    instance = VnfInstance("detector", DETECTOR, units)
    inventory = SimpleNamespace(get={instance.id: instance}.get)
    bidder = SimpleNamespace(inventory=inventory)
    me = cast("Agent", SimpleNamespace(pop="here", changes=0, capability=lambda _: bidder))
    usage = find_out(AnomalousUsage("here>web"))
    goal = GoalInstance(
        "g", usage, "cause", traffic_mb_s=traffic_mb_s, tap=tap, instance=instance.id
    )
    seen: list[float] = []

    def answered(step: Step) -> FlowRecords | None:
        assert isinstance(step, Act)
        if not isinstance(step.action, Observe):
            return None
        seen.append(step.action.seconds)
        return FlowRecords((), step.action.seconds)

    plan = fit_to_traffic(me, goal, Observe(instance.id, SECONDS, "here>web"))
    with contextlib.suppress(StopIteration):
        step = next(plan)
        while True:
            step = plan.send(answered(step))
    assert seen == pytest.approx(looks)
