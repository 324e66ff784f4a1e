"""Slices as data, the loops that follow from them, and what each of these may know."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.domain.agents import SCOPES, Loop
from phalanx.domain.network import Host
from phalanx.slices.model import (
    LoopIndex,
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
    loops_of,
    slice_offences,
)
from tests.slices.descriptors import HOSTS, slices_specs

RAN = NetworkSliceSubnet("ran", "RAN", ("gnb1", "gnb2"))
CORE = NetworkSliceSubnet("core", "CN", ("amf", "smf"))
FUNCTIONS = (
    ManagedFunction("gnb1", "gNB", "cell1", "PNF"),
    ManagedFunction("gnb2", "gNB", "cell2", "PNF"),
    ManagedFunction("amf", "AMF", "dc"),
    ManagedFunction("smf", "SMF", "dc"),
)
ONE = NetworkSlice("iot", SNssai(3, "00002a"), ("ran", "core"))
SPEC = SlicesSpec(FUNCTIONS, (RAN, CORE), (ONE,))


def loops(spec: SlicesSpec) -> dict[str, Loop]:
    return {loop.name: loop for loop in loops_of(spec)}


def offences(spec: SlicesSpec) -> list[tuple[str, str]]:
    return list(slice_offences(spec, {}))


def two(*, sharing: tuple[str, str], precedence: tuple[str, ...] = ()) -> SlicesSpec:
    """Return two slices with a RAN each, and one core."""
    other = NetworkSliceSubnet("ran2", "RAN", ("gnb2",))
    first = NetworkSlice("iot", SNssai(3), ("ran", "core"), sharing[0])
    second = NetworkSlice("video", SNssai(1), ("ran2", "core"), sharing[1], precedence)
    ran = replace(RAN, functions=("gnb1",))
    return SlicesSpec(FUNCTIONS, (ran, other, CORE), (first, second))


def test_each_part_has_a_loop_and_each_domain_a_manager() -> None:
    hosts = [Host("dc", "pop6", "10.0.6.10", 6.0), Host("cell1", "pop1", "10.0.1.1", 6.0)]
    found = {loop.name: loop for loop in loops_of(SPEC, hosts)}
    assert list(found) == [
        *("domain-CN", "domain-RAN", "e2e", "nsi-iot", "nssi-core", "nssi-ran"),
        *("sem-amf", "sem-gnb1", "sem-gnb2", "sem-smf"),
    ]
    amf = found["sem-amf"]
    assert (amf.scope, amf.kind, amf.pop, amf.address) == (
        *("network-function", "AMF", "pop6", "10.0.6.10"),
    )
    assert (amf.above, amf.beside, amf.managers) == (("nssi-core",), ("sem-smf",), ("domain-CN",))
    assert found["sem-gnb2"].pop is None
    core = found["nssi-core"]
    assert (core.above, core.beside) == (("nsi-iot",), ("nssi-ran",))
    assert core.below == ("sem-amf", "sem-smf")
    assert found["nsi-iot"].managers == ("domain-CN", "domain-RAN", "e2e")
    assert not found["nsi-iot"].above
    assert not found["e2e"].below


def test_what_all_slices_share_is_looked_after_once() -> None:
    found = loops(two(sharing=("shared", "shared")))
    assert found["sem-amf"].slices == ("iot", "video")
    assert found["nssi-core"].above == ("nsi-iot", "nsi-video")
    assert found["nssi-core"].beside == ("nssi-ran", "nssi-ran2")


@pytest.mark.parametrize("sharing", [("shared", "non-shared"), ("non-shared", "shared")])
def test_a_part_of_a_slice_that_does_not_share_is_no_others(sharing: tuple[str, str]) -> None:
    alone = ("iot", "video")[sharing.index("non-shared")]
    found = offences(two(sharing=sharing))
    assert [path for path, _ in found] == [
        *("subnets[2].name", "functions[2].name", "functions[3].name"),
    ]
    assert all(f"used by {alone}, which is non-shared" in why for _, why in found)


def test_slices_that_share_agree_on_the_precedence() -> None:
    (found, *_) = offences(two(sharing=("shared", "shared"), precedence=("scale",)))
    assert found == ("subnets[2].name", "the slices that share 'core' differ in precedence")


def test_one_slice_may_list_a_function_in_two_subnets() -> None:
    both = SlicesSpec(FUNCTIONS, (RAN, replace(CORE, functions=("amf", "smf", "gnb1"))), (ONE,))
    assert offences(both) == []
    assert loops(both)["sem-gnb1"].above == ("nssi-core", "nssi-ran")


LONG = "n" * 60


@pytest.mark.parametrize(
    ("spec", "path", "why"),
    [
        (replace(SPEC, functions=FUNCTIONS + FUNCTIONS[:1]), "functions[4].name", "already that"),
        (replace(SPEC, slices=(replace(ONE, name="ran"),)), "slices[0].name", "taken (subnets)"),
        (replace(SPEC, slices=(replace(ONE, name="CN"),)), "slices[0].name", "taken (a domain)"),
        (replace(SPEC, slices=(replace(ONE, name="e2e"),)), "slices[0].name", "taken (the manager"),
        (replace(SPEC, slices=(replace(ONE, name=LONG + "x"),)), "slices[0].name", "64 signs"),
        (replace(SPEC, subnets=(replace(RAN, functions=("ran",)), CORE)), "", "is of subnets"),
        (replace(SPEC, subnets=(RAN, replace(CORE, functions=("amff",)))), "", "did you mean 'amf"),
        (replace(SPEC, subnets=(RAN, replace(CORE, functions=("amf",)))), "", "no slice uses 'smf"),
        (replace(SPEC, slices=(replace(ONE, subnets=("core",)),)), "", "no slice uses 'ran'"),
        (replace(SPEC, slices=(replace(ONE, subnets=("ran", "core", "ran")),)), "", "already that"),
        (replace(SPEC, slices=(replace(ONE, subnets=("iot",)),)), "", "iot is of slices"),
        (
            replace(SPEC, slices=(replace(ONE, precedence=("scale", "scale")),)),
            "slices[0].precedence[1]",
            "already that",
        ),
    ],
)
def test_what_does_not_fit_together_is_an_offence(spec: SlicesSpec, path: str, why: str) -> None:
    found = offences(spec)
    assert any(place.startswith(path) and why in words for place, words in found), found


@pytest.mark.parametrize("name", ["sem-amf", "nssi-ran", "nsi-iot", "domain-CN", "e2e"])
def test_a_loop_takes_no_name_of_others(name: str) -> None:
    found = list(slice_offences(SPEC, {name: "a PoP"}))
    assert found
    assert all("a PoP" in why for _, why in found)


@given(slices_specs())
def test_relations_are_mutual_and_within_a_slice(spec: SlicesSpec) -> None:
    assert offences(spec) == []
    found = loops(spec)
    assert list(found) == sorted(found)
    assert loops_of(spec) == loops_of(spec)
    for loop in found.values():
        assert loop.scope in SCOPES
        for relation, back in (("above", "below"), ("below", "above"), ("beside", "beside")):
            for other in getattr(loop, relation):
                assert loop.name in getattr(found[other], back)
                assert {*loop.slices} & {*found[other].slices}
        assert loop.name not in loop.beside
        assert {*loop.managers} <= found.keys()


@given(slices_specs(), st.permutations(range(3)))
def test_the_order_of_a_descriptor_does_not_matter(spec: SlicesSpec, order: list[int]) -> None:
    parts = [spec.functions[::-1], spec.subnets[::-1], spec.slices[::-1]]
    chosen = [
        each if index in order[:2] else was
        for index, (each, was) in enumerate(
            zip(parts, (spec.functions, spec.subnets, spec.slices), strict=True)
        )
    ]
    assert loops_of(SlicesSpec(*chosen)) == loops_of(spec)


def words(loop: Loop) -> Iterator[str]:
    yield from (loop.name, loop.entity, *loop.slices)
    yield from (*loop.above, *loop.below, *loop.beside, *loop.managers)


@given(slices_specs())
def test_a_loop_knows_of_nothing_that_has_no_slice_in_common_with_it(spec: SlicesSpec) -> None:
    index = LoopIndex(loops_of(spec, [Host(name, "pop1", "10.0.1.1", 1.0) for name in HOSTS]))
    assert index.known_to("pop1") is index.all
    assert index.known_to("e2e") is index.all
    for name, mine in index.all.items():
        if name == "e2e":
            continue
        known = index.known_to(name)
        assert known[name] == mine
        secret = {each.name for each in spec.slices} - {*mine.slices}
        for other in index.all.values():
            if not {*other.slices} & {*mine.slices}:
                secret |= {other.name, other.entity}
        assert not secret & {word for loop in known.values() for word in words(loop)}
