"""One frame for many: read by those that it was sealed for, once, and made by its sender alone."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

from bus_messages import Inbox
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from seal_lab import seal, without
from tests.nightly import examples

from phalanx.bus.agents import AgentBus
from phalanx.bus.memory_broker import MemoryBroker, MemoryClient
from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import (
    SHARED,
    SLOT,
    SLOTS,
    OpenedFrame,
    Reason,
    RefusedFrame,
    SealLimits,
    SealSession,
    shared_slot,
)
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.messages import Message, Performative, Verdict
from phalanx.identity.credentials import Credentials
from phalanx.identity.names import Identity, Role

MEMBERS = ("b", "c", "d")
NO_SLOT = OpenedFrame(None)


def meet(one: Seal, two: Seal, now: float = 0.0) -> None:
    """Have two agents agree on keys; both know then that the other has them."""
    sides = {one.identity.name: one, two.identity.name: two}
    first, second = sides
    waiting = [(second, first, frame) for frame in one.wrap(second, b"hello", now)]
    while waiting:
        to, sender, frame = waiting.pop(0)
        outcome = sides[to].open(sender, frame, now)
        waiting += [(sender, to, reply) for reply in outcome.replies]


def crowd(limits: SealLimits | None = None) -> tuple[Seal, dict[str, Seal]]:
    """Return a sender and three agents that have keys with it, and with each other."""
    sender, others = seal("a", 1, limits), {name: seal(name, 1, limits) for name in MEMBERS}
    for own in others.values():
        meet(sender, own)
    for one, two in pairwise(others.values()):
        meet(one, two)
    return sender, others


def shared(sender: Seal, *members: str, payload: bytes = b"cfp", now: float = 1.0) -> bytes:
    frame, alone = sender.share(members, payload, now)
    assert frame is not None
    assert not alone
    return frame


def refusal(own: Seal, frame: bytes, peer: str = "a") -> Reason | None:
    outcome = own.open(peer, frame, 1.0)
    return outcome.reason if isinstance(outcome, RefusedFrame) else None


@given(
    members=st.lists(st.sampled_from(MEMBERS), min_size=2, max_size=3, unique=True),
    payloads=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=examples(12))
def test_members_read_each_frame_once_in_any_order_and_nobody_else_does(
    members: list[str], payloads: list[bytes], data: st.DataObject
) -> None:
    sender, others = crowd()
    frames = [shared(sender, *members, payload=payload) for payload in payloads]
    order = data.draw(st.permutations(range(len(frames))))
    for name, own in others.items():
        for number in order:
            expected = OpenedFrame(payloads[number]) if name in members else NO_SLOT
            assert own.open("a", frames[number], 1.0) == expected
        for frame in frames:
            assert refusal(own, frame) == (Reason.REPLAYED if name in members else None)
    assert all(payload not in frame for payload, frame in zip(payloads, frames, strict=True)) or (
        min(map(len, payloads)) < 8
    )


@given(place=st.integers(0, 1 << 16), flip=st.integers(1, 255))
def test_a_changed_octet_is_never_read_as_another_message(place: int, flip: int) -> None:
    sender, others = CROWD
    frame = bytearray(shared(sender, "b", "c"))
    frame[place % len(frame)] ^= flip
    for name in ("b", "c"):
        outcome = others[name].open("a", bytes(frame), 1.0)
        # An octet of another's slot does not matter; a lost mark is no message at all.
        assert outcome in (OpenedFrame(b"cfp"), NO_SLOT) or isinstance(outcome, RefusedFrame)
        begin = SLOTS.size + ("b", "c").index(name) * SLOT
        own = (*range(SLOTS.size), *range(begin, begin + SLOT))
        if place % len(frame) in own or place % len(frame) >= SLOTS.size + 2 * SLOT:
            assert outcome != OpenedFrame(b"cfp")


CROWD = crowd()


@given(octets=st.binary(max_size=400), slots=st.none() | st.integers(0, 65_535))
def test_octets_that_nobody_sealed_are_refused(octets: bytes, slots: int | None) -> None:
    head = bytes((SHARED,)) if slots is None else SLOTS.pack(SHARED, slots)
    outcome = CROWD[1]["b"].open("a", head + octets, 1.0)
    assert outcome == NO_SLOT or refusal(CROWD[1]["b"], head + octets) is Reason.GARBAGE


def test_a_frame_that_is_cut_short_or_lengthened_is_not_read() -> None:
    sender, others = crowd()
    frame = shared(sender, "b", "c")
    for cut in range(1, len(frame)):
        assert others["b"].open("a", frame[:cut], 1.0) != OpenedFrame(b"cfp")
    assert refusal(others["b"], frame + b"\0") is Reason.ALTERED
    assert others["b"].open("a", frame, 1.0) == OpenedFrame(b"cfp")


def key_in(own: Seal, frame: bytes, name: str) -> bytes:
    """Return the key of a frame's content, which its members know."""
    session = session_of(own, "a")
    found = shared_slot(frame, own._peers["a"]._mark)
    assert found is not None
    key = session.open(found[0], sha256(found[1]).digest())
    assert isinstance(key, bytes), name
    return key


