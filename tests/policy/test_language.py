"""The language of intents: what sentences mean, what is said back, and what is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.policy import intents as kinds
from phalanx.policy import language
from phalanx.policy.intents import (
    AccessIntent,
    AvailabilityIntent,
    DelayIntent,
    EncryptionIntent,
    IntentSet,
    IsolationIntent,
    RateIntent,
    TransportPorts,
    named,
)
from phalanx.policy.language import page_of, parse_document, parse_page, said
from phalanx.policy.rules import PortRange, RuleSchedule
from phalanx.policy.tmf921 import parse_tmf921, to_tmf921
from tests.mutations import mutated
from tests.nightly import examples
from tests.one_line import taken_or_refused
from tests.policy.intent_values import MEMBERS, intents

FEW = settings(max_examples=examples(10), suppress_health_check=list(HealthCheck), deadline=None)
PAGE = """# What the city wants.
Cameras have the addresses 10.1.0.0/16.
Slice cameras is isolated from every other slice; its traffic is encrypted; 99.95 % available;
patches within 24 h.

iot: only servers may reach sensors on tcp port 443 between 08:00 and 18:00 on weekdays.
Servers may send at most 80 Mbit/s to cameras
"""
WEEK = RuleSchedule((0, 1, 2, 3, 4), 480, 1080)


def read(text: str, *slices: str) -> tuple[Any, ...]:
    """Return what a page means, without names."""
    found = parse_page(text, "f.txt", slices or None).intents
    return tuple(replace(each, name="") for each in found)


def test_a_page_of_plain_sentences_means_what_it_says() -> None:
    found = parse_page(PAGE, "folder/city.txt")
    assert found.name == "city"
    assert found.members == {"cameras": ("10.1.0.0/16",)}
    web = (TransportPorts("tcp", (PortRange(443, 443),)),)
    assert found.intents == (
        IsolationIntent(name="cameras-isolation", slice="cameras"),
        EncryptionIntent(name="cameras-encryption", slice="cameras"),
        AvailabilityIntent(name="cameras-availability", slice="cameras", at_least=0.9995),
        DelayIntent(name="cameras-patch", slice="cameras", of="patch", within_s=86_400.0),
        AccessIntent(
            name="iot",
            sources=("servers",),
            targets=("sensors",),
            services=web,
            effect="only",
            schedule=WEEK,
        ),
        RateIntent(
            name="servers-to-cameras",
            sources=("servers",),
            targets=("cameras",),
            at_most_mb_s=10.0,
        ),
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("slice a is isolated from b", "packets from slice b must not reach slice a"),
        ("a and b are isolated from each other", "a is isolated from b. b is isolated from a"),
        ("a's availability is at least 99 %", "a is available 0.99"),
        ("all traffic of a must be encrypted", "a is encrypted"),
        ("A is encrypted and isolated from B", "a is encrypted; it is isolated from b"),
        ("functions of a are kept only in FI", "a stays in FI"),
        ("patches of a within 1 day", "a must be patched within 1440 min"),
        (
            "a has at most 4 GTP tunnels per subscriber",
            "a has at most 4 gtp tunnels for each subscriber",
        ),
        (
            "b may not reach a on udp port 53 to 54",
            "packets from b to a on udp port 53-54 must be dropped",
        ),
        ("b may send 8 Mbit/s to a", "b may send at most 0.001 GB/s to a"),
        ("b may reach a on sunday to tuesday", "b may reach a on sundays and mondays and tuesdays"),
        ("b may reach a between 22:00 and 0:00", "b may reach a between 22:00 and 24:00 utc"),
        ('slice "from" is encrypted', 'traffic of "from" is encrypted'),
        (
            "10.0.0.0/8 belongs to a. isolation between a and b",
            "a and b are isolated from each other",
        ),
        ("a stays in FI; users are revoked within 5 s", "a is located in FI; revoked within 5 s"),
        ("a must not reach b from 08:00 to 18:00", "a may not reach b between 8:00 and 18:00"),
        ("traffic from b to a is limited to 8 MB/s", "b can send at most 8 MB/s to a"),
        ("a is encrypted; security analysis every 5 s", "a is encrypted; it is analysed every 5 s"),
        ("a is encrypted, otherwise notify", "a is encrypted or else notify"),
    ],
)
def test_different_words_mean_the_same(one: str, other: str) -> None:
    assert read(one) == read(other)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "slice cameras is isolatd from b",
            "'isolatd' is not expected here; did you mean 'isolated'",
        ),
        ("Patces within 24 h", "did you mean 'patches'"),
        (
            "a is encrypted. its trafic is encrypted",
            "line 1: 'trafic' is not expected here; did you mean 'traffic'",
        ),
        ("\n\na is", "line 3: the sentence ends too soon"),
        ("patches within 24 h", "none is named before"),
        ("a and b are encrypted; it is 99 % available", "it can be a or b"),
        ("a is patched within 24 MB/s", "'24 MB/s' is a rate; a time is expected here (days"),
        ("a is 99 h available", "'99 h' is a time; a share is expected"),
        ("a is patched within 24 m", "two meanings; write min"),
        ("b may send at most 8 Mb/s to a", "write MB/s or Mbit/s"),
        ("a is patched within 24", "has no unit"),
        ("a is patched within 24 hurs", "did you mean '24 hours'"),
        ("a is 120 % available", "expected a number from 0 to 1"),
        ("slice from is encrypted", "a word of the language stands in quotes"),
        ("a is isolated, or else encrypt", "allowed are notify, log, reject"),
        ("b may reach 10.0.0.1/8", "no IPv4 or IPv6 prefix"),
        ("b may reach a between 25:00 and 26:00", "25:00 is no time of a day"),
        ("b may reach a on tcp port 70000", "65535"),
        ("b may reach a on tcp port 90-80", "above its last"),
        ("b may reach a on icmp port 8", "ports need the protocol"),
        ("only b may not reach a", "not clear"),
        ("a is encrypted. x: a is encrypted. x: b is encrypted", "that of another intent"),
        ("every slice is encrypted", "which slices there are is not known"),
        ("slice c\u0430meras is encrypted", "U+0430 (CYRILLIC SMALL LETTER A)"),
        ("slice ca\u202emeras is encrypted", "U+202E (RIGHT-TO-LEFT OVERRIDE) cannot be seen"),
        ("slice \u043e\u0441\u043e is encrypted", "U+043E (CYRILLIC SMALL LETTER O)"),
        ("a is encrypted \u200b", "U+200B"),
        ("a is isolated from b" + " and b" * 1000, "at most 1000 are allowed"),
        ("a has the addresses 10.1.0.0/8", "members of a: '10.1.0.0/8' is no IPv4 or IPv6 prefix"),
        ("a has the addresses 300.1.1.1", "'300.1.1.1' is no IPv4"),
        ("# nothing", "no sentence"),
    ],
)
def test_what_is_not_clear_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        parse_page(text, "f.txt")
    said_ = str(refused.value)
    assert said_.startswith("f.txt: ")
    assert why in said_
    assert said_.isprintable()


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("a is isolated from b and c except 10.0.0.0/8", 2),
        ("a is isolated from b except 10.0.0.0/8 and c", 2),
        ("a is isolated from b and c except d and e", 3),
        ("b may reach a and c on tcp port 443", 2),
        ("b may not reach a and c on weekends", 2),
    ],
)
def test_a_sentence_with_two_readings_is_refused_with_both(text: str, ways: int) -> None:
    with pytest.raises(ScenarioError, match=f"can be read in {ways} ways") as refused:
        parse_page(text, "f.txt")
    readings = str(refused.value).split("write one: ")[1]
    clauses = [each.strip(" ,") for each in readings.split("(")[1:]]
    meant = {read(each.split(") ", 1)[1]) for each in clauses}
    assert len(meant) == ways  # each reading can be written, and they differ


def test_a_comma_ties_what_follows_to_everything_before_it() -> None:
    assert read("a is isolated from b and c, except d and e") == (
        IsolationIntent(slice="a", sources=("b", "c"), allowed=("d", "e")),
    )
    (web,) = read("b may reach a and c, on tcp port 443 on weekdays")
    assert web.targets == ("a", "c")
    assert web.services
    assert read("a is isolated from every other slice except b and c") == (
        IsolationIntent(slice="a", allowed=("b", "c")),
    )


def test_every_slice_of_a_scenario_is_meant_at_once() -> None:
    meant = read("Network slices should be strictly isolated from other slices", "a", "b")
    assert meant == (IsolationIntent(slice="a"), IsolationIntent(slice="b"))


def test_names_are_those_of_the_scenario_in_any_letters() -> None:
    assert read("CAMERAS is encrypted", "Cameras")[0].slice == "Cameras"
    assert [x.slice for x in read("every slice is encrypted", "b", "a")] == ["a", "b"]
    with pytest.raises(ScenarioError, match="no slice 'camers'; did you mean 'Cameras'"):
        read("camers is encrypted", "Cameras")
    with pytest.raises(ScenarioError, match="can be CAM or Cam"):
        read("cam is encrypted", "CAM", "Cam")
    assert read('"Cam" is encrypted', "CAM", "Cam")[0].slice == "Cam"


@FEW
@given(st.lists(intents(), min_size=1, max_size=3))
def test_what_is_said_back_means_the_same_in_every_form(drawn: list[Any]) -> None:
    whole = IntentSet(
        name="x", intents=tuple(named(drawn)), members={"cameras": MEMBERS["cameras"]}
    )
    assert parse_page(page_of(whole), "x.txt") == whole
    plain = to_builtins(whole)
    assert parse_document(yaml.safe_dump(_lists(plain)), "x.yaml") == whole
    sentences = {**plain, "intents": [f"{each.name}: {said(each)}" for each in whole.intents]}
    assert parse_document(yaml.safe_dump(_lists(sentences)), "x.yaml") == whole
    assert parse_tmf921(to_tmf921(whole), "x.json") == whole


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(each) for key, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value


DOCUMENT = """name: city
intents:
  - slice cameras is isolated from every other slice
  - its traffic is encrypted
  - {kind: delay, slice: cameras, of: patch, within_s: 86400, penalty: {credit: 0.05}}
  - {kind: access, effect: only, sources: [servers], targets: [10.0.0.0/8],
     services: [{protocol: tcp, ports: [[443, 443]]}]}
