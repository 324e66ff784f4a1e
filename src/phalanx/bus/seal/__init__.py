"""Seals: messages between agents that nobody in between can read, alter, replay or forge."""

from phalanx.bus.seal.frames import (
    HOSTILE,
    OVERHEAD,
    OpenedFrame,
    Reason,
    RefusedFrame,
    SealCounters,
    SealLimits,
)
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
