"""Measures: what a VNF keeps true in the network, from its enforcement to its end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from phalanx.auction.bidder import Bidder
from phalanx.auction.estate import Estate
from phalanx.bdi import Act, Agent, Believe, GoalInstance, PlanFailed, Step
from phalanx.domain.actions import Enforce, Lift
from phalanx.domain.goals import Predicate

Part = Generator[Step, Any, None]


def estate_of(me: Agent) -> Estate:
    """Return the instances that an agent runs."""
    bidder: Bidder = me.capability(Bidder)
    return bidder.estate


def enforce(me: Agent, goal: GoalInstance, effect: Predicate, rate_mb_s: float = 0.0) -> Part:
    """Make ``effect`` true through the goal's instance, and believe it."""
    instance = estate_of(me).get(goal.instance)
    if instance is None:
        raise PlanFailed("the instance is gone")
    measure = f"{me.name}.{me.incarnation}:{effect}"
    try:
        yield Act(Enforce(measure, instance.id, effect, rate_mb_s))
    except GeneratorExit:  # given up before the answer came
        me.perform(Lift(measure), lambda _: None)
        raise
    instance.measures[effect] = measure
    yield Believe(effect, holder=me.name)


def lift(me: Agent, effect: Predicate) -> Part:
    """Undo what keeps ``effect`` true here, and believe that it is not so any more."""
    instance = estate_of(me).keeper(effect)
    if instance is not None:
        yield Act(Lift(instance.measures[effect]))
        instance.measures.pop(effect, None)
    yield Believe(effect, value=False)
