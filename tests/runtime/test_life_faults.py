"""Faults of an agent's life: what a scenario may say of them, and what its shell does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phalanx.bdi import Agent
from phalanx.domain.errors import ScenarioError
from phalanx.domain.messages import Message
from phalanx.runtime.loading import load_scenario, parse_scenario
from phalanx.runtime.node import Node
from phalanx.runtime.system import System

RING = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"


@pytest.mark.parametrize(
    ("fault", "field", "why"),
    [
        ("{at_s: 1, kind: drain}", "faults[0].agent", "missing; drain needs it"),
        ("{at_s: 1, kind: drain, agent: east, for_s: 3}", "faults[0].for_s", "no meaning"),
        ("{at_s: 1, kind: drain, agent: east, memory: true}", "faults[0].memory", "no meaning"),
        ("{at_s: 1, kind: crash, agent: east, memory: true}", "faults[0].memory", "for_s"),
        ("{at_s: 1, kind: lose, share: 1, memory: true}", "faults[0].memory", "no meaning"),
        ("{at_s: 1, kind: restart, agent: east, memory: yes please}", "faults[0].memory", "true"),
    ],
)
def test_faults_of_a_life_are_checked(fault: str, field: str, why: str) -> None:
    with pytest.raises(ScenarioError) as refusal:
        parse_scenario(f"{RING.read_text(encoding='utf-8')}\nfaults: [{fault}]\n", "f.yaml")
    assert f" {field} " in str(refusal.value)
    assert why in str(refusal.value)


def test_good_faults_of_a_life_are_taken() -> None:
    text = """
faults:
  - {at_s: 1, kind: crash, agent: east, for_s: 3, memory: true}
  - {at_s: 5, kind: restart, agent: east, memory: true}
  - {at_s: 9, kind: drain, agent: east}
"""
    scenario = parse_scenario(RING.read_text(encoding="utf-8") + text, "f.yaml")
    assert [fault.memory for fault in scenario.faults] == [True, True, None]


def test_an_agent_is_kept_before_it_speaks() -> None:
    """Whatever others hear from an agent, its memory on disk knows already."""
    system = System(load_scenario(RING))
    kept: dict[str, int] = {}
    said = 0

    def keep(agent: Agent) -> None:
        kept[agent.name] = agent.changes

    class Listening:
        def __getattr__(self, name: str) -> Any:
            return getattr(system.faulty_bus, name)

        def send(self, message: Message) -> None:
            nonlocal said
            said += 1
            assert kept[message.sender] == system.nodes[message.sender].agent.changes
            system.faulty_bus.send(message)

    for agent in system.agents.values():
        agent.node = Node(agent.agent, system.clock, Listening(), system.infrastructure, keep=keep)
    system.run(until=60)
    assert said > 100


def test_a_shell_is_told_when_its_agent_has_left() -> None:
    system = System(load_scenario(RING))
    left: list[str] = []
    node = Node(
        system.nodes["east"].agent,
        system.clock,
        system.faulty_bus,
        system.infrastructure,
        on_left=lambda: left.append("east"),
    )
    system.agents["east"].node = node
    system.clock.call_at(5.0, lambda: system.drain("east"))
    system.run(until=10)
    assert left == ["east"]
    assert not node.alive
