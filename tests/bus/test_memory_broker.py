from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_contract import PRESENT, Story

from phalanx.bus import subjects
from phalanx.bus.client import (
    BrokerClient,
    Delivery,
    NotPermittedError,
    Silence,
    Stored,
    Unanswered,
)
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.identity.names import Identity, Role

A, B = Identity("a", Role.AGENT, "edge"), Identity("b", Role.AGENT, "edge")
NETWORK = Identity("network", Role.NETWORK, "edge")
RECORDER = Identity("history", Role.RECORDER, "edge")
TO_B = subjects.message("edge", "b", "a")
CALL = subjects.call("edge", "b", "status", "agent", "a")


class Lab:
    def __init__(self, **options: int) -> None:
        self.clock = VirtualClock()
        self.delays: list[tuple[float, ...]] = []
        """What becomes of the next ones that pass; afterwards all arrive at once."""
        self.broker = MemoryBroker(self.clock, passage=self.passage, **options)

    def passage(self, sender: Identity, receiver: Identity, subject: str) -> tuple[float, ...]:
        return self.delays.pop(0) if self.delays else (0.0,)

    def join(self, *identities: Identity) -> list[BrokerClient]:
        return [self.broker.join(identity) for identity in identities]

    def run(self, seconds: float = 0.0) -> None:
        self.clock.run(self.clock.now() + seconds)


def inbox(client: BrokerClient, pattern: str) -> list[bytes]:
    got: list[bytes] = []
    client.subscribe(pattern, lambda delivery: got.append(delivery.payload))
    return got


def own(client: BrokerClient) -> str:
    return subjects.pattern("edge", "msg", client.identity.name, subjects.ONE)


def reasons(answers: list[Delivery | Unanswered]) -> list[str]:
    return [one.reason for one in answers if isinstance(one, Unanswered)]


def whys(answers: list[Delivery | Unanswered]) -> list[Silence]:
    return [one.why for one in answers if isinstance(one, Unanswered)]


# -- publish and subscribe ----------------------------------------------------------------------


def test_a_full_subscription_sheds_and_counts() -> None:
    lab = Lab(capacity=2)
    a, b = lab.join(A, B)
    got = inbox(b, own(b))
    for number in range(5):
        a.publish(TO_B, bytes((number,)))
    lab.run()
    assert got == [b"\0", b"\1"]
    assert b.counters.shed == {own(b): 3}


def test_the_passage_loses_doubles_and_delays() -> None:
    lab = Lab()
    a, b = lab.join(A, B)
    got = inbox(b, own(b))
    lab.delays = [(), (0.0, 2.0), (1.0,)]
    for number in range(3):
        a.publish(TO_B, bytes((number,)))
    lab.run()
    assert got == [b"\1"]
    lab.run(5.0)
    assert got == [b"\1", b"\2", b"\1"]
    assert lab.broker.lost == 1


# -- cut off ----------------------------------------------------------------------------------


def test_who_is_cut_off_misses_what_is_said_and_says_later_what_it_had_to_say() -> None:
    lab = Lab()
    a, b = lab.join(A, B)
    heard_by_a, heard_by_b = inbox(a, own(a)), inbox(b, own(b))
    changes: list[bool] = []
    a.on_change(changes.append)
    b.publish(subjects.message("edge", "a", "b"), b"on its way")
    lab.broker.lose(A)
    b.publish(subjects.message("edge", "a", "b"), b"in vain")
    a.publish(TO_B, b"patience")
    lab.run()
    assert not a.connected
    assert (heard_by_a, heard_by_b, changes) == ([], [], [False])
    assert lab.broker.lost == 2
    lab.broker.regain(A)
    lab.run()
    assert (heard_by_b, changes) == ([b"patience"], [False, True])
    assert a.counters.reconnects == 1


def test_what_waits_is_bounded_and_what_is_shed_is_counted_by_kind() -> None:
    lab = Lab(capacity=2)
    a, b = lab.join(A, B)
    got, told = inbox(b, own(b)), list[str | None]()
    lab.broker.lose(A)
    for number in range(3):
        a.publish(TO_B, bytes((number,)))
    a.append(subjects.event("edge", "a", "x"), b"", "1", told.append)
    lab.broker.regain(A)
    lab.run()
    assert got == [b"\0", b"\1"]
    assert a.counters.shed == {"out.msg": 1, "out.evt": 1}
    assert told == ["too much waits to be sent"]


