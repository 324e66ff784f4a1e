"""The overlay's device in one PoP: a VXLAN that knows its peers and floods nothing.

RFC 7348 lets a VXLAN learn peers from what arrives and flood what it does not know; both let
a rogue device in. Here the addresses, MACs and endpoints of all peers are given: a packet to
anyone else has nowhere to go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from ipaddress import IPv4Address

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netlink.rtnl import ndmsg

from phalanx.infrastructure.linux.kernel.namespaces import Inside

DEVICE = "phx-ov"
PORT = 4789
MTU = 1320
"""Room for VXLAN (50 octets) and for ESP in UDP in a tunnel (at most 80) within 1,500."""
PREFIX = 16
"""Length of the overlay's network prefix."""

_PERMANENT = ndmsg.states["permanent"]
_UNICAST = {"state": _PERMANENT | ndmsg.states["noarp"], "flags": ndmsg.flags["self"]}


def mac(address: str) -> str:
    """Return the MAC, locally administered, of an overlay address."""
    return ":".join(f"{octet:02x}" for octet in b"\x02\x50" + IPv4Address(address).packed)


class Vxlan:
    """The device ``phx-ov`` in the namespace of one PoP. Its methods block.

    Args:
        inside: a thread in the PoP's namespace.
        vni: the VXLAN network identifier, 0 to 2^24 - 1.
        address: the PoP's address in the overlay.

    """

    def __init__(self, inside: Inside, vni: int, address: str) -> None:
        self._inside = inside
        self._vni = vni
        self._address = address
        self._netlink: IPRoute | None = None
        self._index = 0
        self._lo = 0
        self._endpoints: Sequence[str] = ()

    def create(self, endpoints: Sequence[str]) -> None:
        """Make the device, without peers, and give the PoP its endpoints.

        Args:
            endpoints: addresses of the PoP between which encapsulated packets may travel. The
                route to a peer's endpoint says which of them is the source.

        """
        self._inside.call(self._create, endpoints)

    def connect(self, peer: str, endpoint: str) -> None:
        """Send what is for the overlay address ``peer`` to ``endpoint`` from now on.

        A peer that is known moves in one step: no packet finds it missing.
        """
        self._inside.call(self._connect, peer, endpoint)

    def disconnect(self, peer: str) -> None:
        """Send nothing to the overlay address ``peer`` any more; unknown ones are no error."""
        self._inside.call(self._disconnect, peer)

    def delete(self) -> None:
        """Take the device and the endpoints away; idempotent, also after a half creation."""
        self._inside.call(self._delete)

    def _create(self, endpoints: Sequence[str]) -> None:
        self._netlink = ip = IPRoute()
        self._lo = ip.link_lookup(ifname="lo")[0]
        ip.link("set", index=self._lo, state="up")
        self._endpoints = endpoints
        for endpoint in endpoints:
            ip.addr("add", index=self._lo, address=endpoint, prefixlen=32)
        ip.link(
            "add",
            ifname=DEVICE,
            kind="vxlan",
            vxlan_id=self._vni,
            vxlan_port=PORT,
            vxlan_learning=False,
            address=mac(self._address),
            mtu=MTU,
        )
        self._index = ip.link_lookup(ifname=DEVICE)[0]
        ip.addr("add", index=self._index, address=self._address, prefixlen=PREFIX)
        ip.link("set", index=self._index, state="up")

    def _connect(self, peer: str, endpoint: str) -> None:
        assert self._netlink is not None
        hardware = mac(peer)
        self._netlink.fdb("set", ifindex=self._index, lladdr=hardware, dst=endpoint, **_UNICAST)
        self._netlink.neigh("set", ifindex=self._index, dst=peer, lladdr=hardware, state=_PERMANENT)

    def _disconnect(self, peer: str) -> None:
        assert self._netlink is not None
        with contextlib.suppress(NetlinkError):
            self._netlink.fdb("del", ifindex=self._index, lladdr=mac(peer))
        with contextlib.suppress(NetlinkError):
            self._netlink.neigh("del", ifindex=self._index, dst=peer)

    def _delete(self) -> None:
        if self._netlink is None:
            return
        for index in self._netlink.link_lookup(ifname=DEVICE):
            self._netlink.link("del", index=index)
        for endpoint in self._endpoints:
            with contextlib.suppress(NetlinkError):
                self._netlink.addr("del", index=self._lo, address=endpoint, prefixlen=32)
        self._netlink.close()
        self._netlink = None
