"""Bodies of requests, checked at the door."""

from __future__ import annotations

import socket

_LONGEST_DEVICE = 15
_OF_DEVICES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


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
        """Return an IPv4 address."""
        value = self._body.get(name)
        try:
            if isinstance(value, str):
                return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, value))
        except (OSError, ValueError):  # ValueError: a character that no address has
            pass
        raise RefusedError(400, f"{name} must be an IPv4 address")

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
