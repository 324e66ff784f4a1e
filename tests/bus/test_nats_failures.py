"""What becomes of what was sent when servers and links go, and come back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from client_contract import kept
from nats_lab import (
    DOMAIN,
    KEEPER,
    OBSERVER,
    RECORDER,
    A,
    B,
    Ground,
    Lab,
    leader,
    needs_server,
)
from reading_contract import PRESENT, Story

from phalanx.bus import subjects
from phalanx.bus.client import BrokerError, Delivery, Stored, Unanswered
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.config import STREAMS, ServerLimits
from phalanx.bus.nats.connection import SendBounds
from phalanx.bus.nats.server import StreamRetention

needs_server()
pytestmark = [pytest.mark.nats, pytest.mark.processes]

TO_B = subjects.message(DOMAIN, "b", "a")
CALL_B = subjects.call(DOMAIN, "b", "status", "agent", "a")
EVENT = subjects.event(DOMAIN, "a", "goal.adopted")
OWN_B = subjects.pattern(DOMAIN, "msg", "b", subjects.ONE)


def down(ground: Ground, *clients: NatsClient) -> None:
    """Kill the server as a power cut would."""
    server = ground.lab.servers[0]
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    server.stop()
    ground.until(lambda: not any(client.connected for client in clients))


def up(ground: Ground, *clients: NatsClient) -> None:
    ground.lab.servers[0].start()
    ground.until(lambda: all(client.connected for client in clients))


def test_what_is_sent_while_the_server_is_away_arrives_once_it_is_back(ground: Ground) -> None:
    a, b = ground.join(A), ground.join(B)
    got: list[bytes] = []
    changes: list[bool] = []
    b.subscribe(OWN_B, lambda delivery: got.append(delivery.payload))
    b.on_change(changes.append)
    down(ground, a, b)
    for number in range(50):
        a.publish(TO_B, b"%d" % number)
    ground.rest(0.3)
    assert a.waiting == 50
    ground.lab.servers[0].start()
    ground.until(lambda: b.connected)
    ground.until(lambda: len(got) == 50 or (a.connected and not a.waiting))
    ground.rest()
    # Whoever comes back first is not waited for: a message to one who is away is lost.
    assert got == [b"%d" % number for number in range(50)] or not got
    a.publish(TO_B, b"again")
    ground.until(lambda: got[-1:] == [b"again"])
    assert changes == [False, True]
    assert (a.counters.reconnects, b.counters.reconnects) == (1, 1)


def test_a_bounded_queue_sheds_what_is_too_much_and_counts_it(ground: Ground) -> None:
    a = ground.join(A, bounds=SendBounds(messages=10, octets=1_000))
    down(ground, a)
    for _ in range(12):
        a.publish(TO_B, b"")
    a.publish(CALL_B, b"")
    assert a.counters.shed == {"out.msg": 2, "out.call": 1}
    answers: list[Delivery | Unanswered] = []
    a.request(CALL_B, b"", answers.append, timeout_s=60)
    ground.until(lambda: bool(answers))
    assert isinstance(answers[0], Unanswered)


def test_a_burst_is_handed_over_whole_and_in_order(ground: Ground) -> None:
    a, b = ground.join(A), ground.join(B)
    got: list[bytes] = []
    b.subscribe(OWN_B, lambda delivery: got.append(delivery.payload))
    ground.rest()
    sent = [b"\r\nMSG %d\r\n" % number * (number % 700) for number in range(3_000)]
    for payload in sent:
        a.publish(TO_B, payload)
    ground.until(lambda: len(got) == len(sent))
    assert got == sent
    assert b.counters.shed == {}


def test_a_thousand_requests_are_each_answered_once_when_the_server_goes(ground: Ground) -> None:
    a, b = ground.join(A), ground.join(B)
    asked: list[Delivery] = []
    b.subscribe(subjects.calls(DOMAIN, "b"), asked.append)
    ground.rest()
    answers: list[list[Delivery | Unanswered]] = [[] for _ in range(1_000)]
    for each in answers:
        a.request(CALL_B, b"", each.append, timeout_s=1.0)
    ground.until(lambda: len(asked) == 1_000)
    down(ground, a, b)
    ground.until(lambda: all(answers))
    up(ground, a, b)
    for delivery in asked:
        b.respond(delivery, b"too late")
    ground.rest()
    assert {len(each) for each in answers} == {1}
    assert all(isinstance(each[0], Unanswered) for each in answers)


def test_a_request_outlives_the_connection(ground: Ground) -> None:
    a, b = ground.join(A), ground.join(B)
    asked: list[Delivery] = []
    answers: list[Delivery | Unanswered] = []
    b.subscribe(subjects.calls(DOMAIN, "b"), asked.append)
    ground.rest()
    a.request(CALL_B, b"", answers.append, timeout_s=30)
    ground.until(lambda: bool(asked))
    down(ground, a, b)
    up(ground, a, b)
    b.respond(asked[0], b"at last")
    ground.until(lambda: bool(answers))
    assert isinstance(answers[0], Delivery)


def test_events_are_kept_once_whatever_the_server_does_meanwhile(ground: Ground) -> None:
    a, recorder = ground.join(A), ground.join(RECORDER)
    got: list[bytes] = []
    recorder.follow(subjects.EVENTS, lambda stored: got.append(stored.payload))
    done: list[str | None] = []
    for number in range(600):
        a.append(EVENT, b"%d" % number, f"{number}", done.append)
        if number % 200 == 100:
            ground.rest(0.01)
            down(ground, a, recorder)
            ground.lab.servers[0].start()
    ground.until(lambda: len(done) == 600)
    assert done == [None] * 600
    ground.until(lambda: len(got) >= 600)
    ground.rest()
    assert sorted(got) == sorted(b"%d" % number for number in range(600))


def test_a_follower_and_a_watcher_go_on_behind_what_they_had(ground: Ground) -> None:
    a, recorder = ground.join(A), ground.join(RECORDER)
    done: list[str | None] = []
    got: list[bytes] = []
    values: list[bytes | None] = []
    recorder.follow(subjects.EVENTS, lambda stored: got.append(stored.payload), durable="h")
    recorder.watch(subjects.REGISTRY, lambda _, value: values.append(value))
    a.append(EVENT, b"1", "1", done.append)
    a.put(subjects.REGISTRY, "a", b"1")
    ground.until(lambda: got == [b"1"] and values == [b"1"])
    down(ground, a, recorder)
    a.append(EVENT, b"2", "2", done.append)
    a.put(subjects.REGISTRY, "a", b"2")
    up(ground, a, recorder)
    ground.until(lambda: got == [b"1", b"2"] and values == [b"1", b"2"])


def test_a_server_that_is_away_on_the_way_holds_the_present_up(ground: Ground) -> None:
    a, recorder = ground.join(A), ground.join(RECORDER)
    kept(ground, a, *range(2_000))
    story = Story()
    recorder.follow(subjects.EVENTS, story.tell, caught_up=story.caught_up)
    ground.until(lambda: len(story) >= 10)
    assert PRESENT not in story
    (server,) = ground.lab.servers
    server.stop(within_s=5.0)
    ground.until(lambda: not recorder.connected)
    server.start()
    ground.until(lambda: PRESENT in story)
    assert story == [*range(2_000), PRESENT]


def test_what_the_stream_discarded_unread_is_counted(tmp_path: Path) -> None:
    small = StreamRetention(octets=64 << 10)
    with Ground.at_servers(tmp_path, retention=small) as ground:
        a, recorder = ground.join(A), ground.join(RECORDER)
        done: list[str | None] = []
        for number in range(200):
            a.append(EVENT, b"x" * 1_000, f"{number}", done.append)
        ground.until(lambda: len(done) == 200)
        got: list[Stored] = []
        recorder.follow(subjects.EVENTS, got.append, durable="h")
        ground.until(lambda: bool(got) and got[-1].sequence == 200)
        lost = recorder.counters.shed[subjects.EVENTS]
        assert lost > 0
        assert lost + len(got) == 200


def test_what_no_stream_keeps_is_given_back(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, streams=False) as ground:
        a, recorder = ground.join(A), ground.join(RECORDER)
        done: list[str | None] = []
        complaints: list[str] = []
        recorder.on_error(complaints.append)
        recorder.follow(subjects.EVENTS, lambda _: None)
        a.append(EVENT, b"", "1", done.append)
        ground.until(lambda: bool(complaints))
        assert "no server has it" in complaints[0]
        a.close()
        ground.until(lambda: bool(done))
        assert done == ["the client was closed"]


def test_without_a_server_it_says_where_and_why(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.add_servers(1)
    with Ground(lab).closing() as ground:
        client = ground.client(A)
        where = rf"127\.0\.0\.1:{lab.addresses[0][1]}"
        with pytest.raises(BrokerError, match=f"{where}: Connection refused"):
            client.ready(within_s=0.3)


def test_a_wrong_name_of_the_server_is_found_out(ground: Ground) -> None:
    port = ground.lab.addresses[0][1]
    impostor = ground.client(A, [("localhost", port)])
    with pytest.raises(BrokerError, match="TLS"):
        impostor.ready(within_s=0.5)


def test_what_a_server_refuses_ends_no_connection(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, limits=ServerLimits(subscriptions=8)) as ground:
        a, b = ground.join(A), ground.join(B)
        complaints: list[str] = []
        got: list[bytes] = []
        b.on_error(complaints.append)
        for _ in range(10):
            b.subscribe(OWN_B, lambda delivery: got.append(delivery.payload))
        ground.until(lambda: "maximum subscriptions exceeded" in complaints)
        a.publish(TO_B, b"heard")
        ground.until(lambda: b"heard" in got)
        assert b.connected
        assert b.counters.reconnects == 0


def storage(ground: Ground, client: NatsClient) -> tuple[str, ...]:
    found: list[tuple[str, ...]] = []
    client.storage(found.append)
    ground.until(lambda: bool(found))
    return found[0]


def await_storage(ground: Ground, client: NatsClient, faults: tuple[str, ...]) -> None:
    """Ask again and again, for a minute at most, until ``faults`` is the answer."""
    end = ground.clock.now() + 60.0
    while (found := storage(ground, client)) != faults:
        assert ground.clock.now() < end, found
        ground.rest(0.2)


def test_a_stream_that_is_gone_is_told_of(ground: Ground) -> None:
    observer, keeper = ground.join(OBSERVER), ground.join(KEEPER)
    assert storage(ground, observer) == ()
    done: list[object] = []
    keeper.administer("STREAM.DELETE.KV_registry", {}, done.append)
    ground.until(lambda: bool(done))
    assert storage(ground, observer) == ("the brokers do not keep KV_registry: stream not found",)


# -- a cluster of three -------------------------------------------------------------------------


@pytest.mark.processes
def test_a_cluster_of_three_loses_no_event_with_its_leader(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, 3) as ground:
        a, recorder, observer = ground.join(A), ground.join(RECORDER), ground.join(OBSERVER)
        got: list[bytes] = []
        values: list[bytes | None] = []
        recorder.follow(subjects.EVENTS, lambda stored: got.append(stored.payload))
        observer.watch(subjects.REGISTRY, lambda _, value: values.append(value))
        acknowledged: list[int] = []

        def append(number: int) -> None:
            def done(reason: str | None) -> None:
                assert reason is None
                acknowledged.append(number)

            a.append(EVENT, b"%d" % number, f"{number}", done)

        for number in range(500):
            append(number)
        ground.until(lambda: len(acknowledged) > 100)
        victim = leader(ground)
        for number in range(500, 1_000):
            append(number)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.stop()
        a.put(subjects.REGISTRY, "a", b"alive")
        ground.until(lambda: len(acknowledged) == 1_000, within_s=25.0)
        ground.until(lambda: len(set(got)) == 1_000 and values[-1:] == [b"alive"], within_s=10.0)
        assert len(got) == 1_000


@pytest.mark.processes
def test_streams_that_lack_a_broker_are_told_of(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, 3) as ground:
        third = ground.lab.servers[2]
        observer = ground.join(OBSERVER)
        await_storage(ground, observer, ())
        third.stop()
        await_storage(ground, observer, tuple(f"{n} is whole on 2 of 3 brokers" for n in STREAMS))
        third.start()
        await_storage(ground, observer, ())
