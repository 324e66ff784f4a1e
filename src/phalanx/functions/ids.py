"""IDS: intrusion detection that looks into packets, and what a loop does about its alerts.

Source: seed 002, II.A: virtual security functions that a closed loop may trigger, among them IDS
and DPI. It is Suricata at the target's PoP, on copies of both directions (``suricata.py``, with the
rules in ``suricata.rules``). Other rules are another function: a class derived from ``Ids`` with
``program`` and rules of its own. It drops nothing by itself. It tells the loop of the function that
there is an intrusion; that one decides, and has the sources shut out which the IDS names.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan, starts
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import (
    Achieve,
    AchieveAll,
    Act,
    Adopt,
    Believe,
    Body,
    Forget,
    Note,
    Pause,
    PlanFailed,
    Steps,
)
from phalanx.coordination.contacts import LoopContacts
from phalanx.coordination.measures import (
    PROTECT,
    TIDY_UP,
    inventory_of,
    keeping,
    quiet_of,
    watching,
)
from phalanx.domain.actions import PacketAlert, ReadMeasure
from phalanx.domain.goals import Mode, avert, want
from phalanx.domain.predicates import EntityTrouble, Firewalled, OfEntity, Quiet
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd

INTRUSION = "intrusion"
"""Kind of a trouble: packets that go to a function match rules of an IDS."""
MOST = 64
"""Sources that are shut out at a time for one target; others wait until they are told of again."""

LEAST_S = 0.1
"""Pause between two readings of alerts, at least, in seconds."""


class Inspected(OfEntity, frozen=True):
    """What goes to ``target``, and what it answers, is looked into by an IDS.

    A loop wants it for what it looks after. An agent of the target's PoP that is no loop may leave
    slice and entity empty.
    """

    at_tap: ClassVar[bool] = True
    target: str
    """Address."""


class IntrudersShutOut(OfEntity, frozen=True):
    """The sources that the IDS of a function names get nothing through to it."""


def inspection_of(target: str) -> TrafficRule:
    """Return what it means for packets that all which goes to ``target`` is looked into."""
    return TrafficRule(TrafficMatch(target=target), TrafficVerdict.MIRROR)


class Ids(Capability):
    """Looks into packets, tells of what it finds, and has sources shut out if that is wanted."""

    name = "ids"
    vnfd = Vnfd("ids", Resources(0.5, 0.5, 0.1), image_mb=1.0, boot_s=0.2, shared=True)
    enforces = (TrafficVerdict.MIRROR,)
    program = "suricata.py"
    needs = ("suricata",)
    parameters: ClassVar = {"ids_interval_s": 0.5, "ids_hold_s": 600.0}

    def __init__(self) -> None:
        self.named: dict[Firewalled, None] = {}
        """What is to be closed, or was, as the alerts have it; the eldest first."""

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool:
        """Whether a rule copies what the effect names, for whichever slice."""
        target = rule.match.target or ""
        named = effect.startswith("inspected(") and effect.endswith(f", {target})")
        return named and effect.count(",") == 2 and rule == inspection_of(target)

    put_in_force, take_back = keeping(Inspected, lambda wanted: inspection_of(wanted.target))
    watch_own, watch_no_more = watching(Inspected, gone="nothing is looked into any more")

    @plan(Quiet, local=True, applies=quiet_of(Inspected))
    def read_alerts(self, me: Agent, goal: GoalInstance) -> Body:
        """Read what the IDS finds for as long as it stands; believe in a trouble, and tell of it.

        Of a source that may be forged nothing follows: anyone can have it told of.
        """
        watched, last = goal.goal.predicate.measure, 0  # type: ignore[attr-defined]
        of = watched.slice, watched.entity
        trouble, out = EntityTrouble(*of, INTRUSION), IntrudersShutOut(*of)
        wanted = avert(trouble) if watched.slice else want(out)
        while (holder := inventory_of(me).holder(watched)) is not None:
            try:
                alerts = (yield Act(ReadMeasure(holder.measures[watched]))).alerts
            except PlanFailed:
                alerts = ()
            found: dict[Firewalled, PacketAlert] = {}
            for alert in (a for a in alerts if a.number > last and a.target == watched.target):
                closed = Firewalled(*of, watched.target, source=alert.source)
                if closed not in self.named:
                    found.setdefault(closed, alert)
            lost = max(0, alerts[0].number - last - 1) if alerts else 0
            last = alerts[-1].number if alerts else last
            if found:
                first = next(iter(found.values()))
                reason = f"is sent by {first.source} what {first.signature}"
                counts = {"rule": first.rule, "sources": len(found), "lost_alerts": lost}
                about = {"service": watched.target, "trouble": INTRUSION, "detector": "suricata"}
                yield Note("trouble.diagnosed", {**about, "reason": reason, "evidence": counts})
            mine = [closed for closed in self.named if closed.target == watched.target]
            certain = (closed for closed, alert in found.items() if alert.protocol == "tcp")
            mine += islice(certain, max(0, MOST - len(mine)))
            self.named |= dict.fromkeys(mine)
            waiting = {each: None for each in mine if not me.beliefs.holds(each)}
            if found and waiting and me.open_goal(wanted) is None:
                yield Forget(out)
                yield Believe(trouble)
                yield Adopt(wanted, PROTECT)
            elif me.open_goal(wanted) is None:  # in vain: they are named again if they go on
                self.named = {each: None for each in self.named if each not in waiting}
            yield Pause(max(LEAST_S, me.parameter(self, "ids_interval_s")))

    @plan(IntrudersShutOut, local=True)
    def shut_out(self, _: Agent, goal: GoalInstance) -> Body:
        """Close the target for each source that was named, for a while."""
        wanted: Any = goal.goal.predicate
        closed = [each for each in self.named if each.entity == wanted.entity]
        ends = yield AchieveAll(tuple(Adopt(want(each), PROTECT) for each in closed))
        failed = [e.reason for e in ends if not e.achieved] if closed else ["none is known here"]
        for each in (each for each, end in zip(closed, ends, strict=True) if end.achieved):
            yield Adopt(want(Quiet(each)), TIDY_UP, afresh=True)
        if failed:
            raise PlanFailed(failed[0])
        yield Believe(wanted)

    @plan(Quiet, local=True, applies=quiet_of(Firewalled))
    def open_later(self, me: Agent, goal: GoalInstance) -> Body:
        """Let a source through again, which is shut out again as soon as it goes on."""
        closed = goal.goal.predicate.measure  # type: ignore[attr-defined]
        yield Pause(me.parameter(self, "ids_hold_s"))
        self.named.pop(closed, None)
        yield Achieve(Adopt(avert(closed), TIDY_UP))
        yield Believe(goal.goal.predicate)


class IntrusionGuard(Capability):
    """Of the loop of a function: wants it inspected, and decides about intrusions."""

    name = "intrusion-guard"

    @starts
    def begin(self, me: Agent) -> Steps:
        """Want an IDS; one is enough for all slices that share the function."""
        contacts = me.capabilities.get(LoopContacts.name)
        if isinstance(contacts, LoopContacts) and (own := contacts.own(me)).address:
            yield Adopt(want(Inspected(own.slices[0], own.entity, own.address)), PROTECT)

    @plan(EntityTrouble, Mode.AVERT, applies=lambda _, goal: goal.goal.predicate.kind == INTRUSION)
    def shut_out(self, _: Agent, goal: GoalInstance) -> Body:
        """Have the sources shut out that the IDS has named: it alone knows which they are."""
        trouble: Any = goal.goal.predicate
        out = want(IntrudersShutOut(trouble.slice, trouble.entity))
        end = yield Achieve(Adopt(out, PROTECT, afresh=True))
        if not end.achieved:
            raise PlanFailed(end.reason)
        yield Believe(trouble, value=False)
