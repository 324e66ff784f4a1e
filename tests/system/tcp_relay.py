"""A relay between a client and a server that can be cut: octets wait, connections stay open.

That is how a network that is cut looks from both ends: nobody is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Relay:
    """Listens on the loopback, on a port that the kernel chooses, and carries octets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, to: tuple[str, int]) -> None:
        self.to = to
        self.flows = True
        self._loop = loop
        self._ends: set[_End] = set()
        listening = loop.create_server(lambda: _Client(self), "127.0.0.1", 0)
        self._server = loop.run_until_complete(listening)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Carry nothing from now on."""
        self.flows = False
        for end in self._ends:
            end.flow(False)

    def heal(self) -> None:
        """Go on, with what waited."""
        self.flows = True
        for end in self._ends:
            end.flow(True)

    def close(self) -> None:
        self._server.close()
        for end in [*self._ends]:
            end.transport.abort()

    def begun(self, end: _End) -> None:
        self._ends.add(end)
        # Before Python 3.12 a new transport begins to read after this, paused or not.
        self._loop.call_soon(self._set_flow, end)

    def _set_flow(self, end: _End) -> None:
        if end in self._ends:
            end.flow(self.flows)

    def ended(self, end: _End) -> None:
        self._ends.discard(end)

    def dial(self, protocol: Callable[[], _End]) -> asyncio.Task[object]:
        return self._loop.create_task(self._loop.create_connection(protocol, *self.to))


class _End(asyncio.Protocol):
    transport: asyncio.Transport
    other: _End | None = None

    def __init__(self, relay: Relay) -> None:
        self.relay = relay

    def flow(self, on: bool) -> None:
        if on and self.other is not None:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.relay.begun(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.relay.ended(self)
        if self.other is not None:
            self.other.transport.close()


class _Client(_End):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._dialling = self.relay.dial(lambda: _Server(self))
        self._dialling.add_done_callback(self._dialled)

    def _dialled(self, dialling: asyncio.Task[object]) -> None:
        if not dialling.cancelled() and dialling.exception() is not None:
            self.transport.close()


class _Server(_End):
    def __init__(self, client: _Client) -> None:
        super().__init__(client.relay)
        self.other = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.other is not None
        self.other.other = self
        super().connection_made(transport)
        self.other.flow(self.relay.flows)
