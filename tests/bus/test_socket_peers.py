"""Peers of the bus over sockets that die, hang, come back or lie."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from bus_messages import Inbox, message
from socket_bench import Bench, address, closed, frame, large

from phalanx.bus import sockets as streams
from phalanx.bus.sockets import Frames
from phalanx.bus.wire import MAX_OCTETS, decode, encode

# -- peers that die, hang or come back ---------------------------------------------------------


def test_what_nobody_listens_for_is_lost_until_somebody_does(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.send(message(1))
    bench.until(lambda: bus.lost == 1)
    bus.send(message(2, receiver="z"))
    assert bus.lost == 2, "z has no address"
    bench.bus().attach("b", inbox)
    bus.send(message(3))
    bench.until(lambda: inbox.ids == ["m3"])


def test_a_peer_that_comes_back_is_reached_again(bench: Bench) -> None:
    here, there, inbox = bench.bus(), bench.bus(), Inbox()
    for number in range(1, 4):
        there.attach("b", inbox)
        here.send(message(number))
        bench.until(lambda: len(inbox) == number)  # noqa: B023  # used within the round
        there.detach("b")
        bench.idle()
    assert inbox.ids == ["m1", "m2", "m3"]
    assert here.lost == 0


def test_attempts_come_at_growing_intervals(bench: Bench) -> None:
    made: list[float] = []

    @contextmanager
    def enter(agent: str) -> Iterator[None]:
        made.append(bench.clock.now())
        yield

    bus = bench.bus(enter=enter)

    def keep_sending() -> None:
        bus.send(message(1))
        bench.clock.call_later(0.001, keep_sending)

    keep_sending()
    bench.until(lambda: len(made) == 4)
    for (before, after), least in zip(pairwise(made), (0.05, 0.1, 0.2), strict=True):
        assert after - before > 0.99 * least
    assert bus.lost + bus.queued == sum(bus.sent.values()), "nothing vanishes"


def test_detach_loses_what_is_on_its_way_and_closes_all(bench: Bench) -> None:
    bus, before, after = bench.bus(), Inbox(), Inbox()
    bus.attach("a", Inbox())
    bus.attach("b", before)
    bus.send(message(1))
    bench.until(lambda: len(before) == 1)
    hands_up = bench.client("c")
    bus.send(message(2))
    bus.send(message(3, receiver="d"))
    bus.detach("b")
    bus.detach("a")
    bus.send(message(4, receiver="b"))
    assert bus.lost == 2, "m3 waited, and the sender of m4 has left"
    bus.attach("b", after)
    bench.idle()
    assert closed(hands_up)
    assert (before.ids, after.ids) == (["m1"], [])
    bus.attach("a", Inbox())
    bus.send(message(5))
    bench.until(lambda: after.ids == ["m5"])
    bus.detach("nobody")


def test_a_message_read_but_not_handed_over_dies_with_its_receiver(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("a", lambda got: bus.detach("b"))
    bus.attach("b", inbox)
    bench.client("c", "a").sendall(frame(encode(message(1, "c", "a"))))
    bench.client("c", "b").sendall(frame(encode(message(2, "c", "b"))))
    bench.until(lambda: bus.delivered == 1)
    bench.idle()
    assert inbox == []


def test_a_deaf_peer_sheds_its_own_messages_and_blocks_nobody(bench: Bench) -> None:
    told, inbox = Inbox(), Inbox()
    bus = bench.bus(capacity=3, on_shed=told)
    deaf = bench.listener("b")
    bus.attach("c", inbox)
    sent = 0
    while len(told) < 3:
        bus.send(large(sent))
        sent += 1
        bench.idle(0.01)
        assert sent < 1_000
    bus.send(message(sent, receiver="c"))
    bench.until(lambda: inbox.ids == [f"m{sent}"])
    assert bus.shed == {"b": 3}
    assert bus.queued == 3
    heard, frames = list[str](), Frames(MAX_OCTETS)
    connection, _ = deaf.accept()
    connection.setblocking(False)

    def listen() -> bool:
        try:
            heard.extend(decode(payload).id for payload in frames.feed(connection.recv(1 << 20)))
        except BlockingIOError:
            return len(heard) == sent - 3
        return False

    with connection:
        bench.until(listen)
    assert set(heard) == {f"m{number}" for number in range(sent)} - set(told.ids)


def test_a_connection_that_breaks_within_a_frame_is_followed_by_a_whole_frame(
    bench: Bench,
) -> None:
    bus, peer = bench.bus(), bench.listener("b")
    for number in range(60):
        bus.send(large(number))
    bench.until(lambda: bus.queued < 60)
    first, _ = peer.accept()
    first.recv(150_000)
    waited = bus.queued
    assert waited > 0
    first.close()
    peer.setblocking(False)
    again: list[socket.socket] = []
    heard, frames = list[str](), Frames(MAX_OCTETS)

    def listen() -> bool:
        try:
            if not again:
                again.append(peer.accept()[0])
                again[0].setblocking(False)
            heard.extend(decode(each).id for each in frames.feed(again[0].recv(1 << 18)))
        except BlockingIOError:
            return False
        return bool(heard)

    bench.until(listen)
    assert heard[0] == f"m{60 - waited}"
    again[0].close()


def test_a_peer_that_never_answers_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_CONNECT_S", 0.05)
    full = bench.listener("b", backlog=0)
    waiting = [socket.socket() for _ in range(4)]
    for connection in waiting:
        connection.setblocking(False)
        connection.connect_ex(full.getsockname())
    bus = bench.bus()
    bus.send(message(1))
    bench.until(lambda: bus.lost == 1)
    for connection in waiting:
        connection.close()


def test_whoever_answers_on_a_connection_for_sending_loses_it(bench: Bench) -> None:
    bus, peer = bench.bus(), bench.listener("b")
    bus.send(message(1))
    bench.until(lambda: bus.queued == 0)
    connection, _ = peer.accept()
    with connection:
        assert len(connection.recv(1_000)) > 100
        connection.sendall(b"x" * 100)
        bench.idle()
        assert closed(connection)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (frame(b"garbage"), "garbage"),
        (frame(b""), "garbage"),
        (b"\xff\xff\xff\xff", "oversize"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversize"),
        ((MAX_OCTETS + 1).to_bytes(4, "big"), "oversize"),
    ],
)
def test_a_connection_with_garbage_is_closed(bench: Bench, octets: bytes, reason: str) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("b", inbox)
    connection = bench.client("a")
    connection.sendall(frame(encode(message(1))) + octets + frame(encode(message(2))))
    bench.until(lambda: bus.refused == {reason: 1})
    bench.idle()
    assert inbox.ids == ["m1"], "what came before holds, what comes behind is not read"
    assert closed(connection)


def test_strangers_are_not_heard(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("b", inbox)
    connection = bench.client(address(99)[0])
    connection.sendall(frame(encode(message(1))))
    bench.until(lambda: bus.refused == {"stranger": 1})
    assert closed(connection)
    assert inbox == []


def test_nobody_speaks_for_another_or_to_another(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("b", inbox)
    bus.attach("c", inbox)
    connection = bench.client("a")
    for sent in (message(1, "c"), message(2, receiver="c"), message(3)):
        connection.sendall(frame(encode(sent)))
    bench.until(lambda: inbox.ids == ["m3"])
    assert bus.refused == {"forged": 2}


def test_a_newer_connection_of_a_peer_takes_the_place_of_the_older(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("b", inbox)
    half_open = bench.client("a")
    half_open.sendall(frame(encode(message(1)))[:50])
    bench.idle()
    newer = bench.client("a")
    newer.sendall(frame(encode(message(2))))
    bench.until(lambda: inbox.ids == ["m2"])
    assert closed(half_open)
    newer.sendall(frame(encode(message(3))))
    bench.until(lambda: inbox.ids == ["m2", "m3"])


def test_a_frame_may_come_octet_by_octet_and_holds_up_nobody(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("b", inbox)
    slow = bench.client("a")
    slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    octets = frame(encode(message(1)))
    for number, octet in enumerate(octets[:-1]):
        slow.sendall(bytes((octet,)))
        if number % 20 == 0:
            bench.idle(0.001)
    bus.send(message(2, "c"))
    bench.until(lambda: inbox.ids == ["m2"])
    slow.sendall(octets[-1:])
    bench.until(lambda: inbox.ids == ["m2", "m1"])


def test_a_peer_that_resets_harms_nobody(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("b", inbox)
    rude = bench.client("a")
    bench.idle()
    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    rude.close()
    bench.idle()
    bus.send(message(1))
    bench.until(lambda: inbox.ids == ["m1"])
