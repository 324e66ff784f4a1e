"""Signalling storms, as the loops of a slice see them (Benzaïd et al., II.A and figure 2).

The loop of each gNB passes on what is counted there; the loop of the RAN subnet adds it up, and
finds the storm that no gNB alone shows. It has each gNB throttle the devices that it can name, and
tells the loop of the slice, which has the core network's loop see to its functions: they get what
legitimate devices need. What one of them cannot do goes up, like any goal.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from phalanx.analytics.detectors import SIGNALLING_STORM, load_detector
from phalanx.analytics.signalling_rules import AGAIN, REQUESTS
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, perceives, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import AchieveAll, Adopt, Believe, Body, Note, Pause, PlanFailed, Steps
from phalanx.coordination.contacts import LoopContacts
from phalanx.coordination.measures import PROTECT
from phalanx.domain.agents import Loop
from phalanx.domain.goals import Mode, avert
from phalanx.domain.messages import Insight
from phalanx.domain.predicates import OVERLOADED, EntityTrouble
from phalanx.domain.series import TimeSeries, TrafficWindow
from phalanx.slices.analytics import ExamineRequest, SharedAnalytics, WindowExamined
from phalanx.slices.loop import ClosedLoop, Gathered
from phalanx.slices.monitoring import SAME_S, SharedMonitoring

RULES = "signalling-rules"
CORE = "CN"
"""Domain of the subnets that a slice's loop has get ready."""
SAMPLES = 120
"""Samples that make what is usual."""
SETTLED_S = 5.0
"""A sample is usual once no storm was found for so long: one may have begun in it."""
RELIEF_S = 15.0
"""A trouble that lasts so long after its parts have none was not relieved."""


def _mine(me: Agent, goal: GoalInstance) -> bool:
    """Whether it is a trouble of this loop's own subnet."""
    trouble, own = goal.goal.predicate, me.capability(LoopContacts).own(me)
    known = getattr(trouble, "kind", "") in (SIGNALLING_STORM, OVERLOADED)
    return known and own.scope == "sub-slice" and getattr(trouble, "entity", "") == own.entity


