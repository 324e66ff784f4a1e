"""One auction from end to end, beside bare queues and beside SPADE. In work."""

from __future__ import annotations

import random
import statistics
import time
from itertools import count

from msgspec.structs import replace

from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import GoalPolicy, Settings
from phalanx.auction.view import NetworkView
from phalanx.bdi import Adopt, Agent, Believe, Capability, GoalInstance, plan
from phalanx.bdi.library import Library
from phalanx.bdi.steps import Body
from phalanx.bus.memory import MemoryBus
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.events import Recorder
from phalanx.domain.goals import Constraints, Predicate, Preferences, want
from phalanx.domain.network import Link, Network, Pop, PopState
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd
from phalanx.functions.anomaly_detector import AnomalyDetector
from phalanx.functions.classifier import Classifier
from phalanx.functions.link_monitor import LinkMonitor
from phalanx.functions.load_balancer import LoadBalancer
from phalanx.functions.rate_limiter import RateLimiter
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.runtime.catalogue import BUILT_IN
from phalanx.runtime.node import Node, make_agent
from phalanx.store.memory import EventLog


class Handled(Predicate, frozen=True):
    number: int


class Handler(Capability):
    name = "handler"
    vnfd = Vnfd("handler", Resources(1, 2, 10), image_mb=0.0, shared=True)

    @plan(Handled)
    def handle(self, me: Agent, goal: GoalInstance) -> Body:
        yield Believe(goal.goal.predicate)


def ring(size):
    return [(i, (i + 1) % size) for i in range(size)]


def mesh(rng, size):
    links = {(rng.randrange(i), i) for i in range(1, size)}
    wanted = min(2 * size, size * (size - 1) // 2)
    while len(links) < wanted:
        a, b = sorted(rng.sample(range(size), 2))
        links.add((a, b))
    return sorted(links)


class CountingBus(MemoryBus):
    pass


class Market:
    def __init__(self, size, ends, rng, traffic=0.0):
        names = [f"pop{i:04d}" for i in range(size)]
        pops = tuple(Pop(n, Resources(64, 256, 5000)) for n in names)
        links = tuple(
            Link(names[a], names[b], rng.uniform(200, 1000), rng.uniform(1, 20), 0.001)
            for a, b in ends
        )
        self.network = Network(pops, links, (), names[0])
        self.clock = VirtualClock()
        self.log = EventLog()
        recorder = Recorder("network", self.log, self.clock.now)
        self.infra = SimulatedNetwork(
            self.network, (), self.clock, recorder, seed=1, cause="run-1", sample_s=1e6
        )
        library = Library(
            [*BUILT_IN, AnomalyDetector, Classifier, Handler, LinkMonitor, LoadBalancer, RateLimiter]
        )
        self.settings = Settings(
            peers=tuple(names),
            repository=names[0],
            catalogue={c.name: c.vnfd for c in library.capabilities.values() if c.vnfd},
            policies={"default": GoalPolicy(Constraints(), Preferences(0.4, 0.4, 0.2))},
            heartbeat_s=1e5,
            gossip_s=1e5,
            silence_s=1e6,
            lease_s=1e6,
            probe_s=1e4,
        )
        self.bus = MemoryBus(self.clock, capacity=100_000)
        view = NetworkView.EMPTY.apply_all(
            PopState(n, 1, 0, s.total, s.free, s.links)
            for n in names
            for s in [self.infra.site(n)]
        )
        self.nodes = {}
        for n in names:
            agent = make_agent(n, library, self.settings, self.log, parameters={})
            agent.capability(Outlook).view = view
            self.nodes[n] = Node(agent, self.clock, self.bus, self.infra)
        for node in self.nodes.values():
            node.start("run-1")
        # one view for all
        for node in self.nodes.values():
            node.agent.capability(Outlook).settings = replace(self.settings, peers=())
        self.clock.run(self.clock.now())
        for node in self.nodes.values():
            node.agent.capability(Outlook).settings = self.settings
        self.numbers = count(1)
        self.versions = count(1000)
        self.tap = names[size // 3]
        self.traffic = traffic

    def share_view(self, fresh):
        view = NetworkView.EMPTY.apply_all(
            PopState(n, 1, next(self.versions) if fresh else 999, s.total, s.free, s.links)
            for n in self.nodes
            for s in [self.infra.site(n)]
        )
        for node in self.nodes.values():
            node.agent.capability(Outlook).view = view

    def auction(self):
        node = self.nodes[self.tap]
        ends = []
        agent = node.agent
        agent.cause = "run-1"
        goal = agent.adopt(Adopt(want(Handled(next(self.numbers))), traffic_mb_s=self.traffic))
        goal.waiters.append(ends.append)
        before = sum(self.bus._sent.values())
        begin = time.perf_counter()
        node.carry_out(agent.take_on(Adopt(goal.goal), self.clock.now()))
        self.clock.run(self.clock.now())
        took = time.perf_counter() - begin
        assert ends and ends[0].achieved, ends
        return took, sum(self.bus._sent.values()) - before


if __name__ == "__main__":
    rng = random.Random(1)
    for traffic in (0.0, 0.05):
      for size in (6, 24, 96, 1000):
        for label, ends in (("ring", ring(size)), ("mesh", mesh(rng, size))):
            market = Market(size, ends, rng, traffic)
            first = market.auction()
            reps = 20 if size < 1000 else 3
            warm = []
            market.share_view(True)
            market.auction()
            for _ in range(reps):
                warm.append(market.auction())
            cold = []
            for _ in range(reps):
                market.share_view(True)
                cold.append(market.auction())
            ms = lambda xs: "%8.2f min %8.2f" % (1e3*statistics.median(t for t,_ in xs), 1e3*min(t for t,_ in xs))
            print(traffic, label, size, 3 * size + 1, set(n for _, n in warm+cold), "first %.2f"%(1e3*first[0]), "warm", ms(warm), "cold", ms(cold), flush=True)
