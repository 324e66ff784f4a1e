"""Seals in particular situations."""

from __future__ import annotations

import pytest
from seal_lab import Pair, credentials, other, seal, without

from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import OVERHEAD, OpenedFrame, Reason, RefusedFrame, SealLimits
from phalanx.identity.credentials import Credentials
from phalanx.identity.names import Role


def agreed(limits: SealLimits | None = None) -> Pair:
    pair = Pair(limits)
    pair.send("alice", b"first")
    assert pair.got["bob"] == [b"first"]
    pair.sent.clear()
    pair.outcomes.clear()
    return pair


def refusals(pair: Pair) -> list[Reason]:
    return [outcome.reason for outcome in pair.outcomes if isinstance(outcome, RefusedFrame)]


def test_first_message_waits_for_one_hello_and_its_answer() -> None:
    pair = Pair()
    pair.send("alice", b"first")
    assert [frame[0] for _, frame in pair.sent] == [0x11, 0x12, 0x13]
    pair.send("bob", b"second")
    assert pair.got == {"alice": [b"second"], "bob": [b"first"]}
    assert len(pair.sent) == 4
    assert len(pair.sent[-1][1]) == len(b"second") + OVERHEAD
    assert not refusals(pair)


def test_payloads_keep_their_octets_and_never_stand_in_frames() -> None:
    pair = agreed()
    for payload in (b"\0", bytes(1 << 20), b"cfp" * 1000):
        pair.send("alice", payload)
        assert pair.got["bob"][-1] == payload
        assert payload not in pair.sent[-1][1] or len(payload) == 1


def test_equal_payloads_make_different_frames() -> None:
    pair = agreed()
    pair.send("alice", b"same")
    pair.send("alice", b"same")
    (_, one), (_, two) = pair.sent
    assert one[17:] != two[17:]


def test_hellos_that_cross_lead_to_sessions_that_both_have() -> None:
    pair = Pair()
    hellos = {
        name: pair.seals[name].wrap(other(name), name.encode(), 0.0) for name in ("alice", "bob")
    }
    answers = {name: pair.hear(other(name), hellos[name][0]).replies for name in hellos}
    for name in hellos:
        pair.carry(name, answers[name])
    assert pair.got == {"alice": [b"bob"], "bob": [b"alice"]}
    for name in hellos:
        pair.send(name, b"more")
    assert [got[-1] for got in pair.got.values()] == [b"more", b"more"]
    assert not refusals(pair)


def test_a_lost_hello_and_a_lost_answer_are_made_up_for() -> None:
    pair = Pair()
    (hello,) = pair.seals["alice"].wrap("bob", b"first", 0.0)
    assert pair.seals["alice"].wrap("bob", b"second", 0.1) == []
    pair.now = pair.seals["alice"].due or 0
    ((_, again),) = pair.seals["alice"].tick(pair.now)
    assert again == hello
    lost = pair.hear("bob", hello).replies
    assert pair.hear("bob", hello).replies == lost
    pair.carry("alice", lost)
    assert pair.got["bob"] == [b"first", b"second"]


def test_a_lost_confirmation_is_made_up_for_by_the_next_message() -> None:
    pair = Pair()
    (hello,) = pair.seals["alice"].wrap("bob", b"first", 0.0)
    (answer,) = pair.hear("bob", hello).replies
    pair.hear("alice", answer)  # what alice sends now is lost
    pair.send("alice", b"second")
    pair.send("bob", b"third")
    assert pair.got == {"alice": [b"third"], "bob": [b"second"]}


def test_a_doubled_frame_is_opened_once() -> None:
    pair = agreed()
    pair.send("alice", b"pay")
    (_, frame) = pair.sent[-1]
    assert pair.hear("bob", frame) == RefusedFrame(Reason.REPLAYED)
    assert pair.got["bob"] == [b"first", b"pay"]


def test_frames_are_opened_in_any_order_within_the_window() -> None:
    pair = agreed()
    frames = [pair.seals["alice"].wrap("bob", b"%d" % n, 0.0)[0] for n in range(1100)]
    newest = frames.pop()
    assert pair.hear("bob", newest) == OpenedFrame(b"1099")
    outcomes = [pair.hear("bob", frame) for frame in reversed(frames)]
    late = 1023
    assert all(isinstance(outcome, OpenedFrame) for outcome in outcomes[:late])
    assert set(outcomes[late:]) == {RefusedFrame(Reason.REPLAYED)}


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_whoever_restarts_is_heard_and_hears_again(who: str) -> None:
    pair = agreed()
    pair.restart(who, 2)
    pair.send(other(who), b"lost")  # under keys that are gone; brings about new ones
    pair.send(other(who), b"after")
    pair.send(who, b"back")
    assert b"lost" not in pair.got[who]
    assert pair.got[who][-1] == b"after"
    assert pair.got[other(who)][-1] == b"back"


