"""Frames and sessions of the seal: what goes from peer to peer, as octets (docs/reference/seal.md).

======  =====================================================================================
frame   octets
======  =====================================================================================
hello   ``0x11`` · incarnation 8 · ephemeral key 32 · length 2 · certificate · signature
answer  ``0x12`` · incarnation 8 · ephemeral key 32 · hello's digest 32 · length 2 ·
        certificate · signature
sealed  ``0x13`` · session 8 · number 8 · ciphertext · tag 16
shared  ``0x14`` · slots 2 · for each receiver a slot: its mark 8 · session 8 · number 8 ·
        sealed key 32 · tag 16; then ciphertext · tag 16
======  =====================================================================================

Numbers are big-endian. A signature is that of the certificate's key (ECDSA, SHA-256, DER) over
all octets before it, with what it is for and the subject it travels under in front.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct, field

HELLO, ANSWER, SEALED, SHARED = 0x11, 0x12, 0x13, 0x14
"""First octets: the version of the protocol and the kind of frame."""
HEADER = struct.Struct(">B8sQ")
"""Of a sealed frame: kind, session, number."""
MARK = 8
"""Octets by which a receiver knows its slot in a shared frame."""
OVERHEAD = HEADER.size + 16
"""Octets by which a sealed frame is longer than its payload."""
SLOTS = struct.Struct(">BH")
"""Head of a shared frame: kind, how many slots follow."""
SLOT = MARK + HEADER.size - 1 + 32 + 16
"""Octets of a slot."""
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
    """Bounds; times in seconds of the caller's clock, which need not agree with any other."""

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


WINDOW = 1024
"""By how many numbers one may be late."""
_ALL = (1 << WINDOW) - 1


class ReplayWindow:
    """The window that lets no number in twice (RFC 4303, 3.4.3); numbers too old count as seen."""

    __slots__ = ("_highest", "_seen")

    def __init__(self, first: int = 0) -> None:
        """Begin with all numbers from ``first`` on."""
        self._highest = first - 1
        self._seen = _ALL  # bit n: whether the number n below the highest came in

    def fresh(self, number: int) -> bool:
        """Whether ``number`` did not come in yet."""
        below = self._highest - number
        return below < 0 or (below < WINDOW and not self._seen >> below & 1)

    def mark(self, number: int) -> None:
        """Note that ``number``, which is fresh, came in."""
        ahead = number - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & _ALL
            self._highest = number
        else:
            self._seen |= 1 << -ahead


_INFO = b"phalanx seal 1 keys"


class Keys(Struct, frozen=True):
    """What both sides derive from a handshake."""

    initiator: bytes
    """Key of what the initiator sends, 32 octets."""
    responder: bytes
    """Key of what the responder sends."""
    session: bytes
    """The session's name in frames, 8 octets; says nothing about the keys."""


def derive(shared: bytes, bodies: bytes) -> Keys:
    """Return the keys: HKDF-SHA256 of the shared secret, salted with the digest of ``bodies``.

    Args:
        shared: what both sides make of their ephemeral keys, 32 octets.
        bodies: the signed octets of the hello, then those of the answer.

    """
    octets = HKDF(hashes.SHA256(), 72, sha256(bodies).digest(), _INFO).derive(shared)
    return Keys(octets[:32], octets[32:64], octets[64:])


def agree(own: X25519PrivateKey, theirs: bytes) -> bytes | None:
    """Return the shared secret (RFC 7748, 6.1); None for a key that would make it all zero."""
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        return None


