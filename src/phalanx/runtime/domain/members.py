"""Who belongs to a domain, as its directory says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path

from cryptography import x509
from msgspec import Struct

from phalanx.identity import (
    IdentityError,
    IssuedRecord,
    Trust,
    fingerprint,
    hosts_of,
    identity_of,
    read_certificate,
    read_issued,
)
from phalanx.identity.credentials import CERTIFICATE_FILE
from phalanx.identity.names import Identity, Role

AUTHORITY, BROKERS, IDENTITIES = "authority", "brokers", "identities"
"""Folders of a domain's directory."""


class Standing(Enum):
    """Whether an identity may connect."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Member(Struct, frozen=True):
    """An identity of the domain."""

    identity: Identity
    until: datetime
    """When its certificate ends."""
    standing: Standing
    hosts: tuple[str, ...] = ()
    """Of a broker."""
    key: str = ""
    """SHA-256 of the public key with which it may connect; of who was revoked, none."""


def read_members(folder: Path, domain: str, time: Callable[[], datetime]) -> tuple[Member, ...]:
    """Return who belongs to a domain and who was revoked: brokers first, then by name.

    Args:
        folder: the domain's directory.
        domain: its name.
        time: the time of day.

    Raises:
        IdentityError: if a file cannot be read, or a certificate stands in another's place.

    """
    trust, now = Trust.read(folder / AUTHORITY, time), time()
    found = []
    for certificate in _certificates(folder):
        if trust.revoked(certificate):
            continue  # listed below: its directory is about to go
        until = certificate.not_valid_after_utc
        found.append(
            Member(
                identity_of(certificate),
                until,
                Standing.VALID if until > now else Standing.EXPIRED,
                hosts_of(certificate),
                fingerprint(certificate),
            )
        )
    there = {member.identity.name for member in found}
    found += [
        Member(Identity(record.name, record.role, domain), record.until, Standing.REVOKED)
        for record in _retired(folder, trust, now).values()
        if record.name not in there
    ]
    return tuple(sorted(found, key=lambda m: (m.identity.role is not Role.BROKER, m.identity.name)))


def folders(folder: Path) -> list[Path]:
    """Return the directories of all members of a domain."""
    return sorted(
        path
        for kind in (BROKERS, IDENTITIES)
        for path in (folder / kind).iterdir()
        if not path.name.startswith(".") and path.is_dir()
    )


def _certificates(folder: Path) -> list[x509.Certificate]:
    found = []
    for path in folders(folder):
        certificate = read_certificate(path / CERTIFICATE_FILE)
        if (name := identity_of(certificate).name) != path.name:
            raise IdentityError(f"{path}: holds the certificate of {name}; move it elsewhere")
        found.append(certificate)
    return found


def _retired(folder: Path, trust: Trust, now: datetime) -> dict[str, IssuedRecord]:
    """Return the last certificate of each name that was revoked and has not run out."""
    return {
        record.name: record
        for record in read_issued(folder / AUTHORITY)
        if record.until > now and trust.revoked_serial(int(record.serial, 16))
    }
