"""Tunnels and detours: real packets take the way that was awarded, and still arrive."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from linux_needs import requires_root

from phalanx.clock.wall import WallClock
from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.traffic import PROFILES, Source
from phalanx.infrastructure.linux.kernel import runs
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.infrastructure.linux.tunnels import Detour, Detours, Tunnel, Tunnels
from phalanx.infrastructure.linux.workers import NamespaceWorkers
from phalanx.testrange import Testbed

pytestmark = [pytest.mark.linux, requires_root]

SERVER = "10.0.3.10"
CLIENT = "10.1.0.1"
AMPLE = Resources(4, 4, 100)


def network() -> Network:
    """Return pop1 - pop2 - pop3 with a short cut from pop1 to pop3; the server is at pop3."""
    return Network(
        tuple(Pop(name, AMPLE) for name in ("pop1", "pop2", "pop3")),
        (
            Link("pop1", "pop2", 100, 0.2),
            Link("pop2", "pop3", 100, 0.2),
            Link("pop1", "pop3", 100, 0.1),
        ),
        (Host("server", "pop3", SERVER, 100),),
        "pop2",
    )


class Bench:
    """A testbed, and what steers in it."""

    def __init__(self) -> None:
        source = Source("c-1", "c", "pop1", CLIENT, SERVER, 80, PROFILES["http"], 0.1)
        self.run = runs.new_run()
        self.testbed = Testbed(self.run, network(), [source])
        self.testbed.build()
        self.clock = WallClock()
        self.tasks = Tasks(self.clock)
        self.workers = NamespaceWorkers(self.testbed)
        self.tunnels = Tunnels(self.testbed, self.workers, self.tasks, linger_s=0.05)
        self.detours = Detours(self.workers, self.tasks)
        self.client = Inside(self.testbed.home("c-1"))
        self.server = Inside(self.testbed.home("server"))

    def close(self) -> None:
        for inside in (self.client, self.server):
            inside.close()
        self.tasks.stop()
        self.workers.close()
        self.clock.close()
        self.testbed.destroy()
        runs.remove(runs.folder(self.run))

    def tunnel(self, *path: str) -> Tunnel:
        return self.tasks.wait(self.tunnels.acquire(path))

    def send(self, count: int = 20) -> int:
        """Send datagrams from the client to the server and return how many arrive."""
        receiver = self.server.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        sender = self.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, sender:
            receiver.bind((SERVER, 5000))
            receiver.settimeout(1)
            sender.bind((CLIENT, 0))
            for number in range(count):
                sender.sendto(str(number).encode(), (SERVER, 5000))
            got = set()
            try:
                while len(got) < count:
                    got.add(receiver.recv(100))
            except TimeoutError:
                pass
            return len(got)

    def passed(self, pop: str, device: str) -> int:
        """Return how many packets a device of a PoP has received."""
        text = self.workers.inside(pop).call(_received, device)
        return int(text)


def _received(device: str) -> str:
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == device:
            return figures.split()[1]
    raise AssertionError(f"no device {device}")


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        bench.close()


def test_without_a_detour_traffic_takes_the_short_cut(bench: Bench) -> None:
    assert bench.send() == 20


def test_a_detour_leads_through_the_keeper_and_back(bench: Bench) -> None:
    tunnel = bench.tunnel("pop2", "pop3")
    bench.tasks.wait(bench.detours.add(Detour(SERVER), tunnel))
    assert bench.send() == 20
    assert bench.passed("pop2", tunnel.near.device) == 20
    assert bench.passed("pop3", tunnel.far.device) == 20


def test_detours_of_two_keepers_are_made_one_after_the_other(bench: Bench) -> None:
    tunnels = [bench.tunnel("pop2", "pop3"), bench.tunnel("pop1", "pop2", "pop3")]
    for tunnel in tunnels:
        bench.tasks.wait(bench.detours.add(Detour(SERVER), tunnel))
    assert bench.send() == 20
    assert [bench.passed(c.near.pop, c.near.device) for c in tunnels] == [20, 20]
    bench.tasks.wait(bench.detours.remove(Detour(SERVER), tunnels[0]))
    assert bench.send() == 20
    assert [bench.passed(c.near.pop, c.near.device) for c in tunnels] == [20, 40]


def test_a_detour_of_one_source_is_nobody_elses(bench: Bench) -> None:
    tunnel = bench.tunnel("pop2", "pop3")
    bench.tasks.wait(bench.detours.add(Detour(SERVER, "10.9.9.9"), tunnel))
    assert bench.send() == 20
    assert bench.passed("pop2", tunnel.near.device) == 0
    bench.tasks.wait(bench.detours.add(Detour(SERVER, CLIENT), tunnel))
    assert bench.send() == 20
    assert bench.passed("pop2", tunnel.near.device) == 20


def test_detours_of_all_sources_and_of_one_keep_out_of_each_others_way(bench: Bench) -> None:
    tunnel = bench.tunnel("pop2", "pop3")
    everybody, other = Detour(SERVER), Detour(SERVER, "10.9.9.9")
    for add, detour in ((1, everybody), (1, other), (0, everybody), (1, everybody), (0, other)):
        change = bench.detours.add if add else bench.detours.remove
        bench.tasks.wait(change(detour, tunnel))
        before = bench.passed("pop2", tunnel.near.device)
        assert bench.send() == 20
        passed = bench.passed("pop2", tunnel.near.device) - before
        assert passed in (0, 20)  # never in circles


def test_the_tunnel_takes_the_path_that_was_given(bench: Bench) -> None:
    tunnel = bench.tunnel("pop1", "pop2", "pop3")  # not the short cut
    before = bench.passed("pop2", bench.testbed.device("pop2>pop1"))
    bench.tasks.wait(bench.detours.add(Detour(SERVER), tunnel))
    assert bench.send() == 20
    assert bench.passed("pop2", bench.testbed.device("pop2>pop1")) - before >= 20


def test_after_the_last_use_nothing_is_left(bench: Bench) -> None:
    def state() -> list[str]:
        async def look() -> list[str]:
            lines = []
            for pop in ("pop1", "pop2", "pop3"):
                for words in (["rule"], ["route", "show", "table", "all"], ["addr"], ["link"]):
                    process = await asyncio.create_subprocess_exec(
                        "ip", "-o", "-n", bench.testbed.namespace(pop), *words, stdout=-1
                    )
                    out, _ = await process.communicate()
                    lines += sorted(out.decode().splitlines())
            return lines

        return bench.tasks.wait(look())

    before = state()
    tunnel = bench.tunnel("pop2", "pop3")
    assert bench.tunnel("pop2", "pop3") is tunnel
    bench.tasks.wait(bench.detours.add(Detour(SERVER), tunnel))
    assert state() != before
    bench.tasks.wait(bench.detours.remove(Detour(SERVER), tunnel))
    bench.tasks.wait(bench.tunnels.release(tunnel))
    assert state() != before
    bench.tasks.wait(bench.tunnels.release(tunnel))
    bench.tasks.wait(asyncio.sleep(0.3))
    assert state() == before


def test_two_who_want_a_tunnel_at_once_get_the_same_one_when_it_is_there(bench: Bench) -> None:
    async def both() -> list[Tunnel]:
        return list(
            await asyncio.gather(*(bench.tunnels.acquire(("pop2", "pop3")) for _ in range(5)))
        )

    tunnels = bench.tasks.wait(both())
    assert all(tunnel is tunnels[0] for tunnel in tunnels)
    assert bench.passed("pop2", tunnels[0].near.device) == 0
