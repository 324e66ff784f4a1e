"""The log of a server on this machine, read line by line while the server writes and rotates it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from io import BufferedReader
from pathlib import Path

from msgspec import Struct

_CHUNK = 1 << 20


class LogPosition(Struct, frozen=True):
    """Where reading stopped; found again also after the file was set aside."""

    file: str
    """Digest of the file's first line, which has the moment and the process in it."""
    offset: int
    """Octets of whole lines before it."""


class ServerLog:
    """Gives each line of a log once, also of files that the server has set aside.

    Those are beside the log and have its name with a moment behind it.

    Args:
        log: the file, which need not be there yet.
        after: a place where an earlier reader stopped; if its file is gone, what there is still
            is read from the begin on. None: see ``from_start``.
        from_start: whether what stands in the log already counts.

    """

    def __init__(
        self, log: Path, *, after: LogPosition | None = None, from_start: bool = False
    ) -> None:
        self._log = log
        self._file: BufferedReader | None = None
        self._offset = 0
        paths, offset = self._paths(), 0
        begin = len(paths) - 1
        if after is not None:
            begin, lines = 0, [_first_line(path) for path in paths]
            if after.file in lines:
                begin, offset = lines.index(after.file), after.offset
        self._done = {_first_line(path) for path in paths[:begin]}
        """The files that are not to be read any more."""
        if after is not None:
            self._open(paths[begin], offset)
        elif not from_start and log.exists():
            self._open(log, log.stat().st_size)

    @property
    def place(self) -> LogPosition | None:
        """How far it was read; None: no line of the file is there yet."""
        first = None if self._file is None else _digest(self._file)
        return None if first is None else LogPosition(first, self._offset)

    def lines(self) -> Iterator[bytes]:
        """Give the whole lines that were not given yet, without their ends."""
        if self._file is None:
            self._open(self._log)
        while self._file is not None:
            yield from self._rest(self._file)
            following = self._following(self._file)
            if following is None:
                return
            self._open(following)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rest(self, file: BufferedReader) -> Iterator[bytes]:
        if os.fstat(file.fileno()).st_size < self._offset:
            self._offset = 0  # it was truncated
        while True:
            file.seek(self._offset)
            *lines, part = file.read(_CHUNK).split(b"\n")
            if not lines and len(part) == _CHUNK:  # no line of a server is that long
                lines = [part[:-1]]
            if not lines:
                return
            for line in lines:
                self._offset += len(line) + 1
                yield line

    def _following(self, file: BufferedReader) -> Path | None:
        """Return the file after one that was set aside; None: it is still the log."""
        mine, log = os.fstat(file.fileno()), self._log
        try:
            now = log.stat()
        except FileNotFoundError:  # for a moment there is none
            return None
        if (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino):
            return None
        self._done |= {_digest(file), None}
        later = (path for path in self._paths() if _first_line(path) not in self._done)
        return next(later, log)

    def _paths(self) -> list[Path]:
        """Return the files in the order in which they were written."""
        return [*sorted(self._log.parent.glob(f"{self._log.name}.*")), self._log]

    def _open(self, path: Path, offset: int = 0) -> None:
        self.close()
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            return
        self._offset = offset


def _first_line(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return _digest(file)
    except OSError:
        return None


def _digest(file: BufferedReader) -> str | None:
    octets = os.pread(file.fileno(), 4096, 0)
    end = octets.find(b"\n")
    return None if end < 0 else sha256(octets[:end]).hexdigest()
