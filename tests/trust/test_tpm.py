"""Quotes of a software TPM: asked for with tpm2-tools, and attacked as a machine's would be."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from test_evidence import ENROLMENT, KEY, NONCE, REFERENCE, Kept, evidence
from tpm_lab import NEEDS_TPM, SoftwareTpm, software_tpm
from trust_lab import agent, until, write_agent

from phalanx.domain.trust import Evidence, TrustTier
from phalanx.runtime.processes.testbed import PHALANX
from phalanx.trust.evidence import (
    Enrolment,
    LastLook,
    RepositoryFolder,
    public,
    quoted,
    signed,
    verify,
)
from phalanx.trust.hardening import signing_key
from phalanx.trust.measurement import MeasurementError
from phalanx.trust.references import reference_of
from phalanx.trust.roots import read_quote

pytestmark = [NEEDS_TPM, pytest.mark.processes]


@pytest.fixture
def tpm() -> Iterator[SoftwareTpm]:
    with software_tpm() as made:
        yield made


def enrolled(tpm: SoftwareTpm) -> Enrolment:
    return replace(ENROLMENT, root=tpm.root().enrol())


def vouched(tpm: SoftwareTpm, **changes: object) -> Evidence:
    return signed(quoted(replace(evidence(**changes), signature=""), tpm.root()), KEY)


def found(
    shown: Evidence, enrolment: Enrolment, earlier: LastLook | None = None
) -> tuple[TrustTier, tuple[str, ...]]:
    kept = Kept(enrolment, REFERENCE)
    tier, deviations, _ = verify(shown, NONCE, "pop1", enrolment.digest(), kept, earlier)
    return tier, tuple(each.kind for each in deviations)


GENUINE = (TrustTier.AFFIRMING, ())
NOT_QUOTED = (TrustTier.NONE, ("quote-wrong",))
NOT_AS_BOOTED = (TrustTier.CONTRAINDICATED, ("boot-other",))


def test_a_quote_is_affirmed_until_a_register_is_extended(tpm: SoftwareTpm) -> None:
    enrolment = enrolled(tpm)
    for _ in range(3):
        assert found(vouched(tpm), enrolment) == GENUINE
    tpm.extend(8)  # not among those that were enrolled
    assert found(vouched(tpm), enrolment) == GENUINE
    tpm.extend(7)
    assert found(vouched(tpm), enrolment) == NOT_AS_BOOTED
    tpm.end()
    tpm.boot()
    assert found(vouched(tpm), enrolment) == GENUINE


def test_a_quote_of_another_tpm_is_none_and_so_is_evidence_without(tpm: SoftwareTpm) -> None:
    enrolment = enrolled(tpm)
    with software_tpm() as other:
        other.root().enrol()
        assert found(vouched(other), enrolment) == NOT_QUOTED
    assert found(evidence(), enrolment) == NOT_QUOTED
    assert found(vouched(tpm), ENROLMENT) == NOT_QUOTED  # nobody enrolled its TPM


def test_a_quote_of_another_challenge_replayed_is_none(tpm: SoftwareTpm) -> None:
    enrolment, recorded = enrolled(tpm), vouched(tpm, nonce="00" * 16)
    assert found(recorded, enrolment) == (TrustTier.NONE, ("evidence-old",))
    assert found(signed(replace(recorded, nonce=NONCE), KEY), enrolment) == NOT_QUOTED


def test_a_tpm_whose_state_was_put_back_is_noticed_by_its_clock(tpm: SoftwareTpm) -> None:
    enrolment = enrolled(tpm)
    tpm.end()
    old = shutil.copytree(tpm.state, tpm.folder / "old")
    tpm.boot()
    kept = Kept(enrolment, REFERENCE)
    _, _, look = verify(vouched(tpm), NONCE, "pop1", enrolment.digest(), kept)
    assert look is not None
    assert found(vouched(tpm), enrolment, look) == GENUINE
    for _ in range(2):
        tpm.end()
        tpm.boot()
        assert found(vouched(tpm), enrolment, look) == GENUINE
    _, _, look = verify(vouched(tpm), NONCE, "pop1", enrolment.digest(), kept)
    tpm.end()
    shutil.rmtree(tpm.state)
    old.rename(tpm.state)
    tpm.boot()
    assert found(vouched(tpm), enrolment, look) == NOT_QUOTED


def test_the_key_signs_no_forged_quote_and_what_else_it_signs_is_none(tpm: SoftwareTpm) -> None:
    root = tpm.root()
    enrolment = enrolled(tpm)
    assert enrolment.root is not None
    genuine, data = root.quote(bytes(32)), bytes(32)
    forged, handle = tpm.folder / "forged", tpm.folder / "tpm.handle"
    forged.write_bytes(genuine[2 : 2 + int.from_bytes(genuine[:2], "big")])
    words = ("-c", handle, "-g", "sha256", "-s", "ecdsa", "-o", "signature", forged)
    assert tpm.ask("sign", *words).returncode != 0
    timed = ("-c", handle, "-q", data.hex(), "--attestation", "time", "-o", "signature")
    done = tpm.ask("gettime", "-g", "sha256", *timed)
    assert done.returncode == 0, done.stderr
    time, signature = (tpm.folder / name for name in ("time", "signature"))
    octets = time.read_bytes()
    answer = len(octets).to_bytes(2, "big") + octets + signature.read_bytes()
    with pytest.raises(ValueError, match="signed something else"):
        read_quote(enrolment.root, answer, data)


def test_a_key_is_made_once_and_stays_over_a_boot(tpm: SoftwareTpm) -> None:
    first = tpm.root().enrol()
    tpm.end()
    tpm.boot()
    again = tpm.root().enrol()
    assert (again.key, again.digest) == (first.key, first.digest)
    assert again.clock > first.clock
    said = tpm.ask("getcap", "handles-persistent").stdout
    assert said.count("0x81") == 1
    assert tpm.root(range(9)).enrol().pcrs == tuple(range(9))
    with pytest.raises(MeasurementError, match="other registers"):
        tpm.root(range(9)).tried(first)


def test_a_machine_that_loses_power_again_and_again_still_quotes(tpm: SoftwareTpm) -> None:
    enrolment = enrolled(tpm)
    for _ in range(6):
        assert found(vouched(tpm), enrolment) == GENUINE
        tpm.end()
        tpm.boot()


def test_a_tpm_that_is_gone_vouches_for_nothing_and_says_so_in_one_line(tpm: SoftwareTpm) -> None:
    root = tpm.root()
    root.enrol()
    tpm.end()
    with pytest.raises(MeasurementError, match=r"^the TPM at .* cannot be used: tpm2_quote: ERROR"):
        root.quote(bytes(32))


ASK = """import socket
peer = socket.socket(socket.AF_UNIX)
peer.connect({socket!r})
_ = peer.sendall(b"{nonce}\\n")
answer = peer.makefile().readline()
peer.close()
_ = open({answer!r}, "w").write(answer)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="measuring other processes needs root")
def test_a_measurer_with_a_tpm_vouches_for_a_live_agent(tmp_path: Path, tpm: SoftwareTpm) -> None:
    state, socket, answer = tpm.folder / "measurer", tpm.folder / "asked", tmp_path / "answer"
    folder = write_agent(tmp_path)
    reference = reference_of("sentry", "1.0", path=folder, late=("socket", "io", "encodings.ascii"))
    state.mkdir(mode=0o700)
    tpm.folder.joinpath("tpm.handle").symlink_to(state / "tpm.handle")
    key, repository = signing_key(state / "key"), RepositoryFolder(state / "repository")

    def learned(*, hardware: bool = True) -> Enrolment:
        root = tpm.root().enrol() if hardware else None
        plain = Enrolment("sentry", "sentry 1.0", reference.digest(), public(key), root=root)
        repository.put(plain, reference)
        return plain

    config = tpm.folder / "measurer.toml"
    config.write_text(
        f'state = "measurer"\nsocket = "asked"\ntpm = "{tpm.tcti}"\n[agents]\nsentry = "./pid"\n'
    )
    command = [*PHALANX, "trust", "measure", "--config", str(config)]
    learned(hardware=False)
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "tpm: sentry was learned without a TPM" in refused.stderr
    assert "Traceback" not in refused.stderr
    enrolment = learned()
    with agent(folder, reference) as live:
        (tpm.folder / "pid").write_text(f"{live.process.pid}\n")

        def verdict(nonce: str) -> tuple[TrustTier, tuple[str, ...]]:
            live.exploit(ASK.format(socket=str(socket), nonce=nonce, answer=str(answer)))
            shown = msgspec.json.decode(answer.read_bytes(), type=Evidence)
            digest = enrolment.digest()
            tier, deviations, _ = verify(shown, nonce, "sentry", digest, repository)
            return tier, tuple(each.kind for each in deviations)

        process = subprocess.Popen(command)
        try:
            until(socket.exists)
            until(lambda: verdict("5a" * 16) == GENUINE)
            live.exploit("core.may_pass = core.deny")
            assert verdict("5b" * 16) == (TrustTier.CONTRAINDICATED, ("function-rebound",))
            tpm.extend(0)
            assert verdict("5c" * 16) == NOT_AS_BOOTED
            tpm.end()
            live.exploit(ASK.format(socket=str(socket), nonce=NONCE, answer=str(answer)))
            assert "NoEvidence" in answer.read_text()
            assert "the TPM at" in answer.read_text()
        finally:
            process.terminate()
            assert process.wait() == 0
    gone = subprocess.run(command, check=False, capture_output=True, text=True)
    assert gone.returncode != 0
    assert "the TPM at" in gone.stderr
    assert "Traceback" not in gone.stderr
