"""SYN Proxy: answers TCP handshakes for an address whose attackers forge their sources.

To block forged sources one by one is useless: each packet has another. What they cannot do is
complete a handshake, since the answers go elsewhere. The proxy completes handshakes in place of
the target and passes on the connections that result, so the honest are served and nothing else
arrives. A SYN cookie is the usual way (RFC 4987, 3.6).
"""

from __future__ import annotations

from typing import ClassVar

from phalanx.auction.outlook import Outlook
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan, when
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Adopt, Body, PlanFailed, Steps
from phalanx.coordination.measures import (
    PROTECT,
    enforce,
    lift,
    lift_when_quiet,
    quiet_of,
    watching,
)
from phalanx.domain.goals import Mode, avert, want
from phalanx.domain.network import PopId, link_ends
from phalanx.domain.predicates import (
    HandshakesProxied,
    IpRateLimited,
    LinkIp,
    LinkRateLimited,
    Quiet,
)
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd


def answer_for(me: Agent, ip: str) -> Adopt:
    """Return the goal that handshakes with ``ip`` are answered for it, where it is reached."""
    return Adopt(want(HandshakesProxied(ip)), PROTECT, queue=ip, tap=_last_pop(me, ip))


def _last_pop(me: Agent, ip: str) -> PopId:
    """Return the PoP that the traffic towards ``ip`` passes: the last one that is known to."""
    view = me.capability(Outlook).view
    here = me.pop or ""
    for seen in me.beliefs.matching(LinkIp, ip=ip):
        here, end = link_ends(seen.link)
        if view.site(end) is None:  # no PoP, hence the host itself
            return here
    return here


class SynProxy(Capability):
    """Lets only sources through to an address that complete their handshakes."""

    name = "syn-proxy"
    vnfd = Vnfd("syn-proxy", Resources(1, 1, 2), shared=True)
    enforces = (TrafficVerdict.PROXY,)
    parameters: ClassVar = {"quiet_s": 20.0, "quiet_interval_s": 2.0}

    @plan(HandshakesProxied)
    def proxy_handshakes(self, me: Agent, goal: GoalInstance) -> Body:
        """Answer for the address, at the tap: both directions of a connection pass only there."""
        if goal.tap != me.pop:
            raise PlanFailed(f"answers do not pass {me.pop}, only {goal.tap}")
        proxied = goal.predicate_as(HandshakesProxied)
        rule = TrafficRule(TrafficMatch(target=proxied.ip), TrafficVerdict.PROXY)
        yield from enforce(me, goal, proxied, rule)

    @plan(HandshakesProxied, Mode.AVERT)
    def proxy_no_more(self, me: Agent, goal: GoalInstance) -> Body:
        """Let the address answer for itself again."""
        yield from lift(me, goal.goal.predicate)

    @when(HandshakesProxied, always=True)
    def relieve(self, me: Agent, proxied: HandshakesProxied) -> Steps:
        """Lift the coarse limits that the flood made necessary: they hold back the honest too."""
        yield from _relief(me, proxied.ip)

    @when(IpRateLimited, always=True)
    def relieve_later(self, me: Agent, limited: IpRateLimited) -> Steps:
        """The same for a limit that comes into force after the proxy."""
        if me.beliefs.holds(HandshakesProxied(limited.ip)):
            yield from _relief(me, limited.ip)

    watch_own, watch_no_more = watching(HandshakesProxied, gone="the proxy is gone")

    @plan(Quiet, local=True, applies=quiet_of(HandshakesProxied))
    def wait_for_quiet(self, me: Agent, goal: GoalInstance) -> Body:
        """Wait until no forged handshake came for a while, then lift the proxy."""
        quiet = goal.predicate_as(Quiet)
        yield from lift_when_quiet(
            me,
            quiet,
            quiet_s=me.parameter(self, "quiet_s"),
            interval_s=me.parameter(self, "quiet_interval_s"),
        )


def _relief(me: Agent, ip: str) -> Steps:
    limits = [IpRateLimited(ip)]
    links = [LinkRateLimited(seen.link) for seen in me.beliefs.matching(LinkIp, ip=ip)]
    for limit in (*limits, *links):
        if me.beliefs.holds(limit):
            yield Adopt(avert(limit), PROTECT)
