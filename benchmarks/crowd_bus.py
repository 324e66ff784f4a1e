"""Crowds that speak over NATS with mutual TLS, without agents: what the transport alone costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec.structs import replace

from contract_net import ANSWERS, Caller, Saying, head, headed, samples
from crowd import AUCTIONEER, Hold, Holding, bidders, obey
from phalanx.bus import subjects
from phalanx.bus.agents import AgentBus
from phalanx.bus.client import Delivery
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.seal import Seal
from phalanx.bus.wire import decode
from phalanx.clock.wall import WallClock
from phalanx.domain.messages import Message, Performative
from phalanx.identity.credentials import Files, tls_context
from phalanx.identity.names import Role
from phalanx.runtime.domain.spec import Bundle, read_bundle
from phalanx.runtime.processes.testbed import ProcessTestbed

FOR_EVER_S = 1e9


class Nats:
    """A NATS server, and an identity for each process; what is spoken says a subclass."""

    def __init__(self, folder: Path, size: int) -> None:
        self.names = bidders(size)
        self.samples = samples(folder.parent)
        self._testbed = ProcessTestbed(
            folder, [(name, Role.AGENT) for name in (AUCTIONEER, *self.names)]
        )

    def servers(self) -> Iterable[int]:
        """Return the servers; see ``crowd.Way``."""
        return [server.pid for server in self._testbed.brokers.servers if server.pid is not None]

    def close(self) -> None:
        """Stop them; see ``crowd.Way``."""
        self._testbed.close()

    def join(self, name: str) -> tuple[WallClock, NatsClient, Bundle]:
        """Return a connected exchange of an identity, with its clock and what it is known by."""
        path = self._testbed.bus(name)
        bundle, clock = read_bundle(path), WallClock()
        tls = tls_context(Files.of(path.parent))
        exchange = NatsClient(bundle.identity, clock, bundle.servers, tls)
        exchange.ready(60.0)
        return clock, exchange, bundle


def live(
    clock: WallClock,
    exchange: NatsClient,
    orders: Connection,
    hold: Callable[[Hold], None] | None = None,
) -> None:
    """Run until told to end."""
    over: list[bool] = []

    def end() -> None:
        over.append(True)
        clock.call_soon(lambda: None)  # so that the clock asks

    obey(clock.loop, orders, end, hold)
    clock.run(FOR_EVER_S, lambda: bool(over))
    exchange.finish(1.0)
    clock.close()


class Bare(Nats):
    """Octets from exchange to exchange: NATS with its client, and nothing above."""

    def bidder(self, number: int, orders: Connection) -> None:
        """Be a bidder; see ``crowd.Way``."""
        clock, exchange, bundle = self.join(self.names[number])
        domain, name = bundle.identity.domain, bundle.identity.name
        to = subjects.message(domain, AUCTIONEER, name)

        def hear(delivery: Delivery) -> None:
            performative, auction = head(delivery.payload)
            answer = ANSWERS.get(performative)
            if answer is not None:
                exchange.publish(to, headed(answer, auction, self.samples[answer]))

        exchange.subscribe(subjects.pattern(domain, "msg", name, subjects.ONE), hear)
        live(clock, exchange, orders)

    def auctioneer(self, orders: Connection) -> None:
        """Be the auctioneer; see ``crowd.Way``."""
        clock, exchange, bundle = self.join(AUCTIONEER)
        domain = bundle.identity.domain
        to = {name: subjects.message(domain, name, AUCTIONEER) for name in self.names}
        caller = Caller(self.names)
        messages = 0

        def say(sayings: list[Saying]) -> None:
            nonlocal messages
            messages += len(sayings)
            for saying in sayings:
                octets = self.samples[saying.performative]
                exchange.publish(to[saying.to], headed(saying.performative, saying.auction, octets))

        def hear(delivery: Delivery) -> None:
            nonlocal messages
            messages += 1
            performative, auction = head(delivery.payload)
            sayings = caller.hear(performative, auction)
            if sayings is None:
                holding.ended(auction)
            else:
                say(sayings)

        holding = Holding(lambda number: say(caller.begin(number)), orders, lambda: messages)
        exchange.subscribe(subjects.pattern(domain, "msg", AUCTIONEER, subjects.ONE), hear)
        live(clock, exchange, orders, holding.hold)


class Bus(Nats):
    """Messages from bus to bus, sealed from end to end."""

    def attend(self, name: str) -> tuple[WallClock, NatsClient, AgentBus]:
        """Return the bus of an agent, with what it stands on."""
        clock, exchange, bundle = self.join(name)
        return clock, exchange, AgentBus(exchange, clock, Seal(bundle.credentials, 1))

    def bidder(self, number: int, orders: Connection) -> None:
        """Be a bidder; see ``crowd.Way``."""
        name = self.names[number]
        clock, exchange, bus = self.attend(name)
        say = self._speaker(bus, name)

        def hear(message: Message) -> None:
            answer = ANSWERS.get(message.performative)
            if answer is not None:
                say(answer, message.sender, message.conversation)

        bus.attach(name, hear)
        live(clock, exchange, orders)

    def auctioneer(self, orders: Connection) -> None:
        """Be the auctioneer; see ``crowd.Way``."""
        clock, exchange, bus = self.attend(AUCTIONEER)
        say_one = self._speaker(bus, AUCTIONEER)
        caller = Caller(self.names)

        def say(sayings: list[Saying]) -> None:
            for saying in sayings:
                say_one(saying.performative, saying.to, str(saying.auction))

        def hear(message: Message) -> None:
            auction = int(message.conversation)
            sayings = caller.hear(message.performative, auction)
            if sayings is None:
                holding.ended(auction)
            else:
                say(sayings)

        holding = Holding(
            lambda number: say(caller.begin(number)),
            orders,
            lambda: sum(bus.sent.values()) + bus.delivered,
        )
        bus.attach(AUCTIONEER, hear)
        live(clock, exchange, orders, holding.hold)

    def _speaker(self, bus: AgentBus, name: str) -> Callable[[Performative, str, str], None]:
        """Return what says messages like the samples."""
        said = {performative: decode(octets) for performative, octets in self.samples.items()}
        numbers = count(1)

        def say(performative: Performative, to: str, conversation: str) -> None:
            bus.send(
                replace(
                    said[performative],
                    id=f"{name}.1:{next(numbers)}",
                    sender=name,
                    receiver=to,
                    conversation=conversation,
                )
            )

        return say
