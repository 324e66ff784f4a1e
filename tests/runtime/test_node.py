"""The shell of an agent: it keeps its memory before it speaks, and knows when it has left."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.published import load_published

from phalanx.bdi.agent import Agent
from phalanx.bus.faults import FaultRule, FaultyBus
from phalanx.bus.memory import MemoryBus
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.messages import Inventory, Message, Performative, Query
from phalanx.runtime.node import Node, Probes
from phalanx.runtime.scenario import FaultSpec
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


def test_what_waits_for_a_slow_disk_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = FaultSpec(at_s=5.0, kind="slow-disk", agent="east", delay_s=2.5)
    system = System(replace(load_published(RING), faults=(slow,)))
    said: list[str] = []
    send = system.faulty_bus.send

    def listen(message: Message) -> None:
        if message.sender == "east":
            said.append(message.id)
        send(message)

    monkeypatch.setattr(system.faulty_bus, "send", listen)
    system.run(until=60)
    assert len(said) > 10
    assert len(said) == len(set(said))


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


def test_who_has_left_hears_nothing_while_its_disk_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it said last waits for the disk; what arrives meanwhile is too late."""
    slow = FaultSpec(at_s=4.0, kind="slow-disk", agent="east", delay_s=2.5)
    system = System(replace(load_published(RING), faults=(slow,)))
    node = system.nodes["east"]
    heard: list[bool] = []
    receive = Agent.receive

    def listen(agent: Agent, message: Message, now: float) -> Any:
        heard.append(agent.drained)
        return receive(agent, message, now)

    def ask() -> None:
        if not node.agent.drained:
            system.clock.call_at(system.clock.now() + 0.1, ask)
            return
        assert node.alive
        question = Message("x:1", Performative.QUERY, "north", "east", "x", Query(), "north.1-1")
        system.faulty_bus.send(question)

    monkeypatch.setattr(Agent, "receive", listen)
    system.clock.call_at(5.0, lambda: system.drain("east"))
    system.clock.call_at(5.0, ask)
    system.run(until=60)
    assert heard
    assert not any(heard)
    assert not node.alive


# -- probes: whether one agent reaches another, beside what agents say ------------------------


class Pair:
    """North, which probes, and east, which answers as every agent does."""

    def __init__(self, *rules: FaultRule, latency_s: float = 0.01) -> None:
        self.clock = VirtualClock()
        bus = MemoryBus(self.clock, latency=lambda _one, _other: latency_s)
        self.bus = FaultyBus(bus, self.clock, random.Random(1), rules)
        self.asked: list[Message] = []
        self.heard: list[Message] = []
        self.found: list[float | None] = []
        self.probes = Probes(self.bus, "north", self.clock, 3, "north.3.0-1")
        self.probes.attach("north", self.heard.append)
        bus.attach("east", self.answer)
        bus.attach("mute", self.asked.append)
        bus.attach("forger", self.forge)

    def answer(self, message: Message) -> None:
        self.asked.append(message)
        self.tell(message, message.receiver)

    def forge(self, message: Message) -> None:
        self.asked.append(message)

    def tell(self, question: Message, sender: str) -> None:
        number = len(self.asked)
        self.bus.send(
            Message(
                f"{sender}-{number}",
                Performative.INFORM,
                sender,
                question.sender,
                question.conversation,
                Inventory(()),
                question.cause,
            )
        )

    def probe(self, peer: str, within_s: float = 2.0) -> None:
        self.probes.probe(peer, within_s, self.found.append)


def test_a_peer_that_answers_is_reached_and_the_agent_does_not_notice() -> None:
    pair = Pair()
    pair.probe("east")
    pair.clock.run(until=10)
    assert pair.found == [0.02]
    assert pair.heard == []
    (question,) = pair.asked
    assert (question.performative, question.content) == (Performative.QUERY, Query())
    assert (question.sender, question.cause) == ("north", "north.3.0-1")


def test_who_does_not_answer_is_asked_again_until_the_time_is_over() -> None:
    pair = Pair()
    pair.probe("mute")
    pair.clock.run(until=1.9)
    assert pair.found == []
    pair.clock.run(until=10)
    assert pair.found == [None]
    assert len(pair.asked) == 4
    assert len({message.id for message in pair.asked}) == 4
    pair.tell(pair.asked[0], "mute")  # too late
    pair.clock.run(until=20)
    assert (pair.found, pair.heard) == ([None], [])


def test_lost_and_doubled_messages_do_not_matter() -> None:
    rules = (FaultRule("lose", 0.5, 0, None), FaultRule("duplicate", 0.5, 0, None))
    pair = Pair(*rules)
    for _ in range(20):
        pair.probe("east", 30.0)
    pair.clock.run(until=100)
    assert len(pair.found) == 20
    assert None not in pair.found
    assert pair.heard == []


def test_an_answer_counts_only_from_whom_was_asked() -> None:
    pair = Pair()
    pair.probe("forger")
    pair.clock.run(until=0.1)
    pair.tell(pair.asked[0], "east")
    pair.clock.run(until=10)
    assert pair.found == [None]


def test_what_the_agent_says_and_hears_passes() -> None:
    pair = Pair()
    own = Message("n1", Performative.QUERY, "north", "east", "c1", Query(), "e1")
    pair.probes.send(own)
    pair.clock.run(until=1)
    assert pair.asked == [own]
    assert [message.conversation for message in pair.heard] == ["c1"]
    assert pair.probes.peers() == pair.bus.peers()
    pair.probes.detach("north")
    pair.probe("east")
    pair.clock.run(until=10)
    assert pair.found == [None]
