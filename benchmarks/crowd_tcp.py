"""A crowd that speaks over TCP with mutual TLS, one connection for each pair, and nothing above."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path

from contract_net import ANSWERS, Caller, Saying, head, headed, samples
from crowd import AUCTIONEER, Holding, bidders, obey
from phalanx.identity.authority import Authority
from phalanx.identity.credentials import Files, tls_context, write_credentials
from phalanx.identity.names import Identity, Role

HOST = "127.0.0.1"
LENGTH = struct.Struct(">I")


class Peer(asyncio.Protocol):
    """One end of a connection: frames with their length in front."""

    def __init__(self, hear: Callable[[Peer, bytes], None]) -> None:
        self._hear = hear
        self._rest = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; see ``asyncio.Protocol``."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def say(self, octets: bytes) -> None:
        """Send a frame."""
        assert self.transport is not None
        self.transport.write(LENGTH.pack(len(octets)) + octets)

    def data_received(self, data: bytes) -> None:
        """Take frames in; see ``asyncio.Protocol``."""
        octets, place = self._rest + data, 0
        while len(octets) >= place + LENGTH.size:
            begin = place + LENGTH.size
            end = begin + LENGTH.unpack_from(octets, place)[0]
            if len(octets) < end:
                break
            self._hear(self, octets[begin:end])
            place = end
        self._rest = octets[place:]


class Tcp:
    """Mutual TLS 1.3 over TCP, with asyncio's own loop; bidders connect to the auctioneer."""

    def __init__(self, folder: Path, size: int) -> None:
        self._names = bidders(size)
        self._folder = folder
        self._said = samples(folder.parent)
        # Of TCP by name, or asyncio does not switch off the wait for more to send.
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listening.bind((HOST, 0))
        self._listening.listen(size)
        authority = Authority.create(folder / "ca", "bench")
        for name in (AUCTIONEER, *self._names):
            role, hosts = (Role.BROKER, (HOST,)) if name == AUCTIONEER else (Role.AGENT, ())
            issued = authority.issue(Identity(name, role, "bench"), hosts)
            (folder / name).mkdir()
            write_credentials(folder / name, issued.certificate, issued.key)
            (folder / name / "ca.pem").write_bytes((folder / "ca" / "ca.pem").read_bytes())

    def servers(self) -> Iterable[int]:
        """Return the servers; see ``crowd.Way``."""
        return ()

    def close(self) -> None:
        """Stop them; see ``crowd.Way``."""
        self._listening.close()

    def bidder(self, number: int, orders: Connection) -> None:
        """Be a bidder; see ``crowd.Way``."""
        tls = tls_context(Files.of(self._folder / self._names[number]))
        address = self._listening.getsockname()
        self._listening.close()

        def hear(peer: Peer, octets: bytes) -> None:
            performative, auction = head(octets)
            answer = ANSWERS.get(performative)
            if answer is not None:
                peer.say(headed(answer, auction, self._said[answer]))

        async def live() -> None:
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            await loop.create_connection(lambda: Peer(hear), *address, ssl=tls)
            obey(loop, orders, over.set)
            await over.wait()

        asyncio.run(live())

    def auctioneer(self, orders: Connection) -> None:
        """Be the auctioneer; see ``crowd.Way``."""
        files = Files.of(self._folder / AUCTIONEER)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(files.authority)
        tls.load_cert_chain(files.certificate, files.key)
        caller = Caller(self._names)
        peers: dict[str, Peer] = {}
        messages = 0

        def say(sayings: list[Saying]) -> None:
            nonlocal messages
            messages += len(sayings)
            for saying in sayings:
                octets = self._said[saying.performative]
                peers[saying.to].say(headed(saying.performative, saying.auction, octets))

        def hear(_: Peer, octets: bytes) -> None:
            nonlocal messages
            messages += 1
            performative, auction = head(octets)
            sayings = caller.hear(performative, auction)
            if sayings is None:
                holding.ended(auction)
            else:
                say(sayings)

        class Named(Peer):
            """A bidder, by the name in its certificate."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                """Note who it is."""
                super().connection_made(transport)
                certificate = transport.get_extra_info("peercert")
                ((_, uri),) = certificate["subjectAltName"]
                peers[uri.rpartition("/")[2]] = self
                if len(peers) == len(caller.bidders):
                    complete.set()

        holding = Holding(lambda number: say(caller.begin(number)), orders, lambda: messages)
        complete = asyncio.Event()

        async def live() -> None:
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            server = await loop.create_server(lambda: Named(hear), sock=self._listening, ssl=tls)
            await complete.wait()
            obey(loop, orders, over.set, holding.hold)
            await over.wait()
            server.close()

        asyncio.run(live())
