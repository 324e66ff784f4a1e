"""IDS: intrusion detection that looks into packets, and what a loop does about its alerts.

Source: seed 002, II.A: virtual security functions that a closed loop may trigger, among them IDS
and DPI. It is Suricata at the target's PoP, on copies of both directions (``suricata.py``, with the
rules in ``suricata.rules``). Other rules are another function: a class derived from ``Ids`` with
``program`` and rules of its own. It drops nothing by itself. It tells the loop of the function that
there is an intrusion; that one decides, and has the sources shut out which the IDS names.
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from phalanx.bdi import (
    Achieve,
    AchieveAll,
    Act,
    Adopt,
    Agent,
    Believe,
    Body,
    Capability,
    Forget,
    GoalInstance,
    Note,
    Pause,
    PlanFailed,
    Steps,
    plan,
    starts,
)
from phalanx.coordination.contacts import LoopContacts
from phalanx.coordination.measures import (
    PROTECT,
    TIDY_UP,
    enforce,
    inventory_of,
    lift,
    quiet_of,
    watching,
)
from phalanx.domain.actions import MeasureSample, PacketAlert, ReadMeasure
from phalanx.domain.goals import Mode, avert, want
from phalanx.domain.predicates import EntityTrouble, OfEntity, Quiet
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd
from phalanx.functions.firewall import Firewalled

INTRUSION = "intrusion"
"""Kind of a trouble: packets that go to a function match rules of an IDS."""
MOST = 64
"""Sources that are shut out at a time for one target; others wait until they are told of again."""


class Inspected(OfEntity, frozen=True):
    """What goes to ``target``, and what it answers, is looked into by an IDS.

    A loop wants it for what it looks after. An agent of the target's PoP that is no loop may leave
    slice and entity empty.
    """

    at_tap: ClassVar[bool] = True
    lasts: ClassVar[bool] = True
    target: str
    """Address."""


class IntrudersShutOut(OfEntity, frozen=True):
    """The sources that the IDS of a function names get nothing through to it."""


def inspection_of(target: str) -> TrafficRule:
    """Return what it means for packets that all which goes to ``target`` is looked into."""
    return TrafficRule(TrafficMatch(target=target), TrafficVerdict.MIRROR)


def _told(me: Agent, goal: GoalInstance) -> bool:
    """Whether the IDS here has named sources for the function that the goal is about."""
    wanted = goal.goal.predicate
    assert isinstance(wanted, IntrudersShutOut)
    return any(closed.entity == wanted.entity for closed in me.capability(Ids).named)


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

    @plan(Inspected)
    def inspect(self, me: Agent, goal: GoalInstance) -> Body:
        """Have copies looked into."""
        wanted = goal.goal.predicate
        assert isinstance(wanted, Inspected)
        yield from enforce(me, goal, wanted, inspection_of(wanted.target))

    @plan(Inspected, Mode.AVERT)
    def inspect_no_more(self, me: Agent, goal: GoalInstance) -> Body:
        """Look at nothing any more."""
        yield from lift(me, goal.goal.predicate)

    watch_own, watch_no_more = watching(Inspected, gone="nothing is looked into any more")

    @plan(Quiet, local=True, applies=quiet_of(Inspected))
    def read_alerts(self, me: Agent, goal: GoalInstance) -> Body:
        """Read what the IDS finds for as long as it stands; believe in a trouble, and tell of it.

        Of a source that may be forged nothing follows: anyone can have it told of.
        """
        quiet, last = goal.goal.predicate, 0
        assert isinstance(quiet, Quiet)
        watched = quiet.measure
        assert isinstance(watched, Inspected)
        trouble = EntityTrouble(watched.slice, watched.entity, INTRUSION)
        out = IntrudersShutOut(watched.slice, watched.entity)
        while (holder := inventory_of(me).holder(watched)) is not None:
            try:
                sample: MeasureSample = yield Act(ReadMeasure(holder.measures[watched]))
            except PlanFailed:
                sample = MeasureSample(0.0, 0.0)
            lost = max(0, sample.alerts[0].number - last - 1) if sample.alerts else 0
            found: dict[int, dict[Firewalled, PacketAlert]] = {}
            for alert in (a for a in sample.alerts if a.number > last):
                last, of = alert.number, (watched.slice, watched.entity, watched.target)
                closed = Firewalled(*of, source=alert.source)
                if alert.target == watched.target and closed not in self.named:
                    found.setdefault(alert.rule, {})[closed] = alert
            before = len(self.named)
            for rule, matched in found.items():
                first, count = next(iter(matched.values())), len(matched)
                evidence = {"rule": 1.0 * rule, "sources": 1.0 * count, "lost_alerts": 1.0 * lost}
                reason = f"is sent by {first.source} what {first.signature}"
                about = {"service": watched.target, "trouble": INTRUSION, "detector": "suricata"}
                yield Note("trouble.diagnosed", {**about, "reason": reason, "evidence": evidence})
                certain = (closed for closed, alert in matched.items() if alert.protocol == "tcp")
                mine = sum(each.target == watched.target for each in self.named)
                self.named |= dict.fromkeys(islice(certain, max(0, MOST - mine)))
            fresh = len(self.named) > before
            if fresh and me.open_goal(avert(trouble)) is None:
                yield Forget(out)
                yield Believe(trouble)
                yield Adopt(avert(trouble) if watched.slice else want(out), PROTECT)
            yield Pause(me.parameter(self, "ids_interval_s"))

    @plan(IntrudersShutOut, local=True, applies=_told)
    def shut_out(self, me: Agent, goal: GoalInstance) -> Body:
        """Close the target for each source that was named, for a while."""
        wanted = goal.goal.predicate
        while closed := [
            each
            for each in self.named
            if each.entity == wanted.entity and not me.beliefs.holds(each)  # type: ignore[attr-defined]
        ]:
            ends = yield AchieveAll(tuple(Adopt(want(each), PROTECT) for each in closed))
            for each, end in zip(closed, ends, strict=True):
                if end.achieved:
                    yield Adopt(want(Quiet(each)), TIDY_UP, afresh=True)
                else:
                    self.named.pop(each, None)  # it is named again if it goes on
            failed = [end.reason for end in ends if not end.achieved]
            if failed:
                raise PlanFailed(failed[0])
        yield Believe(wanted)

    @plan(Quiet, local=True, applies=quiet_of(Firewalled))
    def open_later(self, me: Agent, goal: GoalInstance) -> Body:
        """Let a source through again, which is shut out again as soon as it goes on."""
        quiet = goal.goal.predicate
        assert isinstance(quiet, Quiet)
        assert isinstance(quiet.measure, Firewalled)
        yield Pause(me.parameter(self, "ids_hold_s"))
        self.named.pop(quiet.measure, None)
        yield Achieve(Adopt(avert(quiet.measure), TIDY_UP))
        yield Believe(quiet)


class IntrusionGuard(Capability):
    """Of the loop of a function: wants it inspected, and decides about intrusions."""

    name = "intrusion-guard"

    @starts
    def begin(self, me: Agent) -> Steps:
        """Want an IDS; one is enough for all slices that share the function."""
        own = me.capability(LoopContacts).own(me)
        if own.address and me.name in me.capability(LoopContacts).settings.loops:
            yield Adopt(want(Inspected(own.slices[0], own.entity, own.address)), PROTECT)

    @plan(EntityTrouble, Mode.AVERT, applies=lambda _, goal: goal.goal.predicate.kind == INTRUSION)
    def shut_out(self, _: Agent, goal: GoalInstance) -> Body:
        """Have the sources shut out that the IDS has named: it alone knows which they are."""
        trouble = goal.goal.predicate
        assert isinstance(trouble, EntityTrouble)
        out = want(IntrudersShutOut(trouble.slice, trouble.entity))
        end = yield Achieve(Adopt(out, PROTECT, afresh=True))
        if not end.achieved:
            raise PlanFailed(end.reason)
        yield Believe(trouble, value=False)
