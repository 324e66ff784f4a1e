"""What cuts messages out of octets that a NATS server sends, however they come in."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.bus.client import Delivery
from phalanx.bus.nats import streams
from phalanx.bus.nats.connection import DirectReader, GuardedClient
from phalanx.bus.nats.streams import StreamFollower

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


class Stalled(StreamFollower):
    """Follows a stream that tells more, in a process that stands still, while it is asked."""

    def __init__(self, heads: list[int], told: int) -> None:
        self._heads, self._more = heads, told
        self._last, self._stream = 10, "EVENTS"
        self._connection = SimpleNamespace(complained=self.complained)  # type: ignore[assignment]
        self.complaints: list[str] = []

    def complained(self, words: str) -> None:
        self.complaints.append(words)

    async def _head(self) -> int:
        head = self._heads.pop(0) if len(self._heads) > 1 else self._heads[0]
        self._last += self._more
        return head


def test_a_head_that_is_old_when_it_is_read_does_not_make_another_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_AGAIN_S", 0.0)
    minutes = itertools.count(0.0, 60.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(minutes))
    slow = Stalled([10], told=5)
    asyncio.run(slow._whole())
    assert (slow._last, slow.complaints) == (15, [])
    behind = Stalled([9] * 10 + [10], told=0)
    asyncio.run(behind._whole())
    assert (behind._last, behind.complaints) == (10, [])
    another = Stalled([3], told=0)
    asyncio.run(another._whole())
    assert (another._last, another.complaints) == (0, ["stream EVENTS has begun anew"])
