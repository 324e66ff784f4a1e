"""Ethereum's formats: accounts, signed transactions and RLP.

Keccak-256 comes from pycryptodome and the curve from libsecp256k1. Transactions are of the oldest
kind (EIP-155), which every node takes. Octets from outside are read strictly: one value has one
encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coincurve import PrivateKey, PublicKey
from Crypto.Hash import keccak as _keccak
from msgspec import Struct

from phalanx.ledger import LedgerError

_WORD = 32
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def keccak(octets: bytes) -> bytes:
    """Return the Keccak-256 of ``octets``: 32 octets."""
    return _keccak.new(digest_bits=256, data=octets).digest()


def one_line(text: str) -> str:
    """Return what a node said, fit to be shown: one line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()


def octets_of(text: str) -> bytes:
    """Return the octets that ``0x…`` stands for.

    Raises:
        LedgerError: if the text is not that.

    """
    try:
        if text[:2] == "0x":
            return bytes.fromhex(text[2:])
    except ValueError:
        pass
    raise LedgerError(f"{text[:20]!r} is not octets in hexadecimal")


# -- RLP ------------------------------------------------------------------------------------


def rlp(item: bytes | int | Sequence[Any]) -> bytes:
    """Return the RLP encoding of octets, of a number from 0, or of a sequence of such."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _length(len(item), 0x80) + item
    body = b"".join(map(rlp, item))
    return _length(len(body), 0xC0) + body


def _length(size: int, base: int) -> bytes:
    if size < 56:
        return bytes([base + size])
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([base + 55 + len(digits)]) + digits


def fields_of(octets: bytes) -> list[bytes]:
    """Return what ``octets`` are the RLP encoding of, a flat list of octets.

    Raises:
        LedgerError: if they are none.

    """
    start, end = _span(octets, 0, 0xC0)
    fields: list[bytes] = []
    while start < end == len(octets):
        first, last = _span(octets, start, 0x80)
        fields.append(octets[first:last])
        start = last
    if rlp(fields) != octets:
        raise LedgerError("octets that are no transaction")
    return fields


def _span(octets: bytes, at: int, base: int) -> tuple[int, int]:
    """Return where the content of an item begins and ends; what is wrong shows when encoded."""
    size = (octets[at] if at < len(octets) else 0) - base
    if size < 0:
        return at, at + 1
    if size < 56:
        return at + 1, at + 1 + size
    start = at + size - 54
    return start, start + int.from_bytes(octets[at + 1 : start], "big")


# -- accounts and transactions -------------------------------------------------------------


class Transaction(Struct, frozen=True):
    """What an account signs."""

    nonce: int
    gas_price: int
    gas: int
    to: bytes
    """Address, 20 octets; empty: the data make a contract."""
    data: bytes


class Account:
    """A private key and its address. Signatures follow RFC 6979."""

    def __init__(self, secret: bytes) -> None:
        """Take a private key of 32 octets.

        Raises:
            LedgerError: if it is none.

        """
        try:
            if len(secret) != _WORD:
                raise ValueError
            self._key = PrivateKey(secret)
        except ValueError:
            raise LedgerError("an account's secret is 32 octets that are a secp256k1 key") from None
        self.address = _address(self._key.public_key)
        """Lower case, with ``0x``."""

    def sign(self, digest: bytes) -> bytes:
        """Return the signature of a digest of 32 octets: 65 octets, the last tells the key."""
        return self._key.sign_recoverable(digest, hasher=None)

    def sign_transaction(self, it: Transaction, chain: int) -> bytes:
        """Return a transaction as a node takes it."""
        fields = [it.nonce, it.gas_price, it.gas, it.to, 0, it.data]
        signed = self.sign(keccak(rlp([*fields, chain, 0, 0])))
        r, s = int.from_bytes(signed[:32], "big"), int.from_bytes(signed[32:64], "big")
        return rlp([*fields, 35 + 2 * chain + signed[64], r, s])


def signer(digest: bytes, signature: bytes) -> str:
    """Return the address that signed a digest.

    Raises:
        LedgerError: if nobody did.

    """
    try:
        return _address(PublicKey.from_signature_and_message(signature, digest, hasher=None))
    except Exception:  # the library raises what it likes of octets that are no signature
        raise LedgerError("a signature of nobody") from None


def read_transaction(raw: bytes, chain: int) -> tuple[Transaction, str]:
    """Return a signed transaction and the address that signed it.

    Raises:
        LedgerError: if the octets are none, for this chain and without value.

    """
    fields = fields_of(raw)
    if len(fields) != 9:
        raise LedgerError("octets that are no transaction")
    numbers = [int.from_bytes(fields[n], "big") for n in (0, 1, 2, 4, 6, 7, 8)]
    nonce, price, gas, value, v, r, s = numbers
    to, data = fields[3], fields[5]
    if value or len(to) not in (0, 20) or v not in (35 + 2 * chain, 36 + 2 * chain):
        raise LedgerError("a transaction of another chain, or one that moves value")
    if not 0 < s <= _HALF_ORDER or r >> 256:  # the other s would sign the same under another hash
        raise LedgerError("a signature of nobody")
    digest = keccak(rlp([nonce, price, gas, to, 0, data, chain, 0, 0]))
    compact = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v - 35 - 2 * chain])
    return Transaction(nonce, price, gas, to, data), signer(digest, compact)


def contract_address(account: str, nonce: int) -> str:
    """Return the address of the contract that an account makes with a transaction."""
    return "0x" + keccak(rlp([octets_of(account), nonce]))[12:].hex()


def _address(key: PublicKey) -> str:
    return "0x" + keccak(key.format(compressed=False)[1:])[12:].hex()
