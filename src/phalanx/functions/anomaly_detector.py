"""Anomaly Detector: finds the target of an attack on a link (dissertation, table 5.3)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from phalanx.analytics.detection import TargetVerdict, detect
from phalanx.analytics.sources import SLOW, SYN_FLOOD
from phalanx.bdi import (
    AchieveAll,
    Adopt,
    Agent,
    Believe,
    Body,
    Capability,
    Forget,
    GoalInstance,
    Note,
    Steps,
    plan,
    recalls,
    when,
)
from phalanx.coordination.measures import FIND_OUT, PROTECT
from phalanx.coordination.scaling import WHOLE, effective_s, fit_to_traffic
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


class AnomalyDetector(Capability):
    """Looks at who is written to over a link, and how."""

    name = "anomaly-detector"
    vnfd = Vnfd("anomaly-detector", Resources(1, 2, 10), handles_mb_s=2.0)
    observes = ("flows",)
    parameters: ClassVar = {
        "analysis_s": 20.0,
        "classify_s": 20.0,
        "ip_rate_mb_s": 2.0,
        "at_once": 0.0,
    }

    @plan(AnomalousUsage, Mode.FIND_OUT)
    def analyse_link_statistics(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan ALS; with ``at_once`` whom the flows convict already is limited at once.

        A classifier judges by the same counters. Where all flows of a flood were seen, for as
        long as it would look, it would name nobody else: then it is spared.
        """
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
        at_once = me.parameter(self, "at_once") > 0
        whole = (
            at_once
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
        if at_once:
            for flow in convicted:
                yield Believe(Threat(flow.source, flow.target))
                yield Adopt(want(FlowRateLimited(flow.source, flow.target)), PROTECT)
        for target in known:
            waited = [want(IpRateLimited(target.ip))]
            waited += [
                want(FlowRateLimited(f.source, f.target))
                for f in convicted
                if f.target == target.ip
            ]
            ends = yield AchieveAll(tuple(Adopt(goal, PROTECT) for goal in waited))
            if all(end.achieved for end in ends):
                yield Forget(FlowRecord(target.ip))
                yield Believe(FlowRecord(target.ip))
            else:
                yield from self._find_out_who(me, goal, target)

    def _restrict(self, me: Agent, target: TargetVerdict) -> Steps:
        """Limit the traffic to the target, and have handshakes answered for it if need be.

        A limit on octets does not help against connections that are held open.
        """
        if target.kind != SLOW:
            yield Adopt(want(IpRateLimited(target.ip)), PROTECT, queue=target.ip)
        if me.beliefs.holds(Spoofed(target.ip)) and target.kind == SYN_FLOOD:
            yield answer_for(me, target.ip)

    def _find_out_who(self, me: Agent, goal: GoalInstance, target: TargetVerdict) -> Steps:
        """Find out who sends to the target.

        Who forges his sources is not looked for: a proxy of handshakes ends a flood of forged
        SYNs, and against other forged floods the limit is all there is.
        """
        ip = target.ip
        if me.beliefs.holds(Spoofed(ip)) and target.kind == SYN_FLOOD:
            return
        at_once = me.parameter(self, "at_once") > 0
        limited = at_once and target.kind != SLOW

        def traffic() -> float:
            seen = goal.traffic_now() if goal.traffic_now() > 0 else target.mb_s
            return self._passing(me, ip, seen, limited=limited)

        yield Adopt(
            want(FlowRecord(ip)),
            PROTECT if at_once else FIND_OUT,
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