def test_the_killed_says_and_hears_nothing_more() -> None:
    lab = Lab()
    a, b = lab.join(A, B)
    heard_by_a, heard_by_b = inbox(a, own(a)), inbox(b, own(b))
    answers: list[Delivery | Unanswered] = []
    a.request(CALL, b"", answers.append, timeout_s=1.0)
    lab.broker.kill(A)
    a.publish(TO_B, b"from the grave")
    b.publish(subjects.message("edge", "a", "b"), b"too late")
    lab.run(2.0)
    assert (heard_by_a, heard_by_b, answers) == ([], [], [])
    (again,) = lab.join(A)
    alive = inbox(again, own(again))
    b.publish(subjects.message("edge", "a", "b"), b"welcome")
    lab.run()
    assert alive == [b"welcome"]


def test_close_answers_all_that_waits() -> None:
    lab = Lab()
    (a,) = lab.join(A)
    answers: list[Delivery | Unanswered] = []
    told: list[str | None] = []
    lab.broker.lose(A)
    a.request(CALL, b"", answers.append, timeout_s=1.0)
    a.append(subjects.event("edge", "a", "x"), b"", "1", told.append)
    a.close()
    a.close()
    a.request(CALL, b"", answers.append, timeout_s=1.0)
    a.append(subjects.event("edge", "a", "x"), b"", "1", told.append)
    lab.run(2.0)
    assert reasons(answers) == ["the client was closed"] * 2
    assert whys(answers) == [Silence.CUT] * 2
    assert told == ["the client was closed"] * 2


# -- requests ---------------------------------------------------------------------------------


def serve(client: BrokerClient, *, times: int = 1) -> list[Delivery]:
    asked: list[Delivery] = []

    def answer(delivery: Delivery) -> None:
        asked.append(delivery)
        for number in range(times):
            client.respond(delivery, delivery.payload + bytes((number,)))

    client.subscribe(subjects.calls("edge", client.identity.name), answer)
    return asked


def test_a_request_is_answered_once() -> None:
    lab = Lab()
    a, b = lab.join(A, B)
    asked = serve(b, times=2)
    answers: list[Delivery | Unanswered] = []
    lab.delays = [(0.0, 0.0)]  # the request is doubled
    a.request(CALL, b"?", answers.append, timeout_s=1.0)
    lab.run(5.0)
    assert len(asked) == 2
    (answer,) = answers
    assert isinstance(answer, Delivery)
    assert answer.payload == b"?\0"


def test_a_request_of_the_cut_off_goes_out_later_unless_its_time_is_over() -> None:
    lab = Lab()
    a, b = lab.join(A, B)
    asked = serve(b)
    answers: list[Delivery | Unanswered] = []
    lab.broker.lose(A)
    a.request(CALL, b"short", answers.append, timeout_s=1.0)
    a.request(CALL, b"long", answers.append, timeout_s=5.0)
    lab.run(2.0)
    lab.broker.regain(A)
    lab.run()
    assert [one.payload for one in asked] == [b"long"]
    assert [type(one) for one in answers] == [Unanswered, Delivery]


def test_only_who_serves_may_answer() -> None:
    lab = Lab()
    a, b, network = lab.join(A, B, NETWORK)
    asked: list[Delivery] = []
    network.subscribe(subjects.calls("edge", NETWORK.name), asked.append)
    called = subjects.call("edge", NETWORK.name, "perform", "agent", "a")
    a.request(called, b"", lambda _: None, timeout_s=1.0)
    lab.run()
    with pytest.raises(NotPermittedError, match="may not answer"):
        b.respond(asked[0], b"forged")


# -- streams ----------------------------------------------------------------------------------


def record(client: BrokerClient, *numbers: int) -> list[str | None]:
    told: list[str | None] = []
    for number in numbers:
        subject = subjects.event("edge", client.identity.name, f"kind{number % 2}.x")
        client.append(subject, bytes((number,)), f"{client.identity.name}-{number}", told.append)
    return told


class Reader(list[int]):
    """Keeps the numbers it is told of; acknowledges those below a bound."""

    def __init__(self, acknowledged: int = 1 << 30) -> None:
        self.acknowledged = acknowledged
        self.stored: list[Stored] = []

    def __call__(self, stored: Stored) -> None:
        self.append(stored.payload[0])
        self.stored.append(stored)
        if stored.payload[0] < self.acknowledged:
            stored.acknowledge()


def test_a_message_id_counts_once_for_two_minutes() -> None:
    lab = Lab()
    a, recorder = lab.join(A, RECORDER)
    reader = Reader()
    recorder.follow(subjects.EVENTS, reader)
    for pause in (100.0, 30.0, 0.0):
        record(a, 1)
        lab.run(pause)
    assert reader == [1, 1]


