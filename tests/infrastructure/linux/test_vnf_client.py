"""The agent's end of REST: connections are kept, and each way to fail has its one line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from phalanx.infrastructure.linux.tasks import TaskError
from phalanx.infrastructure.linux.vnf_processes import LARGEST_BODY, MOST, SilentError, VnfClient

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


def run(folder: Path, answer: Answer, work: Callable[[VnfClient], Awaitable[None]]) -> list[bytes]:
    """Let ``work`` ask a server; return the head of each connection's first request."""
    first: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(first)
        first.append(b"")
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first[number] = first[number] or head
                await answer(reader, writer, head)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def whole() -> None:
        path = folder / "socket"
        server = await asyncio.start_unix_server(serve, path)
        client = VnfClient(path)
        try:
            async with asyncio.timeout(10):
                await work(client)
        finally:
            client.close()
            server.close()
            await asyncio.sleep(0.01)  # the connections see their end

    asyncio.run(whole())
    return first


def saying(*texts: str, pause_s: float = 0.0) -> Answer:
    """Return what answers each request with the same octets, in pieces."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        for text in texts:
            writer.write(text.encode())
            await writer.drain()
            await asyncio.sleep(pause_s)

    return answer


OK = 'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"n":1}'


def test_one_connection_carries_requests_that_follow_each_other(tmp_path: Path) -> None:
    async def work(client: VnfClient) -> None:
        for _ in range(3):
            assert await client.request("GET", "/health") == {"n": 1}

    assert run(tmp_path, saying(OK), work) == [b"GET /health HTTP/1.1\r\nHost: vnf\r\n\r\n"]


def test_a_body_is_sent_and_an_answer_may_come_in_pieces(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        assert b"\r\nContent-Length: 12\r\n" in head
        bodies.append(await reader.readexactly(12))
        await saying(OK[:9], OK[9:50], OK[50:], pause_s=0.01)(reader, writer, head)

    async def work(client: VnfClient) -> None:
        assert await client.request("PUT", "/links/a", {"ttl_s": 20}) == {"n": 1}

    run(tmp_path, answer, work)
    assert bodies == [b'{"ttl_s":20}']


def test_requests_at_the_same_time_have_connections_of_their_own_and_not_too_many(
    tmp_path: Path,
) -> None:
    async def work(client: VnfClient) -> None:
        await asyncio.gather(*(client.request("GET", "/health") for _ in range(3 * MOST)))

    assert len(run(tmp_path, saying("", OK, pause_s=0.02), work)) == MOST


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('HTTP/1.1 409 Refused\r\nContent-Length: 23\r\n\r\n{"error":"it is taken"}', "it is"),
        ("HTTP/1.1 500 Refused\r\nContent-Length: 2\r\n\r\n{}", "the VNF answered 500"),
    ],
)
def test_a_refusal_is_told_in_its_own_words(tmp_path: Path, said: str, reason: str) -> None:
    async def work(client: VnfClient) -> None:
        with pytest.raises(TaskError, match=reason) as refused:
            await client.request("PUT", "/measures/m", {})
        assert not isinstance(refused.value, SilentError)

    run(tmp_path, saying(said), work)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 many OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[1,]",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        "é\r\n\r\n",
        "x" * 20_000,
    ],
)
def test_silence_and_nonsense_are_one_line_and_the_next_request_begins_anew(
    tmp_path: Path, said: str
) -> None:
    async def work(client: VnfClient) -> None:
        for _ in range(2):
            with pytest.raises(SilentError, match="does not answer GET /health") as failed:
                await client.request("GET", "/health", timeout_s=0.1)
            assert "\n" not in str(failed.value)

    assert len(run(tmp_path, saying(said), work)) == 2


def test_who_does_not_listen_is_silent(tmp_path: Path) -> None:
    async def work(client: VnfClient) -> None:
        nobody = VnfClient(tmp_path / "nobody")
        with pytest.raises(SilentError, match="No such file"):
            await nobody.request("GET", "/health")

    run(tmp_path, saying(OK), work)
