"""Tunnels that take exactly the path that was awarded, and detours of traffic through them.

A tunnel between two PoPs is a point-to-point VXLAN (RFC 7348) with end addresses of its own,
which the PoPs on the path route hop by hop. Mirrored frames and steered packets travel in it. It
is not encrypted: what it carries passes the same links in the clear anyway.

Traffic towards an address makes a detour through the PoPs of the VNFs that hold it back. At the
PoP of the address, what arrives is sent into the first tunnel; what comes back from one tunnel
goes into the next, and from the last one to the address. The far PoP sends back what comes out
of its tunnel, as far as its limits let it. Traffic between hosts of one switch is not routed and
makes no detour; answers of the address go their way undisturbed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as FilePath

from msgspec import Struct

from phalanx.domain.network import PopId, link_id
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.kernel.links import ip, neighbour
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.infrastructure.linux.topology import LinuxTopology
from phalanx.infrastructure.linux.workers import NamespaceWorkers
from phalanx.infrastructure.reservations.topology import Path, Topology

PORT = 4790
MTU = 1600
"""Whole frames of the hosts fit in, and the result fits the links of a testbed."""
LINGER_S = 5.0
"""A tunnel that nobody uses is kept this long: an observer in turns wants it again soon."""
_NEAR, _FAR = "10.252", "10.251"
_PER_OCTET = 250

_MAIN = 254
_TABLES = 20_000
_CONTINUE_SOURCE, _CONTINUE_ANY, _SOURCE, _ANY = 1000, 1250, 1500, 2000
"""Priorities of rules: on the way from tunnel to tunnel (of one source, of all), then of one
source, of all sources. No two kinds share one: to the kernel, a rule of one source is the same
as the rule of all sources that is to be added or deleted, if nothing else tells them apart."""


@dataclass(frozen=True, slots=True)
class TunnelEnd:
    """One end of a tunnel."""

    pop: PopId
    device: str
    address: str
    """Outer address of this end."""
    mac: str
    inner: str
    """Next hop by which the other end reaches this one inside the tunnel."""


@dataclass(slots=True, eq=False)
class Tunnel:
    """A tunnel between the first and the last PoP of ``path``."""

    path: Path
    near: TunnelEnd
    far: TunnelEnd
    way: Path
    """How it goes at present: ``path``, unless a link of that is down."""
    users: int = 0
    idle: int = 0
    """How often it was given back: tells a later idleness from an earlier one."""


class Tunnels:
    """Opens tunnels when they are first used and closes them some time after the last use."""

    def __init__(
        self,
        linux: LinuxTopology,
        workers: NamespaceWorkers,
        tasks: Tasks,
        linger_s: float = LINGER_S,
    ) -> None:
        self._linux = linux
        self._workers = workers
        self._tasks = tasks
        self._tunnels: dict[Path, Tunnel] = {}
        self._linger_s = linger_s
        self._count = 0
        self._lock = asyncio.Lock()
        """One tunnel is opened or closed at a time: none is handed out half made."""

    async def acquire(self, path: Path) -> Tunnel:
        """Return the tunnel along ``path``, from the VNF's PoP to that of the traffic.

        Raises:
            KernelError: if it cannot be made.

        """
        async with self._lock:
            tunnel = self._tunnels.get(path)
            if tunnel is None:
                self._count += 1
                tunnel = _tunnel(path, self._count)
                await self._tasks.thread(self._open, tunnel, self._count)
                self._tunnels[path] = tunnel
            tunnel.users += 1
            return tunnel

    async def release(self, tunnel: Tunnel) -> None:
        """Give a tunnel back; it is closed unless it is acquired again within ``linger_s``."""
        tunnel.users -= 1
        tunnel.idle += 1
        if tunnel.users == 0:
            self._tasks.forget(self._close_idle(tunnel, tunnel.idle), lambda _: None)

    async def reroute(self, topology: Topology) -> None:
        """Lead each tunnel along its path again, or around it where a link of it is down.

        Raises:
            KernelError: if the kernel refuses.

        """
        async with self._lock:
            for tunnel in self._tunnels.values():
                await self._tasks.thread(self._lead, tunnel, _way(tunnel.path, topology))

    async def _close_idle(self, tunnel: Tunnel, idle: int) -> None:
        await asyncio.sleep(self._linger_s)
        async with self._lock:
            if tunnel.users == 0 and tunnel.idle == idle:
                del self._tunnels[tunnel.path]
                await self._tasks.thread(self._close, tunnel)

    def _open(self, tunnel: Tunnel, number: int) -> None:
        try:
            self._routes(tunnel, "replace")
            for end, other in ((tunnel.near, tunnel.far), (tunnel.far, tunnel.near)):
                inside = self._workers.inside(end.pop)
                inside.call(
                    ip,
                    f"addr replace {end.address}/32 dev lo",
                    f"link add name {end.device} address {end.mac} mtu {MTU} up type vxlan"
                    f" id {number} local {end.address} remote {other.address} dstport {PORT}"
                    " nolearning",
                    neighbour(other.inner, other.mac, end.device),
                )
                inside.call(_settle, end.device)
        except KernelError:
            self._close(tunnel)
            raise

    def _close(self, tunnel: Tunnel) -> None:
        for end in (tunnel.near, tunnel.far):
            self._workers.inside(end.pop).call(
                ip, f"link del {end.device}", f"addr del {end.address}/32 dev lo"
            )
        self._routes(tunnel, "del")

    def _lead(self, tunnel: Tunnel, way: Path) -> None:
        self._routes(tunnel, "del")  # the kernel has forgotten those over a link that was down
        tunnel.way = way
        self._routes(tunnel, "replace")

    def _routes(self, tunnel: Tunnel, verb: str) -> None:
        lines: dict[PopId, list[str]] = {}
        for end, way in ((tunnel.far, tunnel.way), (tunnel.near, tunnel.way[::-1])):
            for here, there in pairwise(way):
                hop = self._linux.underlay(there)
                device = self._linux.device(link_id(here, there))
                lines.setdefault(here, []).append(
                    f"route {verb} {end.address}/32 via {hop} dev {device} onlink"
                )
        for pop, routes in lines.items():
            self._workers.inside(pop).call(ip, *routes)


def _tunnel(path: Path, number: int) -> Tunnel:
    tail = f"{number // _PER_OCTET % 256}.{number % _PER_OCTET + 1}"
    mac = f"02:50:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}:00"
    device = f"phc{number}"
    return Tunnel(
        path,
        TunnelEnd(path[0], device, f"{_NEAR}.{tail}", f"{mac}:01", f"169.254.{tail}"),
        TunnelEnd(path[-1], device, f"{_FAR}.{tail}", f"{mac}:02", f"169.253.{tail}"),
        path,
    )


def _way(path: Path, topology: Topology) -> Path:
    """Return ``path`` if it is whole, else another way between its ends; empty if there is none."""
    links = (topology.link(here, there) for here, there in pairwise(path))
    if all(link is not None and topology.is_up(link) for link in links):
        return path
    return topology.route(path[0], path[-1]) or ()


def _settle(device: str) -> None:
    """Let a device carry packets that come back on it, without telling their senders."""
    folder = FilePath("/proc/sys/net/ipv4/conf") / device
    for name, value in (("send_redirects", "0"), ("rp_filter", "0"), ("forwarding", "1")):
        (folder / name).write_text(value)


class Detour(Struct, frozen=True):
    """Traffic that makes a detour."""

    address: str
    """Where it goes to."""
    source: str | None = None
    """Where it comes from; None: anywhere."""
    entry: tuple[PopId, str] | None = None
    """PoP of its sources, and device by which it comes in there; None: the PoP of its address."""


class Detours:
    """The detours in force, each through a list of tunnels."""

    def __init__(self, workers: NamespaceWorkers, tasks: Tasks) -> None:
        self._workers = workers
        self._tasks = tasks
        self._detours: dict[Detour, list[Tunnel]] = {}
        self._tables: dict[tuple[Detour, Tunnel], int] = {}
        self._count = 0
        self._lock = asyncio.Lock()
        """One detour is changed at a time: between two changes no packet goes in circles."""

    async def add(self, detour: Detour, tunnel: Tunnel) -> None:
        """Send ``detour`` through ``tunnel`` as well.

        Raises:
            KernelError: if the kernel refuses.

        """
        async with self._lock:
            before = self._detours.get(detour, [])
            if tunnel in before:
                before.append(tunnel)  # counted, but gone through once
                return
            self._count += 1
            table = self._tables[detour, tunnel] = _TABLES + self._count
            await self._tasks.thread(self._send_back, detour, tunnel, table)
            await self._become(detour, [*before, tunnel])

    async def remove(self, detour: Detour, tunnel: Tunnel) -> None:
        """Send ``detour`` no longer through ``tunnel``.

        Raises:
            KernelError: if the kernel refuses.

        """
        async with self._lock:
            tunnels = list(self._detours.get(detour, []))
            if tunnel not in tunnels:
                return
            tunnels.remove(tunnel)
            if tunnel in tunnels:
                self._detours[detour] = tunnels
                return
            await self._become(detour, tunnels)
            table = self._tables.pop((detour, tunnel))
            await self._tasks.thread(self._forget, detour, tunnel, table)

    def entries(self, address: str) -> tuple[list[str], bool]:
        """Return where traffic towards ``address`` enters its detours, at its PoP.

        Returns:
            The devices that it leaves the PoP by, and whether all of it does.

        """
        firsts = {
            detour: tunnels[0].far.device
            for detour, tunnels in self._detours.items()
            if detour.address == address and detour.entry is None
        }
        return list(dict.fromkeys(firsts.values())), Detour(address) in firsts

    async def _become(self, detour: Detour, tunnels: list[Tunnel]) -> None:
        before = self._rules(detour, self._detours.get(detour, []))
        after = self._rules(detour, tunnels)
        if tunnels:
            self._detours[detour] = tunnels
        else:
            self._detours.pop(detour, None)
        pops = {pop: None for pop, _ in (*before, *after)}
        for pop in pops:
            new = [f"rule add {r}" for p, r in after if p == pop and (p, r) not in before]
            old = [f"rule del {r}" for p, r in before if p == pop and (p, r) not in after]
            await self._tasks.thread(self._workers.inside(pop).call, ip, *new, *old)

    def _rules(self, detour: Detour, tunnels: list[Tunnel]) -> list[tuple[PopId, str]]:
        """Return the rules at the PoP of the address, for tunnels each gone through once."""
        once = list(dict.fromkeys(tunnels))
        if not once:
            return []
        pop = once[0].far.pop
        tables = [self._tables[detour, tunnel] for tunnel in once]
        first = _ANY if detour.source is None else _SOURCE
        comes = "" if detour.entry is None else f" iif {detour.entry[1]}"
        rules = [(pop, f"{_match(detour)}{comes} lookup {tables[0]} pref {first}")]
        for tunnel, following in zip(once, [*tables[1:], _MAIN], strict=True):
            rules.append((pop, _onward(detour, tunnel.far.device, following)))
        return rules

    def _send_back(self, detour: Detour, tunnel: Tunnel, table: int) -> None:
        near, far = tunnel.near, tunnel.far
        for end, other in ((near, far), (far, near)):
            route = f"{detour.address}/32 via {other.inner} dev {end.device} table {table} onlink"
            self._workers.inside(end.pop).call(ip, f"route replace {route}")
        rule = _onward(detour, near.device, table)
        self._workers.inside(near.pop).call(ip, f"rule add {rule}")

    def _forget(self, detour: Detour, tunnel: Tunnel, table: int) -> None:
        rule = _onward(detour, tunnel.near.device, table)
        self._workers.inside(tunnel.near.pop).call(ip, f"rule del {rule}")
        for end in (tunnel.near, tunnel.far):
            route = f"{detour.address}/32 table {table}"
            self._workers.inside(end.pop).call(ip, f"route del {route}")


def _onward(detour: Detour, device: str, table: int) -> str:
    """Return the rule for what comes out of a tunnel by ``device``."""
    kind = _CONTINUE_ANY if detour.source is None else _CONTINUE_SOURCE
    return f"{_match(detour)} iif {device} lookup {table} pref {kind}"


def _match(detour: Detour) -> str:
    source = "" if detour.source is None else f" from {detour.source}"
    return f"to {detour.address}{source}"
