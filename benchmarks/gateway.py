"""A gateway between the street and a server, with honest users and attackers: ``bench_fastnetmon``.

Three namespaces: the street, from which users and attackers come over one link; the gateway,
which something guards; the server behind it, whose link is narrower than a flood. Whether the
users are served is found out by them alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import cast

from phalanx.domain.traffic import Source
from phalanx.infrastructure.linux.kernel import namespaces, runs
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside, prefix
from phalanx.testrange.processes import NamespaceProcess, NginxServer, end
from phalanx.testrange.users import LINE_S, TIMEOUT_S, Received, Users
from phalanx.testrange.workload import command, packets_s, programs, tool

SERVER, PORT, UDP_PORT, FEED_PORT = "10.8.2.2", 80, 53, 5004
UPLINK, DOWNLINK = "street", "server"
"""Interfaces of the gateway."""
LINK_MBIT_S = 3
"""Bandwidth of the link to the server: 18,000 of the least packets a second are 7.8 Mbit/s."""
ANSWER_OCTETS = 400
"""What the server answers to a datagram."""
_PACE_S = 0.01
"""A talker sends what is due once in this many seconds."""


class Gateway:
    """The three namespaces with a web server in one of them; ``close`` removes all.

    Args:
        sources: users and attackers, who get their addresses in the street.

    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.run = runs.new_run()
        self.folder = runs.folder(self.run)
        self._sources = sources
        self._ends = ExitStack()
        self._ends.callback(runs.remove, self.folder)
        self._ends.callback(runs.sweep, self.run)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End what runs in the namespaces and remove them."""
        self._ends.close()

    def name(self, place: str) -> str:
        """Return the name of the namespace of a place."""
        return f"phx-{self.run}-{place}"

    def arrived(self) -> tuple[int, int]:
        """Return how many octets and packets have come from the street."""
        table = self._gate.call(Path("/proc/thread-self/net/dev").read_text)
        row = next(line for line in table.splitlines() if line.strip().startswith(f"{UPLINK}:"))
        octets, packets, *_ = row.partition(":")[2].split()
        return int(octets), int(packets)

    def _build(self) -> None:
        for place in ("street", "gate", "server"):
            namespaces.create(self.name(place))
        self._gate = self._ends.enter_context(Inside(self.name("gate")))
        self._gate.call(self._join)
        own = sorted({source.address for source in self._sources if not source.profile.spoofed})
        for number, (place, addresses) in enumerate((("street", own), ("server", [])), 1):
            with Inside(self.name(place)) as inside:
                inside.call(_configure, number, addresses)
        words = f"qdisc add dev {DOWNLINK} root tbf rate {LINK_MBIT_S}mbit burst 10kb limit 30kb"
        subprocess.run([*prefix(self.name("gate")), "tc", *words.split()], check=True)  # noqa: S603
        server = NginxServer(self.run, self.name("server"), SERVER, [PORT], self.folder)
        self._ends.callback(end, [server.process])
        server.wait()
        self._tools = programs([s for s in self._sources if s.profile.malicious], self.folder)

    def _join(self) -> None:
        for number, (device, place) in enumerate(((UPLINK, "street"), (DOWNLINK, "server")), 1):
            ip(
                f"link add name {device} type veth peer name eth netns {self.name(place)}",
                f"addr add 10.8.{number}.1/24 dev {device}",
                f"link set dev {device} up",
            )
        ip("link set dev lo up", "route add default via 10.8.1.2")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    @contextlib.contextmanager
    def attack(self) -> Iterator[None]:
        """Let all attackers begin; what is left of them ends with the block."""
        attacks = [
            NamespaceProcess(
                command(source, self._tools[tool(source)]),
                run=self.run,
                namespace=self.name("street"),
                complaints=self.folder / "attack.stderr",
            )
            for source in self._sources
            if source.profile.malicious
        ]
        try:
            yield
        finally:
            end(attacks)


class HonestTraffic:
    """Users of the web server, and hosts that exchange datagrams with the server.

    Args:
        gateway: where.
        sources: those of a scene, attackers aside; each begins and ends at its own time.

    Raises:
        RuntimeError: by ``close``, if their process ended before its time.

    """

    def __init__(self, gateway: Gateway, sources: Sequence[Source]) -> None:
        self._lines: list[tuple[float, Received]] = []
        self._wrong: list[str] = []
        street, server = gateway.name("street"), gateway.name("server")
        pages = [(n, s) for n, s in enumerate(sources) if s.profile.protocol == "tcp"]
        self._users = Users(gateway.run, street, pages, gateway.folder)
        with Inside(street) as inside:
            self._talkers = [
                Talker(source, inside.call(_bound, source.address, 0))
                for source in sources
                if source.profile.protocol == "udp"
            ]
        with Inside(server) as inside:
            self._answering = inside.call(_bound, SERVER, UDP_PORT)
            self._listening = inside.call(_bound, SERVER, FEED_PORT)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def begin(self, zero: float) -> None:
        """Let the scene begin at ``zero`` of CLOCK_MONOTONIC."""
        self._zero = zero
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()

    def close(self) -> None:
        """End all of them."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        end([self._users.process])
        if self._wrong:
            raise RuntimeError("; ".join(self._wrong))

    def received(self, since_s: float, until_s: float) -> Received:
        """Return what came of what ended in a span of the scene."""
        total = Received()
        for time_s, line in self._lines:
            if since_s < time_s <= until_s:
                total.add(line)
        return total

    async def _begin(self) -> None:
        self._users.begin(self._zero, self._loop, self._wrong.append)
        await self._loop.create_datagram_endpoint(Answering, sock=self._answering)
        listening = partial(Listening, self._talkers)
        await self._loop.create_datagram_endpoint(listening, sock=self._listening)
        for talker in self._talkers:
            await talker.begin(self._zero)
        self._sample()

    async def _end(self) -> None:
        self._users.stop()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for talker in self._talkers:
            talker.close()

    def _sample(self) -> None:
        now = time.monotonic() - self._zero
        sources: list[Users | Talker] = [self._users, *self._talkers]
        self._lines += [(now, each.take()) for each in sources]
        self._loop.call_later(LINE_S, self._sample)


