"""What one agent remembers, on disk: kept through kill -9, power failures and damaged files.

**Sync.** ``save`` and ``begin`` return after ``fsync`` of the file and of its folder: what
they wrote survives a power failure as far as the disk tells the truth. An agent that saves
often may do without (``sync=False``): then a process that is killed still loses nothing, and
a power failure may cost the memory, but not the count of incarnations.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from msgspec import Struct

from phalanx.domain.errors import StoreError
from phalanx.store.slots import MAX_OCTETS, Record, Slots

_LOCK = "lock"
_NUMBER = 8
"""Octets of an incarnation."""


class Recollection(Struct, frozen=True):
    """A memory that was found on disk."""

    octets: bytes
    generation: int
    """Counts what was saved, up from 1."""
    incarnation: int
    """Of the agent that saved it."""
    damaged: str | None = None
    """None: it is the newest, and the one before it is whole. Else one line: which file is
    damaged, so that this memory, maybe an older one, had to do."""


class Memories:
    """The memory of one agent in a folder that only one process uses at a time.

    The operating system ends the claim of a process that dies.
    """

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        """Claim the folder ``path``, which is made if need be, and read what is in it.

        Args:
            path: the folder, of this agent alone.
            sync: whether ``save`` waits for the disk; see above.

        Raises:
            StoreError: if it cannot be used, or another process uses it.

        """
        self._path = path
        self._sync = sync
        self._incarnation: int | None = None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._named(error) from error
        try:
            self._claim()
            self._memory = Slots(path, "memory")
            self._life = Slots(path, "life")
        except OSError as error:
            self.close()
            raise self._named(error) from error
        except StoreError:
            self.close()
            raise

    def begin(self, at_least: int = 0) -> int:
        """Begin a new life and return its incarnation, which no earlier life had.

        It is on disk before this returns, whatever ``sync`` says. A folder that was restored
        from a copy cannot know of lives after the copy was made: whoever can ask others (the
        registry, peers) passes the last incarnation that they saw as ``at_least``.

        Args:
            at_least: the last incarnation that is known of from elsewhere.

        Raises:
            StoreError: if it could not be written; or if the count is damaged and
                ``at_least`` does not say either which number is free.

        """
        life, damaged = self._life.newest, self._life.damaged
        if life is None and damaged and at_least < 1:
            raise StoreError(
                f"{self._path}: {_damage(self._life)}: which incarnation comes next is not "
                "known; say which one others saw last, or remove the folder"
            )
        # A damaged record may have been of the latest life: its number is left out.
        last = len(damaged) + (_number(life) if life is not None else 0)
        memory = self._memory.newest
        remembered = 0 if memory is None else _number(memory)
        incarnation = max(last, remembered, at_least) + 1
        try:
            self._life.write(incarnation.to_bytes(_NUMBER, "big"), sync=True)
        except OSError as error:
            raise self._named(error) from error
        self._incarnation = incarnation
        return incarnation

    def save(self, octets: bytes) -> int:
        """Keep ``octets`` instead of what is there, all or nothing; return its generation.

        Raises:
            StoreError: if there are too many, no life has begun, or they could not be
                written: what was there is still there, and it can be tried again.

        """
        if self._incarnation is None:
            raise StoreError(f"{self._path}: nothing can be saved before a life has begun")
        if len(octets) > MAX_OCTETS - _NUMBER:
            raise StoreError(
                f"{self._path}: a memory of {len(octets)} octets is too large, "
                f"at most {MAX_OCTETS - _NUMBER} can be kept"
            )
        value = self._incarnation.to_bytes(_NUMBER, "big") + octets
        try:
            return self._memory.write(value, sync=self._sync).generation
        except OSError as error:
            raise self._named(error) from error

    def load(self) -> Recollection | None:
        """Return the newest memory that is whole; None if nothing was ever saved.

        Raises:
            StoreError: if there was one, and all that is left is damaged.

        """
        newest = self._memory.newest
        damaged = _damage(self._memory)
        if newest is not None:
            octets = newest.octets[_NUMBER:]
            return Recollection(octets, newest.generation, _number(newest), damaged)
        if damaged is not None:
            raise StoreError(f"{self._path}: {damaged}, and there is no other memory")
        return None

    def close(self) -> None:
        """Give the folder up."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            by = f" (process {owner})" if owner.isdigit() else ""
            raise StoreError(f"{self._path}: another process{by} uses this memory") from None
        with contextlib.suppress(OSError):  # for the line above only: a full disk is no obstacle
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _named(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path}: {error.strerror or error}")


def _number(record: Record) -> int:
    return int.from_bytes(record.octets[:_NUMBER], "big")


def _damage(slots: Slots) -> str | None:
    names = " and ".join(slots.damaged)
    return f"{names} {'is' if len(slots.damaged) == 1 else 'are'} damaged" if names else None
