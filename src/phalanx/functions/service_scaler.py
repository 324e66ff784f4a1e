"""Service Scaler: gives a running application more of the processors of its PoP."""

from __future__ import annotations

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Body, PlanFailed
from phalanx.coordination.measures import enforce, inventory_of, lift
from phalanx.domain.goals import Mode
from phalanx.domain.predicates import ScaledUp
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd


class ServiceScaler(Capability):
    """Holds units for a service; with each it answers as much more as the descriptor says."""

    name = "service-scaler"
    vnfd = Vnfd("service-scaler", Resources(1, 1, 0), image_mb=0.0, handles_mb_s=1.0, boot_s=0.5)
    enforces = (TrafficVerdict.ENLARGE,)

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool:
        """Whether a rule enlarges the service that the effect names."""
        enlarges = rule.verdict is TrafficVerdict.ENLARGE
        return enlarges and effect.startswith(f"scaledUp({rule.match.target}, ")

    @plan(ScaledUp)
    def enlarge(self, me: Agent, goal: GoalInstance) -> Body:
        """Give the service the instance's units, while it runs."""
        wanted, instance = goal.goal.predicate, inventory_of(me).get(goal.instance)
        assert isinstance(wanted, ScaledUp)
        if instance is None or instance.vnfd.handles_mb_s is None:
            raise PlanFailed("the instance is gone" if instance is None else "it handles nothing")
        more = {"rate_mb_s": instance.vnfd.handles_mb_s * instance.units}
        rule = TrafficRule(TrafficMatch(target=wanted.ip), TrafficVerdict.ENLARGE, more)
        yield from enforce(me, goal, wanted, rule)

    @plan(ScaledUp, Mode.AVERT)
    def enlarge_no_more(self, me: Agent, goal: GoalInstance) -> Body:
        """Give the units back to the PoP."""
        yield from lift(me, goal.goal.predicate)
