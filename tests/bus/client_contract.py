"""What holds for every client; run by subclassing ``ClientContract`` with a ``ground``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest

from phalanx.bus import subjects
from phalanx.bus.client import (
    BrokerClient,
    BrokerError,
    Delivery,
    NotPermittedError,
    Silence,
    Stored,
    Unanswered,
)
from phalanx.bus.subjects import ONE, REST
from phalanx.bus.wire import MAX_OCTETS
from phalanx.identity.names import Identity, Role

DOMAIN = "lab"
A = Identity("a", Role.AGENT, DOMAIN)
B = Identity("b", Role.AGENT, DOMAIN)
NETWORK = Identity("net", Role.NETWORK, DOMAIN)
RECORDER = Identity("rec", Role.RECORDER, DOMAIN)
OBSERVER = Identity("eye", Role.OBSERVER, DOMAIN)

TO_B = subjects.message(DOMAIN, "b", "a")
CALL_B = subjects.call(DOMAIN, "b", "status", "agent", "a")
FORGED_CALL = subjects.call(DOMAIN, "b", "status", "operator", "a")
NEWS = subjects.announcement(DOMAIN, "a", "alerts.ddos")


class Ground(Protocol):
    """Where clients of one domain meet, with nobody else there."""

    def join(self, identity: Identity) -> BrokerClient:
        """Return an client that is connected."""

    def until(self, true: Callable[[], bool]) -> None:
        """Run the clock until ``true`` holds; fail if it never does."""

    def rest(self) -> None:
        """Run the clock until what is on its way has arrived."""


def own(identity: Identity) -> str:
    return subjects.pattern(DOMAIN, "msg", identity.name, ONE)


def kept(ground: Ground, client: BrokerClient, *numbers: int) -> None:
    """Append events, and wait until all are acknowledged."""
    done: list[str | None] = []
    for number in numbers:
        subject = subjects.event(DOMAIN, client.identity.name, "goal.adopted")
        client.append(subject, b"%d" % number, f"e{number}", done.append)
    ground.until(lambda: len(done) == len(numbers))
    assert done == [None] * len(numbers)


class ClientContract:
    """The tests; a subclass has a fixture ``ground``."""

    # -- publish and subscribe ---------------------------------------------------------------

    def test_what_is_published_arrives_in_order_with_its_headers(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        got: list[Delivery] = []
        b.subscribe(own(B), got.append)
        ground.rest()
        for number in range(100):
            a.publish(TO_B, b"%d" % number, {"n": str(number)})
        assert not got
        ground.until(lambda: len(got) == 100)
        assert [one.payload for one in got] == [b"%d" % number for number in range(100)]
        assert (got[7].subject, got[7].headers["n"], got[7].reply) == (TO_B, "7", None)
        assert (a.counters.published, b.counters.delivered) == (100, 100)

    def test_any_octets_travel(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        got: list[bytes] = []
        b.subscribe(own(B), lambda delivery: got.append(delivery.payload))
        ground.rest()
        sent = [b"", bytes(range(256)), b"\r\nPUB x 1\r\n", b"z" * MAX_OCTETS]
        for payload in sent:
            a.publish(TO_B, payload)
        ground.until(lambda: len(got) == len(sent))
        assert got == sent

    def test_too_much_is_refused_at_the_door(self, ground: Ground) -> None:
        a = ground.join(A)
        with pytest.raises(BrokerError, match=str(MAX_OCTETS)):
            a.publish(TO_B, b"z" * (MAX_OCTETS + 1))
        assert sum(a.counters.refused.values()) == 1
        assert a.counters.published == 0

    def test_every_subscription_that_matches_hears_it_once(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        got: list[str] = []
        b.subscribe(NEWS, lambda _: got.append("exact"))
        b.subscribe(
            subjects.pattern(DOMAIN, "pub", ONE, REST),
            lambda _: got.append("all"),
        )
        b.subscribe(subjects.pattern(DOMAIN, "pub", "c", REST), lambda _: got.append("other"))
        ground.rest()
        a.publish(NEWS, b"")
        ground.until(lambda: len(got) == 2)
        ground.rest()
        assert sorted(got) == ["all", "exact"]

    def test_one_who_subscribes_hears_oneself(self, ground: Ground) -> None:
        a = ground.join(A)
        got: list[Delivery] = []
        a.subscribe(subjects.pattern(DOMAIN, "pub", ONE, REST), got.append)
        ground.rest()
        a.publish(NEWS, b"x")
        ground.until(lambda: len(got) == 1)

    def test_nothing_is_heard_after_close(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        got: list[Delivery] = []
        subscription = b.subscribe(own(B), got.append)
        ground.rest()
        a.publish(TO_B, b"on its way")
        subscription.close()
        subscription.close()
        ground.rest()
        assert got == []

    def test_what_a_handler_raises_goes_up_and_the_rest_comes_all_the_same(
        self, ground: Ground
    ) -> None:
        a, b = ground.join(A), ground.join(B)
        got: list[bytes] = []

        def hear(delivery: Delivery) -> None:
            got.append(delivery.payload)
            if delivery.payload == b"0":
                raise ZeroDivisionError

        b.subscribe(own(B), hear)
        ground.rest()
        for number in range(3):
            a.publish(TO_B, b"%d" % number)
        with pytest.raises(ZeroDivisionError):
            ground.until(lambda: len(got) == 3)
        ground.until(lambda: len(got) == 3)

    def test_what_is_not_permitted_is_refused_and_counted(self, ground: Ground) -> None:
        a = ground.join(A)
        with pytest.raises(NotPermittedError, match="may not"):
            a.publish(subjects.message(DOMAIN, "a", "b"), b"")
        with pytest.raises(NotPermittedError):
            a.subscribe(own(B), lambda _: None)
        with pytest.raises(NotPermittedError):
            a.request(
                subjects.call(DOMAIN, "b", "x", "agent", "b"), b"", lambda _: None, timeout_s=1
            )
        with pytest.raises(NotPermittedError, match="where no answer is given"):
            a.request(TO_B, b"", lambda _: None, timeout_s=1)
        with pytest.raises(NotPermittedError):
            a.append(subjects.event(DOMAIN, "b", "x"), b"", "1", lambda _: None)
        with pytest.raises(NotPermittedError):
            a.follow(subjects.EVENTS, lambda _: None)
        with pytest.raises(NotPermittedError):
            a.put(subjects.REGISTRY, "b", b"")
        with pytest.raises(NotPermittedError):
            a.drop(subjects.REGISTRY, "b")
        with pytest.raises(NotPermittedError):
            a.watch("cursors", lambda _, __: None)
        assert sum(a.counters.refused.values()) == 9
        assert a.counters.published == 0

    # -- requests ----------------------------------------------------------------------------

    def test_a_request_is_answered_once(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        answers: list[Delivery | Unanswered] = []
        asked: list[Delivery] = []

        def serve(delivery: Delivery) -> None:
            asked.append(delivery)
            b.respond(delivery, b"re " + delivery.payload, {"status": "fine"})

        b.subscribe(subjects.calls(DOMAIN, "b"), serve)
        ground.rest()
        for number in range(50):
            a.request(CALL_B, b"%d" % number, answers.append, timeout_s=5, headers={"t": "1"})
        ground.until(lambda: len(answers) == 50)
        assert [one.payload for one in answers if isinstance(one, Delivery)] == [
            b"re %d" % number for number in range(50)
        ]
        assert isinstance(answers[0], Delivery)
        assert answers[0].headers["status"] == "fine"
        assert asked[0].headers["t"] == "1"
        assert asked[0].reply

    def test_without_anybody_serving_a_request_says_so(self, ground: Ground) -> None:
        a = ground.join(A)
        answers: list[Delivery | Unanswered] = []
        a.request(CALL_B, b"", answers.append, timeout_s=0.3)
        ground.until(lambda: len(answers) == 1)
        assert isinstance(answers[0], Unanswered)
        assert answers[0].why is Silence.UNSERVED

    def test_an_answer_too_late_is_none(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        answers: list[Delivery | Unanswered] = []
        asked: list[Delivery] = []
        b.subscribe(subjects.calls(DOMAIN, "b"), asked.append)
        ground.rest()
        a.request(CALL_B, b"", answers.append, timeout_s=0.1)
        ground.until(lambda: len(answers) == 1)
        assert isinstance(answers[0], Unanswered)
        assert answers[0].why is Silence.LATE
        b.respond(asked[0], b"late")
        ground.rest()
        assert len(answers) == 1

    def test_what_asks_for_no_answer_gets_none(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        got: list[Delivery] = []
        b.subscribe(own(B), lambda delivery: (got.append(delivery), b.respond(delivery, b"?"))[0])
        ground.rest()
        a.publish(TO_B, b"")
        ground.until(lambda: len(got) == 1)
        assert b.counters.published == 0

    # -- streams -----------------------------------------------------------------------------

    def test_what_was_kept_is_followed_in_order_and_what_comes_too(self, ground: Ground) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        kept(ground, a, *range(20))
        got: list[Stored] = []
        recorder.follow(subjects.EVENTS, got.append)
        ground.until(lambda: len(got) == 20)
        kept(ground, a, *range(20, 40))
        ground.until(lambda: len(got) == 40)
        assert [one.payload for one in got] == [b"%d" % number for number in range(40)]
        assert [one.sequence for one in got] == list(range(1, 41))
        assert got[0].subject == subjects.event(DOMAIN, "a", "goal.adopted")
        assert [one.received for one in got] == sorted(one.received for one in got)

    def test_the_same_id_is_kept_once(self, ground: Ground) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        for _ in range(3):
            kept(ground, a, 1, 2)
        got: list[Stored] = []
        recorder.follow(subjects.EVENTS, got.append)
        ground.until(lambda: len(got) == 2)
        ground.rest()
        assert [one.payload for one in got] == [b"1", b"2"]

    def test_an_appended_event_is_heard_by_subscribers_too(self, ground: Ground) -> None:
        a, observer = ground.join(A), ground.join(OBSERVER)
        got: list[Delivery] = []
        observer.subscribe(subjects.pattern(DOMAIN, "evt", ONE, REST), got.append)
        ground.rest()
        kept(ground, a, 1)
        ground.until(lambda: len(got) == 1)
        assert got[0].payload == b"1"

    def test_only_what_matches_is_followed(self, ground: Ground) -> None:
        a, b, recorder = ground.join(A), ground.join(B), ground.join(RECORDER)
        kept(ground, a, 1)
        kept(ground, b, 2)
        kept(ground, a, 3)
        got: list[bytes] = []
        recorder.follow(
            subjects.EVENTS,
            lambda stored: got.append(stored.payload),
            pattern=subjects.pattern(DOMAIN, "evt", "b", REST),
        )
        ground.until(lambda: len(got) == 1)
        kept(ground, b, 4)
        ground.until(lambda: len(got) == 2)
        assert got == [b"2", b"4"]

    def test_new_only_leaves_out_what_is_there(self, ground: Ground) -> None:
        a, observer = ground.join(A), ground.join(OBSERVER)
        kept(ground, a, 1, 2)
        got: list[bytes] = []
        observer.follow(subjects.EVENTS, lambda stored: got.append(stored.payload), new_only=True)
        ground.rest()
        kept(ground, a, 3)
        ground.until(lambda: len(got) == 1)
        assert got == [b"3"]

    def test_a_durable_follower_goes_on_behind_what_it_acknowledged(self, ground: Ground) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        kept(ground, a, *range(10))
        got: list[Stored] = []
        first = recorder.follow(subjects.EVENTS, got.append, durable="history")
        ground.until(lambda: len(got) == 10)
        for number in (0, 1, 2, 5):
            got[number].acknowledge()
        ground.rest()
        first.close()
        again: list[bytes] = []
        recorder.follow(
            subjects.EVENTS, lambda stored: again.append(stored.payload), durable="history"
        )
        ground.until(lambda: b"9" in again)
        assert [payload for payload in again if payload not in (b"0", b"1", b"2", b"5")] == [
            b"3", b"4", b"6", b"7", b"8", b"9",
        ]  # fmt: skip
        assert b"0" not in again
        assert b"2" not in again

    def test_two_durable_names_do_not_share_their_place(self, ground: Ground) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        kept(ground, a, 1)
        for name in ("one", "two"):
            got: list[Stored] = []
            following = recorder.follow(subjects.EVENTS, got.append, durable=name)
            ground.until(lambda: len(got) == 1)  # noqa: B023  # called before the next round
            got[0].acknowledge()
            ground.rest()
            following.close()

    # -- tables ------------------------------------------------------------------------------

    def test_a_table_tells_what_is_there_and_what_changes(self, ground: Ground) -> None:
        a, b, observer = ground.join(A), ground.join(B), ground.join(OBSERVER)
        a.put(subjects.REGISTRY, "a", b"old")
        a.put(subjects.REGISTRY, "a", b"new")
        b.put(subjects.REGISTRY, "b", b"")
        ground.rest()
        table: dict[str, bytes | None] = {}
        observer.watch(subjects.REGISTRY, table.__setitem__)
        ground.until(lambda: table == {"a": b"new", "b": b""})
        a.put(subjects.REGISTRY, "a", b"newer")
        ground.until(lambda: table["a"] == b"newer")
        b.drop(subjects.REGISTRY, "b")
        ground.until(lambda: table["b"] is None)

    def test_what_was_dropped_is_not_told_to_who_comes_later(self, ground: Ground) -> None:
        a, b, observer = ground.join(A), ground.join(B), ground.join(OBSERVER)
        a.put(subjects.REGISTRY, "a", b"1")
        a.drop(subjects.REGISTRY, "a")
        b.put(subjects.REGISTRY, "b", b"1")
        ground.rest()
        told: list[tuple[str, bytes | None]] = []
        observer.watch(subjects.REGISTRY, lambda key, value: told.append((key, value)))
        ground.until(lambda: bool(told))
        ground.rest()
        assert told == [("b", b"1")]

    def test_the_last_of_many_values_stays(self, ground: Ground) -> None:
        a, observer = ground.join(A), ground.join(OBSERVER)
        told: list[bytes | None] = []
        observer.watch(subjects.REGISTRY, lambda _, value: told.append(value))
        for number in range(200):
            a.put(subjects.REGISTRY, "a", b"%d" % number)
        ground.until(lambda: bool(told) and told[-1] == b"199")

    # -- the end -----------------------------------------------------------------------------

    def test_nothing_is_said_or_heard_after_close(self, ground: Ground) -> None:
        a, b = ground.join(A), ground.join(B)
        got: list[Delivery] = []
        answers: list[Delivery | Unanswered] = []
        b.subscribe(own(B), got.append)
        a.request(CALL_B, b"", answers.append, timeout_s=60)
        b.close()
        b.close()
        ground.rest()
        a.publish(TO_B, b"x")
        ground.rest()
        assert got == []
        a.close()
        ground.until(lambda: len(answers) == 1)
        assert isinstance(answers[0], Unanswered)
