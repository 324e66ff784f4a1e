"""An infrastructure behind a service, an agent far from it, and what is between them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from phalanx.bus.client import BrokerClient
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock import Clock
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.actions import (
    Action,
    Deploy,
    Done,
    InstanceLost,
    Outcome,
    Percept,
    SiteState,
    Stop,
)
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd
from phalanx.fabric.access import STANDARD_POLICY, Gate, Resource
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.calls import RetryPolicy
from phalanx.fabric.network import NetworkCalls, serve_infrastructure
from phalanx.fabric.provider import Provider
from phalanx.identity.names import Identity, Role
from phalanx.infrastructure import Answer, Infrastructure
from phalanx.infrastructure.remote import InfrastructureService, RemoteInfrastructure

NETWORK = Identity("network", Role.NETWORK, "edge")
VNFD = Vnfd("function", Resources(1.0, 1.0, 1.0))


def agent(pop: str) -> Identity:
    return Identity(pop, Role.AGENT, "edge")


def quick(number: int) -> Action:
    """Return an action that is answered at once; its number is told by its reason."""
    return Stop("vnf", str(number))


def slow(number: int) -> Action:
    """Return an action that is answered after ten seconds."""
    return Deploy(f"vnf{number}", "hold", VNFD, 1, 60.0)


class Site:
    """An infrastructure that notes what it is asked to do."""

    def __init__(self, clock: VirtualClock) -> None:
        self.done: list[tuple[str, Action]] = []
        self.told: dict[str, Callable[[Percept], None]] = {}
        self.free = 8.0
        self.takes_s = 10.0
        self._clock = clock

    def attach(self, agent: str, pop: str, perceive: Callable[[Percept], None]) -> None:
        self.told[pop] = perceive
        self._clock.call_soon(lambda: self.tell(pop, self.state()))

    def detach(self, agent: str, pop: str) -> None:
        self.told.pop(pop, None)

    def perform(self, pop: str, action: Action, cause: str, answer: Answer) -> None:
        self.done.append((pop, action))
        outcome = Done(f"{cause}/{len(self.done)}")
        if isinstance(action, Deploy):
            self._clock.call_at(self._clock.now() + self.takes_s, lambda: answer(outcome))
        else:
            answer(outcome)

    def state(self) -> SiteState:
        return SiteState(Resources(8.0, 8.0, 8.0), Resources(self.free, 8.0, 8.0))

    def tell(self, pop: str, percept: Percept) -> None:
        if pop in self.told:
            self.told[pop](percept)

    def lose(self, instance: str, pop: str = "a") -> None:
        self.tell(pop, InstanceLost(instance, "crashed", "event"))

    @property
    def reasons(self) -> list[str]:
        """The reasons of the stops, in the order they were carried out."""
        return [action.reason for _, action in self.done if isinstance(action, Stop)]


def serve(
    client: BrokerClient,
    clock: Clock,
    infrastructure: Infrastructure,
    incarnation: int = 1,
    on_refused: Callable[[AccessRefusal], None] | None = None,
) -> tuple[Provider, InfrastructureService]:
    """Serve an infrastructure to agents, as the process of the network does."""
    gate = Gate(STANDARD_POLICY, lambda: Resource(NETWORK.name, NETWORK.domain))
    provider = Provider(client, clock, gate.check, on_refused=on_refused, incarnation=incarnation)
    return provider, serve_infrastructure(provider, clock, infrastructure, incarnation)


def remote(
    client: BrokerClient,
    clock: Clock,
    pop: str,
    incarnation: int,
    policy: RetryPolicy | None = None,
) -> tuple[NetworkCalls, RemoteInfrastructure]:
    """Return the infrastructure as the agent of a PoP has it."""
    calls = NetworkCalls(client, clock, incarnation, NETWORK.name, policy)
    return calls, RemoteInfrastructure(calls, pop, pop, incarnation, clock)


class Lab:
    """A service in front of a ``Site``, and the agent of PoP a."""

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self.clock = VirtualClock()
        self.copies: Callable[[], tuple[float, ...]] = lambda: (0.0,)
        self.hub = MemoryBroker(self.clock, passage=lambda *_: self.copies())
        self.site = Site(self.clock)
        self.policy = policy or RetryPolicy()
        self.percepts: list[Percept] = []
        self.refusals: list[AccessRefusal] = []
        self.life = 0
        self.service_life = 0
        self.serve()
        self.start()

    def serve(self) -> None:
        """Start the service, after a crash if there was one before; the site lives on."""
        self.hub.kill(NETWORK)
        self.service_life += 1
        self.site.told.clear()
        self.network = self.hub.join(NETWORK)
        self.provider, self.service = serve(
            self.network, self.clock, self.site, self.service_life, self.refusals.append
        )

    def start(self) -> RemoteInfrastructure:
        """Start the agent, after a crash if there was one before."""
        if self.life:
            self.hub.kill(agent("a"))
            self.remote.close()
        self.life += 1
        self.exchange = self.hub.join(agent("a"))
        self.calls, self.remote = self.connect(self.life)
        return self.remote

    def connect(self, life: int) -> tuple[NetworkCalls, RemoteInfrastructure]:
        """Return the port of an incarnation of the agent, over its present client."""
        return remote(self.exchange, self.clock, "a", life, self.policy)

    def ask(self, action: Action) -> list[Outcome]:
        """Have an action carried out; the list gets what it is answered with."""
        answers: list[Outcome] = []
        self.remote.perform("a", action, "cause", answers.append)
        return answers

    def attach(self) -> None:
        self.remote.attach("a", "a", self.percepts.append)

    def run(self, seconds: float = 0.0) -> None:
        self.clock.run(self.clock.now() + seconds)

    def weather(self, rng: Random, lost: float, doubled: float, late_s: float = 0.0) -> None:
        """Let so large shares of what is said be lost and doubled, and all be late."""

        def copies() -> tuple[float, ...]:
            drawn = rng.random()
            if drawn < lost:
                return ()
            delays = (rng.random() * late_s, rng.random() * late_s)
            return delays if drawn < lost + doubled else delays[:1]

        self.copies = copies
