"""CloudEvents: round trips, the examples of the specification, and octets from anybody."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.one_line import taken_or_refused

from phalanx.domain.events import Event
from phalanx.fabric.envelope import (
    Envelope,
    EnvelopeError,
    from_event,
    from_headers,
    from_json,
    source,
    speaker,
    to_event,
    to_headers,
    to_json,
)

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
NUMBERS = st.none() | st.integers(0, 2**31)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.builds(
    Envelope,
    specversion=st.just("1.0"),
    id=TEXT,
    source=TEXT,
    type=TEXT,
    time=st.none() | st.datetimes(timezones=st.just(UTC)),
    cause=st.none() | TEXT,
    timeout_ms=st.none() | st.integers(1, 3_600_000),
    incarnation=NUMBERS,
    low_water=NUMBERS,
)
EVENTS = st.builds(
    Event,
    id=TEXT,
    time=st.floats(0, 1e9),
    agent=TEXT,
    kind=st.from_regex(r"[a-z]{1,8}(\.[a-z_]{1,8}){0,2}", fullmatch=True),
    cause=st.none() | TEXT,
    data=st.dictionaries(TEXT, JSONS, max_size=4),
)


@given(CALLS)
def test_binary_mode_keeps_everything(envelope: Envelope) -> None:
    headers = to_headers(envelope)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert not any(sign in value for value in headers.values() for sign in ' "')
    found = from_headers({name.upper(): value for name, value in headers.items()})
    assert msgspec.structs.replace(found, data=envelope.data) == envelope


@given(EVENTS, st.floats(0, 2e9))
def test_an_event_comes_back_as_it_was(event: Event, epoch_s: float) -> None:
    assert to_event(from_json(to_json(from_event(event, "edge", epoch_s=epoch_s)))) == event


def test_an_event_as_a_cloudevent() -> None:
    event = Event(
        "pop1.1-7", 12.5, "pop1", "goal.adopted", "pop1.1-6", {"goal": "¬x", "scope": "s"}
    )
    assert json.loads(to_json(from_event(event, "edge", epoch_s=1_700_000_000))) == {
        "specversion": "1.0",
        "id": "pop1.1-7",
        "source": "/phalanx/edge/pop1",
        "type": "phalanx.goal.adopted",
        "time": "2023-11-14T22:13:32.500000Z",
        "elapsed": "12.5",
        "cause": "pop1.1-6",
        "scope": "s",
        "datacontenttype": "application/json",
        "data": {"goal": "¬x", "scope": "s"},
    }


TYPE = {"type": "phalanx.note"}


def test_what_the_specification_shows_is_read() -> None:
    """The examples of CloudEvents' JSON format, 3.2 (with JSON data) and of a null attribute."""
    octets = b"""{
        "specversion" : "1.0", "type" : "com.example.someevent", "source" : "/mycontext",
        "subject": null, "id" : "C234-1234-1234", "time" : "2018-04-05T17:31:00Z",
        "comexampleextension1" : "value", "comexampleothervalue" : 5,
        "datacontenttype" : "application/json; charset=utf-8",
        "data" : { "appinfoA" : "abc", "appinfoB" : 123, "appinfoC" : true }
    }"""
    envelope = from_json(octets)
    assert (envelope.id, envelope.time) == (
        "C234-1234-1234",
        datetime(2018, 4, 5, 17, 31, tzinfo=UTC),
    )
    assert msgspec.json.decode(envelope.data)["appinfoB"] == 123
    ours = {"elapsed": "1.5"}
    for more, said in (({}, "elapsed"), (ours, "not as phalanx"), (TYPE | ours, "not as /phalanx")):
        with pytest.raises(EnvelopeError, match=said):
            to_event(from_json(json.dumps(json.loads(octets) | more).encode()))


def test_header_values_are_escaped_as_the_specification_shows() -> None:
    """HTTP binding 3.1.3.2: its example, Euro € 😀."""
    envelope = Envelope("1.0", "1", "/s", "t", cause="Euro € 😀")
    assert to_headers(envelope)["ce-cause"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert from_headers(to_headers(envelope)).cause == "Euro € 😀"


GOOD: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (GOOD | {"specversion": "0.3"}, "Invalid enum value '0.3'"),
        ({k: v for k, v in GOOD.items() if k != "id"}, "missing required field `id`"),
        (GOOD | {"id": ""}, "length >= 1"),
        (GOOD | {"id": 5}, "Expected `str`"),
        (GOOD | {"time": "yesterday"}, "Invalid RFC3339"),
        (GOOD | {"time": "2023-02-20T00:00:00"}, "with a timezone"),
        (GOOD | {"cause": {}}, "Expected `str | null`"),
        (GOOD | {"timeoutms": 3_600_001}, "<= 3600000"),
        (GOOD | {"cause": "a\nb"}, "a character that it may not have"),
        ([], "no envelope"),
    ],
)
def test_what_is_no_envelope_is_refused_in_one_line(fields: object, said: str) -> None:
    with pytest.raises(EnvelopeError, match=said) as caught:
        from_json(json.dumps(fields).encode())
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300) | JSONS.map(msgspec.json.encode))
def test_any_octets_are_an_envelope_or_one_line(octets: bytes) -> None:
    taken_or_refused(EnvelopeError, lambda: from_json(octets), at_most=200)


@given(EVENTS, st.data())
def test_an_altered_event_is_one_or_one_line(event: Event, data: st.DataObject) -> None:
    octets = bytearray(to_json(from_event(event, "edge")))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    taken_or_refused(EnvelopeError, lambda: to_event(from_json(bytes(octets))))


@given(st.dictionaries(st.sampled_from(("ce-id", "ce-type", "ce-source", "x", "ce-")), st.text()))
def test_any_headers_are_an_envelope_or_one_line(headers: dict[str, str]) -> None:
    taken_or_refused(EnvelopeError, lambda: from_headers(headers | {"ce-specversion": "1.0"}))


@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    octets = json.dumps(GOOD).encode()[:-1] + b',"data":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(EnvelopeError):
        from_json(octets)


def test_too_long_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="octets"):
        from_json(b" " * (1 << 21))
    with pytest.raises(EnvelopeError, match="octets"):
        to_json(Envelope("1.0", "1", "/s", "t", data=Raw(b'"' + b"x" * (1 << 20) + b'"')))


@pytest.mark.parametrize(
    "event",
    [
        Event("1", math.nan, "a", "k", None, {}),
        Event("1", math.inf, "a", "k", None, {}),
        Event("1", 1e300, "a", "k", None, {}),
        Event("1", 0.0, "a", "k", None, {"x": object()}),
        Event("1", 0.0, "a", "k", None, {"x": "\ud800"}),
        Event("", 0.0, "a", "k", None, {}),
        Event("1\n2", 0.0, "a", "k", None, {}),
    ],
)
def test_an_event_that_cannot_travel_is_refused(event: Event) -> None:
    with pytest.raises(EnvelopeError):
        from_event(event, "edge")


@given(TEXT, TEXT)
def test_a_source_names_who_speaks_without_doubt(domain: str, name: str) -> None:
    assert speaker(source(domain, name)) == (domain, name)


@pytest.mark.parametrize("text", ["/phalanx/edge/%70op1", "/phalanx/edge/a/b", "/phalanx//a", ""])
def test_another_spelling_of_a_source_is_none(text: str) -> None:
    with pytest.raises(EnvelopeError):
        speaker(text)
