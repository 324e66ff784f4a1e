"""Keys that are handed out in public open for one agent and one epoch alone."""

from __future__ import annotations

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from phalanx.trust.keys import SealedKeyError, open_key, pair_secret, seal_key

OWN = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = OWN.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
SECRET = bytes(reversed(range(32)))
SEALED = seal_key(SECRET, PUBLIC, "pop1", 3, bytes([9] * 32))


def test_its_receiver_opens_it() -> None:
    assert open_key(SEALED, OWN, "pop1", 3) == SECRET
    assert SECRET not in SEALED


@pytest.mark.parametrize(("agent", "epoch"), [("pop2", 3), ("pop1", 2), ("pop1", 4)])
def test_it_opens_for_no_other_agent_or_epoch(agent: str, epoch: int) -> None:
    with pytest.raises(SealedKeyError):
        open_key(SEALED, OWN, agent, epoch)


def test_no_other_key_opens_it() -> None:
    with pytest.raises(SealedKeyError):
        open_key(SEALED, X25519PrivateKey.generate(), "pop1", 3)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_octet_is_seen(place: int, by: int) -> None:
    octets = bytearray(SEALED)
    octets[place] ^= by
    with pytest.raises(SealedKeyError):
        open_key(bytes(octets), OWN, "pop1", 3)


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_one_line(octets: bytes) -> None:
    with pytest.raises(SealedKeyError, match=r"^the key of epoch 3 [^\n]+$"):
        open_key(octets, OWN, "pop1", 3)


def test_two_agents_share_one_secret_which_is_no_other_pairs() -> None:
    assert pair_secret(SECRET, "a", "b") == pair_secret(SECRET, "b", "a")
    others = [("a", "c"), ("ab", ""), ("", "ab")]
    made = {pair_secret(SECRET, *pair) for pair in [("a", "b"), *others[:2]]}
    assert len(made) == 3
    assert pair_secret(secrets.token_bytes(32), "a", "b") not in made
