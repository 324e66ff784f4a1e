"""All of the overlay that stands in one PoP."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from msgspec import Struct

from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.overlay.errors import OverlayError
from phalanx.infrastructure.linux.overlay.guard import ENDPOINTS, Guard
from phalanx.infrastructure.linux.overlay.ipsec import Daemon, Engine
from phalanx.infrastructure.linux.overlay.vxlan import Vxlan

Started = Callable[[PopId, int], None]
"""Is told the PoP and the id of each process started, such as to put it under limits."""

_HALF = ENDPOINTS.num_addresses // 2
_HEALTH_S = 2.0


class Place(Struct, frozen=True):
    """A PoP as the overlay needs it."""

    pop: PopId
    namespace: str
    underlay: str
    """The address under which the other PoPs reach it."""
    address: str
    """Its address in the overlay; all lie in one network of 16 bits."""


class Node:
    """Device, rules and IKE daemon of one PoP. Its methods block.

    Args:
        place: where it is.
        number: its place in the order of PoPs, from 1 to 32,766.
        folder: the run's.
        vni: the VXLAN network identifier.

    """

    def __init__(self, place: Place, number: int, folder: Path, vni: int) -> None:
        self.place = place
        self.number = number
        # Two endpoints, so that a pair can have two associations side by side.
        self.endpoints = tuple(
            str(IPv4Address(int(ENDPOINTS.network_address) + half * _HALF + number))
            for half in (0, 1)
        )
        self._folder = folder / "ike" / str(number)
        self._inside = Inside(place.namespace)
        self.device = Vxlan(self._inside, vni, place.address)
        mark = zlib.crc32(f"{folder.name}/overlay/{place.pop}".encode())
        self.guard = Guard(self._inside, f"phx_{mark:08x}", place.address)
        self.daemon = Daemon(self._folder, place.namespace, folder.name)

    def up(self, engine: Engine, started: Started) -> None:
        """Set it all up, the rules first.

        Raises:
            OverlayError: if a part cannot be.

        """
        self.guard.raise_up(engine)
        self.device.create(self.endpoints)
        self.start(engine, started)

    def start(self, engine: Engine, started: Started) -> None:
        """Start the IKE daemon.

        Raises:
            OverlayError: if it does not answer.

        """
        started(self.place.pop, self.daemon.start(engine))

    def installed(self) -> frozenset[str]:
        """Return the names of the connections that protect traffic now; none if IKE is dead."""
        if self.daemon.pid is None:
            return frozenset()
        try:
            with self.daemon.session(_HEALTH_S) as session:
                return frozenset(
                    name
                    for told in session.list_sas()
                    for name, association in told.items()
                    for child in association["child-sas"].values()
                    if child["state"] == b"INSTALLED"
                )
        except OverlayError:
            return frozenset()

    def shut_out(self, other: Node) -> None:
        """Drop at once whatever comes from or goes to ``other``."""
        self.guard.shut_out((other.place.underlay, other.place.address, *other.endpoints))

    def down(self) -> None:
        """Take it all away, the rules last; for good."""
        with ExitStack() as last_first:  # one that fails keeps none of the others from ending
            last_first.callback(shutil.rmtree, self._folder, ignore_errors=True)
            last_first.callback(self._inside.close)
            last_first.callback(self.guard.lower)
            last_first.callback(self.device.delete)
            last_first.callback(self.daemon.stop)
