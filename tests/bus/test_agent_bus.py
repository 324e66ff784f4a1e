from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from bus_messages import Inbox, message
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from seal_lab import seal

from phalanx.bus import Bus, subjects
from phalanx.bus.agents import AgentBus, Seal
from phalanx.bus.memory_broker import MemoryBroker, MemoryClient
from phalanx.bus.plain import WAITING, Opened, PlainSeal
from phalanx.bus.window import WINDOW
from phalanx.bus.wire import MAX_OCTETS, WireError, encode
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.messages import Message, Performative, Verdict
from phalanx.identity.names import Identity, Role


def identity(name: str) -> Identity:
    return Identity(name, Role.AGENT, "edge")


class Lab:
    """Agents on a hub; what goes over it can be looked at, lost and doubled."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.copies: Sequence[float] = (0.0,)
        self.hub = MemoryBroker(self.clock, passage=lambda *_: self.copies)
        self.exchanges: dict[str, MemoryClient] = {}
        self.inboxes: dict[str, Inbox] = {}
        self.refusals: list[tuple[str, str, str]] = []
        self.frames: list[tuple[str, bytes]] = []
        """(subject, frame) of all that reached an agent."""

    def start(self, name: str, incarnation: int = 1, own: Seal | None = None) -> AgentBus:
        self.hub.kill(identity(name))
        exchange = self.exchanges[name] = self.hub.join(identity(name))
        pattern = subjects.pattern("edge", "msg", name, "*")
        exchange.subscribe(pattern, lambda got: self.frames.append((got.subject, got.payload)))
        bus = AgentBus(
            exchange,
            self.clock,
            own or PlainSeal(incarnation),
            peers=("a", "b"),
            on_refused=lambda *told: self.refusals.append(told),
        )
        self.inboxes[name] = Inbox()
        bus.attach(name, self.inboxes[name])
        return bus

    def run(self, seconds: float = 0.5) -> None:
        self.clock.run(self.clock.now() + seconds)

    def replay(self, subject: str, frame: bytes) -> None:
        """Say again what was said, as whoever said it."""
        sender = subjects.speaker(subject)
        assert sender is not None
        self.exchanges[sender].publish(subject, frame)


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_messages_arrive_in_order_the_first_ones_after_a_greeting(lab: Lab) -> None:
    a: Bus = lab.start("a")
    lab.start("b")
    for number in range(5):
        a.send(message(number))
    lab.run()
    assert lab.inboxes["b"].ids == [f"m{number}" for number in range(5)]
    assert len(lab.frames) == 5 + 2
    a.send(message(5))
    lab.run()
    assert len(lab.frames) == 5 + 2 + 1
    assert a.peers() == ("a", "b")


def test_what_is_said_to_oneself_goes_through_the_clock(lab: Lab) -> None:
    a = lab.start("a")
    a.send(message(1, "a", "a"))
    assert lab.inboxes["a"] == []
    lab.run()
    assert lab.inboxes["a"].ids == ["m1"]
    assert a.delivered == 1
    assert lab.frames == []


def test_sent_is_counted_by_performative(lab: Lab) -> None:
    a = lab.start("a")
    a.send(message(1, performative=Performative.CFP))
    a.send(message(2, performative=Performative.REFUSE))
    assert a.sent == {Performative.CFP: 1, Performative.REFUSE: 1}


def test_who_is_not_there_yet_is_waited_for(lab: Lab) -> None:
    a = lab.start("a")
    for number in range(3):
        a.send(message(number))
    lab.run(5.0)
    assert a.queued == 3
    lab.start("b")
    lab.run(2.5)
    assert lab.inboxes["b"].ids == ["m0", "m1", "m2"]
    assert a.queued == 0


def test_who_never_comes_is_given_up_and_what_waits_is_bounded(lab: Lab) -> None:
    a = lab.start("a")
    for number in range(WAITING + 2):
        a.send(message(number))
    assert a.shed == {"seal": 2}
    lab.run(20.0)
    assert (a.lapsed, a.queued) == (WAITING, 0)
    assert lab.clock.pending == 0
    lab.start("b")
    a.send(message(1000))
    lab.run()
    assert lab.inboxes["b"].ids == ["m1000"]


# -- whom it does not believe ---------------------------------------------------------------------


def greet(lab: Lab) -> tuple[AgentBus, AgentBus]:
    """Return two agents that know each other."""
    a, b = lab.start("a"), lab.start("b")
    a.send(message(1))
    b.send(message(2, "b", "a"))
    lab.run()
    lab.inboxes["b"].clear()
    lab.frames.clear()
    return a, b


def test_nobody_sends_or_hears_as_another(lab: Lab) -> None:
    a, b = greet(lab)
    a.send(message(3, sender="b", receiver="b"))
    lab.run()
    assert lab.inboxes["b"] == []
    assert a.refused == {"forged": 1}
    with pytest.raises(ValueError, match="'a' cannot hear what is said to 'b'"):
        a.attach("b", Inbox())
    with pytest.raises(ValueError, match="'a' is attached already"):
        a.attach("a", Inbox())
    assert b.refused == {}


@pytest.mark.parametrize(("sender", "receiver"), [("c", "b"), ("a", "c"), ("b", "a")])
def test_a_message_in_anothers_name_is_forged(lab: Lab, sender: str, receiver: str) -> None:
    """The subject says a, to b; what is in it says otherwise."""
    seal = PlainSeal(1)
    a, b = greet(lab)
    lab.hub.kill(identity("a"))
    rogue = lab.exchanges["a"] = lab.hub.join(identity("a"))
    subject = subjects.message("edge", "b", "a")
    seal.open("b", PlainSeal(1).wrap("a", b"x", 0.0)[0], 0.0)  # its hello: it lives once
    for _ in range(2):  # the first number was used before
        (frame,) = seal.wrap("b", encode(message(3, sender, receiver)), 0.0)
    rogue.publish(subject, frame)
    lab.run()
    assert b.refused == {"forged": 1}
    assert lab.refusals == [("forged", subject, "a")]
    assert lab.inboxes["b"] == []
    assert a.refused == {}


@pytest.mark.parametrize("frame", [b"", b"\0" * 25, b"\1" * 25, b"\4" + b"\1" * 30, b"\1" * 24])
def test_garbage_is_refused_and_counted(lab: Lab, frame: bytes) -> None:
    _, b = greet(lab)
    lab.exchanges["a"].publish(subjects.message("edge", "b", "a"), frame)
    lab.run()
    assert b.refused == {"garbage": 1}
    assert lab.inboxes["b"] == []


def test_a_frame_around_garbage_is_refused(lab: Lab) -> None:
    a, b = greet(lab)
    a.send(message(3))
    lab.run()
    subject, frame = lab.frames[-1]
    lab.replay(subject, frame[:24] + bytes((frame[24] + 1,)) + b"\1not json")
    lab.run()
    assert b.refused == {"garbage": 1}


def test_a_message_counts_once_however_often_it_comes(lab: Lab) -> None:
    a, b = greet(lab)
    lab.copies = (0.0, 0.0, 0.3)
    a.send(message(3))
    lab.run()
    assert lab.inboxes["b"].ids == ["m3"]
    assert b.refused == {"replayed": 2}


def test_a_late_message_counts_if_it_is_not_too_late(lab: Lab) -> None:
    a, b = greet(lab)
    lab.copies = (3.0,)
    a.send(message(3))
    lab.copies = (0.0,)
    a.send(message(4))
    lab.run(4.0)
    assert lab.inboxes["b"].ids == ["m4", "m3"]
    lab.copies = (3.0,)
    a.send(message(5))
    lab.copies = (0.0,)
    for number in range(WINDOW):
        a.send(message(6 + number))
    lab.run(4.0)
    assert "m5" not in lab.inboxes["b"].ids
    assert b.refused == {"replayed": 1}


@pytest.mark.parametrize("restarted", ["a", "b"])
def test_nothing_said_before_a_restart_counts_after_it(lab: Lab, restarted: str) -> None:
    a, b = greet(lab)
    a.send(message(3))
    lab.run()
    (old,) = lab.frames
    again = lab.start(restarted, 2)
    other = {"a": b, "b": a}[restarted]
    again.send(message(4, restarted, {"a": "b", "b": "a"}[restarted]))
    lab.run()
    lab.replay(*old)
    lab.run()
    assert "m3" not in lab.inboxes["b"].ids[1 if restarted == "a" else 0 :]
    receiver = again if restarted == "b" else other
    assert receiver.refused == {"stale": 1}


def test_even_who_was_restarted_and_has_heard_nothing_takes_no_replay(lab: Lab) -> None:
    a, _ = greet(lab)
    a.send(message(3))
    lab.run()
    (old,) = lab.frames
    b = lab.start("b", 2)
    lab.replay(*old)
    lab.run()
    assert (lab.inboxes["b"], b.refused) == ([], {"stale": 1})
    a.send(message(5))
    lab.run()
    assert lab.inboxes["b"].ids == ["m5"], "the answer to the replay told a who lives"


def test_a_restart_loses_no_more_than_what_was_on_its_way(lab: Lab) -> None:
    a, _ = greet(lab)
    b = lab.start("b", 2)
    a.send(message(3))
    lab.run()
    a.send(message(4))
    lab.run()
    assert lab.inboxes["b"].ids == ["m4"]
    assert b.refused == {"stale": 1}


def test_what_cannot_travel_is_said_to_the_sender(lab: Lab) -> None:
    a, _ = greet(lab)
    with pytest.raises(WireError, match="at most 1048576 can travel"):
        a.send(Message("m", Performative.INFORM, "a", "b", "c", Verdict("x" * MAX_OCTETS), "e"))
    fits = MAX_OCTETS - len(
        encode(Message("m", Performative.INFORM, "a", "b", "c", Verdict(), "e"))
    )
    a.send(Message("m", Performative.INFORM, "a", "b", "c", Verdict("x" * fits), "e"))
    assert a.lost == 1, "the frame's head has no room"
    assert lab.exchanges["a"].counters.refused == {"oversize": 1}


def test_the_dead_hear_nothing(lab: Lab) -> None:
    a, b = greet(lab)
    a.send(message(3))
    b.send(message(4, "b", "b"))
    b.detach("b")
    b.detach("b")
    lab.run()
    assert lab.inboxes["b"] == []
    assert b.lost == 1
    b.attach("b", lab.inboxes["b"])
    a.send(message(5))
    lab.run()
    assert lab.inboxes["b"].ids == ["m5"]


def test_the_seal_that_hides_takes_the_place_of_the_plain_one(lab: Lab) -> None:
    a, b = (lab.start(name, own=seal(name)) for name in "ab")
    a.send(message(1))
    b.send(message(2, "b", "a"))
    lab.run()
    assert (lab.inboxes["a"].ids, lab.inboxes["b"].ids) == (["m2"], ["m1"])
    lab.frames.clear()
    a.send(message(3))
    lab.run()
    ((subject, frame),) = lab.frames
    assert b"m3" not in frame
    lab.replay(subject, frame)
    lab.run()
    assert lab.inboxes["b"].ids == ["m1", "m3"]
    assert b.refused == {"replayed": 1}


# -- the plain seal --------------------------------------------------------------------------


def test_an_incarnation_is_counted_from_one() -> None:
    with pytest.raises(ValueError, match="the incarnation is 0"):
        PlainSeal(0)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_frame_is_too_strange(frame: bytes) -> None:
    PlainSeal(1).open("a", frame, 0.0)


class Lives(RuleBasedStateMachine):
    """Two seals; frames are lost, doubled, kept and replayed, both sides restart."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lives = {"a": 1, "b": 1}
        self.seals = {name: PlainSeal(1) for name in self.lives}
        self.history: list[tuple[str, bytes]] = []
        """(receiver, frame), all that was ever sent."""
        self.number = 0
        self.said: dict[bytes, int] = {}
        """In which life of its sender each payload was given to its seal."""
        self.heard = {"a": 0, "b": 0}
        """The latest life of its peer that each has heard something of in its present one."""
        self.got: set[bytes] = set()

    def hear(self, receiver: str, frame: bytes, *, lossy: bool = True) -> None:
        sender = "b" if receiver == "a" else "a"
        outcome = self.seals[receiver].open(sender, frame, self.now)
        if isinstance(outcome, Opened) and outcome.payload is not None:
            assert outcome.payload not in self.got, "twice"
            assert outcome.payload[:1] == sender.encode(), "back to its sender"
            assert self.said[outcome.payload] >= self.heard[receiver], "stale"
            self.heard[receiver] = self.said[outcome.payload]
            self.got.add(outcome.payload)
        for reply in outcome.replies:
            self.history.append((sender, reply))
            if not lossy:
                self.hear(sender, reply, lossy=False)

    @rule(sender=st.sampled_from("ab"), arrives=st.integers(0, 2))
    def send(self, sender: str, arrives: int) -> None:
        self.number += 1
        payload = f"{sender}{self.number}".encode()
        receiver = "b" if sender == "a" else "a"
        self.said[payload] = self.lives[sender]
        for frame in self.seals[sender].wrap(receiver, payload, self.now):
            self.history.append((receiver, frame))
            for _ in range(arrives):
                self.hear(receiver, frame)

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.history:
            self.hear(*data.draw(st.sampled_from(self.history)))

    @rule(name=st.sampled_from("ab"))
    def restart(self, name: str) -> None:
        self.lives[name] += 1
        self.seals[name] = PlainSeal(self.lives[name])
        self.heard[name] = 0

    @rule(seconds=st.sampled_from([0.1, 1.0, 12.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for name, own in self.seals.items():
            for receiver, frame in own.tick(self.now):
                assert receiver != name
                self.history.append((receiver, frame))

    def teardown(self) -> None:
        """Once nothing is lost any more, all that is said arrives, after one that may not."""
        for sender, receiver in (("a", "b"), ("b", "a")):
            for attempt in range(3):
                payload = f"{sender}-last{attempt}".encode()
                self.said[payload] = self.lives[sender]
                for frame in self.seals[sender].wrap(receiver, payload, self.now):
                    self.hear(receiver, frame, lossy=False)
                self.now += 3.0
                for name in "ab":
                    for to, frame in self.seals[name].tick(self.now):
                        self.hear(to, frame, lossy=False)
            assert f"{sender}-last2".encode() in self.got


Lives.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestLives = Lives.TestCase


def test_agents_talk_through_loss_and_doubling(lab: Lab) -> None:
    rng = Random(7)
    a, _ = lab.start("a"), lab.start("b")
    for number in range(300):
        lab.copies = rng.choice([(), (0.0,), (0.0,), (0.01, 0.05)])
        a.send(message(number))
        lab.run(0.02)
    got = lab.inboxes["b"].ids
    assert len(got) == len(set(got))
    assert len(got) > 180
