"""A crowd of whole agents: they evaluate, hold, propose, award and work, over sealed NATS.

The infrastructure of each stands in its own process: a simulated network, at which it holds
resources and a path for each bid, and lets them go. The log of causes of each is kept in
memory. Periodic work (heartbeats, gossip, renewals) is put off: it is no part of an auction.
"""

from __future__ import annotations

import random
from functools import partial
from multiprocessing.connection import Connection

from msgspec.structs import replace

from contract_net import Handled
from crowd import AUCTIONEER, Holding
from crowd_bus import Bus as Buses
from crowd_bus import live
from market import NEVER_S, ROOT, Market, mesh, network_of, terms, view_of
from phalanx.auction.outlook import Outlook
from phalanx.bdi.goals import GoalEnd
from phalanx.bdi.steps import Adopt
from phalanx.bus import Bus
from phalanx.bus.memory import MemoryBus
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.domain.goals import want
from phalanx.domain.messages import Message
from phalanx.domain.network import PopId
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.runtime.composition import make_agent
from phalanx.runtime.node import Node
from phalanx.store.memory import EventLog

EVENTS = 10_000
"""That an agent remembers."""
TRAFFIC_MB_S = 0.05
PATIENCE_S = 60.0


class Agents(Buses):
    """A BDI agent in each process, with all capabilities of the house."""

    def bidder(self, number: int, orders: Connection) -> None:
        """Be a bidder; see ``crowd.Way``."""
        clock, exchange, bus = self.attend(self.names[number])
        self._node(self.names[number], clock, bus, peers=())
        live(clock, exchange, orders)

    def auctioneer(self, orders: Connection) -> None:
        """Be the auctioneer; see ``crowd.Way``."""
        clock, exchange, bus = self.attend(AUCTIONEER)
        node = self._node(AUCTIONEER, clock, bus, peers=self.names)

        def begin(number: int) -> None:
            node.agent.cause = ROOT
            adopt = Adopt(want(Handled(number)), traffic_mb_s=TRAFFIC_MB_S)
            node.agent.adopt(adopt).waiters.append(partial(ended, number))
            node.carry_out(node.agent.take_on(adopt, clock.now()))

        def ended(number: int, end: GoalEnd) -> None:
            assert end.achieved, end
            clock.call_soon(partial(holding.ended, number))

        holding = Holding(begin, orders, lambda: sum(bus.sent.values()) + bus.delivered)
        live(clock, exchange, orders, holding.hold)

    def _node(self, name: PopId, clock: WallClock, bus: Bus, peers: tuple[PopId, ...]) -> Node:
        """Return an agent that lives, and knows the network as if it had heard of all PoPs."""
        names = (*self.names, AUCTIONEER)
        library, settings = terms(names)
        log = EventLog(keep=EVENTS)
        network = SimulatedNetwork(
            network_of(mesh(len(names), random.Random(len(names))), names),
            (),
            clock,
            Recorder("network", log, clock.now),
            seed=1,
            cause=ROOT,
            sample_s=NEVER_S,
        )
        settings = replace(settings, peers=(), deadline_s=PATIENCE_S, idle_s=NEVER_S)
        agent = make_agent(name, library, settings, log, parameters={}, pop=name)
        node = Node(agent, clock, bus, network)
        node.start(ROOT)
        clock.run(clock.now())
        settings.peers = peers
        agent.capability(Outlook).view = view_of(network, names, version=1)
        return node


class Heard(MemoryBus):
    """A bus that keeps what is said."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.said: list[Message] = []

    def send(self, message: Message) -> None:
        """Keep a message, and carry it."""
        self.said.append(message)
        super().send(message)


def auction_of(size: int) -> list[Message]:
    """Return what is said in an auction with so many bidders, for others to say the like."""
    market = Market(mesh(size + 1, random.Random(size + 1)), size + 1, bus=Heard)
    bus = market.bus
    assert isinstance(bus, Heard)
    market.auction()
    bus.said.clear()
    market.auction()
    return bus.said
