"""What the tests of the overlay send, hear and capture."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence

from overlay_net import VNI, Net

from phalanx.infrastructure.linux.overlay_node import mac

ETH_ALL = 3


class Capture:
    """All that passes the wire while it lasts, as (source, target, protocol, port, packet)."""

    def __init__(self, net: Net) -> None:
        self._socket = net.inside["wire"].call(
            socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.settimeout(0.3)

    def packets(self) -> list[tuple[str, str, int, int, bytes]]:
        """Return the IPv4 packets until nothing has come for 0.3 s, and end."""
        found = []
        with self._socket:
            try:
                while True:
                    frame = self._socket.recv(65535)
                    if frame[12:14] == b"\x08\x00":
                        found.append(parse(frame[14:]))
            except TimeoutError:
                return found


def parse(packet: bytes) -> tuple[str, str, int, int, bytes]:
    source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
    header = 4 * (packet[0] & 15)
    port = struct.unpack_from("!H", packet, header + 2)[0] if packet[9] in {6, 17} else 0
    return source, target, packet[9], port, packet


class Echo:
    """A TCP echo server at an overlay address."""

    def __init__(self, net: Net, pop: str, address: str) -> None:
        self._listener = net.socket(pop, socket.SOCK_STREAM)
        self._listener.bind((address, 7))
        self._listener.listen()
        self._listener.settimeout(None)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        try:
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()
        except OSError:
            return

    @staticmethod
    def _answer(client: socket.socket) -> None:
        try:
            with client:
                while got := client.recv(1 << 16):
                    client.sendall(got)
        except OSError:
            return


class Talk:
    """A TCP connection that sends and checks what comes back, until it is ended."""

    def __init__(self, net: Net, pop: str, address: str) -> None:
        self.rounds = 0
        self.error: Exception | None = None
        self._socket = net.socket(pop, socket.SOCK_STREAM)
        self._socket.connect((address, 7))
        self._going = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._going = False
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            while self._going:
                said = secrets.token_bytes(20_000)
                self._socket.sendall(said)
                heard = b""
                while len(heard) < len(said):
                    got = self._socket.recv(1 << 16)
                    if not got:
                        raise ConnectionError("closed")
                    heard += got
                assert heard == said
                self.rounds += 1
                time.sleep(0.002)
        except Exception as error:  # told by the test
            self.error = error


class Stream:
    """A numbered UDP stream both ways between two PoPs; says how many were lost."""

    def __init__(self, net: Net, a: tuple[str, str], b: tuple[str, str]) -> None:
        self._sockets = []
        for pop, address in (a, b):
            made = net.socket(pop, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            made.bind((address, 9))
            self._sockets.append(made)
        self._addresses = (a[1], b[1])

    def run(self, seconds: float, gap_s: float = 0.0005) -> tuple[int, int]:
        """Return how many packets were sent and how many of them were lost."""
        sent = 0
        first, second = self._sockets
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number = struct.pack("!Q", sent)
            first.sendto(number, (self._addresses[1], 9))
            second.sendto(number, (self._addresses[0], 9))
            sent += 1
            time.sleep(gap_s)
        return 2 * sent, 2 * sent - sum(len(self._received(each)) for each in self._sockets)

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    @staticmethod
    def _received(each: socket.socket) -> set[bytes]:
        each.settimeout(0.3)
        found = set()
        try:
            while True:
                found.add(each.recv(64))
        except TimeoutError:
            return found


def connects(net: Net, pop: str, address: str, patience_s: float = 2.0) -> bool:
    with net.socket(pop, socket.SOCK_STREAM) as talk:
        talk.settimeout(patience_s)
        try:
            talk.connect((address, 7))
        except OSError:
            return False
        return True


def listener(net: Net, pop: str, address: str) -> socket.socket:
    made = net.socket(pop, socket.SOCK_DGRAM)
    made.bind((address, 9))
    made.settimeout(0.3)
    return made


def say(net: Net, pop: str, address: str, *said: bytes) -> None:
    with net.socket(pop, socket.SOCK_DGRAM) as talk:
        for each in said:
            try:
                talk.sendto(each, (address, 9))
            except OSError:  # refused on the spot: not sent either
                return


def all_hear_each_other(net: Net, address: Callable[[str], str], pops: Sequence[str]) -> bool:
    """Whether a datagram of each PoP reaches each other one in the overlay."""
    ears = {pop: listener(net, pop, address(pop)) for pop in pops}
    for pop in pops:
        for other in pops:
            if pop != other:
                say(net, pop, address(other), pop.encode())
    heard = {pop: sorted(hears(ear)) for pop, ear in ears.items()}
    for ear in ears.values():
        ear.close()
    return heard == {pop: sorted(p.encode() for p in pops if p != pop) for pop in pops}


def hears(of: socket.socket) -> list[bytes]:
    heard = []
    try:
        while True:
            heard.append(of.recv(2048))
    except TimeoutError:
        return heard


def vxlan_packet(source: str, target: str, said: bytes) -> bytes:
    """Return a UDP payload that a VXLAN takes for a packet from ``source`` to ``target``."""
    udp = struct.pack("!4H", 9, 9, 8 + len(said), 0) + said
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ends
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    macs = b"".join(bytes.fromhex(mac(end).replace(":", "")) for end in (target, source))
    return struct.pack("!II", 0x08000000, VNI << 8) + macs + b"\x08\x00" + header + udp
