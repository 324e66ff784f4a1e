"""Two files of which one is whole at every moment: a value that is replaced, never torn.

Each file holds a record, sealed with a checksum and a generation number. A new record is
written beside them and renamed over the older one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path

from msgspec import Struct

MAX_OCTETS = 64 * 1024 * 1024
"""Largest value; a file that is larger is damaged."""

_HEAD = struct.Struct(">8sQQ16s")  # magic, generation, length, checksum
_MAGIC = b"PHXMEM\x00\x01"


class Record(Struct, frozen=True):
    """A value that was found, or written."""

    name: str
    """Of its file."""
    generation: int
    """Counts what was written, up from 1."""
    octets: bytes


class Slots:
    """Keeps a value in the files ``NAME-a`` and ``NAME-b`` of a folder.

    For one process at a time.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Read what is there.

        Raises:
            OSError: if a file that is there cannot be read.

        """
        self._folder = folder
        self._part = folder / f"{name}.part"
        self._names = f"{name}-a", f"{name}-b"
        self.newest: Record | None = None
        """The newest whole record; None if there is none."""
        self.damaged: list[str] = []
        """Files that are no whole records. One of them may have been newer than ``newest``."""
        self._part.unlink(missing_ok=True)
        for file in self._names:
            self._read(file)

    def write(self, octets: bytes, *, sync: bool) -> Record:
        """Put a value in the place of the older one.

        Args:
            octets: the value, at most ``MAX_OCTETS``.
            sync: wait until it is on the disk.

        Raises:
            OSError: if that failed: the newest record is still there, and no part of another.

        """
        before = self.newest
        name = self._names[before is not None and before.name == self._names[0]]
        # A damaged record may have had the next number.
        generation = 1 + len(self.damaged) + (before.generation if before else 0)
        head = _HEAD.pack(_MAGIC, generation, len(octets), _seal(generation, octets))
        try:
            with self._part.open("wb", buffering=0) as file:
                _write_all(file.fileno(), head + octets)
                if sync:
                    os.fsync(file.fileno())
            self._part.replace(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise
        self.newest = Record(name, generation, octets)
        self.damaged = [other for other in self.damaged if other != name]
        if sync:
            _sync_folder(self._folder)
        return self.newest

    def _read(self, name: str) -> None:
        try:
            with (self._folder / name).open("rb") as file:
                found = file.read(_HEAD.size + MAX_OCTETS + 1)
        except FileNotFoundError:
            return
        octets = found[_HEAD.size :]
        if len(found) >= _HEAD.size:
            magic, generation, length, seal = _HEAD.unpack_from(found)
            if (magic, length) == (_MAGIC, len(octets)) and seal == _seal(generation, octets):
                if self.newest is None or self.newest.generation < generation:
                    self.newest = Record(name, generation, octets)
                return
        self.damaged.append(name)


def _seal(generation: int, octets: bytes) -> bytes:
    """Return the checksum of a record: against damage, not against forgery."""
    digest = hashlib.blake2b(generation.to_bytes(8, "big"), digest_size=16)
    digest.update(octets)
    return digest.digest()


def _write_all(descriptor: int, octets: bytes) -> None:
    rest = memoryview(octets)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
