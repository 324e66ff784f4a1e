"""Event logs as files: one JSON object a line, in the order things happened.

The same events give the same bytes: fields in the order of ``Event``, data in the order it
was recorded, UTF-8, a line feed after each line.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import msgspec
from msgspec import Struct

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.loading import open_file

LONGEST_LINE = 16 * 1024 * 1024
"""Bytes that one line may have; a longer one is left out."""

MOST_SHOWN = 20
"""Of the lines that were left out, so many are kept with the reason."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


class JsonlSink:
    """Writes events to a file while they happen; ``path`` appears whole, by ``close``.

    Until then they stand in ``PATH.part-XXXXXXXX`` beside it, each event as soon as it was
    written. As a context manager it closes at the end; if an exception ends the block, the part
    stays unless it is empty.
    """

    def __init__(self, path: Path) -> None:
        """Open the part file, so that a path that cannot be written is refused now.

        Args:
            path: the log; a file that is there already is replaced by ``close``.

        Raises:
            LogError: if nothing can be written there.

        """
        self._name = path
        self._target = Path(os.path.realpath(path))
        self._size = 0
        if self._target.exists() and not self._target.is_file():
            raise LogError(f"{path}: is not a regular file")
        # Not a name that can be foreseen: in a shared folder, it could be taken by a link.
        self.part = self._target.with_name(f"{self._target.name}.part-{secrets.token_hex(4)}")
        """Where the events stand until ``close``."""
        try:
            self._file = self.part.open("xb", buffering=0)
        except OSError as error:
            raise _named(path, error) from error

    def __call__(self, event: Event) -> None:
        """Write one event.

        Raises:
            LogError: if it is not JSON, or the file cannot take it.

        """
        self.write([encode_line(event)])

    def write(self, lines: Iterable[bytes]) -> None:
        """Write lines, all or none; they survive a process that is killed.

        Raises:
            LogError: if the file cannot take them.

        """
        rest = memoryview(b"".join(lines))
        size = self._size + len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.seek(self._size)
                self._file.truncate()
            raise _named(self._name, error) from error
        self._size = size

    def close(self) -> None:
        """Bring everything to the disk and give the log its name.

        Raises:
            LogError: if that failed; what was at ``path`` is still there, and so is the part.

        """
        if self._file.closed:
            return
        try:
            with self._file:
                os.fsync(self._file.fileno())
            self.part.replace(self._target)
        except OSError as error:
            raise _named(self._name, error) from error
        with contextlib.suppress(OSError):  # not every file system can sync a folder
            _sync_folder(self._target.parent)

    def leave(self) -> None:
        """End without giving the log its name: the part stays, unless it is empty."""
        self._file.close()
        if not self._size:
            self.part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.leave()


def encode_line(event: Event) -> bytes:
    """Return ``event`` as one line of a log, with its line end.

    Raises:
        LogError: if it holds what JSON has no form for.

    """
    if not math.isfinite(event.time):
        raise LogError(f"event {event.id!r}: its time is {event.time}")
    try:
        return _encoder.encode(event) + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LogError(f"event {event.id!r}: cannot be written as JSON: {error}") from error


def write_jsonl(events: Iterable[Event], path: Path) -> None:
    """Write a log, all or nothing: ``path`` is replaced only by a whole and synced file.

    Raises:
        LogError: if an event is not JSON or the file cannot be written.

    """
    with JsonlSink(path) as sink:
        sink.write(map(encode_line, events))


class LogReading(Struct, frozen=True):
    """What could be read of an event log."""

    events: list[Event]
    """Of all whole lines, in order; an id that comes again is left out."""
    left_out: tuple[str, ...] = ()
    """Why a line was left out, as ``line N: why``: the first ``MOST_SHOWN`` of them."""
    lines: int = 0
    """How many lines were left out."""
    octets: int = 0
    """Of the lines that were left out."""
    uncaused: tuple[str, ...] = ()
    """Of events whose cause is no line above, as ``left_out``; a gap or damage explains them."""

    def note(self, path: Path) -> str | None:
        """Return one line that says what was left out; None if the log is whole."""
        parts = []
        if self.lines:
            what = "1 line was" if self.lines == 1 else f"{self.lines} lines were"
            parts.append(f"{what} left out ({self.octets} octets): {self.left_out[0]}")
        if self.uncaused:
            count = len(self.uncaused)
            what = "1 event names" if count == 1 else f"{count} events name"
            parts.append(f"{what} a cause that is not there: {self.uncaused[0]}")
        return f"{path}: {'; '.join(parts)}" if parts else None


