"""Moments in messages between agents whose clocks do not agree."""

from __future__ import annotations

import pytest
from bus_messages import Inbox
from seal_lab import seal
from tests.fabric.fabric_lab import OffClock

from phalanx.bus.agents import AgentBus
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.messages import CallForProposals, Message, Performative
from phalanx.domain.predicates import AnomalousUsage
from phalanx.identity.names import Identity, Role

GOAL = ConstrainedGoal(want(AnomalousUsage("a>b")), Constraints(), Preferences())


@pytest.mark.parametrize("by_s", [0.0, 300.0, -300.0])
def test_a_deadline_is_as_far_away_by_the_clock_of_the_receiver(by_s: float) -> None:
    true = VirtualClock()
    broker = MemoryBroker(true)
    clocks = {"a": OffClock(true, 0.0), "b": OffClock(true, by_s)}
    inboxes = {name: Inbox() for name in clocks}
    buses = {}
    for name, clock in clocks.items():
        client = broker.join(Identity(name, Role.AGENT, "edge"))
        buses[name] = AgentBus(client, clock, seal(name))
        buses[name].attach(name, inboxes[name])
    true.run(5.0)
    now = clocks["a"].now()
    call = CallForProposals(GOAL, deadline=now + 2.0, since=now - 3.0)
    buses["a"].send(Message("m", Performative.CFP, "a", "b", "c", call, "e"))
    true.run(6.0)
    (got,) = inboxes["b"]
    assert isinstance(got.content, CallForProposals)
    sent = 5.0 + by_s
    assert got.content.deadline == pytest.approx(sent + 2.0, abs=0.1)
    assert got.content.since == pytest.approx(sent - 3.0, abs=0.1)
