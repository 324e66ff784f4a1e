"""Roots of trust in hardware: what vouches for evidence beside the measurer's own key.

A root signs a digest of the evidence together with how the machine was booted. Whoever has a
measurer's key, and not the machine with the hardware that was enrolled, has no evidence. Who is
root on that machine has: a root vouches for what was booted, not for what happened since.

``TpmRoot`` is a TPM 2.0, asked with tpm2-tools. A quote is read here without any tool, after the
Trusted Computing Group's *TPM 2.0 Library*, part 2, 10.12. A confidential VM fits the same port:
its report takes the digest as ``REPORT_DATA`` (SEV-SNP) or ``REPORTDATA`` (TDX), padded to 64
octets; the enrolled key is that of the report's signer (VCEK, or the quoting enclave's, once its
chain was checked), the enrolled digest is the launch measurement (``MEASUREMENT``; MRTD with the
RTMRs), and the clock is the version of the firmware (TCB), which does not go back either.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct
from msgspec.structs import replace

from phalanx.loading.refusals import one_line
from phalanx.trust.measurement import MeasurementError

TPM = "tpm"
TOOL_S = 5.0
"""How long a TPM may take for one command; those of real machines take up to a second."""
RootClock = tuple[int, int, int]
"""Resets of a TPM, restarts since the last reset, and ms of its clock: together they only grow."""
NO_CLOCK: RootClock = (0, 0, 0)

_MAGIC, _QUOTE = 0xFF544347, 0x8018
_ECDSA_SHA256 = b"\x00\x18\x00\x0b"
_MAY = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"
_KEY = bytes.fromhex("0023 000b 00050472 0000 0010 0018000b 0003 0010")
"""Begin of a TPMT_PUBLIC: P-256, ECDSA with SHA-256, and what such a key may do. It is restricted,
so of what looks like a quote it signs nothing but quotes; it never leaves the TPM that made it; and
a TPM that was cut off from power too often (``noda``) still quotes with it."""
_LONGEST = 1024


class EnrolledRoot(Struct, frozen=True):
    """What was enrolled of the hardware that vouches for a measurer's evidence."""

    kind: str
    key: str
    """Public key that it signs with, in hexadecimal; of a TPM: TPMT_PUBLIC."""
    pcrs: tuple[int, ...]
    """Registers that are quoted, of the bank SHA-256, in ascending order."""
    digest: str
    """SHA-256 of what these held, in hexadecimal."""
    clock: RootClock
    """What its clock said then."""


class RootOfTrust(Protocol):
    """Hardware that vouches for evidence."""

    kind: str

    def quote(self, digest: bytes) -> bytes:
        """Return how the machine was booted, signed together with a digest of 32 octets.

        Raises:
            MeasurementError: with one line, if the hardware does not do that.

        """


class TpmRoot:
    """A ``RootOfTrust``: a TPM 2.0 with an attestation key of its own, by way of tpm2-tools."""

    kind = TPM

    def __init__(self, tcti: str, handle: Path, pcrs: Iterable[int]) -> None:
        """Ask nothing yet.

        Args:
            tcti: how the TPM is reached, such as ``device:/dev/tpmrm0`` (tpm2-tools, ``-T``).
            handle: file that names the attestation key, which itself stays in the TPM.
            pcrs: registers to quote.

        """
        self._tcti, self._handle, self._pcrs = tcti, handle.absolute(), tuple(sorted({*pcrs}))

    def enrol(self) -> EnrolledRoot:
        """Return what is to be enrolled of it as it is now; a key is made if it has none.

        Raises:
            MeasurementError: with one line, if the TPM does not do that.

        """
        if not self._handle.exists():
            # In the endorsement hierarchy: its keys get the TPM's counters in clear.
            ecdsa = ("-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", _MAY)
            self._ask(
                ("createprimary", "-C", "e", *ecdsa, "-c", "key"),
                ("evictcontrol", "-C", "o", "-c", "key", "-o", str(self._handle)),
                ("flushcontext", "-t"),  # no resource manager may be there to unload the first copy
            )
        public = ("readpublic", "-c", str(self._handle), "-f", "tss", "-o", "public")
        key = self._ask(public, left=("public",))[0][2:].hex()
        root = EnrolledRoot(TPM, key, self._pcrs, "", NO_CLOCK)
        booted, clock = self.tried(root)
        return replace(root, digest=booted, clock=clock)

    def tried(self, root: EnrolledRoot) -> tuple[str, RootClock]:
        """Return what ``read_quote`` does of a quote made now.

        Raises:
            MeasurementError: with one line, if there is none, or not as it was enrolled.

        """
        fresh = secrets.token_bytes(32)
        try:
            return read_quote(root, self.quote(fresh), fresh)
        except ValueError as error:
            raise MeasurementError(self._fault(str(error))) from None

    def quote(self, digest: bytes) -> bytes:
        """Return what TPM2_Quote answers: TPM2B_ATTEST and TPMT_SIGNATURE; see ``RootOfTrust``."""
        pcrs, results = f"sha256:{','.join(map(str, self._pcrs))}", ("quoted", "signature")
        words = ("-c", str(self._handle), "-l", pcrs, "-q", digest.hex(), "-g", "sha256")
        command = ("quote", *words, "-m", results[0], "-s", results[1])
        quoted, signature = self._ask(command, left=results)
        return len(quoted).to_bytes(2, "big") + quoted + signature

    def _ask(self, *commands: tuple[str, ...], left: tuple[str, ...] = ()) -> list[bytes]:
        """Run tools in a folder of their own; return what they left in its files."""
        quiet = {**os.environ, "TSS2_LOG": "all+NONE"}
        try:
            with TemporaryDirectory(prefix="phalanx-") as folder:
                for tool, *words in commands:
                    done = subprocess.run(  # noqa: S603  # the TCTI and the files are root's
                        [f"tpm2_{tool}", "-Q", "-T", self._tcti, *words],
                        capture_output=True, check=False, cwd=folder, env=quiet,
                        stdin=subprocess.DEVNULL, timeout=TOOL_S,
                    )  # fmt: skip
                    if done.returncode:
                        said = done.stderr.decode(errors="replace").partition("\n")[0]
                        raise MeasurementError(self._fault(f"tpm2_{tool}: {said}"))
                return [(Path(folder) / name).read_bytes() for name in left]
        except subprocess.TimeoutExpired:
            raise MeasurementError(self._fault(f"no answer in {TOOL_S:g} s")) from None
        except OSError as error:
            why = f"{error.filename}: {error.strerror} (tpm2-tools are needed)"
            raise MeasurementError(self._fault(why)) from None

    def _fault(self, why: str) -> str:
        return one_line(f"the TPM at {self._tcti} cannot be used: {why}")


