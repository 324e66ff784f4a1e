"""Sessions: the keys that two peers agreed on, and what is sealed and opened with them."""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from phalanx.bus.seal.frames import HEADER, SEALED, Reason

WINDOW = 1024
"""By how many numbers one may be late."""
_ALL = (1 << WINDOW) - 1


class Window:
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

    __slots__ = (
        "_in_subject",
        "_opener",
        "_out_subject",
        "_sealer",
        "answer",
        "born",
        "certificate",
        "ends",
        "hello",
        "id",
        "incarnation",
        "rekeys",
        "sent",
        "window",
    )

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
        self.window = Window()

    def seal(self, payload: bytes) -> bytes:
        """Return ``payload`` as a frame."""
        number = self.sent
        self.sent = number + 1
        header = HEADER.pack(SEALED, self.id, number)
        return header + self._sealer.encrypt(_nonce(number), payload, header + self._out_subject)

    def open(self, frame: bytes) -> bytes | Reason:
        """Return the payload of a frame of this session, once."""
        number = int.from_bytes(frame[9:17])
        if not self.window.fresh(number):
            return Reason.REPLAYED
        header = frame[: HEADER.size]
        try:
            payload = self._opener.decrypt(
                _nonce(number), frame[HEADER.size :], header + self._in_subject
            )
        except InvalidTag:
            return Reason.ALTERED
        self.window.mark(number)
        return payload


def _nonce(number: int) -> bytes:
    return number.to_bytes(12)
