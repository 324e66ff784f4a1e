"""Bulletin: publishes who attacks, so that others can block them too."""

from phalanx.bdi.capability import Capability, plan, when
from phalanx.bdi.steps import Adopt, Believe, Note
from phalanx.domain.goals import Predicate, want
from phalanx.domain.predicates import Threat
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd


class Published(Predicate, frozen=True):
    """The attacker with the address ``source`` is published."""

    source: str


class Bulletin(Capability):
    """Takes up every threat that any agent finds."""

    name = "bulletin"
    vnfd = Vnfd("bulletin", Resources(cores=1, memory_gb=0.5, disk_gb=1), image_mb=40)

    @when(Threat, always=True)
    def make_known(self, me, threat):
        """An agent that comes to believe in a threat wants it published."""
        yield Adopt(want(Published(threat.source)))

    @plan(Published)
    def publish(self, me, goal):
        """Write it into the log, and believe that it is done."""
        published = goal.goal.predicate
        yield Note("threat.published", {"source": published.source, "at": me.name})
        yield Believe(published)
