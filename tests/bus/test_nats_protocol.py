from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.bus.client import BrokerError
from phalanx.bus.nats import protocol
from phalanx.bus.nats.protocol import Arrived, Parser, ProtocolError, Said, read_headers
from phalanx.bus.nats.streams import StreamPosition

HEADED = b"NATS/1.0\r\nn: 1\r\n\r\n"
STREAM = (
    b'INFO {"x":1}\r\n'
    b"MSG phx.a 7 5\r\nhello\r\n"
    b"PING\r\n+OK\r\n"
    b"MSG phx.b 8 back.1 4\r\n\r\n\r\n\r\n"
    b"HMSG phx.c 9 20 22\r\n" + HEADED + b"\r\nhi\r\n"
    b"-ERR 'Slow Consumer'\r\npong\r\n"
)
ITEMS = [
    Said("INFO", b'{"x":1}'),
    Arrived(7, "phx.a", None, b"", b"hello"),
    Said("PING", b""),
    Said("+OK", b""),
    Arrived(8, "phx.b", "back.1", b"", b"\r\n\r\n"),
    Arrived(9, "phx.c", None, HEADED + b"\r\n", b"hi"),
    Said("-ERR", b"'Slow Consumer'"),
    Said("PONG", b""),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_it_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    parser = Parser(100)
    found: list[Arrived | Said] = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for begin, end in pairwise(edges):
        found += parser.feed(STREAM[begin:end])
    assert found == ITEMS


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waited_for(octets: bytes) -> None:
    try:
        Parser(100).feed(octets + b"\r\n")
    except (ProtocolError, ValueError):
        return


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n",
        b"MSG a 1 101\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a b\r\n",
        b"MSG a b c d 1\r\n\r\n\r\n",
        b"x" * (1 << 20) + b"xx",
    ],
)
def test_what_is_no_message_is_refused(octets: bytes) -> None:
    with pytest.raises((ProtocolError, ValueError)):
        Parser(100).feed(octets)


@given(
    st.binary(max_size=50),
    st.dictionaries(
        st.from_regex(r"[A-Za-z-]{1,9}", fullmatch=True),
        st.text(st.characters(exclude_categories=["C", "Z"]), max_size=9),
        max_size=3,
    ),
)
def test_what_is_published_can_be_read(payload: bytes, headers: dict[str, str]) -> None:
    octets = protocol.publish("phx.a", payload, "back", headers)
    kind, _, rest = octets.partition(b" ")
    heard = {b"PUB": b"MSG phx.a 1", b"HPUB": b"HMSG phx.a 1"}[kind]
    (item,) = Parser(1_000).feed(heard + rest.removeprefix(b"phx.a"))
    assert isinstance(item, Arrived)
    assert (item.payload, item.reply) == (payload, "back")
    assert (read_headers(item.headers) if headers else (None, {})) == (None, headers)


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n", "a.*", "a.>", "a..b", ".a"])
def test_no_subject_smuggles_a_line_or_a_wildcard(subject: str) -> None:
    with pytest.raises(BrokerError):
        protocol.check_subject(subject)


@pytest.mark.parametrize("header", [("a", "b\r\nc: d"), ("a\nb", "c"), ("a:", "b"), ("", "b")])
def test_no_header_smuggles_another(header: tuple[str, str]) -> None:
    with pytest.raises(BrokerError):
        protocol.publish("phx.a", b"", None, dict([header]))


def test_a_status_stands_in_the_first_line() -> None:
    assert read_headers(b"NATS/1.0 503\r\n\r\n") == ("503", {})
    assert read_headers(b"NATS/1.0 408 Timeout\r\nA: b\r\n\r\n") == ("408", {"A": "b"})
    assert read_headers(b"HTTP/1.0 200\r\n\r\n") == (protocol.MALFORMED, {})


@given(st.binary(max_size=100))
def test_any_octets_are_read_as_headers(octets: bytes) -> None:
    for begin in (b"", b"NATS/1.0"):
        read_headers(begin + octets)


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.EVENTS.c.1.42.7.1795249230520145240.3",
        "$JS.ACK.domain.hash.EVENTS.c.1.42.7.1795249230520145240.3",
        "$JS.ACK.domain.hash.EVENTS.c.1.42.7.1795249230520145240.3.random",
    ],
)
def test_a_place_in_a_stream_is_read(reply: str) -> None:
    place = StreamPosition(reply)
    assert (place.sequence, place.number, place.pending) == (42, 7, 3)
    assert place.received == pytest.approx(1795249230.52)


def test_what_says_no_place_is_refused() -> None:
    for reply in ("", "phx.a", "$JS.ACK.EVENTS.c.1.x.7.1.3"):
        with pytest.raises(ValueError, match=r".*"):
            StreamPosition(reply)
