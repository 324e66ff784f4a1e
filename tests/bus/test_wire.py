from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.struct_values import values

from phalanx.bus.memory import MemoryBus
from phalanx.bus.wire import MAX_OCTETS, VERSION, WireError, decode, encode
from phalanx.domain import predicates
from phalanx.domain.goals import Goal, Mode, Predicate, want
from phalanx.domain.messages import (
    Content,
    Fact,
    Message,
    Performative,
    Refusal,
    Result,
    UndoRequest,
    UsualService,
    Verdict,
)
from phalanx.domain.predicates import LinkRateLimited, Quiet
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import System

ROOT = Path(__file__).parents[2]
HEAD = bytes((VERSION,))


def carrying(content: Content) -> Message:
    return Message("m", Performative.INFORM, "a", "b", "c", content, "e")


def believing(predicate: Predicate) -> Message:
    return carrying(Result((Fact(predicate),)))


# -- what agents say --------------------------------------------------------------------------


def test_a_run_over_the_wire_is_the_run_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = set[type]()
    send = MemoryBus.send

    def send_over_the_wire(bus: MemoryBus, message: Message) -> None:
        heard = decode(encode(message))
        assert heard == message
        spoken.add(type(message.content))
        send(bus, heard)

    scenario = load_scenario(ROOT / "scenarios" / "quickstart-ring.yaml")
    plain = System(scenario).run()
    monkeypatch.setattr(MemoryBus, "send", send_over_the_wire)
    assert System(scenario).run().events == plain.events
    assert {"Award", "Proposal", "Advertisement", "Heartbeat"} <= {k.__name__ for k in spoken}


MESSAGES = values(Message)


@given(MESSAGES)
def test_every_message_survives(message: Message) -> None:
    assert decode(encode(message)) == message


# -- the open family --------------------------------------------------------------------------


class Hidden(Predicate, frozen=True):
    where: str = "here"


class Both(Predicate, frozen=True):
    wire_parts: tuple[Predicate, ...]
    otherwise: Predicate | None = None
    goal: Goal = want(Hidden())


class Hoarded(Predicate, frozen=True):
    by_name: dict[str, Predicate]


@pytest.mark.parametrize(
    "predicate",
    [
        Quiet(Quiet(LinkRateLimited("a>b"))),
        Both(()),
        Both((Hidden("x"), Both((Hidden(),), Hidden("y"))), Quiet(Hidden()), Goal(Hidden("z"))),
    ],
    ids=str,
)
def test_predicates_of_others_travel_nested(predicate: Predicate) -> None:
    message = carrying(UndoRequest(Goal(predicate, Mode.AVERT)))
    assert decode(encode(message)) == message


def test_fields_with_defaults_may_be_left_out() -> None:
    whole = encode(believing(Both((), None)))
    short = whole.replace(b',"otherwise":null', b"").replace(
        b',"goal":{"predicate":{"type":"Hidden","where":"here"},"mode":""}', b""
    )
    assert len(short) < len(whole) - 60
    assert decode(short) == believing(Both(()))


def test_a_predicate_that_comes_later_is_found() -> None:
    octets = encode(believing(Hidden())).replace(b"Hidden", b"LateComer")
    with pytest.raises(WireError, match="no predicate 'LateComer' is known here"):
        decode(octets)

    class LateComer(Predicate, frozen=True):
        where: str

    assert decode(octets) == believing(LateComer("here"))


def test_of_a_function_loaded_anew_the_new_predicate_counts() -> None:
    def load() -> type[Predicate]:
        made = msgspec.defstruct(
            "Reloaded", [("x", int)], bases=(Predicate,), module="loaded", frozen=True, tag=True
        )
        assert issubclass(made, Predicate)
        return made

    old = load()
    octets = encode(believing(old(1)))  # type: ignore[call-arg]
    assert decode(octets) == believing(old(1))  # type: ignore[call-arg]
    new = load()
    assert type(decode(octets).content.facts[0].predicate) is new  # type: ignore[union-attr]


def test_two_functions_that_give_one_name_are_told_apart_by_nobody() -> None:
    kept = [
        msgspec.defstruct("Twin", [], bases=(Predicate,), module=m, frozen=True, tag=True)
        for m in ("first", "second")
    ]
    with pytest.raises(WireError, match="'Twin' is ambiguous: first and second define it"):
        decode(encode(believing(kept[0]())))


def test_a_predicate_in_a_place_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(WireError, match=r"cannot travel: a predicate stands in"):
        decode(encode(believing(Hoarded({"x": Hidden()}))))


# -- what is refused --------------------------------------------------------------------------


def test_the_bound_is_the_same_at_both_ends() -> None:
    spare = MAX_OCTETS - len(encode(carrying(Verdict())))
    most = carrying(Verdict("x" * spare))
    assert decode(encode(most)) == most
    with pytest.raises(WireError, match=f"has {MAX_OCTETS + 1} octets"):
        encode(carrying(Verdict("x" * (spare + 1))))
    with pytest.raises(WireError, match=f"{MAX_OCTETS + 1} octets are no message"):
        decode(encode(most) + b" ")


