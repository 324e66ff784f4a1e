"""What to do where the sources of a flood are forged: chosen because agents believe ``Spoofed``."""

from __future__ import annotations

from phalanx.auction.outlook import Outlook
from phalanx.bdi import Adopt, Agent
from phalanx.coordination.measures import PROTECT
from phalanx.domain.goals import want
from phalanx.domain.network import PopId, link_ends
from phalanx.domain.predicates import HandshakesProxied, LinkIp


def answer_for(me: Agent, ip: str) -> Adopt:
    """Return the goal that handshakes with ``ip`` are answered for it, where it is reached."""
    return Adopt(want(HandshakesProxied(ip)), PROTECT, queue=ip, tap=_door(me, ip))


def _door(me: Agent, ip: str) -> PopId:
    """Return the PoP that the traffic towards ``ip`` passes: the last one that is known to."""
    view = me.capability(Outlook).view
    here = me.pop or ""
    for seen in me.beliefs.matching(LinkIp, ip=ip):
        here, end = link_ends(seen.link)
        if view.site(end) is None:  # no PoP, hence the host itself
            return here
    return here
