"""What protects each pair of PoPs in the overlay, and since when."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from threading import Lock
from typing import Protocol

from msgspec import Struct

from phalanx.domain.network import PopId


class PairKey(Struct, frozen=True):
    """The secret of a pair of PoPs."""

    generation: int
    """0 or more; it grows with each secret that the pair is given."""
    secret: bytes
    late: bool = False
    """Whether a better one is to come: until then the pair keeps what it has, if it may."""
    least: int = 0
    """Generation below which a secret protects nothing any more: a pair goes without rather."""

    def __repr__(self) -> str:
        return f"PairKey({self.generation}, …)"


class KeyProvider(Protocol):
    """Where the secrets of an overlay come from. Asked from several threads."""

    def members(self) -> frozenset[PopId]:
        """Return the PoPs that are authorised now."""

    def key(self, a: PopId, b: PopId) -> PairKey:
        """Return what protects a pair now, the same in either order.

        Raises:
            KeyError: if one of them is not authorised, or both are the same.

        """


class LocalKeys:
    """Random secrets of 32 octets, kept in this process's memory and nowhere else.

    Safe to use from several threads.
    """

    def __init__(self, members: Iterable[PopId]) -> None:
        self._members = frozenset(members)
        self._epoch = 1
        self._secrets: dict[frozenset[PopId], bytes] = {}
        self._lock = Lock()

    def members(self) -> frozenset[PopId]:
        """Return the PoPs that are authorised now."""
        return self._members

    def secret(self, a: PopId, b: PopId) -> bytes:
        """Return the secret of a pair at the current epoch, the same in either order.

        Raises:
            KeyError: if one of them is not authorised, or both are the same.

        """
        pair = frozenset((a, b))
        with self._lock:
            if len(pair) != 2 or not pair <= self._members:
                raise KeyError(f"{a} and {b} share no secret")
            if pair not in self._secrets:
                self._secrets[pair] = secrets.token_bytes(32)
            return self._secrets[pair]

    def rotate(self) -> None:
        """Forget all secrets, and begin the next epoch."""
        with self._lock:
            self._secrets.clear()
            self._epoch += 1

    def key(self, a: PopId, b: PopId) -> PairKey:
        """Return what protects a pair now; see ``KeyProvider``."""
        return PairKey(self._epoch, self.secret(a, b))

    def revoke(self, pop: PopId) -> None:
        """Take the authorisation of ``pop`` away, and forget what it shares with others."""
        with self._lock:
            self._members -= {pop}
            self._secrets = {p: secret for p, secret in self._secrets.items() if pop not in p}

    def admit(self, pop: PopId) -> None:
        """Authorise ``pop`` from now on; it shares new secrets."""
        with self._lock:
            self._members |= {pop}

    def __repr__(self) -> str:
        return f"LocalKeys({sorted(self._members)}, epoch {self._epoch})"
