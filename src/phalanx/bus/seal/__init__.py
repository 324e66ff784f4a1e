"""Seals: messages between agents that nobody in between can read, alter, replay or forge."""

from phalanx.bus.seal.frames import OVERHEAD
from phalanx.bus.seal.limits import Limits
from phalanx.bus.seal.outcome import HOSTILE, Counters, Opened, Reason, Refused
from phalanx.bus.seal.seal import Seal

__all__ = ["HOSTILE", "OVERHEAD", "Counters", "Limits", "Opened", "Reason", "Refused", "Seal"]
