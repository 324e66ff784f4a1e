"""A whole network on one machine: PoPs, links, hosts and sources as network namespaces.

Each PoP is a router with a switch (the bridge ``sw``). PoPs reach each other at their
underlay addresses along the paths of least latency; hosts and sources hang on the switches.

What a testbed will consist of: every name, address and number, before anything is made.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import chain, count
from pathlib import Path
from typing import ParamSpec

from msgspec import Struct

from phalanx.domain.network import Host, LinkId, Network, PopId, link_id
from phalanx.domain.traffic import STEADY, Source
from phalanx.infrastructure.linux.kernel import KernelError, cgroups, namespaces, runs
from phalanx.infrastructure.linux.kernel.cgroups import Cgroup
from phalanx.infrastructure.linux.kernel.links import (
    configure,
    has_netem,
    ip,
    neighbour,
    shaping,
    veth,
)
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.kernel.wire import Strand, Wire
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError
from phalanx.infrastructure.reservations.topology import Topology

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


P = ParamSpec("P")

LEAST_DELAY_MS = 0.5
"""Links with less than this get no delay of their own."""

_LINK_MTU = 1700  # a full packet of a host, with VXLAN and ESP around it
_HOST_MTU = 1500
_FAR = "eth0"
_QUIET = {"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1}
_ROUTER = {
    "ipv4/ip_forward": 1,  # first, as it sets others back to a router's defaults
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "bridge/bridge-nf-call-iptables": 0,  # what crosses the switch is not routed twice
    **_QUIET,
}
_HOST = {
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/accept_redirects": 0,
    "ipv4/conf/default/accept_redirects": 0,
    **_QUIET,
}


class Testbed:
    """The network of a run.

    Args:
        run: mark of the run, from ``kernel.runs.new_run``.
        network: PoPs, links and hosts.
        sources: who will send traffic. Users of one group at one PoP share a namespace, each
            attacker has its own.

    Raises:
        KernelError: if an address is unusable or stands twice.

    """

    __test__ = False  # pytest takes the name for its own

    def __init__(self, run: str, network: Network, sources: Sequence[Source]) -> None:
        self.run = run
        self._network = network
        self._plan = draw(run, network, sources)
        self._ports = {a: port for port in self._plan.ports for a in port.addresses}
        self._topology = Topology(network)
        self._routes: dict[PopId, dict[str, str]] = {pop: {} for pop in self._plan.namespaces}
        """Where each PoP sends packets for an address, in the words of ``ip-route(8)``."""
        # The first address of a PoP is its own; the others hang on its switch.
        self._addresses = {
            pop: [self.underlay(pop), *(a for port in self._plan.at(pop) for a in port.addresses)]
            for pop in self._routes
        }
        self._groups: dict[PopId, Cgroup] = {}
        self._wire: Wire | None = None

    @property
    def folder(self) -> Path:
        """Where the files of the run lie."""
        return runs.folder(self.run)

    def build(self) -> None:
        """Make everything; blocking, about 1 s for 6 PoPs and 60 sources.

        Raises:
            KernelError: if something is missing or refused; what was made is removed.

        """
        try:
            with Inside(None) as hands:
                hands.call(self._build)
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """Remove everything, with the processes in it; the run's folder stays. Idempotent.

        Raises:
            KernelError: if something cannot be removed.

        """
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._groups.clear()
        runs.sweep(self.run)

    def namespace(self, pop: PopId) -> str:
        """Return the network namespace of a PoP, such as ``phx-1a2b3c-pop1``."""
        return self._plan.namespaces[pop]

    def underlay(self, pop: PopId) -> str:
        """Return the address under which other PoPs reach this one, such as ``10.254.0.1``."""
        return self._plan.underlay[pop]

    def device(self, link: LinkId) -> str:
        """Return the device, in the namespace where ``link`` begins, whose egress is the link.

        Raises:
            KeyError: if there is no such link.

        """
        return self._plan.devices[link]

    def host_at(self, address: str) -> PopId | None:
        """Return the PoP on whose switch ``address`` is; None if it is on none."""
        port = self._ports.get(address)
        return None if port is None else port.pop

    def host_device(self, address: str) -> str:
        """Return the device whose egress leads to ``address``, at its PoP.

        Raises:
            KeyError: if the address is on no switch.

        """
        return self._ports[address].device

    def entry(self, pop: PopId) -> str:  # noqa: ARG002
        """Return the switch, to which all that hosts and sources send is addressed."""
        return SWITCH

    def address(self, host: str) -> str | None:
        """Return the address of the host of that name; None if there is none."""
        return self._plan.hosts.get(host)

    def home(self, name: str) -> str:
        """Return the network namespace in which a host or a source lives.

        Raises:
            KeyError: if there is none of that name.

        """
        return self._plan.homes[name]

    def cgroup(self, pop: PopId) -> Cgroup:
        """Return the limits of a PoP; there are some once it is built."""
        return self._groups[pop]

    def set_link(self, a: PopId, b: PopId, *, up: bool) -> None:
        """Cut or mend the link between two PoPs; all routes follow at once. Blocking.

        Raises:
            KeyError: if no link joins them.
            KernelError: if the kernel refuses.

        """
        link = self._topology.link(a, b)
        if link is None:
            raise KeyError(f"{a}>{b}")
        with Inside(None) as hands:
            for pop in (a, b):
                hands.call(self._within, self.namespace(pop), self._switch, a, b, pop, up)
            self._topology.switch(link, up=up)
            for pop, other in ((a, b), (b, a)):  # the kernel forgot them when it went down
                lost = f"dev {self.device(link_id(pop, other))} "
                table = self._routes[pop].items()
                self._routes[pop] = {to: hop for to, hop in table if not hop.startswith(lost)}
            for pop, routes in self._routes.items():
                if routes != self._wanted(pop):
                    hands.call(self._within, self.namespace(pop), self._route, pop)

    def _build(self) -> None:
        plan = self._plan
        carried = strands(plan)
        lossy = any(join.loss > 0 for join in plan.joins)
        netem = bool(carried or lossy) and has_netem()
        wired = bool(carried) and not netem
        for name in (*plan.namespaces.values(), *(port.namespace for port in plan.ports)):
            namespaces.create(name)
        for pop in self._network.pops:
            self._groups[pop.name] = cgroups.create(
                self.run, pop.name, pop.total.cores, pop.total.memory_gb
            )
            self._within(self.namespace(pop.name), begin_pop, plan, pop.name, wired=wired)
        if wired:
            self._wire = Wire(self.run, carried)
        for port in plan.ports:
            self._within(port.namespace, make_home, port, netem=netem)
        for name, namespace in plan.namespaces.items():
            self._within(namespace, finish_pop, plan, name, netem=netem)
        for name, namespace in plan.namespaces.items():
            self._within(namespace, self._route, name)

    def _switch(self, a: PopId, b: PopId, pop: PopId, up: bool) -> None:
        """Take an end of a link down or up; the kernel forgets neighbours with it."""
        join = next(j for j in self._plan.joins if {j.a, j.b} == {a, b})
        device, _ = ends(join, pop)
        ip(f"link set dev {device} {'up' if up else 'down'}")
        if up:
            ip(next_door(self._plan, join, pop))

    def _route(self, pop: PopId) -> None:
        """Bring the routes of ``pop`` up to date, inside its namespace."""
        wanted, installed = self._wanted(pop), self._routes[pop]
        new = [f"route replace {a} {hop}" for a, hop in wanted.items() if installed.get(a) != hop]
        ip(*new, *(f"route del {address}" for address in installed.keys() - wanted.keys()))
        self._routes[pop] = wanted

    def _wanted(self, pop: PopId) -> dict[str, str]:
        """Return the routes of least latency."""
        source = f"src {self.underlay(pop)}"
        table = dict.fromkeys(self._addresses[pop][1:], f"dev {SWITCH} {source}")
        for target, addresses in self._addresses.items():
            path = self._topology.route(pop, target)
            if path is not None and target != pop:
                device, via = self.device(link_id(pop, path[1])), self.underlay(path[1])
                table.update(dict.fromkeys(addresses, f"dev {device} via {via} onlink {source}"))
        return table

    @staticmethod
    def _within(
        namespace: str, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call ``function`` with the calling thread moved into ``namespace``."""
        namespaces.enter(namespace)
        function(*args, **kwargs)


