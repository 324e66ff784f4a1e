"""The worlds that a system runs in: which clock, which network, which bus."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from phalanx.bus import Bus
from phalanx.bus.faults import FaultRule, FaultyBus
from phalanx.clock import Clock
from phalanx.domain.messages import Message, Performative
from phalanx.domain.network import Network
from phalanx.domain.vnf import Vnfd
from phalanx.fabric.network.admin import Administered
from phalanx.infrastructure import Infrastructure
from phalanx.runtime.scenario import FaultSpec, Scenario
from phalanx.store.memory import EventLog


class RunClock(Clock, Protocol):
    """A clock that drives a run."""

    def run(self, until: float | None = None, stop: Callable[[], bool] | None = None) -> None:
        """Make calls until the time ``until``, or until ``stop`` says true."""


class RunNetwork(Infrastructure, Administered, Protocol):
    """An infrastructure as who runs it sees it."""


class RunBus(Bus, Protocol):
    """A bus that counts."""

    @property
    def sent(self) -> Mapping[Performative, int]:
        """Messages sent, by performative."""

    @property
    def shed(self) -> Mapping[str, int]:
        """Messages dropped by full queues, by receiver."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a world is built from."""

    scenario: Scenario
    network: Network
    seed: int
    vnfds: Mapping[str, Vnfd]
    log: EventLog
    cause: str
    """Event that is the root of all causes."""
    shed: Callable[[Message], None]
    """Told of a message that a full queue dropped."""


class World(Protocol):
    """A clock, a network and a bus that belong together."""

    @property
    def clock(self) -> RunClock:
        """The clock that drives the run."""

    def build(self, frame: Frame) -> tuple[RunNetwork, RunBus]:
        """Make the network and the bus; nothing happens in them before the clock runs."""

    def close(self) -> None:
        """Take apart what was built; without effect the second time."""


def faulty(bus: Bus, clock: Clock, scenario: Scenario, seed: int) -> FaultyBus:
    """Return ``bus`` with the message faults of the scenario."""
    rules = [rule for fault in scenario.faults if (rule := _fault_rule(fault)) is not None]
    return FaultyBus(bus, clock, random.Random(f"{seed}/bus"), rules)


def _fault_rule(fault: FaultSpec) -> FaultRule | None:
    if fault.kind not in ("lose", "duplicate", "delay", "reorder"):
        return None
    end = None if fault.for_s is None else fault.at_s + fault.for_s
    share = 1.0 if fault.share is None else fault.share
    return FaultRule(fault.kind, share, fault.at_s, end, fault.agent, fault.delay_s)
