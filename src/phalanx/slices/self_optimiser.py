"""Self-Optimiser: MANO's own loop, which wants more of whatever is busy, and knows no attacks.

It stands for what the management and orchestration of a domain brings along (Benzaïd et al.,
figure 2: the loop that scaling is coordinated with). Before it scales a function it claims that
at the function's loop, like any other agent, and does without where that says no.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from phalanx.auction.settings import Configured
from phalanx.bdi import (
    Achieve,
    Adopt,
    Agent,
    Believe,
    Body,
    Capability,
    GoalInstance,
    PlanFailed,
    Steps,
    plan,
    starts,
)
from phalanx.coordination.arbitration import SCALE, claims_at, denied, while_claimed
from phalanx.coordination.measures import FIND_OUT
from phalanx.domain.actions import Outcome, ReadService, ServiceSample
from phalanx.domain.goals import Mode, avert, want
from phalanx.domain.predicates import Replicated, ServiceTrouble

BUSY = "busy"
"""Kind of trouble: that is all it looks at."""
MOST_PARTS = 16


class SelfOptimiser(Configured, Capability):
    """Has functions of slices replicated whenever they are busy."""

    name = "self-optimiser"
    parameters: ClassVar = {"optimise_s": 5.0, "optimise_above": 0.8}

    def __init__(self) -> None:
        self._mb_s: dict[str, float] = {}
        """What came in at each address when it was read last."""

    @starts
    def begin(self, me: Agent) -> None:
        """Look at the load of all functions regularly."""
        me.call_at(me.now + me.parameter(self, "optimise_s"), partial(self._look, me))

    def _look(self, me: Agent) -> None:
        self.begin(me)
        for address in sorted({x.address for x in self.settings.loops.values() if x.address}):
            me.perform(ReadService(address), partial(self._read, me))

    def _read(self, me: Agent, outcome: Outcome) -> Steps:
        if isinstance(outcome, ServiceSample):
            ip, share = outcome.target, outcome.metrics.get("cpu_share", 0.0)
            self._mb_s[ip] = outcome.metrics.get("receive_mb_s", 0.0)
            busy, was = ServiceTrouble(ip, BUSY), me.beliefs.holds(ServiceTrouble(ip, BUSY))
            if share >= me.parameter(self, "optimise_above"):
                yield Believe(busy)
                if not denied(me, claims_at(me, ip), SCALE):
                    yield Adopt(avert(busy), FIND_OUT)
            elif was:
                yield Believe(busy, value=False)

    @plan(
        ServiceTrouble,
        Mode.AVERT,
        local=True,
        applies=lambda _, goal: getattr(goal.goal.predicate, "kind", "") == BUSY,
    )
    def replicate(self, me: Agent, goal: GoalInstance) -> Body:
        """Have another replica, if the loop of the function agrees."""
        busy = goal.goal.predicate
        assert isinstance(busy, ServiceTrouble)
        because = "it is busy"
        yield from while_claimed(me, claims_at(me, busy.ip), SCALE, because, self._add(me, busy))

    def _add(self, me: Agent, busy: ServiceTrouble) -> Body:
        parts = 2
        while me.beliefs.holds(Replicated(busy.ip, parts // 2, parts)):
            parts *= 2
        if parts > MOST_PARTS:
            raise PlanFailed("it has as many replicas as it may have")
        wanted = Replicated(busy.ip, parts // 2, parts)
        mb_s = self._mb_s[busy.ip]
        end = yield Achieve(Adopt(want(wanted), FIND_OUT, traffic_mb_s=mb_s, tap=me.pop or ""))
        if not end.achieved:
            raise PlanFailed(f"{wanted}: {end.reason or end.outcome.value}")
        yield Believe(busy, value=False)
