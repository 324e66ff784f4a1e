from __future__ import annotations

import random

from fabric_lab import registration
from hypothesis import given
from hypothesis import strategies as st

from phalanx.fabric.directory import RegistryEntry, find
from phalanx.fabric.registration import (
    END_TO_END,
    Appraisal,
    Area,
    Health,
    HealthStatus,
    ServiceState,
    Tier,
)

EDGE = Area(domain="edge")
VIDEO = Area(domain="edge", slice="video")
CACHE = Area(domain="edge", slice="video", function="cache")


def entry(owner: str, trust: Tier = Tier.UNATTESTED, **fields: object) -> RegistryEntry:
    state = fields.setdefault("state", ServiceState.SERVING)
    assert isinstance(state, ServiceState)
    return RegistryEntry(registration(owner, **fields), state, 0.0, True, Appraisal(trust))


def names(entries: list[RegistryEntry], *wanted: str, **fields: Area) -> list[str]:
    return [found.owner for found in find(entries, *wanted, **fields)]  # type: ignore[arg-type]


def test_by_capability() -> None:
    known = [
        entry("a", capabilities=("classifier",)),
        entry("b", capabilities=("limiter", "classifier")),
    ]
    assert names(known, "classifier") == ["a", "b"]
    assert names(known, "limiter") == ["b"]
    assert names(known, "class") == []


def test_by_the_area_that_contains_it_narrowest_first() -> None:
    known = [
        entry("all", area=END_TO_END),
        entry("edge", area=EDGE),
        entry("video", area=VIDEO),
        entry("cache", area=CACHE),
        entry("other", area=Area(domain="edge", slice="voice")),
    ]
    assert names(known, area=VIDEO) == ["video", "edge", "all"]
    assert names(known, area=CACHE) == ["cache", "video", "edge", "all"]
    assert names(known, area=END_TO_END) == ["all"]


def test_what_is_not_to_be_called_is_left_out_and_the_trusted_come_first() -> None:
    known = [
        entry("plain"),
        entry("good", Tier.AFFIRMING),
        entry("bad", Tier.CONTRAINDICATED),
        entry("sick", health=Health(HealthStatus.FAILING, ("no disk",))),
        entry("ending", state=ServiceState.DRAINING),
    ]
    assert names(known) == ["good", "plain"]


def test_the_best_comes_first() -> None:
    known = [
        entry("d", load=0.1, health=Health(HealthStatus.DEGRADED, ("slow",))),
        entry("c"),
        entry("b", load=0.9),
        entry("a", load=0.9),
        entry("e", load=0.2),
    ]
    assert names(known) == ["e", "a", "b", "c", "d"]


@given(st.permutations(range(8)), st.integers(0, 1000))
def test_the_order_depends_on_nothing_else(order: list[int], seed: int) -> None:
    draw = random.Random(seed)
    known = [
        entry(
            f"pop{i}",
            draw.choice(list(Tier)[1:]),
            load=draw.choice((None, 0.1, 0.5)),
            area=draw.choice((END_TO_END, EDGE, VIDEO)),
        )
        for i in range(8)
    ]
    assert find([known[i] for i in order]) == find(known)


PART = st.sampled_from(("", "a", "b"))
SCOPES = st.builds(Area, domain=PART, slice=PART, subslice=PART, function=PART)


@given(SCOPES, SCOPES, SCOPES)
def test_containment_of_scopes_is_an_order(a: Area, b: Area, c: Area) -> None:
    assert a.contains(a)
    assert END_TO_END.contains(a)
    assert not (a.contains(b) and b.contains(a)) or a == b
    assert not (a.contains(b) and b.contains(c)) or a.contains(c)
    assert not a.contains(b) or a.depth <= b.depth


def test_scopes_as_text() -> None:
    assert [str(s) for s in (END_TO_END, EDGE, CACHE)] == [
        "end-to-end",
        "domain:edge",
        "domain:edge/slice:video/function:cache",
    ]
    assert [s.level for s in (END_TO_END, VIDEO, CACHE)] == ["end-to-end", "slice", "function"]
