"""The network among agents: VXLAN between the PoPs, encrypted below with pre-shared secrets."""

from phalanx.infrastructure.linux.overlay.errors import OverlayError
from phalanx.infrastructure.linux.overlay.ipsec import Engine
from phalanx.infrastructure.linux.overlay.keys import KeyProvider, LocalKeys
from phalanx.infrastructure.linux.overlay.node import Place
from phalanx.infrastructure.linux.overlay.overlay import Overlay

__all__ = ["Engine", "KeyProvider", "LocalKeys", "Overlay", "OverlayError", "Place"]
