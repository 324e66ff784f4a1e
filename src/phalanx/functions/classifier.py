"""Classifier: finds who attacks an address (dissertation, table 5.4)."""

from __future__ import annotations

from typing import ClassVar

from phalanx.analytics.detection import anomalous_targets, malicious_flows
from phalanx.analytics.sources import SYN_FLOOD
from phalanx.bdi import (
    AchieveAll,
    Adopt,
    Agent,
    Believe,
    Body,
    Capability,
    GoalInstance,
    Note,
    PlanFailed,
    plan,
)
from phalanx.coordination.measures import PROTECT
from phalanx.coordination.scaling import effective_s, fit_to_traffic
from phalanx.domain.actions import Observe
from phalanx.domain.goals import want
from phalanx.domain.predicates import FlowRateLimited, FlowRecord, Spoofed, Threat
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd
from phalanx.functions.forged import answer_for


class Classifier(Capability):
    """Records the flows to an address and has the malicious ones limited."""

    name = "classifier"
    vnfd = Vnfd("classifier", Resources(2, 4, 10), handles_mb_s=1.0)
    observes = ("flows",)
    parameters: ClassVar = {"classify_s": 20.0}
    sampling: ClassVar[float] = 1.0
    """Share of the packets that it looks at."""

    @plan(FlowRecord)
    def analyse_ip_flows(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan AIPF; the goal is achieved when every threat that was found is limited.

        Whoever forges his sources cannot be limited by them. A proxy of handshakes ends a flood
        of forged SYNs; where there is none, and against any other flood, the limit of the address
        stays, since the goal ends with the belief that the sources are forged.
        """
        wanted = goal.goal.predicate
        assert isinstance(wanted, FlowRecord)
        assert goal.instance is not None
        observe = Observe(
            goal.instance,
            me.parameter(self, "classify_s"),
            ip=wanted.ip,
            part=wanted.part,
            parts=wanted.parts,
            sampling=self.sampling,
        )
        records = yield from fit_to_traffic(me, goal, observe)
        seconds = effective_s(records, self.sampling)
        verdicts = malicious_flows(records.flows, seconds)
        targets = anomalous_targets(records.flows, seconds, records.unlisted)
        forged = next((t for t in targets if t.spoofed and t.ip == wanted.ip), None)
        yield Note(
            "analysis.done",
            {
                "goal": str(goal.goal),
                "instance": goal.instance,
                "flows": len(records.flows),
                "coverage": round(records.coverage, 6),
                "found": [f"{v.source}>{v.target}" for v in verdicts],
                "evidence": {f"{v.source}>{v.target}": v.evidence for v in verdicts}
                | ({forged.ip: forged.evidence} if forged is not None else {}),
                "forged": [] if forged is None else [forged.ip],
            },
        )
        for verdict in verdicts:
            yield Believe(Threat(verdict.source, verdict.target))
        adopts = [Adopt(want(FlowRateLimited(v.source, v.target)), PROTECT) for v in verdicts]
        if forged is not None:
            yield Believe(Spoofed(wanted.ip))
            if forged.kind == SYN_FLOOD:
                adopts.append(answer_for(me, wanted.ip))
        ends = yield AchieveAll(tuple(adopts))
        left = [str(end.goal) for end in ends[: len(verdicts)] if not end.achieved]
        if left:
            raise PlanFailed(f"threats that nobody limits: {', '.join(left)}", final=True)
        yield Believe(wanted)
