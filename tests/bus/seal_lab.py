"""Agents with seals and a network between them that does what it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import OpenedFrame, RefusedFrame, SealLimits
from phalanx.identity.certificates import authority_certificate, identity_certificate
from phalanx.identity.credentials import Credentials
from phalanx.identity.names import Identity, Role
from phalanx.identity.trust import Trust

START = datetime(2030, 1, 1, tzinfo=UTC)


@cache
def authority(domain: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, authority_certificate(key, domain, START)


@cache
def credentials(
    name: str, role: Role = Role.AGENT, domain: str = "edge", signed_by: str = "edge"
) -> Credentials:
    signer, certificate = authority(signed_by)
    key = ec.generate_private_key(ec.SECP256R1())
    identity = Identity(name, role, domain)
    own = identity_certificate(signer, certificate, key.public_key(), identity, (), START, 90)
    return Credentials(own, key, Trust(certificate, time=lambda: START + timedelta(days=1)))


def without(name: str) -> Trust:
    """Return the trust of those who know that ``name``'s certificate was revoked."""
    signer, certificate = authority("edge")
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(credentials(name).certificate.serial_number)
        .revocation_date(START)
        .build()
    )
    listed = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(START)
        .next_update(START + timedelta(days=1))
        .add_revoked_certificate(entry)
        .sign(signer, hashes.SHA256())
    )
    return Trust(certificate, listed, lambda: START + timedelta(days=1))


def seal(name: str, incarnation: int = 1, limits: SealLimits | None = None) -> Seal:
    return Seal(credentials(name), incarnation, limits or SealLimits())


class Pair:
    """Two agents; all that one sends the other gets at once, unless frames are taken out."""

    def __init__(self, limits: SealLimits | None = None) -> None:
        self.limits = limits
        self.seals = {"alice": seal("alice", 1, limits), "bob": seal("bob", 1, limits)}
        self.got: dict[str, list[bytes]] = {"alice": [], "bob": []}
        self.sent: list[tuple[str, bytes]] = []
        """(receiver, frame), all that ever went out."""
        self.outcomes: list[OpenedFrame | RefusedFrame] = []
        self.now = 0.0

    def send(self, sender: str, payload: bytes) -> None:
        receiver = other(sender)
        self.carry(receiver, self.seals[sender].wrap(receiver, payload, self.now))

    def carry(self, receiver: str, frames: list[bytes] | tuple[bytes, ...]) -> None:
        for frame in frames:
            self.sent.append((receiver, frame))
            outcome = self.hear(receiver, frame)
            self.carry(other(receiver), outcome.replies)

    def hear(self, receiver: str, frame: bytes) -> OpenedFrame | RefusedFrame:
        outcome = self.seals[receiver].open(other(receiver), frame, self.now)
        self.outcomes.append(outcome)
        if isinstance(outcome, OpenedFrame) and outcome.payload is not None:
            self.got[receiver].append(outcome.payload)
        return outcome

    def tick(self) -> None:
        for name, own in self.seals.items():
            self.carry(other(name), [frame for _, frame in own.tick(self.now)])

    def restart(self, name: str, incarnation: int) -> None:
        self.seals[name] = seal(name, incarnation, self.limits)


def other(name: str) -> str:
    return "bob" if name == "alice" else "alice"
