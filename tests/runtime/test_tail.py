"""Reading the stream of events ends exactly at its present end, and not without it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from phalanx.bus import subjects
from phalanx.bus.client import BrokerError
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.events import Event
from phalanx.fabric.envelope import from_event, to_json
from phalanx.identity.names import Identity, Role
from phalanx.runtime.processes.operator import SILENCE_S, Operator, Tail

DOMAIN = "edge"
EYE = Identity("eye", Role.OBSERVER, DOMAIN)


class Lab(Operator):
    """An operator on a hub in memory, on virtual time."""

    def __init__(self) -> None:
        self.clock = VirtualClock()  # type: ignore[assignment]  # it runs as the wall clock does
        self.hub = MemoryBroker(self.clock)
        self.identity = EYE
        exchange = self.hub.join(EYE)
        self.complaints: list[Callable[[str], None]] = []
        exchange.on_error = self.complaints.append  # type: ignore[method-assign]
        self.exchange = exchange
        self.agent = self.hub.join(Identity("pop1", Role.AGENT, DOMAIN))
        self.told: list[str] = []

    def record(self, *numbers: int) -> None:
        for number in numbers:
            event = Event(f"pop1-{number}", 0.0, "pop1", "x", None, {})
            subject = subjects.event(DOMAIN, "pop1", "x")
            self.agent.append(subject, to_json(from_event(event, DOMAIN)), event.id, lambda _: None)
        self.rest()

    def rest(self, seconds: float = 0.1) -> None:
        self.clock.run(self.clock.now() + seconds)

    def tell(self, event: Event, received: float) -> None:
        assert received <= self.clock.now()
        self.told.append(event.id)


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_it_ends_at_the_present_end_without_a_pause(lab: Lab) -> None:
    lab.record(*range(700))
    lab.agent.append(subjects.event(DOMAIN, "pop1", "x"), b"garbage", "g", lambda _: None)
    lab.rest()
    before = lab.clock.now()
    tail = Tail(lab, lab.tell)
    tail.catch_up()
    assert lab.told == [f"pop1-{number}" for number in range(700)]
    assert lab.clock.now() == before
    assert tail.unreadable == 1


@pytest.mark.parametrize("past", [True, False])
def test_an_empty_stream_has_a_present_end_too(lab: Lab, past: bool) -> None:
    before = lab.clock.now()
    Tail(lab, lab.tell, past=past).catch_up()
    assert (lab.told, lab.clock.now()) == ([], before)


def test_only_what_came_lately_is_told_and_then_what_comes(lab: Lab) -> None:
    lab.record(1)
    lab.rest(60.0)
    lab.record(2)
    reached: list[int] = []
    Tail(lab, lab.tell, since_s=30.0, caught_up=lambda: reached.append(len(lab.told)))
    lab.rest()
    lab.record(3)
    assert (lab.told, reached) == (["pop1-2", "pop1-3"], [1])


def test_brokers_that_do_not_go_on_are_given_up_with_one_line(lab: Lab) -> None:
    lab.record(1)
    tail = Tail(lab, lab.tell)
    lab.hub.lose(EYE)
    for complain in lab.complaints:
        complain("connection refused")
    before = lab.clock.now()
    with pytest.raises(BrokerError, match=r"do not tell what they keep: connection refused$"):
        tail.catch_up()
    assert SILENCE_S <= lab.clock.now() - before < 2 * SILENCE_S
