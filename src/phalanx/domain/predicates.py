"""The predicates of the resilience strategy (dissertation, tables 5.1 to 5.5)."""

from __future__ import annotations

from typing import ClassVar

from phalanx.domain.goals import Predicate
from phalanx.domain.network import LinkId, PopId


class OverUsage(Predicate, frozen=True):
    """The traffic over ``link`` exceeds its threshold."""

    link: LinkId


class AnomalousUsage(Predicate, frozen=True):
    """The traffic over ``link`` is malicious. ``part``/``parts``: a share of its sources."""

    link: LinkId
    part: int = 0
    parts: int = 1


class ConnectionFlood(Predicate, frozen=True):
    """More TCP connections are open over ``link`` than its threshold."""

    link: LinkId


class Monitored(Predicate, frozen=True):
    """An agent watches ``link``; a standing goal, never finished."""

    link: LinkId
    threshold_mb_s: float
    """Traffic above this is over-usage."""
    connections: int = 0
    """More open TCP connections than this are a flood; 0: they are not counted."""


class LinkRateLimited(Predicate, frozen=True):
    """The traffic over ``link`` is throttled."""

    link: LinkId


class IpRateLimited(Predicate, frozen=True):
    """The traffic towards the address ``ip`` is throttled."""

    ip: str


class FlowRateLimited(Predicate, frozen=True):
    """The flow from ``source`` to ``target`` (addresses) is blocked."""

    source: str
    target: str


class LinkIp(Predicate, frozen=True):
    """Traffic towards ``ip`` passes ``link``."""

    travels: ClassVar[bool] = True

    link: LinkId
    ip: str


class Anomalous(Predicate, frozen=True):
    """The address ``ip`` is the target of anomalous traffic."""

    ip: str


class FlowRecord(Predicate, frozen=True):
    """The flows towards ``ip`` were recorded and classified, and the threats dealt with."""

    ip: str
    part: int = 0
    parts: int = 1


class Threat(Predicate, frozen=True):
    """The flow from ``source`` to ``target`` is malicious."""

    source: str
    target: str


class Spoofed(Predicate, frozen=True):
    """The sources that flood ``ip`` are forged: blocking by source would be useless."""

    travels: ClassVar[bool] = True

    ip: str


class HandshakesProxied(Predicate, frozen=True):
    """TCP handshakes with ``ip`` are answered for it, and only those completed reach it."""

    at_tap: ClassVar[bool] = True

    ip: str


class SplitTrafficLink(Predicate, frozen=True):
    """The traffic over ``link`` is divided into lighter parts, each analysed."""

    link: LinkId
    part: int = 0
    parts: int = 1


class SplitTrafficTowardsIp(Predicate, frozen=True):
    """The traffic towards ``ip`` is divided into lighter parts, each classified."""

    ip: str
    part: int = 0
    parts: int = 1


class Quiet(Predicate, frozen=True):
    """The limit that makes ``measure`` true has had nothing to hold back for a while."""

    measure: Predicate


class UnderAttack(Predicate, frozen=True):
    """An attack on the address ``ip`` arrives where its service is watched."""

    ip: str


class ServiceBreached(Predicate, frozen=True):
    """The users of ``ip`` get much less from it than usual."""

    ip: str


class EntryScreened(Predicate, frozen=True):
    """What enters the network at ``entry`` towards ``ip`` was looked at, and attacks filtered.

    ``entry`` is empty for all traffic towards ``ip``, wherever it enters.
    """

    near_tap: ClassVar[bool] = True
    ip: str
    entry: PopId


class LinkScreened(Predicate, frozen=True):
    """What passes ``link`` was looked at, and attacks in it reported, whatever their target."""

    near_tap: ClassVar[bool] = True
    link: LinkId


class AttackFiltered(Predicate, frozen=True):
    """An attack on ``ip`` that enters at ``entry`` is dropped; ``what`` names which packets."""

    ip: str
    entry: PopId
    what: str


class ServiceWatched(Predicate, frozen=True):
    """An agent watches the metrics of the service at ``ip``, behind ``link``; never finished."""

    link: LinkId
    ip: str


class ServiceTrouble(Predicate, frozen=True):
    """The service at ``ip`` is in trouble of this ``kind``; ``entry``: for what enters there."""

    ip: str
    kind: str
    entry: PopId = ""


class Replicated(Predicate, frozen=True):
    """A replica of the service at ``ip`` answers share ``part`` of ``parts`` of its sources."""

    ends_with_asker: ClassVar[bool] = True
    ip: str
    part: int
    parts: int


class ScaledUp(Predicate, frozen=True):
    """The service at ``ip`` has more of its PoP's processors than of its own, ``step`` times."""

    at_tap: ClassVar[bool] = True
    ends_with_asker: ClassVar[bool] = True
    ip: str
    step: int


class PlacedNear(Predicate, frozen=True):
    """A replica of the service at ``ip`` answers what enters the network at ``entry``, near it."""

    near_tap: ClassVar[bool] = True
    ends_with_asker: ClassVar[bool] = True
    ip: str
    entry: PopId


class Rerouted(Predicate, frozen=True):
    """What enters at ``entry`` towards ``ip`` takes another way, which is faster."""

    ends_with_asker: ClassVar[bool] = True
    ip: str
    entry: PopId


class OfEntity(Predicate, frozen=True):
    """Base of what is said of one part of a slice: a function, a subnet, the slice itself."""

    slice: str
    entity: str


class Managed(OfEntity, frozen=True):
    """A loop looks after it; a duty of that loop, and of its heir while it does not answer."""


class EntityTrouble(OfEntity, frozen=True):
    """A part of a slice is in trouble of this ``kind``; the set of kinds is open."""

    kind: str


class AttackLoad(OfEntity, frozen=True):
    """Attackers make the load of a part of a slice."""


class ClaimHeld(OfEntity, frozen=True):
    """The agent may act so on a part of a slice, as the loop of that part has agreed."""

    action: str
    effect: str
    """What the action brings about, as the log writes it; empty: the action says it all."""
    because: str


OVERLOADED = "overloaded"
"""Kind of a trouble: a function has more to do than it can."""


class SignallingWatched(Predicate, frozen=True):
    """An agent counts what devices ask the AMF at ``ip`` for that enters at ``entry``."""

    ip: str
    entry: PopId


class Firewalled(OfEntity, frozen=True):
    """Nothing passes to ``target`` that agrees with all that is given here.

    A loop wants it for what it looks after, and passes it on to the agent of the function's PoP.
    An agent that is no loop may leave slice and entity empty.
    """

    target: str
    """Address."""
    protocol: str = ""
    """tcp or udp; empty: both."""
    port: int = 0
    """At the target, with a protocol; 0: all."""
    source: str = ""
    """Address; empty: all."""


class Encrypted(OfEntity, frozen=True):
    """What goes to ``target`` crosses all links up to the PoP that it stands at encrypted.

    A loop wants it for what it looks after, and passes it on to the agent of the function's PoP.
    An agent of that PoP that is no loop may leave slice and entity empty.
    """

    at_tap: ClassVar[bool] = True
    target: str
    """Address."""


class PolicyKept(Predicate, frozen=True):
    """The rules of the policy are in force for what goes to ``ip``, and it is watched."""

    at_tap: ClassVar[bool] = True
    ip: str


class Remedied(OfEntity, frozen=True):
    """Where the function stands, something was done about a term that is broken."""

    metric: str
    """What the term is about."""
    remedy: str
    """What is to be done, as agreements name it."""
