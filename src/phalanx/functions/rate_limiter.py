"""Rate Limiter: throttles a link, an address or a flow (dissertation, table 5.1)."""

from __future__ import annotations

from typing import ClassVar

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Adopt, Body, Forget, Steps
from phalanx.coordination.measures import (
    PROTECT,
    enforce,
    lift,
    lift_when_quiet,
    quiet_of,
    watching,
)
from phalanx.domain.goals import Mode, avert
from phalanx.domain.predicates import (
    FlowRateLimited,
    IpRateLimited,
    LinkIp,
    LinkRateLimited,
    Quiet,
    Spoofed,
    Threat,
)
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd

LIMITS = LinkRateLimited, IpRateLimited, FlowRateLimited
CONFIRMED = 16
"""A limit that is known to hold forged sources back is reviewed so many times as late."""


def _limit(rate_mb_s: float, *, link: str | None = None, target: str | None = None) -> TrafficRule:
    match = TrafficMatch(link=link, target=target)
    return TrafficRule(match, TrafficVerdict.LIMIT, {"rate_mb_s": rate_mb_s})


class RateLimiter(Capability):
    """Limits at three granularities; a finer limit relieves the coarser one."""

    name = "rate-limiter"
    vnfd = Vnfd("rate-limiter", Resources(1, 1, 2), shared=True)
    enforces = (TrafficVerdict.LIMIT, TrafficVerdict.DROP)
    parameters: ClassVar = {
        "link_rate_mb_s": 4.0,
        "ip_rate_mb_s": 2.0,
        "quiet_s": 20.0,
        "quiet_interval_s": 2.0,
        "review_s": 300.0,
    }

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool:
        """Whether a rule limits the link, the address or the flow that the effect names."""
        match = rule.match
        if rule.verdict is TrafficVerdict.DROP:
            return effect == str(FlowRateLimited(match.source or "", match.target or ""))
        if match.link is not None:
            return effect == str(LinkRateLimited(match.link)) and rule.rate_mb_s > 0
        return effect == str(IpRateLimited(match.target or "")) and rule.rate_mb_s > 0

    @plan(LinkRateLimited)
    def limit_link(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan LL."""
        limited = goal.predicate_as(LinkRateLimited)
        rule = _limit(me.parameter(self, "link_rate_mb_s"), link=limited.link)
        yield from enforce(me, goal, limited, rule)

    @plan(LinkRateLimited, Mode.AVERT)
    def unlimit_link(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan UL."""
        yield from lift(me, goal.goal.predicate)

    @plan(IpRateLimited)
    def limit_ip(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan LIP; links that were limited because of this address are relieved."""
        limited = goal.predicate_as(IpRateLimited)
        rule = _limit(me.parameter(self, "ip_rate_mb_s"), target=limited.ip)
        yield from enforce(me, goal, limited, rule)
        for link_limit in me.beliefs.matching(LinkRateLimited):
            if me.beliefs.holds(LinkIp(link_limit.link, limited.ip)):
                yield Adopt(avert(link_limit), PROTECT)

    @plan(IpRateLimited, Mode.AVERT)
    def unlimit_ip(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan UIP."""
        yield from lift(me, goal.goal.predicate)

    @plan(FlowRateLimited)
    def limit_flow(self, me: Agent, goal: GoalInstance) -> Body:
        """Plan LF: block the flow."""
        limited = goal.predicate_as(FlowRateLimited)
        match = TrafficMatch(source=limited.source, target=limited.target)
        yield from enforce(me, goal, limited, TrafficRule(match, TrafficVerdict.DROP))

    @plan(FlowRateLimited, Mode.AVERT)
    def unlimit_flow(self, me: Agent, goal: GoalInstance) -> Body:
        """Let a flow pass again that has nothing left to block."""
        yield from lift(me, goal.goal.predicate)

    @when(FlowRateLimited, value=None, always=True)
    @when(FlowRateLimited, value=False, always=True)
    def forget_threat(self, me: Agent, limited: FlowRateLimited) -> Steps:  # noqa: ARG002
        """Who is blocked no more is no threat for now."""
        yield Forget(Threat(limited.source, limited.target))

    watch_own, watch_no_more = watching(*LIMITS, gone="the limit is lifted")

    @plan(Quiet, local=True, applies=quiet_of(*LIMITS))
    def wait_for_quiet(self, me: Agent, goal: GoalInstance) -> Body:
        """Wait until the limit held nothing back for a while, then lift it.

        A limit on a link or an address rests on a suspicion and holds the honest back as well.
        Where nobody could confirm it for long the limit is lifted all the same: if there is
        still too much traffic, that is noticed and looked at anew. What is known of forged
        sources is such a confirmation for long: nothing finer would hold them back.
        """
        quiet = goal.predicate_as(Quiet)
        limit = quiet.measure

        def overdue(seconds: float) -> bool:
            forged = isinstance(limit, IpRateLimited) and me.beliefs.holds(Spoofed(limit.ip))
            review_s = me.parameter(self, "review_s") * (CONFIRMED if forged else 1)
            return not isinstance(limit, FlowRateLimited) and seconds > review_s

        yield from lift_when_quiet(
            me,
            quiet,
            quiet_s=me.parameter(self, "quiet_s"),
            interval_s=me.parameter(self, "quiet_interval_s"),
            overdue=overdue,
        )
