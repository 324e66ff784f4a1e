"""What a server refused, read from its log: the broker tells of it nowhere else.

The server writes what a client says of itself between quotes and escaped, so that a client
cannot write lines of its own. Who it was is read from the server's own words alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from io import BufferedReader
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from phalanx.clock import Clock, Timer

_DISTINCT = 1_000
_CHUNK = 1 << 20

_LINE = re.compile(
    r"\[\d+\] \S+ \S+ \[\w+\] (?P<address>\S+:\d+) - [crl]id:\d+ - "
    r"(?P<quoted>(?:\"(?:[^\"\\]|\\.)*\" - )*)(?P<text>.*)"
)
_CLAIM = re.compile(r"\[\d+\] \S+ \S+ \[WRN\] (?P<text>User .* user required from cert)$")
_RELOADED = re.compile(r"\[\d+\] \S+ \S+ \[INF\] Reloaded(?P<part>:)? ")
_USER = re.compile(r"\"[^\"\\]*/user:(?P<user>[^\"\\]*)\" - $")
_SUBJECT = re.compile(r'Subject "(?P<subject>(?:[^"\\]|\\.)*)"')
_LEFT = re.compile(r"TLS handshake error: .*(EOF|reset by peer|closed network connection)$")
"""Whoever began to connect and went away was refused nothing."""
_KINDS = (
    ("publish", re.compile(r"Publish Violation")),
    ("subscribe", re.compile(r"Subscription Violation")),
    ("certificate", re.compile(r"TLS handshake error: .*certificate")),
    ("timeout", re.compile(r"TLS handshake error: .*timeout|Authentication Timeout$")),
    ("handshake", re.compile(r"TLS handshake error: ")),
    ("identity", re.compile(r"authentication error")),
    ("oversize", re.compile(r"maximum payload exceeded|maximum control line exceeded")),
    ("limit", re.compile(r"maximum (connections|subscriptions) exceeded")),
    ("slow", re.compile(r"Slow Consumer Detected")),
    ("protocol", re.compile(r"Client parser ERROR|process\w+ |message headers not supported")),
)
_NAMELESS = {"certificate", "timeout", "handshake", "identity"}
"""Kinds where nobody has proven yet who it is."""


class Refused(Struct, frozen=True):
    """Something that a server did not let happen."""

    who: str | None
    """The identity as in its certificate; None: it was not proven."""
    what: str
    """``publish``, ``subscribe``, ``certificate``, ``handshake`` (no TLS, or none that is
    allowed), ``timeout`` (nothing was said), ``identity`` (certified, but not known, or another
    than claimed), ``oversize``, ``limit``, ``slow`` or ``protocol`` (garbage)."""
    subject: str | None
    """What was to be published or heard, if it was about that."""
    address: str | None
    """Where it came from, without the port; None: the server does not say."""
    detail: str
    """The server's words."""
    count: int = 1
    """How often, since the log was read last."""


def read_line(line: str) -> Refused | None:
    """Return what a line of the log says was refused; None if it is about something else."""
    claim = _CLAIM.match(line)
    if claim is not None:
        return Refused(None, "identity", None, None, claim["text"][:300])
    match = _LINE.match(line)
    if match is None or _LEFT.match(match["text"]):
        return None
    text = match["text"]
    what = next((what for what, pattern in _KINDS if pattern.match(text)), None)
    if what is None:
        return None
    user = None if what in _NAMELESS else _USER.search(match["quoted"])
    subject = _SUBJECT.search(text)
    return Refused(
        user["user"] if user else None,
        what,
        subject["subject"] if subject else None,
        match["address"].rpartition(":")[0],
        text[:300],
    )


class Audit:
    """Follows the log of a server on this machine, also when it is set aside or truncated."""

    def __init__(self, log: Path, *, from_start: bool = False) -> None:
        """Follow ``log``, which need not be there yet.

        Args:
            log: the server's log file.
            from_start: whether what stands there already counts.

        """
        self._log = log
        self._file: BufferedReader | None = None
        self._rest = b""
        self._reloading = False
        """Whether the server looks anew at who is connected: it takes them for claimants then."""
        if not from_start and (file := self._open()) is not None:
            file.seek(0, os.SEEK_END)
            self._file = file

    def read(self) -> list[Refused]:
        """Return what was refused since the last call, the same things as one.

        A flood does not become one of reports: of more than a thousand different things the
        rest are told as one, with nobody's name.
        """
        found: dict[tuple[object, ...], Refused] = {}
        for line in self._lines():
            text = line.decode("utf-8", "replace")
            if reloaded := _RELOADED.match(text):
                self._reloading = reloaded["part"] is not None
            one = read_line(text)
            if one is None or (self._reloading and _CLAIM.match(text)):
                continue
            key: tuple[object, ...] = (one.who, one.what, one.subject, one.address)
            if key not in found and len(found) >= _DISTINCT:
                key = ("more",)
                one = Refused(None, one.what, None, one.address, "and more that differ")
            before = found.get(key)
            found[key] = one if before is None else replace(before, count=before.count + 1)
        return list(found.values())

    def every(self, clock: Clock, seconds: float, handler: Callable[[Refused], None]) -> Timer:
        """Tell ``handler`` of what was refused, again and again; return the first timer."""

        def look() -> None:
            for one in self.read():
                handler(one)
            timer.inner = clock.call_at(clock.now() + seconds, look)

        timer = _Repeated()
        timer.inner = clock.call_at(clock.now() + seconds, look)
        return timer

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> Iterable[bytes]:
        if self._file is None:
            self._file = self._open()
        while self._file is not None:
            place = self._file.tell()
            if os.fstat(self._file.fileno()).st_size < place:
                self._file.seek(0)
                self._rest = b""
            while octets := self._file.read(_CHUNK):
                *lines, self._rest = (self._rest + octets).split(b"\n")
                yield from lines
            if self._current():
                return
            self.close()  # it was set aside, and is read to its end
            self._rest = b""
            self._file = self._open()

    def _open(self) -> BufferedReader | None:
        try:
            return self._log.open("rb")
        except FileNotFoundError:
            return None

    def _current(self) -> bool:
        """Whether the open file is still the log; also if there is none at the moment."""
        assert self._file is not None
        try:
            now = self._log.stat()
        except FileNotFoundError:
            return True
        mine = os.fstat(self._file.fileno())
        return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)


class _Repeated:
    """The timer of something that repeats."""

    inner: Timer

    def cancel(self) -> None:
        self.inner.cancel()
