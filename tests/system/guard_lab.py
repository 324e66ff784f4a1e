"""A gateway as an operator has it: a street, a server, and a machine between them to guard."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf
from pathlib import Path

import pytest

from phalanx.infrastructure.linux.kernel import namespaces, runs
from phalanx.infrastructure.linux.kernel.namespaces import Inside, enter, prefix
from phalanx.testrange import workload

SERVER, PORT = "10.8.2.2", 8000
ATTACKERS = tuple(f"10.8.1.{n}" for n in range(11, 19))
USER = "10.8.1.21"
CROWD = tuple(f"10.8.1.{n}" for n in range(31, 37))
SERVER6 = "2001:db8:8:2::2"
ATTACKERS6 = tuple(f"2001:db8:8:{n}::2" for n in range(11, 19))
"""Each in a network of its own, as subscribers are."""
USER6 = "2001:db8:8:21::2"
GUARDED, OTHER = "server", "street"
"""Interfaces of the gateway."""

SITE = f"""\
pop: gate
cores: 2
memory_gb: 1
disk_gb: 1
state: {{state}}
guards:
  - name: web
    address: {SERVER}
    interface: {GUARDED}
    bandwidth_mb_s: 0.3
    threshold_mb_s: 0.1
"""
SITE6 = f"""\
  - name: web6
    address: {SERVER6}
    interface: {GUARDED}
    bandwidth_mb_s: 0.3
    threshold_mb_s: 0.1
