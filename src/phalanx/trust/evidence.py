"""Evidence: what an attester signs, and what a verifier makes of it (RFC 9334, 9711).

The measurer signs with a key of its own, which was enrolled with the reference values, so
evidence of another agent, of another challenge, or changed on its way is none. An error
anywhere ends as "nothing can be said", never as trust.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import UNSET, Struct
from msgspec.structs import replace

from phalanx.domain.agents import AgentId
from phalanx.domain.trust import Deviation, Evidence, RootQuote, TrustTier
from phalanx.ledger.entries import Address, Enrolled
from phalanx.trust.measurement import (
    MeasurementError,
    ProcessMeasurement,
    ReferenceValues,
    appraise,
)
from phalanx.trust.roots import NO_CLOCK, EnrolledRoot, RootClock, RootOfTrust, read_quote

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Enrolment(Struct, frozen=True, omit_defaults=True):
    """What was enrolled of an agent; its digest stands in the ledger."""

    agent: AgentId
    software: str
    """Name and version of its package."""
    reference: str
    """SHA-256 of its reference values, in hexadecimal."""
    key: str
    """Of the measurer: Ed25519, in hexadecimal."""
    exchange: str = ""
    """Of the agent: X25519, in hexadecimal; secrets are sealed to it."""
    account: Address = ""
    """Of the agent, in the ledger; empty: whoever enrols it knows."""
    root: EnrolledRoot | None = None
    """Of the machine: evidence without its quote is none. None: the measurer's key vouches alone.
    """

    def entry(self) -> Enrolled:
        """Return what the ledger records of it."""
        return Enrolled(
            self.agent, self.account, "agent", self.software, self.digest(), self.exchange
        )

    def digest(self) -> str:
        """Return the SHA-256 of all that it says, in hexadecimal."""
        return sha256(_encode(self)).hexdigest()


class Repository(Protocol):
    """Where enrolments are kept; the ledger says which is the right one."""

    def get(self, agent: AgentId) -> Enrolment | None:
        """Return what was enrolled of an agent; None: it cannot be had now."""

    def values(self, reference: str) -> ReferenceValues | None:
        """Return the reference values that have a digest; None: they cannot be had now."""


class RepositoryFolder:
    """A ``Repository`` in a folder: ``NAME.json`` for each agent, ``DIGEST.values`` beside them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._values: dict[str, ReferenceValues] = {}

    def put(self, enrolment: Enrolment, values: ReferenceValues) -> None:
        """Keep what was enrolled of an agent, readable for this user alone."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write(f"{enrolment.reference}.values", values.encode())
        self._write(f"{enrolment.agent}.json", msgspec.json.encode(enrolment))

    def agents(self) -> tuple[AgentId, ...]:
        """Return of whom there is an enrolment, by name."""
        return tuple(sorted(path.stem for path in self._folder.glob("*.json")))

    def get(self, agent: AgentId) -> Enrolment | None:
        """Return what was enrolled of an agent; see ``Repository``."""
        try:
            octets = (self._folder / f"{agent}.json").read_bytes()
            return msgspec.json.decode(octets, type=Enrolment)
        except (OSError, msgspec.MsgspecError):
            return None

    def values(self, reference: str) -> ReferenceValues | None:
        """Return reference values, if they are what their digest says; see ``Repository``."""
        if reference not in self._values:
            try:
                octets = (self._folder / f"{reference}.values").read_bytes()
                found = ReferenceValues.decode(octets)
            except (OSError, MeasurementError):
                return None
            if found.digest() != reference:
                return None
            self._values[reference] = found
        return self._values[reference]

    def _write(self, name: str, octets: bytes) -> None:
        path = self._folder / name
        new = path.with_suffix(".new")
        with open(new, "wb", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
            file.write(octets)
        new.replace(path)


def public(key: Ed25519PrivateKey) -> str:
    """Return the public key, in hexadecimal."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


class LastLook(Struct, frozen=True):
    """What a verifier keeps of evidence that it believed, for what only the next look shows."""

    measured: ProcessMeasurement
    clock: RootClock = NO_CLOCK
    """Of the hardware that vouched."""


