"""A key under a passphrase: PKCS #8 (RFC 5958), AES-256 by a key that scrypt makes (RFC 7914).

``cryptography`` encrypts such files itself, but with 2,048 rounds of PBKDF2, which a stolen file
stands up to for hours. Whatever reads encrypted PKCS #8, ``openssl pkey`` too, reads these.
"""

from __future__ import annotations

import os
from base64 import encodebytes
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from phalanx.identity.errors import IdentityError
from phalanx.identity.files import read

Ask = Callable[[], bytes]
"""Returns the passphrase; raises ``IdentityError`` if there is nobody to ask."""

VARIABLE = "PHALANX_PASSPHRASE_FILE"
"""The environment variable that names the file of the passphrase."""
SHORTEST = 12
MARK = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"

_COST, _BLOCK, _LANES = 1 << 14, 8, 8
"""Of scrypt: 16 MiB, the most that OpenSSL takes without being told, and 0.3 s on one core."""
_KEY_OCTETS = 32
_PBES2 = "2a864886f70d01050d"
_SCRYPT = "2b06010401da47040b"
_AES_256_CBC = "60864801650304012a"
_SEQUENCE, _INTEGER, _OCTETS, _OBJECT = 0x30, 0x02, 0x04, 0x06


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
    """Return the first line of a file that nobody but its owner may read.

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


def sealed_octets(key: ec.EllipticCurvePrivateKey, passphrase: bytes) -> bytes:
    """Return a key as PEM that opens with ``passphrase`` alone."""
    salt, start = os.urandom(16), os.urandom(16)
    made = Scrypt(salt=salt, length=_KEY_OCTETS, n=_COST, r=_BLOCK, p=_LANES).derive(passphrase)
    padder, encryptor = PKCS7(128).padder(), Cipher(AES(made), CBC(start)).encryptor()
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    padded = padder.update(plain) + padder.finalize()
    numbers = (_integer(n) for n in (_COST, _BLOCK, _LANES, _KEY_OCTETS))
    derivation = _named(_SCRYPT, _der(_SEQUENCE, _der(_OCTETS, salt), *numbers))
    cipher = _named(_AES_256_CBC, _der(_OCTETS, start))
    scheme = _named(_PBES2, _der(_SEQUENCE, derivation, cipher))
    whole = _der(_SEQUENCE, scheme, _der(_OCTETS, encryptor.update(padded) + encryptor.finalize()))
    return MARK + b"\n" + encodebytes(whole) + MARK.replace(b"BEGIN", b"END") + b"\n"


def _named(oid: str, parameters: bytes) -> bytes:
    """Return an AlgorithmIdentifier."""
    return _der(_SEQUENCE, _der(_OBJECT, bytes.fromhex(oid)), parameters)


def _integer(number: int) -> bytes:
    return _der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    octets = size.to_bytes((size.bit_length() + 7) // 8 or 1, "big")
    length = octets if size < 128 else bytes((0x80 | len(octets),)) + octets
    return bytes((tag,)) + length + body
