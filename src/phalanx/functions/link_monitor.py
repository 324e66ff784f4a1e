"""Link Monitor: notices overuse of a link (dissertation, table 5.2), or too many connections.

A link has a connection flood when too many TCP connections are open over it, however little
they carry: that is how slow attacks show, which hold connections open until the server has
none left.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import ClassVar

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, perceives, plan, recalls, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, Adopt, Believe, Body, Forget, Pause, Perceive, Steps
from phalanx.coordination.measures import FIND_OUT, PROTECT
from phalanx.domain.actions import LinkSample, ReadLink
from phalanx.domain.goals import Predicate, avert, find_out, want
from phalanx.domain.network import LinkId, link_ends
from phalanx.domain.predicates import (
    AnomalousUsage,
    ConnectionFlood,
    LinkRateLimited,
    Monitored,
    OverUsage,
)
from phalanx.domain.resources import Resources
from phalanx.domain.series import TimeSeries, TrafficWindow
from phalanx.domain.vnf import Vnfd

SAMPLES = 60
"""Samples of a link that are kept for detectors."""
CALM = 0.9
"""An alarm lasts until what raised it falls to this share of its threshold."""


class LinkMonitor(Capability):
    """Watches links; asks for protection first, and then for an explanation."""

    name = "link-monitor"
    vnfd = Vnfd("link-monitor", Resources(1, 1, 2), shared=True)
    observes = ("links",)
    parameters: ClassVar = {
        "monitor_interval_s": 1.0,
        "link_rate_mb_s": 4.0,
        "verdict_valid_s": 60.0,
        "alarm_repeat_s": 30.0,
        "eager": 0.0,
    }

    def __init__(self) -> None:
        self._thresholds: dict[LinkId, float] = {}
        self._most_connections: dict[LinkId, int] = {}
        self._latest: dict[LinkId, LinkSample] = {}
        self._watched: dict[LinkId, GoalInstance] = {}
        """By link: for which goal it was looked at last."""
        self._history: dict[LinkId, deque[tuple[float, float, float]]] = {}
        """(time, rate in MB/s, connections) of the last samples."""
        self._honest: set[LinkId] = set()
        """Links that were busy when their last verdict found their traffic honest."""

    def _window(self, me: Agent, sample: LinkSample) -> TrafficWindow:
        """Return the series of a link, of the last ``SAMPLES`` samples."""
        history = self._history.setdefault(sample.link, deque(maxlen=SAMPLES))
        history.append((me.now, sample.rate_mb_s, float(sample.connections)))
        times, rates, connections = zip(*history, strict=True)
        return TrafficWindow(
            times[-1] - times[0],
            (
                TimeSeries("link rate", sample.link, "MB/s", times, rates),
                TimeSeries("open connections", sample.link, "connections", times, connections),
            ),
        )

    @plan(Monitored)
    def watch(self, me: Agent, goal: GoalInstance) -> Body:
        """Read the link's counters for as long as the goal stands."""
        monitored = goal.predicate_as(Monitored)
        self._thresholds[monitored.link] = monitored.threshold_mb_s
        self._most_connections[monitored.link] = monitored.connections
        interval = me.parameter(self, "monitor_interval_s")
        try:
            while True:
                self._watched[monitored.link] = goal
                sample = yield Act(ReadLink(monitored.link, interval))
                yield Perceive(sample)
                yield Perceive(self._window(me, sample))
                yield Pause(interval)
        except GeneratorExit:  # of an agent that died nothing is recorded any more
            me.later(self._unwatched, me, goal)
            raise

    def _unwatched(self, me: Agent, goal: GoalInstance) -> None:
        """Believe in no alarm any more that nobody looks at here from now on."""
        link = goal.predicate_as(Monitored).link
        me.cause = goal.cause if goal.end is None else goal.end.event
        for alarm in OverUsage(link), ConnectionFlood(link):
            if self._watched[link] is goal and me.beliefs.get(alarm) is not None:
                me.do_step(Forget(alarm))

    @perceives(LinkSample)
    def revise(self, me: Agent, sample: LinkSample) -> Steps:
        """Revise beliefs as in the upper half of table 5.2."""
        link = sample.link
        threshold = self._thresholds.get(link, sample.bandwidth_mb_s)
        self._latest[link] = sample
        over = OverUsage(link)
        if sample.rate_mb_s <= threshold * CALM:
            yield Forget(over)
        elif sample.rate_mb_s > threshold and self._alarming(me, link, over):
            yield Forget(over)
            if me.parameter(self, "link_rate_mb_s") < threshold:
                # More passes than the limit would let pass: it is not in force any more.
                yield Forget(LinkRateLimited(link))
            yield Forget(AnomalousUsage(link))
            yield Believe(over)
        flooded, many = ConnectionFlood(link), self._most_connections.get(link, 0)
        if sample.connections <= many * CALM:
            yield Forget(flooded)
        elif sample.connections > many > 0 and self._alarming(me, link, flooded):
            yield Forget(flooded)
            yield Forget(AnomalousUsage(link))
            yield Believe(flooded)

    @when(OverUsage)
    def protect_then_find_out(self, me: Agent, over: OverUsage) -> Steps:
        """Generate the goals of the lower half of table 5.2."""
        link = over.link
        tap = link_ends(link)[0]
        yield Adopt(want(LinkRateLimited(link)), PROTECT, queue=link, tap=tap)
        eager = me.parameter(self, "eager") > 0
        yield self._explain(me, link, PROTECT if eager else FIND_OUT, limited=eager)

    @when(ConnectionFlood)
    def explain_connections(self, me: Agent, flooded: ConnectionFlood) -> Steps:
        """Ask for an explanation alone: connections are not made fewer by a limit on octets."""
        yield self._explain(me, flooded.link, FIND_OUT)

    @when(AnomalousUsage, value=False)
    def all_clear(self, me: Agent, usage: AnomalousUsage) -> Steps:
        """Lift the limit of a link whose traffic is heavy but honest.

        What was seen of a link that had calmed down clears nobody: attackers who pause while
        they are looked for would have their peace for long.
        """
        if self._busy(me, usage.link):
            self._honest.add(usage.link)
        else:
            self._honest.discard(usage.link)
        if me.beliefs.holds(LinkRateLimited(usage.link)):
            yield Adopt(avert(LinkRateLimited(usage.link)), PROTECT, queue=usage.link)

    def _explain(self, me: Agent, link: LinkId, priority: int, *, limited: bool = False) -> Adopt:
        """Return the goal to find out what a link is used for.

        ``limited``: a limit is under way and will be in force when the link is looked at.
        """
        return Adopt(
            find_out(AnomalousUsage(link)),
            priority,
            queue=link,
            traffic_mb_s=lambda: self._traffic(me, link, limited=limited),
            tap=link_ends(link)[0],
        )

    @recalls
    def recall(self, me: Agent, part: None, shift: float) -> None:  # noqa: ARG002
        """Have goals that are still open follow the traffic again."""
        eager = me.parameter(self, "eager") > 0
        for goal in me.open_goals():
            usage = goal.goal.predicate
            if isinstance(usage, AnomalousUsage) and goal.queue == usage.link:
                limited = eager and goal.priority == PROTECT
                goal.traffic_mb_s = partial(
                    self._traffic, me, usage.link, limited=limited, unread=goal.traffic_now()
                )

    def _alarming(self, me: Agent, link: LinkId, alarm: Predicate) -> bool:
        """Whether an alarm is news: not while it is dealt with, nor just after an all-clear."""
        if any(g.queue == link for g in me.open_goals()):
            return False
        verdict = me.beliefs.get(AnomalousUsage(link))
        if verdict is not None and not verdict.value and link in self._honest:
            return me.now - verdict.since > me.parameter(self, "verdict_valid_s")
        believed = me.beliefs.get(alarm)
        repeat = me.parameter(self, "alarm_repeat_s")
        return believed is None or me.now - believed.since > repeat

    def _busy(self, me: Agent, link: LinkId) -> bool:
        """Whether a link carries what raises an alarm, or as much as its limit lets pass."""
        sample = self._latest.get(link)
        if sample is None:
            return False
        heavy, many = (
            self._thresholds.get(link, sample.bandwidth_mb_s),
            self._most_connections.get(link, 0),
        )
        if me.beliefs.holds(LinkRateLimited(link)):
            heavy = min(heavy, me.parameter(self, "link_rate_mb_s"))
        return sample.rate_mb_s > heavy * CALM or sample.connections > many * CALM > 0

    def _traffic(self, me: Agent, link: LinkId, *, limited: bool, unread: float = 0.0) -> float:
        """Return the traffic to analyse: what the counters say, at most what a limit lets pass.

        ``unread``: what it is taken for before the counters were read.
        """
        rate = self._latest[link].rate_mb_s if link in self._latest else unread
        if limited or me.beliefs.holds(LinkRateLimited(link)):
            return min(rate, me.parameter(self, "link_rate_mb_s"))
        return rate
