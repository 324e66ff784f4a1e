"""TCP connections: how many are open, and whom those that never end keep out.

A server has room for ``ROOM`` connections at a time. Honest ones come and go; a source whose
profile ``holds`` its own never finishes a request, so that they stay. While such sources hold
all the room of a host, nobody else gets in: honest TCP sources get nothing across. Connections
end at once when nothing of their source gets through any more.
"""

from __future__ import annotations

import numpy as np

from phalanx.domain.network import LinkId
from phalanx.infrastructure.simulated.flows import Flows, Rows
from phalanx.infrastructure.simulated.fluid import Fluid

ROOM = 512
"""Connections that a host serves at a time."""


class Connections:
    """Counts the connections of the flows; follows the fluid one tick behind."""

    def __init__(self, flows: Flows, fluid: Fluid) -> None:
        self._flows = flows
        self._fluid = fluid
        profiles = [source.profile for source in flows.sources]
        hosts = list(flows.hosts)
        self._open = np.array([profile.connections for profile in profiles], dtype=np.int64)
        self._holds = np.array([profile.holds for profile in profiles], dtype=bool)
        self._kept_out = ~self._holds & np.array([p.protocol == "tcp" for p in profiles], bool)
        self._host = np.array([hosts.index(s.target) for s in flows.sources], dtype=np.intp)
        self._over: dict[LinkId, tuple[int, Rows]] = {}
        """Rows over a link, and the version of the routes for which that is so."""

    def settle(self) -> None:
        """Keep honest sources out where there is no room; to be called before each tick."""
        if self._holds.any():
            held = np.bincount(self._host, self._now_open() * self._holds)
            self._flows.keep_out((held[self._host] >= ROOM) & self._kept_out)

    def over(self, link: LinkId) -> int:
        """Return how many connections are open over ``link``."""
        self._flows.prepare()
        version, rows = self._over.get(link, (-1, None))
        if rows is None or version != self._flows.version:
            rows = self._flows.over(link, 0, 1)
            self._over[link] = self._flows.version, rows
        return int(self._now_open()[rows].sum())

    def _now_open(self) -> np.ndarray:
        return self._open * (self._fluid.delivering[: len(self._open)] > 0)
