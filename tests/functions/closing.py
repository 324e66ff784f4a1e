"""An operator's agent that closes a port for a while, for runs over real packets.

It also wants what goes to the server encrypted.
"""

from phalanx.bdi.capability import Capability, starts
from phalanx.bdi.steps import Adopt
from phalanx.domain.goals import avert, want
from phalanx.domain.predicates import Encrypted, Firewalled
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

CLOSED = Firewalled("", "", "10.0.6.10", "tcp", 8080)
SECRET = Encrypted("", "", "10.0.6.10")


class Closing(Capability):
    """Wants the port closed after five seconds, and open again after twelve."""

    name = "closing"
    vnfd = Vnfd("closing", Resources(0.1, 0.1, 0.1), image_mb=1)

    @starts
    def begin(self, me):
        if me.name == "closing":  # all agents know what is in the repository
            me.call_at(me.now + 5, lambda: [Adopt(want(CLOSED)), Adopt(want(SECRET))])
            me.call_at(me.now + 12, lambda: [Adopt(avert(CLOSED))])
