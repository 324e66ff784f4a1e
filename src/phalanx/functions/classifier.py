"""Classifier: finds the sources that attack an address (dissertation, table 5.4)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from phalanx.analytics.detectors import SYN_FLOOD, Finding, load_detector
from phalanx.analytics.source_rules import aggregate
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import AchieveAll, Adopt, Believe, Body, Forget, Note, PlanFailed
from phalanx.coordination.measures import PROTECT, inventory_of, not_allowed
from phalanx.coordination.scaling import effective_s, fit_to_traffic
from phalanx.domain.actions import FlowRecords, FlowStats, Observe
from phalanx.domain.goals import want
from phalanx.domain.predicates import FlowRateLimited, FlowRecord, Spoofed, Threat
from phalanx.domain.resources import Resources
from phalanx.domain.series import TimeSeries, TrafficWindow
from phalanx.domain.vnf import Vnfd
from phalanx.functions.syn_proxy import answer_for

FIXED_RULES = "fixed-rules"
MOST_PASSED = 64
"""Sources that are not blocked, of which one analysis says in the log what they did."""


def examine(
    me: Agent,
    goal: GoalInstance,
    records: FlowRecords,
    *,
    sampling: float = 1.0,
    series: tuple[TimeSeries, ...] = (),
    answering: tuple[str, ...] = (),
) -> list[Finding]:
    """Return what the detector of the goal's VNF finds in flow records and series.

    Args:
        me: the agent.
        goal: what the VNF works on.
        records: of the flows.
        sampling: share of the packets that they are about.
        series: what monitors of this agent have seen.
        answering: targets that are known to answer others.

    Raises:
        PlanFailed: if the VNF is gone.

    """
    seconds = effective_s(records, sampling)
    window = TrafficWindow(seconds, series, records.flows, records.unlisted, answering)
    return load_detector(_detector(me, goal)).examine(window)


def analysis(
    me: Agent, goal: GoalInstance, records: FlowRecords, findings: list[Finding], **more: Any
) -> Note:
    """Return the note of what was seen and found; ``more`` are further fields of the event."""
    return Note(
        "analysis.done",
        {
            "goal": str(goal.goal),
            "instance": goal.instance,
            "flows": len(records.flows),
            "coverage": round(records.coverage, 6),
            "forged": [f.target for f in findings if f.source is None and f.spoofed],
            "evidence": {
                f.target if f.source is None else f"{f.source}>{f.target}": f.evidence
                for f in findings
            },
            **more,
            **reasons(me, goal, findings),
        },
    )


def reasons(me: Agent, goal: GoalInstance, findings: list[Finding]) -> dict[str, Any]:
    """Return the texts of findings for the log; the fixed rules' follow from their figures."""
    name = _detector(me, goal)
    if name == FIXED_RULES:
        return {}
    return {"detector": name, "reasons": {f.source or f.target: f.reason for f in findings}}


def passed(
    flows: Iterable[FlowStats], blocked: Collection[str], first: Collection[str] = ()
) -> dict[str, dict[str, int]]:
    """Return what sources that are not blocked were seen to do, for the log.

    Args:
        flows: that were seen.
        blocked: sources to leave out.
        first: sources to list before those that sent the most packets, of ``MOST_PASSED``.

    """
    others = [one for one in aggregate(flows) if one.source not in blocked]
    others.sort(key=lambda one: (one.source not in first, -one.packets, one.source))
    return {
        one.source: {"packets": one.packets, "replies": one.replies}
        | ({"syn": one.syn, "established": one.established} if one.protocol == "tcp" else {})
        for one in others[:MOST_PASSED]
    }


def _detector(me: Agent, goal: GoalInstance) -> str:
    instance = inventory_of(me).get(goal.instance)
    if instance is None:
        raise PlanFailed("the instance is gone")
    return instance.vnfd.detector


class Classifier(Capability):
    """Records the flows to an address and has the malicious ones limited."""

    name = "classifier"
    vnfd = Vnfd("classifier", Resources(2, 4, 10), handles_mb_s=1.0)
    observes = ("flows",)
    detector = FIXED_RULES
    parameters: ClassVar = {"classify_s": 20.0}
    sampling: ClassVar[float] = 1.0
    """Share of the packets that it looks at."""

    @plan(FlowRecord)
    def analyse_ip_flows(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan AIPF; the goal is achieved when every threat that was found is limited.

        Forged sources cannot be limited one by one. A proxy of handshakes ends a flood
        of forged SYNs; where there is none, and against any other flood, the limit of the address
        stays, since the goal ends with the belief that the sources are forged.
        """
        wanted = goal.predicate_as(FlowRecord)
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
        findings = examine(me, goal, records, sampling=self.sampling)
        named = [(f.source, f.target) for f in findings if f.source is not None]
        pairs = yield from not_allowed(me, named)
        verdicts = [f for f in findings if (f.source, f.target) in pairs]
        forged = next(
            (f for f in findings if f.source is None and f.spoofed and f.target == wanted.ip), None
        )
        yield Note(
            "analysis.done",
            {
                "goal": str(goal.goal),
                "instance": goal.instance,
                "flows": len(records.flows),
                "coverage": round(records.coverage, 6),
                "found": [f"{v.source}>{v.target}" for v in verdicts],
                "evidence": {f"{v.source}>{v.target}": v.evidence for v in verdicts}
                | ({forged.target: forged.evidence} if forged is not None else {}),
                "forged": [] if forged is None else [forged.target],
                **reasons(me, goal, findings),
            },
        )
        threats = [(str(v.source), v.target) for v in verdicts]
        for threat in threats:
            yield Believe(Threat(*threat))
        adopts = [Adopt(want(FlowRateLimited(*threat)), PROTECT) for threat in threats]
        if forged is not None:
            yield Believe(Spoofed(wanted.ip))
            if forged.kind == SYN_FLOOD:
                adopts.append(answer_for(me, wanted.ip))
        try:
            ends = yield AchieveAll(tuple(adopts))
        except GeneratorExit:  # of an agent that died nothing is recorded any more
            me.later(self._unlimited, me, threats)
            raise
        self._unlimited(me, threats)
        left = [str(end.goal) for end in ends[: len(verdicts)] if not end.achieved]
        if left:
            raise PlanFailed(f"threats that nobody limits: {', '.join(left)}", final=True)
        yield Believe(wanted)

    @staticmethod
    def _unlimited(me: Agent, threats: list[tuple[str, str]]) -> None:
        """Believe in threats no more that nothing holds back."""
        for threat in threats:
            if not me.beliefs.holds(FlowRateLimited(*threat)):
                me.do_step(Forget(Threat(*threat)))
