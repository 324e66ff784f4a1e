"""The servers of a domain, in the order in which one process tries them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from phalanx.bus.client import BrokerError

Server = tuple[str, int]
"""Host and port."""

_DOUBTED_S = 30.0
"""How long others are preferred to a server that failed."""


class ServerPool:
    """Takes turns among servers, in an order of its own; those in doubt come last."""

    def __init__(self, servers: Sequence[Server]) -> None:
        """Begin with all of them, none in doubt.

        Raises:
            BrokerError: if no server is named.

        """
        if not servers:
            raise BrokerError("no server is named to connect to")
        self._order = random.sample(servers, len(servers))
        self._doubted: dict[Server, float] = {}

    def next(self, now: float) -> Server:
        """Return the server that was not tried for longest, rather one that is not in doubt."""
        chosen = min(self._order, key=lambda server: self._doubted.get(server, now) > now)
        self._order.remove(chosen)
        self._order.append(chosen)
        return chosen

    def doubt(self, server: Server, now: float) -> None:
        """Prefer others for a while, as long as there are any."""
        self._doubted[server] = now + _DOUBTED_S

    def trust(self, server: Server) -> None:
        """Doubt no more."""
        self._doubted.pop(server, None)
