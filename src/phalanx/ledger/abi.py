"""The ABI of contracts, by eth-abi.

It takes a fifth of a verb's start to import: who needs Keccak alone does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_abi import abi
from eth_abi.exceptions import DecodingError, EncodingError, ParseError

from phalanx.ledger import LedgerError


def encode(kinds: Sequence[str], values: Sequence[Any]) -> bytes:
    """Return the ABI encoding of ``values``.

    Raises:
        LedgerError: if they are not of these types.

    """
    try:
        return abi.encode(kinds, values)
    except (EncodingError, ParseError, UnicodeError, TypeError) as error:
        raise LedgerError(f"values that no contract takes: {error}".splitlines()[0][:150]) from None


def decode(kinds: Sequence[str], octets: bytes) -> tuple[Any, ...]:
    """Return the values that ``octets`` encode.

    Raises:
        LedgerError: if they are not what ``encode`` makes of values of these types.

    """
    try:
        values = abi.decode(kinds, octets)
        if abi.encode(kinds, values) == octets:
            return values
    except (DecodingError, EncodingError, UnicodeError, OverflowError):
        pass
    raise LedgerError("octets that are not the values they should be")
