"""The exchange in memory: all identities in one process, on any clock."""

from phalanx.bus.local.exchange import LocalExchange
from phalanx.bus.local.hub import LocalHub, Passage

__all__ = ["LocalExchange", "LocalHub", "Passage"]
