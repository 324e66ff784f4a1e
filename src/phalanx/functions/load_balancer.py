"""Load Balancer: divides traffic that no single analyser can take (dissertation, table 5.5)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, instead_of, plan
from phalanx.bdi.goals import GoalEnd, GoalInstance
from phalanx.bdi.steps import AchieveAll, Act, Adopt, Believe, Body, PlanFailed, Step
from phalanx.coordination.measures import FIND_OUT, inventory_of
from phalanx.domain.actions import Enforce, Lift
from phalanx.domain.goals import Goal, Mode, find_out, want
from phalanx.domain.messages import Fact
from phalanx.domain.predicates import (
    AnomalousUsage,
    FlowRecord,
    SplitTrafficLink,
    SplitTrafficTowardsIp,
    Spoofed,
)
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd

MOST_PARTS = 16
"""Traffic is not divided further than this."""


def _divide(part: int, parts: int, by: int) -> list[tuple[int, int]]:
    """Divide part ``part`` of ``parts`` by ``by``: sources are dealt by hash modulo the parts."""
    return [(part + k * parts, parts * by) for k in range(by)]


class LoadBalancer(Capability):
    """Steps in where an analyser's auction has failed."""

    name = "load-balancer"
    vnfd = Vnfd("load-balancer", Resources(1, 1, 2))
    enforces = (TrafficVerdict.SPLIT,)
    parameters: ClassVar = {"parts": 2.0}

    @instead_of(AnomalousUsage, Mode.FIND_OUT)
    def split_link(self, me: Agent, failed: GoalInstance) -> Adopt | None:
        """Divide the traffic of a link that nobody could analyse as a whole."""
        usage = failed.predicate_as(AnomalousUsage)
        split = SplitTrafficLink(usage.link, usage.part, usage.parts)
        return self._instead(me, failed, want(split), usage.parts)

    @instead_of(FlowRecord)
    def split_ip(self, me: Agent, failed: GoalInstance) -> Adopt | None:
        """Divide the traffic towards an address that nobody could classify as a whole."""
        record = failed.predicate_as(FlowRecord)
        split = SplitTrafficTowardsIp(record.ip, record.part, record.parts)
        return self._instead(me, failed, want(split), record.parts)

    def _instead(self, me: Agent, failed: GoalInstance, goal: Goal, parts: int) -> Adopt | None:
        if parts * int(me.parameter(self, "parts")) > MOST_PARTS:
            return None
        traffic = failed.traffic_now()
        return Adopt(goal, failed.priority, traffic_mb_s=traffic, tap=failed.tap, afresh=True)

    @plan(SplitTrafficLink)
    def load_balance_link(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan LBL: each part is analysed; the link is anomalous if one of them is."""
        split = goal.predicate_as(SplitTrafficLink)
        by = int(me.parameter(self, "parts"))
        parts = [
            AnomalousUsage(split.link, part, of)
            for part, of in _divide(split.part, split.parts, by)
        ]
        goals = [find_out(part) for part in parts]
        match = TrafficMatch(link=split.link, part=split.part, parts=split.parts)
        yield from self._split(me, goal, match, goals, tap=goal.tap)
        anomalous = any(me.beliefs.holds(part) for part in parts)
        yield Believe(AnomalousUsage(split.link, split.part, split.parts), value=anomalous)
        yield Believe(split)

    @plan(SplitTrafficTowardsIp)
    def load_balance_ip(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan LBIP: each part is classified."""
        split = goal.predicate_as(SplitTrafficTowardsIp)
        by = int(me.parameter(self, "parts"))
        divided = _divide(split.part, split.parts, by)
        goals = [want(FlowRecord(split.ip, part, of)) for part, of in divided]
        match = TrafficMatch(target=split.ip, part=split.part, parts=split.parts)
        ends = yield from self._split(me, goal, match, goals, tap=me.pop or "")
        forged = Fact(Spoofed(split.ip), True)
        if any(forged in end.facts for end in ends):
            yield Believe(forged.predicate)
        yield Believe(FlowRecord(split.ip, split.part, split.parts))
        yield Believe(split)

    def _split(
        self, me: Agent, goal: GoalInstance, match: TrafficMatch, goals: list[Goal], tap: str
    ) -> Generator[Step, Any, list[GoalEnd]]:
        """Divide the traffic for as long as its parts are looked at."""
        assert goal.instance is not None
        split = goal.goal.predicate
        measure = f"{me.name}.{me.incarnation}:{split}"
        instance = inventory_of(me).get(goal.instance)
        if instance is None:
            raise PlanFailed("the instance is gone")
        instance.temporary[split] = measure
        me.changes += 1
        share = goal.traffic_now() / len(goals)
        ends: list[GoalEnd]
        try:
            rule = TrafficRule(match, TrafficVerdict.SPLIT)
            yield Act(Enforce(measure, instance.id, rule, str(split)))
            ends = yield AchieveAll(
                tuple(Adopt(g, FIND_OUT, traffic_mb_s=share, tap=tap, afresh=True) for g in goals)
            )
        finally:
            for held in inventory_of(me):  # another version may have taken it over
                held.temporary.pop(split, None)
            me.perform(Lift(measure), lambda _: None)
        left = [str(end.goal) for end in ends if not end.achieved]
        if left:
            raise PlanFailed(f"not achieved: {', '.join(left)}", final=True)
        return ends
