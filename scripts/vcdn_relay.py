"""A relay of TCP connections that stands for a link with delay; no part of Phalanx is used.

``vcdn_relay.py ADDRESS PORT TO_ADDRESS TO_PORT DELAY_MS`` carries octets both ways and holds each
piece back for the delay and up to a fifth more at random. A line on standard input is a new
delay. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys

_JITTER = 0.2
_PIECE = 65_536
_APART_S = 1e-6  # the loop keeps no order among calls at one time


class Relay:
    """What all connections share: the delay, and where they go to."""

    def __init__(self, address: str, port: int, delay_ms: float) -> None:
        self._to = (address, port)
        self.delay_s = delay_ms / 1e3

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry a connection until either side ends it."""
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._to)
            ways = [self._one_way(reader, far_writer), self._one_way(far_reader, writer)]
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(self.delay_s)  # what is still under way arrives
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            far_writer.close()
        writer.close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                delay = self.delay_s * (1 + _JITTER * random.random())
                due = max(due + _APART_S, loop.time() + delay)  # none overtakes another
                loop.call_at(due, writer.write, piece)
            await asyncio.sleep(max(0.0, due - loop.time()))


async def main(words: list[str]) -> None:
    """Relay until the input ends."""
    relay = Relay(words[2], int(words[3]), float(words[4]))
    server = await asyncio.start_server(relay.carry, words[0], int(words[1]))
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        relay.delay_s = float(line) / 1e3
    server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
