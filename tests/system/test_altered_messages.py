"""An agent with a real key that says anything at all ends no other, and holds none up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from phalanx.bus import wire
from phalanx.bus.memory import MemoryBus
from phalanx.checking.plans import random_plan
from phalanx.cli.fuzz import run_plan
from phalanx.domain.messages import Message
from tests.nightly import examples

NUMBERS = (-1, 0, -0.5, 1, 1e-9, 1e9, 1e18, 2**53, 2**53 + 1, 1e300, -1e300)
FROM_S = 3.0
"""When it begins to, in seconds."""


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place in a tree of JSON: what it is in, and its name or number there."""
    names = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for name in names:
        yield node, name
        yield from places(node[name])


class Liar:
    """Alters what one agent says, and says in its name what others said."""

    def __init__(self, name: str, random: Random) -> None:
        self.name, self.random = name, random
        self.heard: list[Message] = []
        self.told = 0

    def instead(self, message: Message) -> Iterator[Message]:
        """Return what is sent in place of a message of its own."""
        told, self.heard = message, [*self.heard[-300:], message]
        if message.sender == self.name and self.random.random() < 0.4:
            told = self.random.choice((message, *self.heard))
            tree = json.loads(wire.encode(told)[1:])
            for node, name in self.random.sample([*places(tree["content"])] * 3, 3):
                if name in node if isinstance(node, dict) else name < len(node):
                    node[name] = self.other(node[name])
            tree["performative"] = self.random.choice((told, *self.heard[-9:])).performative.value
            try:
                altered = wire.decode(bytes([wire.VERSION]) + json.dumps(tree).encode())
            except wire.WireError:
                return  # its reader refuses it in one line
            self.told += 1
            receiver = self.random.choice((message, *self.heard[-30:])).receiver
            yield replace(altered, sender=self.name, receiver=receiver)
        if told is message or self.random.random() < 0.5:
            yield message

    def other(self, value: Any) -> Any:
        match value:
            case bool():
                return not value
            case int() | float() | None:
                return self.random.choice(NUMBERS)
            case str():
                about = self.random.choice(self.heard)
                return self.random.choice(
                    (about.sender, about.conversation, about.id, "", "\n[red]", "pop99")
                )
            case list():
                return self.random.choice(([], value * 2, value[1:], value * 30))
        return value


@pytest.mark.parametrize("seed", range(examples(2)))
def test_what_one_agent_says_ends_no_other(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = random_plan(1000 + seed, "safety")
    random, send = Random(seed), MemoryBus.send
    liar = Liar(random.choice(plan["network"]["pops"])["name"], random)

    def altered(bus: MemoryBus, message: Message) -> None:
        late = bus._clock.now() > FROM_S
        for each in liar.instead(message) if late else (message,):
            send(bus, each)

    monkeypatch.setattr(MemoryBus, "send", altered)
    monkeypatch.setattr("tests.conftest.check", lambda _: [])  # what it says breaks rules
    ran = run_plan(plan)
    if not liar.told:
        pytest.skip("it had nothing to say")
    wrong = {"traceback", "hangs", "over-committed"}
    assert [each for each in ran.failures if each.rule in wrong] == []
