"""For tests of network functions: time, brokers, buses, sites and a small network.

Everything runs on virtual time in one process, without a socket, and gives the same events for
the same seed::

    bench = FunctionBench(Bulletin)
    bench.run(until=60)
    assert bench.of_kind("threat.published", source="10.2.0.1")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace

from phalanx.auction.settings import Configured, Settings
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, Library
from phalanx.bdi.memory import Memory, remember
from phalanx.bdi.steps import Adopt, Believe
from phalanx.bus.faults import FaultRule, FaultyBus
from phalanx.bus.memory import MemoryBus
from phalanx.bus.memory_broker import MemoryBroker, MemoryClient
from phalanx.clock.virtual import VirtualClock
from phalanx.coordination.arbitration import Arbitration
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.actions import Action, Done, Outcome, Percept, SiteState
from phalanx.domain.agents import SCOPES, AgentId, Loop
from phalanx.domain.events import Event
from phalanx.domain.messages import Message
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.infrastructure import Answer
from phalanx.runtime.course import RunResult
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.node import Node
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario
from phalanx.runtime.system import System
from phalanx.slices.loop import ClosedLoop
from phalanx.slices.manager import ManagedLoop, SecurityManager
from phalanx.slices.model import LoopIndex

__all__ = [
    "FakeSite",
    "FaultRule",
    "FaultyBus",
    "FunctionBench",
    "LoopBench",
    "MemoryBroker",
    "MemoryBus",
    "MemoryClient",
    "VirtualClock",
    "small_scenario",
]


def small_scenario() -> Scenario:
    """Return three PoPs in a line, a host at the end, five customers, and two attackers.

    The host ``shop`` (10.0.0.10) stands at ``c``; the attackers (10.2.0.1 and 10.2.0.2) send
    3 MB/s each from second 10 to 90. Links are given in MB/s and ms.
    """
    return load_scenario(Path(__file__).with_name("small.yaml"))


class FunctionBench:
    """Runs network functions and other capabilities in agents on a small network."""

    def __init__(
        self,
        *functions: type[Capability],
        scenario: Scenario | None = None,
        agents: Sequence[DeclaredAgent] = (),
        faults: Sequence[FaultSpec] = (),
        seed: int = 1,
    ) -> None:
        """Compose the agents; nothing happens before ``run``.

        Args:
            functions: what the repository holds beside the functions of the scenario; those
                without a descriptor work in the ``agents`` that name them.
            scenario: where to run; None takes ``small_scenario``.
            agents: beside the one at each PoP.
            faults: what is to break.
            seed: of everything random.

        Raises:
            ScenarioError: if a function cannot be used.

        """
        plan = scenario or small_scenario()
        plan = replace(plan, agents=(*plan.agents, *agents), faults=(*plan.faults, *faults))
        self.system = System(plan, seed, functions=functions)
        self.result: RunResult | None = None

    def run(self, until: float | None = None) -> RunResult:
        """Run to the second ``until``, or to the end of the scenario; may be called once."""
        self.result = self.system.run(until)
        return self.result

    @property
    def events(self) -> list[Event]:
        """What was recorded so far, in order."""
        return self.system.log.events

    def of_kind(self, kind: str, **data: Any) -> list[Event]:
        """Return the events of a kind whose data has these values."""
        return [
            event
            for event in self.events
            if event.kind == kind
            and all(event.data.get(name) == value for name, value in data.items())
        ]


class LoopBench:
    """Runs closed loops alone, without a network: each an agent, over a bus in memory.

    ``sent`` has every message in the order of sending, also those that are lost.
    """

    def __init__(
        self,
        loops: Sequence[Loop],
        *capabilities: type[Capability],
        faults: Sequence[FaultRule] = (),
        seed: int = 1,
        parameters: Mapping[str, float] | None = None,
        providers: Sequence[AgentId] = (),
    ) -> None:
        """Compose the loops and let them live.

        Args:
            loops: as ``phalanx.slices.model.loops_of`` derives them.
            capabilities: classes of what they name, and of what agents of PoPs can do.
            faults: what becomes of messages; each takes 1 ms.
            seed: of the faults.
            parameters: by name, as an operator sets them.
            providers: agents of PoPs, each with the name of its PoP; they have all capabilities
                that no loop names.

        """
        self.clock = VirtualClock()
        self.events: list[Event] = []
        self.sent: list[Message] = []
        self.bus = MemoryBus(self.clock, latency=lambda *_: 0.001)
        self._faulty = FaultyBus(self.bus, self.clock, Random(seed), faults)
        self._index = LoopIndex(loops)
        self._abilities = {each.name: each for each in capabilities}
        self._parameters = parameters or {}
        named = {name for loop in loops for name in loop.capabilities}
        own = tuple(name for name in self._abilities if name not in named)
        self._others = {
            name: Loop(name, "pop", name, (), name, capabilities=own) for name in providers
        }
        self._functions = own
        self._memories: dict[AgentId, Memory] = {}
        self._libraries: dict[tuple[type[Capability], ...], Library] = {}
        self.nodes: dict[AgentId, Node] = {}
        for loop in (*self._index.all.values(), *self._others.values()):
            self.start(loop.name)

    def start(self, name: AgentId, *, remembering: bool = False) -> None:
        """Let a loop live, again or for the first time."""
        loop = self._index.all.get(name) or self._others[name]
        known: dict[str, type[Capability]] = {SecurityManager.name: SecurityManager}
        known |= self._abilities
        brought = tuple(known[each] for each in loop.capabilities)
        incarnation = self.nodes[name].agent.incarnation + 1 if name in self.nodes else 1
        agent = Agent(
            name,
            self._library(brought),
            self.events.append,
            pop=loop.pop,
            scope=SCOPES[loop.scope],
            parameters=self._parameters,
            incarnation=incarnation,
        )
        settings = Settings(tuple(sorted(self._others)), "", {}, loops=self._index.known_to(name))
        for capability in agent.capabilities.values():
            if isinstance(capability, Configured):
                capability.settings = settings
        agent.active.update(loop.capabilities)
        agent.capability(ClosedLoop).abilities = self._abilities
        agent.capability(ClosedLoop).functions = self._functions
        node = self.nodes[name] = Node(agent, self.clock, self, FakeSite())
        memory = self._memories.pop(name, None)
        if remembering and memory is not None:
            node.restore(memory, "restart")
        else:
            node.start("start")

    def _library(self, brought: tuple[type[Capability], ...]) -> Library:
        known = self._libraries.get(brought)
        if known is None:
            known = Library([LoopContacts, ClosedLoop, Arbitration, ManagedLoop, *brought])
            self._libraries[brought] = known
        return known

    def crash(self, name: AgentId) -> None:
        """End a loop as kill -9 does, and note it as its host would."""
        noted, now = f"host-{len(self.events)}", self.clock.now()
        self.events.append(Event(noted, now, "run", "agent.crashed", "start", {"pop": name}))
        self._memories[name] = remember(self.nodes[name].agent)
        self.nodes[name].crash()

    def pursue(self, name: AgentId, *steps: Believe | Adopt) -> None:
        """Let a loop believe and want something, as one of its rules would."""
        node = self.nodes[name]
        for step in steps:
            node.agent.now, node.agent.cause = self.clock.now(), "test"
            node.agent.do_step(step)
        node.carry_out(node.agent.settle())

    @property
    def loops(self) -> Mapping[AgentId, Loop]:
        """All loops by name."""
        return self._index.all

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now() + seconds)

    def of_kind(self, kind: str, **data: Any) -> list[Event]:
        """Return the events of a kind whose data has these values."""
        return [
            event
            for event in self.events
            if event.kind == kind
            and all(event.data.get(name) == value for name, value in data.items())
        ]

    def attach(self, address: str, handler: Callable[[Message], None]) -> None:
        """Deliver messages; see ``Bus``."""
        self._faulty.attach(address, handler)

    def detach(self, address: str) -> None:
        """Stop delivering; see ``Bus``."""
        self._faulty.detach(address)

    def send(self, message: Message) -> None:
        """Note a message, and send it; see ``Bus``."""
        self.sent.append(message)
        self._faulty.send(message)

    def peers(self) -> tuple[str, ...]:
        """Return all addresses; see ``Bus``."""
        return self._faulty.peers()


class FakeSite:
    """An infrastructure that carries nothing out: it notes actions, and answers them at once.

    Args:
        site: what agents perceive of their PoP.
        outcome: what an action comes to; by default each succeeds.

    """

    def __init__(
        self,
        site: SiteState | None = None,
        outcome: Callable[[Action], Outcome] = lambda _: Done(),
    ) -> None:
        ample = Resources(100, 100, 100)
        self.site = SiteState(ample, ample, ()) if site is None else site
        self.actions: list[tuple[PopId, Action]] = []
        """What was asked for, with where."""
        self._outcome = outcome
        self._perceive: dict[AgentId, Callable[[Percept], None]] = {}

    def attach(self, agent: AgentId, pop: PopId, perceive: Callable[[Percept], None]) -> None:  # noqa: ARG002
        """Tell ``agent`` of the site, and of what ``perceived`` is called with."""
        self._perceive[agent] = perceive
        perceive(self.site)

    def detach(self, agent: AgentId, pop: PopId) -> None:  # noqa: ARG002
        """Tell ``agent`` nothing more."""
        self._perceive.pop(agent, None)

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:  # noqa: ARG002
        """Note the action, and answer it."""
        self.actions.append((pop, action))
        answer(self._outcome(action))

    def perceived(self, percept: Percept) -> None:
        """Let all attached agents perceive something."""
        for perceive in tuple(self._perceive.values()):
            perceive(percept)
