from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bus_messages import Inbox, message
from socket_bench import Bench, address, descriptors, frame, large

from phalanx.bus import Bus
from phalanx.bus.sockets import SocketBus
from phalanx.bus.wire import MAX_OCTETS, WireError, encode
from phalanx.domain.errors import PhalanxError
from phalanx.domain.messages import Message, Performative


def test_messages_arrive_in_order_and_are_counted(bench: Bench) -> None:
    bus, inboxes = bench.bus(), {name: Inbox() for name in "abc"}
    port: Bus = bus
    for name, inbox in inboxes.items():
        port.attach(name, inbox)
    for number in range(60):
        port.send(message(number, "abc"[number % 3], "abc"[number // 3 % 3]))
    assert bus.queued == 60
    assert inboxes["b"] == [], "delivery is later than the call"
    bench.until(lambda: bus.delivered == 60)
    for inbox in inboxes.values():
        for sender in "abc":
            numbers = [int(got.id[1:]) for got in inbox if got.sender == sender]
            assert numbers == sorted(numbers)
            assert len(numbers) in (6, 7)
    assert bus.sent == {Performative.INFORM: 60}
    assert (bus.lost, bus.queued, bus.shed, bus.refused) == (0, 0, {}, {})


def test_messages_travel_between_processes_as_between_buses(bench: Bench) -> None:
    here, there, inbox = bench.bus(), bench.bus(), Inbox()
    there.attach("b", inbox)
    here.attach("a", lambda got: None)
    here.send(message(1))
    bench.until(lambda: inbox.ids == ["m1"])
    assert (here.delivered, there.delivered) == (0, 1)


def test_an_answer_is_sent_from_a_handler(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("a", inbox)
    bus.attach("b", lambda got: bus.send(message(2, "b", "a")))
    bus.send(message(1))
    bench.until(lambda: inbox.ids == ["m2"])


def test_a_pair_has_one_connection_made_where_its_sender_lives(bench: Bench) -> None:
    entered: list[str] = []

    @contextmanager
    def enter(agent: str) -> Iterator[None]:
        entered.append(f"+{agent}")
        yield
        entered.append(f"-{agent}")

    bus, inbox = bench.bus(enter=enter), Inbox()
    bus.attach("a", inbox)
    bus.attach("b", inbox)
    assert entered == ["+a", "-a", "+b", "-b"]
    for number in range(5):
        bus.send(message(number))
        bench.until(lambda: len(inbox) == number + 1)  # noqa: B023  # used within the round
    assert entered[4:] == ["+a", "-a"]


@pytest.mark.parametrize("error", [FileNotFoundError, PhalanxError])
def test_who_has_no_network_reaches_nobody(bench: Bench, error: type[Exception]) -> None:
    @contextmanager
    def enter(agent: str) -> Iterator[None]:
        if agent == "a":
            raise error("no namespace of that name")
        yield

    bus, inbox = bench.bus(enter=enter), Inbox()
    bus.attach("b", inbox)
    bus.send(message(1))
    bus.send(message(2, "c"))
    bench.until(lambda: inbox.ids == ["m2"])
    assert bus.lost == 1
    with pytest.raises(error):
        bus.attach("a", inbox)
    assert bus.peers() == ("a", "b", "c", "d")


def test_peers_are_those_configured(bench: Bench) -> None:
    assert bench.bus(peers=["b", "a", "b"]).peers() == ("a", "b")


def test_agents_that_share_an_address_are_heard_each_and_strangers_in_their_name_are_not(
    bench: Bench,
) -> None:
    shared = address(9)[0]
    addresses = {"a": (shared, 1), "b": (shared, 2), "c": address(3)}
    bus, inbox = SocketBus(bench.clock, addresses), Inbox()
    try:
        for name in addresses:
            bus.attach(name, inbox)
        for number, (sender, receiver) in enumerate(["ac", "bc", "ca", "cb", "ab"]):
            bus.send(message(number, sender, receiver))
        bench.until(lambda: sorted(inbox.ids) == [f"m{n}" for n in range(5)])
        with socket.socket() as forger:
            forger.bind((addresses["c"][0], 0))
            forger.connect(addresses["b"])
            forger.sendall(frame(encode(message(9, "a", "b"))))
            bench.until(lambda: bus.refused == {"forged": 1})
        assert len(inbox) == 5
    finally:
        bus.close()


def test_what_makes_no_sense_is_refused(bench: Bench) -> None:
    bus = bench.bus()
    bus.attach("a", Inbox())
    with pytest.raises(ValueError, match="'a' is attached already"):
        bus.attach("a", Inbox())
    with pytest.raises(ValueError, match="'z' has no address"):
        bus.attach("z", Inbox())
    with pytest.raises(ValueError, match="capacity is 0"):
        bench.bus(capacity=0)
    with pytest.raises(ValueError, match="share an address and a port"):
        SocketBus(bench.clock, {"a": ("127.0.0.1", 1), "b": ("127.0.0.1", 1)})
    with pytest.raises(OSError, match="in use"):
        bench.bus().attach("a", Inbox())


def test_a_message_that_cannot_travel_is_the_senders_fault(bench: Bench) -> None:
    bus = bench.bus(limit=500)
    with pytest.raises(WireError, match="octets of 500"):
        bus.send(large(1, octets=500))
    with pytest.raises(WireError, match="at most"):
        bus.send(large(1, octets=MAX_OCTETS))
    assert bus.sent == {}


def test_a_bug_in_a_handler_goes_up_to_the_clock(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()

    def broken(got: Message) -> None:
        raise ZeroDivisionError

    bus.attach("b", broken)
    bus.attach("c", inbox)
    bus.send(message(1))
    with pytest.raises(ZeroDivisionError):
        bench.until(lambda: False)
    bus.send(message(2, receiver="c"))
    bench.until(lambda: inbox.ids == ["m2"])


def test_close_leaves_nothing_open_also_while_the_clock_stands(bench: Bench) -> None:
    before = descriptors()
    bus = bench.bus()
    for name in "abc":
        bus.attach(name, Inbox())
    for sender, receiver in ("ab", "bc", "ca", "cd"):
        bus.send(message(1, sender, receiver))
    bench.until(lambda: bus.delivered == 3)
    bus.send(message(2, "a", "d"))
    assert descriptors() > before
    bus.close()
    assert descriptors() == before
    assert sum(bus.sent.values()) == bus.delivered + bus.lost
    bus.close()


def test_without_descriptors_it_waits_for_some(bench: Bench) -> None:
    bus, inbox = bench.bus(), Inbox()
    bus.attach("b", inbox)
    connection = bench.client("a")
    connection.sendall(frame(encode(message(1))))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path("/dev/null").open() as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        bench.idle()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert inbox == []
    bench.until(lambda: inbox.ids == ["m1"])
