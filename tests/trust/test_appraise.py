"""A measurement is affirmed only if all was looked at and all is as listed."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.domain.trust import TrustTier
from phalanx.trust.measurement import (
    Activity,
    MappedObject,
    MeasurementError,
    ModuleReference,
    ProcessMeasurement,
    PythonDetail,
    ReferenceValues,
    appraise,
    version_key,
)

DETAIL = PythonDetail({"f": "c1", "g": "c2"}, {"f": "b1"})
GOOD = ProcessMeasurement(
    "agent", "1.2.0", 7, 100, 10.0, Activity("S", 1.0, 0.0, 30.0, 0.1, progress=5),
    {"/bin/agent": MappedObject("aa")},
    modules={"m": DETAIL.digests()}, details={"m": DETAIL},
)  # fmt: skip
REFERENCE = ReferenceValues(
    "agent", "1.2.0", "1.1.9", {"/bin/agent": ("aa", "ab")},
    {"m": ModuleReference(
        (DETAIL.digests(),), {"f": ("c1",), "g": ("c2",)}, {"f": ("b1",)}, file_code=("c3",))},
)  # fmt: skip


def with_detail(code: dict[str, str], bindings: dict[str, str]) -> ProcessMeasurement:
    detail = PythonDetail(code, bindings)
    return replace(GOOD, modules={"m": detail.digests()}, details={"m": detail})


def activity(**changed: Any) -> ProcessMeasurement:
    return replace(GOOD, activity=replace(GOOD.activity, **changed))


def binary(**changed: Any) -> ProcessMeasurement:
    return replace(GOOD, objects={"/bin/agent": MappedObject(**{"text": "aa", **changed})})


def test_what_is_as_listed_is_affirmed() -> None:
    assert appraise(GOOD, REFERENCE) == (TrustTier.AFFIRMING, ())
    assert appraise(GOOD, REFERENCE, GOOD) == (TrustTier.AFFIRMING, ())


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (binary(text="xx"), "text-altered"),
        (binary(written=1), "page-written"),
        (binary(rewritten=True), "constants-written"),
        (replace(GOOD, objects={"/x.so": MappedObject("aa")}), "object-unlisted"),
        (replace(GOOD, unbacked=("memfd:x",)), "object-unbacked"),
        (replace(GOOD, environment={"LD_PRELOAD": "/x.so"}), "environment"),
        (replace(GOOD, tracer=3), "traced"),
        (replace(GOOD, software="other"), "other-software"),
        (with_detail({"f": "c9", "g": "c2"}, {"f": "b1"}), "code-altered"),
        (with_detail({"f": "c2", "g": "c2"}, {"f": "b1"}), "function-rebound"),
        (with_detail({"f": "c1", "g": "c2"}, {"f": "b9"}), "binding-altered"),
        (with_detail({"f": "c1", "g": "c2"}, {"f": "b1", "h": "b"}), "binding-unlisted"),
        (with_detail({"f": "c1"}, {"f": "b1"}), "binding-missing"),
        (replace(with_detail({"f": "c9"}, {}), details={}), "module-altered"),
        (replace(with_detail({"f": "c9"}, {}), details={"m": DETAIL}), "module-altered"),
        (replace(GOOD, modules={**(GOOD.modules or {}), "evil": DETAIL.digests()}),
         "module-unlisted"),
    ],
)  # fmt: skip
def test_what_was_altered_is_contraindicated(seen: ProcessMeasurement, kind: str) -> None:
    tier, found = appraise(seen, REFERENCE)
    assert tier is TrustTier.CONTRAINDICATED
    assert kind in {deviation.kind for deviation in found}


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (activity(state="T"), "stopped"),
        (activity(still_s=6.0), "stalled"),
        (activity(starved=0.9), "starved"),
        (binary(deleted=True), "object-deleted"),
        (replace(GOOD, core_limit=-1), "core-dumps-allowed"),
    ],
)
def test_what_does_not_run_as_it_should_is_warned_of(seen: ProcessMeasurement, kind: str) -> None:
    tier, found = appraise(seen, REFERENCE)
    assert (tier, [deviation.kind for deviation in found]) == (TrustTier.WARNING, [kind])


def test_an_old_version_is_warned_of() -> None:
    tier, found = appraise(GOOD, replace(REFERENCE, minimum_version="1.10"))
    assert (tier, found[0].kind) == (TrustTier.WARNING, "version-old")
    assert version_key("0.10.1") > version_key("0.9")


def test_two_looks_tell_what_one_cannot() -> None:
    later = replace(GOOD, at_s=20.0)
    kinds = {d.kind for d in appraise(later, REFERENCE, GOOD)[1]}
    assert kinds == {"stalled"}
    waited = replace(activity(progress=9, waiting_s=9.0), at_s=20.0)
    assert {d.kind for d in appraise(waited, REFERENCE, GOOD)[1]} == {"starved"}
    back = replace(activity(progress=1), at_s=11.0)
    assert {d.kind for d in appraise(back, REFERENCE, GOOD)[1]} == {"activity-forged"}
    restarted = replace(activity(progress=1), at_s=11.0, started=101)
    assert appraise(restarted, REFERENCE, GOOD) == (TrustTier.AFFIRMING, ())


@pytest.mark.parametrize(
    "seen",
    [
        replace(GOOD, thin=True),
        replace(GOOD, gaps=("the memory cannot be read",)),
        replace(GOOD, objects={}),
        binary(text=""),
        replace(GOOD, modules=None),
        replace(GOOD, modules={}),
        activity(progress=None),
        activity(still_s=float("nan")),
        activity(starved=float("nan")),
    ],
)
def test_what_was_not_looked_at_is_never_affirmed(seen: ProcessMeasurement) -> None:
    assert appraise(seen, REFERENCE) == (TrustTier.NONE, ())


def test_an_error_is_never_affirmed() -> None:
    tier, found = appraise(replace(GOOD, objects={"/bin/agent": None}), REFERENCE)
    assert (tier, found[0].kind) == (TrustTier.NONE, "appraisal-failed")


def test_a_module_that_binds_names_when_they_are_asked_for_has_at_least_its_own() -> None:
    """``f`` is of another module and may come later; ``g`` is its own and was bound at once."""
    code = {"__getattr__": ("c0",), "f": ("c1",), "g": ("c2",)}
    lazy = ModuleReference((DETAIL.digests(),), code, {})
    listed = {"m": lazy, "other": ModuleReference(code={"f": ("c1",)})}
    reference = replace(REFERENCE, modules=listed)
    assert appraise(with_detail({"__getattr__": "c0", "g": "c2"}, {}), reference)[1] == ()
    tier, found = appraise(with_detail({"__getattr__": "c0"}, {}), reference)
    assert (tier, [d.where for d in found]) == (TrustTier.CONTRAINDICATED, ["m.g"])


def test_modules_known_from_their_files_alone_may_have_the_code_of_these() -> None:
    listed = {"m": ModuleReference(file_code=("c1", "c2"))}
    reference = replace(REFERENCE, modules=listed)
    assert appraise(GOOD, reference) == (TrustTier.AFFIRMING, ())
    assert appraise(with_detail({"f": "c3"}, {}), reference)[1][0].kind == "code-altered"
    assert appraise(replace(GOOD, details={}), reference)[1][0].kind == "module-altered"


def test_measurements_and_references_travel() -> None:
    assert ProcessMeasurement.decode(GOOD.encode()) == GOOD
    assert ReferenceValues.decode(REFERENCE.encode()) == REFERENCE
    assert REFERENCE.digest() == replace(REFERENCE).digest()
    assert REFERENCE.digest() != replace(REFERENCE, stall_s=6.0).digest()


@given(st.binary(max_size=60) | st.integers(0, 400), st.binary(max_size=3))
def test_no_octets_are_affirmed_that_are_not_the_measurement(cut: Any, put: bytes) -> None:
    whole = GOOD.encode()
    octets = cut if isinstance(cut, bytes) else whole[:cut] + put + whole[cut + 1 :]
    try:
        seen = ProcessMeasurement.decode(octets)
    except MeasurementError:
        return
    tier, _ = appraise(seen, REFERENCE)
    if tier is TrustTier.AFFIRMING:  # only figures that nothing is expected of have changed
        fields = msgspec.structs.asdict(seen)
        for name in ("software", "version", "objects", "modules", "unbacked", "environment"):
            assert fields[name] == getattr(GOOD, name)