def test_a_message_of_the_restarted_one_needs_nothing_from_the_other() -> None:
    pair = agreed()
    pair.restart("bob", 2)
    pair.send("bob", b"hello again")
    assert pair.got["alice"] == [b"hello again"]
    assert not refusals(pair)


def test_an_old_hello_does_not_touch_a_live_session() -> None:
    pair = Pair()
    pair.send("alice", b"first")
    old = [frame for receiver, frame in pair.sent if receiver == "bob"]
    pair.restart("alice", 2)
    pair.send("alice", b"second")
    for frame in old * 3:
        outcome = pair.hear("bob", frame)
        assert isinstance(outcome, RefusedFrame)
    before = len(pair.sent)
    pair.send("bob", b"third")
    pair.send("alice", b"fourth")
    assert [frame[0] for _, frame in pair.sent[before:]] == [0x13, 0x13]
    assert (pair.got["alice"], pair.got["bob"][-1]) == ([b"third"], b"fourth")


def test_an_old_hello_of_this_life_is_answered_and_leads_nowhere() -> None:
    pair = Pair()
    (lost,) = pair.seals["alice"].wrap("bob", b"first", 0.0)
    pair.now = 60.0
    pair.send("alice", b"second")
    (answer,) = pair.hear("bob", lost).replies
    assert pair.hear("alice", answer) == RefusedFrame(Reason.UNASKED)
    before = len(pair.sent)
    pair.send("bob", b"third")
    pair.send("alice", b"fourth")
    assert [frame[0] for _, frame in pair.sent[before:]] == [0x13, 0x13]


def test_a_peer_restarted_with_an_older_number_is_refused() -> None:
    pair = agreed()
    pair.restart("bob", 5)
    pair.send("bob", b"newer")
    pair.restart("bob", 4)
    pair.send("bob", b"a copy of the disk of before")
    assert pair.got["alice"] == [b"newer"]
    assert Reason.STALE in refusals(pair)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_keys_change_after_an_hour_without_loss(who: str) -> None:
    pair = agreed()
    (late,) = pair.seals["alice"].wrap("bob", b"late", 0.0)
    pair.now = 3631.0
    pair.send(who, b"one")
    pair.send(who, b"two")
    assert pair.got[other(who)][-2:] == [b"one", b"two"]
    assert pair.sent[-1][1][1:9] != late[1:9]
    assert pair.hear("bob", late) == OpenedFrame(b"late")  # an old frame under the old keys
    pair.now = 3901.0
    late = pair.seals["alice"].wrap("bob", b"later", pair.now)[0]
    assert pair.hear("bob", late) == OpenedFrame(b"later")
    assert not refusals(pair)


def test_keys_change_after_so_many_messages() -> None:
    pair = agreed(SealLimits(rekey_messages=5))
    for n in range(20):
        pair.send("alice", b"%d" % n)
    assert pair.got["bob"][1:] == [b"%d" % n for n in range(20)]
    assert len({frame[1:9] for _, frame in pair.sent if frame[0] == 0x13}) >= 3


def test_old_keys_open_nothing() -> None:
    pair = agreed()
    (frame,) = pair.seals["alice"].wrap("bob", b"old", 0.0)
    pair.now = 3901.0
    pair.tick()
    outcome = pair.hear("bob", frame)
    assert isinstance(outcome, RefusedFrame)
    assert outcome.reason is Reason.NO_SESSION


def test_what_waits_is_bounded_and_counted() -> None:
    own = seal("alice", limits=SealLimits(waiting=3, waiting_octets=100))
    for n in range(5):
        own.wrap("bob", b"%d" % n, 0.0)
    assert (own.counters.shed, own.counters.waiting) == (2, 3)
    own.wrap("bob", bytes(99), 0.0)
    assert (own.counters.shed, own.counters.waiting) == (4, 2)
    now = 0.0
    while (due := own.due) is not None:
        assert due >= now
        now = due
        own.tick(now)
    assert now <= 20
    assert (own.counters.lapsed, own.counters.waiting) == (2, 0)
    assert own.counters.wrapped == own.counters.shed + own.counters.lapsed


def test_hellos_to_a_silent_peer_become_rare() -> None:
    own, frames = seal("alice"), 0
    for tenth in range(600):
        frames += len(own.wrap("bob", b"beat", tenth / 10)) + len(own.tick(tenth / 10))
    assert 25 <= frames <= 60


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (credentials("carol"), Reason.IDENTITY),
        (credentials("alice", Role.OPERATOR), Reason.IDENTITY),
        (credentials("alice", domain="core"), Reason.IDENTITY),
        (credentials("alice", signed_by="somebody"), Reason.IDENTITY),
    ],
)
def test_hellos_of_others_are_refused(shown: Credentials, reason: Reason) -> None:
    (hello,) = Seal(shown, 1).wrap("bob", b"x", 0.0)
    outcome = seal("bob").open("alice", hello, 0.0)
    assert isinstance(outcome, RefusedFrame)
    assert outcome.reason is reason
    assert not outcome.replies
    assert "\n" not in outcome.detail


