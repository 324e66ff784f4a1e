"""Agents whose drivers know one PoP each, on the virtual clock: what they do for each other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from phalanx.domain.actions import (
    Action,
    Enforce,
    Failed,
    Hold,
    Observe,
    Percept,
    ReadRules,
    SiteState,
)
from phalanx.domain.network import PopId
from phalanx.infrastructure import Answer, Infrastructure
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import System

DOCUMENT = {
    "name": "three-sites",
    "duration_s": 40,
    "network": {
        "repository": "east",
        "pops": [
            {"name": name, "cores": 2, "memory_gb": 2, "disk_gb": 2}
            for name in ("north", "south", "east")
        ],
        "links": [
            {"between": [name, "east"], "bandwidth_mb_s": 50, "latency_ms": 2}
            for name in ("north", "south")
        ],
    },
    "hosts": [{"name": "shop", "at": "east", "address": "10.3.0.10", "bandwidth_mb_s": 5}],
    "monitors": [{"link": "east>shop", "at": "east", "threshold_mb_s": 4}],
    "functions": {"rate-limiter": {"image_mb": 1, "boot_s": 0}},
    "traffic": [
        {"name": "users", "profile": "http", "count": 6, "at": ["north", "south"]}
        | {"target": "shop", "port": 80, "demand_mb_s": 0.1},
        {"name": "attackers", "profile": "syn-flood", "count": 4, "at": ["north", "south"]}
        | {"target": "shop", "port": 80, "demand_mb_s": 1, "start_s": 10},
    ],
}


class Slice:
    """The part of a network that one site drives: what is asked of another it refuses."""

    def __init__(self, network: Infrastructure, pop: PopId) -> None:
        self._network = network
        self._pop = pop
        self.refused: list[Action] = []
        self.detach = network.detach

    def attach(self, agent: str, pop: PopId, perceive: Callable[[Percept], None]) -> None:
        """Tell of the PoP without its links, as a driver of one PoP does."""

        def own(percept: Percept) -> None:
            perceive(replace(percept, links=()) if isinstance(percept, SiteState) else percept)

        self._network.attach(agent, pop, own)

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        if pop == self._pop and self._own(action):
            self._network.perform(pop, action, cause, answer)
        else:
            self.refused.append(action)
            answer(Failed("it is at another site"))

    def _own(self, action: Action) -> bool:
        match action:
            case Hold():
                return len(action.path) <= 1
            case ReadRules():
                return action.pop == self._pop
            case Enforce():
                return self._pop in (action.rule.match.entry, "east")
            case Observe():
                return self._pop in (action.entry, "east")
            case _:
                return True


class SlicedSystem(System):
    """A system whose agents see and act on nothing but their own PoP."""

    def _compose(self, declared, incarnation):
        composed = super()._compose(declared, incarnation)
        composed.settings.repository = declared.pop  # as its process has it
        return composed

    def ports(self, declared, incarnation):
        bus, network = super().ports(declared, incarnation)
        self.slices = {**getattr(self, "slices", {}), declared.name: Slice(network, declared.pop)}
        return bus, self.slices[declared.name]


def test_agents_of_slices_block_a_flood_where_it_enters_and_act_nowhere_else() -> None:
    system = SlicedSystem(msgspec.convert(DOCUMENT, Scenario))
    result = system.run()
    applied = [e.data for e in result.events if e.kind == "measure.applied"]
    blocked = {d["pop"]: set(d["sources"]) for d in applied if d.get("sources")}
    malicious = {s.address for s in system.scenario.to_sources(system.seed) if s.profile.malicious}
    assert {*blocked} >= {"north", "south"}
    assert blocked["north"] | blocked["south"] == malicious
    assert not blocked["north"] & blocked["south"]
    assert all(d["pop"] == d["effect"].split(", ")[1] for d in applied if d["pop"] != "east")
    granted = [e.data for e in result.events if e.kind == "hold.granted"]
    assert granted
    assert all(len(hold["path"]) <= 1 for hold in granted)
    assert not any(isinstance(a, Enforce) for each in system.slices.values() for a in each.refused)


def test_a_site_without_its_agent_is_covered_where_its_traffic_leaves() -> None:
    crash = {"at_s": 5, "kind": "crash", "agent": "north"}
    system = SlicedSystem(msgspec.convert({**DOCUMENT, "faults": [crash]}, Scenario))
    result = system.run()
    applied = [e.data for e in result.events if e.kind == "measure.applied"]
    assert {"south", "east"} <= {d["pop"] for d in applied}
    entering = {
        s.address
        for s in system.scenario.to_sources(system.seed)
        if s.profile.malicious and s.at == "north"
    }
    at_east = {s for d in applied if d["pop"] == "east" for s in d.get("sources", ())}
    assert entering <= at_east
