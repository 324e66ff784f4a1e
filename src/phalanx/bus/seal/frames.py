"""Frames: what goes from peer to peer, as octets (docs/reference/seal.md).

======  =====================================================================================
frame   octets
======  =====================================================================================
hello   ``0x11`` · incarnation 8 · ephemeral key 32 · length 2 · certificate · signature
answer  ``0x12`` · incarnation 8 · ephemeral key 32 · hello's digest 32 · length 2 ·
        certificate · signature
sealed  ``0x13`` · session 8 · number 8 · ciphertext · tag 16
======  =====================================================================================

Numbers are big-endian. A signature is that of the certificate's key (ECDSA, SHA-256, DER) over
all octets before it, with what it is for and the subject it travels under in front.
"""

from __future__ import annotations

import struct
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

HELLO, ANSWER, SEALED = 0x11, 0x12, 0x13
"""First octets: the version of the protocol and the kind of frame."""
HEADER = struct.Struct(">B8sQ")
"""Of a sealed frame: kind, session, number."""
OVERHEAD = HEADER.size + 16
"""Octets by which a sealed frame is longer than its payload."""
MAX_HANDSHAKE = 4096
"""No hello or answer is longer."""

_PARTS = {HELLO: struct.Struct(">BQ32sH"), ANSWER: struct.Struct(">BQ32s32sH")}
_PURPOSE = {HELLO: b"phalanx seal 1 hello\0", ANSWER: b"phalanx seal 1 answer\0"}
_ECDSA = ec.ECDSA(hashes.SHA256())


class Greeting(Struct, frozen=True):
    """A hello or an answer, not yet believed."""

    incarnation: int
    ephemeral: bytes
    answers: bytes
    """Digest of the hello that it answers; nothing in a hello."""
    certificate: bytes
    body: bytes
    """All that is signed."""
    signature: bytes

    def signed_by(self, key: ec.EllipticCurvePublicKey, subject: bytes) -> bool:
        """Whether the owner of ``key`` sent it under ``subject``."""
        try:
            key.verify(self.signature, _signed(self.body, subject), _ECDSA)
        except InvalidSignature:
            return False
        return True


def digest(body: bytes) -> bytes:
    """Return what an answer names a hello by."""
    return sha256(body).digest()


def greet(
    key: ec.EllipticCurvePrivateKey,
    subject: bytes,
    certificate: bytes,
    incarnation: int,
    ephemeral: bytes,
    answers: bytes = b"",
) -> tuple[bytes, bytes]:
    """Return a hello, or an answer to the hello of digest ``answers``: (body, whole frame)."""
    kind = ANSWER if answers else HELLO
    parts = (kind, incarnation, ephemeral, *((answers,) if answers else ()), len(certificate))
    body = _PARTS[kind].pack(*parts) + certificate
    return body, body + key.sign(_signed(body, subject), _ECDSA)


def parse(frame: bytes) -> Greeting | None:
    """Return the hello or answer that ``frame`` is; None if it is none."""
    parts = _PARTS.get(frame[0])
    if parts is None or not parts.size < len(frame) <= MAX_HANDSHAKE:
        return None
    _, incarnation, ephemeral, *answers, length = parts.unpack_from(frame)
    end = parts.size + length
    if end >= len(frame):
        return None
    return Greeting(
        incarnation,
        ephemeral,
        answers[0] if answers else b"",
        frame[parts.size : end],
        frame[:end],
        frame[end:],
    )


def _signed(body: bytes, subject: bytes) -> bytes:
    return _PURPOSE[body[0]] + struct.pack(">H", len(subject)) + subject + body
