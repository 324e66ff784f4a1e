"""A testbed on the kernel: who reaches whom, over which links, within which limits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.infrastructure.linux.linux_needs import requires_root

from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.traffic import HTTP, SYN_FLOOD, Source
from phalanx.infrastructure.linux.kernel import KernelError, namespaces
from phalanx.infrastructure.linux.kernel.links import has_netem
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.kernel.wire import compiler
from phalanx.testrange import Testbed

pytestmark = [pytest.mark.linux, requires_root]

delays = pytest.mark.skipif(
    not compiler() and (os.geteuid() != 0 or not has_netem()), reason="needs netem or a C compiler"
)

SERVER = "10.0.3.1"
PORT = 4000
SOURCES = (
    Source("u-1", "u", "pop1", "10.1.0.1", SERVER, 80, HTTP, 0.1),
    Source("u-2", "u", "pop1", "10.1.0.2", SERVER, 80, HTTP, 0.1),
    Source("x-1", "x", "pop2", "10.9.0.1", SERVER, 80, SYN_FLOOD, 0.1),
)


def triangle(*, latency_ms: float = 0.1, loss: float = 0.0, server_mb_s: float = 6.0) -> Network:
    """pop1 - pop3 is quickest; around pop2 is the other way."""
    pops = tuple(Pop(f"pop{i}", Resources(0.5, 0.25, 1.0)) for i in (1, 2, 3))
    links = (
        Link("pop1", "pop2", 8.0, latency_ms, loss),
        Link("pop2", "pop3", 8.0, latency_ms, loss),
        Link("pop1", "pop3", 8.0, latency_ms, loss),
    )
    return Network(pops, links, (Host("server", "pop3", SERVER, server_mb_s),), "pop2")


@pytest.fixture
def testbed(run: str, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """A testbed of the triangle, with the properties that a test gives as its parameter."""
    made = Testbed(run, triangle(**getattr(request, "param", {})), SOURCES)
    made.build()
    yield made
    made.destroy()


def send(testbed: Testbed, source: str, packets: int, size: int = 100, pause_s: float = 0) -> int:
    """Return how many packets of ``source`` reach the server."""
    address = next(s.address for s in SOURCES if s.name == source)

    def listen() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        server.bind((SERVER, PORT))
        server.settimeout(1.0)
        return server

    def speak() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((address, 0))
            for _ in range(packets):
                client.sendto(bytes(size), (SERVER, PORT))
                time.sleep(pause_s)

    with (
        Inside(testbed.home("server")) as there,
        Inside(testbed.home(source)) as here,
        there.call(listen) as server,
    ):
        sending = here.submit(speak)
        received = 0
        while received < packets:
            try:
                server.recv(2048)
            except TimeoutError:
                break
            received += 1
        sending.result()
    return received


def sent(testbed: Testbed, link: str) -> int:
    """Return how many packets left on a link."""
    device = testbed.device(link)

    def read() -> int:
        line = next(
            line
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines()
            if line.split(":")[0].strip() == device
        )
        return int(line.split(":")[1].split()[9])

    with Inside(testbed.namespace(link.partition(">")[0])) as inside:
        return inside.call(read)


def test_packets_take_the_quickest_path_and_go_around_a_cut(testbed: Testbed) -> None:
    assert send(testbed, "u-2", 20) == 20
    assert sent(testbed, "pop1>pop3") >= 20
    assert sent(testbed, "pop3>server") >= 20
    assert sent(testbed, "pop1>pop2") == 0
    testbed.set_link("pop3", "pop1", up=False)
    assert send(testbed, "u-2", 20) == 20
    assert sent(testbed, "pop1>pop2") >= 20
    testbed.set_link("pop1", "pop2", up=False)
    assert send(testbed, "u-2", 3) == 0
    assert send(testbed, "x-1", 20) == 20
    testbed.set_link("pop1", "pop3", up=True)
    before = sent(testbed, "pop1>pop2")
    assert send(testbed, "u-2", 20) == 20
    assert sent(testbed, "pop1>pop2") == before
    with pytest.raises(KeyError):
        testbed.set_link("pop1", "server", up=False)


def test_every_pop_reaches_every_other_at_its_underlay_address(testbed: Testbed) -> None:
    def ask(address: str) -> str:
        with (
            socket.create_server((testbed.underlay("pop3"), PORT)) as server,
            Inside(testbed.namespace("pop1")) as other,
        ):
            calling = other.submit(socket.create_connection, (address, PORT), 2.0)
            connection, (peer, _) = server.accept()
            connection.close()
            calling.result().close()
            return peer

    with Inside(testbed.namespace("pop3")) as inside:
        assert inside.call(ask, testbed.underlay("pop3")) == testbed.underlay("pop1")


def test_it_says_who_is_where(testbed: Testbed) -> None:
    assert testbed.namespace("pop1") == f"phx-{testbed.run}-pop1"
    assert testbed.underlay("pop3") == "10.254.0.3"
    assert testbed.host_at(SERVER) == "pop3"
    assert testbed.host_at("192.0.2.1") is None
    assert testbed.address("server") == SERVER
    assert testbed.address("u-1") is None
    assert testbed.home("u-1") == testbed.home("u-2") == f"phx-{testbed.run}-u-pop1"
    assert testbed.home("x-1") == f"phx-{testbed.run}-x-1"
    assert testbed.host_device(SERVER) == testbed.device("pop3>server")


@pytest.mark.parametrize("testbed", [{"server_mb_s": 0.05}], indirect=True)
def test_a_link_carries_no_more_than_its_bandwidth(testbed: Testbed) -> None:
    # 20 wait in the queue; the others would take ten seconds, and come in no time.
    assert 20 <= send(testbed, "u-1", 400, 1400) < 200


@pytest.mark.parametrize("testbed", [{"loss": 0.5}], indirect=True)
def test_a_share_of_the_packets_is_lost(testbed: Testbed) -> None:
    assert 100 < send(testbed, "u-1", 400, pause_s=0.0005) < 300


@delays
@pytest.mark.parametrize("testbed", [{"latency_ms": 30.0}], indirect=True)
def test_packets_take_the_latency_of_each_link(testbed: Testbed) -> None:
    start = time.monotonic()
    assert send(testbed, "u-1", 1) == 1
    assert time.monotonic() - start >= 0.03
    assert send(testbed, "u-1", 200) == 200
    testbed.set_link("pop1", "pop3", up=False)
    start = time.monotonic()
    assert send(testbed, "u-1", 1) == 1
    assert time.monotonic() - start >= 0.06
    testbed.set_link("pop1", "pop3", up=True)
    assert send(testbed, "u-1", 20) == 20


def test_processes_of_a_pop_are_under_its_limits(testbed: Testbed) -> None:
    group = testbed.cgroup("pop1")
    if not group.limits:
        pytest.skip("no control group is writable here")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        group.enter(process.pid)
        membership = Path(f"/proc/{process.pid}/cgroup").read_text()
        assert f"/phalanx/{testbed.run}/pop1" in membership
        process.kill()
    with pytest.raises(KernelError, match=r"cgroup\.procs"):
        group.enter(process.pid)


def test_nothing_is_left_not_even_a_process_inside(testbed: Testbed) -> None:
    inside = [*namespaces.prefix(testbed.home("x-1")), "sleep", "60"]
    with subprocess.Popen(inside) as process:
        own = Path("/proc/self/ns/net").stat().st_ino
        while Path(f"/proc/{process.pid}/ns/net").stat().st_ino == own:
            time.sleep(0.01)
        testbed.destroy()
        assert process.wait(5) != 0
    assert namespaces.names(f"phx-{testbed.run}-") == []
    assert not list(Path("/sys/fs/cgroup").glob(f"*/phalanx/{testbed.run}"))
    testbed.destroy()


def test_a_build_that_fails_half_way_leaves_nothing(run: str) -> None:
    testbed = Testbed(run, triangle(), SOURCES)
    in_the_way = testbed.home("x-1")
    namespaces.create(in_the_way)
    try:
        with pytest.raises(KernelError, match="File exists"):
            testbed.build()
        assert namespaces.names(f"phx-{run}-") == []
        testbed.build()
        assert send(testbed, "u-1", 5) == 5
    finally:
        testbed.destroy()
