"""Agents that hold auctions: the real ones, in one process, on a network built to order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from msgspec.structs import replace

from contract_net import Handled
from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import GoalPolicy, Settings
from phalanx.auction.view import NetworkView
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, Library, plan
from phalanx.bdi.goals import GoalEnd, GoalInstance
from phalanx.bdi.steps import Adopt, Believe, Body
from phalanx.bus.memory import MemoryBus
from phalanx.clock import Clock
from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.domain.agents import AgentState
from phalanx.domain.events import Recorder
from phalanx.domain.goals import Constraints, Preferences, want
from phalanx.domain.network import Link, Network, Pop, PopId
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd
from phalanx.functions.anomaly_detector import AnomalyDetector
from phalanx.functions.classifier import Classifier
from phalanx.functions.link_monitor import LinkMonitor
from phalanx.functions.load_balancer import LoadBalancer
from phalanx.functions.rate_limiter import RateLimiter
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.runtime.catalogue import BUILT_IN
from phalanx.runtime.composition import make_agent
from phalanx.runtime.node import Node
from phalanx.store.memory import EventLog

Ends = list[tuple[int, int]]

NEVER_S = 1e6
"""Later than any auction: what agents do by the clock is no part of one."""

ROOT = "run-1"


class Handler(Capability):
    """A network function that is done as soon as it runs: what is left is the auction."""

    name = "handler"
    vnfd = Vnfd("handler", Resources(1, 2, 10), image_mb=0.0, shared=True)

    @plan(Handled)
    def handle(self, me: Agent, goal: GoalInstance) -> Body:  # noqa: ARG002
        """Believe it."""
        yield Believe(goal.goal.predicate)


NETWORK_FUNCTIONS: tuple[type[Capability], ...] = (
    AnomalyDetector,
    Classifier,
    Handler,
    LinkMonitor,
    LoadBalancer,
    RateLimiter,
)


def ring(size: int) -> Ends:
    """Link each PoP to the next."""
    return [(i, (i + 1) % size) for i in range(size)]


def mesh(size: int, rng: random.Random) -> Ends:
    """Link each PoP to an earlier one, then as many more at random: a mean degree of four."""
    links = {(rng.randrange(i), i) for i in range(1, size)}
    wanted = min(2 * size, size * (size - 1) // 2)
    while len(links) < wanted:
        a, b = sorted(rng.sample(range(size), 2))
        links.add((a, b))
    return sorted(links)


def network_of(ends: Ends, names: Sequence[PopId]) -> Network:
    """Return a network of PoPs; the first one has the repository."""
    rng = random.Random(len(names))
    pops = tuple(Pop(name, Resources(64, 256, 5000)) for name in names)
    links = tuple(
        Link(names[a], names[b], rng.uniform(200, 1000), rng.uniform(1, 20), 0.001) for a, b in ends
    )
    return Network(pops, links, (), names[0])


def terms(
    names: Sequence[PopId], functions: Sequence[type[Capability]] = ()
) -> tuple[Library, Settings]:
    """Return what agents know, and on which terms they hold auctions."""
    network_functions = (*NETWORK_FUNCTIONS, *functions)
    settings = Settings(
        peers=tuple(names),
        repository=names[0],
        catalogue={f.name: f.vnfd for f in network_functions if f.vnfd is not None},
        policies={"default": GoalPolicy(Constraints(), Preferences(0.4, 0.4, 0.2))},
        lease_s=NEVER_S,
        probe_s=NEVER_S,
        heartbeat_s=NEVER_S,
        silence_s=NEVER_S,
        gossip_s=NEVER_S,
    )
    return Library([*BUILT_IN, *network_functions]), settings


def view_of(network: SimulatedNetwork, names: Iterable[PopId], version: int) -> NetworkView:
    """Return what an agent knows that has heard of all PoPs."""
    sites = ((name, network.site(name)) for name in names)
    return NetworkView.EMPTY.apply_all(
        AgentState(name, name, 1, version, site.total, site.free, site.links)
        for name, site in sites
    )


def spacious(clock: Clock) -> MemoryBus:
    """Return a bus for any number of agents."""
    return MemoryBus(clock, capacity=100_000)


class Market:
    """One agent a PoP on a bus without latency, so that an auction is one instant.

    The agents have all capabilities of the house and one more. Their periodic work
    (heartbeats, gossip, renewals) is put off: it is no part of an auction.
    """

    def __init__(
        self,
        ends: Ends,
        size: int,
        clock: VirtualClock | WallClock | None = None,
        functions: Sequence[type[Capability]] = (),
        traffic_mb_s: float = 0.05,
        bus: Callable[[Clock], MemoryBus] = spacious,
    ) -> None:
        names = [f"pop{number:04d}" for number in range(size)]
        self.clock: VirtualClock | WallClock = VirtualClock() if clock is None else clock
        self.log = EventLog()
        self.network = SimulatedNetwork(
            network_of(ends, names),
            (),
            self.clock,
            Recorder("network", self.log, self.clock.now),
            seed=1,
            cause=ROOT,
            sample_s=NEVER_S,
        )
        library, settings = terms(names, functions)
        self.bus = bus(self.clock)
        self.nodes: dict[PopId, Node] = {}
        for name in names:
            agent = make_agent(name, library, settings, self.log, parameters={}, pop=name)
            self.nodes[name] = Node(agent, self.clock, self.bus, self.network)
        self.tap = names[size // 3]
        self._traffic_mb_s = traffic_mb_s
        self._requests = count(1)
        self._versions = count(1)
        self._tell_all(settings)

    def change_view(self) -> None:
        """Let all agents believe news of the network, so that no search is remembered."""
        view = view_of(self.network, self.nodes, next(self._versions))
        for node in self.nodes.values():
            node.agent.capability(Outlook).view = view

    def auction(self) -> tuple[float, int]:
        """Hold one auction; return the seconds it took and the messages that were sent."""
        ends: list[GoalEnd] = []
        node = self.nodes[self.tap]
        node.agent.cause = ROOT
        adopt = Adopt(want(Handled(next(self._requests))), traffic_mb_s=self._traffic_mb_s)
        before = sum(self.bus.sent.values())
        begin = time.perf_counter()
        goal = node.agent.adopt(adopt)
        goal.waiters.append(ends.append)
        node.carry_out(node.agent.take_on(adopt, self.clock.now()))
        self._run()
        took = time.perf_counter() - begin
        assert ends
        assert ends[0].achieved, ends[0]
        return took, sum(self.bus.sent.values()) - before

    def _run(self) -> None:
        self.clock.run(self.clock.now())

    def _tell_all(self, settings: Settings) -> None:
        """Start the agents as if each had heard of all others long ago."""
        alone = replace(settings, peers=())
        for node in self.nodes.values():
            node.agent.capability(Outlook).settings = alone
            node.start(ROOT)
        self.change_view()
        self._run()
        for node in self.nodes.values():
            node.agent.capability(Outlook).settings = settings
        self.change_view()
