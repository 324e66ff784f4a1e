"""Seals: messages between agents that nobody in between can read, alter, replay or forge."""

from phalanx.bus.seal.frames import OVERHEAD
from phalanx.bus.seal.limits import SealLimits
from phalanx.bus.seal.outcome import HOSTILE, OpenedFrame, Reason, RefusedFrame, SealCounters
from phalanx.bus.seal.seal import Seal

__all__ = [
    "HOSTILE",
    "OVERHEAD",
    "OpenedFrame",
    "Reason",
    "RefusedFrame",
    "Seal",
    "SealCounters",
    "SealLimits",
]
