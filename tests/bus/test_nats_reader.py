"""What cuts messages out of octets that a NATS server sends, however they come in."""

from __future__ import annotations

import asyncio
import ssl

from hypothesis import given
from hypothesis import strategies as st

from phalanx.bus.client import Delivery
from phalanx.bus.nats.connection import DirectReader, GuardedClient

WORD = st.binary(min_size=1, max_size=12).filter(lambda word: not set(word) & set(b" \n"))
FIELDS = st.dictionaries(
    st.text("abcXYZ-", min_size=1, max_size=5), st.text("ab: 1", max_size=5).map(str.strip)
)
MESSAGE = st.tuples(
    st.sampled_from((b"1", b"7")), WORD, st.none() | WORD, st.none() | FIELDS, st.binary()
)
LINE = st.sampled_from((b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Unknown'\r\n"))


def written(
    sid: bytes, subject: bytes, reply: bytes | None, head: bytes | None, body: bytes
) -> bytes:
    words = [b"MSG" if head is None else b"HMSG", subject, sid, *([] if reply is None else [reply])]
    if head is not None:
        words.append(b"%d" % len(head))
    words.append(b"%d" % (len(head or b"") + len(body)))
    return b" ".join(words) + b"\r\n" + (head or b"") + body + b"\r\n"


@given(items=st.lists(MESSAGE | LINE, max_size=8), cuts=st.lists(st.integers(1, 80), max_size=30))
def test_messages_of_known_subscriptions_are_cut_out_and_the_rest_stays_as_it_is(
    items: list[bytes | tuple[bytes, bytes, bytes | None, dict[str, str] | None, bytes]],
    cuts: list[int],
) -> None:
    octets, rest, expected = b"", b"", []
    for item in items:
        if isinstance(item, bytes):
            octets, rest = octets + item, rest + item
            continue
        sid, subject, reply, fields, body = item
        head = None
        if fields is not None:
            lines = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
        frame = written(sid, subject, reply, head, body)
        octets += frame
        if sid == b"7":
            readable = None if reply is None else reply.decode("utf-8", "replace")
            heard = Delivery(subject.decode("utf-8", "replace"), body, fields or {}, readable)
            expected.append(heard)
        else:
            rest += frame
    got: list[Delivery] = []
    taken: list[int] = []

    async def read() -> bytes:
        client = GuardedClient(ssl.create_default_context(), lambda: taken.append(len(got)))
        client.direct[b"7"] = got.append
        reader = DirectReader(client)
        place = 0
        for cut in cuts:
            reader.feed_data(octets[place : place + cut])
            place += cut
        reader.feed_data(octets[place:])
        reader.feed_eof()
        return await reader.read()

    assert asyncio.run(read()) == rest
    assert got == expected
    assert taken[-1] == len(expected)
