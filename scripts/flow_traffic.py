"""Traffic of one source, or a service for it, bounded in time; the standard library alone.

``http ADDRESS PORT SECONDS RATE FROM`` asks for a page on a fresh connection, so many times a
second; ``slow`` holds RATE connections open by headers that never end; ``upload`` sends RATE octets
a second over one connection; ``calls`` sends RATE datagrams a second to a service that answers,
``reports`` to one that answers none. ``serve ADDRESS PORT SECONDS`` is both services: datagrams and
uploads to PORT are answered and taken, datagrams to PORT + 1 taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio import DatagramProtocol, DatagramTransport, StreamReader, StreamWriter
from typing import Any

_WAIT_S = 2.0
_MOST = 64


async def http(address: str, port: int, until: float, rate: float, local: str) -> None:
    """Ask on fresh connections, ``_MOST`` at a time at most."""
    room = asyncio.Semaphore(_MOST)
    tasks: set[asyncio.Task[None]] = set()

    async def once() -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_WAIT_S):
                reader, writer = await asyncio.open_connection(address, port, local_addr=(local, 0))
                with contextlib.closing(writer):
                    head = f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                    writer.write(head.encode())
                    await reader.read(-1)
        room.release()

    while time.monotonic() < until:
        await room.acquire()
        task = asyncio.create_task(once())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / rate)


async def slow(address: str, port: int, until: float, rate: float, local: str) -> None:
    """Hold connections open, opened within a second."""

    async def hold(number: int) -> None:
        await asyncio.sleep(number / rate)
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(address, port, local_addr=(local, 0))
            with contextlib.closing(writer):
                writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\n".encode())
                while time.monotonic() < until:
                    await asyncio.sleep(1.0)
                    writer.write(b"X-A: 1\r\n")
                    await writer.drain()

    await asyncio.gather(*(hold(number) for number in range(round(rate))))


async def upload(address: str, port: int, until: float, rate: float, local: str) -> None:
    """Send octets over one connection."""
    _, writer = await asyncio.open_connection(address, port, local_addr=(local, 0))
    with contextlib.closing(writer):
        while time.monotonic() < until:
            writer.write(bytes(round(rate / 20)))
            await writer.drain()
            await asyncio.sleep(1 / 20)


async def datagrams(address: str, port: int, until: float, rate: float, local: str) -> None:
    """Send datagrams of 172 octets, as of a call."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        DatagramProtocol, local_addr=(local, 0), remote_addr=(address, port)
    )
    while time.monotonic() < until:
        transport.sendto(bytes(172))
        await asyncio.sleep(1 / rate)


class _Echo(DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self._transport: DatagramTransport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


async def serve(address: str, port: int, until: float) -> None:
    """Answer datagrams, and take uploads."""
    loop = asyncio.get_running_loop()

    async def take(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65_536):
                pass
        writer.close()

    await loop.create_datagram_endpoint(_Echo, local_addr=(address, port))
    await loop.create_datagram_endpoint(DatagramProtocol, local_addr=(address, port + 1))
    await asyncio.start_server(take, address, port)
    await asyncio.sleep(until - time.monotonic())


async def main(words: list[str]) -> None:
    """Do what the words say."""
    verb, address, port = words[0], words[1], int(words[2])
    until = time.monotonic() + float(words[3])
    if verb == "serve":
        await serve(address, port, until)
        return
    rate, local = float(words[4]), words[5]
    play = {"http": http, "slow": slow, "upload": upload}.get(verb, datagrams)
    await play(address, port + (verb == "reports"), until, rate, local)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