def delayed(part: Port | Join) -> bool:
    """Whether packets take noticeable time on it."""
    return part.delay_ms >= LEAST_DELAY_MS


def strands(plan: Plan) -> list[Strand]:
    """Return the delayed links, for a wire to carry."""
    found = [
        Strand(
            plan.namespaces[join.a], join.device_a, plan.namespaces[join.b], join.device_b,
            join.delay_ms, join.rate_mb_s,
        )
        for join in plan.joins
        if delayed(join)
    ]  # fmt: skip
    found += [
        Strand(
            plan.namespaces[port.pop], port.device, port.namespace, _FAR,
            port.delay_ms, port.rate_mb_s,
        )
        for port in plan.ports
        if port.rate_mb_s is not None and delayed(port)
    ]  # fmt: skip
    return found


def begin_pop(plan: Plan, pop: str, *, wired: bool) -> None:
    """Make a PoP's switch, and its ends of the links that no wire carries.

    The switch learns, and knows no spanning tree.
    """
    configure(_ROUTER)
    lines = [
        "link set dev lo up",
        f"addr add {plan.underlay[pop]}/32 dev lo",
        f"link add {SWITCH} address {SWITCH_MAC} up type bridge stp_state 0 mcast_snooping 0",
        f"addr add {GATEWAY}/32 dev {SWITCH} scope link",
    ]
    for port in plan.at(pop):
        if not (wired and delayed(port)):
            mac = f"fe{port.mac[2:]}"
            lines.append(veth(port.device, mac, _FAR, port.mac, port.namespace, _HOST_MTU))
    for join in plan.joins:
        if join.a == pop and not (wired and delayed(join)):
            near, far = (join.device_a, join.mac_a), (join.device_b, join.mac_b)
            lines.append(veth(*near, *far, plan.namespaces[join.b], _LINK_MTU))
    ip(*lines)


