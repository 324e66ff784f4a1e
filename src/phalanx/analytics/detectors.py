"""Detectors: a window of series and flow records goes in, findings come out.

A detector is a class without arguments, found by its entry point in the group
``phalanx.detectors``. A network function names the one that it uses (``Capability.detector``),
and a scenario may name another (``functions.<name>.detector``). Of a name with a colon, such as
``model:vcdn``, the entry point is called with what comes after it, and returns such a class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.domain.series import TrafficWindow
from phalanx.loading import installed

GROUP = "phalanx.detectors"
SYN_FLOOD = "syn flood"
UDP_FLOOD = "udp flood"
UDP_FRAGMENTS = "udp fragment flood"
ONE_WAY = {UDP_FLOOD, UDP_FRAGMENTS}
"""Kinds that telemetry and media look like, too."""
ICMP_FLOOD = "icmp flood"
ACK_FLOOD = "ack flood"
SYN_ACK_FLOOD = "syn-ack flood"
RST_FLOOD = "rst flood"
TCP_FRAGMENTS = "tcp fragment flood"
UNCONNECTED = {ACK_FLOOD, SYN_ACK_FLOOD, RST_FLOOD, TCP_FRAGMENTS}
"""Kinds of packets that belong to no connection."""
REFLECTION = "reflection"
SLOW = "slow connections"
SCAN = "scan"
HTTP_FLOOD = "http flood"
SIGNALLING_STORM = "signalling storm"
"""Kinds of attacks that functions treat in ways of their own; any other is taken for a flood."""


class DetectorError(PhalanxError):
    """A detector cannot be had; the message is one line."""


class Finding(Struct, frozen=True):
    """An attack that a detector found."""

    kind: str
    """What it is: one of the kinds above or one of the detector's own."""
    target: str
    """The address that is attacked."""
    source: str | None
    """The address that attacks; None: the finding is about all traffic to the target."""
    certainty: float
    """0 to 1."""
    reason: str
    """Why, as half a sentence about the source or the target."""
    evidence: dict[str, float] = {}
    """The figures behind it, by name."""
    spoofed: bool = False
    """The sources are forged: to block them one by one would be useless."""
    mb_s: float = 0.0
    """Traffic to the target that was seen, in MB/s."""
    prefix: str = ""
    """Of several targets in it together this is certain, not of the target by itself."""


class Detector(Protocol):
    """Finds attacks."""

    def examine(self, window: TrafficWindow) -> list[Finding]:
        """Return what is certain enough to act on, at most one finding for each target alone.

        Args:
            window: what was seen. Its times and lengths are in seconds; its flow records are
                those of a recorder, its series whatever monitors of this agent have.

        """


def load_detector(name: str) -> Detector:
    """Return a new detector of that name: what it learns of a service is its caller's alone.

    Raises:
        DetectorError: if there is none, or it cannot be loaded.

    """
    return detector_class(name)()


@cache
def detector_class(name: str) -> Callable[[], Detector]:
    """Return what makes the detectors of that name; ``cache_clear()``: files are read anew.

    Raises:
        DetectorError: as ``load_detector``.

    """
    points = installed(GROUP)
    entry, _, argument = name.partition(":")
    if entry not in points:
        raise DetectorError(f"no detector {name!r}; known are {', '.join(sorted(points))}")
    try:
        made: Callable[..., Any] = points[entry].load()
        make: Callable[[], Detector] = made(argument) if argument else made
        make()
    except PhalanxError as fault:
        raise DetectorError(f"detector {name!r} cannot be loaded: {fault}") from None
    except Exception as fault:  # whatever a foreign module does as it is imported
        raise DetectorError(
            f"detector {name!r} cannot be loaded: {type(fault).__name__}: {fault}"
        ) from fault
    return make
