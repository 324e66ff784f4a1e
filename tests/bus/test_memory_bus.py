from __future__ import annotations

import pytest
from bus_messages import Inbox, message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.nightly import examples

from phalanx.bus import Bus
from phalanx.bus.memory import MemoryBus
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.messages import Message, Performative


def test_delivery_is_later_than_the_call() -> None:
    clock, inbox = VirtualClock(), Inbox()
    bus: Bus = MemoryBus(clock)
    bus.attach("b", inbox)
    bus.send(message(1))
    assert inbox == []
    clock.run()
    assert inbox.ids == ["m1"]
    assert clock.now() == 0.0


def test_order_without_latency_is_that_of_sending_over_all_agents() -> None:
    clock, inbox = VirtualClock(), Inbox()
    bus = MemoryBus(clock)
    for name in "abc":
        bus.attach(name, inbox)
    for number in range(30):
        bus.send(message(number, receiver="abc"[number % 3]))
    clock.run()
    assert inbox.ids == [f"m{number}" for number in range(30)]


def test_an_answer_waits_for_the_next_turn_of_the_clock() -> None:
    clock, seen = VirtualClock(), list[str]()
    bus = MemoryBus(clock)

    def echo(got: Message) -> None:
        seen.append(got.id)
        if len(seen) == 1:
            clock.call_soon(lambda: seen.append("another's turn"))
            bus.send(message(2, sender="b", receiver="b"))

    bus.attach("b", echo)
    bus.send(message(1))
    clock.run()
    assert seen == ["m1", "another's turn", "m2"]


def test_latency_is_of_the_pair() -> None:
    clock, arrivals = VirtualClock(), list[tuple[str, float]]()
    seconds = {("a", "b"): 2.0, ("c", "b"): 0.5, ("d", "b"): 0.0}
    bus = MemoryBus(clock, latency=lambda sender, receiver: seconds[sender, receiver])
    bus.attach("b", lambda got: arrivals.append((got.sender, clock.now())))
    for sender in "acd":
        bus.send(message(1, sender))
    assert bus.queued == 3
    clock.run()
    assert arrivals == [("d", 0.0), ("c", 0.5), ("a", 2.0)]
    assert bus.queued == 0


def test_a_full_queue_sheds_reports_and_counts() -> None:
    clock, inbox, reported = VirtualClock(), Inbox(), Inbox()
    bus = MemoryBus(clock, capacity=2, on_shed=reported)
    bus.attach("b", inbox)
    bus.attach("c", inbox)
    for number in range(5):
        bus.send(message(number))
    bus.send(message(5, receiver="c"))
    clock.run()
    assert inbox.ids == ["m0", "m1", "m5"]
    assert reported.ids == ["m2", "m3", "m4"]
    assert bus.shed == {"b": 3}
    bus.send(message(6))
    clock.run()
    assert inbox.ids[-1] == "m6"


def test_messages_on_their_way_fill_the_queue_too() -> None:
    clock, inbox = VirtualClock(), Inbox()
    bus = MemoryBus(clock, latency=lambda *_: 1.0, capacity=1)
    bus.attach("b", inbox)
    bus.send(message(1))
    bus.send(message(2))
    clock.run()
    assert inbox.ids == ["m1"]
    assert bus.shed == {"b": 1}


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_what_is_on_its_way_dies_with_its_receiver(seconds: float) -> None:
    clock, before, after = VirtualClock(), Inbox(), Inbox()
    bus = MemoryBus(clock, latency=lambda *_: seconds)
    bus.attach("b", before)
    bus.send(message(1))
    bus.detach("b")
    bus.send(message(2))
    bus.attach("b", after)
    bus.send(message(3))
    clock.run()
    assert before == []
    assert after.ids == ["m3"]
    assert bus.lost_detached == 2
    assert bus.delivered == 1


def test_detach_of_a_stranger_is_no_error() -> None:
    bus = MemoryBus(VirtualClock())
    bus.detach("nobody")
    assert bus.lost_detached == 0


def test_peers_are_sorted_and_stay_when_they_die() -> None:
    bus = MemoryBus(VirtualClock(), peers=["z", "b"])
    bus.attach("c", Inbox())
    bus.attach("a", Inbox())
    bus.detach("c")
    assert bus.peers() == ("a", "b", "c", "z")