@pytest.mark.parametrize("what", ["\ud800", object()])
def test_what_cannot_travel_is_said_to_the_sender(what: Any) -> None:
    with pytest.raises(WireError, match="message 'm' cannot travel"):
        encode(carrying(Verdict(what)))


@pytest.mark.parametrize("figure", [b"null", b"NaN", b"Infinity", b"1e999", b'"1"', b"true"])
def test_figures_are_finite_numbers(figure: bytes) -> None:
    octets = encode(carrying(UndoRequest(want(predicates.Monitored("a>b", 4.5)))))
    assert octets.count(b"4.5") == 1
    with pytest.raises(WireError):
        decode(octets.replace(b"4.5", figure))


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "nothing is no message of version 1"),
        (b"\x02{}", "version 2 is no message of version 1"),
        (HEAD, "truncated"),
        (HEAD + b"[]", "Expected `object`"),
        (HEAD + b"{}", "missing required field `id`"),
        (encode(carrying(Refusal("no"))).replace(b"Refusal", b"System"), "Invalid value 'System'"),
        (encode(carrying(Refusal("no"))).replace(b'"inform"', b'"obey"'), "Invalid enum value"),
        (encode(carrying(Refusal("no"))).replace(b'"type":"Refusal",', b""), "missing required"),
        *(  # classes that exist but are no predicates: no name from the wire is imported
            (encode(believing(Hidden())).replace(b"Hidden", tag.encode()), f"no predicate '{tag}'")
            for tag in ("Predicate", "Message", "phalanx.domain.messages.Message", "os.system")
        ),
        (encode(believing(Hidden())).replace(b'"Hidden"', b"7"), "no predicate 7 "),
        (encode(carrying(Verdict("aé"))).replace("é".encode(), b"\xff"), "invalid start byte"),
    ],
)
def test_what_is_no_message_is_refused_in_one_line(octets: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode(octets)


def nested(opening: bytes, inner: bytes, closing: bytes) -> bytes:
    depth = (MAX_OCTETS - 400) // len(opening + closing)
    tag = b'{"type":"Hidden","where":"here"}'
    return encode(believing(Hidden())).replace(tag, opening * depth + inner + closing * depth)


@pytest.mark.parametrize("kb_s", [-1.0, 1e10])
def test_nobody_tells_that_users_get_what_no_user_can(kb_s: float) -> None:
    for lie in UsualService("t", (kb_s,), ()), UsualService("t", (), (("u", kb_s),)):
        with pytest.raises(WireError, match="Expected `float`"):
            decode(encode(carrying(lie)))


@pytest.mark.parametrize(
    "octets",
    [
        HEAD + b"[" * (MAX_OCTETS - 1),
        HEAD + b'{"a":' * (MAX_OCTETS // 5 - 1),
        HEAD + b'{"content":[' + b"[]," * (MAX_OCTETS // 3 - 10) + b"[]]}",
        HEAD + b"9" * (MAX_OCTETS - 1),
        nested(b'{"type":"Quiet","measure":', b"null", b"}"),
        encode(believing(Hidden())).replace(b"Hidden", b"H" * (MAX_OCTETS - 400)),
        encode(carrying(Verdict())).replace(b"inform", b"i" * (MAX_OCTETS - 400)),
        encode(carrying(Result())).replace(b"[]", b"[" + b"{}," * 300_000 + b"{}]"),
    ],
    ids=["lists", "objects", "many", "digits", "predicates", "tag", "performative", "facts"],
)
def test_the_worst_of_a_megabyte_costs_little_memory_and_a_short_line(octets: bytes) -> None:
    assert len(octets) <= MAX_OCTETS
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as caught:
            decode(octets)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def heard(octets: bytes) -> None:
    """Decode: a message that can be used and sent on, or a WireError."""
    try:
        message = decode(octets)
    except WireError:
        return
    assert isinstance(message, Message)
    assert decode(encode(message)) == message
    hash(message)


@given(st.binary(max_size=200), st.booleans())
def test_garbage(octets: bytes, headed: bool) -> None:
    heard(HEAD + octets if headed else octets)


@given(MESSAGES, st.data())
def test_truncated_flipped_and_doubled(message: Message, data: st.DataObject) -> None:
    octets = bytearray(encode(message))
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
    heard(bytes(octets))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(MESSAGES, JSON, st.data())
def test_anything_in_any_place(message: Message, junk: Any, data: st.DataObject) -> None:
    tree = msgspec.to_builtins(message)
    holder, key = {"": tree}, ""
    at: Any = tree
    while isinstance(at, dict | list) and at and data.draw(st.booleans()):
        keys = sorted(at) if isinstance(at, dict) else range(len(at))
        holder, key = at, data.draw(st.sampled_from(keys))
        at = holder[key]
    holder[key] = junk
    heard(HEAD + msgspec.json.encode(tree))
