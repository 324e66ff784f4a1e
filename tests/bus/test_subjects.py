"""Subjects and patterns: names survive, and nobody fits where they should not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phalanx.bus import subjects

NAMES = st.text(min_size=1, max_size=12).filter(
    lambda text: text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") == text
)
PARTS = st.sampled_from(["a", "b", "c"])
SUBJECTS = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(
    lambda parts, tail: ".".join([*parts, *tail]),
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=3),
    st.sampled_from([["a"], ["*"], [">"]]),
)


@given(NAMES)
def test_a_name_comes_back_from_its_token(name: str) -> None:
    token = subjects.token(name)
    assert subjects.name(token) == name
    assert not set(token) & set(".*> \t\r\n")


@given(NAMES, NAMES)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (subjects.token(one) == subjects.token(other)) == (one == other)


@pytest.mark.parametrize("part", ["=4", "=ZZ", "=41", "a.b", "", "=FF"])
def test_what_no_name_was_made_into_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match=r"part of a subject|empty"):
        subjects.name(part)


def test_the_speaker_stands_where_the_kind_says() -> None:
    assert subjects.speaker(subjects.message("edge", "pop2", "pop.1")) == "pop.1"
    assert subjects.speaker(subjects.event("edge", "pop1", "goal.ended")) == "pop1"
    assert subjects.speaker(subjects.call("edge", "history", "find", "operator", "op")) == "op"
    assert subjects.speaker(subjects.announcement("edge", "net", "a.b")) == "net"
    assert subjects.speaker("other.subject") is None
    assert subjects.speaker("phx.edge.call.history") is None


@example((">", "*", "*", ">"))
@given(st.tuples(NAMES, NAMES, NAMES, NAMES))
def test_the_parts_of_a_call_are_read_from_its_subject(parts: tuple[str, str, str, str]) -> None:
    subject = subjects.call("edge", *parts)
    assert subjects.call_parts(subject) == parts
    assert subjects.matches(subjects.calls("edge", parts[0]), subject)
    for other in (
        f"{subject}.x",
        subject.rpartition(".")[0],
        subjects.message("edge", parts[0], "a"),
    ):
        with pytest.raises(ValueError, match="no subject of a call"):
            subjects.call_parts(other)


@given(PATTERNS, SUBJECTS)
def test_a_pattern_covers_the_subjects_that_it_matches(pattern: str, subject: str) -> None:
    assert subjects.covers(pattern, subject) == subjects.matches(pattern, subject)


@given(PATTERNS, PATTERNS, SUBJECTS)
def test_what_is_covered_matches_no_more(wide: str, narrow: str, subject: str) -> None:
    if subjects.covers(wide, narrow) and subjects.matches(narrow, subject):
        assert subjects.matches(wide, subject)


def test_the_rest_stands_for_at_least_one_part() -> None:
    assert subjects.matches("a.>", "a.b.c")
    assert not subjects.matches("a.>", "a")
    assert not subjects.covers("a.*", "a.>")
    assert not subjects.covers("a.b", "a.*")
    assert subjects.covers(">", "a.>")
