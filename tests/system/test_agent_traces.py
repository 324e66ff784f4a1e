"""Agents that have nothing but messages in common: one trace for each attack, over all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from random import Random

import msgspec
import pytest

from phalanx.bus.agents import AgentBus
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.domain.events import Event
from phalanx.fabric.tracing import Span, Tracer
from phalanx.identity.names import Identity, Role
from phalanx.runtime.node import Node
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import System
from tests.bus.seal_lab import seal
from tests.fabric.remote_lab import remote, serve
from tests.system.two_attacks import ATTACKED, alarm, two_attacks


class Apart(System):
    """A system whose agents have an exchange each, and nothing else in common."""

    hub: MemoryBroker | None = None

    def _node(self, pop: str, incarnation: int) -> Node:
        if self.hub is None:
            self.hub = MemoryBroker(self.clock, passage=lambda *_: (0.005,))
            network = self.hub.join(Identity("network", Role.NETWORK, "edge"))
            serve(network, self.clock, self.infrastructure)
        exchange = self.hub.join(Identity(pop, Role.AGENT, "edge"))
        bus = AgentBus(exchange, self.clock, seal(pop, incarnation), peers=self.settings.peers)
        _, port = remote(exchange, self.clock, pop, incarnation)
        return Node(super()._node(pop, incarnation).agent, self.clock, bus, port)


@cache
def events() -> tuple[Event, ...]:
    """Return what was recorded while two hosts, at two PoPs, were attacked at once."""
    scenario = msgspec.convert(two_attacks(), Scenario)
    return tuple(Apart(scenario, 1).run(20.0).events)


def interleaved(seed: int) -> Iterator[Event]:
    """Yield the events in one of the orders in which a stream may get them from their agents."""
    rng = Random(seed)
    queues: dict[str, list[Event]] = defaultdict(list)
    for event in reversed(events()):
        queues[event.agent].append(event)
    while queues:
        agent = rng.choice(sorted(queues))
        for _ in range(rng.randint(1, 20)):
            if queues[agent]:
                yield queues[agent].pop()
        if not queues[agent]:
            del queues[agent]


def traces(heard: Iterable[Event]) -> dict[int, dict[str, Span]]:
    """Return the spans of each trace, by event."""
    spans: list[Span] = []
    tracer = Tracer("edge", spans.append)
    for event in heard:
        tracer.take(event, 0.0)
    assert (tracer.waiting, tracer.orphans) == (0, 0)
    found: dict[int, dict[str, Span]] = defaultdict(dict)
    for span in spans:
        found[span.place.spot.trace_id][span.event.id] = span
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_attacks_at_once_are_two_traces_over_many_agents(seed: int) -> None:
    attacks = {}
    for trace in traces(interleaved(seed)).values():
        first, *others = trace.values()
        if alarm(first.event):
            attacks[first.event.agent] = trace
            assert first.place.parent_id is None
            assert first.place.origin is not None
        for span in others:
            assert span.event.cause is not None
            assert span.place.parent_id == trace[span.event.cause].place.spot.span_id
    assert attacks.keys() == ATTACKED.keys()
    for pop, host in ATTACKED.items():
        agents = {span.event.agent for span in attacks[pop].values()}
        assert len(agents - {"network"}) >= 3
        effects = {
            span.event.data["effect"]
            for span in attacks[pop].values()
            if span.event.kind == "measure.applied"
        }
        assert any(effect.startswith("flowRateLimited") for effect in effects)
        assert all(host in effect for effect in effects if effect.startswith("flow"))


def test_the_order_in_which_a_stream_gets_them_makes_no_difference() -> None:
    first, second = traces(interleaved(4)), traces(events())
    places = [
        {name: span.place for trace in found.values() for name, span in trace.items()}
        for found in (first, second)
    ]
    assert places[0] == places[1]
