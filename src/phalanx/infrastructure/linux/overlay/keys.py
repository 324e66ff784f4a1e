"""Where the secrets of the overlay come from: one for each pair of PoPs and epoch."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from threading import Lock
from typing import Protocol

from phalanx.domain.network import PopId

SECRET_OCTETS = 32


class KeyProvider(Protocol):
    """Gives authorised PoPs the secrets that they share in pairs.

    A secret belongs to a pair, not to the group: who learns those of one PoP can neither read
    nor speak for the others. They never stand in a log, an event or a process's arguments.
    """

    def epoch(self) -> int:
        """Return the number of the secrets that hold now; it grows with each rotation."""

    def members(self) -> frozenset[PopId]:
        """Return the PoPs that are authorised now."""

    def secret(self, a: PopId, b: PopId) -> bytes:
        """Return the secret of a pair at the current epoch, the same in either order.

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

    def epoch(self) -> int:
        """Return the number of the secrets that hold now, from 1."""
        return self._epoch

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
                self._secrets[pair] = secrets.token_bytes(SECRET_OCTETS)
            return self._secrets[pair]

    def rotate(self) -> int:
        """Forget all secrets, begin the next epoch and return its number."""
        with self._lock:
            self._secrets.clear()
            self._epoch += 1
            return self._epoch

    def revoke(self, pop: PopId) -> None:
        """Take the authorisation of ``pop`` away, and forget what it shares with others."""
        with self._lock:
            self._members -= {pop}
            self._secrets = {p: secret for p, secret in self._secrets.items() if pop not in p}

    def __repr__(self) -> str:
        return f"LocalKeys({sorted(self._members)}, epoch {self._epoch})"
