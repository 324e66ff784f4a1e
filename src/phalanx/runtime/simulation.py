"""The simulated environment: flows as figures, messages in memory, time that jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from pathlib import Path
from random import Random

from phalanx.bus.memory import MemoryBus
from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.domain.agents import AgentId
from phalanx.domain.network import Network, PopId
from phalanx.domain.rules import TrafficVerdict
from phalanx.infrastructure.simulated import OFFERED, SimulatedNetwork
from phalanx.runtime.environment import BuildContext, Say

_TIMEOUT_S = 0.2
"""First retransmission timeout of TCP, as in Linux; each further one is twice as long."""
_TRIES = 7


class SimulatedEnvironment:
    """The simulated network, a bus in memory, virtual time (or wall-clock time)."""

    def __init__(
        self,
        _say: Say = lambda _: None,
        *,
        clock: WallClock | None = None,
        realtime: float | None = None,
        state: Path | None = None,  # noqa: ARG002  it leaves nothing behind
    ) -> None:
        """Make nothing yet.

        Args:
            clock: of the process, which closes it; None takes one of its own.
            realtime: seconds of the clock of its own per second; None: that one is virtual.
            state: of no use here.

        """
        self._own = WallClock(speed=realtime) if realtime is not None else None
        self.clock = clock or self._own or VirtualClock()
        self._network: SimulatedNetwork | None = None

    @property
    def verdicts(self) -> frozenset[TrafficVerdict]:
        """The verdicts of traffic rules that its network carries out."""
        return OFFERED

    def build(self, context: BuildContext) -> SimulatedNetwork:
        """Make the simulated network."""
        scenario, timing = context.scenario, context.scenario.timing
        self._network = SimulatedNetwork(
            scenario.to_network(),
            scenario.to_sources(context.seed),
            self.clock,
            context.recorder,
            seed=context.seed,
            cause=context.cause,
            tick_s=timing.tick_s,
            sample_s=timing.sample_s,
            watched=tuple(m.link for m in scenario.monitors),
            keep_images=scenario.strategy != "published",
        )
        return self._network

    def bus(self, context: BuildContext) -> MemoryBus:
        """Make the bus in memory, as slow as the network's paths."""
        scenario = context.scenario
        agents = {agent.name: agent.pop for agent in scenario.all_agents()}
        extra_ms = scenario.timing.message_latency_ms
        if scenario.control == "in-band" and self._network is not None:
            latency = self._in_band(self._network, agents, extra_ms, context.seed)
        else:
            latency = _latency(scenario.to_network(), agents, extra_ms)
        return MemoryBus(self.clock, latency=latency, on_shed=context.shed, peers=tuple(agents))

    def _in_band(
        self,
        network: SimulatedNetwork,
        agents: Mapping[AgentId, PopId | None],
        extra_ms: float,
        seed: int,
    ) -> Callable[[AgentId, AgentId], float]:
        """Return how long a message takes over the links, as they are then, beside all traffic.

        As over a TCP connection it is sent again when it is lost, and overtakes none; after
        ``_TRIES`` it is given up.
        """
        rng = Random(f"{seed}/control")
        latest: dict[tuple[AgentId, AgentId], float] = {}

        def latency(sender: str, receiver: str) -> float:
            here, there = agents.get(sender), agents.get(receiver)
            delay, kept = 0.0, 1.0
            if here is not None and there is not None:
                delay, kept = network.way(here, there)
            tries = next((n for n in range(_TRIES) if rng.random() < kept), None)
            if tries is None:
                return inf
            now = self.clock.now()
            due = now + delay + extra_ms / 1e3 + _TIMEOUT_S * float(2**tries - 1)
            due = latest[sender, receiver] = max(due, latest.get((sender, receiver), 0.0))
            return due - now

        return latency

    def close(self) -> None:
        """Let nothing happen any more."""
        if self._network is not None:
            self._network.shutdown()
        if self._own is not None:
            self._own.close()


def _latency(
    network: Network, agents: Mapping[AgentId, PopId | None], extra_ms: float
) -> Callable[[AgentId, AgentId], float]:
    """Return how long a message takes: the least-latency path, and a little for handling.

    From and to an agent that stands at no PoP, it takes as long as the handling.
    """
    search = network.distances(lambda link: link.latency_ms)
    known: dict[AgentId, tuple[dict[PopId, float], Iterator[tuple[PopId, float]]]] = {}

    def latency(sender: AgentId, receiver: AgentId) -> float:
        start, end = agents.get(sender), agents.get(receiver)
        if start is None or end is None:
            return extra_ms / 1e3
        if sender not in known:
            known[sender] = {}, search(start)
        reached, others = known[sender]
        while end not in reached:
            pop, distance_ms = next(others, (end, 0.0))
            reached[pop] = (distance_ms + extra_ms) / 1e3
        return reached[end]

    return latency