def test_a_durable_follower_gets_again_what_it_did_not_acknowledge() -> None:
    lab = Lab()
    a, recorder = lab.join(A, RECORDER)
    record(a, *range(5))
    first, second = Reader(acknowledged=3), Reader()
    recorder.follow(subjects.EVENTS, first, durable="history")
    lab.run()
    first.stored[4].acknowledge()  # 3 is missing, so it starts there
    first.stored[0].acknowledge()  # once more
    lab.broker.kill(RECORDER)
    first.stored[3].acknowledge()  # the dead acknowledge nothing
    (recorder,) = lab.join(RECORDER)
    recorder.follow(subjects.EVENTS, second, durable="history")
    lab.run()
    assert (first, second) == ([0, 1, 2, 3, 4], [3, 4])


def test_a_follower_that_acknowledges_nothing_is_told_of_so_many() -> None:
    lab = Lab()
    a, recorder = lab.join(A, RECORDER)
    reader = Reader(acknowledged=0)
    recorder.follow(subjects.EVENTS, reader)
    for _ in range(2):
        record(a, *range(200))
        lab.run(200.0)
    assert len(reader) == 256
    for stored in reader.stored[:100]:
        stored.acknowledge()
    lab.run()
    assert len(reader) == 356


def test_a_stream_lets_the_oldest_go() -> None:
    lab = Lab(keep=3)
    a, recorder = lab.join(A, RECORDER)
    record(a, *range(5))
    reader = Reader()
    recorder.follow(subjects.EVENTS, reader)
    lab.run()
    assert reader == [2, 3, 4]


def test_a_stream_keeps_events_only() -> None:
    lab = Lab()
    (a,) = lab.join(A)
    told: list[str | None] = []
    a.append(TO_B, b"", "1", told.append)
    lab.run()
    assert told == [f"no stream keeps {TO_B}"]


@given(st.lists(st.sampled_from(["record", "cut", "mend", "cut reader", "mend reader", "run"])))
def test_nothing_that_was_appended_is_missed_whoever_is_cut_off(steps: list[str]) -> None:
    lab = Lab()
    a, recorder = lab.join(A, RECORDER)
    reader, number, told = Reader(), 0, list[str | None]()
    recorder.follow(subjects.EVENTS, reader, durable="x")
    for step in [*steps, "mend", "mend reader", "run"]:
        match step:
            case "record":
                subject = subjects.event("edge", "a", "x")
                a.append(subject, bytes((number % 256,)), str(number), told.append)
                number += 1
            case "cut" | "cut reader":
                lab.broker.lose(A if step == "cut" else RECORDER)
            case "mend" | "mend reader":
                lab.broker.regain(A if step == "mend" else RECORDER)
            case "run":
                lab.run(0.1)
    assert reader == [one % 256 for one in range(number)]
    assert told == [None] * number


# -- tables -----------------------------------------------------------------------------------

Change = tuple[str, bytes | None]


def watch(client: BrokerClient) -> list[Change]:
    seen: list[Change] = []
    client.watch(subjects.REGISTRY, lambda key, value: seen.append((key, value)))
    return seen


@given(
    st.lists(st.sampled_from(["put", "drop", "cut", "mend", "cut watcher", "mend watcher", "run"])),
    st.integers(1, 3),
)
def test_a_watcher_ends_with_the_table_as_it_is(steps: list[str], capacity: int) -> None:
    lab = Lab(capacity=capacity)
    a, b = lab.join(A, B)
    seen, value, number = watch(b), None, 0
    for step in [*steps, "mend", "mend watcher", "run"]:
        match step:
            case "put" | "drop":
                number += 1
                shed = sum(a.counters.shed.values())
                if step == "put":
                    a.put("registry", "a", str(number).encode())
                else:
                    a.drop("registry", "a")
                if sum(a.counters.shed.values()) == shed:
                    value = str(number).encode() if step == "put" else None
            case "cut" | "cut watcher":
                lab.broker.lose(A if step == "cut" else B)
            case "mend" | "mend watcher":
                lab.broker.regain(A if step == "mend" else B)
            case "run":
                lab.run(0.1)
    assert (seen[-1][1] if seen else None) == value


def test_who_is_cut_off_reaches_the_present_once_it_is_back() -> None:
    lab = Lab()
    (recorder,) = lab.join(RECORDER)
    lab.broker.lose(RECORDER)
    story = Story()
    recorder.follow(subjects.EVENTS, story.tell, caught_up=story.caught_up)
    recorder.watch(subjects.REGISTRY, lambda *_: None, caught_up=story.caught_up)
    lab.run(1.0)
    assert story == []
    lab.broker.regain(RECORDER)
    lab.run(1.0)
    assert story == [PRESENT, PRESENT]