"""
"""The same machine by its other address."""


GATEWAY = [
    pytest.mark.linux,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="not installed: cc (Debian: gcc)"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="not installed: nft (Debian: nftables)"),
]
"""The marks of tests that need such a machine."""


class Lab:
    """Namespaces of street, gateway and server; ``close`` removes all that a test has left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.site = folder / "site.yaml"
        self.site.write_text(SITE.format(state=self.state))
        self._mark = secrets.token_hex(3)
        self._started: list[subprocess.Popen[str]] = []
        self._made = contextlib.ExitStack()
        for place in ("street", "gate", "server"):
            namespaces.create(self.name(place))
            self._made.callback(namespaces.delete, self.name(place))
            with Inside(self.name(place)) as inside:  # addresses are of use at once
                for of in ("all", "default"):
                    inside.call(Path(f"/proc/sys/net/ipv6/conf/{of}/accept_dad").write_text, "0")
        for number, place in enumerate(("street", "server"), 1):
            self._ip("gate", f"link add {place} type veth peer name eth netns {self.name(place)}")
            self._ip("gate", f"addr add 10.8.{number}.1/24 dev {place}")
            self._ip("gate", f"link set {place} up")
            self._ip(place, f"addr add 10.8.{number}.2/24 dev eth")
            self._ip(place, "link set eth up")
            self._ip(place, f"route add default via 10.8.{number}.1")
            self._ip("gate", f"addr add 2001:db8:8:{number}::1/64 dev {place} nodad")
            self._ip(place, f"addr add 2001:db8:8:{number}::2/64 dev eth nodad")
            self._ip(place, f"route add default via 2001:db8:8:{number}::1")
        for address in (*ATTACKERS, USER, *CROWD):
            self._ip("street", f"addr add {address}/24 dev eth")
        for address in (*ATTACKERS6, USER6):
            self._ip("street", f"addr add {address}/128 dev eth nodad")
        self._ip("gate", "route add 2001:db8:8::/48 via 2001:db8:8:1::2")
        self._street = self._made.enter_context(Inside(self.name("street")))
        self._server = self._made.enter_context(Inside(self.name("server")))
        with Inside(self.name("gate")) as gate:
            for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                gate.call(Path("/proc/sys/net", family).write_text, "1")

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        if self.run:
            runs.sweep(self.run)
            runs.remove(runs.folder(self.run))
        self._made.close()

    @property
    def run(self) -> str:
        """The mark of what guards, as its state directory tells it."""
        mark = self.state / "run"
        return mark.read_text() if mark.exists() else ""

    def name(self, place: str) -> str:
        return f"phxt-{self._mark}-{place}"

    def inside(self, place: str, *words: str) -> str:
        """Return what a program says in a namespace."""
        words = (*prefix(self.name(place)), *words)
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def start(self, place: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*prefix(self.name(place)), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def guard(self, *options: str) -> subprocess.Popen[str]:
        """Start ``phalanx guard`` on the gateway."""
        return self.start(
            "gate", *(sys.executable, "-m", "phalanx", "guard", str(self.site), *options)
        )

    def serve(self, user: str = USER) -> None:
        there = (str(PORT), "--bind", server_of(user))
        self.start("server", *(sys.executable, "-m", "http.server", *there))
        until(partial(self.reachable, user), "the server does not start")

    def flood(
        self, seconds: float, sources: Iterable[str] = ATTACKERS, rate: int = 1000, *more: str
    ) -> None:
        """Let sources flood the server for a while, by default all attackers."""
        program = self.folder / "flood"
        source = Path(workload.__file__).with_name("flood.c")
        if not program.exists():
            subprocess.run(["cc", "-O2", "-o", program, source], check=True)  # noqa: S607
        for address in sources:
            words = (address, server_of(address), str(PORT), str(rate), f"{seconds}", *more)
            self.start("street", str(program), *words)

    def reachable(self, user: str = USER) -> bool:
        """Whether a user gets an answer of the server."""
        server = server_of(user)
        connection = http.client.HTTPConnection(server, PORT)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.sock = self._street.call(
                socket.create_connection, (server, PORT), 1, (user, 0)
            )
            connection.request("HEAD", "/")
            return connection.getresponse().status == 200
        return False

    def passes(self) -> Callable[[str], bool]:
        """Return a function that tells whether packets from an address come to the server."""
        listening = {}
        for server, family in ((SERVER, socket.AF_INET), (SERVER6, socket.AF_INET6)):
            there = self._server.call(socket.socket, family, socket.SOCK_DGRAM)
            listening[server] = self._made.enter_context(there)
            there.bind((server, 9))
            there.settimeout(0.05)

        def probe(address: str) -> bool:
            there = listening[server_of(address)]
            with self._street.call(socket.socket, there.family, socket.SOCK_DGRAM) as here:
                here.bind((address, 0))
                here.sendto(b"?", (server_of(address), 9))
                with contextlib.suppress(TimeoutError):
                    return there.recvfrom(1)[1][0] == address
            return False

        return probe

    def touched(self) -> dict[str, object]:
        """Return what a guard could have changed on the gateway."""
        return {
            "rules": self.inside("gate", "nft", "list", "ruleset"),
            "links": [
                link["ifname"] for link in json.loads(self.inside("gate", "ip", "-j", "link"))
            ],
            "qdiscs": self.inside("gate", "tc", "qdisc"),
            "routes": self.inside("gate", "ip", "-4", "route", "show", "table", "all"),
            "routes6": self.inside("gate", "ip", "-6", "route", "show", "table", "all"),
            "processes": self.inside("gate", "sh", "-c", _PROCESSES),
        }

    def _ip(self, place: str, command: str) -> None:
        words = ("-n", self.name(place), *command.split())
        subprocess.run(["ip", *words], check=True)  # noqa: S607


class Visitors:
    """Clients on the street, each of which asks for a page again and again."""

    def __init__(self, lab: Lab, *addresses: str) -> None:
        self._visits: list[tuple[float, str, bool]] = []
        self._over = threading.Event()
        street = lab.name("street")
        self._threads = [threading.Thread(target=self._visit, args=(street, a)) for a in addresses]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def served(self, since: float, until: float = inf) -> dict[str, float]:
        """Return what share of its visits that began in a span was served, by address."""
        asked: dict[str, list[bool]] = {}
        for begun, address, answered in list(self._visits):
            if since <= begun < until:
                asked.setdefault(address, []).append(answered)
        return {address: sum(visits) / len(visits) for address, visits in asked.items()}

    def _visit(self, namespace: str, address: str) -> None:
        enter(namespace)
        while not self._over.wait(_PAUSE_S):
            begun, answered = time.monotonic(), False
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(
                    server_of(address), PORT, timeout=3, source_address=(address, 0)
                )
                with contextlib.closing(connection):
                    connection.request("HEAD", "/")
                    answered = connection.getresponse().status == 200
            self._visits.append((begun, address, answered))


def server_of(source: str) -> str:
    """Return the server's address that a source can send to."""
    return SERVER6 if ":" in source else SERVER


_PAUSE_S = 0.05
PATIENCE_S = 120.0
"""How long a process may take to say what is awaited; says nothing about speed."""
_PROCESSES = (
    "own=$(readlink /proc/self/ns/net); for p in /proc/[0-9]*; do "
    '[ "$(readlink $p/ns/net)" = "$own" ] && [ $p != /proc/$$ ] && cat $p/comm; done; true'
)


def until(ready: Callable[[], bool], else_say: str, seconds: float = 15.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, else_say
        time.sleep(0.05)


@contextlib.contextmanager
def of_both_families(folder: Path) -> Iterator[Lab]:
    """Give a lab whose server has an address of each family, with room for what guards both."""
    made = Lab(folder)
    room = made.site.read_text().replace("_gb: 1", "_gb: 4")
    made.site.write_text(room + SITE6)
    with contextlib.closing(made):
        yield made


def network(address: str) -> str:
    """Return the source that an IPv6 address is judged as: its /64."""
    return re.sub(r"::2$", "::/64", address)


def arrived(lab: Lab) -> int:
    """Return how many packets the server's interface has received."""
    table = lab.inside("server", "cat", "/proc/self/net/dev")
    return int(table.partition("eth:")[2].split()[1])


def said(process: subprocess.Popen[str], words: str) -> str:
    """Wait for a line with these words in what a process says, and return it.

    A process that does not say it is ended after a while: nothing would end the wait else.
    """
    assert process.stdout is not None
    heard = []
    late = threading.Timer(PATIENCE_S, process.kill)
    late.start()
    try:
        for line in process.stdout:
            heard.append(line)
            if words in line:
                return line
    finally:
        late.cancel()
    raise AssertionError(f"{words!r} was never said: {''.join(heard)}")


def end(process: subprocess.Popen[str]) -> str:
    """Ask a process to end in order and return the rest of what it says."""
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 0, rest
    return rest
