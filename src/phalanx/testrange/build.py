"""The making of a testbed's parts; each function is called inside the namespace it is about."""

from __future__ import annotations

from contextlib import closing

from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.kernel.links import Links, RouteBatch, configure
from phalanx.infrastructure.linux.kernel.wire import Strand
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError
from phalanx.testrange.plan import (
    GATEWAY,
    SWITCH,
    SWITCH_MAC,
    Join,
    Plan,
    Port,
)

LEAST_DELAY_MS = 0.5
"""Links with less than this get no delay of their own."""

_LINK_MTU = 1700  # a full packet of a host, with VXLAN and ESP around it
_HOST_MTU = 1500
_FAR = "eth0"
_LINK_SCOPE = 253
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
    """Make a PoP's switch, and its ends of the links that no wire carries."""
    configure(_ROUTER)
    with Links() as links:
        links.address(links.set("lo", state="up"), plan.underlay[pop])
        links.address(links.bridge(SWITCH, SWITCH_MAC), GATEWAY, _LINK_SCOPE)
        for port in plan.at(pop):
            if not (wired and delayed(port)):
                mac = f"fe{port.mac[2:]}"
                links.veth(port.device, mac, _FAR, port.mac, port.namespace, _HOST_MTU)
        for join in plan.joins:
            if join.a == pop and not (wired and delayed(join)):
                there = plan.namespaces[join.b]
                links.veth(join.device_a, join.mac_a, join.device_b, join.mac_b, there, _LINK_MTU)


def make_home(port: Port, *, netem: bool) -> None:
    """Set up the namespace behind a port: its addresses, and the way out."""
    configure(_HOST)
    with Links() as links:
        links.set("lo", state="up")
        number = links.set(_FAR, address=port.mac, mtu=_HOST_MTU, state="up")
        for address in port.addresses:
            links.address(number, address)
        if port.rate_mb_s is not None:
            links.shape(number, port.rate_mb_s, port.delay_ms if netem and delayed(port) else 0.0)
    batch = RouteBatch()
    batch.neighbour(GATEWAY, SWITCH_MAC, _FAR)
    batch.default(_FAR, GATEWAY)
    batch.send()


def finish_pop(plan: Plan, pop: str, *, netem: bool) -> None:
    """Connect a PoP: ports to the switch, limits on all it sends, and who is a neighbour."""
    batch = RouteBatch()
    batch.blackhole()
    lossy: dict[str, float] = {}
    with Links() as links:
        switch = links.set(SWITCH, state="up")
        for port in plan.at(pop):
            number = links.set(port.device, mtu=_HOST_MTU, master=switch, state="up")
            links.pin(number, port.mac)
            if port.rate_mb_s is not None:
                delay = port.delay_ms if netem and delayed(port) else 0.0
                links.shape(number, port.rate_mb_s, delay)
            for address in port.addresses:
                batch.neighbour(address, port.mac, SWITCH)
        for join in plan.joins:
            if pop in (join.a, join.b):
                device, mac = ends(join, pop)
                number = links.set(device, address=mac, mtu=_LINK_MTU, state="up")
                if netem:
                    delay = join.delay_ms if delayed(join) else 0.0
                    links.shape(number, join.rate_mb_s, delay, join.loss)
                else:
                    links.shape(number, join.rate_mb_s)
                    lossy[device] = join.loss
                meet(batch, plan, join, pop)
    batch.send()
    if any(lossy.values()):
        _lose(plan.namespaces[pop], lossy)


def ends(join: Join, pop: str) -> tuple[str, str]:
    """Return the device of a link at ``pop``, and its MAC."""
    return (join.device_a, join.mac_a) if pop == join.a else (join.device_b, join.mac_b)


def meet(batch: RouteBatch, plan: Plan, join: Join, pop: str) -> None:
    """Tell ``pop`` the MAC of its neighbour, so that nothing waits for an answer that is lost."""
    other, mac = (join.b, join.mac_b) if pop == join.a else (join.a, join.mac_a)
    device, _ = ends(join, pop)
    batch.neighbour(plan.underlay[other], mac, device)


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
