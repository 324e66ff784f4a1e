"""Trust: whose certificate it is, judged by the domain's authority and its revocation list."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from phalanx.identity import files
from phalanx.identity.certificates import (
    MALFORMED,
    common_name,
    identity_of,
    may_sign_as_client,
)
from phalanx.identity.names import Identity, IdentityError, Role

AUTHORITY_FILE, REVOKED_FILE = "ca.pem", "crl.pem"


def wall_time() -> datetime:
    """Return the time of day, which certificates are judged by."""
    return datetime.now(UTC)


class Trust:
    """Tells whose a certificate is, or in one line why it counts for none.

    Args:
        authority: certificate of the domain's authority.
        revoked: its revocation list (RFC 5280, 5); None: nothing was revoked.
        time: the time of day.

    Raises:
        IdentityError: if the authority did not sign the list or its time is over, or it is no
            authority.

    """

    def __init__(
        self,
        authority: x509.Certificate,
        revoked: x509.CertificateRevocationList | None = None,
        time: Callable[[], datetime] = wall_time,
    ) -> None:
        key = authority.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_authority(authority):
            raise IdentityError("the certificate of the authority is not one of an authority")
        if revoked is not None and not revoked.is_signature_valid(key):
            raise IdentityError("the revocation list is not signed by the authority")
        # One without an end says that nothing newer is to be expected (RFC 5280, 5.1.2.5).
        if revoked is not None and (end := revoked.next_update_utc) and end < (now := time()):
            raise IdentityError(
                f"the revocation list ended on {_minute(end)}, and the clock here says "
                f"{_minute(now)}; a present one is in every bundle that the domain's keeper has"
            )
        self.authority = authority
        self._revoked = revoked
        self._time = time

    @classmethod
    def read(cls, folder: Path, time: Callable[[], datetime] = wall_time) -> Trust:
        """Return the trust in the authority whose files are in ``folder``.

        Raises:
            IdentityError: if one of them is not usable.

        """
        return cls.of_files(folder / AUTHORITY_FILE, folder / REVOKED_FILE, time)

    @classmethod
    def of_files(
        cls, authority: Path, revoked: Path, time: Callable[[], datetime] = wall_time
    ) -> Trust:
        """Return the trust in the authority whose certificate is in a file.

        Args:
            authority: the file.
            revoked: its revocation list; if there is no such file, nothing was revoked.
            time: the time of day.

        Raises:
            IdentityError: if one of them is not usable.

        """
        certificate, listed = read_certificate(authority), None
        if revoked.exists():
            try:
                listed = x509.load_pem_x509_crl(files.read(revoked))
            except ValueError:
                raise IdentityError(f"{revoked}: is no revocation list in PEM") from None
        try:
            return cls(certificate, listed, time)
        except IdentityError as error:
            raise IdentityError(f"{authority}: {error}") from None

    def identify(self, certificate: x509.Certificate, role: Role | None = None) -> Identity:
        """Return whose certificate it is.

        Args:
            certificate: what a peer shows; that it has the key is for the caller to find out.
            role: the role that is expected; None: any.

        Raises:
            IdentityError: if another authority signed it, it is not valid now, was revoked, is
                not an identity's, or not of the expected role.

        """
        self.check_issued(certificate)
        identity = identity_of(certificate)
        if not may_sign_as_client(certificate):
            raise IdentityError(f"the certificate of {identity.name} is not one of a client")
        check_time(certificate, identity.name, self._time())
        if role is not None and identity.role is not role:
            raise IdentityError(
                f"{identity.name} has the role {identity.role.value}; expected {role.value}"
            )
        return identity

    def identify_der(
        self, octets: bytes, role: Role | None = None
    ) -> tuple[Identity, ec.EllipticCurvePublicKey]:
        """Return whose certificate (DER) it is, and its public key.

        Raises:
            IdentityError: as ``identify``, and if it is no certificate.

        """
        try:
            with warnings.catch_warnings():
                # What the library would only warn of (RFC 5280 forbids it) is refused.
                warnings.simplefilter("error", CryptographyDeprecationWarning)
                certificate = x509.load_der_x509_certificate(octets)
                if not octets.endswith(b"\0" + certificate.signature):
                    raise IdentityError("no certificate: its signature is not written as in DER")
                identity = self.identify(certificate, role)
                key = certificate.public_key()
        except MALFORMED as error:
            raise IdentityError(f"no certificate: {' '.join(str(error).split())[:80]}") from None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise IdentityError(f"the certificate of {identity.name} has no EC key")
        return identity, key

    @property
    def number(self) -> int:
        """Of the revocation list: a later one has a higher number; 0: nothing was revoked yet."""
        if self._revoked is None:
            return 0
        try:
            found = self._revoked.extensions.get_extension_for_class(x509.CRLNumber)
        except MALFORMED:
            return 0
        return found.value.crl_number

    def check_issued(self, certificate: x509.Certificate) -> None:
        """Check that the authority issued a certificate and did not take it back.

        Raises:
            IdentityError: otherwise.

        """
        self._check_signature(certificate)
        if self.revoked(certificate):
            raise IdentityError(f"the certificate of {common_name(certificate)} was revoked")

    def revoked(self, certificate: x509.Certificate) -> bool:
        """Whether the authority took it back."""
        return self.revoked_serial(certificate.serial_number)

    def revoked_serial(self, serial: int) -> bool:
        """Whether the certificate with this number was taken back."""
        listed = self._revoked
        return listed is not None and (
            listed.get_revoked_certificate_by_serial_number(serial) is not None
        )

    def _check_signature(self, certificate: x509.Certificate) -> None:
        try:
            certificate.verify_directly_issued_by(self.authority)
        except (InvalidSignature, *MALFORMED):
            raise IdentityError(
                "the certificate was signed by another authority than this domain's"
            ) from None


def check_time(certificate: x509.Certificate, name: str, now: datetime) -> None:
    """Check that a certificate is valid at this time.

    Raises:
        IdentityError: if it expired, or is not yet valid.

    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise IdentityError(
            f"the certificate of {name} is not valid before {_minute(begin)}, "
            f"and the clock here says {_minute(now)}"
        )
    if now > end:
        raise IdentityError(
            f"the certificate of {name} expired on {_minute(end)}, "
            f"and the clock here says {_minute(now)}"
        )


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file.

    Raises:
        IdentityError: if there is none.

    """
    try:
        return x509.load_pem_x509_certificate(files.read(path))
    except ValueError:
        raise IdentityError(f"{path}: is no certificate in PEM") from None


def pem(what: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """Return a certificate or a revocation list as PEM."""
    return what.public_bytes(Encoding.PEM)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except MALFORMED:
        return False
    return found.value.ca


def _minute(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")
