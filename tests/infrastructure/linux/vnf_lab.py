"""A PoP between clients and a server, and a function's process in the PoP's namespace."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from msgspec.structs import replace

from phalanx.domain.resources import NOTHING
from phalanx.domain.rules import TrafficVerdict
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.linux.images import build
from phalanx.infrastructure.linux.kernel.namespaces import Inside, prefix

SERVER = "10.9.2.2"
CLIENTS = ("10.9.1.2", "10.9.1.3")
SERVER6 = "2001:db8:9:2::2"
CLIENTS6 = ("2001:db8:9:1::2", "2001:db8:9:3::2", "2001:db8:9:3::3")
"""Two of them are of one subscriber, whose network is ``SUBSCRIBER6``."""
SUBSCRIBER6 = "2001:db8:9:3::/64"
OUT = "s0"
"""Device of the PoP towards the server."""


BOTH = [{"device": OUT, "hook": hook} for hook in ("egress", "ingress")]


@contextlib.contextmanager
def watching(lab: Lab, vnf: Vnf) -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function that begins an observation and returns once the kernel watches."""
    with ThreadPoolExecutor(1) as pool:

        def begin(**body: Any) -> Future[Any]:
            body = {"devices": BOTH, "seconds": 0.8, **body}
            future = pool.submit(vnf.ask, "POST", "/observations", body)
            while not future.done() and "phx_" not in lab.nft("list", "ruleset"):
                time.sleep(0.01)
            return future

        yield begin


class Lab:
    """Namespaces of clients, PoP and server; sockets made in them work from any thread."""

    def __init__(self, make: Callable[[str], str]) -> None:
        names = {name: make(name) for name in ("client", "pop", "server")}
        self.names = names
        self.made = contextlib.ExitStack()
        self.inside = {name: Inside(full) for name, full in names.items()}
        for inside in self.inside.values():  # addresses are of use at once
            for of in ("all", "default"):
                inside.call(Path(f"/proc/sys/net/ipv6/conf/{of}/accept_dad").write_text, "0")
        for name, near, far, network in (("client", "c0", "e0", 1), ("server", OUT, "e0", 2)):
            self.ip("pop", f"link add {near} type veth peer name {far} netns {names[name]}")
            self.ip("pop", f"addr add 10.9.{network}.1/24 dev {near}")
            self.ip("pop", f"link set {near} up")
            self.ip(name, f"addr add 10.9.{network}.2/24 dev {far}")
            self.ip(name, f"link set {far} up")
            self.ip(name, f"route add default via 10.9.{network}.1")
            self.ip("pop", f"addr add 2001:db8:9:{network}::1/64 dev {near} nodad")
            self.ip(name, f"addr add 2001:db8:9:{network}::2/64 dev {far} nodad")
            self.ip(name, f"route add default via 2001:db8:9:{network}::1")
        self.ip("client", f"addr add {CLIENTS[1]}/24 dev e0")
        for address in CLIENTS6[1:]:
            self.ip("client", f"addr add {address}/128 dev e0 nodad")
        self.ip("pop", f"route add {SUBSCRIBER6} via {CLIENTS6[0]}")
        for name in names:
            self.ip(name, "link set lo up")
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.inside["pop"].call(Path("/proc/sys/net", family).write_text, "1")

    def close(self) -> None:
        self.made.close()
        for inside in self.inside.values():
            inside.close()

    def ip(self, name: str, command: str) -> None:
        run("ip", "-n", self.names[name], *command.split())

    def nft(self, *words: str) -> str:
        return run(*prefix(self.names["pop"]), "nft", *words)

    def listen(self, port: int = 80, address: str = SERVER) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = self.inside["server"].call(
            socket.create_server, (address, port), family=family, backlog=64
        )
        listener.settimeout(5)
        return self.made.enter_context(listener)

    def accept(self, listener: socket.socket) -> socket.socket:
        connection, _ = listener.accept()
        connection.settimeout(5)
        return self.made.enter_context(connection)

    def connect(self, source: str = CLIENTS[0], port: int = 80) -> socket.socket:
        server = SERVER6 if ":" in source else SERVER
        made = self.inside["client"].call(socket.create_connection, (server, port), 5, (source, 0))
        return self.made.enter_context(made)

    def udp(self, name: str, address: str, port: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = self.inside[name].call(socket.socket, family, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(5)
        return self.made.enter_context(made)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a program that ends by itself among the clients."""
        return subprocess.Popen(
            [*prefix(self.names["client"]), *command.split()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


IMAGE_MB = 0.3


def vnfd_of(role: str, version: str = "1.0", image_mb: float = IMAGE_MB) -> Vnfd:
    """Return the descriptor of a function, with an image that is quick to build."""
    if role == "tarpit":  # of no installed function
        return Vnfd(role, NOTHING, image_mb, enforces=(TrafficVerdict.DELAY,))
    vnfd = entry_points(group="phalanx.capabilities")[role].load().vnfd
    return replace(vnfd, version=version, image_mb=image_mb)


class Vnf:
    """A function's process, driven as a PoP's agent would."""

    def __init__(self, lab: Lab, role: str, folder: Path, table: str | None = None) -> None:
        image = build(vnfd_of(role), folder)
        self.table = table or f"phx_{secrets.token_hex(4)}"
        self.path = folder / f"{secrets.token_hex(4)}.sock"
        self.process = subprocess.Popen(
            [
                *(*prefix(lab.names["pop"]), sys.executable, "-I", str(image.path)),
                *("--role", role, "--socket", str(self.path), "--table", self.table),
            ]
        )
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                assert self.ask("GET", "/health")["pid"] > 0
                return
            time.sleep(0.01)
        self.end(signal.SIGKILL)
        raise AssertionError(f"the {role} did not start")

    def call(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        return call(self.path, method, target, body)

    def ask(self, method: str, target: str, body: Any = None) -> Any:
        status, answer = self.call(method, target, body)
        assert status < 400, answer
        return answer

    def put(self, name: str, **body: Any) -> None:
        self.ask("PUT", f"/measures/{quote(name, safe='')}", {"ttl_s": 20.0, **body})

    def get(self, name: str) -> Any:
        return self.ask("GET", f"/measures/{quote(name, safe='')}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)


def call(path: Path, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """Make a request of the function that listens at ``path``; return status and answer."""
    connection = http.client.HTTPConnection("vnf")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    try:
        connection.sock.connect(str(path))
        connection.request(method, target, None if body is None else json.dumps(body))
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    return response.status, json.loads(raw) if raw else None


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def lab_in(make: Callable[[str], str]) -> Iterator[Lab]:
    lab = Lab(make)
    try:
        yield lab
    finally:
        lab.close()


def exchange(client: socket.socket, server: socket.socket, words: bytes = b"hello") -> None:
    """Send words to the server and back."""
    client.sendall(words)
    assert server.recv(len(words)) == words
    server.sendall(words)
    assert client.recv(len(words)) == words
