"""Words for events: plain, on one line, and never an error."""

from __future__ import annotations

from typing import Any

import pytest
from ddos_log import ddos_log
from hypothesis import given
from hypothesis import strategies as st

from phalanx.domain.events import Event
from phalanx.reporting.event_text import IMPORTANT, KINDS, describe


def words(kind: str, **data: Any) -> str:
    return describe(Event("e-1", 1.0, "pop1", kind, None, data))


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (
            "auction.called",
            {"goal": "flowRecord(1.2.3.4)", "traffic_mb_s": 2.0, "tap": "pop6", "bidders": 6},
            "calls for proposals: flowRecord(1.2.3.4), 2 MB/s of traffic, taken at pop6, 6 bidders",
        ),
        (
            "auction.awarded",
            {
                "goal": "g",
                "winner": "b",
                "ranking": [
                    {"agent": "b", "vnf": "v", "units": 2, "T": 0, "C": 1.5, "D": 3, "utility": 0},
                    {"agent": "a", "utility": 1},
                ],
            },
            "awards g to b (v × 2, T 0 s, C 1.5 MB/s, D 3 ms; utility 0, best of 2)",
        ),
        ("auction.refused", {"goal": "g", "reason": "full"}, "cannot bid for g: full"),
        (
            "attestation.result",
            {
                "attester": "a",
                "tier": "warning",
                "deviations": ["stopped"],
                "root": "tpm",
                "activity": {"state": "T", "memory_mb": 74.5, "starved": 0.0},
            },
            "finds a genuine, but not well (its tpm vouches): stopped; it has 74.5 MB",
        ),
        ("belief.changed", {"belief": "b", "value": True}, "believes b"),
        ("belief.changed", {"belief": "b", "value": False}, "believes ¬b"),
        ("belief.changed", {"belief": "b", "value": None}, "forgets b"),
        (
            "measure.applied",
            {"effect": "flowRateLimited(a, b)", "pop": "p", "rate_mb_s": 0.0},
            "flowRateLimited(a, b) is in force at p: nothing passes",
        ),
        (
            "measure.applied",
            {"effect": "splitTrafficTowardsIp(a)", "pop": "p", "rate_mb_s": 0, "parts": 2},
            "splitTrafficTowardsIp(a) is in force at p, in 2 parts",
        ),
        ("measure.lifted", {"effect": "x", "pop": "p", "reason": "lifted"}, "x at p is lifted"),
        (
            "instance.started",
            {"vnf": "v", "version": "1", "pop": "p", "instance": "i", "units": 1, "cores": 2},
            "v 1 runs at p as i: 1 unit, 2 cores",
        ),
        (
            "instance.downloading",
            {"vnf": "v", "image_mb": 500.0, "pop": "p", "path": ["a", "b", "p"]},
            "v (500 MB) is on its way to p over a → b → p",
        ),
        (
            "chain.opened",
            {"purpose": "mirror", "instance": "i", "path": ["a", "b"], "mb_s": 4.0},
            "traffic is mirrored to i over a → b, 4 MB/s reserved",
        ),
        (
            "resources.changed",
            {"pop": "p", "free": {"cores": 1, "memory_gb": 2, "disk_gb": 3}},
            "p has free: 1 core, 2 GB memory and 3 GB disk",
        ),
        ("analysis.done", {"goal": "g", "flows": 3, "found": ["x"]}, "3 flows for g; finds x"),
        ("analysis.done", {"goal": "g", "flows": 1, "found": []}, "1 flow for g; finds nothing"),
        ("link.changed", {"link": "a>b", "up": False}, "link a>b is down"),
        ("own.kind", {"x": 1}, "own.kind: x 1"),
        ("own.kind", {}, "own.kind"),
    ],
)
def test_what_is_said(kind: str, data: dict[str, Any], said: str) -> None:
    assert said in words(kind, **data)


def test_every_kind_of_event_has_words_of_its_own() -> None:
    for kind in KINDS:
        assert words(kind)
        assert not words(kind).startswith(kind), kind
    assert IMPORTANT - set(KINDS) <= {"repository.changed"}


def test_a_whole_log_is_told_without_gaps() -> None:
    for event in ddos_log(until=250):
        line = describe(event)
        assert line.isprintable()
        assert len(line) <= 240
        assert "?" not in line.replace("?anomalousUsage", "").replace("?flowRecord", ""), line


def test_hostile_data_stays_on_one_line_without_control_characters() -> None:
    line = words("goal.ended", goal="a\nb\x1b[31m", outcome="x\r\0")
    assert line.isprintable()
    assert len(words("goal.ended", goal="x" * 9999, outcome="y")) == 240


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["goal", "pop", "bids", "ranking", "winner", "hosts", "free", "path", "found", "units", "value"]
)


@given(st.sampled_from([*KINDS, "other"]), st.dictionaries(FIELDS, JSON, max_size=5))
def test_no_data_is_an_error(kind: str, data: dict[str, Any]) -> None:
    line = words(kind, **data)
    assert line.isprintable()
    assert len(line) <= 240
