from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats_lab import HOST, A, Authority, client_context

from phalanx.bus.nats.tls import Tls

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WITHIN_S = 20.0


class Heard:
    """Whoever speaks over a connection."""

    def __init__(self) -> None:
        self.tls: Tls | None = None
        self.octets = bytearray()
        self.flow: list[bool] = []
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, tls: Tls) -> None:
        self.tls = tls

    def data_received(self, data: bytes) -> None:
        assert data
        self.octets += data

    def pause_writing(self) -> None:
        self.flow.append(False)

    def resume_writing(self) -> None:
        self.flow.append(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(exc)


def server_context(authority: Authority, *, client: bool = True) -> ssl.SSLContext:
    credentials = authority.issue("phalanx://lab/broker/s", dns=[HOST], addresses=[HOST])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(credentials.certificate, credentials.key)
    context.load_verify_locations(credentials.authority)
    context.verify_mode = ssl.CERT_REQUIRED if client else ssl.CERT_NONE
    return context


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Serve on a port of the loopback; what is served must come to an end."""
    done: list[asyncio.Future[None]] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done.append(asyncio.ensure_future(one(reader, writer)))

    server = await asyncio.start_server(begin, HOST, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*done)
    finally:
        server.close()
        for each in done:
            each.cancel()


async def connect(port: int, context: ssl.SSLContext, host: str = HOST) -> tuple[Heard, Tls]:
    loop, heard = asyncio.get_running_loop(), Heard()
    _, tls = await loop.create_connection(
        lambda: Tls(loop, context, host, heard, buffer_octets=1 << 16, deaf_s=5.0), HOST, port
    )
    return heard, tls


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while octets := await reader.read(50_000):
        writer.write(octets)
        await writer.drain()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():
            await asyncio.sleep(0.005)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_what_is_said_is_heard_however_long_it_is(authority: Authority) -> None:
    async def go() -> None:
        async with serving(echo, server_context(authority)) as port:
            heard, tls = await connect(port, client_context(authority.certify(A)))
            await tls.begun
            assert heard.tls is tls
            sent = b""
            for size in (1, 16_384, 16_385, 15_000_000, 10):
                octets = os.urandom(size)
                tls.write(octets)
                sent += octets
            await until(lambda: len(heard.octets) == len(sent))
            assert heard.octets == sent
            assert heard.flow[0] is False  # so much had no room
            assert heard.flow[-1] is True
            tls.close()
            async with asyncio.timeout(WITHIN_S):
                assert await heard.over is None

    asyncio.run(go())


def test_what_was_said_before_the_close_arrives_though_much_was_not_heard(
    authority: Authority,
) -> None:
    arrived = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(1_000_000))
        while octets := await reader.read(1 << 16):
            arrived.extend(octets)

    async def go() -> None:
        async with serving(talk, server_context(authority)) as port:
            heard, tls = await connect(port, client_context(authority.certify(A)))
            await tls.begun
            tls.write(bytes(5_000_000))
            tls.close()
            tls.write(b"too late")
            async with asyncio.timeout(WITHIN_S):
                await heard.over
        assert len(arrived) == 5_000_000

    asyncio.run(go())


async def say_goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"bye")


async def vanish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("serve", [say_goodbye, vanish])
def test_the_end_is_told(authority: Authority, serve: Serve) -> None:
    async def go() -> None:
        async with serving(serve, server_context(authority)) as port:
            heard, tls = await connect(port, client_context(authority.certify(A)))
            await tls.begun
            async with asyncio.timeout(WITHIN_S):
                await heard.over
            assert heard.octets == (b"bye" if serve is say_goodbye else b"")
            tls.write(b"to nobody")
            tls.close()

    asyncio.run(go())


def test_another_host_is_not_believed(authority: Authority) -> None:
    async def go() -> None:
        async with serving(echo, server_context(authority)) as port:
            context = client_context(authority.certify(A))
            heard, tls = await connect(port, context, "elsewhere")
            with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
                await tls.begun
            assert heard.tls is None

    asyncio.run(go())


def test_another_authority_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        other = server_context(Authority(tmp_path, "other"), client=False)
        async with serving(echo, other) as port:
            _, tls = await connect(port, client_context(authority.certify(A)))
            with pytest.raises(ssl.SSLCertVerificationError):
                await tls.begun

    asyncio.run(go())


def test_who_has_no_certificate_is_let_go(authority: Authority) -> None:
    async def go() -> None:
        async with serving(echo, server_context(authority)) as port:
            nobody = ssl.create_default_context(cafile=str(authority.path))
            heard, tls = await connect(port, nobody)
            await tls.begun  # the server looks only then
            async with asyncio.timeout(WITHIN_S):
                await heard.over
            assert not heard.octets

    asyncio.run(go())


async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


@pytest.mark.parametrize(("serve", "error"), [(garble, ssl.SSLError), (hang_up, ConnectionError)])
def test_who_speaks_no_tls_is_no_server(
    authority: Authority, serve: Serve, error: type[Exception]
) -> None:
    async def go() -> None:
        async with serving(serve, None) as port:
            heard, tls = await connect(port, client_context(authority.certify(A)))
            with pytest.raises(error):
                await tls.begun
            assert heard.tls is None

    asyncio.run(go())


def test_who_gives_up_in_the_midst_of_it_leaves_nothing_behind(authority: Authority) -> None:
    over = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()

    async def go() -> None:
        async with serving(wait, None) as port:
            heard, tls = await connect(port, client_context(authority.certify(A)))
            tls.begun.cancel()
            tls.abort()
            over.set()
            await asyncio.sleep(0.05)
            assert heard.tls is None

    asyncio.run(go())