def test_a_hello_for_another_is_refused() -> None:
    (hello,) = seal("alice").wrap("carol", b"x", 0.0)
    assert seal("bob").open("alice", hello, 0.0) == RefusedFrame(Reason.FORGED)


def test_a_reflected_hello_is_refused() -> None:
    own = seal("alice")
    (hello,) = own.wrap("bob", b"x", 0.0)
    outcome = own.open("bob", hello, 0.0)
    assert isinstance(outcome, RefusedFrame)
    assert outcome.reason is Reason.IDENTITY


def test_somebody_with_the_certificate_alone_is_refused() -> None:
    alice, carol = credentials("alice"), credentials("carol")
    thief = Credentials(alice.certificate, carol.key, alice.trust)
    (hello,) = Seal(thief, 1).wrap("bob", b"x", 0.0)
    assert seal("bob").open("alice", hello, 0.0) == RefusedFrame(Reason.FORGED)


def test_frames_sent_back_or_given_to_another_are_not_opened() -> None:
    pair = agreed()
    (frame,) = pair.seals["alice"].wrap("bob", b"mine", 0.0)
    back = pair.seals["alice"].open("bob", frame, 0.0)
    assert isinstance(back, RefusedFrame)
    assert back.reason is Reason.ALTERED
    carol = seal("carol").open("alice", frame, 0.0)
    assert isinstance(carol, RefusedFrame)
    assert carol.reason is Reason.NO_SESSION


def test_a_flood_of_hellos_costs_little() -> None:
    bob = seal("bob")
    outcomes = [bob.open("alice", seal("alice").wrap("bob", b"x", 0.0)[0], 0.0) for _ in range(30)]
    answered = [outcome for outcome in outcomes if isinstance(outcome, OpenedFrame)]
    assert len(answered) == 16
    assert bob.counters.refused == {Reason.TOO_OFTEN: 14}


def test_a_flood_of_unknown_frames_asks_for_keys_once_a_second() -> None:
    bob = seal("bob")
    frame = b"\x13" + bytes(40)
    replies = [bob.open("alice", frame, tenth / 10).replies for tenth in range(30)]
    assert sum(map(len, replies)) <= 5


def test_the_number_of_peers_is_bounded() -> None:
    own = seal("alice", limits=SealLimits(peers=2))
    own.wrap("bob", b"x", 0.0)
    own.wrap("carol", b"x", 0.0)
    assert own.wrap("dave", b"x", 0.0) == []
    assert own.counters.shed == 1
    assert own.open("dave", b"\x13" + bytes(40), 0.0) == RefusedFrame(
        Reason.TOO_OFTEN, "too many peers"
    )
    own.tick(30.0)
    assert own.wrap("dave", b"x", 30.0)


def test_keys_agreed_on_with_the_revoked_are_dropped() -> None:
    pair = agreed()
    alice = credentials("alice")
    assert pair.seals["alice"].use(Credentials(alice.certificate, alice.key, alice.trust)) == ()
    newer = Credentials(alice.certificate, alice.key, without("bob"))
    assert pair.seals["alice"].use(newer) == ("bob",)
    pair.send("bob", b"nobody takes this")
    pair.send("alice", b"nor gives bob keys")
    assert pair.got == {"alice": [], "bob": [b"first"]}
    assert Reason.IDENTITY in refusals(pair)
    with pytest.raises(ValueError, match="bob"):
        pair.seals["alice"].use(credentials("bob"))


def test_nonsense_is_refused() -> None:
    own = seal("alice")
    for frame in (b"", b"\0", b"\x11", b"\x12" + bytes(60), b"\x13" + bytes(31), bytes(5000)):
        assert own.open("bob", frame, 0.0) == RefusedFrame(Reason.GARBAGE)
    assert own.counters.refused == {Reason.GARBAGE: 6}
    with pytest.raises(ValueError, match="at least one octet"):
        own.wrap("bob", b"", 0.0)
    with pytest.raises(ValueError, match="another agent"):
        own.wrap("alice", b"x", 0.0)


def test_no_frame_is_believed_with_an_octet_changed() -> None:
    alice, bob = seal("alice"), seal("bob", limits=SealLimits(hellos=10**6, sessions=2000))
    (hello,) = alice.wrap("bob", b"secret", 0.0)
    (answer,) = bob.open("alice", hello, 0.0).replies
    for place in range(len(answer)):
        altered = bytearray(answer)
        altered[place] ^= 1 << place % 8
        assert isinstance(alice.open("bob", bytes(altered), 0.0), RefusedFrame)
    (sealed,) = alice.open("bob", answer, 0.0).replies
    for place in range(len(hello)):
        altered = bytearray(hello)
        altered[place] ^= 1 << place % 8
        for reply in bob.open("alice", bytes(altered), 0.0).replies:
            assert reply == answer  # the same hello with another signature gets the same answer
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1 << place % 8
        assert isinstance(bob.open("alice", bytes(altered), 0.0), RefusedFrame)
    assert bob.open("alice", sealed, 0.0) == OpenedFrame(b"secret")
