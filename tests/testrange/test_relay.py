"""The relay: what goes in comes out, in order and late; it ends with its input."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import vcdn_relay as relay


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    while piece := connection.recv(65_536):
                        connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def carried(port: int, octets: bytes) -> tuple[bytes, float]:
    """Send ``octets`` through the relay; return what comes back, and after how long the first."""
    got = b""
    for _ in range(500):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=20)
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    with connection:
        begun = time.monotonic()
        threading.Thread(target=connection.sendall, args=(octets,)).start()
        first = 0.0
        while len(got) < len(octets) and (piece := connection.recv(65_536)):
            first = first or time.monotonic() - begun
            got += piece
    return got, first


def test_octets_arrive_in_order_and_not_before_the_delay(echo: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [str(relay.__file__), "127.0.0.1", str(port), "127.0.0.1", str(echo), "30"]
    octets = random.Random(1).randbytes(1_000_000)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", *words], stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        got, late_s = carried(port, octets)
        assert got == octets
        assert late_s >= 0.06
        process.stdin.write("90\n")
        process.stdin.flush()
        while carried(port, b"?")[1] < 0.18:
            pass
        process.stdin.close()
        assert process.wait(20) == 0