members: {cameras: [10.1.0.0/16]}
"""


def test_a_document_mixes_sentences_and_mappings() -> None:
    found = parse_document(DOCUMENT, "city.yaml")
    assert [each.name for each in found.intents] == [
        "cameras-isolation",
        "cameras-encryption",
        "cameras-patch",
        "servers-to-10-0-0-0-8",
    ]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "kind: delay",
            "kind: dely",
            "intents[2].kind (line 5): 'dely' is not allowed; expected one of isolation",
        ),
        (
            "within_s: 86400",
            "within_s: 24 h",
            "expected a number of seconds above 0 to 1e9, without a unit",
        ),
        ("within_s: 86400", "wthin_s: 86400", "unknown field; did you mean 'within_s'"),
        (", within_s: 86400", "", "intents[2].within_s (line 5): missing"),
        ("its traffic", "its trafic", "intents[1] (line 4): 'trafic' is not expected here"),
        ("[443, 443]", "[443, 4430000]", "65535"),
        ("cameras: [10", "cameras: &a [10", "anchors and aliases"),
        (
            "cameras: [10.1.0.0/16",
            "cameras: [10.1.0.0/8",
            "members (line 8): members of cameras: '10.1.0.0/8' is no",
        ),
        ("10.0.0.0/8]", "10.0.0.1/8]", "intents[3] (line 6): targets[0]: '10.0.0.1/8' is no IPv4"),
        ("cameras, of", "c\u0430meras, of", "U+0430"),
        ("name: city", "name: " + "[" * 200, "nested"),
    ],
)
def test_what_is_wrong_in_a_document_is_one_line(old: str, new: str, why: str) -> None:
    assert old in DOCUMENT
    with pytest.raises(ScenarioError) as refused:
        parse_document(DOCUMENT.replace(old, new, 1), "f.yaml")
    assert why in str(refused.value)


@pytest.mark.parametrize("reader", [parse_page, parse_document, parse_tmf921])
@settings(max_examples=examples(8), deadline=None)
@given(st.data())
def test_damaged_text_is_taken_or_refused_in_one_line(reader: Any, data: st.DataObject) -> None:
    good = {parse_page: PAGE, parse_document: DOCUMENT}.get(reader) or tmf921()
    at = data.draw(st.integers(0, len(good)))
    until = at + data.draw(st.integers(0, 30))
    text = good[:at] + data.draw(st.text(max_size=20)) + good[until:]
    taken_or_refused(ScenarioError, lambda: reader(text, "f.txt"), 2_500)


@cache
def tmf921() -> str:
    """Return the page as an operator's system sends it: only who runs such a test reads it."""
    return to_tmf921(parse_page(PAGE, "city.txt"))


