"""The simulated world: flows as figures, messages in memory, time that jumps."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx

from phalanx.bus.memory import MemoryBus
from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.domain.network import Network
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.runtime.world import Frame


class SimulatedWorld:
    """The simulated network, a bus in memory, virtual time (or wall-clock time)."""

    def __init__(self, realtime: float | None = None) -> None:
        """Choose the clock: None for virtual time, else seconds of the run per second."""
        self.clock: VirtualClock | WallClock = (
            VirtualClock() if realtime is None else WallClock(speed=realtime)
        )

    def build(self, frame: Frame) -> tuple[SimulatedNetwork, MemoryBus]:
        """Make the simulated network and the bus in memory."""
        scenario, timing = frame.scenario, frame.scenario.timing
        network = SimulatedNetwork(
            frame.network,
            scenario.to_sources(frame.seed),
            self.clock,
            Recorder("network", frame.log, self.clock.now),
            seed=frame.seed,
            cause=frame.cause,
            tick_s=timing.tick_s,
            sample_s=timing.sample_s,
            watched=tuple(m.link for m in scenario.monitors),
        )
        bus = MemoryBus(
            self.clock,
            latency=_latency(frame.network, timing.message_latency_ms),
            on_shed=frame.shed,
            peers=tuple(sorted(pop.name for pop in frame.network.pops)),
        )
        return network, bus

    def close(self) -> None:
        """Nothing stays behind."""


def _latency(network: Network, extra_ms: float) -> Callable[[str, str], float]:
    """Return how long a message takes: the least-latency path, and a little for handling."""
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(pop.name for pop in network.pops)
    graph.add_weighted_edges_from((link.a, link.b, link.latency_ms) for link in network.links)
    known: dict[str, dict[str, float]] = {}

    def latency(sender: str, receiver: str) -> float:
        from_here = known.get(sender)
        if from_here is None:
            lengths = nx.single_source_dijkstra_path_length(graph, sender)
            from_here = known[sender] = {to: (ms + extra_ms) / 1e3 for to, ms in lengths.items()}
        return from_here.get(receiver, extra_ms / 1e3)

    return latency
