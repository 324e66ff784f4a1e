"""Firewall: a packet filter that closes an address, a port of it, or either for one source.

Source: seed 002, II.A: "The ES can trigger the deployment of specific Virtual Security Functions
(VSFs), such as vFirewall". It is a rule of a match and the verdict ``drop``; over real packets an
nftables rule at the instance, under a lease that the kernel ends.
"""

from __future__ import annotations

from phalanx.bdi.capability import Capability
from phalanx.coordination.measures import keeping
from phalanx.domain.predicates import Firewalled
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd


def rule_of(closed: Firewalled) -> TrafficRule:
    """Return what a closed passage means for packets."""
    match = TrafficMatch(
        source=closed.source or None,
        target=closed.target,
        port=closed.port or None,
        protocol=closed.protocol or None,
    )
    return TrafficRule(match, TrafficVerdict.DROP)


class Firewall(Capability):
    """Closes passages for as long as they are wanted closed."""

    name = "firewall"
    vnfd = Vnfd("firewall", Resources(0.5, 0.5, 1), image_mb=20.0, boot_s=0.2, shared=True)
    enforces = (TrafficVerdict.DROP,)

    @classmethod
    def confirms(cls, effect: str, rule: TrafficRule) -> bool:
        """Whether a rule closes what the effect names, for whichever slice."""
        match = rule.match
        closed = match.target or "", match.protocol or "", match.port or 0, match.source or ""
        named = str(Firewalled("", "", *closed)).removeprefix("firewalled(, ")
        begins = effect.startswith("firewalled(") and effect.endswith(f", {named}")
        return begins and effect.count(",") == 5 and rule == rule_of(Firewalled("", "", *closed))

    put_in_force, take_back = keeping(Firewalled, rule_of)
