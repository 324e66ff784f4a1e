from __future__ import annotations

from random import Random

import pytest
from bus_messages import Inbox, message
from tests.published import load_published
from tests.system.conftest import SCENARIOS

from phalanx.bus import Bus
from phalanx.bus.faults import FaultyBus
from phalanx.bus.memory import MemoryBus, PerAgentBus
from phalanx.clock.virtual import VirtualClock
from phalanx.runtime.system import System


@pytest.fixture(params=["plain", "faulty"])
def world(request: pytest.FixtureRequest) -> tuple[VirtualClock, Bus]:
    clock = VirtualClock()
    bus = MemoryBus(clock, peers=("a", "b", "z"))
    return clock, bus if request.param == "plain" else FaultyBus(bus, clock, Random(1), ())


def test_an_agent_speaks_and_hears_through_its_door(world: tuple[VirtualClock, Bus]) -> None:
    clock, bus = world
    inbox, own = Inbox(), Inbox()
    a, b = PerAgentBus(bus, "a"), PerAgentBus(bus, "b")
    a.attach("a", own)
    b.attach("b", inbox)
    a.send(message(1, "a", "b"))
    a.send(message(2, "a", "a"))
    clock.run()
    assert (inbox.ids, own.ids) == (["m1"], ["m2"])
    assert a.peers() == ("a", "b", "z")
    b.detach("b")
    a.send(message(3, "a", "b"))
    clock.run()
    assert inbox.ids == ["m1"]


def test_what_is_said_in_anothers_name_goes_nowhere_and_is_counted(
    world: tuple[VirtualClock, Bus],
) -> None:
    clock, bus = world
    inbox, told = Inbox(), Inbox()
    bus.attach("b", inbox)
    door = PerAgentBus(bus, "mallory", told)
    door.send(message(1, "a", "b"))
    door.send(message(2, "mallory", "b"))
    clock.run()
    assert (inbox.ids, told.ids, door.refused) == (["m2"], ["m1"], 1)


def test_nobody_hears_or_leaves_as_another(world: tuple[VirtualClock, Bus]) -> None:
    _, bus = world
    door = PerAgentBus(bus, "mallory")
    with pytest.raises(ValueError, match="'mallory' cannot hear or leave as 'b'"):
        door.attach("b", Inbox())
    with pytest.raises(ValueError, match="'mallory' cannot hear or leave as 'b'"):
        door.detach("b")


def test_the_agents_of_a_system_stand_behind_doors() -> None:
    system = System(load_published(SCENARIOS / "quickstart-ring.yaml"))
    one, another = list(system.nodes)[:2]
    inbox = Inbox()
    system.faulty_bus.attach(another, inbox)
    node = system.nodes[one]
    node.carry_out([message(1, another, another), message(2, one, another)])
    system.clock.run(1.0)
    assert inbox.ids == ["m2"]
