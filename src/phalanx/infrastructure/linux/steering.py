"""Steering: traffic towards an address makes a detour through the PoPs of its keepers.

At the PoP of the address, what arrives is sent into the first keeper's chain; what comes
back from one chain goes into the next, and from the last one to the address. A keeper sends
back what comes out of its chain, as far as its limits let it. Traffic between hosts of one
switch is not routed and makes no detour; answers of the address go their way undisturbed.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.chains import Chain, Chains
from phalanx.infrastructure.linux.jobs import Jobs

_MAIN = 254
_TABLES = 20_000
_CONTINUE_SOURCE, _CONTINUE_ANY, _SOURCE, _ANY = 1000, 1250, 1500, 2000
"""Priorities of rules: on the way from chain to chain (of one source, of all), then of one
source, of all sources. No two kinds share one: to the kernel, a rule of one source is the same
as the rule of all sources that is to be added or deleted, if nothing else tells them apart."""


class Detour(Struct, frozen=True):
    """Traffic that makes a detour."""

    address: str
    """Where it goes to."""
    source: str | None = None
    """Where it comes from; None: anywhere."""


class Steering:
    """The detours in force, each through a list of chains."""

    def __init__(self, chains: Chains, jobs: Jobs) -> None:
        self._chains = chains
        self._jobs = jobs
        self._detours: dict[Detour, list[Chain]] = {}
        self._tables: dict[tuple[Detour, Chain], int] = {}
        self._count = 0
        self._lock = asyncio.Lock()
        """One detour is changed at a time: between two changes no packet goes in circles."""

    async def add(self, detour: Detour, chain: Chain) -> None:
        """Send ``detour`` through ``chain`` as well.

        Raises:
            JobError: if the kernel refuses.

        """
        async with self._lock:
            before = self._detours.get(detour, [])
            if chain in before:
                before.append(chain)  # counted, but gone through once
                return
            self._count += 1
            table = self._tables[detour, chain] = _TABLES + self._count
            await self._jobs.thread(self._send_back, detour, chain, table)
            await self._become(detour, [*before, chain])

    async def remove(self, detour: Detour, chain: Chain) -> None:
        """Send ``detour`` no longer through ``chain``.

        Raises:
            JobError: if the kernel refuses.

        """
        async with self._lock:
            chains = list(self._detours.get(detour, []))
            if chain not in chains:
                return
            chains.remove(chain)
            if chain in chains:
                self._detours[detour] = chains
                return
            await self._become(detour, chains)
            table = self._tables.pop((detour, chain))
            await self._jobs.thread(self._forget, detour, chain, table)

    def entries(self, address: str) -> tuple[list[str], bool]:
        """Return where traffic towards ``address`` enters its detours, at its PoP.

        Returns:
            The devices that it leaves the PoP by, and whether all of it does.

        """
        firsts = {
            detour: chains[0].far.device
            for detour, chains in self._detours.items()
            if detour.address == address
        }
        return list(dict.fromkeys(firsts.values())), Detour(address) in firsts

    async def _become(self, detour: Detour, chains: list[Chain]) -> None:
        before = self._rules(detour, self._detours.get(detour, []))
        after = self._rules(detour, chains)
        if chains:
            self._detours[detour] = chains
        else:
            self._detours.pop(detour, None)
        pops = {pop: None for pop, _ in (*before, *after)}
        for pop in pops:
            new = [("rule", "add", r) for p, r in after if p == pop and (p, r) not in before]
            old = [("rule", "del", r) for p, r in before if p == pop and (p, r) not in after]
            await self._jobs.thread(self._chains.netlink, pop, *new, *old)

    def _rules(self, detour: Detour, chains: list[Chain]) -> list[tuple[PopId, dict[str, object]]]:
        """Return the rules at the PoP of the address, for chains each gone through once."""
        once = list(dict.fromkeys(chains))
        if not once:
            return []
        pop = once[0].far.pop
        match = _match(detour)
        tables = [self._tables[detour, chain] for chain in once]
        any_from = _ANY if detour.source is None else _SOURCE
        go_on = _continue(detour)
        rules: list[tuple[PopId, dict[str, object]]] = [
            (pop, {**match, "table": tables[0], "priority": any_from})
        ]
        for chain, following in zip(once, [*tables[1:], _MAIN], strict=True):
            iif = {"iifname": chain.far.device}
            rules.append((pop, {**match, **iif, "table": following, "priority": go_on}))
        return rules

    def _send_back(self, detour: Detour, chain: Chain, table: int) -> None:
        near, far = chain.near, chain.far
        for end, other in ((near, far), (far, near)):
            route = {
                "dst": f"{detour.address}/32",
                "gateway": other.inner,
                "device": end.device,
                "table": table,
                "flags": 4,
            }
            self._chains.netlink(end.pop, ("route", "replace", route))
        rule = _back(detour, chain, table)
        self._chains.netlink(near.pop, ("rule", "add", rule))

    def _forget(self, detour: Detour, chain: Chain, table: int) -> None:
        near, far = chain.near, chain.far
        rule = _back(detour, chain, table)
        self._chains.netlink(near.pop, ("rule", "del", rule))
        for end in (near, far):
            route = {"dst": f"{detour.address}/32", "table": table}
            self._chains.netlink(end.pop, ("route", "del", route))


def _back(detour: Detour, chain: Chain, table: int) -> dict[str, object]:
    """Return the rule at a keeper that sends back what comes out of its chain."""
    iif = {"iifname": chain.near.device}
    return {**_match(detour), **iif, "table": table, "priority": _continue(detour)}


def _continue(detour: Detour) -> int:
    return _CONTINUE_ANY if detour.source is None else _CONTINUE_SOURCE


def _match(detour: Detour) -> dict[str, object]:
    match: dict[str, object] = {"dst": detour.address, "dst_len": 32}
    if detour.source is not None:
        match |= {"src": detour.source, "src_len": 32}
    return match
