"""What a testbed will consist of: every name, address and number, before anything is made."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from itertools import chain, count

from msgspec import Struct

from phalanx.domain.network import Host, LinkId, Network, PopId, link_id
from phalanx.domain.traffic import STEADY, Source
from phalanx.infrastructure.linux.kernel import KernelError

SWITCH = "sw"
GATEWAY = "169.254.1.1"
"""Address of every PoP's switch, towards its hosts."""
SWITCH_MAC = "02:53:00:00:00:01"

_RESERVED = tuple(
    ipaddress.ip_network(text)
    for text in ("10.254.0.0/16", "10.255.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
)
_PER_BLOCK = 250
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]")


class Port(Struct, frozen=True):
    """A port of a PoP's switch, and the namespace behind it: a host, or sources."""

    pop: PopId
    device: str
    """Of the port, in the PoP's namespace; that of the far end is ``eth0``."""
    namespace: str
    mac: str
    """Of the far end."""
    addresses: tuple[str, ...]
    rate_mb_s: float | None
    """In both directions; None: as fast as the machine."""
    delay_ms: float


class Join(Struct, frozen=True):
    """A link between two PoPs."""

    a: PopId
    b: PopId
    device_a: str
    """Of the interface in ``a``'s namespace, whose egress leads to ``b``."""
    device_b: str
    mac_a: str
    mac_b: str
    rate_mb_s: float
    delay_ms: float
    loss: float


class Plan(Struct, frozen=True):
    """All of a testbed."""

    namespaces: dict[PopId, str]
    underlay: dict[PopId, str]
    ports: tuple[Port, ...]
    joins: tuple[Join, ...]
    homes: dict[str, str]
    """Namespace of each host and each source, by its name."""
    hosts: dict[str, str]
    """Address of each host."""
    devices: dict[LinkId, str]

    def at(self, pop: PopId) -> list[Port]:
        """Return the ports of a PoP's switch."""
        return [port for port in self.ports if port.pop == pop]


def draw(run: str, network: Network, sources: Sequence[Source]) -> Plan:
    """Return the plan of a testbed.

    Raises:
        KernelError: if an address is unusable or stands twice.

    """
    _check(network, sources)
    number = {pop.name: n for n, pop in enumerate(network.pops, 1)}
    namespaces: dict[PopId, str] = {}
    for pop_name in number:
        namespaces[pop_name] = _namespace(run, pop_name, namespaces.values())
    taken = dict.fromkeys(namespaces.values())
    used = dict.fromkeys(number, 0)
    homes: dict[str, str] = {}
    devices: dict[LinkId, str] = {}
    ports: list[Port] = []

    def port(
        pop: PopId,
        label: str,
        letter: str,
        addresses: Iterable[str],
        rate: float | None = None,
        delay_ms: float = 0.0,
    ) -> Port:
        used[pop] += 1
        k = used[pop]
        space = _namespace(run, label, taken)
        taken[space] = None
        mac = _mac(0x48, number[pop], k)
        made = Port(pop, f"{letter}{k}", space, mac, tuple(addresses), rate, delay_ms)
        ports.append(made)
        return made

    for host in network.hosts:
        made = port(host.at, host.name, "h", [host.address], host.bandwidth_mb_s, host.latency_ms)
        homes[host.name] = made.namespace
        devices[link_id(host.at, host.name)] = made.device
    for (label, pop), members in _households(sources).items():
        made = port(pop, label, "s", dict.fromkeys(source.address for source in members))
        homes.update((source.name, made.namespace) for source in members)
    joins = []
    for link in network.links:
        a, b = number[link.a], number[link.b]
        join = Join(
            link.a,
            link.b,
            f"p{b}",
            f"p{a}",
            _mac(0x50, a, b),
            _mac(0x50, b, a),
            link.bandwidth_mb_s,
            link.latency_ms,
            link.loss,
        )
        joins.append(join)
        devices[link_id(link.a, link.b)] = join.device_a
        devices[link_id(link.b, link.a)] = join.device_b
    return Plan(
        namespaces,
        {pop: _underlay(n) for pop, n in number.items()},
        tuple(ports),
        tuple(joins),
        homes,
        {host.name: host.address for host in network.hosts},
        devices,
    )


def _namespace(run: str, label: str, taken: Iterable[str]) -> str:
    """Return a name that is fit for a file and not ``taken``."""
    base = f"phx-{run}-{_UNFIT.sub('_', label)}"
    names = chain([base], (f"{base}.{n}" for n in count(2)))
    return next(name for name in names if name not in taken)


def _households(sources: Sequence[Source]) -> dict[tuple[str, PopId], list[Source]]:
    """Return which sources share a namespace, by its label and their PoP.

    Users of a group at a PoP do; each attacker has its own.
    """
    found: dict[tuple[str, PopId], list[Source]] = {}
    for source in sources:
        label = source.name if source.profile.malicious else f"{source.group}-{source.at}"
        found.setdefault((label, source.at), []).append(source)
    return found


def _check(network: Network, sources: Sequence[Source]) -> None:
    seen: dict[str, str] = {}
    things: list[Host | Source] = [*network.hosts, *sources]
    for thing in things:
        try:
            address = ipaddress.IPv4Address(thing.address)
        except ipaddress.AddressValueError:
            raise KernelError(
                f"{thing.name}: {thing.address!r} is no IPv4 address; a testbed needs one"
            ) from None
        for block in _RESERVED:
            if address in block:
                raise KernelError(f"{thing.name}: {address} is reserved, with all of {block}")
        limits = thing.limits if isinstance(thing, Host) else None
        if limits is not None and limits.leak_share_s + limits.leak_share_request > 0:
            raise KernelError(f"{thing.name}: a testbed plays no service that leaks memory")
        if isinstance(thing, Source) and (thing.shape != STEADY or thing.adapt or thing.asymmetric):
            raise KernelError(
                f"{thing.name}: a testbed plays no {thing.profile.name} like this; it knows no "
                "shape, adapt or asymmetric"
            )
        if seen.setdefault(thing.address, thing.name) != thing.name:
            raise KernelError(f"{thing.name} and {seen[thing.address]} both have {address}")


def _underlay(number: int) -> str:
    """Return 10.254.0.1 to 10.254.0.250, and beyond 250 PoPs 10.254.1.1 and so on."""
    block, place = divmod(number - 1, _PER_BLOCK)
    return f"10.254.{block}.{place + 1}"


def _mac(kind: int, a: int, b: int) -> str:
    """Return a locally administered address from two numbers below 65,536."""
    octets = (2, kind, a >> 8, a & 255, b >> 8, b & 255)
    return ":".join(f"{octet:02x}" for octet in octets)
