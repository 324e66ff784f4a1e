"""Measures: what a VNF keeps true in the network, from its enforcement to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from hashlib import blake2b
from secrets import token_hex
from typing import Any

from phalanx.auction.bidder import PAUSED, Bidder
from phalanx.auction.contracts import VnfInventory
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import plan, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import (
    Act,
    Adopt,
    Believe,
    Drop,
    Forget,
    Note,
    Pause,
    PlanFailed,
    Step,
)
from phalanx.domain.actions import Enforce, Lift, ReadMeasure
from phalanx.domain.goals import Mode, Predicate, avert, want
from phalanx.domain.predicates import Quiet
from phalanx.domain.rules import AllowList, TrafficRule

PROTECT, FIND_OUT, TIDY_UP = 20, 10, 0
"""Priorities of goals: protect first, find out after (dissertation, 5.1)."""

LONGEST_ID = 100
"""Octets of a measure's id: drivers name things after it."""
TOGETHER_S = 0.1
"""Before a plan looks again whether another one has put its measure into force."""
LITTLE_MB_S = 1e-5
"""A measure that holds back less than ten octets a second has nothing to do. Slow attackers
send hardly more than that."""

SAID_S = 60.0
"""Pause before the log says again that an entry of the allow list spares attackers."""
MOST_SPARED = 16
"""Sources that one such event names."""

Part = Generator[Step, Any, None]
Pairs = list[tuple[str, str]]


def inventory_of(me: Agent) -> VnfInventory:
    """Return the instances that an agent runs."""
    bidder: Bidder = me.capability(Bidder)
    return bidder.inventory


def allow_list(me: Agent) -> AllowList:
    """Return what an agent never blocks or limits."""
    bidder: Bidder = me.capability(Bidder)
    return bidder.settings.allow


def not_allowed(me: Agent, found: Iterable[tuple[str, str]]) -> Generator[Step, Any, Pairs]:
    """Return those of some attackers (source, target) that may be blocked.

    The log tells of the others, once in ``SAID_S`` for each entry of the allow list and target:
    there may be any number of sources, and they may be forged.
    """
    allow, told = allow_list(me), me.capability(Bidder).spared
    kept: Pairs = []
    spared: dict[tuple[str, str], list[str]] = {}
    reasons = {}
    for source, target in found if allow.entries else ():
        entry = allow.find(source)
        if entry is None:
            kept.append((source, target))
        else:
            spared.setdefault((entry.prefix, target), []).append(source)
            reasons[entry.prefix] = entry.reason
    for (prefix, target), sources in spared.items():
        if me.now - told.get((prefix, target), -SAID_S) >= SAID_S:
            told[prefix, target] = me.now
            more = {"prefix": prefix, "reason": reasons[prefix]}
            named = sorted(sources)[:MOST_SPARED]
            yield Note("source.spared", {"sources": named, "target": target, **more})
    return kept if allow.entries else list(found)


def enforce(
    me: Agent, goal: GoalInstance, effect: Predicate, rule: TrafficRule, why: str = ""
) -> Part:
    """Make ``effect`` true by ``rule``, through the goal's instance, and believe it.

    What the allow list has is left out; ``why`` says in words what the rule is for. An agent that
    an operator paused puts nothing new in force.
    """
    spared = allow_list(me).spare(rule)
    if spared is None:
        raise PlanFailed(f"all sources of {effect} are in the allow list", final=True)
    inventory = inventory_of(me)
    while any(effect in each.temporary for each in inventory):
        yield Pause(TOGETHER_S)  # for another goal, of another contract
    instance = inventory.get(goal.instance)
    if instance is None:
        raise PlanFailed("the instance is gone")
    if inventory.holder(effect) is not None:
        return
    if me.capability(Bidder).paused:  # what it works on was awarded before
        raise PlanFailed(PAUSED)
    measure = f"{me.name}.{me.incarnation}:{effect}"
    if len(measure.encode()) > LONGEST_ID:
        digest = blake2b(str(effect).encode(), digest_size=8).hexdigest()
        measure = f"{me.name}.{me.incarnation}:{digest}"
    instance.temporary[effect] = measure
    me.changes += 1
    try:
        yield Act(Enforce(measure, instance.id, spared, str(effect), why))
    except GeneratorExit:  # given up before the answer came
        me.perform(Lift(measure), lambda _: None)
        raise
    finally:
        for each in inventory:  # another version may have taken its place
            each.temporary.pop(effect, None)
    (inventory.get(goal.instance) or instance).measures[effect] = measure
    yield Believe(effect, holder=me.name, mandate=token_hex(8))


