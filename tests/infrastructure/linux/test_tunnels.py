"""Tunnels and detours: real packets take the way that was awarded, and still arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
from driver_bench import CLIENT, SERVER, Bench, counters
from linux_needs import requires_root

from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.infrastructure.linux.tunnels import Detour, Detours, Tunnel, Tunnels
from phalanx.infrastructure.linux.workers import NamespaceWorkers

pytestmark = [pytest.mark.linux, requires_root]


class Steering:
    """What steers in the testbed of a driver that has nothing to do."""

    def __init__(self, bench: Bench) -> None:
        self.testbed = bench.testbed
        self.tasks = Tasks(bench.clock)
        self.workers = NamespaceWorkers(bench.testbed)
        self.tunnels = Tunnels(bench.testbed, self.workers, self.tasks, linger_s=0.05)
        self.detours = Detours(self.workers, self.tasks)
        self.send = partial(bench.udp, 20)

    def tunnel(self, *path: str) -> Tunnel:
        return self.tasks.wait(self.tunnels.acquire(path))

    def passed(self, pop: str, device: str) -> int:
        """Return how many packets a device of a PoP has received."""
        return int(self.workers.inside(pop).call(counters, device)[1])


@pytest.fixture
def steering(bench: Bench) -> Iterator[Steering]:
    made = Steering(bench)
    yield made
    made.tasks.stop()
    made.workers.close()


def test_a_detour_leads_through_the_keeper_and_back(steering: Steering) -> None:
    tunnel = steering.tunnel("pop2", "pop3")
    steering.tasks.wait(steering.detours.add(Detour(SERVER), tunnel))
    assert steering.send() == 20
    assert steering.passed("pop2", tunnel.near.device) == 20
    assert steering.passed("pop3", tunnel.far.device) == 20


def test_detours_of_two_keepers_are_made_one_after_the_other(steering: Steering) -> None:
    tunnels = [steering.tunnel("pop2", "pop3"), steering.tunnel("pop1", "pop2", "pop3")]
    for tunnel in tunnels:
        steering.tasks.wait(steering.detours.add(Detour(SERVER), tunnel))
    assert steering.send() == 20
    assert [steering.passed(c.near.pop, c.near.device) for c in tunnels] == [20, 20]
    steering.tasks.wait(steering.detours.remove(Detour(SERVER), tunnels[0]))
    assert steering.send() == 20
    assert [steering.passed(c.near.pop, c.near.device) for c in tunnels] == [20, 40]


def test_a_detour_of_one_source_is_nobody_elses(steering: Steering) -> None:
    tunnel = steering.tunnel("pop2", "pop3")
    steering.tasks.wait(steering.detours.add(Detour(SERVER, "10.9.9.9"), tunnel))
    assert steering.send() == 20
    assert steering.passed("pop2", tunnel.near.device) == 0
    steering.tasks.wait(steering.detours.add(Detour(SERVER, CLIENT), tunnel))
    assert steering.send() == 20
    assert steering.passed("pop2", tunnel.near.device) == 20


def test_detours_of_all_sources_and_of_one_keep_out_of_each_others_way(steering: Steering) -> None:
    tunnel = steering.tunnel("pop2", "pop3")
    everybody, other = Detour(SERVER), Detour(SERVER, "10.9.9.9")
    for add, detour in ((1, everybody), (1, other), (0, everybody), (1, everybody), (0, other)):
        change = steering.detours.add if add else steering.detours.remove
        steering.tasks.wait(change(detour, tunnel))
        before = steering.passed("pop2", tunnel.near.device)
        assert steering.send() == 20
        passed = steering.passed("pop2", tunnel.near.device) - before
        assert passed in (0, 20)  # never in circles


def test_the_tunnel_takes_the_path_that_was_given(steering: Steering) -> None:
    tunnel = steering.tunnel("pop1", "pop2", "pop3")  # not the short cut
    before = steering.passed("pop2", steering.testbed.device("pop2>pop1"))
    steering.tasks.wait(steering.detours.add(Detour(SERVER), tunnel))
    assert steering.send() == 20
    assert steering.passed("pop2", steering.testbed.device("pop2>pop1")) - before >= 20


def test_after_the_last_use_nothing_is_left(steering: Steering) -> None:
    def state() -> list[str]:
        async def look() -> list[str]:
            lines = []
            for pop in ("pop1", "pop2", "pop3"):
                for words in (["rule"], ["route", "show", "table", "all"], ["addr"], ["link"]):
                    process = await asyncio.create_subprocess_exec(
                        "ip", "-o", "-n", steering.testbed.namespace(pop), *words, stdout=-1
                    )
                    out, _ = await process.communicate()
                    lines += sorted(out.decode().splitlines())
            return lines

        return steering.tasks.wait(look())

    before = state()
    tunnel = steering.tunnel("pop2", "pop3")
    assert steering.tunnel("pop2", "pop3") is tunnel
    steering.tasks.wait(steering.detours.add(Detour(SERVER), tunnel))
    assert state() != before
    steering.tasks.wait(steering.detours.remove(Detour(SERVER), tunnel))
    steering.tasks.wait(steering.tunnels.release(tunnel))
    assert state() != before
    steering.tasks.wait(steering.tunnels.release(tunnel))
    for _ in range(20):
        steering.tasks.wait(asyncio.sleep(0.3))
        if (after := state()) == before:
            break
    assert after == before


def test_who_want_a_tunnel_at_once_get_the_same_one_when_it_is_there(
    steering: Steering,
) -> None:
    async def both() -> list[Tunnel]:
        return list(
            await asyncio.gather(*(steering.tunnels.acquire(("pop2", "pop3")) for _ in range(5)))
        )

    tunnels = steering.tasks.wait(both())
    assert all(tunnel is tunnels[0] for tunnel in tunnels)
    assert steering.passed("pop2", tunnels[0].near.device) == 0