class SignallingGuard(Capability):
    """Adds up what gNBs count, finds storms in it, and has them dealt with."""

    name = "signalling-guard"

    def __init__(self) -> None:
        self._latest: dict[str, dict[tuple[str, str], float]] = {}
        """By slice, then by kind and entity."""
        self._usual: dict[str, deque[tuple[float, float, float]]] = {}
        """(time, requests/s, those of devices that asked just before), by slice."""

    @perceives(Gathered)
    def judge(self, me: Agent, gathered: Gathered) -> Steps:
        """Tell the loops above the sums, and have them examined, here or by a service."""
        name, own = gathered.slice, me.capability(LoopContacts).own(me)
        latest = self._latest.setdefault(name, {})
        parts = {loop.entity for loop in self._below(me, own)} or {own.entity}
        for insight, cause in zip(gathered.insights, gathered.causes, strict=True):
            if insight.entity in parts and insight.kind in (REQUESTS, AGAIN):
                latest[insight.kind, insight.entity] = insight.value
            elif insight.kind == SIGNALLING_STORM and insight.entity in parts:
                me.cause = cause
                yield from self._warn(me, own, insight)
        if not latest or own.scope == "slice":
            return
        every, again = (
            float(sum(value for (of, _), value in latest.items() if of == kind))
            for kind in (REQUESTS, AGAIN)
        )
        for kind, value in ((REQUESTS, every), (AGAIN, again)):
            self._tell(me, Insight(name, own.entity, kind, round(value, 6), "requests/s"))
        shared = me.capabilities.get(SharedMonitoring.name)
        if isinstance(shared, SharedMonitoring) and name not in self._usual:
            shared.share(me, name, (), partial(self._go_on, me, name, (every, again)))
        else:
            yield from self._examine(me, name, every, again)

    def _go_on(
        self, me: Agent, name: str, sums: tuple[float, float], known: tuple[TimeSeries, ...]
    ) -> Steps:
        self._take(me, name, known)
        yield from self._examine(me, name, *sums)

    def _take(self, me: Agent, name: str, known: tuple[TimeSeries, ...]) -> None:
        """Take what was usual before this loop's own figures, as a service has kept it."""
        usual = self._usual.setdefault(name, deque(maxlen=SAMPLES))
        series, first = {one.name: one for one in known}, usual[0][0] if usual else me.now
        if series.keys() >= {REQUESTS, AGAIN}:
            every, again = series[REQUESTS], series[AGAIN]
            samples = sorted(zip(every.times, every.values, again.values, strict=False))
            before = [sample for sample in samples if sample[0] < first - SAME_S]
            self._usual[name] = deque([*before, *usual], maxlen=SAMPLES)

    def _series(
        self, me: Agent, name: str, *last: tuple[float, float, float]
    ) -> tuple[TimeSeries, ...]:
        """Return what is usual, and a last sample; none of both: no series."""
        own, settled = me.capability(LoopContacts).own(me), me.now - SETTLED_S
        samples = [*(one for one in self._usual[name] if one[0] <= settled), *last]
        times, *values = zip(*samples, strict=True) if samples else ((),)
        return tuple(
            TimeSeries(kind, own.entity, "requests/s", times, tuple(of))
            for kind, of in zip((REQUESTS, AGAIN), values, strict=False)
        )

    def _examine(self, me: Agent, name: str, every: float, again: float) -> Steps:
        self._usual.setdefault(name, deque(maxlen=SAMPLES))
        series = self._series(me, name, (me.now, every, again))
        times = series[0].times
        window = TrafficWindow(times[-1] - times[0], series)
        shared = me.capabilities.get(SharedAnalytics.name)
        if isinstance(shared, SharedAnalytics):
            shared.examine(me, ExamineRequest(name, RULES, window))
        else:
            found = tuple(load_detector(RULES).examine(window))
            yield from self.conclude(me, WindowExamined(name, window, found))

    @perceives(WindowExamined)
    def conclude(self, me: Agent, seen: WindowExamined) -> Steps:
        """Believe in a storm, or in its end, by what was found in the sums."""
        name, own = seen.slice, me.capability(LoopContacts).own(me)
        found = [f for f in seen.findings if (f.kind, f.target) == (SIGNALLING_STORM, own.entity)]
        trouble = EntityTrouble(name, own.entity, SIGNALLING_STORM)
        storms = me.beliefs.holds(trouble)
        if not found:
            every, again = (one.values[-1] for one in seen.window.series)
            self._usual[name].append((seen.window.series[0].times[-1], every, again))
            shared = me.capabilities.get(SharedMonitoring.name)
            if isinstance(shared, SharedMonitoring):
                shared.share(me, name, self._series(me, name), partial(self._take, me, name))
            if storms:
                yield Believe(trouble, value=False)
                self._tell(me, Insight(name, own.entity, SIGNALLING_STORM, 0.0))
            return
        begun = seen.window.series[0].times[-1] - SETTLED_S
        usual = (one for one in self._usual[name] if one[0] <= begun)
        self._usual[name] = deque(usual, maxlen=SAMPLES)
        if not storms:
            reason, about = found[0].reason, {"service": own.entity, "trouble": SIGNALLING_STORM}
            detector = f"{RULES} of {seen.by}" if seen.by else RULES
            more = {"evidence": found[0].evidence, "detector": detector}
            yield Note("trouble.diagnosed", {**about, "reason": reason, **more})
            yield Believe(trouble)
            self._tell(me, Insight(name, own.entity, SIGNALLING_STORM, 1.0, "", reason))
            yield Adopt(avert(trouble), PROTECT)

    def _warn(self, me: Agent, own: Loop, insight: Insight) -> Steps:
        """Have the core network get ready for what legitimate devices need."""
        for loop in self._below(me, own) if insight.value else ():
            if loop.kind == CORE:
                trouble = EntityTrouble(insight.slice, loop.entity, OVERLOADED)
                yield Believe(trouble)
                yield Adopt(avert(trouble), PROTECT)

    @plan(EntityTrouble, Mode.AVERT, applies=_mine)
    def relieve(self, me: Agent, goal: GoalInstance) -> Body:
        """Have each function of the subnet relieved of its part; all of them, at a time."""
        trouble = goal.predicate_as(EntityTrouble)
        own, adopts = me.capability(LoopContacts).own(me), []
        for loop in self._below(me, own):
            if trouble.slice in loop.slices:
                part = EntityTrouble(trouble.slice, loop.entity, trouble.kind)
                yield Believe(part)
                adopts.append(Adopt(avert(part), PROTECT))
        ends = yield AchieveAll(tuple(adopts))
        left = [end.goal.predicate.entity for end in ends if not end.achieved]
        if trouble.kind == OVERLOADED and not left:
            yield Believe(trouble, value=False)
        until = me.now + RELIEF_S
        while me.beliefs.holds(trouble):
            if me.now >= until:
                where = f" at {', '.join(left)}" if left else ""
                raise PlanFailed(f"it goes on{where}")
            yield Pause(1.0)

    @staticmethod
    def _below(me: Agent, own: Loop) -> list[Loop]:
        loops = me.capability(LoopContacts).settings.loops
        return [loops[name] for name in own.below if name in loops]

    @staticmethod
    def _tell(me: Agent, insight: Insight) -> None:
        me.capability(ClosedLoop).share(me, insight)