def make_home(port: Port, *, netem: bool) -> None:
    """Set up the namespace behind a port: its addresses, and the way out."""
    configure(_HOST)
    ip(
        "link set dev lo up",
        f"link set {_FAR} address {port.mac} mtu {_HOST_MTU} up",
        *(f"addr add {address}/32 dev {_FAR}" for address in port.addresses),
        neighbour(GATEWAY, SWITCH_MAC, _FAR),
        f"route replace default dev {_FAR} via {GATEWAY} onlink",
    )
    ip(*_limits(port, _FAR, netem=netem), program="tc")


def finish_pop(plan: Plan, pop: str, *, netem: bool) -> None:
    """Connect a PoP: ports to the switch, limits on all it sends, and who is a neighbour.

    The switch is told which station is at each port, so that it never floods to find out.
    """
    lines, stations, limits = ["route replace blackhole default"], list[str](), list[str]()
    lossy: dict[str, float] = {}
    for port in plan.at(pop):
        lines.append(f"link set dev {port.device} mtu {_HOST_MTU} master {SWITCH} up")
        lines += (neighbour(address, port.mac, SWITCH) for address in port.addresses)
        stations.append(f"fdb replace {port.mac} dev {port.device} master static")
        limits += _limits(port, port.device, netem=netem)
    for join in plan.joins:
        if pop in (join.a, join.b):
            device, mac = ends(join, pop)
            lines.append(f"link set dev {device} address {mac} mtu {_LINK_MTU} up")
            lines.append(next_door(plan, join, pop))
            limits += _limits(join, device, netem=netem)
            lossy[device] = 0.0 if netem else join.loss
    ip(*lines)
    ip(*stations, program="bridge")
    ip(*limits, program="tc")
    if any(lossy.values()):
        _lose(plan.namespaces[pop], lossy)


def _limits(part: Port | Join, device: str, *, netem: bool) -> Iterable[str]:
    """Return the lines for ``tc`` that give a device the rate, delay and loss of its link."""
    if part.rate_mb_s is None:
        return ()
    delay = part.delay_ms if netem and delayed(part) else 0.0
    loss = part.loss if netem and isinstance(part, Join) else 0.0
    return shaping(device, part.rate_mb_s, delay, loss)


def ends(join: Join, pop: str) -> tuple[str, str]:
    """Return the device of a link at ``pop``, and its MAC."""
    return (join.device_a, join.mac_a) if pop == join.a else (join.device_b, join.mac_b)


def next_door(plan: Plan, join: Join, pop: str) -> str:
    """Return the line that tells ``pop`` the MAC of its neighbour, so that none is asked for."""
    other, mac = (join.b, join.mac_b) if pop == join.a else (join.a, join.mac_a)
    device, _ = ends(join, pop)
    return neighbour(plan.underlay[other], mac, device)


def _lose(namespace: str, lossy: dict[str, float]) -> None:
    """Lose a share of what comes in over some devices, before anything else sees it."""
    table = f"phx_{namespace.split('-')[1]}00"
    chains = "".join(
        f"chain {device} {{ type filter hook ingress device {device} priority -400; "
        f"numgen random mod 10000 < {round(loss * 10_000)} drop; }}\n"
        for device, loss in lossy.items()
        if round(loss * 10_000) > 0
    )
    try:
        with closing(Nft()) as nft:
            nft.run(f"table netdev {table} {{\n{chains}}}\n")
    except NftError as error:
        raise KernelError(f"links with loss need nftables or netem: {error}") from None
