"""A gateway between the street and a server, real users and a flood: for ``bench_fastnetmon``.

Three namespaces: the street, from which users and attackers come over one link; the gateway,
which something guards; the server behind it, whose link is narrower than the flood. Whether the
users are served is found out by them alone.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

from phalanx.infrastructure.linux.kernel import namespaces, runs
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside, enter, prefix
from phalanx.testrange import workload
from phalanx.testrange.processes import NamespaceProcess, NginxServer, end

SERVER, PORT = "10.8.2.2", 80
ATTACKERS = tuple(f"10.8.1.{n}" for n in range(11, 19))
USERS = tuple(f"10.8.1.{n}" for n in range(21, 25))
FLOOD = Path(workload.__file__).with_name("flood.c")
UPLINK, DOWNLINK = "street", "server"
"""Interfaces of the gateway."""
LINK_MB_S = 0.3
"""Bandwidth of the link to the server: a flood of 18,000 packets a second is 0.97 MB/s."""
PATIENCE_S = 1.0
"""A user waits this long for an answer, in seconds."""
PAUSE_S = 0.1
"""A user's pause between two requests, in seconds."""


class Gateway:
    """The three namespaces with a web server in one of them; ``close`` removes all."""

    def __init__(self) -> None:
        self.run = runs.new_run()
        self.folder = runs.folder(self.run)
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

    def packets(self) -> int:
        """Return how many packets have come from the street."""
        table = self._gate.call(Path("/proc/thread-self/net/dev").read_text)
        row = next(line for line in table.splitlines() if line.strip().startswith(f"{UPLINK}:"))
        return int(row.partition(":")[2].split()[1])

    def _build(self) -> None:
        for place in ("street", "gate", "server"):
            namespaces.create(self.name(place))
        self._gate = self._ends.enter_context(Inside(self.name("gate")))
        self._gate.call(self._join)
        for number, (place, own) in enumerate((("street", USERS + ATTACKERS), ("server", ())), 1):
            with Inside(self.name(place)) as inside:
                inside.call(_configure, number, own)
        words = f"qdisc add dev {DOWNLINK} root tbf rate {8 * LINK_MB_S}mbit burst 10kb limit 30kb"
        subprocess.run([*prefix(self.name("gate")), "tc", *words.split()], check=True)  # noqa: S603
        server = NginxServer(self.run, self.name("server"), SERVER, [PORT], self.folder)
        self._ends.callback(end, [server.process])
        server.wait()
        self._flood = str(self.folder / "flood")
        subprocess.run(["cc", "-O2", "-o", self._flood, str(FLOOD)], check=True)  # noqa: S603, S607

    def _join(self) -> None:
        for number, (device, place) in enumerate(((UPLINK, "street"), (DOWNLINK, "server")), 1):
            ip(
                f"link add name {device} type veth peer name eth netns {self.name(place)}",
                f"addr add 10.8.{number}.1/24 dev {device}",
                f"link set dev {device} up",
            )
        ip("link set dev lo up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    @contextlib.contextmanager
    def flood(self, packets_s: float, seconds: float) -> Iterator[None]:
        """Attack from all attackers' addresses; what is left of it ends with the block."""
        share = packets_s / len(ATTACKERS)
        attacks = [
            NamespaceProcess(
                [self._flood, address, SERVER, str(PORT), f"{share:.1f}", f"{seconds:.1f}"],
                run=self.run,
                namespace=self.name("street"),
                complaints=self.folder / "flood.stderr",
            )
            for address in ATTACKERS
        ]
        try:
            yield
        finally:
            end(attacks)


class Users:
    """Independent clients: each asks for the page again and again and notes what came of it."""

    def __init__(self, gateway: Gateway) -> None:
        self._asked: list[tuple[float, bool]] = []
        self._stop = Event()
        self._threads = [
            Thread(target=self._use, args=(gateway.name("street"), address), daemon=True)
            for address in USERS
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def served(self, since: float, until: float) -> float:
        """Return the share of requests begun in a span of ``time.time`` that were answered."""
        outcomes = [ok for begun, ok in self._asked if since <= begun <= until]
        return sum(outcomes) / max(1, len(outcomes))

    def _use(self, namespace: str, address: str) -> None:
        enter(namespace)
        while not self._stop.wait(PAUSE_S):
            begun = time.time()
            connection = http.client.HTTPConnection(
                SERVER, PORT, timeout=PATIENCE_S, source_address=(address, 0)
            )
            ok = False
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/")
                ok = bool(connection.getresponse().read())
            connection.close()
            self._asked.append((begun, ok and time.time() - begun <= PATIENCE_S))


class FirstPacket:
    """Notes when the first packet of an attacker comes to the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.time: float | None = None
        with Inside(gateway.name("gate")) as inside:
            self._tap = inside.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._tap.bind((UPLINK, 0x0800))
        self._tap.settimeout(0.2)
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        attackers = {socket.inet_aton(address) for address in ATTACKERS}
        with self._tap:  # closed at once: nobody is slowed by it later
            while self.time is None and not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    frame = self._tap.recv(64)
                    if frame[26:30] in attackers:
                        self.time = time.time()


def _configure(number: int, own: tuple[str, ...]) -> None:
    ip(
        "link set dev lo up",
        "link set dev eth up",
        *(f"addr add {address}/24 dev eth" for address in (f"10.8.{number}.2", *own)),
        f"route add default via 10.8.{number}.1",
    )
