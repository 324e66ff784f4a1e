"""Servers that are there and say nothing, and a process that was away itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from nats_lab import (
    DOMAIN,
    HOST,
    RECORDER,
    A,
    B,
    Ground,
    Lab,
    leader,
    needs_server,
    running,
)

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, Unanswered
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.server import NatsServer

needs_server()
pytestmark = [pytest.mark.nats, pytest.mark.processes]

CALL_B = subjects.call(DOMAIN, "b", "status", "agent", "a")
EVENT = subjects.event(DOMAIN, "a", "goal.adopted")
DEAF_S = 1.2


# -- over real servers --------------------------------------------------------------------------


def server_of(ground: Ground, client: NatsClient) -> NatsServer:
    """Return the server that has the connection of ``client``."""
    servers = {server.address[1]: server for server in ground.lab.servers}
    url = client._connection.nats.connected_url
    assert url is not None
    return servers[url.port]


@contextmanager
def stopped(*servers: NatsServer) -> Iterator[None]:
    """Have servers that take connections, by their kernel, and neither say nor do anything."""
    pids = [server.pid for server in servers]
    try:
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGCONT)


@contextmanager
def deaf_and_dumb() -> Iterator[tuple[str, int]]:
    """Have a server that takes connections and never says a word."""
    with socket.create_server((HOST, 0)) as listening:
        yield listening.getsockname()[:2]


def ask(ground: Ground, a: NatsClient) -> None:
    """Fail unless ``a`` gets an answer by asking again a few times."""
    answers: list[Delivery | Unanswered] = []

    def answered() -> bool:
        return any(isinstance(answer, Delivery) for answer in answers)

    for _ in range(20):
        a.request(CALL_B, b"?", answers.append, timeout_s=1.0)
        with suppress(AssertionError):
            ground.until(answered, within_s=0.5)
        if answered():
            return
    pytest.fail(f"no answer: {answers}")


def test_who_was_on_a_server_that_hangs_is_on_another_soon(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, 3, streams=False) as ground:
        a, b = ground.join(A, deaf_s=DEAF_S), ground.join(B, deaf_s=DEAF_S)
        complaints: list[str] = []
        a.on_error(complaints.append)
        b.subscribe(subjects.calls(DOMAIN, "b"), lambda asked: b.respond(asked, b"!"))
        ask(ground, a)
        hanging = server_of(ground, a)
        others = [server for server in ground.lab.servers if server is not hanging]
        with stopped(hanging):
            ground.until(lambda: a.counters.reconnects == 1 and a.connected, within_s=4 * DEAF_S)
            assert complaints[0] == "the server is silent"
            assert server_of(ground, a) in others
            ask(ground, a)
            # It still takes connections: it is not gone back to, also if the next one ends.
            second = server_of(ground, a)
            second.stop()
            ground.until(lambda: a.connected and server_of(ground, a) not in (hanging, second))
            ask(ground, a)
        ask(ground, a)


def test_servers_cut_one_of_them_that_hangs(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, 3) as ground:
        first, *others = ground.lab.servers
        with stopped(first):
            ground.until(
                lambda: all("Stale" in s.settings.log.read_text() for s in others), within_s=20.0
            )
        a, b = ground.join(A), ground.join(B)
        b.subscribe(subjects.calls(DOMAIN, "b"), lambda asked: b.respond(asked, b"!"))
        ask(ground, a)


@pytest.mark.processes
def test_a_follower_goes_on_when_what_it_reads_from_hangs(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path, 3) as ground:
        a, recorder = ground.join(A, deaf_s=DEAF_S), ground.join(RECORDER, deaf_s=DEAF_S)
        got: list[bytes] = []
        done: list[str | None] = []
        recorder.follow(subjects.EVENTS, lambda stored: got.append(stored.payload))
        a.append(EVENT, b"before", "1", done.append)
        ground.until(lambda: got == [b"before"] and done == [None])
        with stopped(leader(ground)):
            a.append(EVENT, b"meanwhile", "2", done.append)
            ground.until(lambda: got == [b"before", b"meanwhile"], within_s=50.0)
        ground.until(lambda: done == [None, None])


def test_two_servers_that_say_nothing_do_not_keep_one_from_the_third(tmp_path: Path) -> None:
    with Ground.at_servers(tmp_path) as ground, deaf_and_dumb() as x, deaf_and_dumb() as y:
        for _ in range(3):  # the order is drawn
            client = ground.join(A, addresses=[x, y, *ground.lab.addresses], deaf_s=DEAF_S)
            client.close()


def test_a_server_that_never_speaks_is_waited_for_longer_each_time(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with Ground(lab).closing() as ground, deaf_and_dumb() as silent:
        client = ground.client(A, [silent], deaf_s=0.2)
        complaints: list[str] = []
        client.on_error(complaints.append)
        ground.until(lambda: len(complaints) == 3)
        assert complaints == [f"no connection within {s:g} s" for s in (0.1, 0.2, 0.4)]


@pytest.mark.processes
def test_a_process_that_was_busy_for_long_keeps_its_connection(ground: Ground) -> None:
    a = ground.join(A, deaf_s=DEAF_S)
    changes: list[bool] = []
    a.on_change(changes.append)
    for rest_s in (0.0, 0.1, 0.3):  # whether it has just asked the server, or not
        ground.rest(rest_s)
        ground.clock.call_soon(lambda: time.sleep(3 * DEAF_S))
        ground.rest(2 * DEAF_S)
    assert a.connected
    assert not changes


CLIENT = """
import sys
from pathlib import Path

from nats_lab import A, client_context
from phalanx.bus.nats.client import NatsClient
from phalanx.clock.wall import WallClock
from phalanx.identity.credentials import Files

certificate, key, authority, port, deaf_s = sys.argv[1:]
credentials = Files(Path(certificate), Path(key), Path(authority), Path("crl.pem"))
clock = WallClock()
client = NatsClient(
    A, clock, [("127.0.0.1", int(port))], client_context(credentials), deaf_s=float(deaf_s)
)
client.on_change(lambda up: print("up" if up else "down", flush=True))
clock.run(120.0)
"""


@pytest.mark.processes
def test_a_process_that_was_stopped_for_long_keeps_its_connection(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.add_servers(1)
    said = tmp_path / "said"
    with running(lab), said.open("wb") as out:
        files = lab.authority.certify(A)
        arguments = [files.certificate, files.key, files.authority, lab.addresses[0][1], DEAF_S]
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, *map(str, arguments)],
            stdout=out,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        )
        try:
            end = time.monotonic() + 20.0
            while not said.read_text() and time.monotonic() < end:
                time.sleep(0.05)
            for _ in range(2):
                process.send_signal(signal.SIGSTOP)
                time.sleep(3 * DEAF_S)
                process.send_signal(signal.SIGCONT)
                time.sleep(2 * DEAF_S)
            assert process.poll() is None
            assert said.read_text() == "up\n"
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
