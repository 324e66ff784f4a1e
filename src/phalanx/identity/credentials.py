"""Credentials: what a process has in hand to prove who it is, and to judge who others are.

A key under a passphrase is an OpenSSH private key (PROTOCOL.key): AES-256 under a key that
bcrypt-pbkdf makes of the passphrase. ``ssh-keygen -y`` reads it too.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
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
    load_ssh_private_key,
)
from msgspec import Struct

from phalanx.identity.files import read, write
from phalanx.identity.names import Identity, IdentityError
from phalanx.identity.trust import (
    AUTHORITY_FILE,
    REVOKED_FILE,
    Trust,
    pem,
    read_certificate,
    wall_time,
)

CERTIFICATE_FILE, KEY_FILE = "cert.pem", "key.pem"
VARIABLE = "PHALANX_PASSPHRASE_FILE"
"""The environment variable that names the file of the passphrase."""
SHORTEST = 12
"""Characters of a passphrase, at least."""
RENEW_WITHIN = timedelta(days=14)
"""How long before its end a certificate should be renewed."""

_SEALED, _SEALED_PKCS8 = b"BEGIN OPENSSH PRIVATE KEY", b"BEGIN ENCRYPTED PRIVATE KEY"
_ROUNDS = 100
"""Of bcrypt-pbkdf: 0.75 s on one core for each guess, and no cheaper on a graphics card than the
scrypt (16 MiB, 8 lanes) of the files that earlier versions wrote, which are still read."""

Ask = Callable[[], bytes]
"""Returns the passphrase; raises ``IdentityError`` if it cannot be asked for."""


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
        """Octets that no other process knows and that stay the same while the key does."""
        return sha256(b"phalanx identity secret\0" + key_octets(self.key)).digest()


class LiveCredentials:
    """The credentials in ``files``, and those that replace them later.

    Args:
        files: where they are.
        time: the time of day.

    Raises:
        IdentityError: as ``Credentials.read`` and ``tls_context``.

    """

    def __init__(self, files: Files, time: Callable[[], datetime] = wall_time) -> None:
        self.files = files
        self.trouble: str | None = None
        """Why what the files hold now is not in use; None: it is."""
        self._time = time
        self._seen = _stamps(files)
        self.present = Credentials.read(files, time)
        """Those in use."""
        self.tls = tls_context(files)
        """How to connect with them; the same object always, also for later connections."""
        self._told: list[Callable[[Credentials], object]] = []

    @property
    def until(self) -> datetime:
        """When the certificate ends."""
        return self.present.certificate.not_valid_after_utc

    @property
    def left(self) -> timedelta:
        """How long the certificate still holds; negative once it has ended."""
        return self.until - self._time()

    @property
    def ends_soon(self) -> bool:
        """Whether it is time to renew it: in its last 14 days, or its last quarter if shorter."""
        life = self.until - self.present.certificate.not_valid_before_utc
        return self.left < min(RENEW_WITHIN, life / 4)

    def on_change(self, handler: Callable[[Credentials], object]) -> None:
        """Tell ``handler`` of credentials that are in use from now on."""
        self._told.append(handler)

    def look(self) -> bool:
        """Use what the files hold, if it is new and usable; return whether that is so.

        It costs four ``stat`` where nothing changed. What was in use stays if the files hold
        another identity or authority, an older revocation list, or nothing that is usable.
        """
        stamps = _stamps(self.files)
        if stamps == self._seen:
            return False
        try:
            fresh = Credentials.read(self.files, self._time)
            self._check(fresh)
            tls_context(self.files)  # tried apart: one that fails leaves the one in use half new
            if _stamps(self.files) != stamps:
                return False  # the files are being written: the next look finds them whole
            self.tls.load_cert_chain(self.files.certificate, self.files.key)
        except (IdentityError, OSError) as error:
            self.trouble = str(error)
            return False  # and is read again the next time: a certificate may become valid
        self._seen, self.trouble = stamps, None
        before, self.present = self.present, fresh
        if (fresh.certificate, fresh.trust.number) == (before.certificate, before.trust.number):
            return False
        for handler in self._told:
            handler(fresh)
        return True

    def _check(self, fresh: Credentials) -> None:
        files, present = self.files, self.present
        if fresh.identity != present.identity:
            raise IdentityError(
                f"{files.certificate}: is that of {fresh.identity.uri}; "
                f"this process is {present.identity.uri}"
            )
        if fresh.trust.authority != present.trust.authority:
            raise IdentityError(
                f"{files.authority}: is another authority; it is taken when the process starts anew"
            )
        if fresh.trust.number < present.trust.number:
            raise IdentityError(
                f"{files.revoked}: number {fresh.trust.number} is older than the list in use, "
                f"number {present.trust.number}"
            )


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
    """Return the key in a PEM file that its owner alone may read.

    Args:
        path: the file.
        ask: asked for the passphrase, if the key is under one; None: it must not be.

    Raises:
        IdentityError: if there is none, others may read it, or the passphrase is not its own.

    """
    octets = read(path, secret=True)
    passphrase = None
    load = load_ssh_private_key if _SEALED in octets else load_pem_private_key
    if _SEALED in octets or _SEALED_PKCS8 in octets:
        if ask is None:
            raise IdentityError(f"{path}: is sealed by a passphrase, and must not be")
        passphrase = ask()
    try:
        key = load(octets, passphrase)
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


def sealed_octets(key: ec.EllipticCurvePrivateKey, passphrase: bytes) -> bytes:
    """Return a key as PEM that opens with ``passphrase`` alone."""
    encryption = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(_ROUNDS).build(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption)


def ask_environment() -> bytes:
    """Return the passphrase in the file that ``PHALANX_PASSPHRASE_FILE`` names.

    Raises:
        IdentityError: if it names none, or the file is not usable.

    """
    if path := os.environ.get(VARIABLE):
        return read_passphrase(Path(path))
    raise IdentityError(
        f"the authority's key is sealed by a passphrase; name the file that holds it in {VARIABLE}"
    )


def read_passphrase(path: Path) -> bytes:
    """Return the first line of a file that its owner alone may read.

    Raises:
        IdentityError: if it cannot be read, others may read it, or it holds no passphrase.

    """
    passphrase = read(path, secret=True, what="passphrase").split(b"\n", 1)[0].rstrip(b"\r")
    if not passphrase:
        raise IdentityError(f"{path}: holds no passphrase; it is expected in the first line")
    return passphrase


def check_passphrase(passphrase: bytes) -> None:
    """Check that a new passphrase is one.

    Raises:
        IdentityError: if it is too short.

    """
    if len(passphrase) < SHORTEST:
        raise IdentityError(
            f"the passphrase has {len(passphrase)} characters; at least {SHORTEST} are expected"
        )


def _stamps(files: Files) -> tuple[tuple[int, ...] | None, ...]:
    """Return what changes when one of the files does."""
    return tuple(map(_stamp, (files.certificate, files.key, files.authority, files.revoked)))


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
