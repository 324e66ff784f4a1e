from __future__ import annotations

import pytest
from reading_contract import PRESENT, ReadingContract, Story
from test_memory_broker import Ground

from phalanx.bus import subjects
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.identity.names import Identity, Role


class TestLocalReading(ReadingContract):
    """The contract, in memory."""

    @pytest.fixture
    def ground(self) -> Ground:
        return Ground()


def test_who_is_cut_off_reaches_the_present_once_it_is_back() -> None:
    clock = VirtualClock()
    hub = MemoryBroker(clock)
    recorder = Identity("history", Role.RECORDER, "edge")
    exchange = hub.join(recorder)
    hub.lose(recorder)
    story = Story()
    exchange.follow(subjects.EVENTS, story.tell, caught_up=story.caught_up)
    exchange.watch(subjects.REGISTRY, lambda *_: None, caught_up=story.caught_up)
    clock.run(clock.now() + 1.0)
    assert story == []
    hub.regain(recorder)
    clock.run(clock.now() + 1.0)
    assert story == [PRESENT, PRESENT]