def quoted(evidence: Evidence, root: RootOfTrust) -> Evidence:
    """Return evidence that hardware vouches for; it is to be signed by the measurer, too.

    Raises:
        MeasurementError: with one line, if the hardware does not do that.

    """
    return replace(evidence, quote=RootQuote(root.kind, root.quote(_quoted_part(evidence))))


def signed(evidence: Evidence, key: Ed25519PrivateKey) -> Evidence:
    """Return evidence with the measurer's signature over all that it says."""
    return replace(evidence, signature=key.sign(_signed_part(evidence)).hex())


def digest(evidence: Evidence | None) -> str:
    """Return the SHA-256 of evidence in hexadecimal; empty: there is none."""
    return "" if evidence is None else sha256(_encode(evidence)).hexdigest()


def verify(
    evidence: Evidence,
    nonce: str,
    agent: AgentId,
    reference: str,
    repository: Repository,
    earlier: LastLook | None = None,
) -> tuple[TrustTier, tuple[Deviation, ...], LastLook | None]:
    """Appraise evidence.

    Args:
        evidence: as it came in.
        nonce: of the challenge.
        agent: that was challenged.
        reference: digest of its enrolment, as the ledger has it.
        repository: has what was enrolled, and the reference values.
        earlier: what was seen of it before.

    Returns:
        the tier, what differs from the reference values or the enrolled boot, and what was
        measured if that much can be believed.

    """
    enrolment = repository.get(agent)
    known = enrolment is not None and enrolment.digest() == reference
    values = repository.values(enrolment.reference) if known and enrolment is not None else None
    if enrolment is None or values is None or enrolment.agent != agent:
        return _nothing(
            "reference-missing", agent, "the repository does not have what the ledger says"
        )
    if evidence.nonce != nonce:
        return _nothing("evidence-old", agent, "it answers another challenge")
    if evidence.agent != agent:
        return _nothing("evidence-foreign", agent, f"it is about {evidence.agent}")
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(enrolment.key))
        signature = bytes.fromhex(evidence.signature)
        if signature.hex() != evidence.signature:  # one signature has one text
            raise ValueError
        key.verify(signature, _signed_part(evidence))
    except (ValueError, InvalidSignature):
        return _nothing("signature-wrong", agent, "not signed by the enrolled measurer")
    root, clock = enrolment.root, NO_CLOCK if earlier is None else earlier.clock
    try:
        quote = evidence.quote or None
        if (quote and quote.kind) != (root and root.kind):
            raise ValueError("is not the kind of root that was enrolled")
        if root is not None:
            octets = b"" if quote is None else quote.octets
            booted, clock = read_quote(root, octets, _quoted_part(evidence), clock)
            if booted != root.digest:
                what = f"its registers {root.pcrs} hold {booted[:12]}; expected {root.digest[:12]}"
                return TrustTier.CONTRAINDICATED, (Deviation("boot-other", agent, what),), None
    except Exception as fault:  # as below
        return _nothing("quote-wrong", agent, f"{evidence.root}: {fault}")
    if evidence.software != enrolment.software:
        what = f"enrolled is {enrolment.software}, it runs {evidence.software}"
        return TrustTier.CONTRAINDICATED, (Deviation("software-other", agent, what),), None
    try:
        measured = ProcessMeasurement.decode(evidence.measurement)
        tier, deviations = appraise(measured, values, None if earlier is None else earlier.measured)
    except Exception as fault:  # whatever is wrong with it, it is no reason to trust
        return _nothing("evidence-unreadable", agent, f"{type(fault).__name__}")
    return tier, deviations, LastLook(measured, clock)


def _signed_part(evidence: Evidence) -> bytes:
    return _encode(replace(evidence, signature=""))


def _quoted_part(evidence: Evidence) -> bytes:
    return sha256(_encode(replace(evidence, quote=UNSET, signature=""))).digest()


def _nothing(kind: str, where: str, what: str) -> tuple[TrustTier, tuple[Deviation, ...], None]:
    return TrustTier.NONE, (Deviation(kind, where, what),), None
