from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct, structs

from phalanx.bus.wire import MAX_OCTETS, WireError
from phalanx.domain.actions import Action, Done, Enforce, Outcome, Percept, Stop
from phalanx.fabric.network import codec
from phalanx.fabric.network.codec import (
    VERSION,
    Answered,
    Ask,
    Declined,
    Do,
    News,
    Reply,
    Settled,
    Sync,
    Synced,
    Why,
    decode_ask,
    decode_news,
    decode_reply,
    encode,
    pack,
    settled,
    unpack_action,
    unpack_news,
    unpack_outcome,
)

HEAD = bytes((VERSION,))


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of values of a type that actions, outcomes and percepts use."""
    if kind is int:
        return st.integers(-(2**63), 2**63 - 1)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return st.builds(kind, **{one.name: values(one.type) for one in structs.fields(kind)})
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return st.one_of(*(st.none() if a is NoneType else values(a) for a in arguments))
    if get_origin(kind) is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if get_origin(kind) is dict:
        return st.dictionaries(*map(values, arguments), max_size=3)
    assert kind in (str, bool) or issubclass(kind, Enum)
    return st.from_type(kind)


count = st.integers(0, 2**63 - 1)
packed_actions = values(Action).map(pack)
packed_news = values(Percept).map(pack) | st.builds(settled, count, values(Outcome).map(pack))
ASKS = st.builds(Sync, count, count, count, count, st.booleans()) | st.builds(
    Do, count, count, count, count, packed_actions, st.text(max_size=9)
)
REPLIES = (
    st.builds(Answered, st.none() | values(Outcome).map(pack))
    | st.builds(Declined, st.sampled_from(Why), st.text(max_size=9))
    | st.builds(
        Synced, count, st.lists(st.tuples(count, packed_news), max_size=3).map(tuple), count, count
    )
)
NEWS = st.builds(News, count, count, count, packed_news)
SAID = [(ASKS, decode_ask), (REPLIES, decode_reply), (NEWS, decode_news)]


def plain(value: Any) -> Any:
    """Return what is said in builtins, so that octets of Raw can be compared."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, Struct) and not isinstance(value, Enum):
        return type(value), *map(plain, structs.astuple(value))
    return value


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_all_that_is_said_survives(data: st.DataObject) -> None:
    strategy, decode = data.draw(st.sampled_from(SAID))
    said = data.draw(strategy)
    assert plain(decode(encode(said))) == plain(said)


@settings(deadline=None, max_examples=200)
@given(values(Action), values(Outcome), values(Percept), count)
def test_what_stands_in_it_survives(
    action: Action, outcome: Outcome, percept: Percept, token: int
) -> None:
    assert unpack_action(pack(action)) == action
    assert unpack_outcome(pack(outcome)) == outcome
    assert unpack_news(pack(percept)) == percept
    news = unpack_news(settled(token, pack(outcome)))
    assert isinstance(news, Settled)
    assert (news.token, unpack_outcome(news.outcome)) == (token, outcome)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "nothing in 0 octets"),
        (b"\x02{}", "version 2 in 3 octets"),
        (HEAD, "not understood"),
        (HEAD + b"{}", "type"),
        (HEAD + b'{"type":"Synced"}', "Invalid value 'Synced'"),
        (HEAD + b'{"type":"Sync"}', "missing required field"),
        (encode(Sync(1, 2, 3, 4, True)).replace(b":3,", b":-3,"), ">= 0"),
        (HEAD + b"[" * (MAX_OCTETS - 1), "not understood"),
        (HEAD + b" " * MAX_OCTETS, f"in {MAX_OCTETS + 1} octets"),
    ],
    ids=str,
)
def test_what_is_no_request_is_refused_in_one_line(octets: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        decode_ask(octets)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (pack(Done()), "'Done' is no action"),
        (("Do", Raw(b"{}")), "'Do' is no action"),
        (("Stop", Raw(b"[]")), "no action: Stop: Expected `object`"),
        (("Stop", Raw(b"{")), "no action: Stop: "),
        (
            ("Enforce", Raw(b'{"measure":"m","instance":"i","effect":"e","rule":{"match":{}}}')),
            "verdict",
        ),
    ],
    ids=range(5),
)
def test_what_is_no_action_is_refused(packed: tuple[str, Raw], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        unpack_action(packed)


def test_the_bound_is_kept_where_it_is_written() -> None:
    with pytest.raises(WireError, match="too many to travel"):
        pack(Stop("x" * MAX_OCTETS))
    most = pack(Stop("x" * (MAX_OCTETS - 4096 - 100)))
    assert decode_ask(encode(Do(1, 1, 1, 1, most, "cause")))
    assert decode_news(encode(News(1, 1, 1, settled(2**62, most))))
    with pytest.raises(WireError, match=f"at most {MAX_OCTETS} can travel"):
        encode(Do(1, 1, 1, 1, most, "cause" * 1000))
    with pytest.raises(WireError, match="Enforce cannot travel"):
        pack(Enforce("m", "i", object(), "effect"))  # type: ignore[arg-type]  # a fault of its sender


def heard(decode: Callable[[bytes], Any], octets: bytes) -> None:
    """Decode and unpack: something that can be used, or a WireError."""
    try:
        said = decode(octets)
        if isinstance(said, Do):
            unpack_action(said.action)
        elif isinstance(said, Answered) and said.outcome is not None:
            unpack_outcome(said.outcome)
        elif isinstance(said, News):
            unpack_news(said.item)
    except WireError:
        return
    assert isinstance(said, Ask | Reply | News)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_truncated_flipped_and_doubled(data: st.DataObject) -> None:
    strategy, decode = data.draw(st.sampled_from(SAID))
    octets = bytearray(encode(data.draw(strategy)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(octets) - 1))
        match data.draw(st.sampled_from(["cut", "flip", "double", "swap"])):
            case "cut":
                del octets[at + 1 :]
            case "flip":
                octets[at] ^= 1 << data.draw(st.integers(0, 7))
            case "double":
                octets[at:at] = octets[at : at + 40]
            case "swap":
                octets[at : at + 1] = data.draw(st.sampled_from([b"[", b"{}", b"null", b"0", b'"']))
    heard(decode, bytes(octets))


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([one[1] for one in SAID]))
def test_garbage(octets: bytes, decode: Callable[[bytes], Any]) -> None:
    heard(decode, octets)
    heard(decode, HEAD + octets)


def test_the_families_are_those_of_the_domain() -> None:
    assert set(codec._FAMILIES["action"].values()) == set(get_args(Action))
    assert set(codec._FAMILIES["outcome"].values()) == set(get_args(Outcome))
