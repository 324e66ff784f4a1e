"""What the tests of the bus over sockets share."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from phalanx.bus.sockets import SocketBus
from phalanx.clock.wall import WallClock
from phalanx.domain.messages import Message, Performative, Verdict

PORT = 7400


def address(number: int) -> tuple[str, int]:
    """Return an address on loopback that no other process of the tests uses."""
    return f"127.{os.getpid() >> 8 & 127 | 128}.{os.getpid() & 255}.{number}", PORT


ADDRESSES = {name: address(number) for number, name in enumerate("abcd", 1)}


class Bench:
    """A clock, and things that end with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self.clock = WallClock()
        self._stack = stack
        stack.callback(self.clock.close)

    def bus(self, capacity: int = 1_000, **options: object) -> SocketBus:
        made = SocketBus(self.clock, ADDRESSES, capacity=capacity, **options)  # type: ignore[arg-type]
        self._stack.callback(made.close)
        return made

    def listener(self, name: str, backlog: int = 5) -> socket.socket:
        """Listen as the agent ``name``, by hand."""
        made = self._stack.enter_context(socket.socket())
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(ADDRESSES[name])
        made.listen(backlog)
        made.settimeout(5)
        return made

    def client(self, name: str, to: str = "b") -> socket.socket:
        """Connect as the agent ``name`` (or from an address), by hand."""
        made = self._stack.enter_context(socket.socket())
        made.bind((ADDRESSES[name][0] if name in ADDRESSES else name, 0))
        made.settimeout(5)
        made.connect(ADDRESSES[to])
        return made

    def until(self, true: Callable[[], bool], seconds: float = 5.0) -> None:
        """Run the clock until something is true."""

        def look() -> None:
            if not true():
                self.clock.call_later(0.002, look)

        look()
        self.clock.run(self.clock.now() + seconds, true)
        assert true(), "it did not come true in time"

    def idle(self, seconds: float = 0.05) -> None:
        self.clock.run(self.clock.now() + seconds)


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def large(number: int, receiver: str = "b", octets: int = 100_000) -> Message:
    text = Verdict("x" * octets)
    return Message(f"m{number}", Performative.INFORM, "a", receiver, "c", text, "e")


def closed(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, and says nothing before."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
