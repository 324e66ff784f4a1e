"""Anomaly Detector: finds the target of an attack on a link (dissertation, table 5.3)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from phalanx.analytics.detectors import SLOW, SYN_FLOOD, Finding
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, perceives, plan, recalls, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import AchieveAll, Adopt, Believe, Body, Forget, Note, Steps
from phalanx.coordination.measures import FIND_OUT, PROTECT
from phalanx.coordination.scaling import WHOLE, fit_to_traffic
from phalanx.domain.actions import Observe
from phalanx.domain.goals import Mode, avert, want
from phalanx.domain.network import LinkId
from phalanx.domain.predicates import (
    Anomalous,
    AnomalousUsage,
    FlowRateLimited,
    FlowRecord,
    IpRateLimited,
    LinkIp,
    LinkRateLimited,
    Spoofed,
    Threat,
)
from phalanx.domain.resources import Resources
from phalanx.domain.series import TimeSeries, TrafficWindow
from phalanx.domain.vnf import Vnfd
from phalanx.functions.classifier import FIXED_RULES, examine, reasons
from phalanx.functions.syn_proxy import answer_for


class AnomalyDetector(Capability):
    """Finds the targets of attacks among the flows over a link."""

    name = "anomaly-detector"
    vnfd = Vnfd("anomaly-detector", Resources(1, 2, 10), handles_mb_s=2.0)
    observes = ("flows",)
    detector = FIXED_RULES
    parameters: ClassVar = {
        "analysis_s": 20.0,
        "classify_s": 20.0,
        "ip_rate_mb_s": 2.0,
        "eager": 0.0,
    }

    def __init__(self) -> None:
        self._series: dict[LinkId, tuple[TimeSeries, ...]] = {}
        """What a monitor of this agent has seen of each link lately."""

    @perceives(TrafficWindow)
    def note_series(self, me: Agent, window: TrafficWindow) -> None:  # noqa: ARG002
        """Keep the latest window of each link for the detector."""
        for link in {series.subject for series in window.series}:
            self._series[link] = tuple(s for s in window.series if s.subject == link)

    @plan(AnomalousUsage, Mode.FIND_OUT)
    def analyse_link_statistics(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan ALS; with ``eager`` sources that are certain to attack are blocked at once.

        A classifier judges by the same counters. Where all flows of a flood were seen, for as
        long as it would look, it would name nobody else: then it is spared.
        """
        usage = goal.predicate_as(AnomalousUsage)
        assert goal.instance is not None
        seconds = me.parameter(self, "analysis_s")
        records = yield from fit_to_traffic(
            me,
            goal,
            Observe(goal.instance, seconds, usage.link, part=usage.part, parts=usage.parts),
        )
        findings = examine(me, goal, records, series=self._series.get(usage.link, ()))
        targets = [f for f in findings if f.source is None]
        attacked = {target.target for target in targets}
        convicted = [f for f in findings if f.source is not None and f.target in attacked]
        flows = [(str(f.source), f.target) for f in convicted]
        yield Note(
            "analysis.done",
            {
                "goal": str(goal.goal),
                "instance": goal.instance,
                "flows": len(records.flows),
                "coverage": round(records.coverage, 6),
                "found": [target.target for target in targets],
                "forged": [target.target for target in targets if target.spoofed],
                "evidence": {target.target: target.evidence for target in targets},
                "convicted": {f"{f.source}>{f.target}": f.evidence for f in convicted},
                **reasons(me, goal, findings),
            },
        )
        for target in targets:
            yield Believe(LinkIp(usage.link, target.target))
            yield Believe(Anomalous(target.target))
            yield Believe(Spoofed(target.target), value=target.spoofed)
        yield Believe(usage, value=bool(targets))
        eager = me.parameter(self, "eager") > 0
        whole = (
            eager
            and usage.parts == 1
            and records.coverage >= WHOLE
            and not records.unlisted
            and seconds >= me.parameter(self, "classify_s")
        )
        known = [t for t in targets if whole and t.kind != SLOW and not t.spoofed]
        for target in targets:
            yield from self._restrict(me, target)
            if target not in known:
                yield from self._find_out_who(me, goal, target)
        limited = LinkRateLimited(usage.link)
        if me.beliefs.holds(limited) and {target.kind for target in targets} == {SLOW}:
            yield Adopt(avert(limited), PROTECT)  # it holds back honest octets alone
        if eager:
            for source, ip in flows:
                yield Believe(Threat(source, ip))
                yield Adopt(want(FlowRateLimited(source, ip)), PROTECT)
        for target in known:
            waited = [want(IpRateLimited(target.target))]
            waited += [
                want(FlowRateLimited(source, ip)) for source, ip in flows if ip == target.target
            ]
            ends = yield AchieveAll(tuple(Adopt(goal, PROTECT) for goal in waited))
            if all(end.achieved for end in ends):
                yield Forget(FlowRecord(target.target))
                yield Believe(FlowRecord(target.target))
            else:
                yield from self._find_out_who(me, goal, target)

    def _restrict(self, me: Agent, target: Finding) -> Steps:
        """Limit the traffic to the target, and have handshakes answered for it if need be.

        A limit on octets does not help against connections that are held open.
        """
        if target.kind != SLOW:
            yield Adopt(want(IpRateLimited(target.target)), PROTECT, queue=target.target)
        if me.beliefs.holds(Spoofed(target.target)) and target.kind == SYN_FLOOD:
            yield answer_for(me, target.target)

    def _find_out_who(self, me: Agent, goal: GoalInstance, target: Finding) -> Steps:
        """Find out which sources attack the target.

        Forged sources are not looked for: a proxy of handshakes ends a flood of forged
        SYNs, and against other forged floods the limit is all there is.
        """
        ip = target.target
        if me.beliefs.holds(Spoofed(ip)) and target.kind == SYN_FLOOD:
            return
        eager = me.parameter(self, "eager") > 0
        limited = eager and target.kind != SLOW

        def traffic() -> float:
            seen = goal.traffic_now() if goal.traffic_now() > 0 else target.mb_s
            return self._passing(me, ip, seen, limited=limited)

        yield Adopt(
            want(FlowRecord(ip)),
            PROTECT if eager else FIND_OUT,
            queue=ip,
            traffic_mb_s=traffic,
            afresh=True,
        )

    def _passing(self, me: Agent, ip: str, seen: float, *, limited: bool = False) -> float:
        """Return the traffic to classify: what was seen, at most what a limit lets pass."""
        if limited or me.beliefs.holds(IpRateLimited(ip)):
            return min(seen, me.parameter(self, "ip_rate_mb_s"))
        return seen

    @recalls
    def recall(self, me: Agent, part: None, shift: float) -> None:  # noqa: ARG002
        """Have goals that are still open take the limit into account once it is in force."""
        for goal in me.open_goals():
            record = goal.goal.predicate
            if isinstance(record, FlowRecord) and goal.queue == record.ip:
                seen = goal.traffic_now()
                goal.traffic_mb_s = partial(self._passing, me, record.ip, seen)

    @when(FlowRecord, always=True)
    def relieve(self, me: Agent, recorded: FlowRecord) -> Steps:
        """Lift the limit on an address once all threats to it are dealt with.

        Forged sources are dealt with by the limit itself, until a proxy takes its place.
        """
        limited = IpRateLimited(recorded.ip)
        whole = recorded.parts == 1 and not me.beliefs.holds(Spoofed(recorded.ip))
        if whole and me.beliefs.holds(Anomalous(recorded.ip)) and me.beliefs.holds(limited):
            yield Adopt(avert(limited), PROTECT)