def read_quote(
    root: EnrolledRoot, octets: bytes, digest: bytes, earlier: RootClock = NO_CLOCK
) -> tuple[str, RootClock]:
    """Return the digest of the registers in a quote, in hexadecimal, and the TPM's clock. Pure.

    Args:
        root: what was enrolled; its ``digest`` is for the caller to compare.
        octets: what ``TpmRoot.quote`` returned.
        digest: that it has to vouch for.
        earlier: what the clock said in a quote seen before.

    Raises:
        ValueError: if that is no quote by the enrolled key over this digest and these registers,
            or its clock went back. The text is one line.

    """
    answer = _Octets(octets)
    attested = answer.sized()
    if answer.take(4) != _ECDSA_SHA256:
        raise ValueError("its signature is not ECDSA with SHA-256")
    signature = encode_dss_signature(answer.integer(), answer.integer())
    answer.end()
    try:
        _public(root.key).verify(signature, attested, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise ValueError("not signed by the enrolled key") from None
    fields = _Octets(attested)
    if (fields.number(4), fields.number(2)) != (_MAGIC, _QUOTE):
        raise ValueError("the TPM signed something else")
    fields.sized()  # the key's name, which its signature proves
    if fields.sized() != digest:
        raise ValueError("it vouches for other evidence")
    ticks, resets, restarts = fields.number(8), fields.number(4), fields.number(4)
    fields.take(9)  # whether ticks survive a power cut, which resets; and the firmware's version
    bits = sum(1 << pcr for pcr in root.pcrs).to_bytes(3, "little")
    selection = b"\x00\x00\x00\x01\x00\x0b\x03" + bits
    if fields.take(len(selection)) != selection:
        raise ValueError("it is about other registers")
    booted, clock = fields.sized(), (resets, restarts, ticks)
    fields.end()
    if clock < max(root.clock, earlier):
        raise ValueError("the clock of its TPM went back")
    return booted.hex(), clock


def _public(key: str) -> ec.EllipticCurvePublicKey:
    fields = _Octets(bytes.fromhex(key))
    if fields.take(len(_KEY)) != _KEY:
        raise ValueError("the enrolled key is no attestation key of a TPM")
    numbers = ec.EllipticCurvePublicNumbers(fields.integer(), fields.integer(), ec.SECP256R1())
    fields.end()
    return numbers.public_key()


class _Octets:
    """Reads what a TPM writes: numbers in network order, and octets after their count."""

    def __init__(self, octets: bytes) -> None:
        if len(octets) > _LONGEST:
            raise ValueError("it is too long")
        self._octets, self._at = octets, 0

    def take(self, count: int) -> bytes:
        found = self._octets[self._at : self._at + count]
        if len(found) < count:
            raise ValueError("it is cut off")
        self._at += count
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def integer(self) -> int:
        found = self.sized()
        if len(found) > 32:
            raise ValueError("a number of it is too long")
        return int.from_bytes(found, "big")

    def end(self) -> None:
        if self._at != len(self._octets):
            raise ValueError("something follows it")
