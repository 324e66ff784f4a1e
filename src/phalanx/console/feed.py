"""The log as the page reads it: one line an event, numbered, with its text, as it grows.

Lines stand in a temporary file, so that a log of a million events takes 60 MB of memory.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event, Sink
from phalanx.reporting.event_text import describe
from phalanx.store.jsonl import LONGEST_LINE, decode_line

MOST_TRIED = 50
"""Lines of which one must be an event, or the file is no log."""
LOOK_S = 0.1
"""Pause before a file that has ended is read again."""


class Line(Struct, frozen=True):
    """An event with its text: what the page is given."""

    id: str
    time: float
    agent: str
    kind: str
    cause: str | None
    data: dict[str, Any]
    text: str


MOST_OCTETS = 48 << 20
"""Octets of lines above which a page is given fewer samples; causes never are left out."""
SAMPLES = frozenset(
    ("network.sample", "measures.counted", "resources.changed", "workload.forecast")
)
"""Kinds that only measure: what is left out of them leaves no gap in any chain of causes."""


class Thinning:
    """Says which samples a page of limited size is not given of a log.

    It takes the whole log by ``weigh`` first, and is asked by ``keeps`` in the same order then.

    Args:
        most: octets of lines that a page holds.

    """

    def __init__(self, most: int = MOST_OCTETS) -> None:
        self._most = most
        self._samples: dict[str, int] = {}
        self._named: set[str] = set()
        self._size = self._asked = 0
        self._step = 1
        self.note = ""
        """What is left out, in words; empty: nothing."""

    def weigh(self, event_id: str, kind: str, cause: str | None, octets: int) -> None:
        """Take the next event of the log."""
        self._size += octets
        if kind in SAMPLES:
            self._samples.setdefault(event_id, octets)
        if cause in self._samples:
            self._named.add(cause)

    def settle(self) -> None:
        """Leave out as many samples as must be, of what was weighed so far, from the first on."""
        free = [octets for name, octets in self._samples.items() if name not in self._named]
        size, over = sum(free), self._size - self._most
        self._asked = 0
        if over <= 0 or not free:
            return
        self._step = step = max(2, -(-size // max(size - over, size // 1000, 1)))
        self.note = (
            f"The log is large, so this page holds one in {step} of its samples of traffic and "
            f"resources ({len(free) - -(-len(free) // step)} are left out). All causes and "
            "decisions are here."
        )

    def keeps(self, kind: str, event_id: str) -> bool:
        """Whether the page is given an event."""
        if self._step == 1 or kind not in SAMPLES or event_id in self._named:
            return True
        self._asked += 1
        return self._asked % self._step == 1


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


def line_of(event: Event) -> bytes:
    """Return an event as a line of the page's log, without a line feed."""
    return _encoder.encode(
        Line(
            event.id,
            event.time,
            event.agent,
            event.kind,
            event.cause,
            event.data,
            describe(event),
        )
    )


