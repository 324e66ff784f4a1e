"""Signalling Watch: counts what devices ask for at one gNB, and names those that ask too often.

What it counts are insights, which the gNB's loop passes on: whether a storm is under way shows in
the sum over all gNBs. It blocks nobody: devices that it names are reported to the agent of its PoP,
whose Edge Filter looks for itself before it drops anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import ClassVar

from phalanx.analytics.detectors import SIGNALLING_STORM, load_detector
from phalanx.analytics.signalling_rules import AGAIN, REQUESTS, asked
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, Believe, Body, Pause, Perceive, PlanFailed
from phalanx.coordination.contacts import LoopContacts
from phalanx.coordination.measures import inventory_of
from phalanx.coordination.scaling import effective_s
from phalanx.domain.actions import FlowRecords, Observe
from phalanx.domain.agents import Loop
from phalanx.domain.goals import Mode
from phalanx.domain.messages import AttackReport, Insight, Performative
from phalanx.domain.predicates import EntityTrouble, SignallingWatched
from phalanx.domain.resources import Resources
from phalanx.domain.series import TrafficWindow
from phalanx.domain.vnf import Vnfd
from phalanx.functions.service_monitor import ATTACK

RULES = "signalling-rules"
LOOKS, LATEST = 4, 2
"""Looks in which devices are named at first, and once they have been reported."""
STEP = 0.2
"""Share by which a figure has to change, beside one request a second, to be told again."""
AGAIN_S = 4.0
"""Pause between two reports."""


def _storm_here(me: Agent, goal: GoalInstance) -> bool:
    wanted = goal.goal.predicate
    here = {loop.entity for loop in _gnbs(me)}
    return getattr(wanted, "kind", "") == SIGNALLING_STORM and getattr(wanted, "entity", "") in here


def _gnbs(me: Agent) -> list[Loop]:
    loops = me.capability(LoopContacts).settings.loops.values()
    return [loop for loop in loops if me.pop is not None and loop.pop == me.pop]


class SignallingWatch(Capability):
    """Watches what enters at a gNB towards an AMF."""

    name = "signalling-watch"
    vnfd = Vnfd("signalling-watch", Resources(0.1, 0.1, 0.0), image_mb=0.0, shared=True)
    observes = ("flows",)
    detector = RULES
    parameters: ClassVar = {"signalling_look_s": 2.0, "signalling_relief_s": 40.0}

    def __init__(self) -> None:
        self._looks: dict[str, deque[FlowRecords]] = {}
        """The last, by address."""

    @plan(SignallingWatched)
    def watch(self, me: Agent, goal: GoalInstance) -> Body:
        """Look for as long as the goal stands; tell what changes."""
        watched = goal.predicate_as(SignallingWatched)
        looks = self._looks.setdefault(watched.ip, deque(maxlen=LOOKS))
        look_s, told = me.parameter(self, "signalling_look_s"), {REQUESTS: -1.0, AGAIN: -1.0}
        while True:
            if goal.instance is None or inventory_of(me).get(goal.instance) is None:
                raise PlanFailed("the instance is gone")
            try:
                look = Observe(goal.instance, look_s, ip=watched.ip, entry=watched.entry)
                looks.append((yield Act(look)))
            except PlanFailed:
                yield Pause(look_s)
                continue
            counts, seconds = asked(looks[-1].flows).values(), effective_s(looks[-1])
            rates = {REQUESTS: sum(counts) / seconds, AGAIN: (sum(counts) - len(counts)) / seconds}
            changed = [k for k in rates if abs(rates[k] - told[k]) > 1.0 + STEP * abs(told[k])]
            for kind in rates if changed else ():
                told[kind] = rates[kind]
                for loop in _gnbs(me):
                    for name in loop.slices:
                        rate = round(rates[kind], 6)
                        yield Perceive(Insight(name, loop.entity, kind, rate, "requests/s"))

    @plan(EntityTrouble, Mode.AVERT, local=True, applies=_storm_here)
    def report(self, me: Agent, goal: GoalInstance) -> Body:
        """Report devices that ask too often, until there is none."""
        until, looks = me.now + me.parameter(self, "signalling_relief_s"), LOOKS
        while named := {ip: names for ip in self._looks if (names := self._named(ip, looks))}:
            if me.now >= until:
                raise PlanFailed(f"{sum(map(len, named.values()))} devices go on asking")
            for ip, names in named.items():
                report = AttackReport(ip, (SIGNALLING_STORM,), tuple(names))
                me.tell(Performative.INFORM, me.name, ATTACK, report)
            looks = LATEST
            yield Pause(AGAIN_S)
        if looks == LOOKS:
            raise PlanFailed("no device here asks more often than its timers allow", final=True)
        yield Believe(goal.goal.predicate, value=False)

    def _named(self, ip: str, looks: int) -> list[str]:
        """Return the devices that asked one AMF too often in the last looks."""
        lately: Iterable[FlowRecords] = [*self._looks[ip]][-looks:]
        seconds = sum(map(effective_s, lately))
        window = TrafficWindow(seconds, (), tuple(f for look in lately for f in look.flows))
        found = load_detector(RULES).examine(window) if seconds else []
        return [f.source for f in found if f.source and f.target == ip]