class LogStream:
    """Yields the events of a log one by one, as far as its lines are whole.

    A line that was cut or damaged, in the middle too, is left out, and what comes after it is
    read. Memory is bounded by ``LONGEST_LINE``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._left_out, self._uncaused = list[str](), list[str]()
        self._lines = self._octets = 0
        self.number = 0
        """Of the line that was read last, from 1."""

    def __iter__(self) -> Iterator[Event]:
        """Read the file.

        Raises:
            LogError: if it cannot be read, or has lines and none of them is an event.

        """
        whole = False
        try:
            with open_file(self._path) as file:
                for self.number, (line, self._size) in enumerate(_lines(file), 1):
                    try:
                        event = decode_line(line)
                    except LogError as error:
                        self._leave_out(str(error))
                        continue
                    whole = True
                    yield event
        except (OSError, ValueError) as error:
            raise _named(self._path, error) from error
        if self._lines and not whole:
            raise LogError(f"{self._path}: {self._left_out[0]}")

    def unique(self) -> Iterator[Event]:
        """Read the file likewise, of events with one id the first; all ids are held in memory.

        Raises:
            LogError: if it cannot be read, or has lines and none of them is an event.

        """
        ids: set[str] = set()
        for event in self:
            if event.id in ids:
                self._leave_out(f"the id {event.id!r} is taken by a line above")
                continue
            if (cause := event.cause) is not None and cause not in ids:
                self._uncaused.append(f"line {self.number}: the cause {cause!r} is no line above")
            ids.add(event.id)
            yield event

    def _leave_out(self, why: str) -> None:
        """Count the last line as left out."""
        self._lines, self._octets = self._lines + 1, self._octets + self._size
        if self._lines <= MOST_SHOWN:
            self._left_out.append(f"line {self.number}: {why}")

    def reading(self, events: Sequence[Event] = ()) -> LogReading:
        """Return what was read so far, with those of its events that the caller kept."""
        left_out, uncaused = tuple(self._left_out), tuple(self._uncaused)
        return LogReading(list(events), left_out, self._lines, self._octets, uncaused)


def read_log(path: Path) -> LogReading:
    """Read a whole log into memory, as ``LogStream.unique`` does.

    Raises:
        LogError: if the file cannot be read, or has lines and none of them is an event.

    """
    stream = LogStream(path)
    return stream.reading(list(stream.unique()))


def read_jsonl(path: Path) -> list[Event]:
    """Read a log that must be whole: each line an event, each cause above its effect.

    Raises:
        LogError: with one line ``FILE: line N: what`` for the first thing that is wrong.

    """
    reading = read_log(path)
    for wrong in reading.left_out + reading.uncaused:
        raise LogError(f"{path}: {wrong}")
    return reading.events


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each line and its octets; of one that is too long only the beginning."""
    while line := file.readline(LONGEST_LINE + 1):
        size, rest = len(line), line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
            size += len(rest)
        yield line, size


def decode_line(line: bytes) -> Event:
    """Return the event of one line of a log.

    Raises:
        LogError: if it is none.

    """
    if len(line) > LONGEST_LINE:
        raise LogError(f"longer than {LONGEST_LINE} bytes")
    try:
        line.decode()  # first: the JSON decoder looks at the encoding only inside of strings
        return _decoder.decode(line)
    except UnicodeDecodeError as error:
        hint = "; a file of gzip must be unpacked first" if line.startswith(b"\x1f\x8b") else ""
        raise LogError(f"not UTF-8 at byte {error.start + 1}{hint}") from error
    except msgspec.ValidationError as error:
        raise LogError(f"not an event: {error}") from error
    except msgspec.DecodeError as error:
        raise LogError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise LogError("nested too deeply") from error


def _named(path: Path, error: OSError | ValueError) -> LogError:
    return LogError(f"{path}: {getattr(error, 'strerror', None) or error}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