def session_of(own: Seal, peer: str) -> SealSession:
    session = own._peers[peer]._current
    assert session is not None
    return session


def test_a_member_that_knows_the_key_cannot_change_what_others_read() -> None:
    sender, others = crowd()
    frame = shared(sender, "b", "c")
    key = key_in(others["c"], frame, "c")
    forged = ChaCha20Poly1305(key).encrypt(bytes(12), b"reject", None)
    assert refusal(others["b"], frame[: SLOTS.size + 2 * SLOT] + forged) is Reason.ALTERED
    assert others["b"].open("a", frame, 1.0) == OpenedFrame(b"cfp")


def test_a_member_cannot_pass_a_frame_on_as_its_own_nor_its_own_as_anothers() -> None:
    sender, others = crowd()
    frame = shared(sender, "b", "c")
    assert others["b"].open("c", frame, 1.0) == NO_SLOT
    own, _ = others["c"].share(("b", "d"), b"mine", 1.0)
    assert own is not None
    assert others["b"].open("a", own, 1.0) == NO_SLOT
    # With the mark of messages from a to b, it is still of no session between them.
    of_a = sender._peers["b"]._handshake.subjects[0]
    mark = sha256(of_a).digest()[:8]
    renamed = own[: SLOTS.size] + mark + own[SLOTS.size + 8 :]
    assert refusal(others["b"], renamed) is Reason.NO_SESSION


def test_who_is_removed_or_revoked_reads_the_next_frame_no_more() -> None:
    sender, others = crowd()
    assert others["d"].open("a", shared(sender, *MEMBERS), 1.0) == OpenedFrame(b"cfp")
    frame = shared(sender, "b", "c")
    assert others["d"].open("a", frame, 1.0) == NO_SLOT
    own = sender._own.credentials
    assert sender.use(Credentials(own.certificate, own.key, without("d"))) == ("d",)
    frame, alone = sender.share(MEMBERS, b"cfp", 1.0)
    assert frame is not None
    assert others["d"].open("a", frame, 1.0) == NO_SLOT
    assert [name for name, _ in alone] == ["d"]  # a hello, which it cannot answer
    (answer,) = others["d"].open("a", alone[0][1], 1.0).replies
    assert refusal(sender, answer, "d") is Reason.IDENTITY


def test_a_member_that_began_anew_asks_for_keys_and_gets_the_next_frame() -> None:
    sender, others = crowd()
    again = seal("b", 2)
    outcome = again.open("a", shared(sender, *MEMBERS), 1.0)
    assert isinstance(outcome, RefusedFrame)
    assert outcome.reason is Reason.NO_SESSION
    assert [frame[0] for frame in outcome.replies] == [0x11]
    (answer,) = sender.open("b", outcome.replies[0], 1.0).replies
    (confirmation,) = again.open("a", answer, 1.0).replies
    sender.open("b", confirmation, 1.0)
    assert again.open("a", shared(sender, *MEMBERS), 1.0) == OpenedFrame(b"cfp")
    assert others["c"].open("a", shared(sender, *MEMBERS), 1.0) == OpenedFrame(b"cfp")


def test_frames_of_an_earlier_life_of_the_sender_are_not_read() -> None:
    sender, others = crowd()
    old = shared(sender, *MEMBERS)
    meet(seal("a", 2), others["b"], 1.0)
    assert refusal(others["b"], old) is Reason.NO_SESSION


