"""Counters of what users send into the network at a PoP, towards each host; no VNF is needed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable

from phalanx.domain.actions import EntrySample, Failed, ReadEntry
from phalanx.domain.network import PopId
from phalanx.infrastructure import Answer
from phalanx.infrastructure.linux.kernel.runs import note
from phalanx.infrastructure.linux.tasks import TaskError
from phalanx.infrastructure.linux.vnf_processes import token
from phalanx.infrastructure.linux.workers import DriverContext

WINDOW_S = 2.0
"""A rate is that over at most so long."""
LEAST_S = 0.04
"""A rate is not told from less than this, in seconds."""
NOTHING_S = 0.5
"""That nothing comes in is told after this long, in seconds."""
KEPT_S = 60
"""Counters that are not read for so long stop, in seconds."""
_BEFORE = -40
"""Priority: before any measure."""


class EntryCounters:
    """Carries out ``ReadEntry``; counts from the first reading at a PoP on.

    The counter of an address begins with a packet and ends ``WINDOW_S`` later; how much of that
    time is left says how long it has counted, so that no reading needs an earlier one.
    """

    def __init__(self, context: DriverContext, addresses: Iterable[str]) -> None:
        """Count nothing yet.

        Args:
            context: what every part of the driver works with.
            addresses: of the hosts.

        """
        self._tasks = context.tasks
        self._linux = context.linux
        self._workers = context.workers
        self._hosts = ", ".join(addresses)
        self._tables: dict[tuple[PopId, str], str] = {}

    def read(self, pop: PopId, action: ReadEntry, answer: Answer) -> None:
        """Answer with what came in at ``pop`` during the last seconds, before any measure."""
        if self._linux.host_at(action.target) is None:
            answer(Failed(f"no host has the address {action.target}"))
            return
        self._tasks.start(
            self._rate(pop, action.target),
            lambda rate: answer(EntrySample(action.target, rate)),
            lambda reason: answer(Failed(reason)),
        )

    def close(self) -> None:
        """Remove the counters."""
        for (pop, _), table in self._tables.items():
            with contextlib.suppress(TaskError):  # the kernel has removed it with its device
                self._workers.nft(pop, f"delete table netdev {table}")
        self._tables.clear()

    async def _rate(self, pop: PopId, target: str) -> float:
        """Return the rate towards an address in MB/s."""
        device, hook = self._linux.entry(pop), "ingress"
        if device is None:
            device, hook = self._linux.host_device(target), "egress"
        table = f"phx_{token(f'entry {pop} {device}')}"
        script = _lease(table)
        if (pop, device) not in self._tables:
            if self._linux.namespace(pop) is None:
                note(self._linux.run, f"netdev {table}")
            script = _counters(table, device, hook, self._hosts) + script
        await self._tasks.thread(self._workers.nft, pop, script)
        self._tables[pop, device] = table
        until = asyncio.get_running_loop().time() + NOTHING_S
        while True:
            octets, age_s = await self._read(pop, table, target)
            if age_s >= LEAST_S or asyncio.get_running_loop().time() >= until:
                return octets / max(age_s, LEAST_S) / 1e6
            await asyncio.sleep(LEAST_S / 2)

    async def _read(self, pop: PopId, table: str, target: str) -> tuple[int, float]:
        """Return the octets counted and for how long, in seconds."""
        key = socket.inet_aton(target)
        for element in await self._tasks.thread(self._workers.elements, pop, table, "entering"):
            if element.key == key:
                return element.octets, WINDOW_S - (element.expires_s or 0.0)
        return 0, 0.0


def _counters(table: str, device: str, hook: str, hosts: str) -> str:
    place = f"netdev {table}"
    counted = f"flags dynamic, timeout; timeout {WINDOW_S:g}s; size 65535; counter;"
    return (
        f"add table {place}\n"
        f"add set {place} lease {{ type ether_type; flags timeout; }}\n"
        f"add set {place} hosts {{ type ipv4_addr; elements = {{ {hosts} }}; }}\n"
        f"add set {place} entering {{ type ipv4_addr; {counted} }}\n"
        f'add chain {place} count {{ type filter hook {hook} device "{device}" '
        f"priority {_BEFORE}; }}\n"
        f"flush chain {place} count\n"
        f"add rule {place} count meta protocol @lease ip daddr @hosts "
        "add @entering { ip daddr }\n"
    )


def _lease(table: str) -> str:
    element = f"element netdev {table} lease"
    return (
        f"add {element} {{ ip }}\ndelete {element} {{ ip }}\n"
        f"add {element} {{ ip timeout {KEPT_S}s }}\n"
    )
