"""CloudEvents: round trips, the examples of the specification, and octets from anybody."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from phalanx.domain.events import Event
from phalanx.fabric.envelope import (
    Envelope,
    EnvelopeError,
    format_time,
    from_event,
    from_headers,
    from_json,
    kind_of,
    parse_time,
    source,
    speaker,
    to_event,
    to_headers,
    to_json,
)

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
ATTRIBUTES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20).filter(
    lambda name: (
        name
        not in {"specversion", "id", "source", "type", "time", "subject", "datacontenttype"}
        | {"dataschema", "data"}
    )
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ENVELOPES = st.builds(
    Envelope,
    id=TEXT,
    source=TEXT,
    type=TEXT,
    time=st.none() | st.floats(0, 4e9).map(format_time),
    subject=st.none() | TEXT,
    data=st.just(Raw()) | JSONS.map(lambda value: Raw(msgspec.json.encode(value))),
    extensions=st.dictionaries(
        ATTRIBUTES, TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1), max_size=4
    ),
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


@given(ENVELOPES)
def test_structured_mode_keeps_everything(envelope: Envelope) -> None:
    found = from_json(to_json(envelope))
    assert bytes(found.data) == bytes(envelope.data)
    assert msgspec.structs.replace(found, data=envelope.data) == envelope
    assert json.loads(to_json(envelope))["specversion"] == "1.0"


@given(ENVELOPES)
def test_binary_mode_keeps_everything_as_text(envelope: Envelope) -> None:
    headers = to_headers(envelope)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert not any(sign in value for value in headers.values() for sign in ' "')
    found = from_headers({name.upper(): value for name, value in headers.items()}, envelope.data)
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in envelope.extensions.items()
    }
    assert msgspec.structs.replace(found, data=Raw()) == msgspec.structs.replace(
        envelope, extensions=texts, data=Raw()
    )


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
    assert envelope.subject is None
    assert envelope.extensions == {"comexampleextension1": "value", "comexampleothervalue": 5}
    assert msgspec.json.decode(envelope.data)["appinfoB"] == 123
    with pytest.raises(EnvelopeError, match="not as phalanx"):
        kind_of(envelope)
    with pytest.raises(EnvelopeError, match="not as /phalanx"):
        speaker(envelope.source)


def test_header_values_are_escaped_as_the_specification_shows() -> None:
    """HTTP binding 3.1.3.2: its example, Euro € 😀."""
    envelope = Envelope("1", "/s", "t", subject="Euro € 😀")
    assert to_headers(envelope)["ce-subject"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert from_headers(to_headers(envelope), b"").subject == "Euro € 😀"


GOOD: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (GOOD | {"specversion": "0.3"}, "specversion must be '1.0'"),
        ({k: v for k, v in GOOD.items() if k != "id"}, "id is missing"),
        (GOOD | {"id": ""}, "id is empty"),
        (GOOD | {"id": 5}, "id must be text"),
        (GOOD | {"subject": ""}, "subject is empty"),
        (GOOD | {"time": "yesterday"}, "not as in RFC 3339"),
        (GOOD | {"time": "2023-02-30T00:00:00Z"}, "not as in RFC 3339"),
        (GOOD | {"time": "2023-02-20T00:00:00"}, "not as in RFC 3339"),
        (GOOD | {"Cause": "x"}, "'Cause' is no name of an extension"),
        (GOOD | {"a" * 21: "x"}, "is no name of an extension"),
        (GOOD | {"cause": 1.5}, "no envelope"),
        (GOOD | {"cause": {}}, "no envelope"),
        (GOOD | {"cause": 2**31}, "32 bits"),
        (GOOD | {"cause": "a\nb"}, "no attribute may have"),
        (GOOD | {"datacontenttype": "text/xml", "data": "x"}, "only application/json"),
        (GOOD | {"data_base64": "AAAA"}, "data_base64 is not read here"),
        ([], "no envelope"),
    ],
)
def test_what_is_no_envelope_is_refused_in_one_line(fields: object, said: str) -> None:
    with pytest.raises(EnvelopeError, match=said) as caught:
        from_json(json.dumps(fields).encode())
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300) | JSONS.map(msgspec.json.encode))
def test_any_octets_are_an_envelope_or_one_line(octets: bytes) -> None:
    said = ""
    try:
        from_json(octets)
    except EnvelopeError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 200


@given(EVENTS, st.data())
def test_an_altered_event_is_one_or_one_line(event: Event, data: st.DataObject) -> None:
    octets = bytearray(to_json(from_event(event, "edge")))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    said = ""
    try:
        to_event(from_json(bytes(octets)))
    except EnvelopeError as error:
        said = str(error)
    assert "\n" not in said


@given(st.dictionaries(st.sampled_from(("ce-id", "ce-type", "ce-source", "x", "ce-")), st.text()))
def test_any_headers_are_an_envelope_or_one_line(headers: dict[str, str]) -> None:
    said = ""
    try:
        from_headers(headers | {"ce-specversion": "1.0"}, b"")
    except EnvelopeError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    octets = json.dumps(GOOD).encode()[:-1] + b',"data":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(EnvelopeError):
        from_json(octets)


def test_too_long_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="octets"):
        from_json(b" " * (1 << 21))
    with pytest.raises(EnvelopeError, match="octets"):
        to_json(Envelope("1", "/s", "t", data=Raw(b'"' + b"x" * (1 << 20) + b'"')))


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


@given(st.floats(0, 4e9))
def test_times_keep_their_microseconds(seconds: float) -> None:
    assert abs(parse_time(format_time(seconds)) - seconds) < 2e-6


def test_times_in_other_zones_and_lengths() -> None:
    assert parse_time("1970-01-01T01:00:00.5+01:00") == 0.5
    assert parse_time("1970-01-01t00:00:01.123456789z") == pytest.approx(1.123456)
