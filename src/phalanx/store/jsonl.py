"""Event logs as files: one JSON object a line, in the order things happened.

The same events give the same bytes: fields in the order of ``Event``, data in the order it
was recorded, UTF-8, a line feed after each line.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event

LONGEST_LINE = 16 * 1024 * 1024
"""Bytes that one line may have; a longer one is refused, not read."""

FLUSH_EVERY = 256
"""Events after which the operating system is given what there is."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


class JsonlSink:
    """Writes events to a file while they happen; ``path`` appears whole, by ``close``.

    Until then they stand in ``PATH.part-XXXXXXXX`` beside it, so that a run that was killed
    leaves its events up to the last flush there. As a context manager it closes at the end,
    and discards the part if an exception ends the block.
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
        self._since_flush = 0
        if self._target.exists() and not self._target.is_file():
            raise LogError(f"{path}: is not a regular file")
        # Not a name that can be foreseen: in a shared folder, it could be taken by a link.
        self._part = self._target.with_name(f"{self._target.name}.part-{secrets.token_hex(4)}")
        try:
            self._file: BinaryIO = self._part.open("xb")
        except OSError as error:
            raise _named(path, error) from error

    def __call__(self, event: Event) -> None:
        """Write one event.

        Raises:
            LogError: if it is not JSON, or the file cannot take it.

        """
        line = encode_line(event)
        try:
            self._file.write(line)
            self._since_flush += 1
            if self._since_flush >= FLUSH_EVERY:
                self._file.flush()
                self._since_flush = 0
        except OSError as error:
            raise _named(self._name, error) from error

    def close(self) -> None:
        """Bring everything to the disk and give the log its name.

        Raises:
            LogError: if that failed; what was at ``path`` is still there, the part is not.

        """
        if self._file.closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._target)
        except OSError as error:
            self.discard()
            raise _named(self._name, error) from error
        with contextlib.suppress(OSError):  # not every file system can sync a folder
            _sync_folder(self._target.parent)

    def discard(self) -> None:
        """Give up: remove the part and leave ``path`` as it was."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


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
        for event in events:
            sink(event)


def read_jsonl(path: Path) -> list[Event]:
    """Read a log and check that its ids are unique and each cause stands before its effect.

    Raises:
        LogError: with one line ``FILE: line N: what`` for the first thing that is wrong.

    """
    events: dict[str, Event] = {}
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, 1):
                try:
                    event = _decode(line)
                    _check_place(event, events)
                except LogError as error:
                    raise LogError(f"{path}: line {number}: {error}") from error
                events[event.id] = event
    except OSError as error:
        raise _named(path, error) from error
    return list(events.values())


def _decode(line: bytes) -> Event:
    if len(line) > LONGEST_LINE:
        raise LogError(f"longer than {LONGEST_LINE} bytes")
    try:
        line.decode()  # first: the JSON decoder looks at the encoding only inside of strings
        return _decoder.decode(line)
    except UnicodeDecodeError as error:
        raise LogError(f"not UTF-8 at byte {error.start + 1}") from error
    except msgspec.ValidationError as error:
        raise LogError(f"not an event: {error}") from error
    except msgspec.DecodeError as error:
        raise LogError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise LogError("nested too deeply") from error


def _check_place(event: Event, before: Mapping[str, Event]) -> None:
    if event.id in before:
        raise LogError(f"the id {event.id!r} is taken by a line above")
    if event.cause is not None and event.cause not in before:
        raise LogError(f"the cause {event.cause!r} is no line above")


def _named(path: Path, error: OSError) -> LogError:
    return LogError(f"{path}: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
