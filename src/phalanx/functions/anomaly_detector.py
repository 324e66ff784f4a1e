"""Anomaly Detector: finds the target of an attack on a link (dissertation, table 5.3)."""

from __future__ import annotations

from typing import ClassVar

from phalanx.analytics.detection import TargetVerdict, detect
from phalanx.analytics.sources import SLOW, SYN_FLOOD
from phalanx.bdi import Adopt, Agent, Believe, Capability, GoalInstance, Note, plan, when
from phalanx.bdi.steps import Body, Steps
from phalanx.domain.actions import Observe
from phalanx.domain.goals import Mode, avert, want
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
from phalanx.domain.vnf import Vnfd
from phalanx.functions.forged import answer_for
from phalanx.functions.priorities import FIND_OUT, PROTECT
from phalanx.functions.scaling import effective_s, fit_to_traffic


class AnomalyDetector(Capability):
    """Looks at who is written to over a link, and how."""

    name = "anomaly-detector"
    vnfd = Vnfd("anomaly-detector", Resources(1, 2, 10), handles_mb_s=2.0)
    parameters: ClassVar = {"analysis_s": 20.0, "ip_rate_mb_s": 2.0, "at_once": 0.0}

    @plan(AnomalousUsage, Mode.FIND_OUT)
    def analyse_link_statistics(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan ALS; with ``at_once`` whom the flows convict already is limited at once."""
        usage = goal.goal.predicate
        assert isinstance(usage, AnomalousUsage)
        assert goal.instance is not None
        seconds = me.parameter(self, "analysis_s")
        records = yield from fit_to_traffic(
            me,
            goal,
            Observe(goal.instance, seconds, usage.link, part=usage.part, parts=usage.parts),
        )
        verdicts = detect(records.flows, effective_s(records), records.unlisted)
        targets = verdicts.targets
        attacked = {target.ip for target in targets}
        convicted = [flow for flow in verdicts.flows if flow.target in attacked]
        yield Note(
            "analysis.done",
            {
                "goal": str(goal.goal),
                "instance": goal.instance,
                "flows": len(records.flows),
                "coverage": round(records.coverage, 6),
                "found": [target.ip for target in targets],
                "forged": [target.ip for target in targets if target.spoofed],
                "evidence": {target.ip: target.evidence for target in targets},
                "convicted": {f"{f.source}>{f.target}": f.evidence for f in convicted},
            },
        )
        for target in targets:
            yield Believe(LinkIp(usage.link, target.ip))
            yield Believe(Anomalous(target.ip))
            yield Believe(Spoofed(target.ip), value=target.spoofed)
        yield Believe(usage, value=bool(targets))
        for target in targets:
            yield from self._deal_with(me, goal, target)
        limited = LinkRateLimited(usage.link)
        if me.beliefs.holds(limited) and {target.kind for target in targets} == {SLOW}:
            yield Adopt(avert(limited), PROTECT)  # it holds back honest octets alone
        if me.parameter(self, "at_once") > 0:
            for flow in convicted:
                yield Believe(Threat(flow.source, flow.target))
                yield Adopt(want(FlowRateLimited(flow.source, flow.target)), PROTECT)

    def _deal_with(self, me: Agent, goal: GoalInstance, target: TargetVerdict) -> Steps:
        """Restrict the traffic to the target, and find out who sends it.

        Who forges his sources is not looked for: a proxy of handshakes ends a flood of forged
        SYNs, and against other forged floods the limit is all there is. A limit on octets does
        not help against connections that are held open.
        """
        ip = target.ip
        if target.kind != SLOW:
            yield Adopt(want(IpRateLimited(ip)), PROTECT, scope=ip)
        if me.beliefs.holds(Spoofed(ip)) and target.kind == SYN_FLOOD:
            yield answer_for(me, ip)
            return
        limit = me.parameter(self, "ip_rate_mb_s")
        at_once = me.parameter(self, "at_once") > 0

        def traffic() -> float:
            seen = goal.traffic_now() if goal.traffic_now() > 0 else target.mb_s
            limited = me.beliefs.holds(IpRateLimited(ip)) or (at_once and target.kind != SLOW)
            return min(seen, limit) if limited else seen

        yield Adopt(
            want(FlowRecord(ip)),
            PROTECT if at_once else FIND_OUT,
            scope=ip,
            traffic_mb_s=traffic,
            afresh=True,
        )

    @when(FlowRecord, always=True)
    def relieve(self, me: Agent, recorded: FlowRecord) -> Steps:
        """Lift the limit on an address once all threats to it are dealt with.

        Forged sources are dealt with by the limit itself, until a proxy takes its place.
        """
        limited = IpRateLimited(recorded.ip)
        whole = recorded.parts == 1 and not me.beliefs.holds(Spoofed(recorded.ip))
        if whole and me.beliefs.holds(Anomalous(recorded.ip)) and me.beliefs.holds(limited):
            yield Adopt(avert(limited), PROTECT)
