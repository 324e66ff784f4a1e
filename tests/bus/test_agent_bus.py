from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from bus_messages import Inbox, message
from seal_lab import seal

from phalanx.bus import Bus, subjects
from phalanx.bus.agents import AgentBus
from phalanx.bus.memory_broker import MemoryBroker, MemoryClient
from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import SealLimits
from phalanx.bus.wire import MAX_OCTETS, WireError, encode
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.messages import Message, Performative, Verdict
from phalanx.identity.names import Identity, Role


def identity(name: str) -> Identity:
    return Identity(name, Role.AGENT, "edge")


class Lab:
    """Agents on a broker; what goes over it can be looked at, lost and doubled."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.copies: Sequence[float] = (0.0,)
        self.broker = MemoryBroker(self.clock, passage=lambda *_: self.copies)
        self.clients: dict[str, MemoryClient] = {}
        self.inboxes: dict[str, Inbox] = {}
        self.seals: dict[str, Seal] = {}
        self.refusals: list[tuple[str, str, str]] = []
        self.frames: list[tuple[str, bytes]] = []
        """(subject, frame) of all that reached an agent."""

    def start(self, name: str, incarnation: int = 1) -> AgentBus:
        self.broker.kill(identity(name))
        client = self.clients[name] = self.broker.join(identity(name))
        pattern = subjects.pattern("edge", "msg", name, subjects.ONE)
        client.subscribe(pattern, lambda got: self.frames.append((got.subject, got.payload)))
        self.seals[name] = seal(name, incarnation)
        bus = AgentBus(
            client,
            self.clock,
            self.seals[name],
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
        self.clients[sender].publish(subject, frame)


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
    for number in range(SealLimits().waiting + 2):
        a.send(message(number))
    assert a.shed == {"seal": 2}
    lab.run(20.0)
    assert (a.lapsed, a.queued) == (SealLimits().waiting, 0)
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


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (encode(message(3, "c", "b")), "forged"),
        (encode(message(3, "a", "c")), "forged"),
        (encode(message(3, "b", "a")), "forged"),
        (b"\1not json", "garbage"),
    ],
)
def test_what_is_sealed_is_believed_only_of_its_sender(
    lab: Lab, payload: bytes, reason: str
) -> None:
    """The subject and the seal say a, to b; what is in it says otherwise, or nothing."""
    _, b = greet(lab)
    subject = subjects.message("edge", "b", "a")
    for frame in lab.seals["a"].wrap("b", payload, lab.clock.now()):
        lab.clients["a"].publish(subject, frame)
    lab.run()
    assert b.refused == {reason: 1}
    assert lab.refusals == [(reason, subject, "a")]
    assert lab.inboxes["b"] == []


def test_garbage_is_refused_and_counted(lab: Lab) -> None:
    _, b = greet(lab)
    for frame in (b"", b"\0" * 25, b"\1" * 25):
        lab.clients["a"].publish(subjects.message("edge", "b", "a"), frame)
    lab.run()
    assert b.refused == {"garbage": 3}
    assert lab.inboxes["b"] == []


def test_a_message_counts_once_however_often_it_comes(lab: Lab) -> None:
    a, b = greet(lab)
    lab.copies = (0.0, 0.0, 0.3)
    a.send(message(3))
    lab.run()
    assert lab.inboxes["b"].ids == ["m3"]
    assert b.refused == {"replayed": 2}


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
    assert receiver.refused == {"no-session": 1}


def test_what_cannot_travel_is_said_to_the_sender(lab: Lab) -> None:
    a, _ = greet(lab)
    with pytest.raises(WireError, match="at most 1048576 can travel"):
        a.send(Message("m", Performative.INFORM, "a", "b", "c", Verdict("x" * MAX_OCTETS), "e"))
    fits = MAX_OCTETS - len(
        encode(Message("m", Performative.INFORM, "a", "b", "c", Verdict(), "e"))
    )
    a.send(Message("m", Performative.INFORM, "a", "b", "c", Verdict("x" * fits), "e"))
    assert a.lost == 1, "the frame's head has no room"
    assert lab.clients["a"].counters.refused == {"oversize": 1}


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


def test_what_goes_over_the_broker_is_sealed(lab: Lab) -> None:
    a, _ = greet(lab)
    a.send(message(3))
    lab.run()
    ((_, frame),) = lab.frames
    assert b"inform" not in frame


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
