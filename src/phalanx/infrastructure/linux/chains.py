"""Chains: tunnels between two PoPs whose packets take exactly the path that was awarded.

Each is a point-to-point VXLAN (RFC 7348) with end addresses of its own, which the PoPs on
the path route hop by hop. Mirrored frames and steered packets travel in it. It is not
encrypted: what it carries passes the same links in the clear anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from phalanx.domain.network import PopId, link_id
from phalanx.infrastructure.linux.ground import Ground
from phalanx.infrastructure.linux.jobs import JobError, Jobs
from phalanx.infrastructure.linux.places import Places
from phalanx.infrastructure.reservations.topology import Path, Topology

PORT = 4790
MTU = 1600
"""Whole frames of the hosts fit in, and the result fits the links of a testbed."""
LINGER_S = 5.0
"""A chain that nobody uses is kept this long: who observes in turns wants it again at once."""
_NEAR, _FAR = "10.252", "10.251"
_PER_OCTET = 250
_INDEX = {"link": "index", "addr": "index", "route": "oif", "neigh": "ifindex"}
"""What each request calls the index of a device."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a chain."""

    pop: PopId
    device: str
    address: str
    """Outer address of this end."""
    mac: str
    inner: str
    """Next hop by which the other end reaches this one inside the chain."""


@dataclass(slots=True, eq=False)
class Chain:
    """A tunnel between the first and the last PoP of ``path``."""

    path: Path
    near: End
    far: End
    way: Path
    """How it goes at present: ``path``, unless a link of that is down."""
    users: int = 0
    idle: int = 0
    """How often it was given back: tells a later idleness from an earlier one."""


class Chains:
    """Opens chains when they are first used and closes them some time after the last use."""

    def __init__(
        self, ground: Ground, places: Places, jobs: Jobs, linger_s: float = LINGER_S
    ) -> None:
        self._ground = ground
        self._places = places
        self._jobs = jobs
        self._chains: dict[Path, Chain] = {}
        self._linger_s = linger_s
        self._count = 0
        self._lock = asyncio.Lock()
        """One chain is opened or closed at a time: nobody gets one that is half there."""
        self._netlink: dict[PopId, Any] = {}

    async def acquire(self, path: Path) -> Chain:
        """Return the chain along ``path``, from the VNF's PoP to that of the traffic.

        Raises:
            JobError: if it cannot be made.

        """
        async with self._lock:
            chain = self._chains.get(path)
            if chain is None:
                self._count += 1
                chain = _chain(path, self._count)
                await self._jobs.thread(self._open, chain, self._count)
                self._chains[path] = chain
            chain.users += 1
            return chain

    async def release(self, chain: Chain) -> None:
        """Give a chain back; it is closed when nobody has wanted it again for a while."""
        chain.users -= 1
        chain.idle += 1
        if chain.users == 0:
            self._jobs.forget(self._close_idle(chain, chain.idle), lambda _: None)

    async def reroute(self, topology: Topology) -> None:
        """Lead each chain along its path again, or around it where a link of it is down.

        Raises:
            JobError: if the kernel refuses.

        """
        async with self._lock:
            for chain in self._chains.values():
                await self._jobs.thread(self._lead, chain, _way(chain.path, topology))

    async def _close_idle(self, chain: Chain, idle: int) -> None:
        await asyncio.sleep(self._linger_s)
        async with self._lock:
            if chain.users == 0 and chain.idle == idle:
                del self._chains[chain.path]
                await self._jobs.thread(self._close, chain)

    def netlink(self, pop: PopId, *calls: tuple[str, str, dict[str, Any]]) -> None:
        """Make netlink requests at ``pop``: (what, verb, arguments) in their order; blocking.

        Deleting what is gone is no error, nor is adding what is there.

        Raises:
            JobError: if the kernel refuses.

        """

        def work() -> None:
            handle = self._netlink.get(pop)
            if handle is None:
                handle = self._netlink[pop] = IPRoute()
            for what, verb, arguments in calls:
                given = dict(arguments)
                if "device" in given:
                    given[_INDEX[what]] = handle.link_lookup(ifname=given.pop("device"))[0]
                try:
                    getattr(handle, what)(verb, **given)
                except NetlinkError as error:
                    if not (verb == "del" or error.code == 17):  # EEXIST
                        raise

        try:
            self._places.inside(pop).call(work)
        except (NetlinkError, IndexError) as error:
            raise JobError(f"the kernel at {pop} refused: {error}") from error

    def close(self) -> None:
        """Close the netlink sockets; the devices end with their namespaces or ``release``."""
        for pop, handle in self._netlink.items():
            with contextlib.suppress(OSError):
                self._places.inside(pop).call(handle.close)
        self._netlink.clear()

    def _open(self, chain: Chain, number: int) -> None:
        try:
            self._routes(chain, "replace")
            for end, other in ((chain.near, chain.far), (chain.far, chain.near)):
                self._places.inside(end.pop)
                self.netlink(
                    end.pop,
                    ("addr", "replace", {"device": "lo", "address": end.address, "prefixlen": 32}),
                    (
                        "link",
                        "add",
                        {
                            "ifname": end.device,
                            "kind": "vxlan",
                            "vxlan_id": number,
                            "vxlan_local": end.address,
                            "vxlan_group": other.address,
                            "vxlan_port": PORT,
                            "vxlan_learning": 0,
                            "address": end.mac,
                            "mtu": MTU,
                            "state": "up",
                        },
                    ),
                    (
                        "neigh",
                        "replace",
                        {
                            "device": end.device,
                            "dst": other.inner,
                            "lladdr": other.mac,
                            "state": 0x80,  # NUD_PERMANENT
                        },
                    ),
                )
                self._places.inside(end.pop).call(_settle, end.device)
        except JobError:
            self._close(chain)
            raise

    def _close(self, chain: Chain) -> None:
        for end in (chain.near, chain.far):
            with contextlib.suppress(JobError):
                self.netlink(end.pop, ("link", "del", {"device": end.device}))
            with contextlib.suppress(JobError):
                self.netlink(
                    end.pop,
                    ("addr", "del", {"device": "lo", "address": end.address, "prefixlen": 32}),
                )
        self._routes(chain, "del")

    def _lead(self, chain: Chain, way: Path) -> None:
        self._routes(chain, "del")  # the kernel has forgotten those over a link that was down
        chain.way = way
        self._routes(chain, "replace")

    def _routes(self, chain: Chain, verb: str) -> None:
        for end, way in ((chain.far, chain.way), (chain.near, chain.way[::-1])):
            for here, there in pairwise(way):
                self.netlink(
                    here,
                    (
                        "route",
                        verb,
                        {
                            "dst": f"{end.address}/32",
                            "gateway": self._ground.underlay(there),
                            "device": self._ground.device(link_id(here, there)),
                            "flags": 4,  # RTNH_F_ONLINK: links have no subnet of their own
                        },
                    ),
                )


def _chain(path: Path, number: int) -> Chain:
    tail = f"{number // _PER_OCTET % 256}.{number % _PER_OCTET + 1}"
    mac = f"02:50:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}:00"
    device = f"phc{number}"
    return Chain(
        path,
        End(path[0], device, f"{_NEAR}.{tail}", f"{mac}:01", f"169.254.{tail}"),
        End(path[-1], device, f"{_FAR}.{tail}", f"{mac}:02", f"169.253.{tail}"),
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
