"""The shell of an agent: it keeps its memory before it speaks, and knows when it has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.published import load_published

from phalanx.bdi import Agent
from phalanx.domain.messages import Message
from phalanx.runtime.node import Node
from phalanx.runtime.system import System

RING = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"


def test_an_agent_is_kept_before_it_speaks() -> None:
    """Whatever others hear from an agent, its memory on disk knows already."""
    system = System(load_published(RING))
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
    system = System(load_published(RING))
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
