"""Service Replica: another instance of an application, which answers a share of what is asked."""

from __future__ import annotations

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Body, PlanFailed
from phalanx.coordination.measures import enforce, inventory_of, lift
from phalanx.domain.goals import Mode
from phalanx.domain.predicates import PlacedNear, Replicated
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd


class ServiceReplica(Capability):
    """Answers in place of a service; each unit as much as the descriptor says that it handles."""

    name = "service-replica"
    vnfd = Vnfd("service-replica", Resources(1, 1, 2), image_mb=200.0, handles_mb_s=1.0, boot_s=2.0)
    enforces = (TrafficVerdict.SERVE,)

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool:
        """Whether a rule answers for the share, or the entry, that the effect names."""
        match = rule.match
        share = Replicated(match.target or "", match.part, match.parts)
        return effect in (str(share), str(PlacedNear(match.target or "", match.entry or "")))

    @plan(Replicated)
    @plan(PlacedNear)
    def answer(self, me: Agent, goal: GoalInstance) -> Body:
        """Answer a share of the sources, dealt by a hash of their address, or an entry's."""
        wanted, instance = goal.goal.predicate, inventory_of(me).get(goal.instance)
        if isinstance(wanted, Replicated):
            match = TrafficMatch(target=wanted.ip, part=wanted.part, parts=wanted.parts)
        else:
            assert isinstance(wanted, PlacedNear)
            match = TrafficMatch(target=wanted.ip, entry=wanted.entry)
        if instance is None or instance.vnfd.handles_mb_s is None:
            raise PlanFailed("the instance is gone" if instance is None else "it handles nothing")
        most = {"rate_mb_s": instance.vnfd.handles_mb_s * instance.units}
        yield from enforce(me, goal, wanted, TrafficRule(match, TrafficVerdict.SERVE, most))

    @plan(Replicated, Mode.AVERT)
    @plan(PlacedNear, Mode.AVERT)
    def answer_no_more(self, me: Agent, goal: GoalInstance) -> Body:
        """Leave it to the service again."""
        yield from lift(me, goal.goal.predicate)
