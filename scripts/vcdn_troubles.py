"""Troubles of a small service, each bounded in time and count; the standard library alone.

``flood ADDRESS PORT SECONDS RATE`` asks for pages with random query strings on a fresh connection
each (as Hulk does), ``slow ADDRESS PORT SECONDS COUNT`` holds connections open by headers that
never end (as Slowloris does), ``cpu SECONDS SHARE CORE`` takes a share of a processor and
``memory SECONDS MB_S`` more and more memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Coroutine

MOST_S = 120.0
MOST_RATE = 500.0
MOST_CONNECTIONS = 400
MOST_MB = 150
_AGENTS = ("Mozilla/5.0", "Opera/9.80", "curl/7.88", "VLC/3.0")
_THREADS = 40
_SLICE_S = 0.02
_WAIT_S = 5.0


def text(rng: random.Random) -> str:
    """Return a random word."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9)))


async def flood(address: str, port: int, seconds: float, rate: float) -> None:
    """Ask ``rate`` times a second at most, from 40 tasks."""
    until = time.monotonic() + seconds
    rng = random.Random()
    pause = _THREADS / min(rate, MOST_RATE)

    async def thread() -> None:
        await asyncio.sleep(rng.random() * pause)
        while time.monotonic() < until:
            begun = time.monotonic()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_WAIT_S):
                    reader, writer = await asyncio.open_connection(address, port)
                    page = rng.choice((10_000, 25_000, 50_000))
                    head = (
                        f"GET /live/{page}.m3u8?{text(rng)}={text(rng)} HTTP/1.1\r\n"
                        f"Host: {address}\r\nUser-Agent: {rng.choice(_AGENTS)}\r\n"
                        f"Referer: http://{text(rng)}/?q={text(rng)}\r\n"
                        "Cache-Control: no-cache\r\nConnection: close\r\n\r\n"
                    )
                    with contextlib.closing(writer):
                        writer.write(head.encode())
                        await reader.read()
            await asyncio.sleep(max(0.0, begun + pause - time.monotonic()))

    await asyncio.gather(*(thread() for _ in range(_THREADS)))


async def slow(address: str, port: int, seconds: float, count: int) -> None:
    """Hold ``count`` connections, opened within 3 s; what is closed is opened again."""
    until = time.monotonic() + seconds

    async def hold(number: int) -> None:
        await asyncio.sleep(3.0 * number / count)
        while time.monotonic() < until:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_WAIT_S):
                    _, writer = await asyncio.open_connection(address, port)
                with contextlib.closing(writer):
                    writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\n".encode())
                    while time.monotonic() < until and not writer.is_closing():
                        writer.write(f"X-{random.randrange(10_000)}: 1\r\n".encode())
                        await writer.drain()
                        await asyncio.sleep(_WAIT_S)
            await asyncio.sleep(1.0)

    async with asyncio.timeout(seconds + 1):
        await asyncio.gather(*(hold(n) for n in range(min(count, MOST_CONNECTIONS))))


async def cpu(seconds: float, share: float, core: int) -> None:
    """Take ``share`` of processor ``core``."""
    os.sched_setaffinity(0, {core})
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.process_time()
        while time.process_time() - begun < _SLICE_S * share and time.monotonic() < until:
            pass
        await asyncio.sleep(_SLICE_S * (1 - share))


async def memory(seconds: float, mb_s: float) -> None:
    """Take memory at this rate, up to 150 MB."""
    taken: list[bytearray] = []
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        while len(taken) < min(passed * mb_s, MOST_MB) * 4:
            taken.append(bytearray(os.urandom(250_000)))
        await asyncio.sleep(0.1)


def main(kind: str, words: list[str]) -> Coroutine[object, object, None]:
    """Return the trouble of that name."""
    if kind in ("cpu", "memory"):
        seconds, much = min(float(words[0]), MOST_S), float(words[1])
        return cpu(seconds, much, int(words[2])) if kind == "cpu" else memory(seconds, much)
    address, port, seconds = words[0], int(words[1]), min(float(words[2]), MOST_S)
    if kind == "flood":
        return flood(address, port, seconds, float(words[3]))
    return slow(address, port, seconds, int(words[3]))


if __name__ == "__main__":
    with contextlib.suppress(TimeoutError):
        asyncio.run(main(sys.argv[1], sys.argv[2:]))
