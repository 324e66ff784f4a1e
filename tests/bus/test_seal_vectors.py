"""The seal's octets: a recorded client, and its keys made again without the product's code."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import OpenedFrame
from phalanx.identity.credentials import Credentials
from phalanx.identity.trust import Trust

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("seal_vectors.json").read_text())
FRAMES = {name: bytes.fromhex(VECTORS[name]) for name in ("hello", "answer", "sealed", "back")}
SAID, ANSWERED = b"attack on link pop1>pop2", b"understood"
TO_BOB, TO_ALICE = b"phx.edge.msg.bob.alice", b"phx.edge.msg.alice.bob"


def recorded(name: str) -> Seal:
    """Return the seal of one who took part, as it was."""
    own = VECTORS[name]
    authority = x509.load_der_x509_certificate(bytes.fromhex(VECTORS["authority"]))
    trust = Trust(authority, time=lambda: datetime(2030, 1, 2, tzinfo=UTC))
    certificate = x509.load_der_x509_certificate(bytes.fromhex(own["certificate"]))
    key = ec.derive_private_key(int(own["key"], 16), ec.SECP256R1())
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(own["ephemeral"]))
    return Seal(
        Credentials(certificate, key, trust), own["incarnation"], ephemeral=lambda: ephemeral
    )


def body(frame: bytes) -> bytes:
    """Return what is signed of a hello or an answer."""
    head = 43 if frame[0] == 0x11 else 75
    return frame[: head + int.from_bytes(frame[head - 2 : head])]


def keys() -> tuple[bytes, bytes, bytes]:
    """Return the keys of both directions and the session, from RFC 5869 and RFC 7748 alone."""
    mine, theirs = (
        X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS[name]["ephemeral"]))
        for name in ("alice", "bob")
    )
    salt = sha256(body(FRAMES["hello"]) + body(FRAMES["answer"])).digest()
    secret = hmac.digest(salt, mine.exchange(theirs.public_key()), "sha256")
    octets, block = b"", b""
    for number in (1, 2, 3):
        block = hmac.digest(secret, block + b"phalanx seal 1 keys" + bytes((number,)), "sha256")
        octets += block
    return octets[:32], octets[32:64], octets[64:72]


def test_the_initiator_makes_the_recorded_octets() -> None:
    alice = recorded("alice")
    (hello,) = alice.wrap("bob", SAID, 0.0)
    assert body(hello) == body(FRAMES["hello"])  # its signature has a random part
    outcome = alice.open("bob", FRAMES["answer"], 0.0)
    assert outcome == OpenedFrame(None, (FRAMES["sealed"],))
    assert alice.open("bob", FRAMES["back"], 0.0) == OpenedFrame(ANSWERED)


def test_the_responder_makes_the_recorded_octets() -> None:
    bob = recorded("bob")
    outcome = bob.open("alice", FRAMES["hello"], 0.0)
    assert isinstance(outcome, OpenedFrame)
    assert body(outcome.replies[0]) == body(FRAMES["answer"])
    assert bob.open("alice", FRAMES["sealed"], 0.0) == OpenedFrame(SAID)
    assert bob.wrap("alice", ANSWERED, 0.0) == [FRAMES["back"]]


@pytest.mark.parametrize(
    ("name", "key", "subject", "said"),
    [("sealed", 0, TO_BOB, SAID), ("back", 1, TO_ALICE, ANSWERED)],
)
def test_frames_are_those_of_the_page(name: str, key: int, subject: bytes, said: bytes) -> None:
    derived = keys()
    header = b"\x13" + derived[2] + bytes(8)
    sealed = ChaCha20Poly1305(derived[key]).encrypt(bytes(12), said, header + subject)
    assert FRAMES[name] == header + sealed


@pytest.mark.parametrize(
    ("name", "who", "subject"), [("hello", "alice", TO_BOB), ("answer", "bob", TO_ALICE)]
)
def test_signatures_are_those_of_the_page(name: str, who: str, subject: bytes) -> None:
    frame = FRAMES[name]
    signed = f"phalanx seal 1 {name}\0".encode() + len(subject).to_bytes(2) + subject + body(frame)
    certificate = x509.load_der_x509_certificate(bytes.fromhex(VECTORS[who]["certificate"]))
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(frame[len(body(frame)) :], signed, ec.ECDSA(hashes.SHA256()))