class Talker(asyncio.DatagramProtocol):
    """A host that sends datagrams at an even rate, and expects an answer to each within 1 s.

    Args:
        source: which; at ``FEED_PORT`` it expects no answers, but that the datagrams arrive.
        own: its socket.

    """

    def __init__(self, source: Source, own: socket.socket) -> None:
        self.address = source.address
        self._source, self._socket = source, own
        self._received = Received()
        self._sent: dict[bytes, float] = {}

    async def begin(self, zero: float) -> None:
        """Send from the source's start to its end, counted from ``zero`` on."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._socket)
        self._task = loop.create_task(self._talk(zero))

    def close(self) -> None:
        """Send no more."""
        self._transport.close()

    def take(self) -> Received:
        """Return what came of the datagrams since the last call."""
        late = time.monotonic() - TIMEOUT_S
        for number in [number for number, sent in self._sent.items() if sent < late]:
            del self._sent[number]
            self._received.failed += 1
        received, self._received = self._received, Received()
        return received

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        """Count an answer, or a datagram that has arrived."""
        if (sent := self._sent.pop(data[:8], None)) is not None:
            self._received.add(Received(len(data), 1, 0, time.monotonic() - sent))

    def error_received(self, exc: Exception) -> None:
        """Count nothing: what is not answered is counted when its time is over."""

    async def _talk(self, zero: float) -> None:
        source = self._source
        rate = packets_s(source)
        await asyncio.sleep(zero + source.start_s - time.monotonic())
        begun, count = time.monotonic(), 0
        ends = begun + 1e9 if source.end_s is None else zero + source.end_s
        while (now := time.monotonic()) < ends:
            while count < (now - begun) * rate:
                number = count.to_bytes(8)
                self._sent[number] = now
                octets = number.ljust(round(source.profile.packet_octets) - _HEADERS)
                self._transport.sendto(octets, (source.target, source.port))
                count += 1
            await asyncio.sleep(_PACE_S)


_HEADERS = 42  # Ethernet, IP and UDP


class Answering(asyncio.DatagramProtocol):
    """What answers each datagram with one of ``ANSWER_OCTETS``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where answers go out."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer it."""
        self._transport.sendto(data[:8].ljust(ANSWER_OCTETS), addr)


class Listening(asyncio.DatagramProtocol):
    """What answers nothing, and tells those who sent it what has arrived."""

    def __init__(self, talkers: Sequence[Talker]) -> None:
        self._talkers = {talker.address: talker for talker in talkers}

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Count a datagram for who sent it."""
        self._talkers[addr[0]].datagram_received(data, addr)


_ANY = 0x0003
"""Of a tap: packets of all protocols, sent and received."""
_IPV4 = b"\x08\x00"


class FirstPacket:
    """Notes when the first packet of an attacker passes a device, either way.

    Args:
        namespace: where.
        device: of the namespace.
        hostile: whether an IPv4 address, as its four octets, is an attacker's.

    """

    def __init__(self, namespace: str, device: str, hostile: Callable[[bytes], bool]) -> None:
        self.time: float | None = None
        """By ``time.time``; None: none came."""
        with Inside(namespace) as inside:
            self._tap = inside.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._tap.bind((device, _ANY))
        self._tap.settimeout(0.2)
        self._stop = Event()
        self._thread = Thread(target=partial(self._watch, hostile), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _watch(self, hostile: Callable[[bytes], bool]) -> None:
        with self._tap:  # closed at once: nobody is slowed by it later
            while self.time is None and not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    frame = self._tap.recv(64)
                    if frame[12:14] == _IPV4 and hostile(frame[26:30]):
                        self.time = time.time()


def _bound(address: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.setblocking(False)
    found.bind((address, port))
    return found


def _configure(number: int, own: Sequence[str]) -> None:
    ip(
        "link set dev lo up",
        "link set dev eth up",
        *(f"addr add {address}/24 dev eth" for address in (f"10.8.{number}.2", *own)),
        f"route add default via 10.8.{number}.1",
    )
