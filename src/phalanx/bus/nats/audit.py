"""What a server refused, read from its log: the broker tells of it nowhere else.

The server writes what a client says of itself between quotes and escaped, so that a client
cannot write lines of its own. Who it was is read from the server's own words alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from io import BufferedReader
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

_DISTINCT = 1_000

_LINE = re.compile(
    r"\[\d+\] \S+ \S+ \[\w+\] (?P<address>\S+:\d+) - [crl]id:\d+ - "
    r"(?P<quoted>(?:\"(?:[^\"\\]|\\.)*\" - )*)(?P<text>.*)"
)
_CLAIM = re.compile(
    r"\[\d+\] \S+ \S+ \[WRN\] (?P<text>User \"(?P<user>(?:[^\"\\]|\\.)*)\" found in connect proto,"
    r" but user required from cert)$"
)
_PROVEN = re.compile(r'Using \S+ found in cert for auth \["(?P<user>[^"\\]*)"\]$')
_RELOADED = re.compile(r"\[\d+\] \S+ \S+ \[INF\] Reloaded server configuration")
_USER = re.compile(r"\"[^\"\\]*/user:(?P<user>[^\"\\]*)\" - $")
_SUBJECT = re.compile(r'Subject "(?P<subject>(?:[^"\\]|\\.)*)"')
_LEFT = re.compile(
    r"TLS (route )?handshake error: .*"
    r"(EOF|reset by peer|closed network connection|certificate not pinned)$"
)
"""A client that went away while connecting was refused nothing; a key was told before."""
_KEY = re.compile(r"Failed pinned cert test for key id: (?P<key>[0-9a-f]{64})$")
_KINDS = (
    ("publish", re.compile(r"Publish Violation")),
    ("subscribe", re.compile(r"Subscription Violation")),
    ("key", _KEY),
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
"""Kinds where the client has not proven yet who it is."""


class BrokerRefusal(Struct, frozen=True):
    """Something that a server did not let happen."""

    who: str | None
    """The identity as in its certificate; None: it was not proven."""
    what: str
    """``publish``, ``subscribe``, ``certificate``, ``key`` (certified, but not one that is let
    in, such as a revoked one), ``handshake`` (no TLS, or none that is allowed), ``timeout``
    (nothing was said), ``identity`` (certified, but not known, or another than claimed),
    ``oversize``, ``limit``, ``slow`` or ``protocol`` (garbage)."""
    subject: str | None
    """What was to be published or heard, if it was about that."""
    address: str | None
    """Where it came from, without the port; None: the server does not say."""
    detail: str
    """The server's words."""
    count: int = 1
    """How often, since the log was read last."""
    key: str | None = None
    """Of ``key``: which one, as ``identities.fingerprint``; its owner has proven to have it."""


def read_line(line: str) -> BrokerRefusal | None:
    """Return what a line of the log says was refused; None if it is about something else."""
    match = _LINE.match(line)
    if match is None or _LEFT.match(match["text"]):
        return None
    text = match["text"]
    what = next((what for what, pattern in _KINDS if pattern.match(text)), None)
    if what is None:
        return None
    user = None if what in _NAMELESS else _USER.search(match["quoted"])
    subject = _SUBJECT.search(text)
    key = _KEY.match(text)
    return BrokerRefusal(
        user["user"] if user else None,
        what,
        subject["subject"] if subject else None,
        _host(match),
        text[:300],
        key=key["key"] if key else None,
    )


class Claims:
    """Tells which client names another user than its certificate does.

    The server says which user a certificate proves, and in its next word, without an address, if
    another name was claimed. It takes the name that it gave a client for a claim, too, when it
    looks at a connection a second time: when it reads its configuration anew, and also later at
    one that was being opened meanwhile. Such a name is the proven one.
    """

    def __init__(self) -> None:
        self._proven: tuple[str, str] | None = None

    def read(self, line: str) -> BrokerRefusal | None:
        """Return the claim in a line, which is the next one of the log; None: there is none."""
        if claim := _CLAIM.match(line):
            who, address = self._proven or (None, None)
            if claim["user"] == who:
                return None
            return BrokerRefusal(who, "identity", None, address, claim["text"][:300])
        if (match := _LINE.match(line)) and (proven := _PROVEN.match(match["text"])):
            self._proven = proven["user"], _host(match)
        return None


class BrokerAudit:
    """Follows the log of a server on this machine, also when it is set aside or truncated."""

    def __init__(
        self, log: Path, *, after: LogPosition | None = None, from_start: bool = False
    ) -> None:
        """Follow ``log``, which need not be there yet.

        Args:
            log: the server's log file.
            after: where an earlier audit stopped; None: see ``from_start``.
            from_start: whether what stands there already counts.

        """
        self.reloads = 0
        """How often the server read its configuration anew, as far as was read."""
        self._log = ServerLog(log, after=after, from_start=from_start)
        self._claims = Claims()

    @property
    def place(self) -> LogPosition | None:
        """How far the log was read; None: there is no line yet."""
        return self._log.place

    def read(self) -> list[BrokerRefusal]:
        """Return what was refused since the last call, the same things as one.

        A flood does not become one of reports: of more than a thousand different things the
        rest are told as one, without a name.
        """
        found: dict[tuple[object, ...], BrokerRefusal] = {}
        for octets in self._log.lines():
            line = octets.decode("utf-8", "replace")
            self.reloads += _RELOADED.match(line) is not None
            one = read_line(line) or self._claims.read(line)
            if one is None:
                continue
            key: tuple[object, ...] = (one.who, one.what, one.subject, one.address, one.key)
            if key not in found and len(found) >= _DISTINCT:
                key = ("more",)
                one = BrokerRefusal(None, one.what, None, one.address, "and more that differ")
            before = found.get(key)
            found[key] = one if before is None else replace(before, count=before.count + 1)
        return list(found.values())

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def _host(match: re.Match[str]) -> str:
    return match["address"].rpartition(":")[0]


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
