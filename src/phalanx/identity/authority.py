"""The certification authority of a domain: a directory of the domain's keeper.

===============  ===================================================================
file             holds
===============  ===================================================================
``ca.pem``       its certificate
``ca-key.pem``   its key; its reader can take any name in the domain, unless it is
                 sealed by a passphrase
``issued.json``  every certificate that it issued: serial, name, role, end, key
``crl.pem``      what it took back before its end (RFC 5280, 5), signed by it
===============  ===================================================================

A certificate is listed before it is handed out, so that every one can be revoked. To revoke a
name is to write one file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from phalanx.identity import certificates, files
from phalanx.identity.credentials import Ask, check_passphrase, key_octets, read_key, sealed_octets
from phalanx.identity.names import Identity, IdentityError, Role
from phalanx.identity.trust import (
    AUTHORITY_FILE,
    REVOKED_FILE,
    Trust,
    check_time,
    pem,
    read_certificate,
    wall_time,
)

KEY_FILE = "ca-key.pem"
DAYS = 90
"""How long a certificate is valid unless said otherwise."""
ISSUED_FILE = "issued.json"


class IssuedRecord(Struct, frozen=True):
    """One certificate that was issued."""

    serial: str
    """Hexadecimal: JSON has no numbers that long."""
    name: str
    role: Role
    until: datetime
    key: str = ""
    """``certificates.fingerprint``; unknown where an earlier version issued it."""


class Issued(Struct, frozen=True):
    """What was issued: a certificate, and the key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Authority:
    """Issues, renews and revokes the certificates of one domain; ``create`` or ``open`` it."""

    def __init__(
        self,
        folder: Path,
        domain: str,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        time: Callable[[], datetime],
    ) -> None:
        self.domain = domain
        self.certificate = certificate
        self._folder = folder
        self._key = key
        self._time = time

    @classmethod
    def create(
        cls,
        folder: Path,
        domain: str,
        time: Callable[[], datetime] = wall_time,
        passphrase: bytes | None = None,
    ) -> Authority:
        """Make a new authority in a new directory (0700), as a whole or not at all.

        Args:
            folder: the directory.
            domain: whose it is.
            time: the time of day.
            passphrase: opens its key; None: the key lies open.

        Raises:
            IdentityError: if there is something already, it cannot be written, or the
                passphrase is too short.

        """
        if passphrase is not None:
            check_passphrase(passphrase)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certificates.authority_certificate(key, domain, time())
        with files.appearing(folder) as part:
            authority = cls(part, domain, certificate, key, time)
            files.write(part / AUTHORITY_FILE, pem(certificate))
            authority.seal(passphrase)
            _write_issued(part, ())
            authority._list_revoked(())
        return authority.at(folder)

    @classmethod
    def open(
        cls,
        folder: Path,
        domain: str,
        time: Callable[[], datetime] = wall_time,
        ask: Ask | None = None,
    ) -> Authority:
        """Return the authority in a directory.

        Args:
            folder: the directory.
            domain: whose it is.
            time: the time of day.
            ask: asked for the passphrase, if the key is sealed by one; None: it must not be.

        Raises:
            IdentityError: if a file is missing, damaged, or of another authority, if others may
                read its key, it does not open, or if its certificate expired.

        """
        certificate = read_certificate(folder / AUTHORITY_FILE)
        key = read_key(folder / KEY_FILE, ask)
        if key.public_key() != certificate.public_key():
            raise IdentityError(f"{folder / KEY_FILE}: is not the key of {folder / AUTHORITY_FILE}")
        check_time(certificate, "the authority", time())
        return cls(folder, domain, certificate, key, time)

    def at(self, folder: Path) -> Authority:
        """Return the same authority in the place to which its directory was moved."""
        return Authority(folder, self.domain, self.certificate, self._key, self._time)

    def seal(self, passphrase: bytes | None) -> None:
        """Keep the key under ``passphrase`` from now on; with None, in the open.

        Raises:
            IdentityError: if the passphrase is too short, or the key cannot be written.

        """
        if passphrase is not None:
            check_passphrase(passphrase)
        octets = (
            key_octets(self._key) if passphrase is None else sealed_octets(self._key, passphrase)
        )
        files.write(self._folder / KEY_FILE, octets, secret=True)

    @property
    def trust(self) -> Trust:
        """What it says now about whose certificate is whose."""
        return Trust.read(self._folder, self._time)

    def issue(self, identity: Identity, hosts: Iterable[str] = (), days: int = DAYS) -> Issued:
        """Return a new certificate and key for ``identity``.

        Args:
            identity: whose it will be.
            hosts: of a broker, the DNS names and addresses that it is reached as.
            days: how long it is valid.

        Raises:
            IdentityError: if it is of another domain, a host is none, or the list cannot be
                written.

        """
        if identity.domain != self.domain:
            raise IdentityError(
                f"{identity.name} is of the domain {identity.domain!r}; expected {self.domain!r}"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        return Issued(self._sign(key.public_key(), identity, hosts, days), key)

    def renew(self, certificate: x509.Certificate, days: int = DAYS) -> x509.Certificate:
        """Return a certificate for the same identity, key and hosts, valid from now on.

        The key does not move: it may be on another machine, and one file is all that changes
        there. If the key may have leaked, revoke the name and add it again.

        Args:
            certificate: the present one, expired or not.
            days: how long the new one is valid.

        Raises:
            IdentityError: if it is of another authority, or was revoked.

        """
        self.trust.check_issued(certificate)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # it signed none of another kind
        identity = certificates.identity_of(certificate)
        return self._sign(key, identity, certificates.hosts_of(certificate), days)

    def revoke(self, name: str) -> int:
        """Take back all certificates of ``name`` that are valid still; return how many.

        Raises:
            IdentityError: if the list cannot be written.

        """
        with self._alone():
            listed = self._revoked()
            already = {entry.serial_number for entry in listed}
            now = self._time()
            added = [
                x509.RevokedCertificateBuilder()
                .serial_number(int(record.serial, 16))
                .revocation_date(now)
                .build()
                for record in self.issued()
                if record.name == name
                and record.until > now
                and int(record.serial, 16) not in already
            ]
            if added:
                self._list_revoked((*listed, *added))
            return len(added)

    def issued(self) -> tuple[IssuedRecord, ...]:
        """Return all certificates that were issued, oldest first.

        Raises:
            IdentityError: if the list is damaged.

        """
        return read_issued(self._folder)

    def _sign(
        self, key: ec.EllipticCurvePublicKey, identity: Identity, hosts: Iterable[str], days: int
    ) -> x509.Certificate:
        """Make a certificate, and list it before it is handed out."""
        certificate = certificates.identity_certificate(
            self._key, self.certificate, key, identity, hosts, self._time(), days
        )
        record = IssuedRecord(
            f"{certificate.serial_number:x}",
            identity.name,
            identity.role,
            certificate.not_valid_after_utc,
            certificates.fingerprint(certificate),
        )
        with self._alone():
            _write_issued(self._folder, (*self.issued(), record))
        return certificate

    def _revoked(self) -> tuple[x509.RevokedCertificate, ...]:
        path = self._folder / REVOKED_FILE
        try:
            return tuple(x509.load_pem_x509_crl(files.read(path)))
        except ValueError:
            raise IdentityError(f"{path}: is no revocation list in PEM") from None

    def _list_revoked(self, revoked: tuple[x509.RevokedCertificate, ...]) -> None:
        now = self._time()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - certificates.BACKDATED)
            .next_update(now + timedelta(days=certificates.AUTHORITY_DAYS))
            .add_extension(x509.CRLNumber(len(revoked)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        for entry in revoked:
            builder = builder.add_revoked_certificate(entry)
        files.write(self._folder / REVOKED_FILE, pem(builder.sign(self._key, hashes.SHA256())))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time change the lists."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def read_issued(folder: Path) -> tuple[IssuedRecord, ...]:
    """Return all certificates that the authority in ``folder`` issued; its key is not needed.

    Raises:
        IdentityError: if the list cannot be read or is damaged.

    """
    path = folder / ISSUED_FILE
    try:
        return msgspec.json.decode(files.read(path), type=tuple[IssuedRecord, ...])
    except msgspec.MsgspecError as error:
        raise IdentityError(f"{path}: is damaged: {error}") from None


def _write_issued(folder: Path, records: Iterable[IssuedRecord]) -> None:
    """Write the list of the authority in ``folder``.

    Raises:
        IdentityError: if it cannot be written.

    """
    octets = msgspec.json.format(msgspec.json.encode(tuple(records)), indent=1)
    files.write(folder / ISSUED_FILE, octets + b"\n")
