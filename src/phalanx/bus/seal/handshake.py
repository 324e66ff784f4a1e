"""The handshake with one peer: hellos and answers are signed, believed, and made into sessions."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from phalanx.bus.seal.frames import Greeting, digest, greet
from phalanx.bus.seal.limits import SealLimits
from phalanx.bus.seal.outcome import Reason, RefusedFrame, SealCounters
from phalanx.bus.seal.session import SealSession, agree, derive
from phalanx.bus.subjects import message
from phalanx.identity import Credentials, IdentityError
from phalanx.identity.names import Identity

RESPONDER_WAITS_S = 30.0
"""How much later than the initiator the responder makes a new session: one of them is enough."""


class Own(Struct):
    """What all peers are met with."""

    credentials: Credentials
    incarnation: int
    limits: SealLimits
    counters: SealCounters
    ephemeral: Callable[[], X25519PrivateKey]


class Handshake:
    """What is signed for one peer, and what is believed of it."""

    def __init__(self, own: Own, name: str) -> None:
        me = own.credentials.identity
        self._own = own
        self._name = name
        self._subjects = (
            message(me.domain, name, me.name).encode(),
            message(me.domain, me.name, name).encode(),
        )

    def disbelieved(self, greeting: Greeting, least: int) -> RefusedFrame | None:
        """Return why it is not the peer's, in its life ``least`` or later; None if it is."""
        me = self._own.credentials.identity
        try:
            identity, key = self._own.credentials.trust.identify_der(greeting.certificate)
        except IdentityError as error:
            return RefusedFrame(Reason.IDENTITY, str(error))
        if identity != Identity(self._name, me.role, me.domain):
            return RefusedFrame(Reason.IDENTITY, f"the certificate is that of {identity.uri}")
        if not greeting.signed_by(key, self._subjects[1]):
            return RefusedFrame(Reason.FORGED)
        if greeting.incarnation < least:
            return RefusedFrame(
                Reason.STALE,
                f"incarnation {greeting.incarnation}, and {least} was here",
            )
        return None

    def sign(self, key: X25519PrivateKey, answers: bytes = b"") -> tuple[bytes, bytes]:
        """Return a hello, or an answer to the hello of digest ``answers``: (body, frame)."""
        credentials = self._own.credentials
        return greet(
            credentials.key,
            self._subjects[0],
            credentials.certificate.public_bytes(Encoding.DER),
            self._own.incarnation,
            key.public_key().public_bytes_raw(),
            answers,
        )

    def agreed(
        self,
        key: X25519PrivateKey,
        greeting: Greeting,
        hello: bytes,
        answer: bytes,
        now: float,
        answered: bytes = b"",
    ) -> SealSession | None:
        """Return the session of a handshake; None if the peer's ephemeral key is none.

        Args:
            key: one's own ephemeral key.
            greeting: the peer's.
            hello: body of the hello.
            answer: body of the answer.
            now: the time.
            answered: the whole answer, of its responder; nothing: this is the initiator.

        """
        shared = agree(key, greeting.ephemeral)
        if shared is None:
            return None
        limits = self._own.limits
        waits = RESPONDER_WAITS_S if answered else 0.0
        return SealSession(
            derive(shared, hello + answer),
            initiator=not answered,
            subjects=self._subjects,
            born=now,
            rekeys=now + limits.rekey_s + waits,
            ends=now + limits.rekey_s + limits.overlap_s,
            incarnation=greeting.incarnation,
            certificate=greeting.certificate,
            hello=digest(hello),
            answer=answered,
        )
