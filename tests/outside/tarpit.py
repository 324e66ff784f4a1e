"""A tarpit: what a threat sends is held for a while, and little of it goes on."""

from phalanx.bdi.capability import Capability, plan, when
from phalanx.bdi.steps import Adopt
from phalanx.coordination.measures import enforce, inventory_of, lift, lift_when_quiet
from phalanx.domain.goals import Mode, Predicate, want
from phalanx.domain.predicates import Quiet, Threat
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd


class Tarpitted(Predicate, frozen=True):
    """What ``source`` sends to ``target`` is slowed down."""

    source: str
    target: str


def of_tarpit(me, goal):
    """Whether a goal to find a measure quiet is about a tarpit."""
    return isinstance(goal.goal.predicate.measure, Tarpitted)


class Tarpit(Capability):
    """Slows down every flow that any agent finds to be a threat."""

    name = "tarpit"
    vnfd = Vnfd("tarpit", Resources(cores=0.5, memory_gb=0.5, disk_gb=1), image_mb=20, shared=True)
    enforces = (TrafficVerdict.DELAY,)
    parameters = {"tarpit_ms": 300.0, "tarpit_mb_s": 0.01}  # noqa: RUF012

    @when(Threat, always=True)
    def slow_down(self, me, threat):
        """Want a tarpit for each threat."""
        yield Adopt(want(Tarpitted(threat.source, threat.target)))

    @plan(Tarpitted)
    def hold(self, me, goal):
        """Put the rule into force: a delay, and a limit."""
        wanted = goal.goal.predicate
        match = TrafficMatch(source=wanted.source, target=wanted.target)
        figures = {
            "delay_ms": me.parameter(self, "tarpit_ms"),
            "rate_mb_s": me.parameter(self, "tarpit_mb_s"),
        }
        yield from enforce(me, goal, wanted, TrafficRule(match, TrafficVerdict.DELAY, figures))

    @plan(Tarpitted, Mode.AVERT)
    def let_go(self, me, goal):
        """Take the rule back."""
        yield from lift(me, goal.goal.predicate)

    @when(Tarpitted)
    def watch(self, me, tarpitted):
        """Find out when an own tarpit has nothing to do any more."""
        if inventory_of(me).holder(tarpitted) is not None:
            yield Adopt(want(Quiet(tarpitted)))

    @plan(Quiet, local=True, applies=of_tarpit)
    def wait_for_quiet(self, me, goal):
        """Lift the tarpit once nothing has run into it for two seconds."""
        yield from lift_when_quiet(me, goal.goal.predicate, quiet_s=2.0, interval_s=0.5)
