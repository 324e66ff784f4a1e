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
from enum import Enum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct, field

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


class Reason(Enum):
    """Why a frame is refused."""

    GARBAGE = "garbage"
    """It is no frame."""
    NO_SESSION = "no-session"
    """Its session is not known: one of the two sides started anew, or it is very old."""
    REPLAYED = "replayed"
    """It came in before, or is too old to tell."""
    ALTERED = "altered"
    """It is not what the peer sealed for here."""
    FORGED = "forged"
    """A hello or answer that the peer's certificate did not sign for here."""
    IDENTITY = "identity"
    """Its certificate is not the peer's, or not valid."""
    STALE = "stale"
    """It is of an earlier life of the peer."""
    UNASKED = "unasked"
    """An answer to no hello that waits for one."""
    TOO_OFTEN = "too-often"
    """More hellos than a peer may have looked at."""


HOSTILE = frozenset({Reason.GARBAGE, Reason.ALTERED, Reason.FORGED, Reason.IDENTITY})
"""Reasons that loss, doubling, reordering and restarts never give rise to."""


class OpenedFrame(Struct, frozen=True):
    """A frame that was believed."""

    payload: bytes | None
    """What the peer wrapped; None: it was only about keys."""
    replies: tuple[bytes, ...] = ()
    """Frames to send to the peer now."""


class RefusedFrame(Struct, frozen=True):
    """A frame that was not believed."""

    reason: Reason
    detail: str = ""
    """More about it, in one line."""
    replies: tuple[bytes, ...] = ()
    """Frames to send to the peer now: a hello, if keys are needed."""


class SealCounters(Struct):
    """What became of what was sent and what came in."""

    wrapped: int = 0
    """Payloads given to ``wrap``."""
    opened: int = 0
    """Payloads of peers."""
    shed: int = 0
    """Payloads dropped because too many waited for keys."""
    lapsed: int = 0
    """Payloads dropped because they waited too long."""
    waiting: int = 0
    """Payloads that wait for keys now."""
    sessions: int = 0
    """Agreements made."""
    refused: dict[Reason, int] = field(default_factory=dict)
    """Frames refused."""


class SealLimits(Struct, frozen=True):
    """Bounds; times in seconds of the caller's clock, which need agree with nobody's."""

    rekey_s: float = 3600.0
    """Age at which the initiator of a session makes a new one; the responder 30 s later."""
    rekey_messages: int = 1 << 32
    """Frames after which a session is made anew, whatever its age."""
    overlap_s: float = 300.0
    """How much longer an old session is believed."""
    sessions: int = 4
    """Sessions with one peer that are believed at a time, and as many not yet confirmed."""
    waiting: int = 256
    """Payloads that wait for one peer's keys; the oldest is shed."""
    waiting_octets: int = 1 << 22
    """The same, in octets."""
    waiting_s: float = 10.0
    """How long a payload waits: an auction is over by then."""
    retry_s: float = 0.2
    """When a hello is sent again the first time; then after twice as long, up to ..."""
    retry_most_s: float = 2.0
    hello_s: float = 10.0
    """How long a hello may be answered."""
    unknown_s: float = 1.0
    """How often at most frames of an unknown session make a new one."""
    hellos: int = 16
    """New hellos of one peer that are looked at at once, ..."""
    hellos_per_s: float = 4.0
    """... and afterwards."""
    peers: int = 4096
    """Peers that are known at a time."""


LIMITS = SealLimits()
