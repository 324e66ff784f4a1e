"""What the exporters of a simulated service tell: computed from the flows that reach its host.

A service with ``requests_s`` is one queue with exponential times (M/M/1): its mean latency grows
as 1 / (1 - load), up to a queue of ``MOST_WAITING`` requests.
"""

from __future__ import annotations

import numpy as np

from phalanx.domain.actions import Failed, Outcome, ServiceSample
from phalanx.domain.network import PopId
from phalanx.infrastructure.simulated.flows import Connections, Flows
from phalanx.infrastructure.simulated.fluid import Floats, Fluid

MOST_WAITING = 100
"""Requests that wait for a service at most; of more it refuses the rest."""
_DIGITS = 6
_LEAST = 1e-9


class ServiceMetrics:
    """Carries out ``ReadService``."""

    def __init__(self, flows: Flows, fluid: Fluid, connections: Connections) -> None:
        self._flows = flows
        self._fluid = fluid
        self._connections = connections

    def read(self, address: str, now: float) -> Outcome:
        """Return the metrics of the service at ``address`` as they are now."""
        host = self._flows.hosts.get(address)
        limits = None if host is None else host.limits
        if limits is None or limits.requests_s is None:
            return Failed(f"no service at {address} tells its metrics")
        self._flows.prepare()
        fluid, stage = self._fluid, self._flows.processors[address]
        rows = self._flows.towards(address, 0, 1)
        rows = rows[(fluid.delivering[rows] > 0) & ~self._flows.away[rows]]
        delivered = fluid.delivering[rows]
        served = float(np.sum(delivered * self._connections.requests[rows]))
        # Units that were added take so many MB/s, whatever a request's size is.
        added = self._flows.added_mb_s(address) * served / max(float(np.sum(delivered)), _LEAST)
        most = limits.requests_s + added
        load, refused = served / most, float(fluid.dropping[stage])
        opened = int(self._connections.at_home()[rows].sum())
        waits = min(MOST_WAITING, 1.0 / max(1.0 - load, 1.0 / MOST_WAITING))
        figures = {
            "cpu_share": min(load, 1.0),
            "requests_s": served / max(1.0 - refused, 1.0 / MOST_WAITING),
            "refused_share": refused,
            "latency_ms": waits * 1e3 / most,
            "memory_share": self._connections.memory_share(address, now),
            "connections_share": opened / limits.connections,
            "restarts": self._connections.restarts[address],
            "receive_mb_s": float(np.sum(delivered)),
        }
        metrics = {name: round(value, _DIGITS) for name, value in figures.items()}
        return ServiceSample(address, metrics, self._entries(rows, delivered))

    def _entries(self, rows: np.ndarray, delivered: Floats) -> dict[PopId, tuple[float, float]]:
        fluid, ways = self._fluid, self._flows.ways(rows)
        room = np.maximum(fluid.capacity[ways], _LEAST)  # a filter that was just made has none
        queues = fluid.queue[ways] / room
        rtt_ms = 1e3 * np.sum(2.0 * fluid.latency_s[ways] + queues, axis=0)
        at = np.array([self._flows.sources[row].at for row in rows])
        means = {
            pop: (delivered[at == pop].sum(), rtt_ms[at == pop].mean()) for pop in np.unique(at)
        }
        return {
            str(pop): (round(float(mb_s), _DIGITS), round(float(ms), _DIGITS))
            for pop, (mb_s, ms) in means.items()
        }
