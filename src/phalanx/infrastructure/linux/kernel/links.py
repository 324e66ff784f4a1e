"""Interfaces, queues, routes and neighbours, in the calling thread's namespace.

Interfaces and queues are made through pyroute2. Routes and neighbours come in thousands (a ring
of 100 PoPs has 10,000 routes): a call of pyroute2 for each takes 0.5 ms, a line in a batch of
``ip`` 20 µs.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from phalanx.infrastructure.linux.kernel import KernelError, namespaces

QUEUE_S = 0.05
"""What a queue in front of a link holds at most, in seconds of the link's rate …"""
LEAST_QUEUE = 20
"""… but no fewer packets than these."""

_PACKET = 1500
_BURST_S = 0.002
_IN_FLIGHT = 20_000  # packets in a delay of netem: 50 ms of 400,000 packets/s
_NTF_MASTER, _NUD_NOARP = 4, 0x40
_ASSOCIATION = "src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x100 mode tunnel aead rfc4106(gcm(aes))"
_HTB, _CLASS, _NETEM = 0x1_0000, 0x1_0001, 0x2_0000


class Links:
    """Interfaces of the namespace in which the calling thread is when it opens this.

    Raises:
        KernelError: from all methods, if the kernel refuses.

    """

    def __init__(self) -> None:
        try:
            from pyroute2 import IPRoute  # noqa: PLC0415  an extra, and half a second to import
        except ImportError:
            raise KernelError("a Linux run needs pyroute2: pip install 'phalanx[linux]'") from None
        self._netlink = IPRoute()

    def bridge(self, name: str, mac: str) -> int:
        """Make a bridge that is up and return its index. It learns, and knows no spanning tree."""
        self._do(
            "link",
            "add",
            ifname=name,
            kind="bridge",
            address=mac,
            br_stp_state=0,
            br_mcast_snooping=0,
            state="up",
        )
        return index(name)

    def veth(self, name: str, mac: str, peer: str, peer_mac: str, there: str, mtu: int) -> None:
        """Make a pair of interfaces, this end here and the other in the namespace ``there``.

        No packet on it is larger than ``mtu``: without this, TCP would hand over segments of
        64 kB, which limits and counters would take for one packet.
        """
        common = {"mtu": mtu, "gso_max_segs": 1, "num_tx_queues": 1, "num_rx_queues": 1}
        with (namespaces.FOLDER / there).open("rb") as handle:
            far = {"ifname": peer, "address": peer_mac, "net_ns_fd": handle.fileno(), **common}
            self._do("link", "add", ifname=name, kind="veth", address=mac, peer=far, **common)

    def vxlan(self, name: str, vni: int) -> None:
        """Make a VXLAN interface that knows no peer."""
        self._do("link", "add", ifname=name, kind="vxlan", vxlan_id=vni, vxlan_port=4789)

    def set(self, name: str, **settings: Any) -> int:
        """Change an interface (``state``, ``master``, ``mtu``, ``address``); return its index."""
        found = index(name)
        self._do("link", "set", index=found, **settings)
        return found

    def address(self, number: int, address: str, scope: int = 0) -> None:
        """Give an interface an address of its own, without a network around it."""
        self._do("addr", "add", index=number, address=address, prefixlen=32, scope=scope)

    def pin(self, number: int, mac: str) -> None:
        """Tell the bridge above a port who lives there, so that it never floods to find out."""
        self._do("fdb", "add", ifindex=number, lladdr=mac, flags=_NTF_MASTER, state=_NUD_NOARP)

    def shape(
        self, number: int, rate_mb_s: float, delay_ms: float = 0.0, loss: float = 0.0
    ) -> None:
        """Limit the egress of an interface with HTB and a short queue of packets.

        Args:
            number: index of the interface.
            rate_mb_s: 10^6 octets a second, link headers included.
            delay_ms: of every packet, by netem.
            loss: fraction of packets lost, by netem.

        """
        rate = max(1, round(rate_mb_s * 1e6))
        queue = max(LEAST_QUEUE, round(rate * QUEUE_S / _PACKET))
        top = {}
        if delay_ms or loss:
            # First the delay, whose queue is as long as it must be, then the rate.
            self._do(
                "tc",
                "add",
                "netem",
                number,
                _NETEM,
                delay=round(delay_ms * 1e3),
                loss=loss * 100,
                limit=_IN_FLIGHT,
            )
            top = {"parent": _NETEM + 1}
        self._do("tc", "add", "htb", number, _HTB, default=1, **top)
        burst = round(rate * _BURST_S) + 2 * _PACKET
        self._do(
            "tc",
            "add-class",
            "htb",
            number,
            _CLASS,
            parent=_HTB,
            rate=rate,
            burst=burst,
            cburst=burst,
            quantum=10 * _PACKET,
        )
        self._do("tc", "add", "pfifo", number, parent=_CLASS, limit=queue)

    def delete(self, name: str) -> None:
        """Remove an interface, and its peer; one that is gone is no error."""
        with contextlib.suppress(OSError):
            self._do("link", "del", index=socket.if_nametoindex(name))

    def close(self) -> None:
        """Close the handle."""
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _do(self, method: str, verb: str, *args: Any, **settings: Any) -> None:
        from pyroute2 import NetlinkError  # noqa: PLC0415

        try:
            getattr(self._netlink, method)(verb, *args, **settings)
        except NetlinkError as error:
            what = settings.get("ifname") or (args[0] if args else settings.get("index", ""))
            reason = errno.errorcode.get(error.code, str(error.code))
            raise KernelError(f"{method} {verb} {what} is refused: {reason}") from None


