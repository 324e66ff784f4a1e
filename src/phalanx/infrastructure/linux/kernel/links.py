"""Interfaces, queues, routes and neighbours, by batches of iproute2's programs.

A test range has thousands of them (a ring of 100 PoPs has 10,000 routes). A netlink call from
Python for each takes 0.5 ms; a line in a batch takes 20 µs, and the batch 2 ms.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from phalanx.infrastructure.linux.kernel import KernelError, namespaces

QUEUE_S = 0.05
"""What a queue in front of a link holds at most, in seconds of the link's rate …"""
LEAST_QUEUE = 20
"""… but no fewer packets than these."""

_PACKET = 1500
_BURST_S = 0.002
_IN_FLIGHT = 20_000  # packets in a delay of netem: 50 ms of 400,000 packets/s
_ASSOCIATION = "src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x100 mode tunnel aead rfc4106(gcm(aes))"


def ip(*lines: str, program: Literal["ip", "bridge", "tc"] = "ip") -> None:
    """Carry out lines of ``ip -batch``, or of another program of iproute2, in order.

    They are about the calling thread's namespace.

    Deleting what is gone is no error, nor is adding what is there.

    Raises:
        KernelError: for the first line that the kernel refuses; the others are carried out.

    """
    if not lines:
        return
    done = subprocess.run(  # noqa: S603  a program of iproute2
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


def veth(name: str, mac: str, peer: str, peer_mac: str, there: str, mtu: int) -> str:
    """Return the line for a pair of interfaces, one here and its peer in the namespace ``there``.

    No packet on it is larger than ``mtu``: without this, TCP would hand over segments of 64 kB,
    which limits and counters would take for one packet.
    """
    common = f"mtu {mtu} gso_max_segs 1 numtxqueues 1 numrxqueues 1"
    far = f"{peer} address {peer_mac} {common} netns {there}"
    return f"link add name {name} address {mac} {common} type veth peer name {far}"


def shaping(
    device: str, rate_mb_s: float, delay_ms: float = 0.0, loss: float = 0.0
) -> Iterator[str]:
    """Yield lines for ``tc`` that limit the egress of a device, by HTB and a short queue.

    Args:
        device: name of the interface.
        rate_mb_s: 10^6 octets a second, link headers included.
        delay_ms: of every packet, by netem.
        loss: fraction of packets lost, by netem.

    """
    rate = max(1, round(rate_mb_s * 1e6))
    queue = max(LEAST_QUEUE, round(rate * QUEUE_S / _PACKET))
    top = "root"
    if delay_ms or loss:
        # First the delay, whose queue is as long as it must be, then the rate.
        delay = f"delay {round(delay_ms * 1e3)}us" if delay_ms else ""
        lost = f"loss random {loss * 100:g}%" if loss else ""
        yield f"qdisc add dev {device} root handle 2: netem limit {_IN_FLIGHT} {delay} {lost}"
        top = "parent 2:1"
    yield f"qdisc add dev {device} {top} handle 1: htb default 1"
    burst = round(rate * _BURST_S) + 2 * _PACKET
    yield (
        f"class add dev {device} parent 1: classid 1:1 htb rate {rate}bps"
        f" burst {burst} cburst {burst} quantum {10 * _PACKET}"
    )
    yield f"qdisc add dev {device} parent 1:1 pfifo limit {queue}"


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
    try:
        ip(*shaping("lo", 1.0, delay_ms=1.0), program="tc")
    except KernelError:
        return False
    return True