def lift(me: Agent, effect: Predicate) -> Part:
    """Undo what keeps ``effect`` true here, and believe that it is not so any more."""
    instance = inventory_of(me).holder(effect)
    if instance is not None:
        yield Act(Lift(instance.measures[effect]))
        instance.measures.pop(effect, None)
    yield Believe(effect, value=False)


Rule = Callable[[Any, Agent, Any], Part]


def watching(*kinds: type[Predicate], gone: str) -> tuple[Rule, Rule]:
    """Return the rules ``watch_own`` and ``watch_no_more`` of a capability.

    They have the agent find out when a measure of its own is no longer needed.

    Args:
        kinds: predicates that its measures make true.
        gone: why nobody watches a measure that was lifted.

    """

    def watch_own(_: object, me: Agent, measure: Predicate) -> Part:
        if inventory_of(me).holder(measure) is not None:
            yield Adopt(want(Quiet(measure)), TIDY_UP, afresh=True)

    def watch_no_more(_: object, __: Agent, measure: Predicate) -> Part:
        yield Drop(want(Quiet(measure)), gone)
        yield Forget(Quiet(measure))

    for kind in kinds:
        when(kind)(watch_own)
        when(kind, value=False)(watch_no_more)
    return watch_own, watch_no_more


def keeping(kind: type[Predicate], rule_of: Callable[[Any], TrafficRule]) -> tuple[Rule, Rule]:
    """Return the plans ``put_in_force`` and ``take_back`` of a capability.

    They keep what a rule makes true for as long as that is wanted.

    Args:
        kind: type of what it makes true.
        rule_of: the rule for one of them.

    """

    def put_in_force(_: object, me: Agent, goal: GoalInstance) -> Part:
        """Put it in force, for as long as it is wanted."""
        yield from enforce(me, goal, goal.goal.predicate, rule_of(goal.goal.predicate))

    def take_back(_: object, me: Agent, goal: GoalInstance) -> Part:
        """Take it back, as it is wanted no more."""
        yield from lift(me, goal.goal.predicate)

    return plan(kind)(put_in_force), plan(kind, Mode.AVERT)(take_back)


def quiet_of(*kinds: type[Predicate]) -> Callable[[Agent, GoalInstance], bool]:
    """Return the precondition of plans that wait until a measure of ``kinds`` is quiet."""

    def applies(_: Agent, goal: GoalInstance) -> bool:
        quiet = goal.goal.predicate
        return isinstance(quiet, Quiet) and isinstance(quiet.measure, kinds)

    return applies


def lift_when_quiet(
    me: Agent,
    quiet: Quiet,
    *,
    quiet_s: float | Callable[[], float],
    interval_s: float,
    overdue: Callable[[float], bool] = lambda _: False,
    little: float = 0.0,
) -> Part:
    """Wait until a measure of this agent held nothing back for a time, then lift it.

    Args:
        me: the agent.
        quiet: names the measure.
        quiet_s: for how many seconds it must have had nothing to do; a callable is asked again
            and again, since more may be known of the attack by then.
        interval_s: pause between two readings.
        overdue: told for how many seconds the measure has held traffic back; says whether to
            lift it all the same.
        little: share of the most that it held back, up to which it has nothing to do any more.

    Raises:
        PlanFailed: if it was lifted because it was overdue.

    """
    began, since, most = me.now, me.now, 0.0
    while True:
        instance = inventory_of(me).holder(quiet.measure)
        if instance is None:
            return
        try:
            sample = yield Act(ReadMeasure(instance.measures[quiet.measure]))
        except PlanFailed:  # its VNF is being started again: it stays until more is known
            sample = None
        if sample is None or sample.cut_off:
            since = me.now  # it sees nothing, which does not mean that nothing comes
        elif sample.held_back_mb_s > max(LITTLE_MB_S, little * most):
            since, most = me.now, max(most, sample.held_back_mb_s)
            if overdue(since - began):
                yield Adopt(avert(quiet.measure), TIDY_UP)
                raise PlanFailed("it holds traffic back for too long without a verdict")
        if me.now - since >= (quiet_s() if callable(quiet_s) else quiet_s):
            break
        yield Pause(interval_s)
    yield Believe(quiet)
    yield Adopt(avert(quiet.measure), TIDY_UP)
