"""A small HTTP/1.1 server on a Unix socket (RFC 9112), for one trusted driver; checked bodies.

Written out because ``http.server`` costs 27 ms and 7 MB to import, a third of a function's
start-up and memory.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from threading import BoundedSemaphore, Thread
from typing import Any, NoReturn

LARGEST_HEAD, LARGEST_BODY = 8_192, 1 << 23
SILENT_S = 60.0
"""A connection on which nothing comes for this long is closed."""
MOST = 32
"""Connections at a time; more wait."""

Handler = Callable[[str, str, object], tuple[int, Any]]
"""Takes method, target and decoded body (None if there is none); returns status and answer."""

_LONGEST_DEVICE = 15
_OF_DEVICES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_CHUNK = 65_536
_REASONS = {200: "OK", 201: "Created", 204: "No Content"}


class RefusedError(Exception):
    """A request that is not carried out: an HTTP status and one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Fields:
    """The fields of a JSON object; what is wrong raises ``RefusedError`` (400) with its name."""

    def __init__(self, body: object, allowed: tuple[str, ...]) -> None:
        if not isinstance(body, dict):
            raise RefusedError(400, "the body must be a JSON object")
        for name in body:
            if name not in allowed:
                raise RefusedError(
                    400, f"unknown field {name[:40]!r}; allowed: {', '.join(allowed)}"
                )
        self._body: dict[str, object] = body

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._body.get(name) is not None

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number from ``low`` to ``high``."""
        value = self._body.get(name, default)
        # Also refuses NaN, which compares false with everything.
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise RefusedError(400, f"{name} must be a number from {low:g} to {high:g}")
        return value

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer from ``low`` to ``high``."""
        value = self._body.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RefusedError(400, f"{name} must be an integer from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """Return a truth value, by default false."""
        value = self._body.get(name, False)
        if not isinstance(value, bool):
            raise RefusedError(400, f"{name} must be true or false")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """Return one of ``allowed``."""
        value = self._body.get(name)
        if not isinstance(value, str) or value not in allowed:
            raise RefusedError(400, f"{name} must be one of {', '.join(allowed)}")
        return value

    def address(self, name: str) -> str:
        """Return an IPv4 or IPv6 address, in its shortest form."""
        return _address(name, self._body.get(name))

    def addresses(self, name: str, most: int) -> list[str]:
        """Return 1 to ``most`` addresses, sorted as text."""
        return sorted({_address(name, value) for value in self.items(name, most)})

    def network(self, name: str) -> str:
        """Return an address or a prefix."""
        return _network(name, self._body.get(name))

    def networks(self, name: str, most: int) -> list[str]:
        """Return 1 to ``most`` addresses or prefixes, sorted as text."""
        return sorted({_network(name, value) for value in self.items(name, most)})

    def device(self, name: str) -> str:
        """Return the name of a network interface."""
        return _device(name, self._body.get(name))

    def devices(self, name: str, most: int) -> list[str]:
        """Return 1 to ``most`` names of network interfaces."""
        return sorted({_device(name, value) for value in self.items(name, most)})

    def items(self, name: str, most: int) -> list[object]:
        """Return a list of 1 to ``most`` values."""
        value = self._body.get(name)
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise RefusedError(400, f"{name} must be a list of 1 to {most} entries")
        return value


def _network(name: str, value: object) -> str:
    address, slash, bits = value.partition("/") if isinstance(value, str) else ("", "", "")
    most = 128 if ":" in address else 32
    if slash and not (bits.isdecimal() and len(bits) < 4 and int(bits) <= most):
        raise RefusedError(400, f"{name} must be addresses or prefixes")
    return _address(name, address) + (f"/{int(bits)}" if slash else "")


def _address(name: str, value: object) -> str:
    try:
        if isinstance(value, str):
            kind = socket.AF_INET6 if ":" in value else socket.AF_INET
            return socket.inet_ntop(kind, socket.inet_pton(kind, value))
    except (OSError, ValueError):  # ValueError: a character that no address has
        pass
    raise RefusedError(400, f"{name} must be an address")


def _device(name: str, value: object) -> str:
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= _LONGEST_DEVICE
        or value[0] in ".-"
        or not _OF_DEVICES.issuperset(value)
    ):
        raise RefusedError(400, f"{name} must name network interfaces")
    try:  # newer kernels accept rules for devices that may come later
        socket.if_nametoindex(value)
    except OSError:
        raise RefusedError(409, f"there is no network interface {value}") from None
    return value


def serve(listener: socket.socket, handle: Handler) -> NoReturn:
    """Answer all who connect, each in a thread, until an exception ends it."""
    room = BoundedSemaphore(MOST)

    def answer(connection: socket.socket) -> None:
        try:
            with connection:
                converse(connection, handle)
        finally:
            room.release()

    while True:
        room.acquire()
        connection, _ = listener.accept()
        Thread(target=answer, args=(connection,), daemon=True).start()


def converse(connection: socket.socket, handle: Handler) -> None:
    """Answer the requests of one connection, until it ends or a request makes no sense."""
    connection.settimeout(SILENT_S)
    buffer = b""
    try:
        while True:
            try:
                request = _receive(connection, buffer)
                if request is None:
                    return
                method, target, body, close, buffer = request
            except RefusedError as refused:
                connection.sendall(_answer(refused.status, {"error": str(refused)}, close=True))
                return
            try:
                status, answer = handle(method, target, _decode(body))
            except RefusedError as refused:
                status, answer = refused.status, {"error": str(refused)}
            connection.sendall(_answer(status, answer, close=close))
            if close:
                return
    except OSError:
        return  # the other end went away or fell silent


def _receive(
    connection: socket.socket, buffer: bytes
) -> tuple[str, str, bytes, bool, bytes] | None:
    """Return method, target, body, whether to close, and what came beyond; None at the end."""
    while (end := buffer.find(b"\r\n\r\n")) < 0 and len(buffer) <= LARGEST_HEAD:
        data = connection.recv(_CHUNK)
        if not data:
            return None
        buffer += data
    if not 0 <= end <= LARGEST_HEAD:
        raise RefusedError(431, f"the head of a request has at most {LARGEST_HEAD} octets")
    head, buffer = buffer[:end], buffer[end + 4 :]
    method, target, fields = _parse(head)
    if "transfer-encoding" in fields:
        raise RefusedError(501, "a body needs a Content-Length")
    length = fields.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 10):
        raise RefusedError(400, "Content-Length must be a number")
    size = int(length)
    if size > LARGEST_BODY:
        raise RefusedError(413, f"a body has at most {LARGEST_BODY} octets")
    if len(buffer) < size and fields.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while len(buffer) < size:
        data = connection.recv(_CHUNK)
        if not data:
            return None
        buffer += data
    close = fields.get("connection", "").lower() == "close"
    return method, target, buffer[:size], close, buffer[size:]


def _parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, target and header fields, their names in small letters."""
    try:
        first, *lines = head.decode("ascii").split("\r\n")
        method, target, version = first.split(" ")
    except ValueError:
        raise RefusedError(400, "the request line must be METHOD TARGET HTTP/1.1") from None
    if version != "HTTP/1.1":
        raise RefusedError(505, "only HTTP/1.1 is spoken here")
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or name.lower() in fields:
            raise RefusedError(400, "a header field is malformed or comes twice")
        fields[name.lower()] = value.strip()
    return method, target, fields


def _decode(body: bytes) -> object:
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body must be JSON") from None


def _answer(status: int, answer: Any, *, close: bool) -> bytes:
    body = b"" if answer is None else json.dumps(answer, separators=(",", ":")).encode()
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Refused')}"]
    if status != 204:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body
