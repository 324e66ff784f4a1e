"""Gateway: leads traffic over another PoP where the direct way has become slow, or encrypts it.

Source of the latter: seed 002, II.A: virtual security functions that a closed loop may trigger,
among them a VPN gateway. The way stays the same then: the gateway stands at the target's PoP.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

from phalanx.auction.bidder import Bidder
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Act, Body, Pause, PlanFailed, Step
from phalanx.coordination.measures import enforce, keeping, lift
from phalanx.domain.actions import ReadService, ServiceSample
from phalanx.domain.goals import Mode
from phalanx.domain.predicates import Encrypted, Rerouted
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd

FASTER = 0.7
"""Share of the time on the way before, that the way over the gateway may take at most."""


def encryption_of(target: str) -> TrafficRule:
    """Return what it means for packets that all which goes to ``target`` comes encrypted."""
    return TrafficRule(TrafficMatch(target=target), TrafficVerdict.STEER, {"encrypted": 1.0})


class Gateway(Capability):
    """Steers what enters at a PoP through its own, and gives up if that is no faster."""

    name = "gateway"
    vnfd = Vnfd("gateway", Resources(0.5, 0.5, 0.5), image_mb=0.0, boot_s=0.2)
    enforces = (TrafficVerdict.STEER,)
    parameters: ClassVar = {"reroute_settles_s": 2.0}

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool:
        """Whether a rule steers what the effect names, for whichever slice."""
        match = rule.match
        if effect.startswith("encrypted("):
            named = effect.count(",") == 2 and effect.endswith(f", {match.target})")
            return named and rule == encryption_of(match.target or "")
        steers = rule.verdict is TrafficVerdict.STEER
        return steers and effect == str(Rerouted(match.target or "", match.entry or ""))

    @plan(Rerouted)
    def lead_over_here(self, me: Agent, goal: GoalInstance) -> Body:
        """Steer, and measure; another agent may be on a better way."""
        wanted = goal.predicate_as(Rerouted)
        before = yield from _rtt_ms(wanted)
        match = TrafficMatch(target=wanted.ip, entry=wanted.entry)
        contract = me.capability(Bidder).contracts.get(goal.contract or "")
        how = {"encrypted": 1.0} if contract and contract.call.goal.constraints.encrypted else {}
        yield from enforce(me, goal, wanted, TrafficRule(match, TrafficVerdict.STEER, how))
        yield Pause(me.parameter(self, "reroute_settles_s"))
        after = yield from _rtt_ms(wanted)
        if after > FASTER * before:
            yield from lift(me, wanted)
            raise PlanFailed(f"over {me.pop} it takes {after:.0f} ms, {before:.0f} ms without")

    put_in_force, take_back = keeping(Encrypted, lambda wanted: encryption_of(wanted.target))

    @plan(Rerouted, Mode.AVERT)
    def lead_no_more(self, me: Agent, goal: GoalInstance) -> Body:
        """Let the traffic take the direct way again."""
        yield from lift(me, goal.goal.predicate)


def _rtt_ms(wanted: Rerouted) -> Generator[Step, Any, float]:
    sample: ServiceSample = yield Act(ReadService(wanted.ip))
    if wanted.entry not in sample.entries:
        raise PlanFailed(f"nothing enters at {wanted.entry} any more")
    return sample.entries[wanted.entry][1]
