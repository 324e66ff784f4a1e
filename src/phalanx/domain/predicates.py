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
