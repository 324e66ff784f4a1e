"""Self-Optimiser: MANO's own loop, which wants more of whatever is busy, and knows no attacks.

It stands for what the management and orchestration of a domain brings along (Benzaïd et al.,
figure 2: the loop that scaling is coordinated with). Before it scales a function it claims that
at the function's loop, like any other agent, and does without where that says no. What it had
added it gives back, the last replica first, once the load has been low for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from phalanx.auction.auctioneer import Auctioneer
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan, starts
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Achieve, Adopt, Believe, Body, PlanFailed, Steps
from phalanx.coordination.arbitration import SCALE, claims_at, denied, while_claimed
from phalanx.coordination.measures import FIND_OUT, TIDY_UP
from phalanx.domain.actions import Outcome, ReadService, ServiceSample
from phalanx.domain.goals import Mode, avert, want
from phalanx.domain.predicates import Replicated, ServiceTrouble

BUSY, IDLE = "busy", "idle"
"""Kinds of trouble: that is all it looks at."""
MOST_PARTS = 16


def _of(kind: str) -> Callable[[Agent, GoalInstance], bool]:
    return lambda _, goal: getattr(goal.goal.predicate, "kind", "") == kind


class SelfOptimiser(Configured, Capability):
    """Has functions of slices replicated whenever they are busy, for as long as they need it.

    A function that is used less than ``optimise_below`` for ``optimise_hold_s`` has one replica
    less. Its load at most doubles by that, so the share is less than half of ``optimise_above``.
    """

    name = "self-optimiser"
    parameters: ClassVar = {
        "optimise_s": 5.0,
        "optimise_above": 0.8,
        "optimise_below": 0.3,
        "optimise_hold_s": 30.0,
    }

    def __init__(self) -> None:
        self._mb_s: dict[str, float] = {}
        """What came in at each address when it was read last."""
        self._low: dict[str, float] = {}
        """Since when the load of each address is low."""

    @starts
    def begin(self, me: Agent) -> None:
        """Look at the load of all functions regularly."""
        me.call_at(me.now + me.parameter(self, "optimise_s"), partial(self._look, me))

    def _look(self, me: Agent) -> None:
        self.begin(me)
        for address in sorted({x.address for x in self.settings.loops.values() if x.address}):
            me.perform(ReadService(address), partial(self._read, me, address))

    def _read(self, me: Agent, ip: str, outcome: Outcome) -> Steps:
        share = 1.0  # of what cannot be read nothing is given back
        if isinstance(outcome, ServiceSample):
            share = outcome.metrics.get("cpu_share", 0.0)
            self._mb_s[ip] = outcome.metrics.get("receive_mb_s", 0.0)
            busy, was = ServiceTrouble(ip, BUSY), me.beliefs.holds(ServiceTrouble(ip, BUSY))
            if share >= me.parameter(self, "optimise_above"):
                yield Believe(busy)
                if not denied(me, claims_at(me, ip), SCALE):
                    yield Adopt(avert(busy), FIND_OUT)
            elif was:
                yield Believe(busy, value=False)
        idle = ServiceTrouble(ip, IDLE)
        if share >= me.parameter(self, "optimise_below") or not _added(me, ip):
            self._low.pop(ip, None)
            if me.beliefs.holds(idle):
                yield Believe(idle, value=False)
        elif me.now - self._low.setdefault(ip, me.now) >= me.parameter(self, "optimise_hold_s"):
            self._low[ip] = me.now  # the next one has to be as long in coming
            yield Believe(idle)
            yield Adopt(avert(idle), TIDY_UP)

    @plan(ServiceTrouble, Mode.AVERT, local=True, applies=_of(IDLE))
    def give_back(self, me: Agent, goal: GoalInstance) -> Body:
        """Do without the replica that was added last, if the loop of the function agrees."""
        idle = goal.predicate_as(ServiceTrouble)
        because = "it needs no more"
        yield from while_claimed(me, claims_at(me, idle.ip), SCALE, because, self._drop(me, idle))

    def _drop(self, me: Agent, idle: ServiceTrouble) -> Body:
        for last in _added(me, idle.ip)[-1:] if me.beliefs.holds(idle) else ():
            end = yield Achieve(Adopt(avert(last), TIDY_UP))
            if not end.achieved:
                raise PlanFailed(f"{last} stays: {end.reason or end.outcome.value}")
        yield Believe(idle, value=False)

    @plan(ServiceTrouble, Mode.AVERT, local=True, applies=_of(BUSY))
    def replicate(self, me: Agent, goal: GoalInstance) -> Body:
        """Have another replica, if the loop of the function agrees."""
        busy = goal.predicate_as(ServiceTrouble)
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


def _added(me: Agent, ip: str) -> list[Replicated]:
    """Return the replicas of an address that this agent had added, the last one last."""
    own = me.capability(Auctioneer).delegations.by_effect
    replicas = (each for each in me.beliefs.matching(Replicated, ip=ip) if each in own)
    return sorted(replicas, key=lambda each: each.parts)