def test_agents_without_lasting_keys_get_a_frame_of_their_own() -> None:
    sender, _ = crowd()
    frame, alone = sender.share((*MEMBERS, "new"), b"cfp", 1.0)
    assert frame is not None
    assert [(name, frame[0]) for name, frame in alone] == [("new", 0x11)]
    late = sender._own.limits.rekey_s + 100.0
    frame, alone = sender.share(MEMBERS, b"cfp", late)
    assert frame is None
    assert sorted({name for name, _ in alone}) == list(MEMBERS)
    assert sorted(frame[0] for _, frame in alone) == [0x11] * 3 + [0x13] * 3


def test_few_of_many_are_told_one_by_one() -> None:
    sender, _ = crowd()
    for number in range(8):
        sender.wrap(f"far{number}", b"hello", 0.0)
    frame, alone = sender.share(MEMBERS, b"cfp", 1.0)
    assert frame is None
    assert [(name, frame[0]) for name, frame in alone] == [(name, 0x13) for name in MEMBERS]


# -- over a bus -----------------------------------------------------------------------------------


class Lab:
    """An auctioneer and three bidders on a broker that may lose and double what one gets."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.copies: dict[str, tuple[float, ...]] = {}
        """How often, and how late, what many get reaches an agent."""
        self.broker = MemoryBroker(
            self.clock,
            passage=lambda _, to, subject: (
                self.copies.get(to.name, (0.0,)) if ".mcast." in subject else (0.0,)
            ),
        )
        self.clients: dict[str, MemoryClient] = {}
        self.inboxes: dict[str, Inbox] = {}
        self.buses = {name: self.start(name) for name in ("a", *MEMBERS)}
        for name in MEMBERS:
            self.say(Performative.INFORM, name)
        self.published = self.clients["a"].counters.published

    def start(self, name: str) -> AgentBus:
        client = self.clients[name] = self.broker.join(Identity(name, Role.AGENT, "edge"))
        bus = AgentBus(client, self.clock, seal(name))
        inbox = self.inboxes[name] = Inbox()
        bus.attach(name, inbox)
        return bus

    def say(self, performative: Performative, *members: str, word: str = "") -> None:
        content = Verdict(word)
        for name in members:
            said = Message(f"{word}-{name}", performative, "a", name, "c", content, "e")
            self.buses["a"].send(said)
        self.clock.run(self.clock.now() + 1.0)

    def heard(self, name: str) -> list[str]:
        return [
            got.content.reason for got in self.inboxes[name] if isinstance(got.content, Verdict)
        ]


def test_what_many_are_told_is_one_publication_in_the_name_of_each() -> None:
    lab = Lab()
    lab.say(Performative.CFP, *MEMBERS, word="call")
    lab.say(Performative.REJECT, *MEMBERS, word="lost")
    assert lab.clients["a"].counters.published == lab.published + 2
    for name in MEMBERS:
        assert lab.heard(name) == ["", "call", "lost"]
        assert {got.receiver for got in lab.inboxes[name]} == {name}
        assert lab.buses[name].refused == {}
    assert lab.buses["a"].sent[Performative.CFP] == len(MEMBERS)
    assert lab.inboxes["a"] == []


def test_what_one_is_told_after_many_does_not_overtake_it() -> None:
    lab = Lab()
    content = Verdict("call")
    for number, name in enumerate(MEMBERS):
        lab.buses["a"].send(Message(f"c{number}", Performative.CFP, "a", name, "c", content, "e"))
    lab.say(Performative.CANCEL, "b", word="cancel")
    assert lab.heard("b") == ["", "call", "cancel"]


@given(
    copies=st.fixed_dictionaries(
        {name: st.lists(st.sampled_from((0.0, 0.2, 5.0)), max_size=3) for name in MEMBERS}
    )
)
@settings(max_examples=examples(12))
def test_loss_and_doubles_of_some_leave_others_alone_and_the_next_call_reaches_all(
    copies: dict[str, list[float]],
) -> None:
    lab = Lab()
    lab.copies = {name: tuple(delays) for name, delays in copies.items()}
    lab.say(Performative.CFP, *MEMBERS, word="one")
    lab.copies = {}
    lab.say(Performative.CFP, *MEMBERS, word="two")
    lab.clock.run(lab.clock.now() + 10.0)
    for name in MEMBERS:
        assert sorted(lab.heard(name)) == sorted(["", *["one"] * bool(copies[name]), "two"])
        doubles = max(0, len(copies[name]) - 1)
        assert lab.buses[name].refused == ({"replayed": doubles} if doubles else {})
