from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from socket_bench import frame

from phalanx.bus.sockets import Frames, OversizeError


@given(st.lists(st.binary(max_size=20), max_size=6), st.lists(st.integers(1, 9), min_size=1))
def test_frames_come_out_whole_however_the_stream_is_cut(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream, frames, got = b"".join(map(frame, payloads)), Frames(20), list[bytes]()
    while stream:
        for cut in cuts:
            got += frames.feed(stream[:cut])
            stream = stream[cut:]
    assert got == payloads


@given(st.binary())
def test_garbage_is_frames_or_too_long(octets: bytes) -> None:
    try:
        got = list(Frames(100).feed(octets))
    except OversizeError:
        return
    assert b"".join(map(frame, got)) == octets[: sum(len(payload) + 4 for payload in got)]


def test_what_is_too_long_is_not_waited_for() -> None:
    frames = Frames(5)
    assert list(frames.feed(frame(b"12345"))) == [b"12345"]
    fed = frames.feed(frame(b"1") + (6).to_bytes(4, "big"))
    assert next(fed) == b"1"
    with pytest.raises(OversizeError):
        next(fed)
