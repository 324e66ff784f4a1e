"""The resilience scenario with all agents far from each other and from the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace
from remote_lab import remote, serve
from tests.bus.seal_lab import seal
from tests.nightly import at_night, sample
from tests.published import load_published

from phalanx.bus.agents import AgentBus
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.domain.events import Event
from phalanx.fabric.network import NetworkCalls
from phalanx.identity.names import Identity, Role
from phalanx.infrastructure.remote import RemoteInfrastructure
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec
from phalanx.runtime.system import RunResult, System

SCENARIO = Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml"
SEEDS = sample((1, 2, 3), 3)
NETWORK = Identity("network", Role.NETWORK, "edge")


def agent(name: str) -> Identity:
    return Identity(name, Role.AGENT, "edge")


class Spread(System):
    """A system whose agents have an exchange each, and nothing else in common."""

    def __init__(self, seed: int, weather: Random | None = None, lost: float = 0.0) -> None:
        self.weather = weather
        self.lost = self.doubled = lost
        self.hub: MemoryBroker | None = None
        self.buses: dict[str, AgentBus] = {}
        self.network_calls: dict[str, NetworkCalls] = {}
        # What is lost between sites no fault of the bench loses: it only has to be in the log.
        faults = (FaultSpec(0.0, "lose", share=lost),) if lost else ()
        super().__init__(replace(load_published(SCENARIO), faults=faults), seed)

    def _passage(self, *_: object) -> Sequence[float]:
        """Let all take a few milliseconds, as between sites; lose and double a share."""
        if self.weather is None:
            return (0.005,)
        delays = self.weather.uniform(0.005, 0.05), self.weather.uniform(0.005, 0.3)
        drawn = self.weather.random()
        if drawn < self.lost:
            return ()
        return delays if drawn < self.lost + self.doubled else delays[:1]

    def ports(
        self, declared: DeclaredAgent, incarnation: int
    ) -> tuple[AgentBus, RemoteInfrastructure]:
        pop = declared.name
        if self.hub is None:
            self.hub = MemoryBroker(self.clock, passage=self._passage)
            exchange = self.hub.join(NETWORK)
            self.provider, _ = serve(exchange, self.clock, self.infrastructure)
        exchange = self.hub.join(agent(pop))
        bus = self.buses[pop] = AgentBus(
            exchange,
            self.clock,
            seal(pop, incarnation),
            peers=[a.name for a in self.scenario.all_agents()],
        )
        self.network_calls[pop], port = remote(exchange, self.clock, pop, incarnation)
        return bus, port

    def cut(self, who: Identity, at_s: float) -> None:
        assert self.hub is not None
        hub = self.hub
        self.clock.call_at(at_s, lambda: hub.lose(who))
        self.clock.call_at(at_s + 3.0, lambda: hub.regain(who))


def blocked(events: list[Event]) -> list[str]:
    effects = [event.data["effect"] for event in events if event.kind == "measure.applied"]
    return [one.partition("(")[2].split(",")[0] for one in effects if one.startswith("flowRate")]


def placements(result: RunResult) -> set[tuple[str, str, int]]:
    return {(one.vnf, one.pop, one.units) for one in result.summary.placements}


def check(result: RunResult) -> None:
    """The outcome of a run in one process: all attackers blocked, nobody else, all given back."""
    assert set(blocked(result.events)) == {f"10.5.0.{number}" for number in range(1, 9)}
    assert result.summary.mitigated
    assert result.summary.returned
    end = result.events[-1]
    assert end.data["leases"] == ["pop6/installed1/link-monitor"]
    assert end.data["reserved_mb_s"] == 0
    server = next(host for host in result.summary.hosts if host.host == "server")
    assert server.after_mb_s >= 0.95 * server.before_mb_s


def test_agents_far_apart_come_to_the_outcome_of_those_in_one_process() -> None:
    spread = Spread(1)
    result = spread.run()
    check(result)
    assert len(blocked(result.events)) == 8
    assert placements(result) == placements(System(load_published(SCENARIO), 1).run())
    assert all(bus.refused == {} for bus in spread.buses.values())
    assert all(calls.actions.counters.given_up == 0 for calls in spread.network_calls.values())
    assert [event for event in result.events if event.kind == "action.failed"] == []


def test_the_same_run_gives_the_same_events() -> None:
    first, second = (Spread(2, Random(5), 0.05) for _ in range(2))
    assert first.run(60.0).events == second.run(60.0).events


@at_night
@pytest.mark.parametrize("seed", SEEDS)
def test_one_in_twenty_lost_and_one_in_twenty_doubled(seed: int) -> None:
    spread = Spread(seed, Random(seed), 0.05)
    check(spread.run())
    assert sum(bus.refused.get("replayed", 0) for bus in spread.buses.values()) > 50
    assert spread.provider.outcomes["Again"] > 10


@at_night
@pytest.mark.parametrize("seed", SEEDS)
def test_each_is_cut_off_for_three_seconds(seed: int) -> None:
    spread = Spread(seed)
    rng = Random(seed)
    for who in (NETWORK, *map(agent, spread.agents)):
        for _ in range(2):
            spread.cut(who, rng.uniform(15.0, 250.0))
    check(spread.run())