@FEW
@given(mutated(yaml.safe_load(DOCUMENT)))
def test_changed_documents_are_taken_or_refused_in_one_line(tree: Any) -> None:
    text = yaml.safe_dump(tree)
    taken_or_refused(ScenarioError, lambda: parse_document(text, "f.yaml"), 2_500)


def test_what_takes_too_long_to_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "MOST_INTENTS", 3)
    with pytest.raises(ScenarioError, match="line 4: there are more than 3 intents"):
        parse_page("".join(f"slice s{n} is encrypted.\n" for n in range(4)), "f.txt")
    monkeypatch.setattr(language, "MOST_SIGNS", 60)
    with pytest.raises(ScenarioError, match="line 3: there are more than 60 signs"):
        parse_page("".join(f"slice s{n} is encrypted.\n" for n in range(4)), "f.txt")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            '"icm:PropertyExpectation"',
            '"icm:ReportingExpectation"',
            "'icm:ReportingExpectation' is not allowed; expected one of",
        ),
        ('"JsonLdExpression"', '"TurtleExpression"', "expected one of JsonLdExpression"),
        ('"name": "city"', '"name": "city", "validFor": {}', "validFor (line 3): unknown field"),
        ('"phalanx:slice/cameras"\n', '"phalanx:slice/x"\n', "but is about phalanx:slice/cameras"),
        (
            'IntentCommonModel/",\n    "ph',
            'Other/",\n    "ph',
            "icm has to be the Intent Common Model",
        ),
        ('"@id": "phalanx:iot"\n', '"@id": "phalanx:it"\n', "lists each expectation once"),
    ],
)
def test_what_a_resource_says_beside_the_subset_is_refused_by_name(old, new, why) -> None:
    assert old in tmf921()
    with pytest.raises(ScenarioError) as refused:
        parse_tmf921(tmf921().replace(old, new), "f.json")
    assert why in str(refused.value)