def test_sent_is_counted_by_performative() -> None:
    bus = MemoryBus(VirtualClock())
    bus.send(message(1, performative=Performative.CFP))
    bus.send(message(2, performative=Performative.CFP))
    bus.send(message(3, performative=Performative.REFUSE))
    assert bus.sent == {Performative.CFP: 2, Performative.REFUSE: 1}


def test_an_address_has_one_handler() -> None:
    bus = MemoryBus(VirtualClock())
    bus.attach("b", Inbox())
    with pytest.raises(ValueError, match="'b' is attached already"):
        bus.attach("b", Inbox())


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity is 0"):
        MemoryBus(VirtualClock(), capacity=0)


def test_a_bug_in_a_handler_is_loud_and_harms_no_other_message() -> None:
    clock, inbox = VirtualClock(), Inbox()
    bus = MemoryBus(clock)

    def broken(_: Message) -> None:
        raise ZeroDivisionError

    bus.attach("b", broken)
    bus.attach("c", inbox)
    bus.send(message(1))
    bus.send(message(2, receiver="c"))
    with pytest.raises(ZeroDivisionError):
        clock.run()
    clock.run()
    assert inbox.ids == ["m2"]
    bus.send(message(3, receiver="c"))
    clock.run()
    assert inbox.ids == ["m2", "m3"]


class NothingVanishes(RuleBasedStateMachine):
    """Sends, deaths and births at random: every message is accounted for, in order."""

    names = ("a", "b", "c")
    capacity = 4

    @initialize(seconds=st.sampled_from([None, 0.0, 0.25]))
    def start(self, seconds: float | None) -> None:
        self.clock = VirtualClock()
        latency = None if seconds is None else lambda sender, receiver: seconds
        self.reported = Inbox()
        self.bus = MemoryBus(
            self.clock, latency=latency, capacity=self.capacity, on_shed=self.reported
        )
        self.number = 0
        self.inboxes: dict[str, Inbox] = {}
        self.got = Inbox()
        self.answers = 0

    @rule(name=st.sampled_from(names))
    def attach(self, name: str) -> None:
        if name not in self.inboxes:
            self.inboxes[name] = Inbox()
            self.bus.attach(name, self.receive)

    @rule(name=st.sampled_from(names))
    def detach(self, name: str) -> None:
        self.inboxes.pop(name, None)
        self.bus.detach(name)

    def receive(self, got: Message) -> None:
        assert got.receiver in self.inboxes, "a dead agent was called"
        self.inboxes[got.receiver].append(got)
        self.got.append(got)
        if got.performative is Performative.CFP:
            self.send(got.receiver, got.sender, Performative.REFUSE)

    @rule(
        sender=st.sampled_from(names),
        receiver=st.sampled_from(names),
        performative=st.sampled_from([Performative.CFP, Performative.INFORM]),
    )
    def send(self, sender: str, receiver: str, performative: Performative) -> None:
        self.number += 1
        self.bus.send(message(self.number, sender, receiver, performative))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.25, 1.0]))
    def run(self, seconds: float) -> None:
        self.clock.run(self.clock.now() + seconds)

    @invariant()
    def all_are_counted(self) -> None:
        bus = self.bus
        shed = sum(bus.shed.values())
        assert sum(bus.sent.values()) == self.number
        assert self.number == bus.delivered + shed + bus.lost_detached + bus.queued
        assert bus.delivered == len(self.got)
        assert shed == len(self.reported)
        assert bus.queued <= self.capacity * len(self.names)

    @invariant()
    def each_pair_keeps_its_order(self) -> None:
        last: dict[tuple[str, str], int] = {}
        for got in self.got:
            pair, number = (got.sender, got.receiver), int(got.id[1:])
            assert last.get(pair, 0) < number
            last[pair] = number

    def teardown(self) -> None:
        self.clock.run()
        assert self.bus.queued == 0
        self.all_are_counted()


NothingVanishes.TestCase.settings = settings(max_examples=examples(24), stateful_step_count=30)
TestNothingVanishes = NothingVanishes.TestCase
