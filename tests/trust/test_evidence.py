"""Evidence that is not what was asked for is none, whatever is wrong with it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.domain.trust import Evidence, TrustTier
from phalanx.trust.evidence import Enrolment, RepositoryFolder, public, signed, verify
from phalanx.trust.measurement import Activity, MappedObject, ProcessMeasurement, ReferenceValues

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))
TEXT = sha256(b"text").hexdigest()
REFERENCE = ReferenceValues("agent", "1.0", objects={"agent": (TEXT,)}, counts=False)
ENROLMENT = Enrolment("pop1", "agent 1.0", REFERENCE.digest(), public(KEY))
NONCE = "5a" * 16


def measured(text: str = TEXT) -> bytes:
    activity = Activity("S", 1.0, 0.0, 0.0, 0.0)
    seen = ProcessMeasurement("agent", "1.0", 1, 0, 0.0, activity, {"agent": MappedObject(text)})
    return seen.encode()


def evidence(**changes: object) -> Evidence:
    plain = Evidence("pop1", NONCE, "agent 1.0", measured(), modelled=False)
    return signed(replace(plain, **changes), KEY)


class Kept:
    """A repository of one agent."""

    def __init__(self, enrolment: Enrolment | None, values: ReferenceValues | None) -> None:
        self.get = lambda _: enrolment
        self.values = lambda _: values


def tier(
    shown: Evidence,
    enrolment: Enrolment | None = ENROLMENT,
    values: ReferenceValues | None = REFERENCE,
) -> TrustTier:
    kept = Kept(enrolment, values)
    found, deviations, _ = verify(shown, NONCE, "pop1", ENROLMENT.digest(), kept)
    assert (found is TrustTier.AFFIRMING) == (not deviations)
    return found


def test_genuine_evidence_is_affirmed() -> None:
    assert tier(evidence()) is TrustTier.AFFIRMING


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(evidence(nonce="00" * 16), id="replayed"),
        pytest.param(evidence(agent="pop2"), id="of another agent"),
        pytest.param(signed(evidence(), OTHER), id="wrong key"),
        pytest.param(replace(evidence(), signature=""), id="unsigned"),
        pytest.param(replace(evidence(), signature="zz"), id="no signature"),
        pytest.param(
            replace(evidence(), signature=evidence().signature.upper()), id="signature in capitals"
        ),
        pytest.param(
            replace(evidence(), signature=f"{evidence().signature} "), id="signature with a space"
        ),
        pytest.param(replace(evidence(), measurement=measured("00" * 32)), id="changed later"),
        pytest.param(evidence(measurement=b"{"), id="no measurement"),
    ],
)
def test_nothing_can_be_said_of_other_evidence(shown: Evidence) -> None:
    assert tier(shown) is TrustTier.NONE


def test_altered_text_and_other_software_are_contraindicated() -> None:
    assert tier(evidence(measurement=measured("00" * 32))) is TrustTier.CONTRAINDICATED
    assert tier(evidence(software="agent 0.9")) is TrustTier.CONTRAINDICATED


def test_a_repository_that_has_something_else_than_the_ledger_says_is_not_believed() -> None:
    assert tier(evidence(), replace(ENROLMENT, reference="00" * 32)) is TrustTier.NONE
    assert tier(evidence(), None) is TrustTier.NONE
    assert tier(evidence(), values=None) is TrustTier.NONE


def test_a_folder_gives_back_what_was_put_there_and_nothing_that_was_changed(
    tmp_path: Path,
) -> None:
    RepositoryFolder(tmp_path).put(ENROLMENT, REFERENCE)
    assert RepositoryFolder(tmp_path).get("pop1") == ENROLMENT
    assert RepositoryFolder(tmp_path).values(ENROLMENT.reference) == REFERENCE
    kept = tmp_path / f"{ENROLMENT.reference}.values"
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(replace(REFERENCE, objects={}).encode())
    assert RepositoryFolder(tmp_path).values(ENROLMENT.reference) is None
    kept.write_bytes(b"{")
    assert RepositoryFolder(tmp_path).values(ENROLMENT.reference) is None
    assert RepositoryFolder(tmp_path).get("pop2") is None


@given(st.binary(max_size=300))
def test_no_garbage_is_trusted(octets: bytes) -> None:
    assert tier(evidence(measurement=octets)) is not TrustTier.AFFIRMING