class Feed:
    """Takes events from any thread, and gives them by number.

    Args:
        thinning: says what pages are not told of; None: they are told of all.

    """

    def __init__(self, thinning: Thinning | None = None) -> None:
        self._thinning = thinning or Thinning()
        self._told = bytearray()
        self.thinned = self._thinning.note
        """What pages are not told of, in words."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by ``close``
        self._ends = array("Q", [0])
        self._places: dict[str, int] = {}
        self._lock = threading.Lock()
        self.whole = False
        """Whether no more events come."""
        self.trouble = ""
        """Why the log cannot be read to its end."""

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        line = line_of(event)
        with self._lock:
            self._file.write(line)
            self._places.setdefault(event.id, len(self))
            self._told.append(self._thinning.keeps(event.kind, event.id))
            self._ends.append(self._ends[-1] + len(line))

    def place(self, event_id: str) -> int | None:
        """Return the number of an event, from 0; None if it is not here."""
        return self._places.get(event_id)

    def lines(self, begin: int, end: int) -> list[bytes]:
        """Return the lines of the events from number ``begin`` to below ``end``."""
        begin, end = max(begin, 0), min(end, len(self))
        if begin >= end:
            return []
        with self._lock:
            self._file.flush()
        ends = self._ends[begin : end + 1]
        octets = os.pread(self._file.fileno(), ends[-1] - ends[0], ends[0])
        pairs = pairwise(ends)
        return [octets[a - ends[0] : b - ends[0]] for a, b in pairs]

    def told(self, begin: int, end: int) -> list[bytes]:
        """Return those of ``lines`` that a page is told of."""
        lines, begin = self.lines(begin, end), max(begin, 0)
        return [line for at, line in enumerate(lines, begin) if self._told[at]]

    def read(self, begin: int, end: int) -> list[Line]:
        """Return ``lines`` as objects."""
        return [_decoder.decode(line) for line in self.lines(begin, end)]

    def get(self, event_id: str) -> Iterator[Line]:
        """Yield the event of an id, if it is here: for ``store.causes.climb``."""
        place = self.place(event_id)
        if place is not None:
            yield from self.read(place, place + 1)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def part_of(log: Path) -> Path:
    """Return the file to read: the log, or its part while a run still writes it.

    Raises:
        LogError: if there is neither, or what is there holds no events.

    """
    if log.exists():
        _check(log)
        return log
    parts = sorted(log.parent.glob(f"{log.name}.part-*"), key=lambda p: p.stat().st_mtime)
    if not parts:
        raise LogError(f"{log}: no such file, and no run writes it")
    return parts[-1]


def _check(log: Path) -> None:
    """Refuse a file of which no line at its beginning is an event."""
    try:
        with log.open("rb") as file:
            lines = [file.readline(LONGEST_LINE) for _ in range(MOST_TRIED)]
    except OSError as error:
        raise LogError(f"{log}: {error.strerror or error}") from None
    for line in filter(None, lines):
        with suppress(LogError, ValueError):
            decode_line(line)
            return
    raise LogError(f"{log}: is no event log: none of its first {MOST_TRIED} lines is an event")


class _Head(Struct):
    id: str
    kind: str
    cause: str | None = None


def thinning_of(log: Path, most: int = MOST_OCTETS) -> Thinning:
    """Return what a page is not told of a recorded log, which is read through if it is large.

    Raises:
        LogError: if it cannot be read.

    """
    thinning, head = Thinning(most), msgspec.json.Decoder(_Head)
    try:
        if log.stat().st_size > most:
            with log.open("rb") as file:
                while line := file.readline(LONGEST_LINE):
                    with suppress(msgspec.MsgspecError, ValueError):
                        read = head.decode(line)
                        thinning.weigh(read.id, read.kind, read.cause, len(line))
    except OSError as error:
        raise LogError(f"{log}: {error.strerror or error}") from None
    thinning.settle()
    return thinning


def follow(feed: Feed, path: Path, stop: Callable[[], bool], add: Sink) -> None:
    """Add the events of a log, and go on while it grows, until its run ends or ``stop`` says so.

    Lines that are no events are left out.

    Args:
        feed: takes the events.
        path: the log; it may be renamed while it is read.
        stop: asked often.
        add: takes each event; the feed's own ``add``, or one that calls it.

    """
    rest = b""
    try:
        with path.open("rb") as file:
            while not stop():
                block = file.read(1 << 20)
                if not block:
                    if feed.whole:
                        return
                    time.sleep(LOOK_S)
                    continue
                *lines, rest = (rest + block).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    rest = b""
                for line in lines:
                    _take(feed, line, add)
    except OSError as error:
        feed.trouble = f"{path}: {error.strerror or error}"


def _take(feed: Feed, line: bytes, add: Sink) -> None:
    try:
        event = decode_line(line)
    except (LogError, ValueError):
        return
    add(event)
    if event.kind == "run.ended":
        feed.whole = True
