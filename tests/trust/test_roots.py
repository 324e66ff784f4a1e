"""Quotes of a TPM: read strictly, and believed only if they are what was asked for."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_evidence import ENROLMENT, KEY, NONCE, REFERENCE, Kept, evidence, measured

from phalanx.domain.trust import Evidence, RootQuote, TrustTier
from phalanx.trust.evidence import Enrolment, LastLook, quoted, signed, verify
from phalanx.trust.measurement import MeasurementError
from phalanx.trust.roots import TPM, EnrolledRoot, RootClock, TpmRoot, read_quote

PRIVATE, STRANGER = (ec.derive_private_key(number, ec.SECP256R1()) for number in (7, 8))
PREFIX = bytes.fromhex("0023000b0005047200000010" + "0018000b" + "00030010")
BOOTED, DATA = sha256(b"registers").digest(), bytes(range(32))
CLOCK: RootClock = (3, 1, 5000)
SELECTION = bytes.fromhex("00000001 000b 03 ff0000")
RECORDED = bytes.fromhex(
    "0091ff54434780180022000b67ab0a2ded3e100c47c2ef215d1f3732a73fbcfe9c625af32c3b8c22ada6ec4e0020"
    "abababababababababababababababababababababababababababababababab000000000008bc7d00000001"
    "0000000001201910230016363600000001000b03ff000000205341e6b2646979a70e57653007a1f310169421ec9b"
    "dd9f1a5648f75ade005af10018000b002058c1c8c7763cead91f469ce5a9b31ab9247b0455d86a724b3eb66eb10d"
    "bb5148002081ab5186561b879639004b9a31fe0ed800343881e9677fd4de09e37a9289b4fd"
)
"""What swtpm 0.7.1 answered to ``tpm2_quote`` of tpm2-tools 5.4."""
RECORDED_ROOT = EnrolledRoot(
    TPM,
    "0023000b00050472000000100018000b00030010002047d2c363f8b26c351d22891c915d8b25928de5b5f0d88236cc"
    "e5609b462fbd4c00205715cf817a170b5d97d9e7ec00dcef81eacb97b5555b5e7228c16ea6bbc5b0be",
    tuple(range(8)),
    "5341e6b2646979a70e57653007a1f310169421ec9bdd9f1a5648f75ade005af1",
    (1, 0, 0),
)


def sized(octets: bytes) -> bytes:
    return len(octets).to_bytes(2, "big") + octets


def public_area(key: ec.EllipticCurvePrivateKey, prefix: bytes = PREFIX) -> str:
    numbers = key.public_key().public_numbers()
    return (prefix + b"".join(sized(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))).hex()


ROOT = EnrolledRoot(TPM, public_area(PRIVATE), tuple(range(8)), BOOTED.hex(), CLOCK)


def quote(
    data: bytes = DATA,
    *,
    key: ec.EllipticCurvePrivateKey = PRIVATE,
    begin: bytes = bytes.fromhex("ff544347 8018"),
    clock: RootClock = CLOCK,
    selection: bytes = SELECTION,
    booted: bytes = BOOTED,
    end: bytes = b"",
) -> bytes:
    """Return what a TPM with that key would answer."""
    ticks = clock[2].to_bytes(8, "big") + clock[0].to_bytes(4, "big") + clock[1].to_bytes(4, "big")
    name = sized(b"\x00\x0b" + bytes(32))
    attested = begin + name + sized(data) + ticks + bytes(9) + selection + sized(booted) + end
    numbers = decode_dss_signature(key.sign(attested, ec.ECDSA(SHA256())))
    signature = b"".join(sized(number.to_bytes(32, "big")) for number in numbers)
    return sized(attested) + bytes.fromhex("0018000b") + signature


class Model:
    """A root that answers with what it is given."""

    kind = TPM

    def __init__(self, **otherwise: object) -> None:
        self._otherwise = otherwise

    def quote(self, digest: bytes) -> bytes:
        return quote(digest, **self._otherwise)  # type: ignore[arg-type]


ENROLLED = replace(ENROLMENT, root=ROOT)


def vouched(**otherwise: object) -> Evidence:
    plain = replace(evidence(), signature="")
    return signed(quoted(plain, Model(**otherwise)), KEY)


def found(
    shown: Evidence, enrolment: Enrolment = ENROLLED, earlier: LastLook | None = None
) -> tuple[TrustTier, tuple[str, ...], LastLook | None]:
    kept = Kept(enrolment, REFERENCE)
    tier, deviations, look = verify(shown, NONCE, "pop1", enrolment.digest(), kept, earlier)
    return tier, tuple(each.kind for each in deviations), look


NOT_QUOTED = (TrustTier.NONE, ("quote-wrong",), None)


def test_a_quote_that_a_tpm_made_is_read() -> None:
    read = read_quote(RECORDED_ROOT, RECORDED, b"\xab" * 32)
    assert read == (RECORDED_ROOT.digest, (1, 0, 0x8BC7D))


def test_evidence_with_the_quote_that_was_enrolled_is_affirmed_and_says_what_vouched() -> None:
    shown = vouched()
    tier, deviations, look = found(shown)
    assert (tier, deviations, shown.root) == (TrustTier.AFFIRMING, (), "tpm")
    assert look is not None
    assert look.clock == CLOCK
    assert evidence().root == "software"


def test_registers_other_than_enrolled_are_contraindicated() -> None:
    other = (TrustTier.CONTRAINDICATED, ("boot-other",), None)
    assert found(vouched(booted=sha256(b"others").digest())) == other
    assert found(vouched(booted=b"")) == other


@pytest.mark.parametrize(
    "otherwise",
    [
        pytest.param({"key": STRANGER}, id="of another TPM"),
        pytest.param({"begin": bytes.fromhex("ff544348 8018")}, id="other magic"),
        pytest.param({"begin": bytes.fromhex("ff544347 8019")}, id="a time, no quote"),
        pytest.param({"selection": bytes.fromhex("00000001 000b 03 7f0000")}, id="fewer registers"),
        pytest.param({"selection": bytes.fromhex("00000001 0004 03 ff0000")}, id="other bank"),
        pytest.param({"selection": bytes(4)}, id="no registers"),
        pytest.param({"clock": (2, 9, 9000)}, id="resets went back"),
        pytest.param({"clock": (3, 0, 9000)}, id="restarts went back"),
        pytest.param({"clock": (3, 1, 4999)}, id="ticks went back"),
        pytest.param({"end": b"\x00"}, id="something follows"),
    ],
)
def test_what_a_tpm_signed_otherwise_is_no_evidence(otherwise: dict[str, object]) -> None:
    assert found(vouched(**otherwise)) == NOT_QUOTED


def test_a_quote_over_other_evidence_is_none() -> None:
    shown = vouched()
    for changed in (
        replace(shown, measurement=measured("00" * 32)),
        replace(shown, software="agent 0.9"),
        replace(shown, modelled=True),
        replace(shown, quote=RootQuote(TPM, quote(bytes(32)))),
    ):
        assert found(signed(changed, KEY)) == NOT_QUOTED


def test_a_quote_of_another_challenge_or_agent_is_none() -> None:
    for part in ({"nonce": "00" * 16}, {"agent": "pop2"}):
        before = quoted(replace(evidence(**part), signature=""), Model())
        again = signed(replace(before, nonce=NONCE, agent="pop1"), KEY)
        assert found(again) == NOT_QUOTED


def test_evidence_without_a_quote_is_none_where_a_tpm_was_enrolled() -> None:
    plain = evidence()
    for shown in (plain, *(evidence(quote=RootQuote(kind, b"")) for kind in ("tpm", "sgx", ""))):
        assert found(shown) == NOT_QUOTED
    unvouched = replace(ENROLLED, root=replace(ROOT, kind="software"))
    for shown in (plain, vouched()):
        assert found(shown, unvouched) == NOT_QUOTED
    assert found(plain, ENROLMENT)[0] is TrustTier.AFFIRMING


def test_a_quote_that_nobody_enrolled_is_no_evidence() -> None:
    assert found(vouched(), ENROLMENT) == NOT_QUOTED
    assert found(evidence(quote=RootQuote("software", quote())), ENROLMENT) == NOT_QUOTED


def test_a_clock_that_goes_back_between_two_looks_is_no_evidence() -> None:
    _, _, look = found(vouched(clock=(3, 2, 10)))
    assert look is not None
    assert found(vouched(clock=(3, 2, 10)), earlier=look)[0] is TrustTier.AFFIRMING
    assert found(vouched(clock=(4, 0, 0)), earlier=look)[0] is TrustTier.AFFIRMING
    assert found(vouched(clock=(3, 1, 9000)), earlier=look) == NOT_QUOTED
    assert found(vouched(clock=(3, 2, 9)), earlier=look) == NOT_QUOTED


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(public_area(PRIVATE, PREFIX.replace(b"\x05\4r", b"\x04\4r")), id="signs all"),
        pytest.param(public_area(PRIVATE, PREFIX.replace(b"\4r", b"\4p")), id="may leave its TPM"),
        pytest.param(public_area(PRIVATE) + "00", id="something follows"),
        pytest.param(public_area(PRIVATE)[:-2], id="cut off"),
        pytest.param(public_area(PRIVATE)[:-2] + "00", id="not on the curve"),
        pytest.param("", id="empty"),
        pytest.param("zz", id="not hexadecimal"),
    ],
)
def test_an_enrolled_key_that_may_sign_other_things_than_quotes_vouches_for_nothing(
    key: str,
) -> None:
    assert found(vouched(), replace(ENROLLED, root=replace(ROOT, key=key))) == NOT_QUOTED


@pytest.mark.parametrize("pcrs", [(), (24,), (-1,), (0, 0), tuple(range(24))])
def test_enrolled_registers_that_are_none_or_others_make_no_evidence(pcrs: tuple[int, ...]) -> None:
    assert found(vouched(), replace(ENROLLED, root=replace(ROOT, pcrs=pcrs))) == NOT_QUOTED


@pytest.mark.parametrize(
    ("root", "octets", "data"), [(RECORDED_ROOT, RECORDED, b"\xab" * 32), (ROOT, quote(), DATA)]
)
def test_every_octet_of_a_quote_that_is_changed_dropped_or_doubled_is_refused(
    root: EnrolledRoot, octets: bytes, data: bytes
) -> None:
    for at, octet in enumerate(octets):
        head, tail = octets[:at], octets[at + 1 :]
        flips = [bytes([octet ^ 1 << bit]) for bit in range(8)]
        for changed in (*flips, b"", bytes([octet, octet])):
            with pytest.raises(ValueError, match=r"^[^\n]+$"):
                read_quote(root, head + changed + tail, data)


@given(st.binary(max_size=1200))
@example(b"")
@example(b"\xff\xff")
@example(RECORDED[:-1])
@example(RECORDED + b"\0")
def test_garbage_is_refused_and_nothing_else_is_raised(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_quote(ROOT, octets, DATA)
    assert found(evidence(quote=RootQuote(TPM, octets))) == NOT_QUOTED


@given(st.binary(max_size=150), st.booleans())
def test_whatever_the_enrolled_key_signs_is_refused_unless_it_is_the_quote(
    octets: bytes, after: bool
) -> None:
    attested = (quote()[2:147] if after else b"") + octets
    numbers = decode_dss_signature(PRIVATE.sign(attested, ec.ECDSA(SHA256())))
    signature = b"".join(sized(number.to_bytes(32, "big")) for number in numbers)
    answer = sized(attested) + bytes.fromhex("0018000b") + signature
    if attested == quote()[2:147]:
        assert read_quote(ROOT, answer, DATA) == (BOOTED.hex(), CLOCK)
    else:
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            read_quote(ROOT, answer, DATA)


def test_a_machine_without_the_tools_or_the_tpm_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = TpmRoot("swtpm:path=/nowhere\nat all", tmp_path / "tpm.handle", range(8))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementError, match=r"^the TPM at .*tpm2-tools are needed\)$"):
        root.enrol()
    tool = tmp_path / "tpm2_quote"
    tool.write_text("#!/bin/sh\necho 'ERROR: first' >&2; echo 'ERROR: second' >&2; exit 1\n")
    tool.chmod(0o755)
    with pytest.raises(MeasurementError, match=r"^the TPM at .*: tpm2_quote: ERROR: first$"):
        root.quote(bytes(32))
    tool.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(MeasurementError, match=r"^the TPM at .*quoted: No such file"):
        root.quote(bytes(32))
    assert os.listdir(tmp_path) == ["tpm2_quote"]  # noqa: PTH208
