"""Credentials: what a process has in hand to prove who it is, and to judge who others are."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from msgspec import Struct

from phalanx.identity.errors import IdentityError
from phalanx.identity.files import read, write
from phalanx.identity.names import Identity
from phalanx.identity.passphrases import MARK, Ask
from phalanx.identity.trust import (
    AUTHORITY_FILE,
    REVOKED_FILE,
    Trust,
    pem,
    read_certificate,
    wall_time,
)

CERTIFICATE_FILE, KEY_FILE = "cert.pem", "key.pem"


class Files(Struct, frozen=True):
    """Where credentials are kept, all in PEM."""

    certificate: Path
    key: Path
    authority: Path
    revoked: Path
    """May be missing: then nothing was revoked."""

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Return the files of a directory under their usual names."""
        return cls(
            folder / CERTIFICATE_FILE,
            folder / KEY_FILE,
            folder / AUTHORITY_FILE,
            folder / REVOKED_FILE,
        )


class Credentials:
    """The certificate and key of an identity, and the trust in its domain's authority.

    Raises:
        IdentityError: if the authority would not take the certificate (``Trust.identify``).

    """

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, trust: Trust
    ) -> None:
        self.certificate = certificate
        self.key = key
        self.trust = trust
        self.identity: Identity = trust.identify(certificate)

    @classmethod
    def read(cls, files: Files, time: Callable[[], datetime] = wall_time) -> Credentials:
        """Return the credentials in ``files``.

        Raises:
            IdentityError: if a file is missing or damaged, they do not belong together, others
                may read the key, or the certificate is not valid now.

        """
        certificate = read_certificate(files.certificate)
        key = read_key(files.key)
        if key.public_key() != certificate.public_key():
            raise IdentityError(f"{files.key}: is not the key of {files.certificate}")
        trust = Trust.of_files(files.authority, files.revoked, time)
        try:
            return cls(certificate, key, trust)
        except IdentityError as error:
            raise IdentityError(f"{files.certificate}: {error}") from None

    @property
    def secret(self) -> bytes:
        """Octets that nobody else knows and that stay the same while the key does."""
        return sha256(b"phalanx identity secret\0" + key_octets(self.key)).digest()


def tls_context(files: Files) -> ssl.SSLContext:
    """Return how to connect to a broker with ``files``: TLS 1.3, the broker's host is checked.

    Raises:
        IdentityError: if a file is missing or damaged, or others may read the key.

    """
    read_key(files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(files.authority)
        context.load_cert_chain(files.certificate, files.key)
    except OSError as error:  # ssl.SSLError is one
        raise IdentityError(f"{files.certificate}: is not usable for TLS: {error}") from None
    return context


def read_key(path: Path, ask: Ask | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the key in a PEM file that nobody but its owner may read.

    Args:
        path: the file.
        ask: asked for the passphrase, if the key is under one; None: it must not be.

    Raises:
        IdentityError: if there is none, others may read it, or the passphrase is not its own.

    """
    octets = read(path, secret=True)
    passphrase = None
    if MARK in octets:
        if ask is None:
            raise IdentityError(f"{path}: is sealed by a passphrase, and must not be")
        passphrase = ask()
    try:
        key = load_pem_private_key(octets, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    if passphrase is not None:
        raise IdentityError(f"{path}: the passphrase does not open it")
    raise IdentityError(f"{path}: is no EC key in PEM")


def write_credentials(
    folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Write cert.pem and key.pem (0600) into a directory.

    Raises:
        IdentityError: if they cannot be written.

    """
    write(folder / CERTIFICATE_FILE, pem(certificate))
    write(folder / KEY_FILE, key_octets(key), secret=True)


def key_octets(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as PEM (PKCS #8); only ever for a file of its owner's."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