class SealSession:
    """One agreement: seals what goes out and opens what comes in, each number once."""

    def __init__(
        self,
        keys: Keys,
        *,
        initiator: bool,
        subjects: tuple[bytes, bytes],
        born: float,
        rekeys: float,
        ends: float,
        incarnation: int,
        certificate: bytes,
        hello: bytes,
        answer: bytes = b"",
    ) -> None:
        mine, theirs = keys.initiator, keys.responder
        if not initiator:
            mine, theirs = theirs, mine
        self._sealer, self._opener = ChaCha20Poly1305(mine), ChaCha20Poly1305(theirs)
        self._out_subject, self._in_subject = subjects
        self._out_mark = mark(subjects[0])
        self.id = keys.session
        self.born = born
        self.rekeys = rekeys
        """When a new one should take its place."""
        self.ends = ends
        """When it is neither used nor believed any more."""
        self.incarnation = incarnation
        """The peer's."""
        self.certificate = certificate
        """The peer's, by which it agreed."""
        self.hello = hello
        """Digest of the hello that began it."""
        self.answer = answer
        """The frame that answered it, to be sent again if the hello comes again."""
        self.sent = 0
        self.window = ReplayWindow()

    def seal(self, payload: bytes) -> bytes:
        """Return ``payload`` as a frame."""
        number = self.sent
        self.sent = number + 1
        header = HEADER.pack(SEALED, self.id, number)
        return header + self._sealer.encrypt(_nonce(number), payload, header + self._out_subject)

    def slot(self, key: bytes, binds: bytes) -> bytes:
        """Return the slot of a shared frame that lets the peer read what has digest ``binds``."""
        number = self.sent
        self.sent = number + 1
        header = HEADER.pack(SHARED, self.id, number)
        sealed = self._sealer.encrypt(_nonce(number), key, header + self._out_subject + binds)
        return self._out_mark + header[1:] + sealed

    def open(self, frame: bytes, binds: bytes = b"") -> bytes | Reason:
        """Return the payload of a frame of this session, or the key in its slot, once."""
        number = int.from_bytes(frame[9:17])
        if not self.window.fresh(number):
            return Reason.REPLAYED
        header = frame[: HEADER.size]
        try:
            payload = self._opener.decrypt(
                _nonce(number), frame[HEADER.size :], header + self._in_subject + binds
            )
        except InvalidTag:
            return Reason.ALTERED
        self.window.mark(number)
        return payload


def mark(subject: bytes) -> bytes:
    """Return how the receiver of messages under ``subject`` knows its slot in a shared frame."""
    return digest(subject)[:MARK]


def share(sessions: Sequence[SealSession], payload: bytes) -> bytes:
    """Return ``payload`` as one frame that the peers of all sessions can open, and no other.

    It is encrypted once, under a key of its own. Each slot holds that key, sealed for one peer
    together with the digest of the ciphertext: who can read it still cannot change it for others.
    """
    key = ChaCha20Poly1305.generate_key()
    sealed = ChaCha20Poly1305(key).encrypt(_nonce(0), payload, None)
    binds = digest(sealed)
    slots = b"".join([session.slot(key, binds) for session in sessions])
    return SLOTS.pack(SHARED, len(sessions)) + slots + sealed


def shared_slot(frame: bytes, own: bytes) -> tuple[bytes, bytes] | None:
    """Return the slot of the mark ``own`` as a sealed frame of its kind, and the ciphertext.

    None if the frame holds no such slot. Raises ``struct.error`` if it is no shared frame.
    """
    _, count = SLOTS.unpack_from(frame)
    end = SLOTS.size + count * SLOT
    if not count or len(frame) < end + 16:
        raise struct.error("a shared frame is cut short")
    place = frame.find(own, SLOTS.size, end)
    while place >= 0 and (place - SLOTS.size) % SLOT:
        place = frame.find(own, place + 1, end)
    if place < 0:
        return None
    return frame[:1] + frame[place + MARK : place + SLOT], frame[end:]


def open_shared(key: bytes, sealed: bytes) -> bytes | Reason:
    """Return the payload of a shared frame, by the key in a slot and the ciphertext."""
    try:
        return ChaCha20Poly1305(key).decrypt(_nonce(0), sealed, None)
    except (InvalidTag, ValueError):
        return Reason.ALTERED


def _nonce(number: int) -> bytes:
    return number.to_bytes(12)
