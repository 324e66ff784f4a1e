"""For tests of network functions: time, brokers, buses, sites and a small network.

Everything runs on virtual time in one process, without a socket, and gives the same events for
the same seed::

    bench = FunctionBench(Bulletin)
    bench.run(until=60)
    assert bench.of_kind("threat.published", source="10.2.0.1")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from phalanx.bdi import Capability
from phalanx.bus.faults import FaultRule, FaultyBus
from phalanx.bus.memory import MemoryBus
from phalanx.bus.memory_broker import MemoryBroker, MemoryClient
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.actions import Action, Done, Outcome, Percept, SiteState
from phalanx.domain.agents import AgentId
from phalanx.domain.events import Event
from phalanx.domain.network import PopId
from phalanx.domain.resources import Resources
from phalanx.infrastructure import Answer
from phalanx.runtime.course import RunResult
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario
from phalanx.runtime.system import System

__all__ = [
    "FakeSite",
    "FaultRule",
    "FaultyBus",
    "FunctionBench",
    "MemoryBroker",
    "MemoryBus",
    "MemoryClient",
    "VirtualClock",
    "small_scenario",
]

_SMALL = """
name: small
duration_s: 120
network:
  repository: b
  pops:
    - {name: a, cores: 4, memory_gb: 8, disk_gb: 100}
    - {name: b, cores: 8, memory_gb: 16, disk_gb: 100}
    - {name: c, cores: 4, memory_gb: 8, disk_gb: 100}
  links:
    - {between: [a, b], bandwidth_mb_s: 50, latency_ms: 4}
    - {between: [b, c], bandwidth_mb_s: 50, latency_ms: 5}
hosts:
  - {name: shop, at: c, address: 10.0.0.10, bandwidth_mb_s: 6}
traffic:
  - {name: customers, profile: http, count: 5, at: [a, b], target: shop, port: 443,
     demand_mb_s: 0.1}
  - {name: attackers, profile: syn-flood, count: 2, at: [a], target: shop, port: 443,
     demand_mb_s: 3, start_s: 10, end_s: 90}
monitors:
  - {link: c>shop, at: c, threshold_mb_s: 2}
functions:
  link-monitor: {}
  rate-limiter: {}
  anomaly-detector: {}
  classifier: {}
"""


def small_scenario() -> Scenario:
    """Return three PoPs in a line, a host at the end, five customers, and two attackers.

    The host ``shop`` (10.0.0.10) stands at ``c``; the attackers (10.2.0.1 and 10.2.0.2) send
    3 MB/s each from second 10 to 90. Links are given in MB/s and ms.
    """
    return parse_scenario(_SMALL, "small scenario")


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