def ip(*lines: str, program: Literal["ip", "bridge"] = "ip") -> None:
    """Carry out lines of ``ip -batch``, in order, in the calling thread's namespace.

    Deleting what is gone is no error, nor is adding what is there.

    Raises:
        KernelError: for the first line that the kernel refuses; the others are carried out.

    """
    done = subprocess.run(  # noqa: S603  one of two programs of iproute2
        [program, "-force", "-batch", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    reason = ""
    for line in done.stderr.splitlines():
        if not line.startswith("Command failed "):
            reason = line.removeprefix("RTNETLINK answers: ").removeprefix("Error: ")
            continue
        what = lines[int(line.rpartition(":")[2]) - 1]
        if what.split()[1] != "del" and "File exists" not in reason:
            raise KernelError(f"{program} {what} is refused: {reason}")


def neighbour(address: str, mac: str, device: str) -> str:
    """Return the line for ``ip`` that binds an address to a station: it is never asked for."""
    return f"neigh replace {address} lladdr {mac} dev {device} nud permanent"


def index(name: str) -> int:
    """Return the index of an interface of the calling thread's namespace.

    Raises:
        KernelError: if there is none of that name.

    """
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise KernelError(f"there is no interface {name!r}") from None


@functools.cache
def has_netem() -> bool:
    """Whether the kernel can delay packets by itself; tried in a namespace without a name."""
    return namespaces.aside(_try_netem)


@functools.cache
def has_kernel_esp() -> bool:
    """Whether the kernel can encrypt packets by itself; tried in a namespace without a name."""
    # The key protects nothing: it ends with the namespace, before anything could be sent.
    command = ["ip", "xfrm", "state", "add", *_ASSOCIATION.split(), "0x" + "00" * 20, "128"]
    done = namespaces.aside(subprocess.run, command, capture_output=True, check=False)
    return done.returncode == 0


def configure(settings: dict[str, int]) -> None:
    """Write network settings of the calling thread's namespace (``net/…`` of ``/proc/sys``).

    Those that this kernel does not have are left out.
    """
    for name, value in settings.items():
        file = Path("/proc/sys/net") / name
        if file.exists():
            file.write_text(str(value))


def _try_netem() -> bool:
    with Links() as links:
        try:
            links.shape(index("lo"), 1.0, delay_ms=1.0)
        except KernelError:
            return False
        return True
