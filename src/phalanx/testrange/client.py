"""Users of a service, all of one place, as one process; no part of Phalanx is used.

It is started inside the users' namespace, reads its plan from standard input (two lines of
JSON: the plan, and the CLOCK_MONOTONIC time that counts as 0) and writes a line of JSON at
each multiple of the plan's ``sample_s``. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Coroutine
from typing import Any

FRESH_AFTER = 5
"""Requests on one connection, as a browser's visit to a few pages."""
STALL_S = 1.0
"""A stream that brings nothing for this long is given up, in seconds."""
RETRY_S = 0.25
"""Pause before a stream is asked for again, in seconds."""
SEGMENT_S = 2.0
"""Length of a segment of a live stream, in seconds; who waits for twice as long gives it up."""
_CHUNK = 65_536


class UserTally:
    """What happened since the last line; the fields of ``Received``."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.octets = self.ok = self.failed = 0
        self.waited_s = self.slowest_s = 0.0

    def done(self, seconds: float) -> None:
        """Count an answer that came after ``seconds``."""
        self.ok += 1
        self.waited_s += seconds
        self.slowest_s = max(self.slowest_s, seconds)

    def line(self) -> str:
        """Return all as a line of JSON, and begin anew."""
        line = json.dumps(vars(self))
        self.clear()
        return line


class UserConnection:
    """A connection from a user's own address."""

    def __init__(self, user: dict[str, Any], tally: UserTally) -> None:
        self._user = user
        self._tally = tally
        self._used = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str) -> int:
        """Send a request and return the length of the answer's body in octets.

        Raises:
            OSError, EOFError, ValueError: if there is no such answer.

        """
        if self._writer is None or self._used >= FRESH_AFTER:
            self.close()
            self._reader, self._writer = await asyncio.open_connection(
                self._user["target"], self._user["port"], local_addr=(self._user["address"], 0)
            )
        self._used += 1
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._user['target']}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if not head.startswith("http/1.1 200 "):
            raise ValueError(head.partition("\r\n")[0])
        return int(head.partition("content-length:")[2].partition("\r\n")[0])

    async def read(self, most: int) -> int:
        """Count the octets that come next, at most ``most``, and return how many.

        Raises:
            OSError, EOFError: if none do.

        """
        got = len(await self._reader.read(min(most, _CHUNK)))
        if not got:
            raise EOFError
        self._tally.octets += got
        return got

    async def body(self, length: int) -> bytes:
        """Return the whole of an answer's body."""
        body = await self._reader.readexactly(length)
        self._tally.octets += length
        return body

    def close(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._used = None, 0


_FAULTS = (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError)


async def browse(user: dict[str, Any], plan: dict[str, Any], tally: UserTally) -> None:
    """Ask for the page in a steady rhythm; one that is late costs the beats that it takes."""
    connection = UserConnection(user, tally)
    period = plan["page_octets"] / (user["mb_s"] * 1e6)
    try:
        while True:
            beat = (time.monotonic() / period - user["phase"]) % 1.0
            await asyncio.sleep((1.0 - beat) * period)
            begun = time.monotonic()
            try:
                async with asyncio.timeout(plan["timeout_s"]):
                    left = await connection.ask("/")
                    while left:
                        left -= await connection.read(left)
                tally.done(time.monotonic() - begun)
            except _FAULTS:
                tally.failed += 1
                connection.close()
    finally:
        connection.close()


async def watch(user: dict[str, Any], plan: dict[str, Any], tally: UserTally) -> None:
    """Receive a steady stream; ask again when it stalls."""
    path = f"/stream?rate={round(user['mb_s'] * 1e6)}"
    while True:
        connection = UserConnection(user, tally)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(plan["timeout_s"]):
                left = await connection.ask(path)
            tally.done(time.monotonic() - begun)
            while left:
                async with asyncio.timeout(STALL_S):
                    left -= await connection.read(left)
        except _FAULTS:
            tally.failed += 1
            await asyncio.sleep(RETRY_S)
        finally:
            connection.close()


async def follow(user: dict[str, Any], plan: dict[str, Any], tally: UserTally) -> None:  # noqa: ARG001
    """Follow a live stream: a clip, then at each segment's length a playlist and what is new in it.

    What fails is left out.
    """
    connection = UserConnection(user, tally)
    playlist = f"/live/{round(user['mb_s'] * 1e6)}.m3u8"
    seen: set[str] = set()
    begun = False
    try:
        while True:
            beat = (time.monotonic() / SEGMENT_S - user["phase"]) % 1.0
            await asyncio.sleep((1.0 - beat) * SEGMENT_S)
            try:
                if not begun:
                    begun = True
                    await fetch(connection, "/intro", tally)
                lines = (await fetch(connection, playlist, tally)).decode().split()
                segments = [line for line in lines if not line.startswith("#")]
                for segment in segments:
                    if segment not in seen:
                        await fetch(connection, f"/live/{segment}", tally)
                seen = set(segments)
            except _FAULTS:
                tally.failed += 1
                connection.close()
    finally:
        connection.close()


async def fetch(connection: UserConnection, path: str, tally: UserTally) -> bytes:
    """Return the body of an answer."""
    begun = time.monotonic()
    async with asyncio.timeout(2 * SEGMENT_S):
        body = await connection.body(await connection.ask(path))
    tally.done(time.monotonic() - begun)
    return body


PROFILES = {"http": browse, "video": watch, "live": follow}


async def use(user: dict[str, Any], plan: dict[str, Any], zero: float, tally: UserTally) -> None:
    """Be one user from its start to its end."""
    await asyncio.sleep(zero + user["start_s"] - time.monotonic())
    left = None if user["end_s"] is None else zero + user["end_s"] - time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(left):
            await PROFILES[user["profile"]](user, plan, tally)


async def tell(sample_s: float, zero: float, tally: UserTally) -> None:
    """Write a line at each multiple of ``sample_s``."""
    while True:
        passed = time.monotonic() - zero
        await asyncio.sleep(sample_s - passed % sample_s)
        sys.stdout.write(tally.line() + "\n")
        sys.stdout.flush()


async def end() -> None:
    """Wait for the end of the input."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def main(plan: dict[str, Any], zero: float) -> None:
    """Be all users of the plan until the input ends."""
    tally = UserTally()
    parts: list[Coroutine[Any, Any, None]] = [tell(plan["sample_s"], zero, tally)]
    parts += [use(user, plan, zero, tally) for user in plan["users"]]
    tasks = [asyncio.create_task(part) for part in parts]
    await end()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.readline()), float(sys.stdin.readline())))
